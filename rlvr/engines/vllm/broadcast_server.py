"""A server that is sent its weights over the network, where it does not see the trainer's files."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from dataclasses import asdict
from urllib.parse import urlsplit

import torch

from rlvr.engines.vllm.broadcast import JOIN_S, Host, Layout, layout_of
from rlvr.engines.vllm.request import ReplicaLostError, Weights
from rlvr.engines.vllm.servers import Expected, ServerReplica
from rlvr.errors import EngineError, boundary

_POLL_S = 0.02
_ASK_S = 10.0
_LATER_S = 5.0  # than we, a server's own wait for us may begin
_USE_FILE = " Else set engine.args.weights = 'file' and engine.args.folder to a folder that both see."


class BroadcastServer(ServerReplica):
    """It joins a process group with the trainer before its first weights, and again after it was lost.

    `in_turn` is common to all servers: the trainer sends to one after another.
    """

    _hint = ""  # no file is to be seen

    def __init__(
        self,
        url: str,
        expected: Expected,
        *,
        max_requests: int,
        request_s: float,
        start_s: float,
        transport: str,
        device: torch.device,
        in_turn: asyncio.Lock,
    ) -> None:
        super().__init__(url, expected, max_requests=max_requests, request_s=request_s, start_s=start_s)
        parts = urlsplit(url)
        self._peer = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        self._transport = transport
        self._device = device
        self._in_turn = in_turn
        self._host: Host | None = None

    async def start(self) -> None:
        await self._leave()
        await super().start()

    async def load(self, weights: Weights) -> None:
        try:
            await super().load(weights)
        except BaseException:
            await self._leave()  # its workers have left, too, or are to be met anew
            raise

    async def close(self) -> None:
        await self._leave()
        await super().close()

    async def _transfer(self, weights: Weights) -> None:
        if self._host is None:
            self._host = await self._met()
        layout = await asyncio.to_thread(layout_of, weights.path)
        async with self._in_turn:
            await self._send(self._host, weights, layout)

    async def _send(self, host: Host, weights: Weights, layout: Layout) -> None:
        """Of two failures the server's says more; a server that says nothing has not noticed that it lost the trainer.

        Raises:
            ReplicaLostError: it is gone.
            EngineError: a worker refuses, or the file cannot be read.
        """
        sending = asyncio.create_task(asyncio.to_thread(host.send, weights.path, layout))
        taking = asyncio.create_task(self._change("/update_weights", {"update_info": asdict(layout)}, self._load_s(weights)))
        try:
            await asyncio.wait({sending, taking}, return_when=asyncio.FIRST_EXCEPTION)
            failure = sending.exception() if sending.done() else None
            if failure is not None:
                traceback.clear_frames(failure.__traceback__)  # they hold the group, whose connections would stay open
                await self._leave()  # so that the server need not wait for the rest
                await asyncio.wait({taking}, timeout=_LATER_S)
                if not taking.done():
                    raise ReplicaLostError(f"{self.name} did not take over weights: {failure}")
                await taking
                await self._check_taken()
            await taking
            with boundary(EngineError, f"sending weights to {self.name}"):
                await sending
        finally:
            taking.cancel()

    async def _met(self) -> Host:
        """
        Raises:
            ReplicaLostError: nobody answers.
            EngineError: the server cannot or does not come.
        """
        with boundary(EngineError, f"{self.name} did not say how many workers it has"):
            workers = int((await self._ask("GET", "/get_world_size", timeout_s=_ASK_S))["world_size"])
        with boundary(EngineError, f"waiting for the workers of {self.name}"):
            host = Host(self._transport, self._peer, workers, self._device)
        meeting = host.meeting
        limit_s = JOIN_S + _LATER_S
        asked = asyncio.create_task(self._change("/init_weight_transfer_engine", {"init_info": asdict(meeting)}, 2 * limit_s))
        try:
            until = time.monotonic() + limit_s
            while not host.is_complete():
                if asked.done():
                    await asked
                    await self._check_taken()  # why it did not come
                if time.monotonic() > until:
                    raise EngineError(
                        f"{self.name} did not come to {meeting.address}, port {meeting.port}, within {JOIN_S:g} s: is that the "
                        f"trainer's address for it, and no firewall between them?{_USE_FILE}"
                    )
                await asyncio.sleep(_POLL_S)
            with boundary(EngineError, f"joining a process group with {self.name} over {self._transport}"):
                await asyncio.to_thread(host.join)
            await asked
            await self._check_taken()
        except BaseException:
            asked.cancel()
            with contextlib.suppress(asyncio.CancelledError, EngineError):
                await asked
            await asyncio.to_thread(host.close)
            raise
        return host

    async def _leave(self) -> None:
        host, self._host = self._host, None
        if host is not None:
            await asyncio.to_thread(host.close)
