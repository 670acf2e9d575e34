"""`rlvr view`: read the rollouts of a run, or of an evaluation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.cli.view_web import add_web_arguments, check_no_web, run_web
from rlvr.errors import ConfigError, EvaluationError, RlvrError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.evaluation.ledger import StoredRollout
    from rlvr.types import Message, Rollout

HELP = "Print stored rollouts with verdict, reward and advantage, or show a run as a local web page. Exit code 1 if none matches."
OUTCOMES = ("correct", "partial", "incorrect", "unparsed", "verifier_error", "truncated", "unscored")
_SHOWN = 5
_COLOURS = {"correct": "green", "partial": "yellow", "incorrect": "red", "unparsed": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder, the folder of an evaluation, or a .jsonl(.gz) file of rollouts")
    parser.add_argument("--step", type=int, help="training step (the last one)")
    parser.add_argument("--problem", metavar="ID", help="only this problem; a part of its id is enough")
    parser.add_argument("--outcome", choices=OUTCOMES, help="only rollouts that ended like this")
    parser.add_argument("--limit", type=int, help=f"rollouts to print ({_SHOWN}; with --json all)")
    parser.add_argument("--solve-rates", action="store_true", help="print what the run knows about each problem's difficulty")
    parser.add_argument("--full", action="store_true", help="print long messages whole")
    parser.add_argument("--json", action="store_true", help="print the stored JSON lines; with --web, the page's address as JSON")
    add_web_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from rlvr.evaluation.ledger import rollout_to_json

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit {args.limit}, but at least one rollout must be asked for")
    if args.web:
        return run_web(args)
    check_no_web(args)
    if args.solve_rates:
        from rlvr.cli.solve_rates import show

        return show(args)
    title, found = _open(Path(args.run), args.step)
    stored = list(found)
    chosen = [one for one in stored if _is_wanted(one, args.problem, args.outcome)]
    if args.json:
        for one in islice(chosen, args.limit):
            print(json.dumps(rollout_to_json(one.rollout, **one.provenance)))
        return 0 if chosen else 1
    from rlvr.cli.live import console_for_tables

    console = console_for_tables()
    console.print(_heading(title, chosen))
    for part in _pages(chosen[: args.limit or _SHOWN], stored, is_full=args.full):
        console.print(part)
    left = len(chosen) - (args.limit or _SHOWN)
    if left > 0:
        console.print(f"\n{left} more; --limit N prints N, --step, --problem and --outcome choose", style="dim")
    return 0 if chosen else 1


def _open(path: Path, step: int | None) -> tuple[str, Iterator[StoredRollout]]:
    """What is shown, in words, and its rollouts."""
    from rlvr.evaluation.evaluate import SAMPLES
    from rlvr.evaluation.ledger import partial_path, read_rollouts
    from rlvr.evaluation.run_folder import open_run

    evaluation = next((p for p in (path / SAMPLES, partial_path(path / SAMPLES)) if p.is_file()), None)
    if path.is_file() or evaluation is not None:
        if step is not None:
            raise ConfigError(f"--step {step}, but {path} holds no training steps")
        return str(evaluation or path), read_rollouts(evaluation or path)
    folder = open_run(path)
    steps = folder.steps()
    if not steps:
        raise ConfigError(f"{path} holds no rollouts")
    if step is not None:
        return f"{path}, step {step} of {steps[-1]}", folder.rollouts(step)
    # A killed process may leave its newest file cut off; the one before it still says something.
    damaged: list[RlvrError] = []
    for chosen in reversed(steps):
        try:
            found = list(folder.rollouts(chosen))
        except EvaluationError as error:
            damaged.append(error)
            continue
        left_out = f" ({damaged[0]})" if damaged else ""
        return f"{path}, step {chosen} of {steps[-1]}{left_out}", iter(found)
    raise damaged[0]


def _is_wanted(stored: StoredRollout, problem: str | None, outcome: str | None) -> bool:
    rollout = stored.rollout
    if problem is not None and problem not in rollout.problem.id:
        return False
    if outcome is None:
        return True
    if outcome == "truncated":
        return rollout.is_truncated
    if outcome == "unscored":
        return not rollout.is_scored
    return rollout.verdict is not None and rollout.verdict.outcome == outcome


def _heading(title: str, chosen: Sequence[StoredRollout]) -> RenderableType:
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    return Text.assemble((printable(title), "bold"), f"\n{_counts([one.rollout for one in chosen])}")


def _counts(rollouts: Sequence[Rollout]) -> str:
    from rlvr.evaluation.tally import Tally

    tally = Tally()
    tally.add(rollouts)
    parts = [f"{outcome} {count}" for outcome, count in tally.outcomes.items() if count]
    parts += [f"truncated {tally.truncated}"] if tally.truncated else []
    parts += [f"unscored {tally.unscored}"] if tally.unscored else []
    if not rollouts:
        return "no rollout matches"
    return f"{len(rollouts)} rollout{'s' if len(rollouts) > 1 else ''}: {' · '.join(parts)}"


def _pages(shown: Sequence[StoredRollout], stored: Sequence[StoredRollout], *, is_full: bool) -> Iterator[RenderableType]:
    """Each problem's prompt once, with a line about its whole group, then its rollouts."""
    from rich.rule import Rule
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    for id, part in groupby(shown, key=lambda one: one.rollout.problem.id):
        group = [one.rollout for one in stored if one.rollout.problem.id == id]
        rewards = [rollout.reward for rollout in group if rollout.reward is not None]
        mean = f" · mean reward {sum(rewards) / len(rewards):.3g}" if rewards else ""
        yield Rule(Text(printable(id), style="bold"), align="left")
        yield Text(_counts(group) + mean, style="dim")
        members = list(part)
        for message in members[0].rollout.problem.prompt:
            yield _message(message, is_full=is_full)
        yield Text.assemble(
            ("gold answer  ", "dim"), printable(json.dumps(members[0].rollout.problem.answer, ensure_ascii=False))
        )
        for one in members:
            yield from _rollout(one, is_full=is_full)


def _rollout(stored: StoredRollout, *, is_full: bool) -> Iterator[RenderableType]:
    from rich.text import Text

    rollout = stored.rollout
    outcome = "unscored" if not rollout.is_scored or rollout.verdict is None else rollout.verdict.outcome.value
    facts = [f"sample {rollout.sample_index}", f"{rollout.completion_tokens} tokens", f"stop {rollout.stop}"]
    facts += [] if rollout.reward is None else [f"reward {rollout.reward:.4g}"]
    advantage: Any = stored.provenance.get("advantage")
    facts += [f"advantage {advantage:+.4g}"] if isinstance(advantage, int | float) else []
    facts += [str(stored.provenance["mode"])] if "mode" in stored.provenance else []
    yield Text.assemble("\n", (outcome, f"bold {_COLOURS.get(outcome, 'yellow')}"), ("  " + " · ".join(facts), "dim"))
    for turn in rollout.turns:
        yield _message(turn.message, is_full=is_full)
        for reply in turn.answers:
            yield _message(reply, is_full=is_full)
    yield from verdict_lines(rollout)


def verdict_lines(rollout: Rollout) -> Iterator[RenderableType]:
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    if rollout.error is not None:
        yield Text.assemble(("error  ", "bold red"), printable(rollout.error))
    for name, verdict in rollout.verdicts.items():
        facts = [verdict.outcome.value, "no score" if verdict.score is None else f"score {verdict.score:.3g}"]
        facts += [] if verdict.extracted is None else [f"read as {verdict.extracted!r}"]
        facts += [verdict.reason] if verdict.reason else []
        yield Text.assemble((f"{printable(name)}  ", "cyan"), printable(" · ".join(facts)))


def _message(message: Message, *, is_full: bool) -> RenderableType:
    from rich.padding import Padding
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    content, longest = message.content, 2_000
    left = 0 if is_full else max(0, len(content) - longest)
    text = Text(printable(content if not left else content[:longest]))
    if left:
        text.append(f"\n… {left:,} more characters; --full prints them", style="dim")
    return Padding(Text.assemble((f"{printable(message.role)}\n", "dim"), text), (0, 0, 0, 2), expand=False)
