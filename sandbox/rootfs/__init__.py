"""Makes the root file system of the sandbox's image from what is installed where it runs: `python3 -m rootfs --help`.

Standard library only, because it also runs inside the Dockerfile's base image. It reads files that are trusted as much as the
interpreter that runs it; nothing here ever sees a submission.
"""
