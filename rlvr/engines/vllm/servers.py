"""A `vllm serve` on another GPU or machine: token ids over HTTP, weights through its own endpoints for training."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.engines.vllm.request import LOGPROBS_MODE, Draw, ReplicaLostError, Request, Weights, draw_of
from rlvr.errors import ConfigError, ContextFullError, EngineError, boundary
from rlvr.types import JSON

_OLDEST = (0, 32)
_CONNECT_S = 5.0
_ASK_S = 10.0  # for what a server knows without computing
_STEP_S = 60.0  # of a weight update, and what its bytes take besides
_SLOWEST = 50e6  # bytes a second, of a server that reads weights
_LOAD_S = 900.0  # until another rank has given a server its weights
_BUSY_S = 75.0  # a server that waits for a trainer that is gone gives up by then
_OTHERS_S = 5.0  # for another trainer's update to go on
_POLL_S = 1.0
_SHARED_POLL_S = 0.1
_HOW = (
    "start it as: VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out "
    f"--logprobs-mode {LOGPROBS_MODE} --worker-extension-cls rlvr.engines.vllm.worker.Worker "
    """--weight-transfer-config '{"backend": "rlvr"}'"""
)


class _BusyError(ReplicaLostError):
    """It is there, but does not answer."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a server must offer: room for the model's context, in tokens, and its vocabulary."""

    max_context: int
    vocabulary: int


def addresses(url: str | Sequence[str]) -> tuple[str, ...]:
    """The servers of `engine.url`: one, or several with commas between them.

    Raises:
        ConfigError: something that is no address, or one of them twice.
    """
    parts = url.split(",") if isinstance(url, str) else url
    found = tuple(part.strip().rstrip("/").removesuffix("/v1") for part in parts if part.strip())
    for address in found:
        if not address.startswith(("http://", "https://")):
            raise ConfigError(f"engine.url: {address!r} is no address; give e.g. http://localhost:8000, several with commas")
    if not found or len(set(found)) < len(found):
        raise ConfigError(f"engine.url = {url!r}; give one address or several different ones")
    return found


class ServerReplica:
    """One server. It must see the weights' file under the same path. All methods belong to one event loop."""

    _hint = " Does the server see the file?"

    def __init__(self, url: str, expected: Expected, *, max_requests: int, request_s: float, start_s: float) -> None:
        import httpx

        self.name = f"vLLM at {url}"
        self._url = url
        self._expected = expected
        self._start_s = start_s
        self._request_s = request_s
        self._was_ready = False
        self._model = ""
        limits = httpx.Limits(max_connections=max_requests + 4, max_keepalive_connections=max_requests + 4)
        timeout = httpx.Timeout(request_s, connect=_CONNECT_S, pool=None)
        self._client = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits)

    async def start(self) -> None:
        """See that the server is the right one. One that was lost is waited for; one that was never there is not."""
        began = time.monotonic()
        while True:
            try:
                await self._check()
                break
            except ReplicaLostError as error:
                wait_s = self._start_s if self._was_ready else _BUSY_S if isinstance(error, _BusyError) else 0.0
                if time.monotonic() - began >= wait_s:
                    raise EngineError(f"{error}; is it running? {_HOW}") from error
            await asyncio.sleep(_POLL_S)
        self._was_ready = True

    async def draw(self, request: Request) -> Draw:
        body = {"model": self._model, "token_ids": list(request.prompt), "sampling_params": request.settings()}
        row = await self._ask("POST", "/inference/v1/generate", body)
        with boundary(EngineError, f"{self.name} answered something else than tokens: {str(row)[:300]}"):
            choice = row["choices"][0]
            ids = tuple(int(token) for token in choice["token_ids"] or ())
            content = ((choice.get("logprobs") or {}).get("content") or [])[: len(ids)]
            logprobs = tuple(float(entry["logprob"]) for entry in content)
            spans = [(str(span["version"]), int(span["start"])) for span in choice.get("weight_versions") or ()]
            finish = str(choice.get("finish_reason"))
        return draw_of(ids, logprobs, finish, spans)

    async def load(self, weights: Weights) -> None:
        await self._change("/pause?mode=keep&clear_cache=false", {})
        try:
            await self._change("/start_weight_update", {})
            await self._transfer(weights)
            await self._change("/finish_weight_update", {}, self._load_s(weights))
            await self._check_taken()
            await self._change("/update_weight_version", {"new_version": weights.version})
            # What was computed with other weights would be read for the same prompts, without an error. Requests in flight are
            # read again, too, so that a token is always that of one version of the weights.
            row = await self._change("/reset_prefix_cache?reset_running_requests=true", {})
            if not row.get("success"):
                raise EngineError(f"{self.name} could not empty its prefix cache after an update; does another run use it?")
        except ReplicaLostError:
            raise  # whatever it was in the middle of is looked at when it is back
        except BaseException as error:
            try:
                await self._abandon()
            except EngineError as left:
                raise EngineError(f"{error}; {left}") from error
            raise
        await self._change("/resume", {})

    async def _transfer(self, weights: Weights) -> None:
        """Let the server take the weights; whether it could, `_check_taken` says."""
        await self._change("/update_weights", {"update_info": {"path": weights.path}}, self._load_s(weights))

    def _load_s(self, weights: Weights) -> float:
        return _STEP_S + Path(weights.path).stat().st_size / _SLOWEST

    async def _check_taken(self) -> None:
        """
        Raises:
            EngineError: a worker could not do what it was told, in its own words.
        """
        problems = await self._rpc("rlvr_problem")
        if problems:
            raise EngineError(
                f"{self.name} did not take the weights over: {'; '.join(problems)}. It serves {self._model!r}: is that the "
                f"model that is trained?{self._hint}"
            )

    async def _abandon(self) -> None:
        """End an update in its middle, so that vLLM does not die of the next request, and go on under the name of no version:
        some layers have new weights by now, and an answer would be the policy's of no version.

        Raises:
            EngineError: it cannot be ended; the server goes on waiting.
        """
        if problems := await self._rpc("rlvr_abandon"):
            raise EngineError(f"{self.name} cannot end an update in its middle: {'; '.join(problems)}; start it again")
        await self._change("/update_weight_version", {"new_version": f"abandoned-{uuid.uuid4().hex}"})
        await self._change("/reset_prefix_cache?reset_running_requests=true", {})
        await self._change("/resume", {})

    async def _rpc(self, method: str) -> list[str]:
        """What the workers have to complain of, each complaint once."""
        row = await self._change("/collective_rpc", {"method": method})
        with boundary(EngineError, f"{self.name} answered something else than its workers' words: {str(row)[:300]}"):
            return sorted({str(one["problem"]) for one in row["results"]} - {""})

    async def version(self) -> str:
        """The server's name for the weights that it has.

        Raises:
            ReplicaLostError: nobody answers.
            EngineError: it does not know of such names.
        """
        # A server that is just taking weights answers when it has them.
        return str((await self._ask("GET", "/weight_info", timeout_s=_LOAD_S)).get("weight_version"))

    async def close(self) -> None:
        await self._client.aclose()

    async def _check(self) -> None:
        version = str((await self._ask("GET", "/version", timeout_s=_ASK_S)).get("version"))
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < _OLDEST:
            raise EngineError(f"{self.name} has version {version}, but rlvr needs {'.'.join(map(str, _OLDEST))} or newer")
        models = (await self._ask("GET", "/v1/models", timeout_s=_ASK_S)).get("data") or [{}]
        self._model, context = str(models[0].get("id")), int(models[0].get("max_model_len") or 0)
        if context < self._expected.max_context:
            raise EngineError(
                f"{self.name} serves {self._model!r} with a context of {context}, but the model that is trained has "
                f"{self._expected.max_context}; is it another model? Else give it --max-model-len {self._expected.max_context}"
            )
        await self._change_is_allowed()
        await self._begin()
        await self._check_vocabulary()

    async def _begin(self) -> None:
        """A trainer that was killed while it handed weights over left the server waiting, and perhaps without its layers.

        Raises:
            EngineError: another trainer is handing weights over right now.
        """
        if await self._is_paused():
            until = time.monotonic() + _OTHERS_S
            while time.monotonic() < until:
                await asyncio.sleep(_SHARED_POLL_S)
                if not await self._is_paused():
                    raise EngineError(f"{self.name} is given weights by another run; give each run servers of its own")
            await self._abandon()

    async def _is_paused(self) -> bool:
        return bool((await self._ask("GET", "/is_paused", timeout_s=_ASK_S)).get("is_paused"))

    async def _change_is_allowed(self) -> None:
        try:
            await self._ask("GET", "/weight_info", timeout_s=_ASK_S)
        except ReplicaLostError:
            raise
        except EngineError as error:
            raise EngineError(f"{self.name} does not take weights; {_HOW}") from error

    async def _check_vocabulary(self) -> None:
        """The last token of the trainer's vocabulary is known to the server, and the one after it is not."""
        size = self._expected.vocabulary
        if not await self._knows(size - 1) or await self._knows(size):
            raise EngineError(
                f"{self.name} serves {self._model!r}, whose vocabulary is not the {size} tokens of the model that is trained; "
                "start it with that model"
            )

    async def _knows(self, token: int) -> bool:
        settings = {"max_tokens": 1, "temperature": 0.0, "detokenize": False}
        body = {"model": self._model, "token_ids": [token], "sampling_params": settings}
        try:
            await self._ask("POST", "/inference/v1/generate", body, timeout_s=6 * _ASK_S)
        except ReplicaLostError:
            raise
        except EngineError as error:
            if "vocab" in str(error).lower():
                return False
            raise
        return True

    async def _change(self, path: str, body: Mapping[str, JSON], limit_s: float | None = None) -> Mapping[str, Any]:
        """A step of a weight update; what goes wrong in it is no reason to ask another server."""
        try:
            return await self._ask("POST", path, body, timeout_s=limit_s or _STEP_S, is_retryable=False)
        except ReplicaLostError:
            raise
        except EngineError as error:
            raise EngineError(f"{error}. Weights were not taken over{self._hint}; {_HOW}") from error

    async def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, JSON] | None = None,
        *,
        timeout_s: float | None = None,
        is_retryable: bool = True,
    ) -> Mapping[str, Any]:
        """
        Raises:
            ReplicaLostError: nobody answers, or the server is failing.
            ContextFullError: it says that the prompt is too long.
            EngineError: it refuses, or answers something else than JSON.
        """
        import httpx

        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else httpx.Timeout(timeout_s, connect=_CONNECT_S, pool=None)
        # After an error the server's connection ends, sometimes with the next request already on it.
        headers = None if is_retryable else {"Connection": "close"}
        try:
            response = await self._client.request(method, path, json=body, timeout=timeout, headers=headers)
        except httpx.ReadTimeout as error:
            raise _BusyError(f"{self.name}{path} has not answered for {timeout_s or self._request_s:g} s") from error
        except (httpx.TransportError, RuntimeError) as error:  # RuntimeError: the client was closed meanwhile
            raise ReplicaLostError(f"{self.name} cannot be reached: {type(error).__name__}: {error}") from error
        if response.status_code == 200:
            with boundary(EngineError, f"{self.name}{path} answered something else than JSON"):
                row = response.json()
                if not isinstance(row, dict):
                    raise EngineError(f"{self.name}{path} answered {str(row)[:200]}, but an object was expected")
                return row
        problem = f"{self.name}{path} answered {response.status_code}: {response.text[:500]}"
        if response.status_code == 404:
            raise EngineError(f"{problem}; it does not offer this: {_HOW}")
        if response.status_code >= 500 and is_retryable:
            raise ReplicaLostError(problem)
        if "maximum context" in response.text or "max_model_len" in response.text:
            raise ContextFullError(problem)
        raise EngineError(problem)


class SharedServer(ServerReplica):
    """A server that another rank gives its weights to: this one only asks it, and waits where it has other weights."""

    async def load(self, weights: Weights) -> None:
        until = time.monotonic() + _LOAD_S
        while (found := await self.version()) != weights.version:
            if time.monotonic() > until:
                raise EngineError(f"{self.name} has weights {found!r}; nobody gave it {weights.version!r} within {_LOAD_S:g} s")
            await asyncio.sleep(_SHARED_POLL_S)

    async def _begin(self) -> None:
        """Only the rank that stops it goes on with it."""
