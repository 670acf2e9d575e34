"""What one step's rollouts say about the health of a run, beside the trainer's metrics: numbers, and the rollouts behind them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.types import Rollout

EVIDENCE = 5  # rollouts named for a finding
_READ_CHARS = 20_000
_NGRAM = 6  # words
_LOOPING = 0.5  # of the n-grams repeat an earlier one
_FOREIGN = 0.1  # of the letters stand in another script
_FEW_LETTERS = 40
# Japanese is written in three scripts at once, Korean in two: they count as one with Chinese characters.
_ONE_SCRIPT = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "HANGUL": "CJK"}
_NOTATION = frozenset({"GREEK", "MATHEMATICAL", "SCRIPT", "DOUBLE-STRUCK", "MODIFIER", "FEMININE", "MASCULINE", "MICRO", "OHM"})


@dataclass(frozen=True, slots=True)
class Signals:
    """`values` go into metrics.jsonl; `evidence` names, by signal, the rollouts that show it most."""

    values: Mapping[str, float]
    evidence: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def rollout_id(rollout: Rollout, step: int) -> str:
    """Where a person finds it: `step 12: chains/train/ab34 #3`."""
    return f"step {step}: {rollout.problem.id} #{rollout.sample_index}"


def signals(
    rollouts: Sequence[Rollout], step: int, *, form: Iterable[str] = (), weights: Mapping[str, float] | None = None
) -> Signals:
    """`form` are the verifiers that grade how an answer is written; `weights` are the verifiers' in the reward, 1 by default.

    - `repetition_share`: rollouts in which half of the 6-grams of words, or more, repeat an earlier one.
    - `mixed_script_share`: rollouts of which a tenth of the letters stand in another script than most. Greek is notation.
    - `form_only_share`: of the rollouts with a positive reward, those that have it from form alone (where form is graded).
    """
    size = max(1, len(rollouts))
    looping = [rollout for rollout in rollouts if is_looping(rollout.response)]
    mixed = [rollout for rollout in rollouts if is_mixed(rollout.response)]
    values = {"repetition_share": len(looping) / size, "mixed_script_share": len(mixed) / size}
    named = {"repetition_share": looping, "mixed_script_share": mixed}
    form = frozenset(form)
    if form and rollouts:
        earned = [(rollout, *_earned(rollout, form, weights or {})) for rollout in rollouts if rollout.is_scored]
        paid = [one for one in earned if one[1] + one[2] > 0]
        alone = [rollout for rollout, by_form, by_content in paid if by_form > 0 and by_content <= 0]
        values["form_only_share"] = len(alone) / max(1, len(paid))
        named["form_only_share"] = alone
    named |= {
        "truncated_share": [rollout for rollout in rollouts if rollout.is_truncated],
        "tokens_mean": sorted(rollouts, key=lambda one: (one.is_correct, -one.completion_tokens)),
        "entropy": _alike(rollouts),
        "groups_without_signal": _without_signal(rollouts),
        "reward_mean": sorted(rollouts, key=lambda one: -(one.reward or 0.0)),
    }
    evidence = {name: tuple(rollout_id(one, step) for one in found[:EVIDENCE]) for name, found in named.items() if found}
    return Signals(values, evidence)


def is_looping(text: str) -> bool:
    """
    >>> is_looping("so the answer is 7. " * 20), is_looping("A short answer.")
    (True, False)
    """
    words = text[:_READ_CHARS].split()
    grams = list(zip(*(words[shift:] for shift in range(_NGRAM)), strict=False))
    return len(grams) >= 2 * _NGRAM and len(set(grams)) <= (1 - _LOOPING) * len(grams)


def is_mixed(text: str) -> bool:
    """
    >>> is_mixed("first we add the numbers, 然后我们乘以二, and that is the result")
    True
    >>> is_mixed("the angle α is 7 degrees, which is what the question asks us to find")
    False
    """
    if text.isascii():
        return False
    scripts: Counter[str] = Counter()
    for letter, count in Counter(text[:_READ_CHARS]).items():  # few different ones, however long the text
        if letter.isalpha():
            scripts[_script(letter)] += count
    for name in _NOTATION:
        scripts.pop(name, None)
    letters = scripts.total()
    return letters >= _FEW_LETTERS and letters - max(scripts.values()) > _FOREIGN * letters


def _script(letter: str) -> str:
    if letter.isascii():
        return "LATIN"
    name = unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
    return _ONE_SCRIPT.get(name, name)


def _earned(rollout: Rollout, form: frozenset[str], weights: Mapping[str, float]) -> tuple[float, float]:
    """Reward from form, and from content."""
    parts = [0.0, 0.0]
    for name, verdict in rollout.verdicts.items():
        parts[name not in form] += weights.get(name, 1.0) * (verdict.score or 0.0)
    return parts[0], parts[1]


def _groups(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    found: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        found.setdefault(rollout.problem.id, []).append(rollout)
    return list(found.values())


def _alike(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Rollouts whose text is that of another one of their group."""
    found = []
    for group in _groups(rollouts):
        texts = Counter(rollout.response for rollout in group)
        found += [rollout for rollout in group if texts[rollout.response] > 1]
    return found


def _without_signal(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [group[0] for group in _groups(rollouts) if len({rollout.reward for rollout in group}) == 1]
