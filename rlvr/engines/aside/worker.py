"""The process that generates: the native engine over a model of its own, asked through a socket.

Started as `python -m rlvr.engines.aside.worker DESCRIPTOR`. It ends when the other end of the socket is closed, however the
process that had it ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import fields
from io import BufferedReader
from typing import Any

import torch
from safetensors.torch import load_file

from rlvr.engines.aside.wire import Setup, completion_row, line, sampling_of
from rlvr.engines.native import NativeEngine
from rlvr.engines.overwrite import overwrite
from rlvr.errors import ContextFullError, EngineError, RlvrError, boundary
from rlvr.types import JSON

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the trainer ends us when it has saved
    connection = socket.socket(fileno=int(sys.argv[1]))
    lines = connection.makefile("rb")
    first = lines.readline()
    if not first:
        return
    setup = _setup(json.loads(first))
    torch.set_num_threads(setup.threads)
    try:
        model, tokenizer = _load(setup)
        engine = NativeEngine(
            model,
            tokenizer,
            max_rows=setup.max_rows,
            max_context=setup.max_context,
            precision="bf16" if setup.precision == "bf16" else "fp32",
        )
    except RlvrError as error:
        connection.sendall(line({"failed": str(error)}))
        return
    engine.eos_ids = frozenset(setup.end_ids)
    engine.policy_version = setup.version
    asyncio.run(_Server(connection, engine, model, setup.beat_s).serve(lines))


class _Server:
    """Answers what comes in, in one event loop: weights are read between two of the engine's steps, because it waits there."""

    def __init__(self, connection: socket.socket, engine: NativeEngine, model: Any, beat_s: float) -> None:
        self._connection, self._engine, self._model = connection, engine, model
        self._beat_s = beat_s
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def serve(self, lines: BufferedReader) -> None:
        loop = asyncio.get_running_loop()

        def listen() -> None:
            try:
                for one in lines:
                    loop.call_soon_threadsafe(self._take, json.loads(one))
            finally:  # also after a reset, which is what a trainer that was killed leaves where it had not read everything
                # A decoding step may take long, and nobody waits for its tokens any more.
                os._exit(0)

        threading.Thread(target=listen, name="rlvr-listen", daemon=True).start()
        self._say({"ready": True, "decoder": self._engine.decoder_name})
        while True:
            await asyncio.sleep(self._beat_s)
            self._say({"beat": True})

    def _take(self, row: Mapping[str, Any]) -> None:
        if "cancel" in row:
            if (task := self._tasks.get(row["cancel"])) is not None:
                task.cancel()
        elif "weights" in row:
            self._say({"id": row["id"], **self._changed(row["weights"], row["version"])})
        elif "rename" in row:
            self._engine.policy_version = row["rename"]
        else:
            task = self._tasks[row["id"]] = asyncio.get_running_loop().create_task(self._answer(row))
            task.add_done_callback(lambda _: self._tasks.pop(row["id"], None))

    async def _answer(self, row: Mapping[str, Any]) -> None:
        try:
            with boundary(EngineError, "generating"):
                found = await self._engine.generate(row["prompt"], sampling_of(row), is_urgent=row["urgent"])
        except EngineError as error:
            self._say({"id": row["id"], "error": str(error), "is_context": isinstance(error, ContextFullError)})
        else:
            self._say({"id": row["id"], **completion_row(found)})

    def _changed(self, path: str, version: int) -> dict[str, JSON]:
        try:
            _read_weights(self._model, path)
            self._engine.take_weights(version)
        except EngineError as error:
            return {"error": str(error)}
        return {"version": version}

    def _say(self, row: Mapping[str, JSON]) -> None:
        self._connection.sendall(line(row))


def _setup(row: Mapping[str, Any]) -> Setup:
    given = {field.name: row[field.name] for field in fields(Setup)}
    return Setup(**{**given, "end_ids": tuple(given["end_ids"])})


def _load(setup: Setup) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with boundary(EngineError, "making the model of the process that generates"):
        config = AutoConfig.from_pretrained(setup.folder)
        model = AutoModelForCausalLM.from_config(config, dtype=_DTYPES[setup.precision], attn_implementation=setup.attention)
        model = model.to(setup.device).eval().requires_grad_(False)
        tokenizer = AutoTokenizer.from_pretrained(setup.folder) if setup.has_tokenizer else None
        _read_weights(model, setup.weights)
    return model, tokenizer


def _read_weights(model: Any, path: str) -> None:
    """Copy a file of tensors over the model's own, and see that none was missing.

    Raises:
        EngineError: the file cannot be read, or is of another model.
    """
    with boundary(EngineError, f"reading the policy's weights from {path}"):
        overwrite(model, load_file(path))


if __name__ == "__main__":
    main()
