"""`rlvr view RUN --web`: the run as a local web page."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import threading
import webbrowser
from collections.abc import Iterator
from types import FrameType
from urllib.parse import urlencode

from rlvr.errors import ConfigError

_SWITCH_S = 5e-4  # the thread that reads rollouts hands over to one that answers sooner than Python's 5 ms


def add_web_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("web page")
    group.add_argument("--web", action="store_true", help="show everything as a web page that follows the run; this machine only")
    group.add_argument("--against", metavar="RUN", help="a second run, to compare with")
    group.add_argument("--port", type=int, help="port to listen on; 0 takes a free one (0)")
    group.add_argument("--no-browser", action="store_true", help="only print the page's address")


def check_no_web(args: argparse.Namespace) -> None:
    """
    Raises:
        ConfigError: an option of the page is given without the page.
    """
    given = {"--against": args.against is not None, "--port": args.port is not None, "--no-browser": args.no_browser}
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(f"{', '.join(wrong)} belongs to the web page; add --web")


def run_web(args: argparse.Namespace) -> int:
    """Serve the page until interrupted; exit code 0.

    Raises:
        ConfigError: no run, or a port that cannot be had.
    """
    from rlvr.evaluation.view.book import Book
    from rlvr.evaluation.view.server import ViewServer

    given = {"--limit": args.limit is not None, "--full": args.full, "--solve-rates": args.solve_rates}
    if wrong := [name for name, is_given in given.items() if is_given]:
        raise ConfigError(f"{', '.join(wrong)} belongs to what is printed; leave it out, or leave out --web")
    book = Book([args.run] if args.against is None else [args.run, args.against])
    server = ViewServer(book, port=args.port or 0)
    address = f"{server.url}{_fragment(args)}"
    sys.setswitchinterval(_SWITCH_S)
    with contextlib.closing(server), contextlib.closing(book), _ended_by_signals():
        book.start()
        if args.json:
            print(json.dumps({"url": address}), flush=True)
        print(f"{args.run} at {address} ; Ctrl-C ends it", file=sys.stderr, flush=True)
        if not args.no_browser:
            # It may wait for a browser in the terminal, which asks this server for the page.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        server.serve()
    return 0


def _fragment(args: argparse.Namespace) -> str:
    """The part of the address that says what the page shows first."""
    asked = {"step": args.step, "problem": args.problem, "outcome": args.outcome}
    given = {name: value for name, value in asked.items() if value is not None}
    return f"#/rollouts?{urlencode(given)}" if given else ""


class _Ended(KeyboardInterrupt):
    pass


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave the block, without an error, at SIGINT and SIGTERM."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Ended:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
