"""`rlvr VERB ...`: finds the verb's module, runs it, and turns what went wrong into a line and an exit code.

Exit codes: 0 ok, 1 the answer is no, 2 usage, 3 infrastructure, 130 interrupted.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import rlvr
from rlvr.errors import ConfigError, PluginError, RlvrError, TaskError, boundary

# Each verb is a module of this package, imported only when it runs: `rlvr --help` costs milliseconds.
VERBS = {
    "train": "train a model: reinforcement learning or a supervised warm start, by a recipe",
    "eval": "measure models on tasks: pass@k and more with confidence intervals, and paired tests",
    "filter": "keep the problems that a model solves sometimes, by sampling it offline",
    "rollout": "print one rollout of a model, token by token: what it sampled, and what tools said",
    "verify": "grade responses from a JSONL file with a verifier",
    "rescore": "grade stored rollouts again under another verifier, and show what flipped",
    "lengths": "accuracy and length of stored rollouts, by what their prompts asked for",
    "shortest": "write the shortest correct response of each problem, to train on",
    "merge": "average the weights of two models",
    "init": "write the package of a new verifier, environment or tool, or the folder of a new task",
    "tasks": "list, show and validate tasks",
    "view": "read the rollouts of a run",
    "report": "write the report of a run",
    "replay": "what another verifier, shape or algorithm would have made of a run's rollouts",
    "compare": "hold stored evaluations and runs against each other, with paired tests",
    "parity": "compare our loss and gradients with TRL's or verl's own code",
    "explain": "print an algorithm as a formula with every constant, or compute it on a toy batch",
    "plugins": "list verifiers, environments, engines and algorithms, and where they come from",
    "sandbox": "where code is verified: build, status, prune, test, serve",
    "doctor": "check this machine: versions, device, threads, disk, extras",
}

USAGE_ERRORS = (ConfigError, PluginError, TaskError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    # Threads that spin while they wait make a busy machine up to 50 times slower; torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with boundary(RlvrError, "unexpected error"):
            return _run(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except RlvrError as error:
        install = _missing_extra(error)
        is_unexpected = type(error) is RlvrError
        if is_unexpected and not install:
            traceback.print_exception(error.__cause__)
        print(f"error: {error.__cause__ if is_unexpected and install else error}{install}", file=sys.stderr)
        return 2 if isinstance(error, USAGE_ERRORS) and not install else 3


def _run(arguments: list[str]) -> int:
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`head`, a pager) has left. Python would complain again when it closes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        print(_usage(), file=sys.stderr)
        return 2
    verb, *rest = arguments
    if verb in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if verb in ("-V", "--version"):
        print(f"rlvr {rlvr.__version__}")
        return 0
    module = _module(verb)
    code: int = module.run(parse(verb, rest))
    return code


def parse(verb: str, arguments: Sequence[str]) -> argparse.Namespace:
    """A verb's arguments, checked; wrong ones end the process with exit code 2.

    Raises:
        ConfigError: there is no such verb.
    """
    module = _module(verb)
    parser = argparse.ArgumentParser(prog=f"rlvr {verb}", description=module.HELP)
    module.add_arguments(parser)
    try:
        return parser.parse_intermixed_args(arguments)  # options may stand between key=value overrides
    except TypeError:  # argparse cannot intermix where a verb has subcommands
        return parser.parse_args(arguments)


def _module(verb: str) -> Any:
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(VERBS)}"
        raise ConfigError(f"unknown verb {verb!r}; {hint}")
    return importlib.import_module(f"rlvr.cli.{verb}")


def _missing_extra(error: BaseException | None) -> str:
    """How to install the package whose absence caused the error; empty for any other cause."""
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    if error is None:
        return ""
    from rlvr.cli.doctor import requirements

    package = (error.name or "").partition(".")[0].replace("_", "-")
    extras = [extra for extra, packages in requirements().items() if package in packages]
    return f"; install it with: pip install 'rlvr[{extras[0]}]'" if extras else ""


def _usage() -> str:
    lines = ["usage: rlvr VERB [options]        rlvr VERB --help        rlvr --version", "", rlvr.__doc__ or "", ""]
    return "\n".join(lines + [f"  {verb:<9} {what}" for verb, what in VERBS.items()])
