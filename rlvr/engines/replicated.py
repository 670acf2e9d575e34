"""What engines have in common whose model is decoded by instances outside the trainer's computation."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from rlvr.engines.base import WeightUpdate
from rlvr.engines.load import end_ids
from rlvr.engines.requests import check_prompt, check_sampling, model_context
from rlvr.engines.vllm.gap import LIMITS, Gap, Probes, check, measure
from rlvr.engines.vllm.pool import Pool, Replica
from rlvr.engines.vllm.request import Request, Weights
from rlvr.engines.vllm.thread import LoopThread
from rlvr.errors import EngineError
from rlvr.types import Completion, Sampling

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class ReplicatedEngine(ABC):
    """Instances of the policy's model behind one `generate`; a subclass makes them, and says how weights reach them.

    The least busy instance answers. After every hand-over all of them and the trainer's model score the same tokens, and a mean
    distance above `gap_limit` is an error. An instance that is lost is brought back with the present weights, and what it was
    asked is asked again.

    A subclass ends its constructor with `_begin`. `kind` is one instance, in the words of an error.

    Raises:
        EngineError: a precision or number of rows that cannot be, or more context than the model has.
    """

    runs_beside = True  # it generates while the trainer's process computes

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_rows: int,
        max_context: int | None,
        precision: Literal["fp32", "bf16"],
        kind: str,
        gap_limit: float | None = None,
    ) -> None:
        if precision not in _DTYPES:
            raise EngineError(f"engine precision = {precision!r}; choose one of {', '.join(_DTYPES)}")
        if max_rows < 1:
            raise EngineError(f"engine max_rows = {max_rows}; set it to 1 or more")
        self.policy_version = 0
        self.max_context = model_context(getattr(model.config, "max_position_embeddings", None), max_context)
        self.eos_ids = end_ids(model, tokenizer)
        self._model = model
        self._precision: Literal["fp32", "bf16"] = precision
        self._dtype = _DTYPES[precision]
        self._kind = kind
        self._limit = LIMITS[precision] if gap_limit is None else gap_limit
        self._vocabulary: int = model.get_input_embeddings().weight.shape[0]
        self._has_tokenizer = tokenizer is not None
        self._end_ids = tuple(sorted(self.eos_ids))
        self._probes = Probes(vocabulary=self._vocabulary, max_context=self.max_context, end_ids=self._end_ids)
        self._in_flight = 0

    def _begin(self, make_replicas: Callable[[], Sequence[Replica]], *, restarts: int, pause_s: float = 0.0) -> None:
        """Start the instances with the model's present weights, and compare; what was begun is ended where that fails."""
        self._thread = LoopThread(f"rlvr {self._kind}")
        self._pool = Pool((), restarts=restarts, kind=self._kind)
        try:
            self._pool = Pool(make_replicas(), restarts=restarts, pause_s=pause_s, kind=self._kind)
            self._thread.run(self._pool.start(self._weights()))
            self.start_gap = self._measure_gap()
        except BaseException:
            self._close()
            raise

    @abstractmethod
    def _weights(self) -> Weights:
        """The model's present weights, where every instance finds them until `_keep_newest`.

        Raises:
            EngineError: no room, or a model that cannot be written.
        """

    @abstractmethod
    def _keep_newest(self) -> None:
        """Forget the weights that no instance asks for any more."""

    @abstractmethod
    def _forget_weights(self) -> None:
        """Forget all weights, after the last instance has ended. Harmless the second time."""

    @property
    def restarts(self) -> int:
        """How often an instance was brought back so far."""
        return self._pool.restarts

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion of `prompt_ids`.

        It ends with an end-of-sequence token, with the token that completes a stop string, after `max_tokens`, or where the
        context is full. Cancelling the call ends the request in its instance, too.

        Raises:
            ContextFullError: the prompt is too long.
            EngineError: a prompt or setting that cannot be served, or no instance is left.
        """
        prompt = tuple(prompt_ids)
        check_prompt(prompt, vocabulary=self._vocabulary, max_context=self.max_context)
        check_sampling(sampling, has_tokenizer=self._has_tokenizer)
        limit = min(sampling.max_tokens, self.max_context - len(prompt))
        request = Request(prompt, sampling, limit, self._end_ids)
        version = self.policy_version
        self._in_flight += 1
        try:
            draw = await self._thread.hand_over(self._pool.draw(request))
        finally:
            self._in_flight -= 1
        self._probes.remember(prompt, draw.token_ids)
        return draw.completion(version)

    def update_weights(self) -> WeightUpdate:
        """Hand the model's present weights over, compare logprobs, and raise `policy_version` by one.

        Raises:
            EngineError: requests are in flight, the weights do not arrive, or an instance computes something else with them.
        """
        if self._in_flight:
            raise EngineError(f"weights cannot change while {self._in_flight} requests are in flight; await them first")
        started = time.perf_counter()
        self._thread.run(self._pool.load(self._weights()))
        self._keep_newest()
        gap = self._measure_gap()
        self.policy_version += 1
        return WeightUpdate(gap.mean, gap.largest, time.perf_counter() - started, self._pool.restarts)

    async def close(self) -> None:
        """End the instances that are ours and forget the others. Harmless the second time."""
        self._close()

    def _measure_gap(self) -> Gap:
        """The largest gap of all instances.

        Raises:
            EngineError: it is above the limit.
        """
        requests = self._probes.requests()
        drawn = self._thread.run(self._pool.draw_on_each(requests))
        gaps = {name: measure(requests, draws, self._model, precision=self._precision) for name, draws in drawn.items()}
        for name, gap in gaps.items():
            check(gap, self._limit, name)
        if not gaps:
            raise EngineError(f"every {self._kind} was lost right after it took over the weights")
        return max(gaps.values(), key=lambda gap: gap.mean)

    def _close(self) -> None:
        try:
            if not self._thread.is_stopped:
                self._thread.run(self._pool.close())
        finally:
            self._thread.stop()
            self._forget_weights()
