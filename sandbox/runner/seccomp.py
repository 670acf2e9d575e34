"""The system-call filter as a BPF program, from the list in `seccomp.json`."""

import ctypes
import json
import os
import struct

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NEW_NAMESPACE = 0x7E020000  # the CLONE_NEW* flags: mount, cgroup, uts, ipc, user, pid, net
_SECCOMP_FILTER, _PR_SET_SECCOMP = 2, 22


class FilterError(Exception):
    """This machine's architecture has no list of call numbers."""


def policy():
    """The parsed `seccomp.json`."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "seccomp.json"), encoding="utf-8") as file:
        return json.load(file)


def program(rules, machine=None):
    """BPF instructions for `machine` (default: this one): 8 bytes each."""
    machine = machine or os.uname().machine
    try:
        table = rules["architectures"][machine]
    except KeyError:
        raise FilterError(f"seccomp.json has no call numbers for {machine}") from None
    numbers = table["numbers"]
    refused = [(numbers[name], _EPERM) for name in rules["refused"] if name in numbers]
    refused += [(numbers[name], _ENOSYS) for name in rules["missing"] if name in numbers]
    lines = [
        (_LOAD, 0, 0, 4),  # the architecture of the call
        (_EQUAL, 1, 0, int(table["audit"], 16)),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number of the call
    ]
    if machine == "x86_64":  # the x32 calls have numbers of their own
        lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    for number, answer in refused:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | answer)]
    lines += [
        (_EQUAL, 0, 3, numbers["clone"]),
        (_LOAD, 0, 0, 16),  # the flags: the low half of the first argument
        (_ANY_BIT, 0, 1, _NEW_NAMESPACE),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def install(code):
    """Put the filter on this process and all that it will ever start. Needs no_new_privs.

    Raises OSError where the kernel refuses it.
    """

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(code)
    described = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_FILTER, ctypes.byref(described), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel refused the seccomp filter")
