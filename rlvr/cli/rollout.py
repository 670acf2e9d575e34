"""`rlvr rollout`: one rollout, as the trainer would see it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rlvr.cli.options import add_sampling_arguments, live_view, subject_of
from rlvr.errors import TaskError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.envs.renderer import Tokenizer
    from rlvr.envs.tasks import Task
    from rlvr.types import Problem, Rollout, ToolCall, Turn

HELP = (
    "Sample one rollout and print it: what the model sampled in bold, everything that is masked from the loss dimmed, tool calls "
    "in frames. Exit code 1 if it could not be scored."
)
_COLOURS = {"ok": "green", "failed": "yellow", "timed_out": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or hub name of a model, or its name at a server")
    parser.add_argument("--task", required=True, help="task name, folder, or file of problems")
    parser.add_argument("--problem", metavar="ID", help="a problem's id, a part of it, or its number in the split (the first)")
    parser.add_argument("--split", default="test")
    add_sampling_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from rlvr.engines.subject import open_subject, run_to_end
    from rlvr.evaluation.ledger import rollout_to_json

    subject = subject_of(args, args.model, args.task)
    task = subject.open_task()
    problem = _problem(task, args.split, args.problem)
    sampling = subject.sampling(task)

    async def main() -> tuple[Rollout, Tokenizer | None, dict[str, Any]]:
        async with open_subject(subject, task, [problem], sampling) as ready:
            rollout = await ready.runner.run(problem, 0, sampling, "rollout", args.seed)
            return rollout, ready.tokenizer, dict(ready.provenance)

    with live_view(as_json=args.json) as view:
        view.stage("one rollout", 1)
        rollout, tokenizer, provenance = run_to_end(main)
        view.advance(1)
    if args.json:
        segments = [
            {"token_ids": one.token_ids, "loss_mask": one.loss_mask, "sampling_logprobs": one.sampling_logprobs}
            for one in rollout.segments()
        ]
        print(json.dumps({**rollout_to_json(rollout, **provenance), "segments": segments}))
    else:
        from rlvr.cli.live import console_for_tables

        console = console_for_tables()
        for part in pages(rollout, tokenizer):
            console.print(part)
    return 0 if rollout.is_scored else 1


def _problem(task: Task, split: str, wanted: str | None) -> Problem:
    if wanted is None:
        return task.problems(split, limit=1)[0]
    if wanted.isdigit():
        first = task.problems(split, limit=int(wanted) + 1)
        if len(first) <= int(wanted):
            raise TaskError(f"--problem {wanted}: {task.name} {split} has {len(first)} problems, counted from 0")
        return first[int(wanted)]
    found = [problem for problem in task.problems(split) if wanted in problem.id]
    exact = [problem for problem in found if problem.id == wanted]
    if len(exact or found) != 1:
        which = ", ".join(problem.id for problem in found[:5])
        raise TaskError(
            f"--problem {wanted!r} is the id of {len(found)} problems of {task.name} {split}" + (f": {which}" if which else "")
        )
    return (exact or found)[0]


def pages(rollout: Rollout, tokenizer: Tokenizer | None) -> Iterator[RenderableType]:
    """The rollout from top to bottom."""
    from rich.rule import Rule
    from rich.text import Text

    from rlvr.cli.view import verdict_lines
    from rlvr.evaluation.printable import printable

    yield Rule(Text(printable(rollout.problem.id), style="bold"), align="left")
    known: tuple[int, ...] = ()
    for index, turn in enumerate(rollout.turns):
        following = rollout.turns[index + 1] if index + 1 < len(rollout.turns) else None
        yield from _before(rollout, turn, known, tokenizer, is_first=index == 0)
        yield Text(printable(_sampled(turn, tokenizer)), style="bold")
        known = (*turn.prompt_ids, *turn.completion.token_ids)
        appended = _appended(turn, following, known, tokenizer)
        if appended or turn.calls:
            yield _frame(turn, appended)
            known = following.prompt_ids if following is not None and following.prompt_ids[: len(known)] == known else known
    yield Text.assemble("\n", *_facts(rollout))
    yield from verdict_lines(rollout)


def _before(
    rollout: Rollout, turn: Turn, known: tuple[int, ...], tokenizer: Tokenizer | None, *, is_first: bool
) -> Iterator[RenderableType]:
    """The prompt where it is new: at the beginning, and where the chat template rewrote it."""
    from rich.rule import Rule
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    if tokenizer is None:
        if is_first:
            yield Text("\n".join(printable(message.content) for message in rollout.problem.prompt), style="dim")
    elif is_first or turn.prompt_ids[: len(known)] != known:
        if not is_first:
            yield Rule(Text("a new segment: the chat template rewrote what came before", style="dim"), style="dim")
        yield Text(printable(_text(turn.prompt_ids, tokenizer)), style="dim")


def _sampled(turn: Turn, tokenizer: Tokenizer | None) -> str:
    return turn.message.content if tokenizer is None else _text(turn.completion.token_ids, tokenizer)


def _appended(turn: Turn, following: Turn | None, known: tuple[int, ...], tokenizer: Tokenizer | None) -> str:
    """What was appended after the turn, as its tokens have it; or the replies, where these tokens are not known."""
    if tokenizer is not None and following is not None and following.prompt_ids[: len(known)] == known:
        return _text(following.prompt_ids[len(known) :], tokenizer)
    return "\n".join(message.content for message in turn.answers)


def _frame(turn: Turn, appended: str) -> RenderableType:
    from rich.panel import Panel
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    titles = [_title(call) for call in turn.calls] or [Text("the environment", style="dim")]
    body = Text(printable(appended.strip("\n")), style="dim")
    colour = next(
        (_COLOURS.get(call.status, "red") for call in turn.calls if call.status != "ok"), "green" if turn.calls else "dim"
    )
    return Panel(body, title=Text(" ").join(titles), title_align="left", border_style=colour, expand=False)


def _title(call: ToolCall) -> Any:
    from rich.text import Text

    from rlvr.evaluation.printable import printable

    arguments = call.arguments if isinstance(call.arguments, dict) else {}
    said = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    shown = printable(f"{call.name or 'call'}({said if len(said) <= 60 else said[:57] + '...'})").replace("\n", "\\n")
    time = f"{call.elapsed_s * 1000:.1f} ms" if call.elapsed_s < 1 else f"{call.elapsed_s:.1f} s"
    cut = " · cut" if call.is_truncated else ""
    return Text.assemble((shown, "bold"), (f"  {call.status} · {time}{cut}", _COLOURS.get(call.status, "red")))


def _facts(rollout: Rollout) -> Sequence[tuple[str, str]]:
    segments = rollout.segments()
    masked = sum(len(segment.loss_mask) - sum(segment.loss_mask) for segment in segments)
    facts = [f"stop {rollout.stop}", f"{len(rollout.turns)} turns", f"{rollout.completion_tokens} tokens sampled"]
    facts += [f"{masked} masked", f"{len(segments)} segment{'s' if len(segments) > 1 else ''}"] if segments else []
    facts += [f"{len(rollout.calls)} calls"] if rollout.calls else []
    facts += [] if rollout.reward is None else [f"reward {rollout.reward:.4g}"]
    outcome = "unscored" if not rollout.is_scored or rollout.verdict is None else rollout.verdict.outcome.value
    colour = {"correct": "green", "partial": "yellow", "incorrect": "red", "unparsed": "red"}.get(outcome, "yellow")
    return [(outcome, f"bold {colour}"), ("  " + " · ".join(facts), "dim")]


def _text(token_ids: Sequence[int], tokenizer: Tokenizer) -> str:
    return tokenizer.decode(list(token_ids), skip_special_tokens=False)
