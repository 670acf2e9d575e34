from __future__ import annotations

import asyncio
import gc
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlvr.errors import ConfigError, PluginError, VerifierError
from rlvr.types import Completion, FinishReason, Message, Outcome, Problem, Rollout, Stop, Turn, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.call import MAX_RESPONSE_CHARS
from rlvr.verifiers.runner import Grader, WeightedVerifier

PLUGINS = Path(__file__).parent / "plugins" / "misbehaving.py"
MISBEHAVING = f"{PLUGINS}:misbehaving"
MIRROR = f"{PLUGINS}:mirror"
INLINE = f"{PLUGINS}:inline"

pytestmark = pytest.mark.processes


def rollout(response: str) -> Rollout:
    return Rollout.from_response(Problem("p", (Message("user", "?"),), "5"), response)


def grade(
    responses: Sequence[str], *verifiers: WeightedVerifier, timeout_s: float = 5.0, workers: int = 2, **limits: int
) -> list[Rollout]:
    rollouts = [rollout(response) for response in responses]

    async def run() -> None:
        async with Grader(verifiers, timeout_s=timeout_s, workers=workers, **limits) as grader, asyncio.TaskGroup() as group:
            for item in rollouts:
                group.create_task(grader.grade(item))

    asyncio.run(run())
    return rollouts


def misbehave(*commands: str, timeout_s: float = 5.0, workers: int = 2, **settings: str) -> list[Verdict]:
    graded = grade(commands, WeightedVerifier(MISBEHAVING, 1.0, settings), timeout_s=timeout_s, workers=workers)
    return [item.verdicts["misbehaving"] for item in graded]


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def assert_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.002)


def test_reward_is_the_weighted_sum_and_its_parts_add_up() -> None:
    weights = (WeightedVerifier(INLINE, 1.0), WeightedVerifier(INLINE, 0.1, {"score": 0.5}), WeightedVerifier("number", -0.5))
    (graded,) = grade(["5"], *weights)
    assert list(graded.verdicts) == ["inline", "inline#2", "number"]
    assert graded.reward == pytest.approx(1.0 + 0.05 - 0.5)
    breakdown = Grader(weights).breakdown(graded)
    assert breakdown == {"inline": 1.0, "inline#2": 0.05, "number": -0.5}
    assert sum(share for share in breakdown.values() if share is not None) == pytest.approx(graded.reward)


def test_a_failing_verifier_leaves_no_reward_and_its_cause() -> None:
    (graded,) = grade(["raise"], WeightedVerifier(INLINE), WeightedVerifier("number", 0.5))
    assert graded.reward is None
    assert graded.verdicts["inline"].score is None
    assert "ValueError: no such thing" in graded.verdicts["inline"].reason


def test_a_monitor_of_weight_0_does_not_cost_the_reward() -> None:
    (graded,) = grade(["raise"], WeightedVerifier(INLINE, 0.0), WeightedVerifier("exact", 1.0))
    assert graded.verdicts["inline"].outcome is Outcome.VERIFIER_ERROR
    assert graded.reward == 0.0


def test_a_failed_rollout_is_not_scored() -> None:
    failed = rollout("5")
    failed.error = "engine died"

    async def run() -> None:
        async with Grader([WeightedVerifier("number")]) as grader:
            await grader.grade(failed)

    asyncio.run(run())
    assert failed.reward is None
    assert failed.verdicts["number"].outcome is Outcome.VERIFIER_ERROR
    assert "engine died" in failed.verdicts["number"].reason


def test_provenance_names_version_reference_and_settings() -> None:
    grader = Grader([WeightedVerifier(INLINE, 0.5, {"score": 0.25})])
    assert grader.provenance() == {"inline": {"reference": INLINE, "version": "7", "weight": 0.5, "settings": {"score": 0.25}}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scroe": 1.0}, ["inline", "'scroe'", "did you mean 'score'"]),
        ({"score": "high"}, ["inline", "score", "'high'", "number"]),
    ],
)
def test_wrong_settings_are_named_before_anything_is_graded(settings: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        Grader([WeightedVerifier(INLINE, 1.0, settings)])
    assert all(word in str(raised.value) for word in words)


def test_wrong_limits_and_weights_are_refused() -> None:
    for limits in ({"workers": 0}, {"timeout_s": 0.0}, {"timeout_s": math.inf}, {"retries": -1}, {"memory_mb": 1}):
        with pytest.raises(ConfigError, match=next(iter(limits))):
            Grader([WeightedVerifier("number")], **limits)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="weight nan"):
        Grader([WeightedVerifier("number", math.nan)])
    with pytest.raises(ConfigError, match="no verifiers"):
        Grader([])


def test_unknown_and_unreachable_verifiers_are_refused_at_once() -> None:
    with pytest.raises(PluginError, match="did you mean 'number'"):
        Grader([WeightedVerifier("nubmer")])

    @verifier("made_in_a_function")
    def local(problem: Problem, rollout: Rollout) -> Verdict:
        return Verdict.correct()

    with pytest.raises(PluginError, match="worker processes, which cannot find it"):
        Grader([WeightedVerifier("made_in_a_function")])
    with pytest.raises(PluginError, match="is a PosixPath"):
        Grader([WeightedVerifier(f"{__file__}:PLUGINS")])


def test_a_plain_function_is_an_isolated_verifier() -> None:
    (graded,) = grade(["x"], WeightedVerifier(f"{PLUGINS}:plain"))
    assert graded.verdicts["plain"].extracted not in (None, str(os.getpid()))


def test_everything_a_verifier_reads_survives_the_way_to_the_worker() -> None:
    turns = [
        Turn(
            (1, 2),
            Completion((3, 4), (-0.5, -0.1), FinishReason.STOP),
            Message("assistant", "call"),
            (Message("tool", "\x00\udfff"),),
        ),
        Turn((1, 2, 3, 4, 5), Completion((6,), (-0.2,), FinishReason.LENGTH), Message("assistant", "tail \ud800 é 🙂")),
    ]
    problem = Problem("p", (Message("user", "\udc80"),), {"a": [1, None, 2.5]}, {"nan": math.nan, "inf": math.inf})
    sent = Rollout(problem, 3, turns, Stop.LENGTH)

    async def run() -> None:
        async with Grader([WeightedVerifier(MIRROR)]) as grader:
            await grader.grade(sent)

    asyncio.run(run())
    verdict = sent.verdicts["mirror"]
    assert verdict.extracted == "tail \ud800 é 🙂"
    details = dict(verdict.details)
    metadata = details.pop("metadata")
    assert math.isnan(metadata["nan"])
    assert metadata["inf"] == math.inf
    assert details == {
        "answer": {"a": [1, None, 2.5]}, "prompt": ["\udc80"], "length": len("tail \ud800 é 🙂"), "replies": ["\x00\udfff"],
        "tokens": 3, "is_truncated": True, "sample_index": 3,
    }  # fmt: skip


def test_a_huge_response_is_refused_with_a_reason_and_a_large_one_is_graded() -> None:
    huge, large = grade(["x" * 10_000_000, "é" * MAX_RESPONSE_CHARS], WeightedVerifier(MIRROR), WeightedVerifier(INLINE))
    assert [verdict.outcome for verdict in huge.verdicts.values()] == [Outcome.UNPARSED] * 2
    assert "10000000 characters" in huge.verdicts["mirror"].reason
    assert huge.reward == 0.0
    assert large.verdicts["mirror"].details["length"] == MAX_RESPONSE_CHARS


def test_a_problem_that_is_not_json_is_our_error() -> None:
    strange = Rollout.from_response(Problem("p", (), "5", {"thing": object()}), "5")

    async def run() -> None:
        async with Grader([WeightedVerifier(MIRROR)]) as grader:
            await grader.grade(strange)
            fine = rollout("5")
            await grader.grade(fine)
            assert fine.verdicts["mirror"].outcome is Outcome.PARTIAL

    asyncio.run(run())
    assert strange.verdicts["mirror"].outcome is Outcome.VERIFIER_ERROR
    assert "JSON" in strange.verdicts["mirror"].reason


def test_a_hanging_verifier_is_killed_with_its_children(tmp_path: Path) -> None:
    started = time.monotonic()
    (verdict,) = misbehave("hang with child", timeout_s=0.5, directory=str(tmp_path))
    assert verdict.outcome is Outcome.VERIFIER_ERROR
    assert "longer than 0.5 s" in verdict.reason
    assert time.monotonic() - started < 60
    assert_gone(int((tmp_path / "child").read_text()))


def test_others_go_on_while_one_hangs() -> None:
    verdicts = misbehave("hang", "a", "b", "hang", "c", timeout_s=0.5)
    assert [verdict.outcome.value for verdict in verdicts] == [
        "verifier_error",
        "correct",
        "correct",
        "verifier_error",
        "correct",
    ]


def test_a_crash_is_tried_again_and_then_named() -> None:
    exited, killed, fine = misbehave("exit", "segfault", "ok", workers=1)
    assert "exited with status 3; it printed: last words (2 attempts)" in exited.reason
    assert "was killed by SIGSEGV (2 attempts)" in killed.reason
    assert fine.outcome is Outcome.CORRECT


def test_a_crash_that_does_not_happen_again_costs_nothing(tmp_path: Path) -> None:
    (verdict,) = misbehave("die once", directory=str(tmp_path))
    assert verdict.outcome is Outcome.CORRECT
    assert (tmp_path / "died").exists()


def test_exceptions_and_non_verdicts_are_errors_and_the_worker_lives_on() -> None:
    raised, wrong, odd, fine, again = misbehave("raise", "no verdict", "odd details", "ok", "ok", workers=1)
    assert "ValueError: no such thing" in raised.reason
    assert "returned bool, not a Verdict" in wrong.reason
    assert "details must be JSON" in odd.reason
    assert fine.details["pid"] == again.details["pid"]
    assert [verdict.score for verdict in (raised, wrong, odd)] == [None] * 3


def test_prints_do_not_reach_the_protocol() -> None:
    printed, fine = misbehave("print", "ok", workers=1)
    assert printed.outcome is Outcome.CORRECT
    assert printed.details["pid"] == fine.details["pid"]


def test_a_memory_hog_is_stopped_by_the_limit() -> None:
    hog, fine = misbehave("hog", "ok", workers=1)
    assert "MemoryError" in hog.reason
    assert fine.outcome is Outcome.CORRECT


def test_a_forking_verifier_gives_one_answer() -> None:
    forked, *others = misbehave("fork", "1", "2", "3", workers=1)
    assert forked.outcome is Outcome.CORRECT
    assert [verdict.extracted for verdict in others] == ["1", "2", "3"]


def test_the_pool_grows_only_to_its_size() -> None:
    verdicts = misbehave(*(str(number) for number in range(40)), workers=2)
    assert 1 <= len({verdict.details["pid"] for verdict in verdicts}) <= 2


def test_no_worker_outlives_close() -> None:
    (verdict,) = misbehave("ok")
    assert_gone(verdict.details["pid"])


def test_a_cancelled_grade_does_not_disturb_the_next() -> None:
    async def run() -> list[Verdict]:
        async with Grader([WeightedVerifier(MISBEHAVING)], workers=1, timeout_s=5.0) as grader:
            first, stuck, last = rollout("first"), rollout("hang"), rollout("last")
            await grader.grade(first)
            grading = asyncio.create_task(grader.grade(stuck))
            while not grader_has_asked(grader):
                await asyncio.sleep(0)
            grading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await grading
            await grader.grade(last)
            return [first.verdicts["misbehaving"], last.verdicts["misbehaving"]]

    first, last = asyncio.run(run())
    assert (first.extracted, last.extracted) == ("first", "last")
    assert first.details["pid"] != last.details["pid"]


def test_an_answer_in_time_counts_even_if_our_own_loop_was_busy() -> None:
    async def run() -> Verdict:
        async with Grader([WeightedVerifier(MISBEHAVING)], workers=1, timeout_s=0.5) as grader:
            await grader.grade(rollout("warm"))
            assert grader._pool is not None
            [worker] = grader._pool._idle
            item = rollout("ok")
            task = asyncio.create_task(grader.grade(item))
            while not (grader_has_asked(grader) or task.done()):  # done already, if we were interrupted at the right moment
                await asyncio.sleep(0)
            asked = time.monotonic()
            if not task.done():
                select.select([worker._socket], [], [], 60.0)  # until the answer is there: our loop knows nothing of it
            time.sleep(max(0.0, asked + 0.55 - time.monotonic()))
            await task
            return item.verdicts["misbehaving"]

    assert asyncio.run(run()).outcome is Outcome.CORRECT


def grader_has_asked(grader: Grader) -> bool:
    pool = grader._pool
    return pool is not None and not pool._idle


def test_each_event_loop_needs_its_own_grader() -> None:
    grader = Grader([WeightedVerifier(MISBEHAVING)])
    item = rollout("ok")
    asyncio.run(grader.grade(item))
    pid = item.verdicts["misbehaving"].details["pid"]
    with pytest.raises(VerifierError, match="another event loop"):
        asyncio.run(grader.grade(rollout("ok")))
    del grader  # its loop ended without close: the workers go with it
    gc.collect()
    assert_gone(pid)
    (again,) = misbehave("ok")
    assert again.outcome is Outcome.CORRECT


ORPHAN = """
import asyncio, os, sys
from rlvr.types import Problem, Rollout
from rlvr.verifiers.runner import Grader, WeightedVerifier

async def main(reference, directory):
    grader = Grader([WeightedVerifier(reference, 1.0, {"directory": directory})], timeout_s=1.0)
    item = Rollout.from_response(Problem("p", (), "5"), "ok")
    await grader.grade(item)
    print(item.verdicts["misbehaving"].details["pid"], flush=True)
    END

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)", "return", "raise SystemExit(1)"])
def test_no_worker_outlives_its_parent(end: str, tmp_path: Path) -> None:
    script = ORPHAN.replace("END", end)
    parent = subprocess.run(
        [sys.executable, "-c", script, MISBEHAVING, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert_gone(int(parent.stdout))
    assert "Traceback" not in parent.stderr


def test_a_stuck_worker_whose_parent_was_killed_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlvr.verifiers import worker

    assert 0 < worker.ALARM_GRACE_S <= 1  # how long it may take beyond the time limit
    script = ORPHAN.replace("END", "await grader.grade(Rollout.from_response(Problem('p', (), '5'), 'hang'))")
    with subprocess.Popen(
        [sys.executable, "-c", script, MISBEHAVING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        begun = cpu_ticks(pid)
        while cpu_ticks(pid) < begun + 2:  # it is stuck
            time.sleep(0.002)
        parent.send_signal(signal.SIGKILL)
    assert_gone(pid)


def cpu_ticks(pid: int) -> float:
    """Infinitely many of one that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    except (FileNotFoundError, ProcessLookupError):
        return math.inf
