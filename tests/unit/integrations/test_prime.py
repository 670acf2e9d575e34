"""Our verifiers as rewards of tasks of prime `verifiers`, scored by that package itself."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import ConfigError, PluginError
from rlvr.integrations import prime
from rlvr.verifiers.runner import WeightedVerifier


@pytest.fixture(scope="module")
def vf() -> Any:
    return pytest.importorskip("verifiers.v1", reason="the package 'verifiers' (0.4) is not installed")


@pytest.fixture(scope="module")
def data_class(vf: Any) -> type:
    class SumData(vf.TaskData):
        gold: Any = ""

    return SumData


def scored(vf: Any, task: Any, reply: str, reasoning: str | None = None) -> Any:
    message = vf.AssistantMessage(content=reply, reasoning_content=reasoning)
    trace = vf.Trace(
        task=vf.TraceTask(type="Sum", data=task.data),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=[vf.MessageNode(message=message, sampled=True, parent=None)],
    )
    asyncio.run(task.score(trace))
    return trace


def test_a_rubric_gives_a_task_one_weighted_reward_for_each_verifier(vf: Any, data_class: Any) -> None:
    class Sum(prime.rubric("number", WeightedVerifier("exact", 0.5), answer="gold"), vf.Task[data_class]):  # type: ignore[misc]
        pass

    trace = scored(vf, Sum(data_class(idx=0, prompt="36 + 36?", gold="72")), "<answer>72.0</answer>")
    assert {name: (found.score, found.weight) for name, found in trace.rewards.items()} == {
        "number": (1.0, 1.0),
        "exact": (0.0, 0.5),
    }
    assert trace.reward == 1.0


def test_a_reward_in_the_class_body_takes_settings_and_a_name(vf: Any, data_class: Any) -> None:
    class Sum(vf.Task[data_class]):  # type: ignore[misc,name-defined]
        boxed = prime.reward("number", answer="gold", name="boxed", extract="boxed")

    task = Sum(data_class(idx=0, prompt="36 + 36?", gold="72"))
    assert scored(vf, task, r"\boxed{72}").rewards["boxed"].score == 1.0
    assert scored(vf, task, "72").rewards["boxed"].score == 0.0


def test_reasoning_that_was_parsed_out_of_the_text_counts_for_the_format(vf: Any, data_class: Any) -> None:
    class Sum(prime.rubric("format", answer="gold"), vf.Task[data_class]):  # type: ignore[misc]
        pass

    task = Sum(data_class(idx=0, prompt="36 + 36?", gold="72"))
    assert scored(vf, task, "<answer>72</answer>", reasoning="36 and 36").rewards["format"].score == 1.0
    assert scored(vf, task, "<answer>72</answer>").rewards["format"].score == 0.0


def test_a_failure_of_ours_is_an_error_on_the_trace_and_no_reward(vf: Any, data_class: Any) -> None:
    class Sum(prime.rubric("number", answer="gold"), vf.Task[data_class]):  # type: ignore[misc]
        pass

    task = Sum(data_class(idx=0, prompt="?", gold=["no", "number"]))
    with pytest.raises(vf.TaskError, match="not graded"):
        scored(vf, task, "72")


def test_a_field_that_the_data_lacks_is_named(vf: Any, data_class: Any) -> None:
    class Sum(prime.rubric("number"), vf.Task[data_class]):  # type: ignore[misc]
        pass

    with pytest.raises(vf.TaskError, match="SumData has no field 'answer'"):
        scored(vf, Sum(data_class(idx=0, prompt="?", gold="72")), "72")


def test_a_rubric_needs_different_verifiers(vf: Any) -> None:
    assert vf.__name__ == "verifiers.v1"
    with pytest.raises(ConfigError, match="at least one"):
        prime.rubric()
    with pytest.raises(ConfigError, match="'number' is twice"):
        prime.rubric("number", "number")


@pytest.fixture
def without_verifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verifiers", None)
    monkeypatch.setitem(sys.modules, "verifiers.v1", None)


@pytest.mark.usefixtures("without_verifiers")
def test_without_the_package_the_error_says_what_to_install() -> None:
    with pytest.raises(PluginError, match="pip install 'verifiers"):
        prime.rubric("number")


def test_the_guide_s_rubrics_work(vf: Any) -> None:
    guide = Path(__file__).parents[3] / "docs" / "integrations.md"
    (code,) = re.findall(r"^```python verifiers\n(.*?)^```", guide.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert vf.__name__ in code
