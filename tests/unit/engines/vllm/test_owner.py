"""vLLM's processes end with the trainer that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# A trainer that starts an engine, which starts a worker; each names its process.
TREE = """
import os, subprocess, sys, time
from rlvr.engines.vllm.owner import OWNER, end_with_owner

print(os.getpid(), flush=True)
place = int(sys.argv[1])
if place == 0:
    os.environ[OWNER] = str(os.getpid())
if place == {worker}:
    end_with_owner()
else:
    subprocess.Popen([sys.executable, __file__, str(place + 1)])
time.sleep(60)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.processes
@pytest.mark.parametrize("worker", [1, 2])
def test_a_worker_and_the_engine_that_started_it_end_with_their_trainer(tmp_path: Path, worker: int) -> None:
    """The engine's own process is the worker, or has started it."""
    (tmp_path / "tree.py").write_text(TREE.format(worker=worker))
    command = [sys.executable, str(tmp_path / "tree.py"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as trainer:
        assert trainer.stdout is not None
        found = [int(trainer.stdout.readline()) for _ in range(worker + 1)]
        time.sleep(0.2)
        assert all(map(is_running, found))
        os.kill(trainer.pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while any(map(is_running, found[1:])):
            assert time.monotonic() < deadline
            time.sleep(0.01)
