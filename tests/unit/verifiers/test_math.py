from __future__ import annotations

import subprocess
import sys

import pytest

from rlvr.types import Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.math import math, normal_text
from rlvr.verifiers.notation import to_latex


def grade(gold: str, response: str) -> Verdict:
    problem = Problem("p", (), gold)
    return math(problem, Rollout.from_response(problem, response))


def test_verifiers_are_imported_without_symbolic_libraries_or_torch() -> None:
    heavy = ("sympy", "math_verify", "torch", "transformers", "datasets", "pydantic")
    modules = ("math", "exact", "choice", "format", "logic", "runner", "stream", "check", "worker")
    imports = "; ".join(f"import rlvr.verifiers.{module}" for module in modules)
    code = f"{imports}; import sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("gold", ["72", "1/3", "0.25", "1,234", "-5", "50\\%"])
def test_rational_numbers_never_reach_the_symbolic_library(gold: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rlvr.verifiers.symbolic", None)  # importing it would raise
    assert grade(gold, f"\\boxed{{{gold}}}").outcome is Outcome.CORRECT
    assert grade(gold, "\\boxed{17}").outcome is Outcome.INCORRECT


def test_the_gold_answer_in_any_wrapping_is_correct() -> None:
    for gold in ("\\frac{1}{2}", "x+1", "(1,2)", "\\text{even}"):
        for wrapping in (
            "\\boxed{{{}}}",
            "${}$",
            "<answer>{}</answer>",
            "<answer>\\boxed{{{}}}</answer>",
            "<think>no</think> The answer is ${}$.",
        ):
            assert grade(gold, wrapping.format(gold)).outcome is Outcome.CORRECT, (gold, wrapping)


def test_text_that_only_looks_different_is_the_same() -> None:
    assert normal_text("\\left( \\dfrac{1}{2},\\ 3 \\right).") == normal_text("(\\frac{1}{2},3)")
    assert normal_text("$30^{\\circ}$") == normal_text("30°")


@pytest.mark.parametrize(
    ("text", "latex"),
    [("2**10", "2^{10}"), ("x^10", "x^{10}"), ("x^2", "x^2"), ("sqrt(2)/2", "\\sqrt{2}/2"), ("x≤5", "x\\le 5"),
     ("\\sin x", "\\sin x"),
     ("a_i", "a_i"), ("\\sum_{i=1}", "\\sum_{i=1}"), ("5\\mathrm{i}", "5 i "), ("simple", "simple")],
)  # fmt: skip
def test_plain_notation_becomes_latex_and_latex_stays(text: str, latex: str) -> None:
    assert to_latex(text) == latex


def test_a_comparison_that_fails_is_blamed_on_whom_it_belongs_to() -> None:
    pytest.importorskip("math_verify")
    from rlvr.verifiers.symbolic import compare

    nested = "\\frac{" * 30 + "x"
    assert compare("x+1", nested).gold_error is None
    assert not compare("x+1", nested).is_equal
    assert compare("There is no solution.", "x").gold_error is not None


@pytest.mark.parametrize("gold", ["\\int_0^1 x dx", "There is no solution.", "\\frac{" * 30 + "x"])
def test_a_gold_answer_that_was_read_before_is_compared_alike(gold: str) -> None:
    pytest.importorskip("math_verify")
    from rlvr.verifiers.symbolic import compare

    answers = ["1/2", "1/3", "\\frac{", "1/2"]
    first, again = ([compare(gold, answer) for answer in answers] for _ in range(2))
    assert first == again
    assert first[0] == first[3]
