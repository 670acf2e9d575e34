"""The part of the sandbox that runs inside the container: a fork server that starts each submission from a warm interpreter.

Standard library only. Nothing in here is imported by the host's process.
"""
