"""How much memory an update and the generation of a step take, from what our code allocates.

Every term is read off the code: what autograd keeps for each token of a layer (of transformers' RMSNorm, rotary attention and
gated MLP, as they run under `rlvr.trainers.model.policy`), the chunks of `rlvr.trainers.model.head`, the slots of
`rlvr.engines.cache`. A test compares the activations with the tensors that autograd really saves, to the byte, and
`benchmarks/memory_estimate.py` compares the whole with the memory of real processes.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.trainers.model.parallel import BUCKET, LIVE
from rlvr.trainers.model.policy import KEEP_LOGITS_UP_TO
from rlvr.trainers.sizing.shape import ModelShape

_FP32 = 4
_PREFILL_TOKENS = 16384  # at most in one forward pass of the native engine
_AT_ONCE_BYTES = 2**28  # of cache, which the native engine takes at once on the CPU; more grows by half
_FUSED_BELOW = 2**28  # parameters: below that the native engine copies the projections that it fuses
_SMALL_VOCABULARY = 2048  # up to which the sampler adds up in float64


@dataclass(frozen=True, slots=True)
class Workload:
    """What one process trains and generates at once.

    `shards`: over how many processes the optimizer's state, from `stage` 2 gradients, and at 3 weights are split; 1: each holds
    all of them. FSDP is stage 3.
    """

    tokens: int  # of a micro-batch
    trained: int  # parameters
    rows: int  # decoded together
    length: int  # of the longest row, prompt included
    prefilled: int  # prompt tokens that enter at once
    element: int  # bytes of a number in matrix products: 4 in fp32, 2 in bf16
    is_checkpointed: bool = False
    is_adapter: bool = False
    has_reference: bool = False  # a second copy of the weights
    is_native: bool = True  # the engine lives in the trainer's process
    is_static_cache: bool = False  # the cache is taken at once, as on a GPU
    shards: int = 1
    stage: int = 3
    is_deepspeed: bool = False  # with buckets, and below stage 3 a second copy of the weights that a process updates
    is_offloaded: bool = False  # what is split, to the machine's memory, between updates and but for a layer or two

    @property
    def gathers_weights(self) -> bool:
        """Whether they are whole for a few layers at a time alone."""
        return self.shards > 1 and self.stage == 3

    def share(self, total: int, stage: int) -> int:
        """What a process has on its device of something that is split from `stage` on."""
        if self.shards == 1 or self.stage < stage:
            return total
        return 0 if self.is_offloaded else total // self.shards


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by what they are for. The peaks are those of an update in several micro-batches, and of generation after it.

    Gradients are whole under the activations, because those of earlier micro-batches are there; generation does without.
    """

    weights: int
    gradients: int
    optimizer: int
    reference: int
    engine_weights: int  # copies that the native engine makes: bf16, fused or with adapters merged
    cast_weights: int  # what autocast keeps of the weights for the backward pass
    activations: int
    head: int  # logits and what becomes of them, and the head's gradient before it is added
    kv_cache: int
    decoding: int  # logits of the sampler, scores of attention, a prefill

    @property
    def always(self) -> int:
        return self.weights + self.optimizer + self.reference + self.engine_weights

    @property
    def update(self) -> int:
        return self.always + self.gradients + self.cast_weights + self.activations + self.head

    @property
    def generation(self) -> int:
        return self.always + self.kv_cache + self.decoding

    @property
    def peak(self) -> int:
        return max(self.update, self.generation)


def estimate_memory(shape: ModelShape, work: Workload) -> Memory:
    """Of one process, without what torch, CUDA and the Python process take for themselves."""
    parameters = shape.parameters
    trained = _FP32 * work.trained
    bucket = _FP32 * min(BUCKET, work.trained) if work.is_deepspeed and work.shards > 1 else 0
    copies = 3 if work.is_deepspeed and work.shards > 1 and work.stage < 3 else 2
    cache, decoding = (_cache(shape, work), _decoding(shape, work)) if work.is_native else (0, 0)
    return Memory(
        weights=work.share(_FP32 * (parameters + (work.trained if work.is_adapter else 0)), 3),
        gradients=work.share(trained, 2) + bucket,
        optimizer=work.share(copies * trained, 1),
        reference=work.share(_FP32 * parameters, 3) if work.has_reference else 0,
        engine_weights=_engine_weights(shape, work) if work.is_native else 0,
        cast_weights=_cast_weights(shape, work),
        activations=activations(shape, work),
        head=_head(shape, work),
        kv_cache=cache,
        decoding=decoding,
    )


def layer_bytes(shape: ModelShape, element: int) -> int:
    """What autograd keeps of one layer for each token, in bytes."""
    hidden, inner, query, kv = shape.hidden, shape.intermediate, shape.query_width, shape.kv_width
    # Each of the two norms: its input and the normalised input, in float32 always, and a root.
    kept = 2 * (2 * _FP32 * hidden + _FP32)
    # The inputs of the projections: one tensor for each norm, or under autocast one cast for each of the five projections.
    kept += (2 if element == _FP32 else 5) * element * hidden
    # Attention: queries, keys, values, the result, and its copy that the output projection reads; the log of each softmax's sum.
    kept += element * (3 * query + 2 * kv) + _FP32 * shape.heads
    if shape.has_query_key_norm:  # the float32 input, the normalised input, a root for each head
        kept += (_FP32 + element) * (query + kv) + _FP32 * (shape.heads + shape.kv_heads)
    kept += 8  # where attention takes its tokens from
    return kept + 4 * element * inner  # gate, its SiLU, up, their product


def activations(shape: ModelShape, work: Workload) -> int:
    """What the layers keep for the backward pass, in bytes."""
    layer = work.tokens * layer_bytes(shape, work.element)
    outside = work.tokens * _FP32 * 3 * shape.hidden  # the last norm, and the hidden states that the head reads
    if not work.is_checkpointed:
        return outside + shape.layers * layer
    inputs = work.tokens * shape.layers * _FP32 * shape.hidden
    return outside + inputs + (0 if _casts_outweigh(shape, work) else layer)


def _cast_weights(shape: ModelShape, work: Workload) -> int:
    if work.gathers_weights and work.is_deepspeed:  # in float32, as many as it may keep for their next use
        return _FP32 * (2 * shape.embedding + min(LIVE, shape.linear))
    if work.gathers_weights:  # what is gathered at once: the embedding, the head, a layer and the next one
        return work.element * (2 * shape.embedding + 2 * shape.linear // shape.layers)
    if work.element == _FP32:
        return 0
    whole = work.element * shape.linear
    return whole // shape.layers if work.is_checkpointed and not _casts_outweigh(shape, work) else whole


def _casts_outweigh(shape: ModelShape, work: Workload) -> bool:
    """With checkpoints, whether the peak is in the forward pass, under all casts, and not in a layer that runs again."""
    if work.element == _FP32 or work.gathers_weights:
        return False
    whole = work.element * shape.linear
    return whole - whole // shape.layers > work.tokens * layer_bytes(shape, work.element)


def _head(shape: ModelShape, work: Workload) -> int:
    gradient = 0 if work.is_adapter else _FP32 * shape.embedding
    casts = 0 if work.element == _FP32 else 2 * work.element * shape.embedding  # the head, and a chunk's share of its gradient
    if work.tokens * shape.vocabulary <= KEEP_LOGITS_UP_TO:
        # In the backward pass of log-sum-exp: logits, the chosen ones' gradient, and three intermediate results.
        return gradient + casts // 2 + 5 * _FP32 * work.tokens * shape.vocabulary
    chunk = max(1, KEEP_LOGITS_UP_TO // 2 // shape.vocabulary) * shape.vocabulary
    return gradient + casts + (2 * _FP32 + (0 if work.element == _FP32 else work.element)) * chunk


def _engine_weights(shape: ModelShape, work: Workload) -> int:
    if work.element != _FP32 or work.gathers_weights:
        return work.element * shape.parameters
    if work.is_adapter:
        return _FP32 * shape.linear
    is_fused = shape.parameters < _FUSED_BELOW
    fused = shape.layers * shape.hidden * (shape.query_width + 2 * shape.kv_width + 2 * shape.intermediate)
    return _FP32 * fused if is_fused else 0


def _cache(shape: ModelShape, work: Workload) -> int:
    full = work.rows * work.length * shape.kv_bytes(work.element)
    is_whole = work.is_static_cache or full <= _AT_ONCE_BYTES
    return full if is_whole else full * 5 // 3  # the old one, two thirds of it, is there until it was copied


def _decoding(shape: ModelShape, work: Workload) -> int:
    element, query, kv = work.element, shape.query_width, shape.kv_width
    exact = 8 if shape.vocabulary <= _SMALL_VOCABULARY else 0
    logits = work.rows * shape.vocabulary * (2 * _FP32 + exact)
    scores = work.rows * shape.heads * work.length * (element + _FP32 + element)
    tokens = min(_PREFILL_TOKENS, work.prefilled)
    # The states, queries, keys and values, their rotation in complex numbers, or else the gated MLP.
    attention = 2 * element * shape.hidden + element * (query + 2 * kv) + 5 * _FP32 * (query + kv)
    inner = 2 * element * shape.hidden + 3 * element * shape.intermediate
    return max(logits + scores, tokens * max(attention, inner))
