"""What lm-eval wrote, read without lm-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.cli.main import main
from rlvr.errors import ConfigError
from rlvr.evaluation.evaluations import load_all, load_evaluations
from rlvr.evaluation.lm_eval.samples import is_samples_file, read_samples

DATE = "2026-01-02T03-04-05.678901"


def line(number: int, response: str, value: float, *, name: str = "none", metric: str = "exact_match", **more: Any) -> str:
    """As `lm-eval --log_samples` writes it."""
    row = {
        "doc_id": number,
        "doc": {"question": f"{number}+0=", "answer": f"so it is {number}\n#### {number}"},
        "target": f"so it is {number}\n#### {number}",
        "arguments": {"gen_args_0": {"arg_0": f"{number}+0=", "arg_1": {"until": ["\n"], "temperature": 0.0}}},
        "resps": [[response]],
        "filtered_resps": [response],
        "filter": name,
        "metrics": [metric],
        "doc_hash": f"{number:064x}",
        "prompt_hash": "",
        "target_hash": "",
        metric: value,
        **more,
    }
    return json.dumps(row) + "\n"


def written(folder: Path, lines: list[str], task: str = "gsm8k", date: str = DATE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"samples_{task}_{date}.jsonl"
    path.write_text("".join(lines))
    return path


def test_two_models_are_compared_by_paired_tests_on_the_documents_that_both_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "base" / "m", [line(i, "no", 0.0) for i in range(20)])
    written(tmp_path / "rl" / "m", [line(i, "yes", 1.0) for i in range(1, 21)])
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "rl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["label"] for one in found["evaluations"]] == ["base", "rl"]
    (tested,) = found["comparisons"]
    assert tested["difference"]["mean"] == 1.0
    assert "rl is better than base" in tested["sentence"]
    assert any("share 19 problems; 2 that only one has" in note for note in found["notes"])
    assert not found["at_equal_tokens"]  # lm-eval keeps no tokens
    assert set(found["evaluations"][0]["estimates"]) == {"pass@1", "unscored"}


def test_every_filter_is_a_measurement_of_its_own(tmp_path: Path) -> None:
    lines = [line(i, "7", float(i < 2), name="strict") for i in range(4)] + [line(i, "7", 1.0, name="flexible") for i in range(4)]
    found = load_evaluations(written(tmp_path / "m", lines))
    assert [(one.label, one.task) for one in found] == [
        ("m gsm8k strict", "gsm8k strict"),
        ("m gsm8k flexible", "gsm8k flexible"),
    ]
    assert [sum(s.is_correct for group in one.samples.values() for s in group) for one in found] == [2, 4]


def test_documents_of_one_number_but_another_content_are_not_paired(tmp_path: Path) -> None:
    one = load_evaluations(written(tmp_path / "a", [line(0, "7", 1.0)]))[0]
    other = load_evaluations(written(tmp_path / "b", [line(0, "7", 1.0, doc_hash="f" * 64)]))[0]
    assert not set(one.samples) & set(other.samples)


def test_the_newest_file_of_a_task_counts_and_the_results_beside_it_name_the_model(tmp_path: Path) -> None:
    written(tmp_path, [line(0, "7", 0.0)], date="2025-01-01T00-00-00.000000")
    written(tmp_path, [line(0, "7", 1.0)])
    (tmp_path / f"results_{DATE}.json").write_text(json.dumps({"model_name": "org/model", "lm_eval_version": "0.4.13"}))
    (found,) = load_evaluations(tmp_path)
    assert found.samples["gsm8k/0-000000000000"][0].is_correct
    assert found.about["model"] == "org/model"
    assert found.about["sampling"] == {"until": ["\n"], "temperature": 0.0}


def test_a_task_without_right_and_wrong_is_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    written(tmp_path, [line(0, "7", 0.4, metric="bleu")], task="poems")
    written(tmp_path, [line(0, "7", 1.0)])
    (found,) = load_evaluations(tmp_path)
    assert found.label == f"{tmp_path.name} gsm8k"
    assert any("no metric is 0 or 1 for every document (it has bleu)" in note for note in found.notes)
    with pytest.raises(ConfigError, match="bleu"):
        load_evaluations(tmp_path / f"samples_poems_{DATE}.jsonl")


def test_damaged_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, [line(0, "7", 1.0), '{"doc_id": 1\n', line(2, "7", 1.0)[:40]])
    (found,) = load_evaluations(path)
    assert len(found.samples) == 1
    assert "1 damaged lines were left out" in found.notes[0]


def test_of_a_choice_the_likeliest_answer_is_what_was_said(tmp_path: Path) -> None:
    pairs = [["-3.0", "False"], ["-1.5", "True"]]
    arguments = {f"gen_args_{i}": {"arg_0": "2+2=", "arg_1": text} for i, text in enumerate((" 5", " 4"))}
    row = line(0, "", 1.0, metric="acc", resps=[[one] for one in pairs], filtered_resps=pairs, arguments=arguments)
    (graded,) = read_samples(written(tmp_path, [row])).graded()
    assert graded.rollouts[0].response == " 4"
    assert graded.rollouts[0].is_correct


def test_every_repeat_is_graded_again_by_our_verifiers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line(i, "", 0.0, resps=[[f"<answer>{i}</answer>", "<answer>99</answer>"]], filtered_resps=["?"]) for i in range(3)]
    path = written(tmp_path, [*lines, *(line(i, "?", 0.0, name="other") for i in range(3))])
    out = tmp_path / "again.jsonl"
    assert main(["rescore", str(path), "--verifier", "number", "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rollouts"] == 6
    assert {(one["before"], one["after"]): one["count"] for one in report["transitions"]} == {
        ("verifier_error", "correct"): 3,
        ("verifier_error", "incorrect"): 3,
    }
    (again,) = load_evaluations(out)
    assert again.n == 2
    assert [[sample.is_correct for sample in group] for group in again.samples.values()] == [[True, False]] * 3


def test_what_is_no_file_of_lm_eval_is_not_taken_for_one(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"problem": {}}\n')
    assert not is_samples_file(other)
    assert not is_samples_file(tmp_path)
    with pytest.raises(ConfigError, match="--log_samples"):
        read_samples(other)


def test_places_that_are_called_alike_get_their_folder_in_front(tmp_path: Path) -> None:
    for name in ("first", "second"):
        written(tmp_path / name / "run", [line(0, "7", 1.0)])
    loaded = load_all([tmp_path / "first" / "run", tmp_path / "second" / "run", tmp_path / "third"])
    assert [one.label for one in loaded.evaluations] == ["first/run", "second/run"]
    assert "third does not exist" in loaded.failures[0]
