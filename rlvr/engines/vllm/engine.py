"""vLLM as the engine of a run: colocated with the trainer, or as servers on other GPUs and machines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

from rlvr.engines.base import WeightUpdate
from rlvr.engines.ranks import Ranks, leader_here
from rlvr.engines.replicated import ReplicatedEngine
from rlvr.engines.shards import device_of, is_sharded, plain_type
from rlvr.engines.vllm.broadcast import TRANSPORTS
from rlvr.engines.vllm.broadcast_server import BroadcastServer
from rlvr.engines.vllm.local import LocalReplica, LocalSetup, kv_bytes, save_folder
from rlvr.engines.vllm.pool import Replica
from rlvr.engines.vllm.request import Weights
from rlvr.engines.vllm.servers import Expected, ServerReplica, SharedServer, addresses
from rlvr.engines.vllm.transfer import TRAINER_SIDES
from rlvr.engines.vllm.weights import WeightsFolder, checkpoint_tensors
from rlvr.errors import ConfigError, EngineError
from rlvr.types import JSON

_PAUSE_S = 1.0  # Ctrl-C ends vLLM's processes, too, a moment before the run is closed: those must not be started again


@dataclass(frozen=True, slots=True)
class VllmSettings:
    """`engine.args` that are rlvr's own; all others are vLLM's engine arguments."""

    gap_limit: float | None = None  # mean |logprob gap| to the trainer's model; None: 1e-3 in fp32, 0.15 in bf16
    weights: Literal["file", "ipc", "gloo", "nccl"] = "file"  # their way: ipc to the colocated vLLM, the last two to servers
    restarts: int = 3  # how often an instance that died is brought back
    folder: str | None = None  # for weights on their way; servers on other machines need one that they share
    request_s: float = 3600.0  # an instance that has not answered after so long, waiting included, is taken for dead
    start_s: float = 120.0  # how long a server that was lost may take to come back
    sleep: bool = False  # give the GPU's memory back while the trainer updates (vLLM's sleep mode, colocated)


class VllmEngine(ReplicatedEngine):
    """Generates with vLLM for any number of concurrent `generate` calls, up to `max_rows` at a time on each instance.

    Without `url`, vLLM runs on this machine, in processes of its own that the engine starts and ends. With `url` (several, with
    commas between them) it asks servers, the least busy first. Tokens go in and come out; text is made only to look for stop
    strings. Logprobs are those of the distribution sampled from, temperature and truncation included; a greedy request records
    the log-softmax of the plain logits. A request's seed decides its tokens as far as rounding allows: vLLM's batches are not
    bitwise reproducible.

    The weights go over at the start and with every `update_weights`; each time both models score the same tokens, and more than
    `gap_limit` between them is an error. `push_weights` stops vLLM between two decoding steps for them: requests in flight go on
    afterwards, over a cache that the new weights have computed anew, and each token names the version that sampled it. An
    instance that dies is brought back with the present weights, and what it was asked is asked again.

    Of several `ranks` each has a vLLM of its own, or asks the same servers; of those that share weights one writes them.

    `settings` are those of `VllmSettings` and, for the colocated vLLM, its engine arguments (`gpu_memory_utilization`,
    `kv_cache_memory_bytes`, `tensor_parallel_size`, ...).

    Raises:
        ConfigError: vLLM or httpx is missing, a setting is unknown, or does not go with others.
        EngineError: vLLM does not start, a server is down or has another model, or the weights do not arrive.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_rows: int = 256,
        max_context: int | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        url: str | Sequence[str] | None = None,
        ranks: Ranks | None = None,
        **settings: JSON,
    ) -> None:
        own, arguments = _split(settings)
        _check_machine(bool(url), arguments)
        _check_route(own, bool(url), model)
        super().__init__(
            model,
            tokenizer,
            max_rows=max_rows,
            max_context=max_context or arguments.get("max_model_len"),
            precision=precision,
            kind="instance of vLLM",
            gap_limit=own.gap_limit,
            ranks=ranks,
        )
        self._has_file = own.weights not in TRAINER_SIDES
        self._sleeps = own.sleep
        servers = addresses(url) if url else ()
        self._leader = 0 if servers else leader_here(self._ranks)
        is_shared = bool(servers) and self._ranks.size > 1
        self._folder = WeightsFolder(own.folder)
        self._begin(
            lambda: self._servers(servers, own, max_rows) or [self._local(tokenizer, max_rows, own, arguments)],
            restarts=own.restarts,
            pause_s=_PAUSE_S,
            hands_over=not is_shared or self._ranks.rank == self._leader,
            version_of=ServerReplica.version if is_shared and self._ranks.rank == self._leader else None,
        )

    def rest(self) -> None:
        """With the setting `sleep`, vLLM gives back its memory until the next `update_weights`.

        Raises:
            EngineError: requests are in flight, or vLLM refuses.
        """
        if self._sleeps:
            if self._in_flight:
                raise EngineError(f"vLLM cannot sleep while {self._in_flight} requests are in flight; await them first")
            self._thread.run(self._pool.rest())

    def push_weights(self) -> WeightUpdate:
        """The same while requests are in flight; what is compared after this hand-over is looked at with the next one.

        Raises:
            EngineError: the weights do not arrive, or vLLM computed something else with the last ones.
        """
        return self._hand_over(waits=False)

    def _weights(self) -> Weights:
        if self._has_file:
            return self._folder.write_together(self._model, self._dtype, self._ranks, self._leader)
        return self._folder.name_only()

    def _keep_newest(self) -> None:
        self._folder.keep_newest()

    def _forget_weights(self) -> None:
        self._folder.remove()

    def _local(self, tokenizer: Any, max_rows: int, own: VllmSettings, arguments: dict[str, JSON]) -> Replica:
        folder = self._folder.path / "model"
        base = self._model.get_base_model() if hasattr(self._model, "get_base_model") else self._model
        save_folder(folder, base.config, plain_type(base).__name__, tokenizer)
        device = device_of(self._model)
        setup = LocalSetup(
            folder=str(folder),
            device=device,
            precision=self._precision,
            max_rows=max_rows,
            max_context=self.max_context,
            kv_bytes=kv_bytes(base.config, self._precision) * self.max_context,
            has_tokenizer=tokenizer is not None,
            arguments=arguments,
            tensors=lambda: checkpoint_tensors(self._model, self._dtype),
            request_s=own.request_s,
            weights=own.weights,
            sleeps=own.sleep,
        )
        return LocalReplica(setup)

    def _servers(self, urls: Sequence[str], own: VllmSettings, max_rows: int) -> list[Replica]:
        expected = Expected(self.max_context, self._vocabulary)
        kind: Callable[..., ServerReplica] = SharedServer
        if self._ranks.rank == self._leader:
            kind = ServerReplica if own.weights == "file" else self._sent_to(own.weights)
        return [kind(url, expected, max_requests=max_rows, request_s=own.request_s, start_s=own.start_s) for url in urls]

    def _sent_to(self, transport: str) -> Callable[..., ServerReplica]:
        return partial(BroadcastServer, transport=transport, device=device_of(self._model), in_turn=asyncio.Lock())


def _split(settings: dict[str, JSON]) -> tuple[VllmSettings, dict[str, JSON]]:
    names = {field.name for field in fields(VllmSettings)}
    own = VllmSettings(**{name: value for name, value in settings.items() if name in names})
    if own.restarts < 0 or (own.gap_limit is not None and own.gap_limit <= 0) or min(own.request_s, own.start_s) <= 0:
        raise ConfigError(f"{own}: restarts are 0 or more, gap_limit, request_s and start_s more than 0")
    return own, {name: value for name, value in settings.items() if name not in names}


def _check_machine(is_remote: bool, arguments: Mapping[str, JSON]) -> None:  # noqa: FBT001
    if is_remote and arguments:
        raise ConfigError(
            f"engine.args.{next(iter(arguments))} cannot be set for a server (engine.url): give it to `vllm serve` instead"
        )
    missing = "httpx" if is_remote else "vllm"
    if find_spec(missing) is None:
        extra = "remote" if is_remote else "vllm"
        raise ConfigError(f"engine 'vllm' needs {missing}, which is not installed: pip install 'rlvr[{extra}]'")


def _check_route(own: VllmSettings, is_remote: bool, model: Any) -> None:  # noqa: FBT001
    device = device_of(model)
    if own.sleep and is_remote:
        raise ConfigError(
            "engine.args.sleep = true is for vLLM on the trainer's own GPU; servers have memory of their own: leave it out"
        )
    if own.weights not in ("file", *TRAINER_SIDES, *TRANSPORTS):
        known = ", ".join(("file", *TRAINER_SIDES, *TRANSPORTS))
        raise ConfigError(f"engine.args.weights = {own.weights!r}; choose one of {known}")
    if own.weights in TRANSPORTS and not is_remote:
        raise ConfigError(
            f"engine.args.weights = {own.weights!r} is for servers (engine.url); the vLLM of this machine takes file or ipc"
        )
    if own.weights == "nccl" and device.type != "cuda":
        raise ConfigError(f"engine.args.weights = 'nccl' is for a model on GPUs, not for one on {device.type}; use gloo or file")
    if own.weights in TRAINER_SIDES and (is_remote or device.type != "cuda" or is_sharded(model)):
        where = "a server" if is_remote else "a model in parts" if is_sharded(model) else f"a model on {device.type}"
        other = "gloo, nccl or file" if is_remote else "file"
        raise ConfigError(
            f"engine.args.weights = {own.weights!r} is for vLLM on the trainer's own GPU, not for {where}; use {other}"
        )
