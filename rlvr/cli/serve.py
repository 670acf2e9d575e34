"""`rlvr verify VERIFIER --serve`: the verifier as an HTTP service."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import Any


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    group.add_argument("--serve", action="store_true", help="answer HTTP: POST /verify, POST /get_reward (OpenRLHF), GET /health")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any but this machine's own needs a token (127.0.0.1)"
    )
    group.add_argument("--port", type=int, default=8321, help="port to listen on; 0 takes a free one (8321)")
    group.add_argument("--token", help="what clients must send; better in the environment as RLVR_TOKEN")
    group.add_argument("--max-body-mb", type=float, default=16.0, help="largest request body in MiB (16)")


def run_server(args: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    """Serve until interrupted. Exit code 0 after a graceful end."""
    from rlvr.integrations.gate import ServerLimits
    from rlvr.integrations.listen import VerifierServer
    from rlvr.verifiers.runner import WeightedVerifier

    def announce() -> None:
        if args.json:
            print(json.dumps({"url": server.url, "verifier": args.verifier}), flush=True)
        where = f"{server.url} (POST /verify, POST /get_reward, GET /health)"
        print(f"verifier {args.verifier!r} at {where}; Ctrl-C ends it", file=sys.stderr, flush=True)

    server = VerifierServer(
        WeightedVerifier(args.verifier, 1.0, settings),
        host=args.host,
        port=args.port,
        token=args.token or os.environ.get("RLVR_TOKEN") or None,
        workers=args.workers,
        timeout_s=args.timeout,
        limits=ServerLimits(body_mb=args.max_body_mb),
        on_start=announce,
    )
    server.run_to_end()
    return 0
