"""The filter's program does what its list says, on both architectures: interpreted here, call by call."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from rlvr.sandbox.sources import sandbox_folder

SECCOMP: ModuleType
POLICY: dict[str, Any] = json.loads((sandbox_folder() / "runner" / "seccomp.json").read_text())
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
MACHINES = ("x86_64", "aarch64")


@pytest.fixture(autouse=True, scope="module")
def _seccomp(runner_module: Callable[[str], ModuleType]) -> None:
    global SECCOMP
    SECCOMP = runner_module("seccomp")


def answer(code: bytes, number: int, audit: int, first: int = 0) -> int:
    """What the kernel would answer: classic BPF over struct seccomp_data."""
    lines = [struct.unpack_from("=HBBI", code, offset) for offset in range(0, len(code), 8)]
    data = struct.pack("=IIQQ", number, audit, 0, first)
    at = accumulator = 0
    while True:
        operation, if_true, if_false, value = lines[at]
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
            at += if_true if holds else if_false


@pytest.mark.parametrize("machine", MACHINES)
def test_every_listed_call_is_refused_and_others_pass(machine: str) -> None:
    table = POLICY["architectures"][machine]
    numbers, audit = table["numbers"], int(table["audit"], 16)
    code = SECCOMP.program(POLICY, machine)
    for name in POLICY["refused"]:
        if name in numbers:
            assert answer(code, numbers[name], audit) == EPERM, name
    for name in POLICY["missing"]:
        assert answer(code, numbers[name], audit) == ENOSYS, name
    refused = {numbers[name] for name in (*POLICY["refused"], *POLICY["missing"]) if name in numbers}
    for number in set(range(460)) - refused:
        assert answer(code, number, audit) == ALLOW, number


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_may_make_threads_and_processes_but_no_namespace(machine: str) -> None:
    table = POLICY["architectures"][machine]
    code = SECCOMP.program(POLICY, machine)
    clone, audit = table["numbers"]["clone"], int(table["audit"], 16)
    threads = 0x3D0F00
    assert answer(code, clone, audit, threads) == ALLOW
    assert answer(code, clone, audit, 17) == ALLOW
    for flag in (0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer(code, clone, audit, threads | flag) == EPERM


def test_calls_of_another_architecture_end_the_process() -> None:
    code = SECCOMP.program(POLICY, "x86_64")
    assert answer(code, 1, 0x40000003) == KILL  # i386, whose numbers mean other calls
    assert answer(code, 0x40000001, 0xC000003E) == EPERM  # x32


def test_only_names_of_the_table_are_listed() -> None:
    known = {name for table in POLICY["architectures"].values() for name in table["numbers"]}
    assert {*POLICY["refused"], *POLICY["missing"]} <= known
    with pytest.raises(SECCOMP.FilterError, match="riscv64"):
        SECCOMP.program(POLICY, "riscv64")
