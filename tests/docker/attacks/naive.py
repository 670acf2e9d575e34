"""A plain container in which the naive harnesses run: Docker's default filter, one user for everything, as in the field."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from pathlib import Path
from typing import Any

from rlvr.sandbox.engine import connect_engine
from rlvr.sandbox.image_build import ensure_image
from rlvr.sandbox.owner import LABEL, LABEL_OWNER, this_owner
from tests.docker.attacks.model import Attack, Machine, Naive
from tests.docker.attacks.tasks import SUM

DRIVER = (Path(__file__).parent / "driver.py").read_text(encoding="utf-8")
FIRST_PROCESS = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); [signal.pause() for _ in iter(int, 1)]"
NOBODY = "64123:64123"
MAX_JOBS_BYTES = 100_000  # of a command line
WAIT_S, WAIT_ALONE_S = 100.0, 4.0


class PlainContainer:
    """Started when it is first needed, and again after an attack that took it down. `close` it."""

    def __init__(self, host: str) -> None:
        self._client = connect_engine(host)
        self._image = ensure_image(self._client).tag
        self._container: Any = None
        self._waiting = ThreadPoolExecutor(1, "naive")

    def fooled_by(self, attacks: Sequence[Attack | Machine]) -> Mapping[str, set[Naive]]:
        """By an attack's name: those of the harnesses that it claims to fool which it does fool."""
        found: dict[str, set[Naive]] = {}
        together = [attack for attack in attacks if not (isinstance(attack, Machine) and attack.is_deadly)]
        for batch in _batches(together):
            found |= self._run(batch, WAIT_S)
            missing = [attack.name for attack in batch if attack.name not in found]
            if missing:
                raise AssertionError(f"the naive harnesses came to no end after: {missing[0]}")
        for attack in attacks:
            if attack.name not in found:  # it may take down whoever would report it
                found[attack.name] = self._run([attack], WAIT_ALONE_S).get(attack.name, set(attack.fools))
        return found

    def _run(self, attacks: Sequence[Attack | Machine], wait_s: float) -> Mapping[str, set[Naive]]:
        marker = secrets.token_hex(8)
        command = ["python3", "-c", DRIVER, marker, json.dumps([_job(attack) for attack in attacks])]
        running = self._waiting.submit(self._started().exec_run, command, user=NOBODY)
        try:
            said = running.result(wait_s).output
        except Late:
            said = b""
        told = [json.loads(part.splitlines()[0]) for part in said.split(marker.encode())[1:]]
        if len(told) < len(attacks):
            self._stop()
        return {one["name"]: {Naive(name) for name in one["fooled"]} for one in told}

    def close(self) -> None:
        self._stop()
        self._waiting.shutdown()
        self._client.close()

    def _started(self) -> Any:
        if self._container is None:
            self._container = self._client.containers.run(
                self._image,
                ["python3", "-c", FIRST_PROCESS],
                detach=True,
                labels={LABEL: "1", LABEL_OWNER: this_owner()},
                user=NOBODY,
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                mem_limit="1g",
                pids_limit=128,
                tmpfs={"/box/naive": "size=64m,mode=1777,exec"},
            )
        return self._container

    def _stop(self) -> None:
        if self._container is not None:
            self._container.remove(force=True)
            self._container = None


def _batches(attacks: Sequence[Attack | Machine]) -> Iterator[Sequence[Attack | Machine]]:
    batch: list[Attack | Machine] = []
    for attack in attacks:
        if batch and sum(len(one.code) + 2000 for one in [*batch, attack]) > MAX_JOBS_BYTES:
            yield batch
            batch = []
        batch.append(attack)
    if batch:
        yield batch


def _job(attack: Attack | Machine) -> Mapping[str, Any]:
    job: dict[str, Any] = {"name": attack.name, "harnesses": [naive.value for naive in attack.fools]}
    if isinstance(attack, Machine):
        return job | {"code": attack.code, "witness": attack.witness, "secret": f"SECRET-{secrets.token_hex(8)}"}
    if attack.task is None:
        return job | {"code": attack.code, "io": SUM.cases, "cpp_asserts": SUM.cpp_asserts}
    task = attack.task
    return job | {
        "code": task.prompt + attack.code, "tests": attack.tests, "function": task.function, "cases": task.cases
    }  # fmt: skip
