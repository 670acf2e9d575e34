"""`rlvr explain curriculum=...`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.cli.main import main
from rlvr.filtering.pass_rates import FORMAT


def test_it_says_in_words_and_numbers_what_will_be_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "curriculum=window", "task=chains", "data.problems=30", "curriculum.low=0.3"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "curriculum window" in text
    assert "between 30% and 80%" in text
    assert "0 of 30 problems of chains were sampled before; the 30 are believed 50 %, with nothing known" in text


def test_the_same_as_json_with_what_a_filter_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rlvr.envs.tasks import load_task

    ids = [problem.id for problem in load_task("chains", {}).problems("train", limit=4)]
    rows = [
        {"id": id, "n": 8, "correct": correct, "unscored": 0, "mean_tokens": 5.0, "verdicts": {}}
        for id, correct in zip(ids, (0, 8, 4, 4), strict=True)
    ]
    header = {"format": FORMAT, "settings": {"task": "chains", "n": 8}, "keep": "0:1", "epsilon": None}
    file = tmp_path / "rates.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [header, *rows]))
    words = ["curriculum=window", "task=chains", "data.problems=4", f"data.pass_rates={file}", "rollout.group_size=8"]
    assert main(["explain", *words, "data.keep=[0.0, 1.0]", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["problems"], found["known"], found["group_size"]) == (4, 4, 8)
    assert found["signal"][0] > found["signal_uniform"]
    assert found["bins"][2]["shares"][0] > 0.9


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["curriculum=windo", "task=chains"], "did you mean 'window'"),
        (["curriculum=window"], "task is missing"),
        (["curriculum=window", "task=chains", "curriculum.lo=1"], "lo"),
        (["curriculum=window", "a.toml", "b.toml"], "a.toml and b.toml are both taken for recipes"),
    ],
)
def test_wrong_words_are_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
