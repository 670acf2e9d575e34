from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr import types
from rlvr.types import Completion, FinishReason, Message, Outcome, Problem, Rollout, Segment, Stop, Turn, Verdict

PROBLEM = Problem("p", (Message("user", "1+1?"),), "2")
NOUNS = [kind for kind in vars(types).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]


def turn(prompt_ids: tuple[int, ...], token_ids: tuple[int, ...]) -> Turn:
    logprobs = tuple(-0.5 - index for index in range(len(token_ids)))
    return Turn(prompt_ids, Completion(token_ids, logprobs, FinishReason.STOP), Message("assistant", "text"))


def rollout(*turns: Turn) -> Rollout:
    return Rollout(PROBLEM, 0, list(turns), Stop.STOP)


@pytest.mark.parametrize("noun", NOUNS)
def test_nouns_have_slots_and_only_what_is_built_step_by_step_is_mutable(noun: type) -> None:
    assert "__slots__" in vars(noun)
    is_frozen = noun.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert is_frozen == (noun.__name__ not in ("Rollout", "StepBatch"))


def test_outcomes_and_stops_are_the_lower_case_strings_that_others_script_against() -> None:
    assert [str(outcome) for outcome in Outcome] == ["correct", "partial", "incorrect", "unparsed", "verifier_error"]
    assert f"{Stop.LENGTH}" == "length"


def test_a_completion_has_one_logprob_for_each_token() -> None:
    with pytest.raises(ValueError, match="2 token_ids, but 1 logprobs"):
        Completion((1, 2), (-0.1,), FinishReason.STOP)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_score_is_missing_exactly_when_the_verifier_failed(outcome: Outcome) -> None:
    is_our_fault = outcome is Outcome.VERIFIER_ERROR
    assert Verdict(outcome, None if is_our_fault else 0.0).outcome is outcome
    with pytest.raises(ValueError, match="score is None exactly for verifier_error"):
        Verdict(outcome, 0.0 if is_our_fault else None)


@pytest.mark.parametrize("score", [-0.01, 1.01, float("nan"), float("inf")])
def test_a_score_lies_between_0_and_1(score: float) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        Verdict.partial(score)


def test_the_models_fault_scores_0_and_our_fault_scores_nothing() -> None:
    assert Verdict.correct("2").score == 1.0
    assert Verdict.incorrect("3").score == Verdict.unparsed("no answer").score == 0.0
    assert Verdict.error("crashed").score is None


def test_a_verdicts_details_are_kept() -> None:
    assert Verdict.partial(0.5, "2", "close", distance=1).details == {"distance": 1}


def test_evaluation_counts_the_first_verifier() -> None:
    graded = rollout()
    assert graded.verdict is None
    assert not graded.is_scored
    graded.verdicts = {"math": Verdict.correct("2"), "format": Verdict.incorrect()}
    assert graded.verdict is graded.verdicts["math"]
    assert graded.is_scored
    assert graded.is_correct


def test_a_partial_answer_is_scored_but_not_correct() -> None:
    graded = Rollout.from_response(PROBLEM, "2?")
    graded.verdicts = {"math": Verdict.partial(0.9)}
    assert graded.is_scored
    assert not graded.is_correct


def test_a_rollout_that_we_failed_to_grade_or_to_finish_is_unscored() -> None:
    crashed, died = Rollout.from_response(PROBLEM, "2"), Rollout.from_response(PROBLEM, "2")
    crashed.verdicts = {"math": Verdict.error("crashed")}
    died.verdicts, died.error = {"math": Verdict.correct()}, "engine died"
    assert not crashed.is_scored
    assert not died.is_scored
    assert not crashed.is_correct
    assert not died.is_correct


def test_a_response_from_elsewhere_becomes_a_rollout_without_tokens() -> None:
    whole, cut = Rollout.from_response(PROBLEM, "2"), Rollout.from_response(PROBLEM, "2", truncated=True)
    assert (whole.response, whole.is_truncated, whole.completion_tokens, whole.segments()) == ("2", False, 0, ())
    assert cut.is_truncated


def test_a_rollout_without_turns_has_an_empty_response_and_no_segments() -> None:
    assert rollout().response == ""
    assert rollout().segments() == ()


def test_one_turn_is_one_segment_that_trains_only_on_sampled_tokens() -> None:
    assert rollout(turn((1, 2), (3, 4))).segments() == (
        Segment((1, 2, 3, 4), (False, False, True, True), (0.0, 0.0, -0.5, -1.5)),
    )


def test_turns_that_only_append_are_one_segment_and_tool_output_is_not_trained_on() -> None:
    two_turns = rollout(turn((1,), (2, 3)), turn((1, 2, 3, 8, 9), (4,)))
    assert two_turns.segments() == (
        Segment((1, 2, 3, 8, 9, 4), (False, True, True, False, False, True), (0.0, -0.5, -1.5, 0.0, 0.0, -0.5)),
    )
    assert two_turns.completion_tokens == 3


def test_a_template_that_rewrites_history_starts_a_new_segment() -> None:
    first, second = rollout(turn((1,), (2, 3)), turn((1, 2, 9), (4,))).segments()
    assert first.token_ids == (1, 2, 3)
    assert second.token_ids == (1, 2, 9, 4)
    assert second.loss_mask == (False, False, False, True)


tokens = st.lists(st.integers(0, 3), max_size=4).map(tuple)


@given(st.lists(st.tuples(tokens, tokens, st.booleans()), max_size=5))
def test_segments_keep_every_sampled_token_exactly_once_and_each_context_exactly(
    plan: list[tuple[tuple[int, ...], tuple[int, ...], bool]],
) -> None:
    turns: list[Turn] = []
    for appended, sampled, keeps_history in plan:
        history = (*turns[-1].prompt_ids, *turns[-1].completion.token_ids) if turns and keeps_history else ()
        turns.append(turn((*history, *appended), sampled))
    segments = rollout(*turns).segments()
    trained = [token for s in segments for token, mask in zip(s.token_ids, s.loss_mask, strict=True) if mask]
    assert trained == [token for t in turns for token in t.completion.token_ids]
    for t in turns:
        context = (*t.prompt_ids, *t.completion.token_ids)
        assert not context or any(s.token_ids[: len(context)] == context for s in segments)
    for s in segments:
        assert len(s.token_ids) == len(s.loss_mask) == len(s.sampling_logprobs)
        assert all(mask or logprob == 0.0 for mask, logprob in zip(s.loss_mask, s.sampling_logprobs, strict=True))


def test_tokens_are_counted_by_the_version_that_sampled_them() -> None:
    plain = Completion((5, 6, 7), (-1.0, -1.0, -1.0), FinishReason.STOP, 4)
    mixed = Completion((5, 6, 7), (-1.0, -1.0, -1.0), FinishReason.STOP, 4, token_versions=(4, 4, 6))
    empty = Completion((), (), FinishReason.STOP, 4)
    assert [dict(one.tokens_by_version) for one in (plain, mixed, empty)] == [{4: 3}, {4: 2, 6: 1}, {}]
    assert all(Counter(one.versions) == one.tokens_by_version for one in (plain, mixed, empty))
