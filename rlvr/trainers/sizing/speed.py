"""How long a step takes at most, from its arithmetic and a device's peaks."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.trainers.sizing.devices import Device
from rlvr.trainers.sizing.shape import ModelShape

# Shares of the peaks. On a GPU they are assumed: 40 % of the arithmetic in an update is common for dense models of this size
# (PaLM, arXiv:2204.02311, table 3, has 46 %), and 40 % of the bandwidth is this project's own goal for its decoder. On a CPU,
# where the peak is that of a product like those of a small model, `benchmarks/time_estimate.py` found more of the arithmetic.
_GPU_UPDATE_SHARE, _CPU_UPDATE_SHARE = 0.4, 0.6
DECODE_SHARE = 0.4


def update_share(device: Device) -> float:
    """Of the peak arithmetic, what an update reaches."""
    return _GPU_UPDATE_SHARE if device.is_gpu else _CPU_UPDATE_SHARE


@dataclass(frozen=True, slots=True)
class StepWork:
    """One step of one process, if every rollout takes all the tokens that it may."""

    rollouts: int
    prompts: int  # that differ
    rows: int  # decoded together; 0: generation is another process's
    prompt: int  # tokens
    completion: int  # tokens
    passes: int  # over the step's tokens with a backward pass
    scoring_passes: int  # without one: old and reference logprobs
    element: int  # bytes of a weight and of the cache
    is_checkpointed: bool
    is_adapter: bool = False


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds."""

    generation: float
    scoring: float
    update: float

    @property
    def total(self) -> float:
        return self.generation + self.scoring + self.update


def forward_flops(shape: ModelShape, tokens: int, length: int) -> float:
    """Of a forward pass over `tokens` tokens in sequences of `length`: two for each weight, and causal attention."""
    attention = 2 * shape.layers * shape.query_width * length  # two products over half of the positions
    return tokens * (2.0 * (shape.linear + shape.embedding) + attention)


def estimate_time(shape: ModelShape, work: StepWork, device: Device) -> StepTime | None:
    """None: the device's peaks are not known."""
    if not (device.flops and device.bandwidth):
        return None
    length = work.prompt + work.completion
    # Rollouts of one problem share its prompt here, too.
    forward = forward_flops(shape, work.prompts * work.prompt + work.rollouts * work.completion, length)
    # A backward pass is two forward passes, but one where the weights are frozen; a checkpointed layer runs once more.
    backward = (1 if work.is_adapter else 2) + (1 if work.is_checkpointed else 0)
    rate = device.flops * update_share(device)
    return StepTime(
        generation=_generation(shape, work, device),
        scoring=work.scoring_passes * forward / rate,
        update=work.passes * (1 + backward) * forward / rate,
    )


def decode_seconds(shape: ModelShape, rows: int, length: int, element: int, device: Device) -> float:
    """The bound on one decode step of `rows` rows of `length` tokens: their bytes at the full bandwidth, or their arithmetic."""
    bytes_read = element * (shape.linear + shape.embedding) + rows * length * shape.kv_bytes(element)
    flops = forward_flops(shape, rows, 2 * length)  # one token attends to all positions, not to half of them
    return max(bytes_read / device.bandwidth, flops / device.flops)


def _generation(shape: ModelShape, work: StepWork, device: Device) -> float:
    if not work.rows:
        return 0.0
    mean_length = work.prompt + work.completion // 2
    waves, left = divmod(work.rollouts, work.rows)
    seconds = waves * decode_seconds(shape, work.rows, mean_length, work.element, device)
    if left:
        seconds += decode_seconds(shape, left, mean_length, work.element, device)
    prefill = forward_flops(shape, work.prompts * work.prompt, work.prompt) / device.flops
    return (seconds * work.completion + prefill) / DECODE_SHARE
