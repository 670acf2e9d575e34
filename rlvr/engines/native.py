"""The native engine: continuous batching over a Hugging Face causal LM, in the trainer's own process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from rlvr.engines.load import end_ids
from rlvr.engines.memory import within_memory
from rlvr.engines.requests import check_prompt, check_sampling, model_context
from rlvr.engines.rows import NOT_A_TOKEN, RowTable
from rlvr.engines.select import choose_decoder
from rlvr.engines.shards import device_of, shape_of
from rlvr.engines.stops import StopFinder
from rlvr.engines.threads import decoding_threads, threads
from rlvr.errors import EngineError, boundary
from rlvr.progress import PROGRESS
from rlvr.types import Completion, FinishReason, Sampling

_KEPT_BYTES = 2**28  # of cache, between one burst of requests and the next
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(slots=True)
class _Request:
    """A row, from its arrival to its completion."""

    prompt: tuple[int, ...]
    sampling: Sampling
    limit: int  # tokens that it may sample
    future: asyncio.Future[Completion]
    born: int = 0  # the engine's clock when its prompt was prefilled
    version: int = 0  # of the weights that sampled its first token


class NativeEngine:
    """Generates for any number of concurrent `generate` calls, up to `max_rows` at a time, first come first served.

    Rows that finish leave at once and waiting requests take their place; requests with the same prompt that enter together
    share its prefill. In fp32 on the CPU a request's tokens depend on its prompt, its `Sampling` and the weights alone.

    `model` is the trainer's own. With precision fp32 its weights are read in place where possible; with bf16 the engine
    keeps a bf16 copy. Either way `update_weights` must follow every change of weights. `decoder_name` says what runs:
    "llama" (our own forward pass; LoRA adapters are merged into copies), "generic" (the model's forward pass with a cache)
    or "generic-uncached". `threads`: of the CPU, at most; None is torch's own number. Small models are decoded by one.

    Logprobs are those of the distribution sampled from; a greedy request (temperature 0) records the log-softmax of the
    plain logits. The NaN of a diverged model is an error, never a token.

    Raises:
        EngineError: `max_context` beyond the model's, or a model that cannot be decoded.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_rows: int = 256,
        max_context: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        threads: int | None = None,
    ) -> None:
        if precision not in _DTYPES:
            raise EngineError(f"engine precision = {precision!r}; choose one of {', '.join(_DTYPES)}")
        if max_rows < 1:
            raise EngineError(f"engine max_rows = {max_rows}; set it to 1 or more")
        self.policy_version = 0
        self.max_context = model_context(getattr(model.config, "max_position_embeddings", None), max_context)
        self._vocabulary: int = shape_of(model.get_input_embeddings().weight)[0]
        self._max_rows = max_rows
        self._stops = None if tokenizer is None else StopFinder(tokenizer)
        self.eos_ids = end_ids(model, tokenizer)
        with boundary(EngineError, f"preparing {type(model).__name__} for generation"):
            self._decoder = choose_decoder(model, dtype=_DTYPES[precision], max_context=self.max_context)
        self.decoder_name = self._decoder.name
        self._threads = decoding_threads(model) or threads
        self._table = RowTable(device_of(model))
        self._waiting: deque[_Request] = deque()
        self._rows: list[_Request] = []  # in slot order
        self._clock = 0  # decode steps so far
        self._reach = 0  # the longest row's length minus the clock
        self._oldest = 0  # the earliest `born`
        self._next_full = 0  # the clock when a row reaches its limit
        self._has_stops = False
        self._has_cancelled = False
        self._changes: list[tuple[int, int]] = []  # the clock when weights came while rows were decoded, and their version
        self._server: asyncio.Task[None] | None = None

    @staticmethod
    def beside() -> Callable[..., Any]:
        """The same engine for a trainer that updates meanwhile: in a process of its own."""
        from rlvr.engines.aside.engine import AsideEngine

        return AsideEngine

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, is_urgent: bool = False) -> Completion:
        """Sample one completion of `prompt_ids`.

        It ends with an end-of-sequence token, with the token that completes a stop string, after `max_tokens`, or where the
        context is full. One that `is_urgent` goes before those that wait.

        Raises:
            ContextFullError: the prompt is too long.
            EngineError: an empty prompt, a setting out of range, or a forward pass that failed.
        """
        prompt = tuple(prompt_ids)
        check_prompt(prompt, vocabulary=self._vocabulary, max_context=self.max_context)
        check_sampling(sampling, has_tokenizer=self._stops is not None)
        loop = asyncio.get_running_loop()
        self._leave_dead_loop()
        limit = min(sampling.max_tokens, self.max_context - len(prompt))
        request = _Request(prompt, sampling, limit, loop.create_future())
        (self._waiting.appendleft if is_urgent else self._waiting.append)(request)
        if self._server is None or self._server.done():
            self._server = loop.create_task(self._serve())
        try:
            return await request.future
        except asyncio.CancelledError:
            self._has_cancelled = True
            raise

    def update_weights(self) -> None:
        """Take over the model's present weights and raise `policy_version` by one.

        Raises:
            EngineError: requests are in flight.
        """
        if self._waiting or self._rows:
            count = len(self._waiting) + len(self._rows)
            raise EngineError(f"weights cannot change while {count} requests are in flight; await them first")
        self.take_weights(self.policy_version + 1)

    def take_weights(self, version: int) -> None:
        """Take over the model's present weights as `version`, between two decoding steps: requests in flight go on with them.

        What they have in the cache stays as the old weights computed it, and each token is marked with its version. Sampling
        logprobs are those of what was really sampled from: new weights over an old cache.
        """
        with boundary(EngineError, "taking over the policy's weights"):
            self._decoder.refresh()
        self.policy_version = version
        self._changes = [change for change in self._changes if self._rows and change[0] >= self._oldest]
        self._changes += [(self._clock, version)] if self._rows else []

    async def close(self) -> None:
        """Cancel what is in flight and free the cache."""
        server, self._server = self._server, None
        if server is not None and not server.done():
            server.cancel()
            await asyncio.wait([server])
        self._decoder.clear()

    async def _serve(self) -> None:
        """Step until nobody waits, letting other coroutines run between steps."""
        try:
            while self._waiting or self._rows:
                doing = f"generating, with {len(self._rows)} rows and {len(self._waiting)} requests waiting"
                with boundary(EngineError, doing), within_memory(EngineError, doing, self._smaller()):
                    self._step()
                PROGRESS.made()
                await asyncio.sleep(0)
            if self._decoder.held_bytes() > _KEPT_BYTES:
                self._decoder.clear()
        except EngineError as error:
            self._decoder.clear()  # a NaN in a slot would outlive its row
            for request in (*self._rows, *self._waiting):
                if not request.future.done():
                    failure = EngineError(str(error))
                    failure.__cause__ = error.__cause__
                    request.future.set_exception(failure)
        finally:
            for request in (*self._rows, *self._waiting):
                request.future.cancel()
            self._waiting.clear()
            self._rows.clear()
            self._table.clear()

    def _smaller(self) -> str:
        return (
            f"lower engine.max_rows (it is {self._max_rows}) or the tokens of a rollout (rollout.max_tokens), or share "
            "what training holds over several processes (load.parallel = fsdp)"
        )

    @torch.inference_mode()
    def _step(self) -> None:
        if self._has_cancelled:
            self._drop_cancelled()
        self._admit()
        if self._rows:
            self._clock += 1
            with threads(self._threads):
                logits = self._decoder.decode(self._table.last_tokens(), self._longest())
                self._draw(0, logits)

    def _admit(self) -> None:
        """Let waiting requests in. A few free rows wait for more, so that a prefill serves several."""
        room = self._max_rows - len(self._rows)
        if not self._waiting or room < min(len(self._waiting), self._max_rows // 16 + 1):
            return
        entering = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        first = len(self._rows)
        prompts: dict[tuple[int, ...], int] = {}
        prompt_of_row = [prompts.setdefault(request.prompt, len(prompts)) for request in entering]
        for request in entering:
            request.born, request.version = self._clock, self.policy_version
        self._rows += entering
        self._survey()
        limits = [request.limit for request in entering]
        self._table.append([request.sampling for request in entering])
        self._draw(first, self._decoder.prefill(first, list(prompts), prompt_of_row, limits))

    def _draw(self, first: int, logits: torch.Tensor) -> None:
        """Sample for the rows from `first` on and let the finished ones go."""
        tokens = self._table.draw(first, logits, self._clock - self._oldest + 1)
        if NOT_A_TOKEN in tokens:
            raise EngineError("the model's logits are NaN; its weights have diverged (lower optim.lr) or are damaged")
        finished: dict[int, FinishReason] = {}
        if self._clock >= self._next_full:
            for row, request in enumerate(self._rows[first:], start=first):
                if self._count(request) >= request.limit:
                    finished[row] = FinishReason.LENGTH
        if not self.eos_ids.isdisjoint(tokens):
            finished.update((row, FinishReason.STOP) for row, token in enumerate(tokens, start=first) if token in self.eos_ids)
        if self._has_stops:
            finished.update((row, FinishReason.STOP) for row in self._stopped(first, tokens))
        if finished:
            self._finish(finished)

    def _stopped(self, first: int, tokens: list[int]) -> list[int]:
        """The rows from `first` on whose newest token completes a stop string."""
        finder, stop_of = self._stops, {row: self._rows[row].sampling.stop for row in range(first, len(self._rows))}
        assert finder is not None
        rows = [row for row, stop in stop_of.items() if stop and finder.may_complete(tokens[row - first], stop)]
        if not rows:
            return []
        counts = [self._count(self._rows[row]) for row in rows]
        starts = [max(0, count - finder.window(stop_of[row])) for row, count in zip(rows, counts, strict=True)]
        drawn = self._table.tokens(rows, min(starts), max(counts))
        tails = [ids[start - min(starts) : count - min(starts)] for ids, start, count in zip(drawn, starts, counts, strict=True)]
        return [row for row, tail in zip(rows, tails, strict=True) if finder.is_complete(tail, stop_of[row])]

    def _finish(self, finished: dict[int, FinishReason]) -> None:
        rows = sorted(finished)
        most = max(self._count(self._rows[row]) for row in rows)
        token_ids, logprobs = self._table.tokens(rows, 0, most), self._table.logprobs(rows, 0, most)
        for row, ids, values in zip(rows, token_ids, logprobs, strict=True):
            request = self._rows[row]
            count = self._count(request)
            if not request.future.done():
                versions = self._versions(request, count)
                request.future.set_result(
                    Completion(tuple(ids[:count]), tuple(values[:count]), finished[row], request.version, token_versions=versions)
                )
        self._remove(rows)

    def _drop_cancelled(self) -> None:
        self._has_cancelled = False
        self._waiting = deque(request for request in self._waiting if not request.future.done())
        self._remove([row for row, request in enumerate(self._rows) if request.future.done()])

    def _remove(self, gone: list[int]) -> None:
        """Close the gaps that the rows `gone` (ascending) leave with the last rows, so that the batch stays dense."""
        if not gone:
            return
        left = len(self._rows) - len(gone)
        leaving = set(gone)
        targets = [row for row in gone if row < left]
        sources = [row for row in range(left, len(self._rows)) if row not in leaving]
        for source, target in zip(sources, targets, strict=True):
            self._rows[target] = self._rows[source]
        del self._rows[left:]
        self._survey()
        self._table.move(sources, targets, left)
        if left:
            self._decoder.move(sources, targets, left, self._longest())

    def _versions(self, request: _Request, count: int) -> tuple[int, ...] | None:
        """The version of each of a row's `count` tokens; None where its first one's sampled them all."""
        versions = [request.version] * count
        for clock, version in self._changes:
            first = clock - request.born + 1  # the token that the next decoding step drew
            if first > 0:
                versions[first:] = [version] * len(versions[first:])
        return tuple(versions) if any(version != request.version for version in versions) else None

    def _count(self, request: _Request) -> int:
        """Tokens that a row has sampled."""
        return self._clock - request.born + 1

    def _longest(self) -> int:
        """Positions in the cache of the longest row: its prompt and what it sampled, but for the newest token."""
        return self._reach + self._clock

    def _survey(self) -> None:
        """Read off the rows what every step needs, whenever they change."""
        self._reach = max((len(request.prompt) - request.born for request in self._rows), default=0)
        self._oldest = min((request.born for request in self._rows), default=self._clock)
        self._next_full = min((request.born + request.limit - 1 for request in self._rows), default=0)
        self._has_stops = any(request.sampling.stop for request in self._rows)

    def _leave_dead_loop(self) -> None:
        """Drop what an event loop left behind that was closed without ending its tasks."""
        if self._server is None or self._server.done():
            return
        loop = self._server.get_loop()
        if loop.is_closed():
            self._server = None
            self._waiting.clear()
            self._rows.clear()
            self._table.clear()
        elif loop is not asyncio.get_running_loop():
            raise EngineError("the engine is serving another event loop; use one engine for each loop")
