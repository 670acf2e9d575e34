from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from rlvr.cli.main import main
from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Stop, Turn, Verdict


@pytest.fixture
def run(tmp_path: Path) -> Path:
    turn = Turn((1,), Completion((5,), (-0.1,), FinishReason.STOP), Message("assistant", "4"))
    one = Rollout(Problem("a", (Message("user", "2+2?"),), 4), 0, [turn], Stop.STOP, {"exact": Verdict.correct("4")}, 1.0)
    write_rollouts(tmp_path / "rollouts" / "step-000001.jsonl.gz", [rollout_to_json(one, step=1)])
    return tmp_path


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_until_the_command_is_ended(run: Path, end: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "rlvr",
        "view",
        str(run),
        "--web",
        "--no-browser",
        "--json",
        "--step",
        "1",
        "--problem",
        "a b",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url, _, fragment = json.loads(process.stdout.readline())["url"].partition("#")
        assert url.startswith("http://127.0.0.1:")
        assert fragment == "/rollouts?step=1&problem=a+b"
        with urllib.request.urlopen(f"{url}api/state", timeout=60) as reply:
            assert json.load(reply)["runs"][0]["rollouts"] == 1
        process.send_signal(end)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "Ctrl-C ends it" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--port", "8400"], "--port belongs to the web page; add --web"),
        (["--against", "other", "--no-browser"], "--against, --no-browser belongs to the web page"),
        (["--web", "--limit", "3"], "--limit belongs to what is printed"),
        (["--web", "--solve-rates"], "--solve-rates belongs to what is printed"),
        (["--web", "--against", "absent"], "absent is not a folder"),
        (["--web", "--port", "70000"], "ports are 0 (a free one) to 65535"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    run: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(run), *options]) == 2
    assert said in capsys.readouterr().err
