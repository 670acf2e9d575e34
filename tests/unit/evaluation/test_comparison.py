from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rlvr.errors import ConfigError
from rlvr.evaluation.comparison import compare
from rlvr.evaluation.evaluations import Evaluation, load_evaluations
from rlvr.evaluation.ledger import rollout_to_json, write_rollouts
from rlvr.evaluation.samples import Metric, Sample, metrics_for
from rlvr.seeding import seed
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Stop, Turn, Verdict


def evaluation(
    label: str, rates: list[float], *, n: int = 4, tokens: int = 10, task: str = "sums", **about: object
) -> Evaluation:
    generator = np.random.default_rng(seed("evaluation", label))
    samples = {}
    for number, rate in enumerate(rates):
        right = generator.random(n) < rate
        samples[str(number)] = [
            Sample(0, index, True, bool(is_right), "7" if is_right else f"w{index}", tokens)
            for index, is_right in enumerate(right)
        ]
    return Evaluation(label, {"task": task, "split": "test", **about}, samples)


def stored_rollout(problem: str, index: int, *, is_right: bool) -> Rollout:
    turn = Turn((1, 2), Completion((5, 6), (-0.5, -0.5), FinishReason.STOP), Message("assistant", "text"))
    verdict = Verdict.correct("7") if is_right else Verdict.incorrect("8")
    return Rollout(Problem(problem, (Message("user", "?"),), "7"), index, [turn], Stop.STOP, {"answer": verdict})


def rows(right: dict[str, int], n: int = 4) -> list[dict[str, object]]:
    return [
        rollout_to_json(stored_rollout(problem, index, is_right=index < count), mode="sampled", seed=0, task="sums", split="test")
        for problem, count in right.items()
        for index in range(n)
    ]


def test_a_better_model_is_claimed_and_an_equal_one_is_not() -> None:
    base, better, same = evaluation("base", [0.3] * 60), evaluation("better", [0.7] * 60), evaluation("same", [0.3] * 60)
    study = compare([base, better, same])
    said = [one.sentence for one in study.comparisons]
    assert said[0].startswith("pass@1: better is better than base: +")
    assert said[1].startswith("pass@1: no difference between same and base can be claimed with 60 problems x 4 samples")
    assert study.comparisons[0].p == pytest.approx(2 * study.comparisons[0].test.p)  # Holm, for two
    assert any("Holm" in note for note in study.notes)


def test_tasks_are_compared_with_themselves_alone() -> None:
    study = compare([evaluation("a", [0.5] * 9), evaluation("b", [0.5] * 9, task="products")])
    assert study.comparisons == ()
    assert [note for note in study.notes if "alone on" in note] == [
        "a is alone on sums test: nothing to compare it with",
        "b is alone on products test: nothing to compare it with",
    ]


def test_what_differs_beside_the_model_is_said() -> None:
    base = evaluation("a", [0.5] * 9, sampling={"temperature": 1.0})
    other = evaluation("b", [0.5] * 7, n=8, sampling={"temperature": 0.6})
    notes = " ".join(compare([base, other]).notes)
    assert "share 7 problems; 2 that only one has" in notes
    assert "4 and 8 samples" in notes
    assert 'differ in sampling: {"temperature": 1.0} and {"temperature": 0.6}' in notes


def test_more_votes_than_samples_are_said_and_the_rest_is_compared() -> None:
    study = compare([evaluation("a", [0.5] * 9), evaluation("b", [0.5] * 9)], ["pass@16", "maj@4", "greedy"])
    assert [one.metric for one in study.comparisons] == ["maj@4"]
    assert "pass@16 of a and b cannot be had: 4 samples of a problem at most" in study.notes
    assert "greedy of a and b cannot be had: no greedy answers" in study.notes


def test_models_of_no_common_problem_are_not_compared() -> None:
    base = evaluation("a", [0.5] * 3)
    other = Evaluation("b", base.about, {f"x{id}": group for id, group in base.samples.items()})
    assert "a and b share no problem, so that pass@1 cannot be compared" in compare([base, other]).notes


def test_at_equal_tokens_the_shorter_answers_get_more_samples() -> None:
    rates = [0.3] * 50
    wordy, brief = evaluation("wordy", rates, n=8, tokens=40), evaluation("brief", rates, n=8, tokens=10)
    found = compare([wordy, brief]).matched
    assert [(one.tokens, one.base_k, one.other_k) for one in found] == [(40.0, 1.0, 4.0), (80.0, 2.0, 8.0)]
    assert found[0].other_value > found[0].base_value + 0.2
    assert found[0].other_value == pytest.approx(sum(Metric.parse("pass@4").values(brief.samples).values()) / 50)


def test_a_budget_between_two_numbers_of_samples_takes_the_chance_of_either() -> None:
    base, other = evaluation("a", [0.4] * 30, tokens=15), evaluation("b", [0.4] * 30, tokens=10)
    found = compare([base, other]).matched[0]
    one, two = (sum(Metric.parse(name).values(other.samples).values()) / 30 for name in ("pass@1", "pass@2"))
    assert found.other_k == 1.5
    assert found.other_value == pytest.approx((one + two) / 2)


def test_a_template_that_matters_is_told_from_one_that_does_not() -> None:
    chat = evaluation("chat", [0.8] * 60, model="m", template="chat")
    plain, plainer = (evaluation(name, [0.4] * 60, model="m", template=name) for name in ("plain", "plainer"))
    matters = compare([chat, plain]).templates[0]
    assert matters.p < 0.01
    assert "to chat" in matters.sentence
    assert compare([plain, plainer]).templates[0].p > 0.05


def test_labels_must_tell_evaluations_apart() -> None:
    with pytest.raises(ConfigError, match="called alike"):
        compare([evaluation("a", [0.5]), evaluation("a", [0.5])])


@pytest.mark.parametrize("text", ["pass@0", "pass", "best", "maj@x", "mean@4"])
def test_what_is_no_metric_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no metric"):
        compare([evaluation("a", [0.5])], [text])


def test_votes_are_the_answers_that_were_read_with_their_spaces_in_order() -> None:
    rollout = stored_rollout("p", 0, is_right=True)
    rollout.verdicts = {"answer": Verdict.correct(" x  = 7\n")}
    assert Sample.of(rollout).vote == "x = 7"
    rollout.verdicts = {"answer": Verdict.unparsed("nothing")}
    assert Sample.of(rollout).vote is None


def test_no_vote_is_counted_where_no_answer_is_read() -> None:
    silent = {"p": [Sample(0, 0, True, True, None, 3), Sample(0, 1, True, False, None, 3)]}
    assert [str(metric) for metric in metrics_for(silent, (1, 2))] == ["pass^2"]
    assert [str(metric) for metric in metrics_for(silent, (1, 2), "judge")] == ["best@2", "pass^2"]


def test_a_sample_that_the_scorer_failed_on_is_not_ranked() -> None:
    samples = [Sample(0, 0, True, True, "7", 3, scores={"judge": 0.9}), Sample(0, 1, True, False, "8", 3, scores={"judge": None})]
    assert Metric.parse("best@1", "judge").value(samples) == 1.0
    assert Metric.parse("best@2", "judge").value(samples) is None


def test_a_run_stands_for_its_first_and_last_measurement(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "evaluations").mkdir(parents=True)
    (run / "config.toml").write_text('model = "base"\ntask = "sums"\n[eval]\ntemperature = 0.7\n')
    for step, count in ((0, 1), (5, 2), (10, 4)):
        write_rollouts(run / "evaluations" / f"step-{step:06d}.held-out.jsonl.gz", rows(dict.fromkeys("abc", count)))
    first, last = load_evaluations(run)
    assert (first.label, last.label) == ("run step 0", "run step 10")
    assert first.about["sampling"] == {"temperature": 0.7}
    assert compare([first, last]).comparisons[0].test.difference.mean == pytest.approx(0.75)


def test_half_a_line_is_left_out_and_said(tmp_path: Path) -> None:
    lines = [json.dumps(row) + "\n" for row in rows({"a": 4, "b": 0})]
    text = "".join(lines[:3]) + '{"half": \n' + "".join(lines[3:]) + lines[0][:50]
    (tmp_path / "samples.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    found = load_evaluations(tmp_path)[0]
    assert sum(map(len, found.samples.values())) == 8
    assert "ends in the middle" in found.notes[0]
    assert "1 damaged lines were left out" in found.notes[1]


def test_an_evaluation_that_did_not_finish_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    text = "".join(json.dumps(row) + "\n" for row in rows({"a": 4, "b": 0}))
    (tmp_path / "samples.jsonl.gz.tmp").write_bytes(gzip.compress(text.encode())[:-20])
    found = load_evaluations(tmp_path)[0]
    assert found.samples
    assert "did not finish" in found.notes[-1]


@pytest.mark.parametrize(("make", "message"), [(False, "does not exist"), (True, "holds no evaluation")])
def test_a_folder_without_an_evaluation_is_named(make: bool, message: str, tmp_path: Path) -> None:
    folder = tmp_path / "nothing"
    if make:
        folder.mkdir()
    with pytest.raises(ConfigError, match=message):
        load_evaluations(folder)
