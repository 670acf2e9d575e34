"""A few rollouts for the report: the first and the last step, one of each kind."""

from __future__ import annotations

import json

from rlvr.evaluation.ledger import StoredRollout
from rlvr.evaluation.printable import printable_html
from rlvr.evaluation.run_folder import RunFolder
from rlvr.evaluation.statistics import is_finite_number
from rlvr.types import Message, Outcome, Rollout

_LONGEST_TEXT = 6_000  # characters of one message
_COLOURS = {"correct": "good", "incorrect": "bad", "unparsed": "bad", "truncated": "warn", "partial": "warn", "unscored": "warn"}


def samples(folder: RunFolder) -> str:
    """HTML of sample rollouts; empty if the run stored none."""
    steps = folder.steps()
    if not steps:
        return ""
    page = "<h2>Sample rollouts</h2>"
    for step in dict.fromkeys((steps[-1], steps[0])):
        chosen = one_of_each_kind(list(folder.rollouts(step)))
        page += f"<h3>Step {step}</h3>"
        page += "".join(_article(kind, stored) for kind, stored in chosen.items())
    return page + f'<p class="note">All rollouts are stored: <code>rlvr view {printable_html(str(folder.path))}</code>.</p>'


def kind_of(rollout: Rollout) -> str:
    """correct, partial, incorrect, unparsed, truncated or unscored: the one word that says most."""
    if not rollout.is_scored or rollout.verdict is None:
        return "unscored"
    if rollout.is_truncated and rollout.verdict.outcome is not Outcome.CORRECT:
        return "truncated"
    return rollout.verdict.outcome.value


def one_of_each_kind(rollouts: list[StoredRollout]) -> dict[str, StoredRollout]:
    """The first rollout of each kind, correct ones first."""
    found: dict[str, StoredRollout] = {}
    for stored in rollouts:
        found.setdefault(kind_of(stored.rollout), stored)
    return {kind: found[kind] for kind in _COLOURS if kind in found}


def _article(kind: str, stored: StoredRollout) -> str:
    rollout = stored.rollout
    facts = [f"{rollout.completion_tokens} tokens"]
    if rollout.reward is not None:
        facts.append(f"reward {rollout.reward:.3g}")
    advantage = stored.provenance.get("advantage")
    if is_finite_number(advantage):
        facts.append(f"advantage {advantage:+.3g}")
    header = f'<b class="{_COLOURS[kind]}">{kind}</b><span class="id">{printable_html(rollout.problem.id)}</span>'
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
