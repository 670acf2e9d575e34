"""The native engine in several processes at once: small models keep one core busy each, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from rlvr.engines.aside.engine import AsideEngine
from rlvr.engines.base import WeightUpdate
from rlvr.engines.native import NativeEngine
from rlvr.engines.ranks import Ranks
from rlvr.engines.shards import device_of
from rlvr.errors import EngineError
from rlvr.types import Completion, Sampling


class SpreadEngine:
    """The trainer's process decodes, and `processes - 1` others do the same, each with a copy of the model and its share of the
    threads and of `max_rows`.

    A request's tokens are those of `NativeEngine`, bit for bit where that decodes with as many threads: always for models that
    are too small for more than one. Requests with one prompt go to one process, where they share its prefill; otherwise the least
    busy one answers. What is said of weights, and of a process that dies, in `AsideEngine` holds for each of the others.

    Raises:
        EngineError: fewer than 1 process, a model that is not on the CPU, or a process does not start.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_rows: int = 256,
        max_context: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        processes: int = 2,
        restarts: int = 3,
        start_s: float = 300.0,
        silent_s: float = 600.0,
        ranks: Ranks | None = None,
    ) -> None:
        if processes < 1:
            raise EngineError(f"engine.args.processes = {processes}; set it to 1 or more")
        if device_of(model).type != "cpu":
            raise EngineError(
                f"engine.args.processes = {processes}, but the model is on {device_of(model)}: several processes share out the "
                "cores of a CPU; leave it out"
            )
        share = max(1, torch.get_num_threads() // processes)
        rows = -(-max_rows // processes)
        self._here = NativeEngine(
            model,
            tokenizer,
            max_rows=rows,
            max_context=max_context,
            precision=precision,
            threads=share if processes > 1 else None,
        )
        self._others: list[AsideEngine] = []
        try:
            for _ in range(processes - 1):
                self._others.append(
                    AsideEngine(
                        model, tokenizer, max_rows=rows, max_context=max_context, precision=precision, threads=share,
                        restarts=restarts, start_s=start_s, silent_s=silent_s, ranks=ranks,
                    )
                )  # fmt: skip
        except BaseException:
            for other in self._others:
                other.end()
            raise
        self._members: tuple[NativeEngine | AsideEngine, ...] = (self._here, *self._others)
        self._busy = [0] * processes  # requests in flight
        self._prompts: dict[tuple[int, ...], tuple[int, int]] = {}  # in flight: who has it, and how often
        self.max_context = self._here.max_context
        self.eos_ids = self._here.eos_ids
        self.decoder_name = self._here.decoder_name

    @property
    def policy_version(self) -> int:
        return self._here.policy_version

    @policy_version.setter
    def policy_version(self, version: int) -> None:
        for member in self._members:
            member.policy_version = version

    @property
    def restarts(self) -> int:
        """How often a process was started again so far."""
        return sum(other.restarts for other in self._others)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of the other processes."""
        return tuple(other.pid for other in self._others)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        """Sample one completion of `prompt_ids`; see `NativeEngine.generate`.

        Raises:
            ContextFullError: the prompt is too long.
            EngineError: a prompt or setting that cannot be served, or a process died too often.
        """
        prompt = tuple(prompt_ids)
        index, count = self._prompts.get(prompt, (self._busy.index(min(self._busy)), 0))
        self._prompts[prompt] = index, count + 1
        self._busy[index] += 1
        try:
            return await self._members[index].generate(prompt, sampling)
        finally:
            self._busy[index] -= 1
            index, count = self._prompts.pop(prompt)
            if count > 1:
                self._prompts[prompt] = index, count - 1

    def update_weights(self) -> WeightUpdate | None:
        """Take over the model's present weights everywhere, and raise `policy_version` by one.

        What the others compute with them is compared with the next hand-over, so that it costs no waiting.

        Raises:
            EngineError: requests are in flight, the weights do not arrive, or a process computed something else with
                the last ones.
        """
        if any(self._busy):
            raise EngineError(f"weights cannot change while {sum(self._busy)} requests are in flight; await them first")
        self._here.update_weights()
        updates = [other.push_weights() for other in self._others]
        if not updates:
            return None
        return WeightUpdate(
            max(update.gap_mean for update in updates),
            max(update.gap_max for update in updates),
            sum(update.elapsed_s for update in updates),
            self.restarts,
        )

    async def close(self) -> None:
        """End the processes. Harmless the second time."""
        await self._here.close()
        for other in self._others:
            await other.close()
