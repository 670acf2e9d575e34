from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr.errors import ConfigError
from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.evaluation.report.run import write_report
from rlvr.evaluation.report.samples import kind_of
from rlvr.evaluation.run_folder import open_run
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Stop, Turn, Verdict

HOSTILE = "<script>alert(1)</script><img src=http://evil.example/x> \x1b[2J \u202e</pre>"


def rollout(verdict: Verdict, text: str = "4", stop: Stop = Stop.STOP, id: str = "p1") -> Rollout:
    turn = Turn((1,), Completion((5, 6), (-0.1, -0.2), FinishReason.STOP), Message("assistant", text))
    return Rollout(Problem(id, (Message("user", "2+2?"),), "4"), 0, [turn], stop, {"exact": verdict}, reward=verdict.score)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of 40 steps with a hostile rollout."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.toml").write_text('model = "base"\ntask = "sums"\nsteps = 40\nseed = 3\n[algorithm]\nname = "grpo"\n')
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "note": HOSTILE}))
    rows = [
        {"step": step, "reward_mean": step / 40, "unscored_share": 0.0, "odd": step % 2, "epoch": None} for step in range(1, 41)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    measured = {"pass@1": {"mean": 0.3, "low": 0.2, "high": 0.4}, "tokens": {"mean": 20.0, "low": 19.0, "high": 21.0}}
    better = {"pass@1": {"mean": 0.9, "low": 0.8, "high": 1.0}, "tokens": {"mean": 18.0, "low": 17.0, "high": 19.0}}
    gain = {"pass@1": {"mean": 0.6, "low": 0.5, "high": 0.7}}
    summary = {"before": measured, "after": better, "gain": gain, "wall_time_s": 252.0}
    (folder / "summary.json").write_text(json.dumps(summary))
    for step in (1, 40):
        rollouts = [
            rollout(Verdict.incorrect("5", "not 4"), HOSTILE, id=HOSTILE),
            rollout(Verdict.correct("4")),
            rollout(Verdict.unparsed("cut off"), "x" * 7000, Stop.LENGTH),
        ]
        rows_ = [rollout_to_json(one, step=step, advantage=0.5) for one in rollouts]
        write_rollouts(folder / "rollouts" / f"step-{step:06d}.jsonl.gz", rows_)
    return folder


class Tags(HTMLParser):
    """Checks that tags are balanced, and keeps which there were."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_the_report_shows_the_gain_the_curves_and_the_rollouts(run: Path) -> None:
    page = write_report(run).path.read_text(encoding="utf-8")
    tags = parsed(page)
    assert "30.0 % →</span> 90.0 %" in page
    assert "+60.0" in page
    assert "4 min 12 s" in page
    assert "grpo · 40 of 40 steps · seed 3" in page
    assert "Reward" in page
    assert "All other metrics (1)" in page  # `odd`; nulls are no metric
    assert sum(tag == "article" for tag, _ in tags.seen) == 6
    assert "1,000 more characters" in page


def test_nothing_in_the_report_can_run_or_be_fetched(run: Path) -> None:
    page = write_report(run).path.read_text(encoding="utf-8")
    tags = parsed(page)
    assert not {tag for tag, _ in tags.seen} & {"script", "img", "link", "iframe", "object", "a", "form"}
    assert not any(name.startswith("on") or name in ("src", "href") for _, attrs in tags.seen for name in attrs)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "default-src 'none'" in page


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('model = "base"\ntask = "sums"\n')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    page = write_report(tmp_path).path.read_text(encoding="utf-8")
    parsed(page)
    assert "Loss" in page
    assert "Before and after" not in page


def test_three_held_out_measurements_make_a_curve(run: Path) -> None:
    (run / "evaluations").mkdir()
    for step, mean in ((0, 0.3), (20, 0.6), (40, 0.9)):
        content = {"held-out": {"pass@1": {"mean": mean}}, "harder": {"pass@1": {"mean": 0.0}}}
        (run / "evaluations" / f"step-{step:06d}.json").write_text(json.dumps(content))
    assert "Held-out pass@1" in write_report(run).path.read_text(encoding="utf-8")


def test_writing_again_replaces_the_report_whole(run: Path) -> None:
    first = write_report(run).path.read_bytes()
    assert write_report(run).path.read_bytes() == first
    assert not list(run.glob("*.tmp"))


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(ConfigError, match="not a folder"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content"),
    [("metrics.jsonl", "{}\nnonsense\n{}\n"), ("summary.json", "[1]"), ("summary.json", "{"), ("config.toml", "= 1")],
)
def test_damaged_files_are_named_and_the_rest_is_shown(run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    written = write_report(run)
    (problem,) = written.problems
    page = written.path.read_text()
    assert name in problem
    assert "the rest is shown" in page
    assert "Sample rollouts" in page


def test_a_damaged_file_of_rollouts_leaves_the_curves(run: Path) -> None:
    file = run / "rollouts" / "step-000040.jsonl.gz"
    file.write_bytes(file.read_bytes()[:40])
    written = write_report(run)
    assert len(written.problems) == 1  # said once, however often it is looked at
    assert "step-000040" in written.problems[0]
    page = written.path.read_text()
    assert "Over the run" in page
    assert "<h3>Step 1</h3>" in page  # the newest step that can be read


def test_half_a_line_leaves_the_other_steps(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 41, "rewa')
    written = write_report(run)
    assert "damaged lines are left out (41)" in written.problems[0]
    assert "40 of 40 steps" in written.path.read_text()


def test_steps_and_their_rollouts_are_found(run: Path) -> None:
    (run / "rollouts" / "step-000041.jsonl.gz.tmp").write_bytes(b"half")
    folder = open_run(run)
    assert folder.steps() == [1, 40]
    assert [stored.provenance["step"] for stored in folder.rollouts(40)] == [40, 40, 40]
    with pytest.raises(ConfigError, match=r"step = 7, but .* holds steps 1, 40"):
        folder.rollouts(7)


def test_the_kind_of_a_rollout_says_what_matters_most() -> None:
    assert kind_of(rollout(Verdict.correct(), stop=Stop.LENGTH)) == "correct"
    assert kind_of(rollout(Verdict.incorrect(), stop=Stop.LENGTH)) == "truncated"
    assert kind_of(rollout(Verdict.error("hung"))) == "unscored"
    assert kind_of(rollout(Verdict.partial(0.5))) == "partial"


def test_the_difficulty_of_the_problems_is_drawn_where_the_run_knows_it(run: Path) -> None:
    assert "Difficulty" not in write_report(run).path.read_text()
    pq.write_table(pa.table({"id": ["a", "b", "c"], "mean": [0.03, 0.5, 0.97]}), run / "solve_rates.parquet")
    page = write_report(run).path.read_text()
    assert "Difficulty at the end" in page
    heights = [float(height) for height in re.findall(r'class="bar" .*?height="([0-9.]+)"', page)]
    assert [height > 0 for height in heights] == [True, *[False] * 4, True, *[False] * 3, True]


def test_a_damaged_file_of_solve_rates_is_named(run: Path) -> None:
    (run / "solve_rates.parquet").write_bytes(b"PAR1")
    assert "solve_rates.parquet cannot be read" in write_report(run).problems[0]
