"""Models behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted one): to be measured, never trained.

Messages go in and come out; tools travel in the request's own fields. The server applies the chat template, so no token ids are
known, and none are made up.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.errors import ConfigError, ContextFullError, EngineError, boundary
from rlvr.tools.parse import spoken
from rlvr.types import JSON, Completion, FinishReason, FunctionCall, Message, Sampling

_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 20.0
_TOO_LONG = ("context length", "context_length", "maximum context", "too many tokens", "exceed_context_size")
_THINKS = "<think>"
_FINISH = {"stop": FinishReason.STOP, "tool_calls": FinishReason.STOP, "length": FinishReason.LENGTH}


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of the server. `completion` has the number of its tokens, without their ids."""

    message: Message
    completion: Completion


class OpenAiEngine:
    """Asks `model` at `url` (default: OPENAI_BASE_URL) for chat completions, at most `max_requests` at a time.

    OPENAI_API_KEY is sent where it is set. `timeout_s` is for one request. A server that is busy or down is asked again, five
    times with growing pauses. Sampling settings that the protocol does not have (top_k, min_p) are sent only where they are
    used: vLLM, SGLang and llama.cpp know them. A request's seed is sent; whether it makes answers repeatable is up to the server.

    Raises:
        ConfigError: no address.
        ModuleNotFoundError: `httpx` is missing (`pip install 'rlvr[judge]'`).
    """

    def __init__(self, model: str, *, url: str | None = None, max_requests: int = 256, timeout_s: float = 600.0) -> None:
        import httpx

        url = url or os.environ.get("OPENAI_BASE_URL")
        if not url or not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"engine openai: url = {url!r}; give the server's address, e.g. engine.url=http://localhost:8000/v1"
            )
        key = os.environ.get("OPENAI_API_KEY")
        self._model = model
        self._address = url.rstrip("/") + "/chat/completions"
        limits = httpx.Limits(max_connections=max_requests, max_keepalive_connections=max_requests)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(timeout_s, pool=None), limits=limits)

    async def chat(self, messages: Sequence[Message], tools: Sequence[Mapping[str, JSON]], sampling: Sampling) -> Answer:
        """The next message of the conversation.

        Raises:
            ContextFullError: the server says that the conversation is too long.
            EngineError: it cannot be reached, refuses the request, or answers something else.
        """
        body = {"model": self._model, "messages": [_to_json(message) for message in messages], **_settings(sampling)}
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        row = await self._post(body)
        with boundary(EngineError, f"{self._address} answered something else than a chat completion: {str(row)[:200]}"):
            choice = row["choices"][0]
            usage = row.get("usage") or {}
            message = _message(choice["message"])
            finish = _FINISH.get(choice.get("finish_reason") or "stop", FinishReason.STOP)
            tokens = int(usage.get("completion_tokens") or 0)
        return Answer(message, Completion((), (), finish, reported_tokens=tokens))

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, body: Mapping[str, JSON]) -> Any:
        import httpx

        pause = _FIRST_PAUSE_S
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = await self._client.post(self._address, json=body)
            except httpx.TransportError as error:
                problem = f"{self._address} cannot be reached: {type(error).__name__}: {error}"
                if attempt == _ATTEMPTS:
                    raise EngineError(problem) from error
            else:
                if response.status_code == 200:
                    with boundary(EngineError, f"{self._address} answered something else than JSON"):
                        return response.json()
                problem = f"{self._address} answered {response.status_code}: {response.text[:500]}"
                if any(words in response.text.lower() for words in _TOO_LONG):
                    raise ContextFullError(problem)
                if response.status_code not in _RETRIED or attempt == _ATTEMPTS:
                    raise EngineError(problem)
                pause = max(pause, _asked_pause(response.headers.get("retry-after")))
            await asyncio.sleep(min(pause, _LONGEST_PAUSE_S))
            pause *= 2
        raise EngineError(problem)


def _settings(sampling: Sampling) -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed % 2**31,
    }
    found |= {"stop": list(sampling.stop)} if sampling.stop else {}
    found |= {"top_k": sampling.top_k} if sampling.top_k else {}
    return found | ({"min_p": sampling.min_p} if sampling.min_p else {})


def _to_json(message: Message) -> dict[str, JSON]:
    row: dict[str, JSON] = {"role": message.role, "content": message.content}
    if message.content.startswith(_THINKS):  # put there by `_message`; servers want old reasoning back from nobody
        row["content"] = spoken(message.content)
    if message.role == "tool":
        row["tool_call_id"] = message.call_id
    if message.calls:
        row["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))}}
            for call in message.calls
        ]
    return row


def _message(row: Mapping[str, Any]) -> Message:
    """The assistant's message, its reasoning in tags before the answer, where verifiers look for it."""
    content = row.get("content") or ""
    reasoning = row.get("reasoning_content") or row.get("reasoning") or ""
    if isinstance(reasoning, str) and reasoning:
        content = f"{_THINKS}{reasoning}</think>{content}"
    calls = tuple(_call(call, index) for index, call in enumerate(row.get("tool_calls") or ()))
    return Message("assistant", content, calls, before_calls=content if calls else "")


def _call(row: Mapping[str, Any], index: int) -> FunctionCall:
    function = row.get("function") or {}
    name, text, call_id = (
        str(function.get("name") or ""),
        function.get("arguments") or "{}",
        str(row.get("id") or f"call{index:05d}"),
    )
    try:
        arguments = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        return FunctionCall(name, {}, call_id, f"the arguments are not valid JSON: {error}")
    if not isinstance(arguments, dict):
        return FunctionCall(name, {}, call_id, "the arguments are not a JSON object")
    return FunctionCall(name, arguments, call_id)


def _asked_pause(header: str | None) -> float:
    try:
        return float(header or 0.0)
    except ValueError:
        return 0.0  # a date; the growing pauses do
