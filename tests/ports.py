"""Ports for what a test starts elsewhere."""

from __future__ import annotations

import contextlib
import secrets
import socket


def free_port() -> int:
    """Below the ports that the kernel hands out: nobody else gets it by chance before it is used."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
