from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.errors import ConfigError
from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.evaluation.view.files import SAMPLES, open_source
from rlvr.evaluation.view.index import FOLDER, RunIndex
from rlvr.evaluation.view.rows import OUTCOMES, SEARCHED_HEAD
from rlvr.evaluation.view.shard import build_shard, load_shard, needle_of, shard_path

from .conftest import HOSTILE, make_rollout, step_of, write_step


def opened(run: Path) -> RunIndex:
    index = RunIndex(open_source(run))
    index.refresh()
    return index


def test_every_rollout_is_known_newest_step_first(run: Path) -> None:
    snapshot = opened(run).snapshot
    assert snapshot.columns["step"].tolist() == [3] * 5 + [2] * 5 + [1] * 5
    assert snapshot.columns["line"].tolist() == [0, 1, 2, 3, 4] * 3
    assert snapshot.columns["tokens"].tolist()[:5] == [3, 13, 23, 33, 1]
    assert snapshot.columns["calls"].tolist()[:5] == [0, 0, 0, 1, 0]
    assert snapshot.columns["failed_calls"].tolist()[:5] == [0, 0, 0, 1, 0]
    assert snapshot.columns["advantage"].tolist()[::5] == [1.5, 1.0, 0.5]
    assert [OUTCOMES[code] for code in snapshot.columns["outcome"][:5]] == [
        "correct",
        "incorrect",
        "unparsed",
        "partial",
        "unscored",
    ]
    assert [snapshot.problems[number] for number in snapshot.columns["problem"][:5]] == ["task/p9"] * 2 + ["task/p10"] * 3


def test_an_index_is_made_once_and_then_read(run: Path) -> None:
    opened(run)
    made = {path: path.stat().st_mtime_ns for path in (run / FOLDER).iterdir()}
    assert len(made) == 3
    again = opened(run)
    assert {path: path.stat().st_mtime_ns for path in (run / FOLDER).iterdir()} == made
    assert again.snapshot.columns["tokens"].tolist()[:5] == [3, 13, 23, 33, 1]


def test_new_steps_appear_and_steps_that_a_resumed_run_forgot_go(run: Path) -> None:
    index = opened(run)
    write_step(run, 4, [make_rollout("task/p11")])
    (run / "rollouts" / "step-000001.jsonl.gz").unlink()
    index.refresh()
    assert index.snapshot.columns["step"].tolist() == [4] + [3] * 5 + [2] * 5


def test_a_step_that_was_made_again_is_read_again(run: Path) -> None:
    index = opened(run)
    write_step(run, 3, [make_rollout("task/other", text="quite another")])
    index.refresh()
    assert index.snapshot.columns["step"].tolist() == [3] + [2] * 5 + [1] * 5
    assert index.snapshot.shards[0].search(b"quite another").tolist() == [True]


def test_a_damaged_line_is_a_note_and_the_others_are_there(run: Path) -> None:
    path = run / "rollouts" / "step-000002.jsonl.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([lines[0], b'{"problem": 3}\n', b"\xff\xfe not json\n", *lines[1:3]])))
    snapshot = opened(run).snapshot
    assert (snapshot.columns["step"] == 2).sum() == 3
    assert snapshot.columns["line"][5:8].tolist() == [0, 3, 4]
    assert any("step-000002.jsonl.gz: line 2 is damaged" in note for note in snapshot.notes)
    assert any("step-000002.jsonl.gz: line 3 is damaged" in note for note in snapshot.notes)


def test_of_a_file_that_a_crash_cut_off_the_first_rollouts_are_shown(run: Path) -> None:
    path = write_step(run, 3, [make_rollout(text=os.urandom(20_000).hex(), sample=sample) for sample in range(20)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    snapshot = opened(run).snapshot
    kept = int((snapshot.columns["step"] == 3).sum())
    assert 5 <= kept < 20
    assert any(f"after {kept} rollouts the rest cannot be read" in note for note in snapshot.notes)
    assert (snapshot.columns["step"] == 1).sum() == 5


def test_an_empty_and_an_unreadable_file_are_notes_and_the_other_steps_are_there(run: Path) -> None:
    (run / "rollouts" / "step-000003.jsonl.gz").write_bytes(b"this is no gzip")
    (run / "rollouts" / "step-000002.jsonl.gz").write_bytes(b"")
    (run / "rollouts" / "step-000004.jsonl.gz").mkdir()
    (run / "rollouts" / "notes.txt").write_text("not ours")
    snapshot = opened(run).snapshot
    assert snapshot.columns["step"].tolist() == [1] * 5
    assert any(note.startswith("step-000003.jsonl.gz: after 0 rollouts") and "gzip" in note for note in snapshot.notes)
    assert any(note.startswith("step-000004.jsonl.gz:") for note in snapshot.notes)
    assert "step-000002.jsonl.gz: holds no rollouts" in snapshot.notes


def test_a_run_without_rollouts_says_so(run: Path) -> None:
    for path in (run / "rollouts").iterdir():
        path.unlink()
    (run / "rollouts").rmdir()
    snapshot = opened(run).snapshot
    assert len(snapshot) == 0
    assert snapshot.notes == ("no rollouts are stored yet",)


def test_a_folder_that_cannot_be_written_is_indexed_elsewhere(run: Path) -> None:
    (run / FOLDER).write_text("a file where the index would be")
    index = opened(run)
    assert len(index.snapshot) == 15
    temporary = index.snapshot.shards[0].path.parent
    assert temporary.is_dir()
    assert run not in temporary.parents
    index.close()
    assert not temporary.exists()


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"\x80\x81", b'{"format":1,"stamp":[1,2],"rows":3,"problems":[],"notes":[]}\n'])
def test_a_damaged_index_is_made_again(run: Path, damage: bytes) -> None:
    opened(run)
    path = run / FOLDER / "step-000003.index"
    path.write_bytes(damage)
    assert (opened(run).snapshot.columns["step"] == 3).sum() == 5
    assert len(path.read_bytes()) > len(damage)


def test_a_cut_index_is_not_believed(run: Path) -> None:
    (file, *_) = open_source(run).files()
    path = shard_path(run / FOLDER, file)
    build_shard(file, path)
    assert load_shard(file, path) is not None
    path.write_bytes(path.read_bytes()[:-1])
    assert load_shard(file, path) is None


def test_search_finds_text_in_any_case_in_responses_prompts_tools_and_reasons(run: Path) -> None:
    shard = opened(run).snapshot.shards[0]
    assert shard.search(needle_of("it is five")).tolist() == [False, True, False, False, False]
    assert shard.search(needle_of("NO SUCH TOOL")).tolist() == [False, False, False, True, False]
    assert shard.search(needle_of("not 4")).tolist() == [False, True, False, False, False]
    assert shard.search(needle_of("engine died")).tolist() == [False, False, False, False, True]
    assert shard.search(needle_of("what is 2+2")).tolist() == [True] * 5
    assert shard.search(needle_of("task/p9")).tolist() == [True, True, False, False, False]
    assert not shard.search(needle_of("right\nright")).any(), "nothing is found across two rollouts"
    assert not shard.search(needle_of("absent")).any()


def test_of_a_very_long_response_the_start_and_the_end_are_searched(run: Path) -> None:
    text = "begin" + "x" * 2 * SEARCHED_HEAD + "middle" + "x" * 2 * SEARCHED_HEAD + "end!"
    write_step(run, 3, [make_rollout(text=text)])
    shard = opened(run).snapshot.shards[0]
    assert shard.search(b"begin").all()
    assert shard.search(b"end!").all()
    assert not shard.search(b"middle").any()


def test_hostile_text_reaches_the_index_as_printable_text(run: Path) -> None:
    write_step(run, 3, [make_rollout(HOSTILE, text=HOSTILE, prompt=HOSTILE)])
    snapshot = opened(run).snapshot
    (preview,) = snapshot.shards[0].lines([0])
    for text in (preview, snapshot.problems[0]):
        assert "\\x1b" in text or "\\u202e" in text
        assert not {"\x1b", "\x00", "\x9b", "\u202e", "\u200b", "\ud800"} & set(text)
    assert snapshot.shards[0].search(needle_of("\ud800")).tolist() == [True]
    assert snapshot.shards[0].search(needle_of("<SCRIPT>")).tolist() == [True]


def test_an_evaluation_and_a_file_of_rollouts_are_opened_too(tmp_path: Path) -> None:
    rows = [rollout_to_json(one, mode="sample") for one in step_of(1)]
    write_rollouts(tmp_path / "eval" / "samples.jsonl.gz", rows)
    write_rollouts(tmp_path / "plain.jsonl", rows)
    for path in (tmp_path / "eval", tmp_path / "plain.jsonl"):
        snapshot = opened(path).snapshot
        assert snapshot.columns["step"].tolist() == [0] * 5
        assert snapshot.notes == ()


def test_the_file_of_an_evaluation_has_the_name_that_evaluations_give_it() -> None:
    from rlvr.evaluation import evaluate

    assert SAMPLES == evaluate.SAMPLES


def test_a_page_needs_little_more_than_numpy() -> None:
    code = "import sys, rlvr.evaluation.view.server as s; print({m.partition('.')[0] for m in sys.modules} & set(sys.argv[1:]))"
    heavy = ["torch", "transformers", "pyarrow", "datasets", "tokenizers", "starlette", "pydantic"]
    answer = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        open_source(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        open_source(tmp_path / "absent")


def test_a_folder_of_rollouts_that_cannot_be_read_is_a_note(run: Path) -> None:
    shutil.rmtree(run / "rollouts")
    (run / "rollouts").write_text("no folder")
    (note,) = opened(run).snapshot.notes
    assert note.endswith("rollouts cannot be read: Not a directory")


def test_the_thread_reads_the_newest_file_at_once_and_the_others_soon(run: Path) -> None:
    index = RunIndex(open_source(run))
    try:
        index.refresh(at_most=1)
        assert index.snapshot.columns["step"].tolist() == [3] * 5
        assert index.snapshot.files == 3
        index.start()
        for _ in range(200):
            if len(index.snapshot) == 15:
                break
            index._stop.wait(0.02)
        assert len(index.snapshot) == 15
    finally:
        index.close()


def test_a_thread_that_cannot_go_on_says_so(run: Path) -> None:
    class Broken:
        folder = run

        def files(self) -> list[object]:
            raise MemoryError("too many")

        def notes(self) -> list[str]:
            return []

    index = opened(run)
    index.source = Broken()  # type: ignore[assignment]
    index._follow()
    assert index.snapshot.notes == ("new rollouts are not read any more: MemoryError: too many",)
    assert len(index.snapshot) == 15, "what was read stays"
