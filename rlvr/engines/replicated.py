"""What engines have in common whose model is decoded by instances outside the trainer's computation."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rlvr.engines.base import WeightUpdate
from rlvr.engines.load import end_ids
from rlvr.engines.ranks import Alone, Ranks
from rlvr.engines.requests import check_prompt, check_sampling, model_context
from rlvr.engines.shards import is_sharded, shape_of
from rlvr.engines.vllm.gap import LIMITS, Gap, Probes, check, compare, expect, idle, measure
from rlvr.engines.vllm.pool import Pool, Replica
from rlvr.engines.vllm.request import Draw, Request, Weights
from rlvr.engines.vllm.thread import LoopThread
from rlvr.errors import EngineError
from rlvr.progress import PROGRESS
from rlvr.types import Completion, Sampling

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_WATCH_S = 2.0
_PROBE_S = 120.0  # nothing else is asked meanwhile


@dataclass(frozen=True, slots=True)
class _Asked:
    """Prompts that all instances were asked to continue by one token with the weights `version`."""

    version: str
    expected: list[torch.Tensor]  # [V] the log-probabilities of the trainer's model, after each prompt
    drawn: Future[dict[str, list[Draw]]]


class ReplicatedEngine(ABC):
    """Instances of the policy's model behind one `generate`; a subclass makes them, and says how weights reach them.

    The least busy instance answers. After every hand-over all of them and the trainer's model score the same tokens, and a mean
    distance above `gap_limit` is an error. An instance that is lost is brought back with the present weights, and what it was
    asked is asked again.

    Of several `ranks` each has an engine, with instances of its own or shared ones, and all hand weights over and compare at the
    same time; what one of them finds wrong is an error on all.

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
        ranks: Ranks | None = None,
    ) -> None:
        if precision not in _DTYPES:
            raise EngineError(f"engine precision = {precision!r}; choose one of {', '.join(_DTYPES)}")
        if max_rows < 1:
            raise EngineError(f"engine max_rows = {max_rows}; set it to 1 or more")
        self._version = 0
        self._present = Weights("", "")
        self._numbers: dict[str, int] = {}  # the policy's versions, by the instances' names for them
        self._ranks: Ranks = ranks or Alone()
        self._hands_over = True
        self._asked: _Asked | None = None
        self._last_gap = Gap(0.0, 0.0, 0)
        self.max_context = model_context(getattr(model.config, "max_position_embeddings", None), max_context)
        self.eos_ids = end_ids(model, tokenizer)
        self._model = model
        self._precision: Literal["fp32", "bf16"] = precision
        self._dtype = _DTYPES[precision]
        self._kind = kind
        self._limit = LIMITS[precision] if gap_limit is None else gap_limit
        self._vocabulary: int = shape_of(model.get_input_embeddings().weight)[0]
        self._has_tokenizer = tokenizer is not None
        self._end_ids = tuple(sorted(self.eos_ids))
        self._probes = Probes(vocabulary=self._vocabulary, max_context=self.max_context, end_ids=self._end_ids)
        self._in_flight = 0

    def _begin(
        self,
        make_replicas: Callable[[], Sequence[Replica]],
        *,
        restarts: int,
        pause_s: float = 0.0,
        hands_over: bool = True,
        version_of: Callable[[Any], Awaitable[str]] | None = None,
    ) -> None:
        """Start the instances with the model's present weights, and compare; what was begun is ended where that fails.

        hands_over: whether this rank gives the instances their weights; False where another one does so for all.
        version_of: asks an instance for its weights. With it they are looked after even when this rank asks nothing of them.
        """
        self._hands_over = hands_over
        self._thread = LoopThread(f"rlvr {self._kind}")
        self._pool = Pool((), restarts=restarts, kind=self._kind)
        try:
            self._pool = Pool(make_replicas(), restarts=restarts, pause_s=pause_s, kind=self._kind)
            self._name(self._weights())
            self._thread.run(self._pool.start(self._present))
            self._meet()
            self.start_gap = self._measure_gap()
            if version_of is not None:
                self._thread.begin(self._pool.watch(version_of, _WATCH_S))
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
    def policy_version(self) -> int:
        return self._version

    @policy_version.setter
    def policy_version(self, version: int) -> None:
        self._version = self._numbers[self._present.version] = version

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
        version = self._version
        self._in_flight += 1
        try:
            with PROGRESS.uncounted():  # the instances are watched by the pool
                draw = await self._thread.hand_over(self._pool.draw(request))
        finally:
            self._in_flight -= 1
        self._probes.remember(prompt, draw.token_ids)
        return draw.completion(self._numbers, version)

    def update_weights(self) -> WeightUpdate:
        """Hand the model's present weights over, compare logprobs, and raise `policy_version` by one.

        Raises:
            EngineError: requests are in flight, the weights do not arrive, or an instance computes something else with them.
        """
        if self._in_flight:
            raise EngineError(f"weights cannot change while {self._in_flight} requests are in flight; await them first")
        return self._hand_over(waits=True)

    async def close(self) -> None:
        """End the instances that are ours and forget the others. Harmless the second time."""
        self._close()

    def _hand_over(self, *, waits: bool) -> WeightUpdate:
        """Not waiting for answers, what is asked to compare is looked at with the next hand-over."""
        started = time.perf_counter()
        gap = self._answered()
        self._name(self._weights())
        self._thread.run(self._pool.expect(self._present))
        self._meet()  # an instance may answer with them as soon as the first rank has handed them over
        if self._hands_over:
            self._thread.run(self._pool.load(self._present))
        self._meet()
        if not self._hands_over:
            self._thread.run(self._pool.loaded(self._present))
        self._keep_newest()
        if waits:
            gap = self._measure_gap()
        else:
            self._asked = self._ask()
        return WeightUpdate(gap.mean, gap.largest, time.perf_counter() - started, self._pool.restarts)

    def _name(self, weights: Weights) -> None:
        """These are the next version of the policy; the first ones are the present version."""
        self._version += bool(self._numbers)
        self._numbers[weights.version] = self._version
        self._present = weights

    def _meet(self) -> None:
        self._ranks.gather_lists([])

    def _measure_gap(self) -> Gap:
        """The largest gap of all instances of all ranks.

        Raises:
            EngineError: it is above the limit.
        """
        requests = self._probes.requests()
        drawn = self._thread.run(self._pool.draw_on_each(requests, _PROBE_S))
        if not drawn:
            raise EngineError(f"every {self._kind} was lost right after it took over the weights")
        found = {name: measure(requests, draws, self._model, precision=self._precision) for name, draws in drawn.items()}
        self._keep_step(sum(bool(draw.token_ids) for draws in drawn.values() for draw in draws))
        return self._worst(found)

    def _ask(self) -> _Asked:
        requests = self._probes.requests(1)
        expected = [expect(request, self._model, precision=self._precision) for request in requests]
        self._keep_step(len(requests))
        return _Asked(self._present.version, expected, self._thread.begin(self._pool.draw_on_each(requests)))

    def _answered(self) -> Gap:
        """The largest gap of what was asked after the last hand-over; that of the one before where newer weights answered.

        Raises:
            EngineError: it is above the limit.
        """
        asked, self._asked = self._asked, None
        if asked is None:
            return self._last_gap
        drawn = asked.drawn.result()
        found = {name: compare(asked.expected, draws, asked.version) for name, draws in drawn.items()}
        return self._worst({name: gap for name, gap in found.items() if gap is not None})

    def _keep_step(self, scored: int) -> None:
        """A model in parts scores on all ranks together: one that `scored` less often than others goes on."""
        if is_sharded(self._model):
            counts = [count for [count] in self._ranks.gather_lists([scored])]
            for _ in range(max(counts) - scored):
                idle(self._model, self._precision)

    def _worst(self, found: dict[str, Gap]) -> Gap:
        everywhere = [
            (f"{name} (of rank {rank})" if self._ranks.size > 1 else name, gap)
            for rank, gaps in enumerate(self._ranks.gather_lists(list(found.items())))
            for name, gap in gaps
        ]
        for name, gap in everywhere:
            check(gap, self._limit, name)
        self._last_gap = max((gap for _, gap in everywhere), key=lambda gap: gap.mean, default=self._last_gap)
        return self._last_gap

    def _close(self) -> None:
        try:
            if not self._thread.is_stopped:
                self._thread.run(self._pool.close())
        finally:
            self._thread.stop()
            self._forget_weights()
