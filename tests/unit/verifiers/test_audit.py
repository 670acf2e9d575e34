from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.errors import ConfigError
from rlvr.types import JSON, Problem
from rlvr.verifiers import audit_texts
from rlvr.verifiers.audit import Limits, audit
from rlvr.verifiers.audit_forms import Kind, forms_of, kind_of
from rlvr.verifiers.audit_probes import Sample
from rlvr.verifiers.audit_report import AuditReport, Rate, Times
from rlvr.verifiers.golden import read_cases
from rlvr.verifiers.numeric import parse_number

PLUGINS = Path(__file__).parent / "plugins" / "fooled.py"
SAMPLES = [
    Sample(Problem(str(answer), (), str(answer)), f"<think>I see.</think><answer>{answer}</answer>") for answer in (72, 1234, -5)
]


def rows(report: AuditReport) -> dict[str, Rate]:
    return {row.name: row.wrong for row in report.rows}


@pytest.mark.parametrize(
    ("answer", "has_letters", "kind"),
    [
        (7, False, "number"), ("1,234.5", False, "number"), ("3/4", False, "number"), ("\\frac{1}{2}", False, "latex"),
        ("x=3", False, "latex"), ("(0, 1)", False, "latex"), ("5 km", False, "quantity"), ("Paris", False, "text"),
        ("B", True, "choice"), ("B", False, "text"), ({"Ann": "knight"}, False, "roles"), ({"x": "3"}, False, "unknowns"),
        ({"numbers": [1], "target": 1}, False, "expression"), ([1, 2], False, "json"), (None, False, "none"),
        (True, False, "none"), ("", False, "none"), (float("nan"), False, "none"),
    ],
)  # fmt: skip
def test_the_kind_of_an_answer_is_seen_from_the_answer(answer: JSON, has_letters: bool, kind: str) -> None:
    assert kind_of(answer, has_letters=has_letters) == kind


@given(
    value=st.one_of(st.integers(-(10**9), 10**9), st.decimals(-1000, 1000, places=2).map(str)),
    tolerance=st.sampled_from([0, 0.01]),
)
@settings(max_examples=200, deadline=None)
def test_forms_of_a_number_are_equal_and_near_misses_are_not(value: int | str, tolerance: float) -> None:
    forms = forms_of(Kind.NUMBER, value, None, {"tolerance": tolerance})
    assert forms is not None
    gold = Fraction(str(value))
    for form in (forms.canonical, *forms.equivalent):
        read = parse_number(form.strip("$ ") if "frac" not in form else form)
        assert read is not None, form
        assert read.value == gold, form
    for form in forms.mutated:
        read = parse_number(form)
        assert read is not None, form
        assert abs(read.value - gold) > Fraction(tolerance) * max(1, abs(gold)), form


@pytest.mark.parametrize(
    "answer",
    [
        "\\frac{3}{4}",
        "x^2+1",
        "(0,1)",
        "2\\sqrt{3}",
        "x=4",
        {"a": "knight", "b": "knave"},
        {"x": "3", "y": "1/2"},
        "Paris",
        "7 m",
    ],
)
def test_no_near_miss_is_also_a_form_of_the_answer(answer: JSON) -> None:
    forms = forms_of(kind_of(answer, has_letters=False), answer, str(answer), {})
    assert forms is not None
    assert forms.equivalent
    assert forms.mutated
    same = {"".join(form.split()).casefold() for form in (forms.canonical, *forms.equivalent)}
    assert not same & {"".join(form.split()).casefold() for form in forms.mutated}


def test_wilson_intervals_are_those_of_the_formula() -> None:
    assert Rate(0, 50).interval == pytest.approx((0.0, 0.0713), abs=1e-4)
    assert Rate(5, 100).interval == pytest.approx((0.0215, 0.1118), abs=1e-4)
    assert Rate(50, 50).interval == pytest.approx((0.9287, 1.0), abs=1e-4)
    assert Rate(0, 0).interval == (0.0, 1.0)
    assert (Rate(1, 4) + Rate(2, 6)).share == 0.3


def test_times_are_nearest_ranks() -> None:
    times = Times.of([value / 100 for value in range(100, 0, -1)], [1.0])
    assert (times.cpu_p50_s, times.cpu_p99_s, times.wall_p99_s, times.count) == (0.5, 0.99, 1.0, 100)


@pytest.mark.processes
def test_a_verifier_that_looks_for_a_substring_is_fooled_by_everything_that_holds_the_answer() -> None:
    report = audit(f"{PLUGINS}:substring", samples=SAMPLES)
    found = rows(report)
    assert found["multiple"].share == 1.0
    assert 0 < found["mutated"].share < 1  # 10 * 72 holds 72, 73 does not
    assert found["equivalent"].count  # 144/2 does not hold 72
    assert report.false_positives.share > 0.1
    assert {"multiple", "mutated", "equivalent"} <= {row.name for row in report.broken}
    assert any("72 or" in example for row in report.broken for example in row.examples)


@pytest.mark.processes
def test_code_in_an_answer_that_is_run_is_noticed() -> None:
    report = audit(f"{PLUGINS}:runs_code", samples=SAMPLES[:1], limits=Limits(false_negatives=1.0))
    assert [row.name for row in report.broken] == ["code"]
    assert "executed" in report.broken[0].examples[-1]


@pytest.mark.processes
@pytest.mark.parametrize(("name", "rule"), [("knows_its_process", "processes"), ("main_thread_only", "threads")])
def test_verdicts_that_depend_on_process_or_thread_are_noticed(name: str, rule: str) -> None:
    report = audit(f"{PLUGINS}:{name}", samples=SAMPLES, limits=Limits(gold=1.0, false_negatives=1.0))
    assert rule in {row.name for row in report.broken}


@pytest.mark.processes
def test_a_verifier_that_hangs_or_dies_is_reported_and_does_not_end_the_audit() -> None:
    misbehaving = f"{PLUGINS.parent / 'misbehaving.py'}:misbehaving"
    cases = read_cases(
        [
            {"answer": 1, "response": "exit", "outcome": "verifier_error", "why": "it ends its process"},
            {"answer": 1, "response": "hang", "outcome": "correct", "why": "it never answers"},
            {"answer": 1, "response": "ok", "outcome": "correct", "why": "it obeys"},
        ]
    )
    report = audit(misbehaving, cases=cases, timeout_s=0.5, limits=Limits(false_positives=1.0, false_negatives=1.0))
    golden = next(row for row in report.rows if row.name == "golden")
    assert golden.wrong == Rate(1, 3)
    assert golden.unscored == 1
    assert "longer than 0.5 s" in golden.examples[0]


def test_cases_may_name_a_probe_of_their_own() -> None:
    case = {"answer": "5", "response": "5", "outcome": "correct", "why": "equal"}
    trick = {"answer": "5", "response": "five", "outcome": "unparsed", "why": "a word", "probe": "spelled_out"}
    report = audit("number", cases=read_cases([case, trick]))
    assert rows(report)["spelled_out"].total == 1
    assert not report.broken


def test_a_verifier_of_the_form_is_only_asked_what_its_cases_say() -> None:
    case = {"answer": None, "response": "<think>two</think><answer>4</answer>", "outcome": "correct", "why": "the layout"}
    report = audit("format", cases=read_cases([case]))
    assert not {"mutated", "equivalent", "multiple", "truncated"} & rows(report).keys()
    assert report.kinds == {"none": 1}


def test_nothing_to_audit_with_is_said() -> None:
    with pytest.raises(ConfigError, match="give a task, or golden cases"):
        audit("number")


def test_texts_are_distinct_and_the_file_that_code_would_create_is_named_in_every_attempt() -> None:
    groups = [audit_texts.EMPTY, *audit_texts.WRONG.values(), *audit_texts.HOSTILE.values()]
    assert all(len(set(group)) == len(group) for group in groups)
    probes = audit_texts.code_probes("/a/mark")
    assert len(set(probes)) == len(probes)
    assert sum("/a/mark" in probe for probe in probes) >= len(probes) - 2  # two attempts end the process instead


@pytest.mark.processes
@pytest.mark.parametrize(
    ("verifier", "task"),
    [
        ("number", "chains"),
        ("countdown", "countdown"),
        ("knights_knaves", "knights_knaves"),
        ("linear_equations", "linear_equations"),
    ],
)
def test_built_in_verifiers_pass_on_the_problems_of_their_tasks(verifier: str, task: str) -> None:
    from rlvr.envs.audit import task_samples
    from rlvr.envs.tasks import load_task

    report = audit(verifier, samples=task_samples(load_task(task), verifier, "train", 12), source=task)
    assert not report.broken, [row.examples[:3] for row in report.broken]
    assert report.samples == 12
    assert rows(report)["mutated"].total >= 24
    assert rows(report)["equivalent"].total >= 24
    assert (report.false_positives.count, report.false_negatives.count) == (0, 0)
    assert json.loads(json.dumps(report.to_json()))["ok"] is True
