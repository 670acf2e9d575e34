"""`rlvr verify` on many lines: on several cores, in constant memory, and after any interruption."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.cli import verify
from rlvr.cli.main import main

PLUGINS = Path(__file__).parents[1] / "verifiers" / "plugins" / "misbehaving.py"
MEASURED = """
import resource, sys
from rlvr.cli.main import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def write(path: Path, count: int) -> str:
    """`count` lines; every seventh is wrong."""
    with path.open("w") as file:
        for i in range(count):
            file.write(json.dumps({"id": i, "answer": str(i), "response": f"<answer>{i + (i % 7 == 0)}</answer>"}) + "\n")
    return str(path)


def outcomes(text: str) -> list[tuple[Any, str]]:
    return [(row["id"], row["outcome"]) for row in map(json.loads, text.splitlines())]


def expected(count: int) -> list[tuple[int, str]]:
    return [(i, "incorrect" if i % 7 == 0 else "correct") for i in range(count)]


def stored(path: Path) -> list[tuple[Any, str]]:
    return outcomes(path.read_text())


@pytest.fixture
def on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "ALONE_CPU_S", 0.0)


@pytest.mark.processes
@pytest.mark.usefixtures("on_all_cores")
def test_chunks_on_several_cores_come_back_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "in.jsonl", 3_210)
    assert main(["verify", "number", file, "--workers", "2"]) == 0
    assert outcomes(capsys.readouterr().out) == expected(3_210)


@pytest.mark.processes
@pytest.mark.usefixtures("on_all_cores")
def test_a_bad_line_in_a_chunk_is_named_after_the_good_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "in.jsonl"
    write(file, 700)
    with file.open("a") as more:
        more.write('\n{"id": 700}\n')
    assert main(["verify", "number", str(file), "--workers", "2"]) == 2
    captured = capsys.readouterr()
    assert outcomes(captured.out) == expected(700)
    assert "in.jsonl:702 has no 'answer'" in captured.err


@pytest.mark.processes
@pytest.mark.usefixtures("on_all_cores")
def test_a_verifier_that_is_not_as_safe_as_it_says_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "unsafe.py"
    plugin.write_text(
        "import os\nfrom rlvr import verifier\n\n@verifier('unsafe', isolated=False)\n"
        "def unsafe(problem, rollout):\n    os._exit(3)\n"
    )
    assert main(["verify", f"{plugin}:unsafe", write(tmp_path / "in.jsonl", 3), "--workers", "2"]) == 3
    said = capsys.readouterr().err
    assert "verifier 'unsafe': its worker exited with status 3" in said
    assert "declared isolated=False, and must not be" in said


@pytest.mark.processes
def test_memory_does_not_grow_with_the_number_of_lines(tmp_path: Path) -> None:
    peaks = []
    for count in (5_000, 200_000):
        file = write(tmp_path / f"{count}.jsonl", count)
        out = tmp_path / f"{count}.out"
        command = [sys.executable, "-c", MEASURED, "verify", "number", file, "--out", str(out), "--workers", "2"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stderr.splitlines()[-1]))
        with out.open() as lines:
            assert sum(1 for _ in lines) == count
    assert peaks[1] < peaks[0] + 20_000  # kilobytes; forty times the lines


def test_an_output_file_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    assert main(["verify", "number", file, "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"5 graded (1 incorrect, 4 correct) in {out}\n"
    assert main(["verify", "number", file, "--out", str(out)]) == 2
    assert "exists; continue it with --resume" in capsys.readouterr().err
    assert stored(out) == expected(5)


@pytest.mark.parametrize("cut", [0, 1, 60, 400])
def test_a_torn_file_is_continued_after_its_last_whole_line(cut: int, tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", 30), tmp_path / "out.jsonl"
    assert main(["verify", "number", file, "--out", str(out)]) == 0
    whole = out.read_bytes()
    out.write_bytes(whole[: len(whole) - cut])
    assert main(["verify", "number", file, "--out", str(out), "--resume"]) == 0
    assert stored(out) == expected(30)


def test_resume_begins_a_file_that_is_not_there(tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", 4), tmp_path / "out.jsonl"
    assert main(["verify", "number", file, "--out", str(out), "--resume"]) == 0
    assert stored(out) == expected(4)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["exact", "IN"], "verifier"), (["number", "IN", "--set", "strict=true"], "settings"), (["number", "OTHER"], "input")],
)
def test_another_verifier_setting_or_input_is_refused(
    arguments: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"IN": write(tmp_path / "in.jsonl", 5), "OTHER": write(tmp_path / "other.jsonl", 6)}
    out = tmp_path / "out.jsonl"
    assert main(["verify", "number", places["IN"], "--out", str(out)]) == 0
    assert main(["verify", *(places.get(a, a) for a in arguments), "--out", str(out), "--resume"]) == 2
    assert re.search(f"cannot be resumed: it was written with {word} = ", capsys.readouterr().err)


def test_a_file_that_holds_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = write(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    out.write_text("my notes\n")
    assert main(["verify", "number", file, "--out", str(out), "--resume"]) == 2
    assert "does not say what it holds" in capsys.readouterr().err
    assert out.read_text() == "my notes\n"
    assert main(["verify", "number", file, "--resume"]) == 2
    assert "with --out FILE" in capsys.readouterr().err


@pytest.mark.processes
def test_a_killed_run_is_continued_and_grades_every_line_once(tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", 60_000), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "rlvr", "verify", "number", file, "--out", str(out), "--resume", "--workers", "2"]
    for _ in range(20):  # until the second kill comes before the end, too
        out.unlink(missing_ok=True)
        for size in (10_000, 1_000_000):
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as run:
                while run.poll() is None and (not out.exists() or out.stat().st_size < size):
                    os.sched_yield()
                run.send_signal(signal.SIGKILL)
        assert out.stat().st_size >= 10_000
        if len(out.read_text().splitlines()) < 60_000:
            break
    assert len(out.read_text().splitlines()) < 60_000
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert stored(out) == expected(60_000)


@pytest.mark.processes
def test_progress_is_on_standard_error_and_verdicts_alone_on_standard_output(tmp_path: Path) -> None:
    import pty

    file = write(tmp_path / "in.jsonl", 50)
    mine, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "rlvr", "verify", "number", file], stdout=subprocess.PIPE, stderr=theirs, text=True
    ) as run:
        os.close(theirs)
        out, _ = run.communicate()
        shown = os.read(mine, 65_536).decode()
    os.close(mine)
    assert outcomes(out) == expected(50)
    assert "50 graded" in shown
    assert "8 incorrect" in shown


@pytest.mark.processes
def test_ctrl_c_ends_it_at_once_and_leaves_no_worker_behind(tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", 5), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "rlvr", "verify", "math", "-"]
    # Started by a background job, the tests inherit an ignored SIGINT, and so would the run.
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with (
        Path(file).open() as lines,
        out.open("w") as answers,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=answers, stderr=subprocess.PIPE, text=True, preexec_fn=listening
        ) as run,
    ):
        assert run.stdin is not None
        assert run.stderr is not None
        run.stdin.write(lines.read() + json.dumps({"id": 5, "answer": "\\int_0^1 x dx", "response": "\\boxed{1/2}"}) + "\n")
        run.stdin.flush()
        while out.read_text().count("\n") < 6:
            assert run.poll() is None
            os.sched_yield()
        workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 130
        assert run.stderr.read().strip() == "interrupted"
    assert workers
    assert not any(os.path.exists(f"/proc/{worker}") for worker in workers)
