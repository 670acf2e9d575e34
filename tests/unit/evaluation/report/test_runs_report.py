from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.cli.main import main
from rlvr.errors import ConfigError
from rlvr.evaluation.report.charts import Band, Series
from rlvr.evaluation.report.runs import write_runs_report


def make(folder: Path, seed: int, *, task: str = "sums", after: float = 0.8, steps: int = 5, lr: float = 1e-3) -> str:
    folder.mkdir()
    (folder / "config.toml").write_text(f'model = "base"\ntask = "{task}"\nseed = {seed}\n[optim]\nlr = {lr}\n')
    rows = [{"step": step, "reward_mean": step / 10 + seed / 100} for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = {
        name: {"pass@1": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}}
        for name, mean in (("before", 0.3), ("after", after))
    }
    (folder / "summary.json").write_text(json.dumps(measured))
    return str(folder)


def test_seeds_are_shown_one_by_one_and_as_mean_and_spread(tmp_path: Path) -> None:
    runs = [make(tmp_path / str(seed), seed, after=after) for seed, after in ((0, 0.7), (1, 0.8), (2, 0.9))]
    written = write_runs_report(runs, tmp_path / "page.html")
    page = written.path.read_text()
    assert written.problems == ()
    assert "80.0 ± 10.0 % (3)" in page
    assert "The recipes differ in seed and folder alone." in page
    assert 'class="band"' in page
    assert "<script" not in page


def test_recipes_that_differ_in_more_than_the_seed_are_said_to(tmp_path: Path) -> None:
    runs = [make(tmp_path / "a", 0, lr=1e-3), make(tmp_path / "b", 1, lr=1e-2)]
    assert "differ in more than the seed: optim.lr" in write_runs_report(runs, tmp_path / "page.html").path.read_text()


def test_runs_of_different_tasks_stand_apart(tmp_path: Path) -> None:
    runs = [make(tmp_path / "a", 0), make(tmp_path / "b", 0, task="products")]
    written = write_runs_report(runs, tmp_path / "page.html")
    assert "different tasks (sums, products)" in written.problems[0]
    assert "(2)" not in written.path.read_text()  # no mean over both


def test_a_run_that_cannot_be_opened_is_named_and_the_others_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [make(tmp_path / "a", 0), make(tmp_path / "b", 1), str(tmp_path / "gone")]
    with (tmp_path / "b" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')
    assert main(["report", *runs, "--out", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr()
    assert "gone is not a folder" in printed.err
    assert "damaged lines are left out (6)" in printed.err
    assert printed.out.strip() == str(tmp_path / "page.html")
    with pytest.raises(ConfigError, match="gone is not a folder"):
        write_runs_report([tmp_path / "gone"], tmp_path / "page.html")


def test_a_band_covers_the_steps_that_all_runs_have() -> None:
    band = Band.of([Series((1.0, 2.0, 3.0), (0.0, 1.0, 2.0)), Series((1.0, 2.0), (4.0, 3.0))])
    assert band == Band((1.0, 2.0), (0.0, 1.0), (2.0, 2.0), (4.0, 3.0))
