"""How the slot server's memory lies, and how it counts its children: with real processes, in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def answers(code: str, **environment: str) -> str:
    """What this program prints, run where `sandbox` can be imported."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FILLED = """
import ast, decimal, gc, json, statistics
from sandbox.runner import memory
gc.collect()
if FILL: memory.fill_holes()
made = [bytes(size - memory.HEAD_BYTES) for size in range(64, 500, 48) for _ in range(8)]
print(len({id(block) // memory.POOL_BYTES for block in made}))
"""


def test_after_filling_the_holes_new_objects_lie_in_fewer_places() -> None:
    without, filled = (int(answers(f"FILL = {fill}\n" + FILLED)) for fill in (False, True))
    assert filled <= 12  # one pool for each of ten sizes, and where one was full, a second
    assert without > filled


def test_another_allocator_is_left_alone() -> None:
    code = "from sandbox.runner import memory\nmemory.fill_holes()\nprint(len(memory._kept))"
    assert answers(code, PYTHONMALLOC="malloc") == "0"
    assert int(answers(code)) > 100


def test_gathered_functions_work_and_have_new_code() -> None:
    code = """
from sandbox.runner import memory
def outer(x):
    def inner(y): return x + y
    return inner
def plain(a, *, b=2): return a * b
before = [outer.__code__, plain.__code__]
inner = outer(1)
memory.gather([outer, plain, inner])
print(outer(3)(4), plain(5), plain(5, b=3), inner(9), [f.__code__ is c for f, c in zip((outer, plain), before)])
"""
    assert answers(code) == "7 10 15 10 [False, False]"


CHILDREN = """
import os, signal, time
from sandbox.runner import users
listing = users.list_of_children() if LISTED else None
class Users:
    killed = 0
    def kill(self):
        self.killed += 1
        for pid in alive: os.kill(pid, 9)
alive, some = [], Users()
print(users.reap_all(some, listing), some.killed)
for _ in range(3):
    pid = os.fork()
    if pid == 0: os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # dead, and not reaped
print(users.reap_all(some, listing), some.killed)
pid = os.fork()
if pid == 0: time.sleep(60)
alive.append(pid)
found = users.reap_all(some, listing)
print(found >= 2, some.killed >= 1, users.reap_all(some, listing))
"""


@pytest.mark.parametrize("listed", [True, False])
def test_children_are_found_dead_or_alive_with_the_kernels_list_and_without(listed: bool) -> None:
    assert answers(f"LISTED = {listed}\n" + CHILDREN).splitlines() == ["0 0", "3 0", "True True 0"]


def test_a_child_is_reaped_with_what_it_used() -> None:
    code = """
import os, resource, time
from sandbox.runner.users import wait_for
pid = os.fork()
if pid == 0:
    block = bytearray(40 << 20)
    while time.process_time() < 0.1: pass
    os._exit(7)
status, cpu, peak = wait_for(pid)
total = resource.getrusage(resource.RUSAGE_CHILDREN)
is_same = abs(cpu - total.ru_utime - total.ru_stime) < 1e-5 and peak == total.ru_maxrss
print(os.waitstatus_to_exitcode(status), is_same, peak > 40 << 10)
pid = os.fork()
if pid == 0: os.kill(os.getpid(), 15)
print(os.waitstatus_to_exitcode(wait_for(pid)[0]))
try: wait_for(pid)
except ChildProcessError as error: print(error)
"""
    lines = answers(code).splitlines()
    assert lines[:2] == ["7 True True", "-15"]
    assert "cannot wait for process" in lines[2]
