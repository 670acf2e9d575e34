from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlvr.envs.tasks import load_task
from rlvr.envs.tasks.rows import read_rows
from rlvr.errors import TaskError

Row = dict[str, Any]


def gsm8k_rows(count: int, **extra: Any) -> list[Row]:
    return [{"question": f"What is {i}+1?", "answer": f"<<{i}+1={i + 1}>>{i + 1}\n#### {i + 1:,}", **extra} for i in range(count)]


def write(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(text)
    return path


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLVR_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_rows_are_the_same_from_every_format(data: Path, suffix: str) -> None:
    write(data / "gsm8k" / f"train{suffix}", gsm8k_rows(5))
    problems = load_task("gsm8k").problems("train")
    assert [problem.answer for problem in problems] == ["1", "2", "3", "4", "5"]
    assert [problem.id for problem in problems][:2] == ["gsm8k/train/00000", "gsm8k/train/00001"]
    assert problems[0].prompt[-1].content.startswith("What is 0+1?\n\n")


def test_folder_of_splits_keeps_them_apart(data: Path) -> None:
    write(data / "gsm8k" / "train.jsonl", gsm8k_rows(5))
    write(data / "gsm8k" / "test.jsonl", gsm8k_rows(2))
    task = load_task("gsm8k")
    assert (len(task.problems("train")), len(task.problems("test"))) == (5, 2)
    assert task.notes == ()


def test_file_that_labels_its_rows_is_divided_by_the_labels(data: Path) -> None:
    write(data / "gsm8k.jsonl", gsm8k_rows(6, split="train") + gsm8k_rows(3, meta={"split": "test"}))
    task = load_task("gsm8k")
    assert (len(task.problems("train")), len(task.problems("test"))) == (6, 3)
    assert task.notes == ()


@pytest.mark.parametrize("extra", [{}, {"split": "train"}, {"split": "challenge"}])
def test_missing_test_split_is_held_out_of_train_and_said(data: Path, extra: Row) -> None:
    write(data / "gsm8k.jsonl", gsm8k_rows(400, **extra))
    task = load_task("gsm8k")
    train, test = ({problem.id for problem in task.problems(split)} for split in ("train", "test"))
    assert not train & test
    assert len(train) + len(test) == 400
    assert 20 <= len(test) <= 60
    assert len(task.notes) == 1
    assert f"{len(test)} of its 400 training rows" in task.notes[0]


def test_held_out_rows_stay_the_same_when_rows_are_added(data: Path) -> None:
    rows = [{"id": f"row-{i}", **row} for i, row in enumerate(gsm8k_rows(200))]
    write(data / "gsm8k.jsonl", rows[:100])
    before = {problem.id for problem in load_task("gsm8k").problems("test")}
    write(data / "gsm8k.jsonl", rows[::-1])
    after = {problem.id for problem in load_task("gsm8k").problems("test")}
    assert before <= after


def test_evaluation_set_takes_every_row_of_an_unlabelled_file(data: Path) -> None:
    write(data / "aime.jsonl", [{"problem": "1+1?", "answer": "002"}, {"prompt": "2+1?", "answer": 3}])
    task = load_task("aime")
    assert [problem.answer for problem in task.problems("test")] == ["2", "3"]
    with pytest.raises(TaskError, match=r"has no rows of split '2024'"):
        task.problems("2024")


@pytest.mark.parametrize(
    "row", [{"question": "1+1?", "answer": ""}, {"question": "1+1?"}, {"question": "1+1?", "answer": "so 2\n####"}]
)
def test_row_without_an_answer_names_task_split_and_row(data: Path, row: Row) -> None:
    write(data / "gsm8k" / "train.jsonl", [*gsm8k_rows(2), row])
    with pytest.raises(TaskError, match=r"task gsm8k, split train, row gsm8k/train/00002: there is no answer"):
        load_task("gsm8k").problems("train")


def test_row_without_a_question_is_an_error(data: Path) -> None:
    write(data / "gsm8k" / "train.jsonl", [{"answer": "#### 3"}])
    with pytest.raises(TaskError, match=r"row gsm8k/train/00000: the prompt is empty"):
        load_task("gsm8k").problems("train")


def test_row_that_the_adapter_cannot_read_names_the_cause(data: Path) -> None:
    write(data / "aime.jsonl", [{"problem": "1+1?", "answer": "two"}])
    with pytest.raises(TaskError, match=r"task aime, split test, row aime/00000 cannot be read: ValueError"):
        load_task("aime").problems("test")


def test_nothing_found_says_where_it_was_looked_for_and_what_to_do(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        TaskError, match=r"gsm8k, split test: no data. RLVR_DATA \(.*\) has neither gsm8k/test.*openai/gsm8k.*ConnectionError"
    ):
        load_task("gsm8k").problems("test")
    monkeypatch.delenv("RLVR_DATA")
    with pytest.raises(TaskError, match=r"RLVR_DATA is not set"):
        load_task("gsm8k").problems("test")


def test_data_folder_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLVR_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(TaskError, match=r"RLVR_DATA = '.*nowhere' is not a folder"):
        load_task("gsm8k").problems("train")


def test_hub_rows_are_read_when_no_file_is_there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(path: str, name: str | None, *, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        return datasets.Dataset.from_list(gsm8k_rows(3))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    problems = load_task("gsm8k").problems("test")
    assert asked == [("openai/gsm8k", "main", "test")]
    assert [problem.id for problem in problems] == [f"gsm8k/test/0000{i}" for i in range(3)]


def test_demonstration_beyond_the_last_row_is_an_error(data: Path) -> None:
    write(data / "gsm8k" / "train.jsonl", gsm8k_rows(2))
    with pytest.raises(TaskError, match=r"problem 2 was asked for, but there are 2"):
        load_task("gsm8k").demonstration("train", 2, 0)


def test_plain_file_is_a_task_with_text_or_message_prompts(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    path = write(tmp_path / "mine.jsonl", [{"id": "a", "prompt": "1+1?", "answer": 2}, {"prompt": messages, "answer": "4"}])
    problems = load_task(str(path)).problems("all")
    assert [problem.id for problem in problems] == ["a", "mine/00001"]
    assert [message.content for message in problems[1].prompt] == ["Be brief.", "2+2?"]
    assert [verifier.name for verifier in load_task(str(path)).verifiers] == ["math"]


def test_plain_file_holds_out_a_tenth_and_all_is_everything(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", [{"prompt": f"{i}?", "answer": i} for i in range(300)])
    task = load_task(str(path))
    assert len(task.problems("train")) + len(task.problems("test")) == len(task.problems("all")) == 300


def test_plain_file_takes_no_arguments(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no arguments, but 'level' was given"):
        load_task(str(tmp_path / "mine.jsonl"), {"level": 3})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": 1}\n{"prompt": ', r"line 2: not JSON"),
        ('{"a": 1}\n\n[1]\n', r"line 3: a JSON object is needed"),
        ("", r"has no rows"),
    ],
)
def test_damaged_file_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(TaskError, match=message):
        read_rows(path)


def test_line_separators_inside_text_do_not_split_rows(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "a\u2028b\x85c", "answer": "1"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [row["prompt"] for row in read_rows(path)] == ["a\u2028b\x85c"]


@pytest.mark.parametrize("name", ["mine.jsonl.gz", "mine.parquet"])
def test_damaged_archive_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not what it says")
    with pytest.raises(TaskError, match=f"{name} cannot be read"):
        read_rows(tmp_path / name)


def test_missing_file_is_an_error() -> None:
    with pytest.raises(TaskError, match=r"nowhere.jsonl does not exist"):
        load_task("nowhere.jsonl").problems("all")


def test_prompt_that_is_neither_text_nor_messages_is_an_error(tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = [{"prompt": 5, "answer": 1}]
    path = write(tmp_path / "mine.jsonl", [dict(row) for row in rows])
    with pytest.raises(TaskError, match=r"row mine/00000 cannot be read: TypeError: prompt must be text"):
        load_task(str(path)).problems("all")
