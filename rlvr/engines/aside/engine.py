"""The native engine in a process of its own, so that it generates while the trainer updates."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from rlvr import seeding
from rlvr.engines.aside.link import Link
from rlvr.engines.aside.wire import Setup, completion_of, request_row
from rlvr.engines.base import WeightUpdate
from rlvr.engines.load import end_ids
from rlvr.engines.ranks import Alone, Ranks, leader_here
from rlvr.engines.requests import check_prompt, check_sampling, model_context
from rlvr.engines.shards import device_of, shape_of
from rlvr.engines.threads import shares
from rlvr.engines.vllm.gap import LIMITS, Gap
from rlvr.engines.vllm.weights import WeightsFolder, merged_tensors
from rlvr.errors import EngineError, boundary
from rlvr.progress import PROGRESS
from rlvr.types import Completion, Sampling

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PROBE_TOKENS = 24
_RECENT = 3
_PUSHED = 1  # of these, where nothing waits for the hand-over but the next update
_BEAT_S = 5.0


@dataclass(frozen=True, slots=True)
class _Probe:
    """A prompt that both sides continue by one token: what the trainer's model thinks of every token, and what was drawn."""

    expected: torch.Tensor  # [V] log-probabilities
    version: int
    drawn: Future[Any]


@dataclass(frozen=True, slots=True)
class _Present:
    """The newest weights: one object, because a process that is started again reads path and version from another thread."""

    path: str
    version: int


class AsideEngine:
    """A copy of the model in another process, which decodes it with the native engine.

    A request's tokens are those of `NativeEngine`, bit for bit where both have as many threads. Weights go over as a file in
    memory; `push_weights` hands them over between two decoding steps, and sequences in flight go on with what is in their cache.
    After every hand-over both sides say how likely the same next tokens are, and more than the usual rounding between them is an
    error: at once after `update_weights`, with the next hand-over after `push_weights`, which does not wait for an answer.

    A process that dies, or has not finished a decoding step for `silent_s`, is started again with the newest weights, `restarts`
    times, and what it was asked is asked again. It ends when this one does, however that happens. Of several `ranks` each has its
    own, and those of one machine read the same file.

    Raises:
        EngineError: the process does not start, or cannot run the model.
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
        restarts: int = 3,
        start_s: float = 300.0,
        silent_s: float = 600.0,
        ranks: Ranks | None = None,
    ) -> None:
        if precision not in _DTYPES:
            raise EngineError(f"engine precision = {precision!r}; choose one of {', '.join(_DTYPES)}")
        if max_rows < 1:
            raise EngineError(f"engine max_rows = {max_rows}; set it to 1 or more")
        if min(start_s, silent_s) <= 0 or restarts < 0:
            raise EngineError(
                f"engine.args: restarts = {restarts}, start_s = {start_s:g}, silent_s = {silent_s:g}; seconds are more "
                "than 0, and restarts 0 or more"
            )
        self.max_context = model_context(getattr(model.config, "max_position_embeddings", None), max_context)
        self.eos_ids = end_ids(model, tokenizer)
        self._model, self._precision = model, precision
        self._has_tokenizer = tokenizer is not None
        self._vocabulary: int = shape_of(model.get_input_embeddings().weight)[0]
        self._max_rows = max_rows
        self._threads = threads or shares(torch.get_num_threads()).generation
        self._silent_s = silent_s
        self._ranks: Ranks = ranks or Alone()
        self._leader = leader_here(self._ranks)
        self._in_flight = 0
        self._recent: deque[tuple[int, ...]] = deque(maxlen=_RECENT)
        rng = seeding.rng("aside probe", self._vocabulary)
        self._probe_tokens = min(_PROBE_TOKENS, self.max_context - 1)
        self._random = tuple(rng.randrange(self._vocabulary) for _ in range(self._probe_tokens))
        self._probes: list[_Probe] = []
        self._last_gap = Gap(0.0, 0.0, 0)
        self._folder = WeightsFolder(None)
        try:
            self._base = self._save_config(tokenizer)
            self._present = _Present(self._written(), 0)
            self._link = Link(self._setup, restarts=restarts, start_s=start_s, silent_s=silent_s)
            # A run that is refused after its engine was made never closes it.
            self._end = weakref.finalize(self, _end, self._link, self._folder)
            self._probes = self._ask_probes()
            self.start_gap = self._gap()
        except BaseException:
            self._folder.remove()
            raise
        self.decoder_name = self._link.decoder_name

    @property
    def policy_version(self) -> int:
        return self._present.version

    @policy_version.setter
    def policy_version(self, version: int) -> None:
        self._present = replace(self._present, version=version)
        self._link.tell({"rename": version})

    @property
    def restarts(self) -> int:
        """How often the process was started again so far."""
        return self._link.restarts

    @property
    def pid(self) -> int:
        """Of the process that generates now."""
        return self._link.pid

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion of `prompt_ids`; see `NativeEngine.generate`.

        Raises:
            ContextFullError: the prompt is too long.
            EngineError: a prompt or setting that cannot be served, or the process died too often.
        """
        prompt = tuple(prompt_ids)
        check_prompt(prompt, vocabulary=self._vocabulary, max_context=self.max_context)
        check_sampling(sampling, has_tokenizer=self._has_tokenizer)
        number, answer = self._link.ask(request_row(prompt, sampling, is_urgent=False))
        self._in_flight += 1
        try:
            with PROGRESS.uncounted():  # the process is watched by the link
                completion = completion_of(await asyncio.wrap_future(answer))
        except asyncio.CancelledError:
            self._link.forget(number)
            raise
        finally:
            self._in_flight -= 1
        whole = (*prompt, *completion.token_ids)
        if len(whole) >= self._probe_tokens:
            self._recent.append(whole[: self._probe_tokens])
        return completion

    def update_weights(self) -> WeightUpdate:
        """Hand the model's present weights over, and raise `policy_version` by one.

        Raises:
            EngineError: requests are in flight, the weights do not arrive, or the process computes something else with them.
        """
        if self._in_flight:
            raise EngineError(f"weights cannot change while {self._in_flight} requests are in flight; await them first")
        return self._hand_over(waits=True)

    def push_weights(self) -> WeightUpdate:
        """The same while requests are in flight; the probes of this hand-over are looked at with the next one.

        Raises:
            EngineError: the weights do not arrive, or the process computed something else with the last ones.
        """
        return self._hand_over(waits=False)

    async def close(self) -> None:
        """End the process. Harmless the second time."""
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """The same, waiting."""
        self._end()

    def _hand_over(self, *, waits: bool) -> WeightUpdate:
        started = time.perf_counter()
        gap = self._gap()
        self._present = _Present(self._written(), self.policy_version + 1)
        _, taken = self._link.ask({"weights": self._present.path, "version": self._present.version})
        self._probes = self._ask_probes(_RECENT if waits else _PUSHED)  # scored here while the process reads; then it answers
        answer = taken.result()
        if "error" in answer:
            raise EngineError(f"the weights were not taken over: {answer['error']}")
        self._ranks.gather_lists([])  # the others of this machine may still be reading the same file
        self._folder.keep_newest()
        if waits:
            gap = self._gap()
        return WeightUpdate(gap.mean, gap.largest, time.perf_counter() - started, self._link.restarts)

    @torch.no_grad()
    def _ask_probes(self, recent: int = _RECENT) -> list[_Probe]:
        prompts = list(dict.fromkeys((*tuple(self._recent)[-recent:], self._random)))
        device = device_of(self._model)
        with (
            boundary(EngineError, "scoring with the trainer's model, to compare it with the process that generates"),
            torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bf16"),
        ):
            logits = self._model(input_ids=torch.tensor(prompts, device=device), use_cache=False).logits[:, -1]
        expected = logits.float().log_softmax(-1).cpu()
        return [
            _Probe(expected[index], self.policy_version, self._link.ask(request_row(prompt, _ONE_TOKEN, is_urgent=True))[1])
            for index, prompt in enumerate(prompts)
        ]

    def _gap(self) -> Gap:
        """Between the log-probabilities of the tokens that the probes drew, here and there.

        Raises:
            EngineError: it is larger than rounding makes it.
        """
        differences = []
        for probe in self._probes:
            drawn = completion_of(probe.drawn.result())
            if drawn.policy_version == probe.version:  # else new weights overtook it, or a restart
                differences.append(abs(drawn.logprobs[0] - float(probe.expected[drawn.token_ids[0]])))
        self._probes = []
        if differences:
            self._last_gap = Gap(sum(differences) / len(differences), max(differences), len(differences))
            if not self._last_gap.mean <= LIMITS[self._precision]:
                mean, limit = self._last_gap.mean, LIMITS[self._precision]
                raise EngineError(
                    f"the process that generates does not compute what the trainer's model computes: over {len(differences)} "
                    f"tokens their logprobs differ by {mean:.4g} on average (limit {limit:g}), so it has other weights. "
                    "This is a fault of rlvr; generate in this process with rollout.max_staleness = 0"
                )
        return self._last_gap

    def _written(self) -> str:
        dtype = _DTYPES[self._precision]
        return self._folder.write_together(self._model, dtype, self._ranks, self._leader, merged_tensors).path

    def _setup(self) -> Setup:
        return Setup(
            folder=str(self._folder.path / "model"),
            weights=self._present.path,
            version=self._present.version,
            device=str(device_of(self._model)),
            precision=self._precision,
            attention=getattr(self._base.config, "_attn_implementation", None),
            max_rows=self._max_rows,
            max_context=self.max_context,
            has_tokenizer=self._has_tokenizer,
            end_ids=tuple(sorted(self.eos_ids)),
            threads=self._threads,
            beat_s=min(_BEAT_S, self._silent_s / 5),
        )

    def _save_config(self, tokenizer: Any) -> Any:
        folder = self._folder.path / "model"
        base = self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model
        with boundary(EngineError, f"writing the model's config to {folder}"):
            base.config.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        return base


_ONE_TOKEN = Sampling(max_tokens=1)


def _end(link: Link, folder: WeightsFolder) -> None:
    link.close()
    folder.remove()
