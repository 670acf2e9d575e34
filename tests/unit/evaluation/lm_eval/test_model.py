"""Our engines as lm-eval's model, held against lm-eval's own transformers model on the same weights."""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlvr.errors import ConfigError

pytest.importorskip("lm_eval", reason="lm-eval is not installed (make peers)")
pytest.importorskip("sacrebleu", reason="lm-eval is not installed whole (make peers)")
# What lm-eval and what it imports say about themselves is theirs.
pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::SyntaxWarning")]


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Iterator[Any]:
    from rlvr.evaluation.lm_eval.model import RlvrModel

    made = RlvrModel(str(checkpoint), device="cpu", max_gen_toks=8)
    yield made
    made.close()


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def request(*arguments: Any) -> Any:
    return SimpleNamespace(args=arguments)


def evaluated(model: Any, tasks: Path, **settings: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    importlib.import_module("lm_eval.models")  # registers lm-eval's own
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    names = ["rlvr_sums", "rlvr_pick", "rlvr_roll"]
    found: dict[str, Any] = simple_evaluate(model=model, tasks=names, task_manager=manager, bootstrap_iters=0, **settings)
    return found


@pytest.mark.usefixtures("own_cache")
def test_answers_and_likelihoods_are_those_of_lm_evals_own_transformers_model(model: Any, checkpoint: Path, tasks: Path) -> None:
    ours = evaluated(model, tasks)
    theirs = evaluated("hf", tasks, model_args={"pretrained": str(checkpoint), "dtype": "float32"}, device="cpu")
    for name in ("rlvr_sums", "rlvr_pick", "rlvr_roll"):
        rows = list(zip(ours["samples"][name], theirs["samples"][name], strict=True))
        assert len(rows) == 6
        for mine, other in rows:
            assert mine["doc_hash"] == other["doc_hash"]
            if name == "rlvr_sums":
                assert mine["resps"] == other["resps"]
            elif name == "rlvr_pick":
                for (value, is_greedy), (expected, was_greedy) in zip(
                    mine["filtered_resps"], other["filtered_resps"], strict=True
                ):
                    assert value == pytest.approx(expected, abs=1e-4)
                    assert is_greedy == was_greedy
            else:
                assert mine["filtered_resps"][0] == pytest.approx(other["filtered_resps"][0], abs=1e-4)
    assert ours["results"]["rlvr_pick"]["acc,none"] == theirs["results"]["rlvr_pick"]["acc,none"]


@pytest.mark.usefixtures("own_cache")
def test_the_command_line_of_lm_eval_knows_our_model_and_its_samples_can_be_compared(
    checkpoint: Path, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm_eval.tasks import TaskManager

    from rlvr.cli.main import main as rlvr_main
    from rlvr.evaluation.lm_eval.__main__ import main

    # It would read ten thousand tasks first.
    monkeypatch.setattr("lm_eval.tasks.TaskManager", functools.partial(TaskManager, include_defaults=False))
    out = tmp_path / "one"
    arguments = f"--model rlvr --model_args pretrained={checkpoint} --include_path {tasks} --tasks rlvr_pick"
    monkeypatch.setattr(sys, "argv", ["lm_eval", "run", *arguments.split(), "--output_path", str(out), "--log_samples"])
    assert main() == 0
    shutil.copytree(out, tmp_path / "two")
    capsys.readouterr()
    assert rlvr_main(["compare", str(tmp_path / "one"), str(tmp_path / "two"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["label"] for one in found["evaluations"]] == ["one", "two"]
    assert found["comparisons"][0]["difference"]["mean"] == 0.0
    assert "acc" in found["notes"][0]


def test_a_model_that_is_not_there_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlvr.evaluation.lm_eval.__main__ import main
    from rlvr.evaluation.lm_eval.model import RlvrModel

    missing = str(tmp_path / "missing")
    # Its own command line reads ten thousand tasks before it makes the model.
    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", lambda: RlvrModel.create_from_arg_obj({"pretrained": missing}))
    assert main() == 2
    assert capsys.readouterr().err.startswith(f"error: no model at '{missing}'")


def test_repeats_of_a_prompt_are_drawn_apart_and_equal_seeds_draw_the_same(checkpoint: Path) -> None:
    from rlvr.evaluation.lm_eval.model import RlvrModel

    drawn = []
    for _ in range(2):
        model = RlvrModel(str(checkpoint), device="cpu", seed=3)
        asked = [request("1+2=", {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12})] * 4
        drawn.append(model.generate_until(asked, disable_tqdm=True))
        model.close()
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 4


def test_it_answers_inside_a_running_event_loop(model: Any) -> None:
    async def main() -> list[str]:
        answers: list[str] = model.generate_until([request("1+2=", {"max_gen_toks": 3})], disable_tqdm=True)
        return answers

    assert asyncio.run(main()) == model.generate_until([request("1+2=", {"max_gen_toks": 3})], disable_tqdm=True)


def test_a_text_ends_before_its_stop_string(model: Any) -> None:
    whole = model.generate_until([request("1+2=", {"max_gen_toks": 8})], disable_tqdm=True)[0]
    end = whole[2]
    cut = model.generate_until([request("1+2=", {"until": end, "max_gen_toks": 8})], disable_tqdm=True)[0]
    assert cut == whole[: whole.index(end)]


def test_a_prompt_that_does_not_fit_loses_its_beginning(model: Any) -> None:
    settings = {"max_gen_toks": 8}
    long = "1+2=" * 200
    kept = long[-(model.max_length - 8) :]
    assert model.generate_until([request(long, settings)], True) == model.generate_until([request(kept, settings)], True)


def test_likelihoods_do_not_depend_on_what_else_is_asked(model: Any) -> None:
    asked = [request("1+2=", "3"), request("1+2=" * 30, "45"), request("", "7"), request("1+2=", "4"), request("1", "+2=3")]
    together = model.loglikelihood(asked, disable_tqdm=True)
    apart = [model.loglikelihood([one], disable_tqdm=True)[0] for one in asked]
    for (value, is_greedy), (expected, was_greedy) in zip(together, apart, strict=True):
        assert value == pytest.approx(expected, abs=1e-5)
        assert is_greedy == was_greedy


def test_a_text_longer_than_the_context_is_scored_in_windows_that_see_each_token_once(model: Any) -> None:
    text = "12+34=" * 100
    assert len(text) > model.max_length
    total = model.loglikelihood_rolling([request(text)], disable_tqdm=True)[0]
    first = model.loglikelihood([request("", text[: model.max_length])], disable_tqdm=True)[0][0]
    assert total < first < 0.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"num_beams": 4}, "num_beams = 4"), ({"max_gen_toks": 100_000}, "max_gen_toks = 100000, but the context holds")],
)
def test_settings_that_would_change_answers_silently_are_refused(model: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        model.generate_until([request("1+2=", settings)], disable_tqdm=True)


def test_an_engine_that_takes_messages_is_refused(checkpoint: Path) -> None:
    from rlvr.evaluation.lm_eval.model import RlvrModel

    with pytest.raises(ConfigError, match="local-chat-completions"):
        RlvrModel(str(checkpoint), engine="openai")


def test_a_wrong_model_argument_is_named(checkpoint: Path) -> None:
    from rlvr.evaluation.lm_eval.model import RlvrModel

    with pytest.raises(ConfigError, match="precision = 'fp7'"):
        RlvrModel(str(checkpoint), precision="fp7")


def test_a_tokenizer_that_begins_every_text_does_so_once() -> None:
    from rlvr.evaluation.lm_eval.model import _added

    class Begins:
        def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [1, *map(ord, text), 2] if add_special_tokens else [*map(ord, text)]}

        def decode(self, ids: list[int], **settings: object) -> str:
            return "<s>"

    assert _added(Begins()) == ([1], "<s>")


@pytest.mark.usefixtures("own_cache")
def test_our_own_results_are_a_table_of_lm_eval(tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lm_eval.utils import make_table

    from rlvr.cli.main import main

    path = tmp_path / "found.lm-eval.json"
    asked = ["eval", str(checkpoint), "--task", "chains", "--problems", "4", "-n", "2", "-k", "1,2", "--max-tokens", "8"]
    assert main([*asked, "--greedy", "--json", "--export", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    results = json.loads(path.read_text())
    assert results["results"]["chains test"]["pass@2,none"] == report["pass@2"]["mean"]
    table = make_table(results)
    assert "chains test" in table
    assert "pass@1" in table
