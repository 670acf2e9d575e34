"""vLLM in processes of its own on this machine, started, driven and started again by this one."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from rlvr.engines.vllm.owner import OWNER
from rlvr.engines.vllm.request import LOGPROBS_MODE, Draw, ReplicaLostError, Request, Weights, draw_of
from rlvr.engines.vllm.transfer import Sender
from rlvr.errors import ConfigError, EngineError, boundary
from rlvr.types import JSON

_WORKER = "rlvr.engines.vllm.worker"
_OURS = ("model", "load_format", "logprobs_mode", "generation_config", "worker_extension_cls", "weight_transfer_config")
_SEEN = "CUDA_VISIBLE_DEVICES"
_LAUNCHERS = ("TORCHELASTIC_", "ACCELERATE_", "GROUP_", "ROLE_")
_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SHUTDOWN_S = 5.0
_LOAD_S = 900.0
_FORGETS_WEIGHTS = 2  # vLLM's level of sleep: they come anew with every update, so no copy is kept
_BATCHED_TOKENS = 4096  # in one forward pass
_SMALLEST_CACHE, _LARGEST_CACHE = 2**27, 2**32  # bytes, on the CPU, where nothing is asked for


@dataclass(frozen=True, slots=True)
class LocalSetup:
    """What vLLM is started with. `folder` holds the model's config and tokenizer, not its weights."""

    folder: str
    device: torch.device
    precision: str
    max_rows: int
    max_context: int
    kv_bytes: int  # of the longest sequence, in the cache
    has_tokenizer: bool
    arguments: Mapping[str, JSON]  # the user's, by the names of vLLM's engine arguments
    tensors: Callable[[], Mapping[str, torch.Tensor]]  # the policy's present weights, for routes without a file
    request_s: float  # an engine that has not answered after so long is taken for dead
    weights: str = "file"  # the route that they take: "file", or a backend of `transfer`
    sleeps: bool = False  # between `rest` and the next weights; on a GPU only, vLLM's memory is given back


class LocalReplica:
    """One `AsyncLLM`. All methods belong to one event loop."""

    def __init__(self, setup: LocalSetup) -> None:
        self.name = "the colocated vLLM"
        self._setup = setup
        self._engine: Any = None
        self._sender: Sender | None = None
        self._is_asleep = False
        self._ids = itertools.count()

    async def start(self) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        await self.close()
        with (
            boundary(EngineError, f"vLLM did not start; what it said is above (set VLLM_LOGGING_LEVEL=INFO for more). {_ADVICE}"),
            of_a_process(self._setup),
        ):
            arguments = AsyncEngineArgs(**engine_arguments(self._setup))
            # It imports, forks and waits: everything else in this loop is to go on meanwhile.
            self._engine = await asyncio.to_thread(AsyncLLM.from_engine_args, arguments)
        self._sender = None if self._setup.weights == "file" else self.sender(self._setup.weights)
        self._is_asleep = False

    async def rest(self) -> None:
        """Give weights and cache back until the next `load`, which brings both; nothing may be asked of it meanwhile.

        Raises:
            ReplicaLostError: it died.
        """
        if self._setup.sleeps and not self._is_asleep:
            async with self._losses_noticed("going to sleep", _LOAD_S):
                await self._living().sleep(level=_FORGETS_WEIGHTS, mode="wait")
            self._is_asleep = True

    async def draw(self, request: Request) -> Draw:
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        engine = self._living()
        settings = SamplingParams(**request.settings(), output_kind=RequestOutputKind.FINAL_ONLY)
        final: Any = None
        async with self._losses_noticed("sampling", self._setup.request_s):
            (prompt,) = await engine.renderer.render_cmpl_async([TokensPrompt(prompt_token_ids=list(request.prompt))])
            async for output in engine.generate(prompt, settings, f"rlvr-{next(self._ids)}"):
                final = output
        if final is None:
            raise ReplicaLostError(f"{self.name} ended a request without an answer")
        answer = final.outputs[0]
        ids = tuple(answer.token_ids)
        rows = list(answer.logprobs or ())[: len(ids)]  # tokens after a stop string are cut off, their logprobs are not
        logprobs = tuple(float(row[token].logprob) for token, row in zip(ids, rows, strict=False))
        spans = [(str(span.version), int(span.start)) for span in answer.weight_versions or ()]
        return draw_of(ids, logprobs, str(answer.finish_reason), spans)

    async def load(self, weights: Weights) -> None:
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        engine = self._living()
        async with self._losses_noticed(f"taking over weights {weights.version}", _LOAD_S):
            if self._is_asleep:
                await engine.wake_up(["weights"])  # memory for them alone: what they are read from needs some, too
            else:
                await engine.pause_generation(mode="keep", clear_cache=False)
            try:
                if self._sender is not None:
                    await asyncio.to_thread(self._sender.send)
                    await engine.update_weight_version(weights.version)
                else:
                    await engine.start_weight_update()
                    await engine.update_weights(WeightTransferUpdateRequest({"path": weights.path}))
                    await engine.finish_weight_update(weights.version)
                if self._is_asleep:
                    await engine.wake_up(["kv_cache"])
                    self._is_asleep = False
                # What was computed with other weights would be read for the same prompts, without an error. Requests in
                # flight are read again, too, so that a token is always that of one version of the weights.
                if not await engine.reset_prefix_cache(reset_running_requests=True):
                    raise EngineError("vLLM could not empty its cache after an update")
            finally:
                await engine.resume_generation()

    def sender(self, backend: str) -> Sender:
        """For the engine that runs now; called in its loop."""
        return Sender(backend, self._setup.tensors, self._living(), asyncio.get_running_loop(), self._setup.device)

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            with contextlib.suppress(RuntimeError, OSError):  # what is dead already
                await asyncio.to_thread(engine.shutdown, _SHUTDOWN_S)

    @property
    def processes(self) -> tuple[int, ...]:
        """Ids of vLLM's own processes."""
        manager = getattr(self._living().engine_core.resources, "engine_manager", None)
        return tuple(process.pid for process in getattr(manager, "processes", ()))

    def _living(self) -> Any:
        if self._engine is None or self._engine.errored:
            raise ReplicaLostError(f"{self.name} died")
        return self._engine

    @contextlib.asynccontextmanager
    async def _losses_noticed(self, doing: str, limit_s: float) -> AsyncIterator[None]:
        """Tell an engine that died, or hangs, from a request that it refuses."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            with boundary(EngineError, f"vLLM, {doing}"):
                async with asyncio.timeout(limit_s):
                    yield
        except EngineError as error:
            if isinstance(error.__cause__, TimeoutError):
                raise ReplicaLostError(f"{self.name} did not answer within {limit_s:g} s while {doing}") from error
            if isinstance(error.__cause__, EngineDeadError) or self._engine is None or self._engine.errored:
                raise ReplicaLostError(f"{self.name} died while {doing}") from error
            raise


_ADVICE = (
    "Common reasons: too little memory (engine.args.gpu_memory_utilization, engine.args.kv_cache_memory_bytes, "
    "engine.max_rows), or a script that trains outside `if __name__ == '__main__':`, which vLLM's processes import again"
)


def engine_arguments(setup: LocalSetup) -> dict[str, JSON]:
    """vLLM's engine arguments: what the run needs, what its size suggests, and over that what the user set.

    Raises:
        ConfigError: an argument that vLLM does not have, or one that is not the user's to set.
    """
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = [field.name for field in fields(AsyncEngineArgs)]
    for name in setup.arguments:
        if name in _OURS:
            raise ConfigError(f"engine.args.{name} is set by rlvr itself; leave it out")
        if name not in known:
            raise ConfigError(f"engine.args.{name}: neither rlvr nor this vLLM has such a setting{_close(name, known)}")
    suggested: dict[str, JSON] = {
        "dtype": "float32" if setup.precision == "fp32" else "bfloat16",
        "max_model_len": setup.max_context,
        "max_num_seqs": setup.max_rows,
        "disable_log_stats": True,
        "skip_tokenizer_init": not setup.has_tokenizer,
    }
    if setup.device.type == "cpu":
        # Compiling takes longer than it saves on the CPU; the cache is taken from the memory that training needs, too.
        suggested |= {"enforce_eager": True, "kv_cache_memory_bytes": _cache_bytes(setup)}
        # Where a prompt with a seed is read in two parts, vLLM 0.32 dies of a generator that the CPU does not have.
        suggested |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(_BATCHED_TOKENS, setup.max_context, setup.max_rows),
        }
    else:
        suggested["gpu_memory_utilization"] = 0.4  # the trainer has the same GPU
        suggested["enable_sleep_mode"] = setup.sleeps
    ours = {
        "model": setup.folder,
        "load_format": "dummy",  # the weights come as those of every update do
        "logprobs_mode": LOGPROBS_MODE,
        "generation_config": "vllm",  # nobody's defaults over the recipe's sampling
        "worker_extension_cls": f"{_WORKER}.Worker",
        "weight_transfer_config": WeightTransferConfig(backend="rlvr" if setup.weights == "file" else setup.weights),
    }
    return {**suggested, **setup.arguments, **ours}


def save_folder(folder: Path, config: Any, architecture: str, tokenizer: Any) -> None:
    """What `LocalSetup.folder` holds: a model's config with the name of its class, and its tokenizer, if it has one.

    Raises:
        EngineError: the folder cannot be written to.
    """
    with boundary(EngineError, f"writing the model's config for vLLM to {folder}"):
        named = type(config).from_dict(config.to_dict())
        named.architectures = [architecture]
        named.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)


def kv_bytes(config: Any, precision: str) -> int:
    """Of one token in the cache: a key and a value in every layer."""
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * heads * width * (4 if precision == "fp32" else 2)


def _cache_bytes(setup: LocalSetup) -> int:
    """Room for all rows at their longest, within limits: rows that do not fit wait."""
    return max(_SMALLEST_CACHE, setup.kv_bytes, min(setup.kv_bytes * setup.max_rows, _LARGEST_CACHE))


def _close(name: str, known: list[str]) -> str:
    import difflib

    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


@contextmanager
def of_a_process(setup: LocalSetup) -> Iterator[None]:
    """What vLLM and its processes read from the environment when they start; what the user has set stays. Of several
    ranks' GPUs they see their own rank's alone."""
    wanted = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    device = setup.device
    alone = {name: value for name, value in os.environ.items() if name.startswith(_LAUNCHERS) or name in _OF_A_RANK}
    wanted[OWNER] = str(os.getpid())
    if setup.weights != "file":
        # Handles to GPU memory are Python objects; they go from this process to its own children alone.
        wanted["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if device.type == "cpu":
        wanted |= {
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # bound threads would fight with the trainer's for the same cores
            "TORCH_COMPILE_DISABLE": "1",  # else the first request waits for a C++ compiler
        }
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    seen = [name for name in os.environ.get(_SEEN, "").split(",") if name]
    if device.index is not None and (not seen or os.environ.get("WORLD_SIZE", "1") != "1"):
        missing[_SEEN] = seen[device.index] if device.index < len(seen) else str(device.index)
        alone |= {name: os.environ[name] for name in (_SEEN,) if name in os.environ}
    # vLLM's processes are not those of the launcher: they would wait for its other ranks.
    for name in alone:
        del os.environ[name]
    os.environ.update(missing)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
        os.environ.update(alone)
