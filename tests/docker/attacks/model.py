"""What an attack is: a text, the task it pretends to solve, and which naive harness it fools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, TypeVar


class Naive(StrEnum):
    """Harnesses as they are found in the field; they run in `driver.py`, in a plain container."""

    EXIT = "exit"  # submission and asserts in one script, whose exit status decides
    FLAG = "flag"  # both executed in one process, which then prints a secret
    VALUES = "values"  # the function is called and compared in one process, which writes the results to a pipe
    FOLDER = "folder"  # programs run beside their expected output; a script there compares
    CPP_EXIT = "cpp_exit"  # C++ with a main() of asserts, whose exit status decides
    CPP_FOLDER = "cpp_folder"  # as FOLDER, for C++
    SERVER = "server"  # a server starts the submission under its own user, then the next one
    SECRET = "secret"  # the same server, which knows a secret


@dataclass(frozen=True, slots=True)
class FunctionTask:
    """A function to write. `cases` are literal calls; `check` is a test function that no tool can turn into calls."""

    function: str
    solution: str
    cases: tuple[tuple[tuple[Any, ...], Any], ...]
    check: str
    prompt: str = ""  # what stands before the function: helpers that tests use, too
    assertion: str = "assert {call} == {expected!r}"

    @property
    def asserts(self) -> tuple[str, ...]:
        calls = [(f"{self.function}({', '.join(map(repr, args))})", expected) for args, expected in self.cases]
        return tuple(self.assertion.format(call=call, expected=expected) for call, expected in calls)

    @property
    def check_code(self) -> str:
        return f"{self.check}\n\ncheck({self.function})\n"


@dataclass(frozen=True, slots=True)
class ProgramTask:
    """A program that reads standard input: (input, output) pairs."""

    solution: str
    cases: tuple[tuple[str, str], ...]
    cpp_solution: str
    cpp_asserts: str  # a main() that tests the function `tally`


@dataclass(frozen=True, slots=True)
class Attack:
    """`code` against a task. `uses_check`: the naive harnesses are given the test function, not the literal asserts."""

    name: str
    theme: str
    code: str
    fools: tuple[Naive, ...]
    task: FunctionTask | None = None
    uses_check: bool = False

    @property
    def tests(self) -> str:
        assert self.task is not None
        return self.task.check_code if self.uses_check or not self.task.cases else "\n".join(self.task.asserts)


@dataclass(frozen=True, slots=True)
class Machine:
    """Code against the machine it runs on. It succeeds when it, or the `witness` that runs after it, prints FOOLED, or when
    nothing can run after it. With `fools` SECRET its function `find()` looks for the secret of its server.
    """

    name: str
    theme: str
    code: str
    witness: str = ""
    fools: tuple[Naive, ...] = (Naive.SERVER,)
    is_deadly: bool = False  # it takes down the naive harness's own driver, too


T = TypeVar("T", Attack, Machine)


def named(theme: str, attacks: Mapping[str, T]) -> list[T]:
    """Attacks under the names of a table (which are unique in it)."""
    return [replace(attack, name=name, theme=theme) for name, attack in attacks.items()]
