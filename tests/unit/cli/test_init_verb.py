from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlvr.cli.main import main

ROOT = Path(__file__).parents[3]
NAME = "made_up"


def run(command: Sequence[str], folder: Path, **environment: str) -> str:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A verifier's package as `rlvr init` writes it, installed from its wheel; and the environment that finds it."""
    home = tmp_path_factory.mktemp("init")
    assert main(["init", "verifier", NAME, "--dir", str(home), "--json"]) == 0
    offline = ["--no-deps", "--no-build-isolation", "--quiet"]
    run(["pip", "wheel", *offline, str(home / NAME), "-w", str(home / "wheels")], home)
    (wheel,) = (home / "wheels").glob("rlvr_made_up-0.1.0-*.whl")
    run(["pip", "install", *offline, "--target", str(home / "site"), str(wheel)], home)
    return home, {"PYTHONPATH": str(home / "site")}


def test_init_says_what_it_wrote_and_what_comes_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "verifier", "even_digits", "--dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].endswith("even_digits/README.md")
    assert "rlvr verify --audit even_digits" in shown
    files = {str(path.relative_to(tmp_path / "even_digits")) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "README.md",
        "pyproject.toml",
        "rlvr_even_digits/__init__.py",
        "rlvr_even_digits/golden/even_digits.jsonl",
        "tests/test_even_digits.py",
    }
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and ("$" in path.read_text() or "__name__" in str(path))]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verifier", "Not-A-Name"], "lower-case words"),
        (["verifier", "../up"], "lower-case words"),
        (["verifier", "math"], "already named 'math'"),
        (["task", "chains"], "already named 'chains'"),
    ],
)
def test_names_that_cannot_work_are_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *arguments, "--dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_that_exists_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    assert main(["init", "task", "mine", "--dir", str(tmp_path)]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.processes
def test_its_own_tests_pass(package: tuple[Path, dict[str, str]]) -> None:
    home, environment = package
    assert "1 passed" in run(["pytest", "-q", "-p", "no:cacheprovider", str(home / NAME / "tests")], home, **environment)


@pytest.mark.processes
def test_plugins_lists_it_with_origin_and_version(package: tuple[Path, dict[str, str]]) -> None:
    home, environment = package
    listed = json.loads(run(["rlvr", "plugins", "verifiers", "--json"], home, **environment))
    (row,) = [row for row in listed if row["name"] == NAME]
    assert row["origin"] == "rlvr-made-up 0.1.0"
    assert (row["version"], row["isolated"], row["error"]) == ("1", False, None)
    assert row["settings"] == {"extract": "'auto'", "strict": "False"}
    assert row["doc"].startswith("Correct when the final answer is the gold text")


@pytest.mark.processes
def test_verify_and_audit_use_it(package: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    home, environment = package
    line = {"id": 1, "answer": "red fox", "response": "The answer is a RED fox."}
    (tmp_path / "in.jsonl").write_text(
        json.dumps(line) + "\n" + json.dumps({**line, "response": "<answer>Red Fox</answer>"}) + "\n"
    )
    graded = run(["rlvr", "verify", NAME, str(tmp_path / "in.jsonl")], home, **environment).splitlines()
    assert [json.loads(one)["outcome"] for one in graded] == ["incorrect", "correct"]
    assert "every rule holds" in run(["rlvr", "verify", "--audit", NAME], home, **environment)


@pytest.mark.processes
@pytest.mark.learning
def test_training_uses_it(package: tuple[Path, dict[str, str]], tiny_checkpoint: Path, tmp_path: Path) -> None:
    from rlvr.evaluation.run_folder import open_run

    home, environment = package
    small = ["rollout.problems_per_step=2", "rollout.group_size=2", "eval.problems=0", "optim.lr=1e-4", "steps=2"]
    verifiers = f'verifiers=[{{name="{NAME}", args={{strict=true}}}}]'
    recipe = str(ROOT / "tasks" / "chains" / "quickstart.toml")
    out = tmp_path / "run"
    run(["rlvr", "train", recipe, f"model={tiny_checkpoint}", f"out={out}", *small, verifiers], home, **environment)
    stored = list(open_run(out).rollouts(2))
    assert {tuple(one.rollout.verdicts) for one in stored} == {(NAME,)}
    assert stored[0].provenance["grading"] == {
        NAME: {"reference": f"rlvr_{NAME}:{NAME}", "version": "1", "weight": 1.0, "settings": {"strict": True}}
    }


@pytest.mark.processes
def test_a_task_from_init_validates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "task", "sums", "--dir", str(tmp_path)]) == 0
    folder = str(tmp_path / "sums")
    capsys.readouterr()
    assert main(["tasks", "validate", folder, "--limit", "50", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is True
    assert main(["tasks", "show", folder, "--limit", "2"]) == 0
    assert "What is" in capsys.readouterr().out


@pytest.mark.processes
def test_an_environment_and_a_tool_from_init_pass_their_own_tests_and_are_plugins(tmp_path: Path) -> None:
    offline = ["--no-deps", "--no-build-isolation", "--quiet"]
    made = {"env": "asks_why", "tool": "days_between"}
    for what, name in made.items():
        assert main(["init", what, name, "--dir", str(tmp_path)]) == 0
        run(["pip", "install", *offline, "--target", str(tmp_path / "site"), str(tmp_path / name)], tmp_path)
    environment = {"PYTHONPATH": str(tmp_path / "site")}
    folders = [str(tmp_path / name / "tests") for name in made.values()]
    assert "4 passed" in run(["pytest", "-q", "-p", "no:cacheprovider", *folders], tmp_path, **environment)
    for what, name in made.items():
        listed = json.loads(run(["rlvr", "plugins", f"{what}s", "--check", "--json"], tmp_path, **environment))
        (row,) = [row for row in listed if row["name"] == name]
        assert (row["origin"], row["error"]) == (f"rlvr-{name.replace('_', '-')} 0.1.0", None)
