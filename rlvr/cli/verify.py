"""`rlvr verify`: JSON lines with responses in, JSON lines with verdicts out, in the same order; or an audit, or a server."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rlvr.cli.serve import add_serve_arguments, run_server
from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.verifiers.bulk import Graded
    from rlvr.verifiers.runner import WeightedVerifier
    from rlvr.verifiers.verdict_file import Written

HELP = "grade responses from a JSONL file with a verifier, or audit the verifier"
ALONE_CPU_S = 0.5  # what costs more is shared with workers: starting them costs about as much


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        'Reads lines {"id", "answer", "response", "prompt"?, "metadata"?, "truncated"?} and writes lines '
        '{"id", "outcome", "score", "extracted", "reason", "elapsed_s"} in the same order. With --audit, probes the verifier: '
        "exit code 1 when it breaks a rule."
    )
    parser.add_argument("verifier", help="a name (see 'rlvr plugins'), path/file.py:name or package.module:name")
    parser.add_argument("file", nargs="?", help="JSON lines, or - for standard input")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a setting of the verifier"
    )
    parser.add_argument("--out", metavar="FILE", help="write the verdicts to FILE instead of standard output")
    parser.add_argument("--resume", action="store_true", help="continue FILE after its last whole line")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (all cores)")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="S", help="seconds for each response (10)")
    parser.add_argument("--verbose", action="store_true", help="show on standard error what the verifier prints")
    parser.add_argument(
        "--json", action="store_true", help="with --audit: print JSON; verdicts are JSON lines with or without this"
    )
    audit = parser.add_argument_group("audit")
    audit.add_argument(
        "--audit", action="store_true", help="measure how often the verifier is wrong, and whether it can be fooled"
    )
    audit.add_argument("--task", help="problems to audit with; without one, the golden cases that came with the verifier")
    audit.add_argument("--split", default="train", help="split of the task (train)")
    audit.add_argument("--problems", type=int, default=100, help="problems of the task (100)")
    audit.add_argument("--cases", metavar="FILE", help="golden cases, as JSON lines")
    audit.add_argument("--max-false-positives", type=float, default=0.005, help="share of wrong responses of a kind (0.005)")
    audit.add_argument("--max-false-negatives", type=float, default=0.05, help="share of right answers in other forms (0.05)")
    add_serve_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Exit code 0 when the lines were graded, whatever the verdicts; 3 when the verifier failed on every one."""
    if args.verbose:
        _show_prints()
    if args.audit:
        from rlvr.cli.audit_table import run_audit

        return run_audit(args, parse_settings(args.settings))
    if args.serve:
        return run_server(args, parse_settings(args.settings))
    if args.file is None:
        raise ConfigError("give a file of JSON lines, or - for standard input; --audit and --serve need none")
    from rlvr.verifiers.runner import Grader, WeightedVerifier

    verifier = WeightedVerifier(args.verifier, 1.0, parse_settings(args.settings))
    # What is wrong with them is said before a file is touched.
    Grader([verifier], workers=args.workers, timeout_s=args.timeout).prepare()
    with contextlib.ExitStack() as stack:
        source = _Source(stack, args.file)
        out, written = _output(stack, args, verifier)
        lines = source.after(written)
        graded = stack.enter_context(contextlib.closing(_grade(args, verifier, lines, source)))
        return _write_all(graded, out, written, source)


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


class _Source:
    """The input's lines, with the number of the first and how much was read."""

    def __init__(self, stack: contextlib.ExitStack, name: str) -> None:
        self.name, self.first, self.bytes_read, self.bytes = name, 1, 0, 0
        # Bytes that are not UTF-8 are carried through instead of ending the run: a verifier must see them too.
        if name == "-":
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
            self._lines: Iterator[str] = iter(sys.stdin)
            return
        try:
            self.bytes = Path(name).stat().st_size
            self._lines = self._decoded(stack.enter_context(Path(name).open("rb")))  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"cannot read {name}: {error.strerror}") from error

    def after(self, written: Written) -> Iterator[str]:
        """The lines that have no verdict yet.

        Raises:
            ConfigError: those that have one are not the input's first.
        """
        last = ""
        for _ in range(written.count):
            last = ""
            while not last.strip():
                last = next(self._lines, "\n\n")
                self.first += 1
                if last == "\n\n":
                    raise ConfigError(f"{self.name} has fewer lines than there are verdicts to resume from")
        if written.count and json.loads(last).get("id") != written.last_id:
            raise ConfigError(
                f"{self.name}:{self.first - 1} is not the line of the last verdict, whose id is {written.last_id!r}"
            )
        return self._lines

    def _decoded(self, file: Iterable[bytes]) -> Iterator[str]:
        for line in file:
            self.bytes_read += len(line)
            yield line.decode("utf-8", "surrogateescape")


def _output(stack: contextlib.ExitStack, args: argparse.Namespace, verifier: WeightedVerifier) -> tuple[IO[str], Written]:
    from rlvr.verifiers.verdict_file import Written, input_fingerprint, open_verdicts

    if args.out is None:
        if args.resume:
            raise ConfigError("--resume continues a file: give it with --out FILE")
        return sys.stdout, Written()
    if args.file == "-":
        raise ConfigError("--out with standard input cannot be resumed; give a file, or use > FILE")
    from rlvr.verifiers.runner import Grader

    grading = next(iter(Grader([verifier]).provenance().values()))
    about = {
        "verifier": grading["reference"],
        "version": grading["version"],
        "settings": grading["settings"],
        "input": input_fingerprint(Path(args.file)),
    }
    file, written = open_verdicts(Path(args.out), about, resume=args.resume)
    return stack.enter_context(file), written


def _grade(
    args: argparse.Namespace, verifier: WeightedVerifier, lines: Iterator[str], source: _Source
) -> Generator[Graded, None, None]:
    from rlvr.verifiers.bulk import grade_lines

    return grade_lines(
        lines,
        args.file,
        verifier,
        workers=args.workers,
        timeout_s=args.timeout,
        first=source.first,
        alone_cpu_s=ALONE_CPU_S,
    )


def _write_all(graded: Iterator[Graded], out: IO[str], written: Written, source: _Source) -> int:
    from rlvr.cli.verify_progress import Progress
    from rlvr.types import Outcome

    counts = Counter(written.outcomes)
    first_cause = ""
    is_conversation = source.name == "-"
    with Progress(source, counts, written.count) as progress:
        for one in graded:
            print(one.text, end="", file=out, flush=is_conversation)
            counts.update(one.outcomes)
            first_cause = first_cause or one.cause
            progress.advance()
    out.flush()
    failed, total = counts[Outcome.VERIFIER_ERROR.value], counts.total()
    if out is not sys.stdout:
        print(f"{total:,} graded ({', '.join(f'{count:,} {name}' for name, count in counts.items())}) in {out.name}")
    if failed:
        because = f"; the first: {first_cause}" if first_cause else ""
        print(f"{failed} of {total} could not be graded{because}", file=sys.stderr)
    return 3 if failed and failed == total else 0


def _show_prints() -> None:
    import logging

    prints = logging.getLogger("rlvr.verifiers.pool")
    prints.addHandler(logging.StreamHandler())
    prints.setLevel(logging.INFO)
