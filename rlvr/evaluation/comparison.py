"""Evaluations side by side: paired tests on the problems that they share, at equal samples and at equal tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlvr.errors import ConfigError
from rlvr.evaluation.evaluations import Evaluation
from rlvr.evaluation.paired import PairedTest, holm, paired_test, sentence
from rlvr.evaluation.samples import Kind, Metric, Samples
from rlvr.evaluation.statistics import Estimate, estimate
from rlvr.seeding import seed as seed_of
from rlvr.types import JSON

GREEDY = "greedy"
MUST_AGREE = ("sampling", "template", "grading", "env", "problems_sha256")
_SHUFFLES = 1_999


@dataclass(frozen=True, slots=True)
class Comparison:
    """`other` against `base` under one metric. `p` is Holm's, over all comparisons made together; `samples` of each problem."""

    task: str
    metric: str
    base: str
    other: str
    samples: int
    test: PairedTest
    p: float

    @property
    def sentence(self) -> str:
        return f"{self.metric}: " + sentence(self.test, base=self.base, other=self.other, samples=self.samples, p=self.p)

    def to_json(self) -> dict[str, JSON]:
        about = {"task": self.task, "metric": self.metric, "base": self.base, "other": self.other, "samples": self.samples}
        return {**about, **self.test.to_json(), "p_holm": self.p, "sentence": self.sentence}


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """pass@k of two models that may spend the same number of tokens on a problem: who writes shorter answers gets more of them.

    `base_k` and `other_k` are how many samples the budget buys; between whole numbers, the chance of either neighbour is taken.
    """

    task: str
    base: str
    other: str
    tokens: float
    base_k: float
    other_k: float
    base_value: float
    other_value: float
    test: PairedTest

    def to_json(self) -> dict[str, JSON]:
        return {
            "task": self.task,
            "base": self.base,
            "other": self.other,
            "tokens_per_problem": self.tokens,
            "k": {"base": self.base_k, "other": self.other_k},
            "pass": {"base": self.base_value, "other": self.other_value},
            **self.test.to_json(),
        }


@dataclass(frozen=True, slots=True)
class TemplateSpread:
    """How much of a model's score is the template's: `range` is best - worst, `sd` over templates, and `p` that labels of
    templates, shuffled within every problem, scatter as much."""

    task: str
    model: str
    values: Mapping[str, float]
    range: float
    sd: float
    p: float

    @property
    def sentence(self) -> str:
        low, high = min(self.values, key=lambda name: self.values[name]), max(self.values, key=lambda name: self.values[name])
        said = f"the template moves pass@1 of {self.model} by {self.range * 100:.1f} points, from {low} to {high}"
        doubt = "" if self.p < 0.05 else ", no more than chance would"
        return f"{said} (p = {self.p:.3f}{doubt})"

    def to_json(self) -> dict[str, JSON]:
        about = {"task": self.task, "model": self.model, "pass@1": dict(self.values)}
        return {**about, "range": self.range, "sd": self.sd, "p": self.p, "sentence": self.sentence}


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that was found; `notes` are what a reader must know before believing it."""

    evaluations: tuple[Evaluation, ...]
    comparisons: tuple[Comparison, ...]
    matched: tuple[TokenMatch, ...]
    templates: tuple[TemplateSpread, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, JSON]:
        return {
            "comparisons": [one.to_json() for one in self.comparisons],
            "at_equal_tokens": [one.to_json() for one in self.matched],
            "templates": [one.to_json() for one in self.templates],
            "notes": list(self.notes),
        }


def compare(
    evaluations: Sequence[Evaluation], metrics: Sequence[str] = ("pass@1",), *, scorer: str = "", k: Sequence[int] = ()
) -> Study:
    """Hold every evaluation against the first of its task.

    Evaluations of different tasks are not compared, and the notes say so. Problems that only one has are left out. `k` are sizes
    that somebody wants to see: a note names those for which there are too few samples.

    Raises:
        ConfigError: two evaluations have one label, or a metric is none.
    """
    labels = [one.label for one in evaluations]
    if len(set(labels)) < len(labels):
        raise ConfigError(f"two evaluations are called alike: {', '.join(labels)}; give folders with different names")
    wanted = [name if name == GREEDY else str(Metric.parse(name)) for name in metrics]
    groups: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        groups.setdefault(one.task, []).append(one)
    notes = [note for one in evaluations for note in one.notes]
    if len(groups) > 1:
        notes.append(f"evaluations of different tasks are held apart, never compared: {', '.join(groups)}")
    for size in sorted(set(k)):
        if few := [f"{one.label} ({one.n})" for one in evaluations if one.n < size]:
            notes.append(f"k = {size} needs {size} samples of a problem, and is left out where there are fewer: {', '.join(few)}")
    found: list[Comparison] = []
    matched: list[TokenMatch] = []
    spreads: list[TemplateSpread] = []
    for task, group in groups.items():
        base, *others = group
        if not others and len(groups) > 1:
            notes.append(f"{base.label} is alone on {task}: nothing to compare it with")
        for other in others:
            notes += _differences(base, other)
            for name in wanted:
                compared = _compared(task, base, other, name, scorer)
                if isinstance(compared, str):
                    notes.append(compared)
                else:
                    found.append(compared)
            matched += _matched(task, base, other)
        spreads += _template_spreads(task, group)
    adjusted = holm([made.test.p for made in found])
    comparisons = tuple(replace(made, p=p) for made, p in zip(found, adjusted, strict=True))
    if len(comparisons) > 1:
        notes.append(f"p-values are Holm's, for {len(comparisons)} comparisons made together")
    return Study(tuple(evaluations), comparisons, tuple(matched), tuple(spreads), tuple(dict.fromkeys(notes)))


def token_curve(samples: Samples, sizes: Sequence[int], tokens_mean: float) -> list[tuple[int, float, Estimate]]:
    """(k, tokens spent on a problem, pass@k) for every k that some problem has samples for."""
    found = []
    for k in sizes:
        values = list(Metric(Kind.PASS, k).values(samples).values())
        if values:
            found.append((k, k * tokens_mean, estimate(values)))
    return found


def _values(evaluation: Evaluation, name: str, scorer: str) -> Mapping[str, float]:
    if name == GREEDY:
        return evaluation.greedy
    return Metric.parse(name, scorer or str(evaluation.about.get("scorer", ""))).values(evaluation.samples)


def _compared(task: str, base: Evaluation, other: Evaluation, name: str, scorer: str) -> Comparison | str:
    values = [_values(one, name, scorer) for one in (base, other)]
    shared = [id for id in values[0] if id in values[1]]
    if not shared:
        which = [one.label for one, found in zip((base, other), values, strict=True) if not found]
        if which:
            reason = "no greedy answers" if name == GREEDY else f"{min(base.n, other.n)} samples of a problem at most"
            return f"{name} of {' and '.join(which)} cannot be had: {reason}"
        return f"{base.label} and {other.label} share no problem, so that {name} cannot be compared"
    test = paired_test([values[0][id] for id in shared], [values[1][id] for id in shared])
    samples = 1 if name == GREEDY else min(base.n, other.n)
    return Comparison(task, name, base.label, other.label, samples, test, test.p)


def _differences(base: Evaluation, other: Evaluation) -> list[str]:
    pair = f"{base.label} and {other.label}"
    notes = []
    left_out = len(set(base.samples) ^ set(other.samples))
    if left_out:
        both = len(set(base.samples) & set(other.samples))
        notes.append(f"{pair} share {both} problems; {left_out} that only one has are left out of their comparison")
    if base.n != other.n:
        notes.append(f"{pair} have {base.n} and {other.n} samples of a problem; unbiased, but not equally sharp")
    is_varied = [bool(one.about.get("other_numbers")) for one in (base, other)]
    if is_varied[0] != is_varied[1]:
        notes.append(f"{other.label if is_varied[1] else base.label} was asked the same problems with other numbers")
    for key in MUST_AGREE:
        if key == "problems_sha256" and is_varied[0] != is_varied[1]:
            continue
        values = [one.about.get(key) for one in (base, other)]
        if None not in values and not (key == "problems_sha256" and left_out) and values[0] != values[1]:
            notes.append(f"{pair} differ in {key}: {_short(values[0])} and {_short(values[1])}; the difference may be due to it")
    return notes


def _short(value: JSON) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _matched(task: str, base: Evaluation, other: Evaluation) -> list[TokenMatch]:
    """At the tokens that 1, 2, 4 ... samples of the base cost, as far as both have samples for them."""
    shared = {id: None for id in base.samples if id in other.samples}
    if not shared or not base.tokens_mean or not other.tokens_mean:
        return []
    found, k = [], 1
    while k <= base.n:
        budget = k * base.tokens_mean
        other_k = budget / other.tokens_mean
        if 1.0 <= other_k <= other.n:
            values = [_pass_between(one, size) for one, size in ((base, float(k)), (other, other_k))]
            both = [id for id in shared if id in values[0] and id in values[1]]
            if both:
                columns = [[value[id] for id in both] for value in values]
                means = [sum(column) / len(column) for column in columns]
                test = paired_test(*columns)
                found.append(TokenMatch(task, base.label, other.label, budget, float(k), other_k, means[0], means[1], test))
        k *= 2
    return found


def _pass_between(evaluation: Evaluation, k: float) -> dict[str, float]:
    low, high = math.floor(k), math.ceil(k)
    below, above = (Metric(Kind.PASS, size).values(evaluation.samples) for size in (low, high))
    share = k - low
    return {id: (1.0 - share) * below[id] + share * above[id] for id in below if id in above}


def _template_spreads(task: str, group: Sequence[Evaluation]) -> list[TemplateSpread]:
    by_model: dict[str, dict[str, Evaluation]] = {}
    for one in group:
        template, model = one.about.get("template"), one.about.get("checkpoint") or one.about.get("model")
        if template is not None:
            by_model.setdefault(str(model), {})[str(template)] = one
    return [_spread(task, model, templates) for model, templates in by_model.items() if len(templates) > 1]


def _spread(task: str, model: str, templates: Mapping[str, Evaluation]) -> TemplateSpread:
    columns = [Metric(Kind.PASS, 1).values(one.samples) for one in templates.values()]
    shared = [id for id in columns[0] if all(id in column for column in columns)]
    table = np.array([[column[id] for column in columns] for id in shared]).reshape(len(shared), len(columns))
    means = table.mean(axis=0) if shared else np.zeros(len(columns))
    generator = np.random.default_rng(seed_of("templates", task))
    seen = float(means.var())
    beyond = 0.0
    for _ in range(_SHUFFLES if shared else 0):
        scattered = float(generator.permuted(table, axis=1).mean(axis=0).var())
        beyond += 1.0 if scattered > seen + 1e-12 else 0.5 if scattered > seen - 1e-12 else 0.0
    p = (beyond + 0.5) / (_SHUFFLES + 1) if shared else 1.0
    values = dict(zip(templates, map(float, means), strict=True))
    return TemplateSpread(task, model, values, float(np.ptp(means)), float(means.std(ddof=1)), p)
