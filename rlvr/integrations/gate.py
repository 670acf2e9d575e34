"""What every HTTP service of rlvr does with a request: the token, a body within bounds, answers and refusals as JSON."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rlvr.errors import TaskError
from rlvr.types import JSON


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client can ask of a server. Requests beyond `requests_at_once` wait, unread, for `wait_s` at most."""

    body_mb: float = 16.0
    rows: int = 10_000  # of one request
    requests_at_once: int = 64
    wait_s: float = 120.0
    read_s: float = 30.0  # a body arrives within
    header_s: float = 10.0  # a new connection sends its request line and headers within
    connections: int = 2_000
    shutdown_s: float = 30.0  # requests under way may end within


def check_token(request: Request, token: str | None) -> None:
    """
    Raises:
        HTTPException: 401, the token is missing or wrong.
    """
    if token is None:
        return
    given = _credentials(request.headers.get("authorization", ""))
    if not hmac.compare_digest(given.encode("utf-8", "replace"), token.encode()):
        headers = {"WWW-Authenticate": 'Bearer, Basic realm="rlvr"'}
        raise HTTPException(401, "send the token: 'Authorization: Bearer TOKEN', or http://rlvr:TOKEN@host:port/", headers)


async def read_body(request: Request, limits: ServerLimits, do: str) -> bytes:
    """The whole body; `do` says how to send less.

    Raises:
        HTTPException: 413, it is too large; 408, it came too slowly.
    """
    limit = int(limits.body_mb * 2**20)
    too_large = HTTPException(413, f"the body is larger than {limits.body_mb:g} MiB; {do}")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.read_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError as error:
        raise HTTPException(408, f"the body did not arrive within {limits.read_s:g} s") from error
    return bytes(body)


def read_object(body: bytes) -> dict[str, Any]:
    """
    Raises:
        TaskError: the body is no JSON object.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"the body is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise TaskError(f"the body is {type(message).__name__}, not an object")
    return message


def json_response(message: Mapping[str, JSON], status: int = 200) -> Response:
    return Response(json.dumps(message), status, media_type="application/json")  # ASCII: lone surrogates survive


async def refusal(request: Request, error: HTTPException) -> Response:
    """The answer for a request that was refused."""
    response = json_response({"error": error.detail}, error.status_code)
    response.headers.update(error.headers or {})
    # What was not read of the request would be taken for the next one.
    response.headers["Connection"] = "close"
    return response


def _credentials(header: str) -> str:
    """The token in an Authorization header: a bearer's, or the password of a user; empty when there is none."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
