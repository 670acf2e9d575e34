"""`rlvr verify`: JSON lines with responses in, JSON lines with verdicts out, in the same order."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.types import Rollout

HELP = "grade responses from a JSONL file with a verifier"
PROGRESS_EVERY = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Reads lines {"id", "answer", "response", "prompt"?, "metadata"?, "truncated"?} and writes lines '
        '{"id", "outcome", "score", "extracted", "reason", "elapsed_s"} in the same order.'
    )
    parser.add_argument("verifier", help="a name (see 'rlvr plugins'), path/file.py:name or package.module:name")
    parser.add_argument("file", help="JSON lines, or - for standard input")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a setting of the verifier"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes for an isolated verifier (default 2)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds for each response (default 10)")
    parser.add_argument("--verbose", action="store_true", help="show on standard error what the verifier prints")
    parser.add_argument("--json", action="store_true", help="the output is JSON lines with or without this")


def run(args: argparse.Namespace) -> int:
    """Exit code 0 when the lines were graded, whatever the verdicts; 3 when the verifier failed on every one."""
    from rlvr.types import Outcome
    from rlvr.verifiers.lines import verdict_line
    from rlvr.verifiers.runner import WeightedVerifier
    from rlvr.verifiers.stream import verify_stream

    if args.verbose:
        _show_prints()
    verifier = WeightedVerifier(args.verifier, 1.0, parse_settings(args.settings))
    counts: dict[str, int] = {}
    first_cause = ""
    ids: deque[Any] = deque()
    with _open(args.file) as lines:
        rollouts = read_rollouts(lines, args.file, ids)
        for rollout in verify_stream(verifier, rollouts, workers=args.workers, timeout_s=args.timeout):
            line = verdict_line(ids.popleft(), rollout)
            print(json.dumps(line), flush=not args.file.endswith(".jsonl"))
            counts[line["outcome"]] = counts.get(line["outcome"], 0) + 1
            if line["outcome"] == Outcome.VERIFIER_ERROR:
                first_cause = first_cause or line["reason"]
            _show_progress(counts, is_last=False)
    sys.stdout.flush()
    _show_progress(counts, is_last=True)
    failed, total = counts.get(Outcome.VERIFIER_ERROR, 0), sum(counts.values())
    if failed:
        print(f"{failed} of {total} could not be graded; the first: {first_cause}", file=sys.stderr)
    return 3 if failed and failed == total else 0


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """`key=value` with a JSON value, or with text where it is not JSON.

    Raises:
        ConfigError: a pair without "=".
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {pair}: write KEY=VALUE")
        try:
            settings[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            settings[key.strip()] = value
    return settings


def read_rollouts(lines: IO[str], name: str, ids: deque[Any]) -> Iterator[Rollout]:
    """The rollouts of a file of JSON lines; blank lines are skipped. Appends each line's id, which may be any JSON, to `ids`.

    Raises:
        TaskError: a line is not what is expected; the text has its number.
    """
    from rlvr.verifiers.lines import read_line

    for number, line in enumerate(lines, 1):
        if line.strip():
            identity, rollout = read_line(line, f"{name}:{number}")
            ids.append(identity)
            yield rollout


def _open(name: str) -> contextlib.AbstractContextManager[IO[str]]:
    # Bytes that are not UTF-8 are carried through instead of ending the run: a verifier must see them too.
    if name == "-":
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
        return contextlib.nullcontext(sys.stdin)
    try:
        return open(name, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise ConfigError(f"cannot read {name}: {error.strerror}") from error


def _show_progress(counts: Mapping[str, int], *, is_last: bool) -> None:
    total = sum(counts.values())
    if not sys.stderr.isatty() or (total % PROGRESS_EVERY and not is_last):
        return
    parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"\r{total} graded: {parts}", end="\n" if is_last else "", file=sys.stderr, flush=True)


def _show_prints() -> None:
    import logging

    prints = logging.getLogger("rlvr.verifiers.pool")
    prints.addHandler(logging.StreamHandler())
    prints.setLevel(logging.INFO)
