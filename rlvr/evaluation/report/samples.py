"""A few rollouts for the report: best and worst, what was paid though it is wrong, what got better, and one of each kind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from rlvr.errors import EvaluationError
from rlvr.evaluation.health.watch import Finding
from rlvr.evaluation.ledger import StoredRollout, read_rollouts
from rlvr.evaluation.printable import printable_html
from rlvr.evaluation.run_folder import RunFolder
from rlvr.evaluation.statistics import is_finite_number
from rlvr.types import Message, Outcome, Rollout

_LONGEST_TEXT = 6_000  # characters of one message
_COLOURS = {"correct": "good", "incorrect": "bad", "unparsed": "bad", "truncated": "warn", "partial": "warn", "unscored": "warn"}
_HACKS = ("second_opinion", "reward_without_gain", "form_only")  # rules whose rollouts may show a reward that is hacked
_MOST_HACKS = 3
_PLACE = re.compile(r"step (\d{1,9}): (.*) #(\d{1,9})", re.DOTALL)  # of rlvr.evaluation.health.signals.rollout_id


@dataclass(frozen=True, slots=True)
class Shown:
    """A rollout and why it is shown; `why` is empty for the first of its kind."""

    stored: StoredRollout
    why: str = ""


@dataclass(frozen=True, slots=True)
class Ends:
    """The rollouts of the first and the last step that can be read; `first` is empty where there is one such step alone."""

    first_step: int
    first: Sequence[StoredRollout]
    last_step: int
    last: Sequence[StoredRollout]


def ends_of(folder: RunFolder, on_damaged: Callable[[EvaluationError], None] = lambda error: None) -> Ends | None:
    """None where no step is stored, or none can be read; `on_damaged` hears of every file that cannot."""

    def first_readable(steps: Iterable[int]) -> tuple[int, list[StoredRollout]] | None:
        for step in steps:
            try:
                return step, list(folder.rollouts(step))
            except EvaluationError as error:
                on_damaged(error)
        return None

    steps = folder.steps()
    last = first_readable(reversed(steps))
    if last is None:
        return None
    first = first_readable(step for step in steps if step < last[0])
    return Ends(last[0], [], *last) if first is None else Ends(*first, *last)


def samples(
    folder: RunFolder,
    stored: Ends | None,
    findings: Sequence[Finding] = (),
    on_damaged: Callable[[EvaluationError], None] = lambda error: None,
) -> str:
    """HTML of sample rollouts; empty if there are none. `on_damaged` hears of files of single sections that cannot be read."""
    if stored is None:
        return ""
    first, last = stored.first, stored.last
    page = "<h2>Sample rollouts</h2>"
    ends = extremes(last)
    kinds = {kind_of(one.stored.rollout) for one in ends}
    others = [one for one in _kinds(last) if kind_of(one.stored.rollout) not in kinds]
    page += _section(f"Step {stored.last_step}", [*ends, *others])
    chosen: dict[str, Callable[[], list[Shown]]] = {
        "Suspected hacks": lambda: suspected(folder, last, findings),
        "Most improved, held-out": lambda: most_improved(folder),
    }
    for title, choose in chosen.items():
        try:
            page += _section(title, choose())
        except EvaluationError as error:
            on_damaged(error)
    page += _section(f"Step {stored.first_step}", _kinds(first)) if first else ""
    return page + f'<p class="note">All rollouts are stored: <code>rlvr view {printable_html(str(folder.path))}</code>.</p>'


def kind_of(rollout: Rollout) -> str:
    """correct, partial, incorrect, unparsed, truncated or unscored: the one word that says most."""
    if not rollout.is_scored or rollout.verdict is None:
        return "unscored"
    if rollout.is_truncated and rollout.verdict.outcome is not Outcome.CORRECT:
        return "truncated"
    return rollout.verdict.outcome.value


def extremes(rollouts: Sequence[StoredRollout]) -> list[Shown]:
    """The highest reward, of equal ones the shortest; and the lowest, of equal ones the longest."""
    paid = [(one.rollout.reward, -one.rollout.completion_tokens, one) for one in rollouts if one.rollout.reward is not None]
    if not paid or min(paid, key=lambda row: row[:2])[0] == max(paid, key=lambda row: row[:2])[0]:
        return []
    best, worst = max(paid, key=lambda row: row[:2])[2], min(paid, key=lambda row: row[:2])[2]
    return [Shown(best, "best"), Shown(worst, "worst")]


def suspected(folder: RunFolder, last: Sequence[StoredRollout], findings: Sequence[Finding]) -> list[Shown]:
    """Rollouts that the health rules named as proof that the reward is not the task, and of the last step the one that was paid
    most although it is wrong."""
    found: list[Shown] = []
    for rule in _HACKS:
        places = [place for finding in findings if finding.rule == rule for place in finding.rollouts]
        stored = next((one for place in places if (one := _at(folder, place)) is not None), None)
        if stored is not None:
            found.append(Shown(stored, f"named by the rule {rule}"))
    wrong = [one for one in last if one.rollout.is_scored and not one.rollout.is_correct and (one.rollout.reward or 0.0) > 0.0]
    if wrong:
        paid = max(wrong, key=lambda one: (one.rollout.reward or 0.0, -one.rollout.completion_tokens))
        found.append(Shown(paid, "paid though it is not correct"))
    return _without_repeats(found)[:_MOST_HACKS]


def most_improved(folder: RunFolder) -> list[Shown]:
    """Of the held-out problem that gained most between the first and last measurement: a wrong answer, and then a right one."""
    measured = folder.evaluations()
    if len(measured) < 2:
        return []
    steps = (min(measured), max(measured))
    shares = [_shares(measured[step].get("results")) for step in steps]
    gains = {id: shares[1][id] - share for id, share in shares[0].items() if id in shares[1]}
    best = max(gains, key=lambda id: (gains[id], id), default=None)
    if best is None or gains[best] <= 0:
        return []
    found = []
    for step, is_right, end in ((steps[0], False, 0), (steps[1], True, 1)):
        for stored in _held_out(folder, step):
            rollout = stored.rollout
            if rollout.problem.id == best and rollout.is_scored and rollout.is_correct is is_right:
                found.append(Shown(stored, f"step {step}, where {shares[end][best]:.0%} of its samples are correct"))
                break
    return found if len(found) == 2 else []


def _kinds(rollouts: Iterable[StoredRollout]) -> list[Shown]:
    """The first rollout of each kind, correct ones first."""
    found: dict[str, StoredRollout] = {}
    for stored in rollouts:
        found.setdefault(kind_of(stored.rollout), stored)
    return [Shown(found[kind]) for kind in _COLOURS if kind in found]


def _without_repeats(shown: Sequence[Shown]) -> list[Shown]:
    """One article for a rollout, with all reasons for it."""
    found: dict[int, Shown] = {}
    for one in shown:
        known = found.get(id(one.stored))
        why = ", ".join(part for part in (known.why if known else "", one.why) if part)
        found[id(one.stored)] = Shown(one.stored, why)
    return list(found.values())


def _shares(results: object) -> dict[str, float]:
    """Share of correct samples by problem, as an evaluation's file has it."""
    rows = results if isinstance(results, list) else []
    good = [row for row in rows if isinstance(row, dict) and is_finite_number(row.get("correct")) and row.get("scored")]
    return {str(row["id"]): row["correct"] / row["scored"] for row in good if "id" in row}


def _held_out(folder: RunFolder, step: int) -> Iterator[StoredRollout]:
    for ending in (".jsonl.gz", ".jsonl"):
        path = folder.path / "evaluations" / f"step-{step:06d}.held-out{ending}"
        if path.is_file():
            yield from (one for one in read_rollouts(path) if one.provenance.get("mode", "sampled") == "sampled")
            return


def _at(folder: RunFolder, place: str) -> StoredRollout | None:
    match = _PLACE.fullmatch(place)
    if match is None or int(match[1]) not in folder.steps():
        return None
    wanted = (match[2], int(match[3]))
    rollouts = folder.rollouts(int(match[1]))
    return next((one for one in rollouts if (one.rollout.problem.id, one.rollout.sample_index) == wanted), None)


def _section(title: str, shown: Sequence[Shown]) -> str:
    articles = "".join(_article(one) for one in _without_repeats(shown))
    return f"<h3>{printable_html(title)}</h3>{articles}" if articles else ""


def _article(shown: Shown) -> str:
    stored, rollout, kind = shown.stored, shown.stored.rollout, kind_of(shown.stored.rollout)
    facts = [f"{rollout.completion_tokens} tokens"]
    if rollout.reward is not None:
        facts.append(f"reward {rollout.reward:.3g}")
    advantage = stored.provenance.get("advantage")
    if is_finite_number(advantage):
        facts.append(f"advantage {advantage:+.3g}")
    header = f'<b class="{_COLOURS[kind]}">{kind}</b>' + (f"<b>{printable_html(shown.why)}</b>" if shown.why else "")
    header += f'<span class="id">{printable_html(rollout.problem.id)}</span>'
    header += "".join(f"<span>{printable_html(fact)}</span>" for fact in facts)
    messages = [*rollout.problem.prompt]
    for turn in rollout.turns:
        messages += [turn.message, *turn.answers]
    turns = "".join(_message(message) for message in messages)
    return f'<article class="card"><header>{header}</header>{turns}<div class="verdict">{_verdicts(rollout)}</div></article>'


def _message(message: Message) -> str:
    content = message.content
    if len(content) > _LONGEST_TEXT:
        content = f"{content[:_LONGEST_TEXT]}\n… {len(message.content) - _LONGEST_TEXT:,} more characters"
    return f'<div class="turn"><div class="role">{printable_html(message.role)}</div><pre>{printable_html(content)}</pre></div>'


def _verdicts(rollout: Rollout) -> str:
    lines = [f"<b>gold answer</b>: {printable_html(json.dumps(rollout.problem.answer, ensure_ascii=False))}"]
    if rollout.error is not None:
        lines.append(f"<b>error</b>: {printable_html(rollout.error)}")
    for name, verdict in rollout.verdicts.items():
        facts = [verdict.outcome.value, "no score" if verdict.score is None else f"score {verdict.score:.3g}"]
        facts += [] if verdict.extracted is None else [f"read as {verdict.extracted!r}"]
        facts += [verdict.reason] if verdict.reason else []
        lines.append(f"<b>{printable_html(name)}</b>: " + printable_html(" · ".join(facts)))
    return "<br>".join(lines)
