from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.errors import EvaluationError
from rlvr.evaluation.ledger import (
    RolloutWriter,
    partial_path,
    read_rollouts,
    rollout_from_json,
    rollout_to_json,
    write_rollouts,
)
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Stop, Turn, Verdict

texts = st.text(max_size=12)  # every code point, lone surrogates too: models and broken decoders write them
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
messages = st.builds(Message, st.sampled_from(["user", "assistant", "tool"]), texts)


@st.composite
def completions(draw: st.DrawFn) -> Completion:
    ids = draw(st.lists(st.integers(0, 2**31), max_size=5))
    logprobs = draw(st.lists(st.floats(max_value=0, allow_nan=False), min_size=len(ids), max_size=len(ids)))
    versions = draw(st.none() | st.lists(st.integers(0, 99), min_size=len(ids), max_size=len(ids)).map(tuple))
    finish, version = draw(st.sampled_from(FinishReason)), draw(st.integers(0, 99))
    return Completion(tuple(ids), tuple(logprobs), finish, version, token_versions=versions)


verdicts = st.one_of(
    st.builds(Verdict.correct, texts, texts, note=json_values),
    st.builds(Verdict.partial, st.floats(0, 1), texts),
    st.builds(Verdict.unparsed, texts),
    st.builds(Verdict.error, texts),
)
turns = st.builds(
    Turn,
    st.lists(st.integers(0, 2**31), max_size=4).map(tuple),
    completions(),
    messages,
    st.lists(messages, max_size=2).map(tuple),
)
rollouts = st.builds(
    Rollout,
    st.builds(
        Problem, texts, st.lists(messages, max_size=2).map(tuple), json_values, st.dictionaries(texts, json_values, max_size=2)
    ),
    st.integers(0, 63),
    st.lists(turns, max_size=2),
    st.none() | st.sampled_from(Stop),
    st.dictionaries(texts, verdicts, max_size=2),
    st.none() | st.floats(allow_nan=False),
    st.none() | texts,
)


def rollout(answer: Any = "4") -> Rollout:
    completion = Completion((5, 6), (-0.1, -1e-9), FinishReason.STOP, policy_version=3)
    turn = Turn((1, 2), completion, Message("assistant", "4"), (Message("tool", "ok"),))
    problem = Problem("p/1", (Message("user", "2+2?"),), answer, {"level": 1})
    return Rollout(problem, 2, [turn], Stop.STOP, {"math": Verdict.correct("4", "equal")}, reward=0.75)


@settings(max_examples=60, deadline=None)
@given(rollouts)
def test_a_rollout_survives_its_json_line_exactly(original: Rollout) -> None:
    line = json.dumps(rollout_to_json(original, step=3))
    assert rollout_from_json(json.loads(line)) == original


def test_files_round_trip_with_their_provenance(tmp_path: Path) -> None:
    path = tmp_path / "rollouts" / "step-000001.jsonl.gz"
    write_rollouts(path, (rollout_to_json(rollout(), step=1, advantage=share) for share in (0.5, -0.5)))
    stored = list(read_rollouts(path))
    assert [row.rollout for row in stored] == [rollout(), rollout()]
    assert [row.provenance for row in stored] == [{"step": 1, "advantage": 0.5}, {"step": 1, "advantage": -0.5}]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_equal_rollouts_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_rollouts(tmp_path / name, [rollout_to_json(rollout())])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_plain_files_are_one_json_object_a_line(tmp_path: Path) -> None:
    write_rollouts(tmp_path / "a.jsonl", [rollout_to_json(rollout())] * 2)
    assert [json.loads(line)["stop"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == ["stop", "stop"]


def test_logprobs_that_are_not_finite_survive(tmp_path: Path) -> None:
    odd = rollout()
    completion = Completion((5,), (-math.inf,), FinishReason.STOP)
    odd.turns = [Turn((), completion, Message("assistant", ""))]
    write_rollouts(tmp_path / "a.jsonl.gz", [rollout_to_json(odd)])
    assert next(read_rollouts(tmp_path / "a.jsonl.gz")).rollout == odd


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    write_rollouts(path, [rollout_to_json(rollout())])
    before = path.read_bytes()
    with pytest.raises(EvaluationError, match="cannot be written"):
        write_rollouts(path, [rollout_to_json(rollout(answer={1, 2}))])
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_interrupted_writer_keeps_what_it_had_beside_the_path(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl.gz"

    def write_until_interrupted() -> None:
        with RolloutWriter(path, keep_partial=True) as writer:
            writer.write(rollout_to_json(rollout()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_until_interrupted()
    assert [entry.name for entry in tmp_path.iterdir()] == ["samples.partial.jsonl.gz"]
    assert [row.rollout for row in read_rollouts(partial_path(path))] == [rollout()]


def test_a_writer_that_is_interrupted_before_its_first_row_leaves_nothing(tmp_path: Path) -> None:
    def interrupt() -> None:
        with RolloutWriter(tmp_path / "samples.jsonl.gz", keep_partial=True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b'{"problem": 1}\n', mtime=0), gzip.compress(b"{torn", mtime=0)])
def test_damaged_files_are_named_in_the_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match="stored rollout"):
        list(read_rollouts(path))


def test_a_missing_file_is_an_evaluation_error(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"nowhere\.jsonl"):
        list(read_rollouts(tmp_path / "nowhere.jsonl"))
