from __future__ import annotations

from dataclasses import replace

from rlvr.evaluation.tally import Tally
from rlvr.types import CallStatus, Completion, FinishReason, Message, Outcome, Problem, Rollout, Stop, ToolCall, Turn, Verdict


def rollout(verdict: Verdict | None, *, tokens: int = 2, stop: Stop = Stop.STOP, error: str | None = None) -> Rollout:
    turn = Turn((1,), Completion((5,) * tokens, (0.0,) * tokens, FinishReason.STOP), Message("assistant", ""))
    verdicts = {} if verdict is None else {"exact": verdict}
    return Rollout(Problem("p", (), None), 0, [turn], stop, verdicts, error=error)


def test_every_rollout_is_in_exactly_one_of_scored_and_unscored() -> None:
    tally = Tally()
    tally.add([rollout(Verdict.correct()), rollout(Verdict.unparsed("no tag"), stop=Stop.LENGTH)])
    tally.add([rollout(Verdict.error("hung")), rollout(None), rollout(Verdict.correct(), error="engine died", stop=Stop.ERROR)])
    assert (tally.rollouts, tally.scored, tally.unscored, tally.failed_rollouts, tally.truncated) == (5, 2, 3, 1, 1)
    assert tally.scored == sum(count for outcome, count in tally.outcomes.items() if outcome is not Outcome.VERIFIER_ERROR)
    assert tally.correct_share == 0.5


def test_scores_of_failed_rollouts_are_not_averaged() -> None:
    tally = Tally()
    tally.add([rollout(Verdict.partial(0.5)), rollout(Verdict.correct(), error="engine died")])
    assert (tally.score_sums, tally.score_counts) == ({"exact": 0.5}, {"exact": 1})


def test_the_first_three_distinct_causes_are_kept() -> None:
    tally = Tally()
    tally.add(rollout(None, error=cause) for cause in ["a", "a", "b", "c", "d"])
    assert tally.causes == ["a", "b", "c"]


def test_nothing_counted_divides_by_nothing() -> None:
    assert Tally().fields(0.0) == {
        "correct_share": 0.0, "tokens_mean": 0.0, "truncated_share": 0.0, "unscored_share": 0.0, "tokens_per_s": 0.0,
    }  # fmt: skip


def test_tool_calls_are_counted_by_what_became_of_them() -> None:
    def calling(stop: Stop, *statuses: CallStatus) -> Rollout:
        made = Rollout.from_response(Problem("p", (), ""), "answer")
        made.turns = [replace(made.turns[0], calls=tuple(ToolCall("t", {}, status) for status in statuses))]
        made.stop, made.verdicts = stop, {"v": Verdict.correct()}
        return made

    tally = Tally()
    tally.add(
        [
            calling(Stop.STOP),
            calling(Stop.STOP, CallStatus.OK, CallStatus.MALFORMED),
            calling(Stop.MAX_CALLS, CallStatus.FAILED),
            calling(Stop.WALL_TIME, CallStatus.OK),
        ]
    )
    found = tally.call_fields()
    assert (found["calls_mean"], found["calling_share"], found["useful_call_share"]) == (1.0, 0.75, 0.5)
    assert (found["call_malformed_share"], found["call_failed_share"], found["call_unknown_tool_share"]) == (0.25, 0.25, 0.0)
    assert found["call_limit_share"] == 0.5
    counts = tally.to_json()
    assert counts["calls"] == {"ok": 2, "failed": 1, "malformed": 1}
    assert counts["stops"] == {"stop": 2, "max_calls": 1, "wall_time": 1}


def test_two_tallies_absorbed_are_one_over_all_rollouts() -> None:
    first, second = (
        [rollout(Verdict.correct()), rollout(None, error="a")],
        [rollout(Verdict.partial(0.5)), rollout(None, error="b")],
    )
    one, other, both = Tally(), Tally(), Tally()
    one.add(first)
    other.add(second)
    both.add([*first, *second])
    one.absorb(other)
    assert one == both
