"""Recorded decoding steps give what plain ones give. The recorder here repeats the work itself; CUDA's is tested in tests/gpu."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from rlvr import seeding
from rlvr.engines.decoder import LlamaDecoder
from rlvr.engines.graphs import RecordedSteps, bucket_of_length, bucket_of_rows

VOCABULARY, CONTEXT = 48, 700


class Repeater:
    """Runs the work again, as a graph would, into one place; at recording time it runs it twice more, as CUDA's does."""

    def __init__(self) -> None:
        self.recorded = self.repeated = self.forgotten = 0

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        for _ in range(2):
            place = work()

        def repeat() -> Tensor:
            self.repeated += 1
            return place.copy_(work())

        return repeat

    def forget(self) -> None:
        self.forgotten += 1


class Broken(Repeater):
    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")


def build(kind: str = "qwen3") -> Any:
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
    }
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=False)).eval()
    return Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=8, tie_word_embeddings=True)).eval()


def decoder(model: Any, recorder: Repeater | None, dtype: torch.dtype = torch.float32) -> LlamaDecoder:
    return LlamaDecoder(model, dtype=dtype, max_context=CONTEXT, recorder=recorder)


@torch.no_grad()
def work_through(one: LlamaDecoder, between: Callable[[], None] = lambda: None) -> list[Tensor]:
    """Rows enter, grow past a bucket's end, leave, and others come: the logits of every step."""
    rng = seeding.rng("recorded steps")
    lengths = [9, 4, 250, 13, 40]

    def words(count: int) -> list[int]:
        return [rng.randrange(VOCABULARY) for _ in range(count)]

    found = [one.prefill(0, [words(length) for length in lengths], [0, 1, 2, 3, 4, 4, 4, 4, 4], [30] * 9)]
    lengths += [40] * 4

    def steps(count: int) -> None:
        for _ in range(count):
            for row in range(len(lengths)):
                lengths[row] += 1
            found.append(one.decode(torch.tensor(words(len(lengths))), max(lengths)))

    steps(9)
    one.move([8, 7], [2, 0], 7, max(lengths))
    lengths[2], lengths[0] = lengths[8], lengths[7]
    del lengths[7:]
    between()
    steps(3)
    found.append(one.prefill(7, [words(300)], [0, 0], [600, 20]))
    lengths += [300, 300]
    steps(3)
    return found


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recorded_steps_give_the_logits_of_plain_ones(kind: str, dtype: torch.dtype) -> None:
    model, recorder = build(kind), Repeater()
    plain = work_through(decoder(model, None, dtype))
    assert_same(work_through(decoder(model, recorder, dtype)), plain, 1e-5 if dtype is torch.float32 else 0.1)
    assert recorder.repeated == 15
    assert 2 <= recorder.recorded < 8


@torch.no_grad()
def test_a_step_is_recorded_once_for_each_size() -> None:
    recorder = Repeater()
    one = decoder(build(), recorder)
    one.prefill(0, [[1] * 20], [0] * 8, [400] * 8)
    for step in range(60):
        one.decode(torch.ones(8 - step // 10, dtype=torch.long), 21 + step)
    assert (recorder.recorded, recorder.repeated) == (1, 60)


def test_what_lies_in_idle_slots_changes_nothing() -> None:
    model = build()
    expected = work_through(decoder(model, Repeater()))
    one = decoder(model, Repeater())

    def spoil() -> None:
        for layer in (*one._cache.keys, *one._cache.values):
            layer[7:] = 1e3
        one._cache.mask[7:] = 0.0

    assert_same(work_through(one, spoil), expected)


def test_a_recorder_that_fails_is_given_up_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    model = build()
    with caplog.at_level(logging.WARNING):
        found = work_through(decoder(model, Broken()))
    assert_same(found, work_through(decoder(model, None)))
    assert len(caplog.records) == 1  # once, and not at every step
    assert "not permitted when stream is capturing" in caplog.text


@pytest.mark.parametrize("kind", ["qwen3", "qwen2"])
def test_new_weights_are_copied_to_where_recorded_steps_read_them(kind: str) -> None:
    model, recorder = build(kind), Repeater()
    one = decoder(model, recorder, torch.bfloat16)
    work_through(one)
    places = [tensor.data_ptr() for layer in one._weights.layers for tensor in layer.tensors()]
    forgotten = recorder.forgotten
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    one.refresh()
    assert [tensor.data_ptr() for layer in one._weights.layers for tensor in layer.tensors()] == places
    assert recorder.forgotten == forgotten
    one.clear()
    assert_same(work_through(one), work_through(decoder(model, None, torch.bfloat16)), 0.1)


def test_new_weights_of_a_decoder_that_reads_the_models_own_end_what_was_recorded() -> None:
    model, recorder = build(), Repeater()
    one = decoder(model, recorder)
    work_through(one)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    one.refresh()
    assert len(one._steps) == 0
    one.clear()
    assert_same(work_through(one), work_through(decoder(model, None)))


@torch.no_grad()
def test_a_cache_that_moves_ends_what_was_recorded() -> None:
    one = decoder(build(), recorder := Repeater())
    one.prefill(0, [[1, 2, 3]], [0] * 8, [8] * 8)
    one.decode(torch.ones(8, dtype=torch.long), 4)
    assert len(one._steps) == 1
    one.prefill(8, [[1, 2, 3]], [0] * 8, [8] * 8)
    assert len(one._steps) == 0
    one.decode(torch.ones(16, dtype=torch.long), 5)
    one.clear()
    assert len(one._steps) == 0
    assert recorder.recorded == 2


@pytest.mark.parametrize("bucket", [bucket_of_rows, bucket_of_length])
def test_buckets_hold_what_they_are_for_and_are_few(bucket: Callable[[int], int]) -> None:
    sizes = [bucket(count) for count in range(1, 4097)]
    assert all(size >= count for count, size in enumerate(sizes, start=1))
    assert sizes == sorted(sizes)
    assert all(bucket(size) == size and size % 8 == 0 for size in sizes)
    assert len(set(sizes)) <= 24
    assert all(size <= 1.5 * count for count, size in enumerate(sizes, start=1) if count > 1024)


def test_sizes_stay_within_what_the_cache_has_already() -> None:
    steps = RecordedSteps(Repeater())
    assert steps.sizes(40, 300, room=(64, 2048)) == (48, 512)
    assert steps.sizes(40, 300, room=(40, 320)) == (40, 320)
    assert steps.sizes(40, 300, room=(32, 256)) == (48, 512)  # the cache has to grow, and grows to a bucket
    assert RecordedSteps(None).sizes(40, 300, room=(64, 2048)) == (40, 300)
