"""The web page's server: this machine only, GET only, a few fixed files and a JSON interface. What is shown is never run."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

from rlvr.errors import ConfigError, EvaluationError, RlvrError, boundary
from rlvr.evaluation.printable import printable
from rlvr.evaluation.view.book import Book
from rlvr.evaluation.view.detail import Where
from rlvr.types import JSON

HOST = "127.0.0.1"
_CONTENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Text of a model is data to this page: no script but our own files, no style but ours, no picture, frame or form from anywhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LONGEST_TARGET = 8_000
_MOST_PARAMETERS = 40
_LIMIT = 100  # rows of a page where none is asked for


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent: JSON text or a file of the page."""

    status: int
    content_type: str
    body: bytes


class ViewServer:
    """Serves a book on a socket of its own; `url` is known at once. Port 0 takes a free one.

    Raises:
        ConfigError: the port cannot be listened on.
    """

    def __init__(self, book: Book, *, port: int = 0) -> None:
        if not 0 <= port <= 65_535:
            raise ConfigError(f"port = {port}; ports are 0 (a free one) to 65535")
        self._book = book
        try:
            self._server = _Server((HOST, port), _handler(Router(book)))
            self.port: int = self._server.socket.getsockname()[1]
        except OSError as error:
            raise ConfigError(f"cannot listen on {HOST} port {port}: {error.strerror or error}") from error
        self.url = f"http://{HOST}:{self.port}/"

    def serve(self) -> None:
        """Answer until `stop` is called from another thread, or the process is interrupted."""
        self._server.serve_forever(poll_interval=0.05)

    def stop(self) -> None:
        self._server.shutdown()

    def close(self) -> None:
        self._server.server_close()

    def start(self) -> threading.Thread:
        """`serve` in a thread."""
        thread = threading.Thread(target=self.serve, name="rlvr-view-server", daemon=True)
        thread.start()
        return thread


class Router:
    """Paths to answers. Knows nothing of sockets."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._files = _static_files()
        self._asked: dict[str, Callable[[Mapping[str, str]], JSON]] = {
            "state": lambda asked: book.state(),
            "curves": lambda asked: book.curves(_number(asked, "run", 0)),
            "rollouts": self._rollouts,
            "rollout": lambda asked: book.rollout(_where(asked)),
            "tokens": lambda asked: book.tokens(_where(asked)),
            "group": lambda asked: book.group(_where(asked)),
            "problem": lambda asked: book.problem(asked.get("id", "")),
        }

    def answer(self, target: str) -> Reply:
        """The reply to GET `target`; what is wrong with it is in the reply."""
        if len(target) > _LONGEST_TARGET:
            return _error(414, f"the address has {len(target)} characters; at most {_LONGEST_TARGET} are read")
        path, _, query = target.partition("?")
        if path in self._files:
            return self._files[path]
        name = path.removeprefix("/api/")
        if name == path or name not in self._asked:
            return _error(404, "there is no such page")
        try:
            with boundary(EvaluationError, "the page cannot be made"):
                return _json(200, self._asked[name](_parameters(query)))
        except ConfigError as error:
            return _error(400, str(error))
        except RlvrError as error:
            return _error(500, str(error))

    def _rollouts(self, asked: Mapping[str, str]) -> JSON:
        offset, limit = _number(asked, "offset", 0), _number(asked, "limit", _LIMIT)
        return self._book.rollouts(_number(asked, "run", 0), asked, offset, limit)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    router: Router
    protocol_version = "HTTP/1.1"
    server_version = "rlvr"
    sys_version = ""
    timeout = 30.0  # s in which a request must arrive
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._send(self._refusal() or self.router.answer(self.path))

    def _refusal(self) -> Reply | None:
        """A page of another site must neither reach this server under its own name (DNS rebinding) nor through its scripts."""
        port = self.connection.getsockname()[1]
        hosts = {f"{name}:{port}" for name in (HOST, "localhost")} | ({HOST, "localhost"} if port == 80 else set())
        given = [host.lower() for host in self.headers.get_all("Host", [])]
        if len(given) != 1 or given[0] not in hosts:
            return _error(421, f"this server answers to {HOST}:{port} and localhost:{port} only")
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            return _error(400, "a GET has no body here")
        is_page = self.path.partition("?")[0] == "/"
        if not is_page and self.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none"):
            return _error(403, "another site may not read this")
        return None

    def _send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        for name, value in {**_HEADERS, "Content-Type": reply.content_type, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        if reply.status >= 400:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(reply.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses, as our own replies: any method but GET, a head that cannot be read."""
        is_method = code == 501
        self.close_connection = True
        self._send(_error(405 if is_method else code, "only GET is answered" if is_method else message or "a bad request"))

    def log_message(self, format: str, *args: Any) -> None:
        """Requests of one reader are nothing to log."""


def _handler(router: Router) -> type[_Handler]:
    return type("Handler", (_Handler,), {"router": router})


def _static_files() -> dict[str, Reply]:
    folder = files("rlvr.evaluation.view").joinpath("static")
    found = {}
    for file in folder.iterdir():
        content_type = _CONTENT_TYPES.get(file.name.rpartition(".")[2])
        if content_type is not None:
            found[f"/{file.name}"] = Reply(200, content_type, file.read_bytes())
    return {**found, "/": found["/index.html"]}


def _json(status: int, value: JSON) -> Reply:
    return Reply(status, "application/json", json.dumps(value, allow_nan=False).encode("ascii"))


def _error(status: int, text: str) -> Reply:
    return _json(status, {"error": printable(text[:2_000])})


def _parameters(query: str) -> dict[str, str]:
    try:
        found = parse_qs(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="replace")
    except ValueError as error:
        raise ConfigError(f"the address cannot be read: {error}") from error
    return {name: values[-1] for name, values in found.items()}


def _number(asked: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = asked.get(name, "")
    if not text and default is not None:
        return default
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        raise ConfigError(f"{name} = {text[:40]!r} is no whole number")
    return int(text)


def _where(asked: Mapping[str, str]) -> Where:
    return Where(_number(asked, "run", 0), _number(asked, "step"), _number(asked, "line"))
