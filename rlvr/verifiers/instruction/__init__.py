"""Instruction following: the 25 constraints of IFEval and the 58 of IFBench, one small function each.

`registry.constraints()` has all of them; the verifiers `ifeval` and `ifbench` grade with them; `generate` draws mutually
compatible ones for training, each with a response that follows them.
"""
