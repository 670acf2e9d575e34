"""A verifier as an HTTP service: `POST /verify` (our JSON lines), `POST /get_reward` (OpenRLHF's remote reward), `GET /health`.

Source of the second: openrlhf 0.11.2, `openrlhf/utils/agent.py` (`_fetch_rewards_via_http` posts `{"query", "prompts",
"labels"}`, tries five times, and leaves the reward None after that) and `openrlhf/cli/serve_rm.py` (the reply).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

import rlvr
from rlvr.errors import ConfigError, TaskError
from rlvr.integrations.conversation import conversation_rollout, response_of
from rlvr.integrations.gate import ServerLimits, check_token, json_response, read_body, read_object, refusal
from rlvr.types import Rollout
from rlvr.verifiers.api import grade_all
from rlvr.verifiers.lines import Row, read_rows, verdict_line
from rlvr.verifiers.runner import Grader, WeightedVerifier

Handler = Callable[[Request], Awaitable[Response]]


class VerifierService:
    """The verifier, its workers, and the requests under way. Belongs to one event loop."""

    def __init__(
        self,
        verifier: WeightedVerifier,
        *,
        workers: int = 2,
        timeout_s: float = 10.0,
        token: str | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        self.limits = limits or ServerLimits()
        self._grader = Grader([verifier], workers=workers, timeout_s=timeout_s)
        self._token = token
        self._turns = asyncio.Semaphore(self.limits.requests_at_once)
        self._under_way = 0

    def prepare(self) -> None:
        """As `Grader.prepare`: before requests are taken."""
        self._grader.prepare()

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/verify", self._guarded(self._verify), methods=["POST"]),
            Route("/get_reward", self._guarded(self._get_reward), methods=["POST"]),
            Route("/health", self._health, methods=["GET"]),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: refusal}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        async with self._grader:
            yield

    def _guarded(self, handler: Handler) -> Handler:
        """`handler` for those who have the token, when it is their turn; what they sent wrong is status 400."""

        async def guarded(request: Request) -> Response:
            check_token(request, self._token)
            await self._wait_for_turn()
            self._under_way += 1
            try:
                return await handler(request)
            except (TaskError, ConfigError) as error:
                raise HTTPException(400, str(error)) from error
            except ClientDisconnect:
                return Response(status_code=400)  # nobody reads it
            finally:
                self._under_way -= 1
                self._turns.release()

        return guarded

    async def _verify(self, request: Request) -> Response:
        text = (await self._body(request)).decode("utf-8", errors="surrogateescape")
        rows = await asyncio.to_thread(self._rows, text)
        await grade_all(self._grader, [row.rollout for row in rows], at_once=min(self._grader.at_once, len(rows)))
        lines = [verdict_line(row.identity, verdict) + "\n" for row in rows if (verdict := row.rollout.verdict) is not None]
        return Response("".join(lines), media_type="application/x-ndjson")

    async def _get_reward(self, request: Request) -> Response:
        message = await asyncio.to_thread(read_object, await self._body(request))
        rollouts = openrlhf_rollouts(message)
        self._check_rows(len(rollouts))
        await grade_all(self._grader, rollouts, at_once=min(self._grader.at_once, len(rollouts)))
        failures = [rollout.verdict.reason for rollout in rollouts if rollout.verdict is not None and not rollout.is_scored]
        if failures:
            # No number may stand for our failure. The client tries again, and stops in the end.
            raise HTTPException(503, f"{len(failures)} of {len(rollouts)} responses could not be graded: {failures[0]}")
        scores = [rollout.reward for rollout in rollouts]
        correct = [float(rollout.is_correct) for rollout in rollouts]
        return json_response({"rewards": scores, "scores": scores, "extra_logs": {"correct": correct}})

    async def _health(self, request: Request) -> Response:
        return json_response(
            {
                "status": "ok",
                "rlvr": rlvr.__version__,
                "verifiers": {name: found["version"] for name, found in self._grader.provenance().items()},
                "requests_under_way": self._under_way,
            }
        )

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self.limits, "send fewer responses at once")

    def _rows(self, text: str) -> list[Row]:
        lines = text.split("\n")  # not splitlines: JSON may hold other line separators
        self._check_rows(sum(bool(line.strip()) for line in lines))
        return list(read_rows(lines, "body"))

    def _check_rows(self, count: int) -> None:
        if count == 0:
            raise HTTPException(400, "the body has no responses to grade")
        if count > self.limits.rows:
            raise HTTPException(413, f"{count} responses; at most {self.limits.rows} are graded in one request")

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(self.limits.wait_s):
                await self._turns.acquire()
        except TimeoutError as error:
            text = f"{self.limits.requests_at_once} requests were under way for {self.limits.wait_s:g} s; try again later"
            raise HTTPException(503, text, {"Retry-After": "1"}) from error


def openrlhf_rollouts(message: Mapping[str, Any]) -> list[Rollout]:
    """The responses in OpenRLHF's message; a query is the decoded prompt and response, a label the gold answer.

    Raises:
        TaskError: the three lists are missing, or of different length.
        ConfigError: a query does not begin with its prompt.
    """
    queries, prompts, labels = (_list(message, key) for key in ("query", "prompts", "labels"))
    if not len(queries) == len(prompts) == len(labels):
        raise TaskError(f"{len(queries)} query, {len(prompts)} prompts and {len(labels)} labels; there must be as many of each")
    rollouts = []
    for index, (query, prompt, label) in enumerate(zip(queries, prompts, labels, strict=True)):
        if not isinstance(query, str) or not isinstance(prompt, str):
            raise TaskError(f"query and prompts are texts, but number {index} is {type(query).__name__}, {type(prompt).__name__}")
        rollouts.append(conversation_rollout(response_of(query, prompt), label, prompt=prompt, identity=str(index)))
    return rollouts


def _list(message: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = message.get(key)
    if not isinstance(value, list):
        known = ", ".join(message) or "nothing"
        raise TaskError(f"{key!r} is {'missing' if value is None else type(value).__name__}, not a list; the message has {known}")
    return value
