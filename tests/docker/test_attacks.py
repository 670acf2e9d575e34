"""No submission passes without a solution, whatever it tries; and none makes itself unscored.

Every attack is shown, in the same run, to fool a naive harness that rejects a plain wrong answer: the suite is known to bite.
"""

from __future__ import annotations

import resource
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rlvr.errors import SandboxError
from rlvr.sandbox.jobs import Call, Calls, Checks, Limits, Program, Status
from rlvr.sandbox.pool import SandboxPool
from tests.docker.attacks.catalog import ALL, BY_THEME
from tests.docker.attacks.model import Attack, Machine, Naive
from tests.docker.attacks.naive import PlainContainer
from tests.docker.attacks.ours import LIMITS, PASSED, ROUTES, WRONG, answers_to, of_function, of_program
from tests.docker.attacks.tasks import FUNCTION_TASKS, SUM, TALLY

BY_CODE = (Naive.EXIT, Naive.FLAG)


@pytest.fixture(scope="module")
def plain(docker_host: str) -> Iterator[PlainContainer]:
    container = PlainContainer(docker_host)
    yield container
    container.close()


def test_there_are_attacks_of_every_kind() -> None:
    assert len(ALL) >= 100
    assert len({attack.name for attack in ALL}) == len(ALL)
    assert {naive for attack in ALL for naive in attack.fools} == set(Naive)


@pytest.mark.parametrize("theme", BY_THEME)
def test_attacks_that_fool_naive_harnesses_score_zero_here(theme: str, plain: PlainContainer, sandbox: SandboxPool) -> None:
    fooled = plain.fooled_by(BY_THEME[theme])
    harmless = {attack.name: set(attack.fools) - fooled[attack.name] for attack in BY_THEME[theme]}
    assert {name: missing for name, missing in harmless.items() if missing} == {}, "these do not do what they claim to"
    for attack in BY_THEME[theme]:
        answers = answers_to(sandbox, attack)
        assert set(answers.values()) == {WRONG}, f"{attack.name}: {answers}"


def test_the_naive_harnesses_tell_right_from_wrong(plain: PlainContainer) -> None:
    controls: list[Attack | Machine] = []
    for task in FUNCTION_TASKS:
        fools = (*BY_CODE, Naive.VALUES) if task.cases else BY_CODE
        for uses_check in (False, True) if task.cases else (True,):
            right = Attack(f"right {task.function} {uses_check}", "", task.solution, fools, task, uses_check)
            wrong = f"def {task.function}(*args):\n    return None\n"
            controls += [right, replace(right, name=f"wrong {task.function} {uses_check}", code=wrong)]
    cpp = (Naive.CPP_EXIT, Naive.CPP_FOLDER)
    controls += [Attack("right program", "", SUM.solution, (Naive.FOLDER,)), Attack("wrong program", "", "", (Naive.FOLDER,))]
    controls += [Attack("right C++", "", SUM.cpp_solution, cpp)]
    controls += [Attack("wrong C++", "", SUM.cpp_solution.replace("11", "12"), cpp)]
    controls += [Machine("wrong on a server", "", "print(1)", "print(2)")]
    controls += [Machine("wrong in search of a secret", "", "def find():\n    pass", fools=(Naive.SECRET,))]
    accepted = plain.fooled_by(controls)
    for control in controls:
        assert accepted[control.name] == (set(control.fools) if control.name.startswith("right") else set()), control.name


@pytest.mark.parametrize("task", FUNCTION_TASKS, ids=lambda task: task.function)
def test_a_solution_passes_on_every_route_and_none_without(task: object, sandbox: SandboxPool) -> None:
    assert isinstance(task, type(TALLY))
    right = of_function(sandbox, task, task.solution)
    assert set(right.values()) == {PASSED}, right
    wrong = of_function(sandbox, task, f"def {task.function}(*args):\n    return None\n")
    assert set(wrong.values()) == {WRONG}, wrong


def test_a_program_passes_in_both_languages(sandbox: SandboxPool) -> None:
    assert of_program(sandbox, SUM.solution) == PASSED
    assert of_program(sandbox, SUM.cpp_solution, "cpp") == PASSED
    assert of_program(sandbox, SUM.cpp_solution.replace("11", "12"), "cpp") == WRONG


# -- what a submission may find of others


SCAN = """
word = bytes(reversed(b"-{word}"))
found = 0
memory = open("/proc/self/mem", "rb", 0)
for line in open("/proc/self/maps"):
    span, rights, *_ = line.split()
    start, end = (int(part, 16) for part in span.split("-"))
    if rights.startswith("rw"):
        try:
            memory.seek(start)
            data = memory.read(end - start)
        except OSError:
            continue
        at = data.find(word)
        while at >= 0:  # twice in a row, as it was written; this program itself has it once
            found += data.startswith(word, at + len(word))
            at = data.find(word, at + 1)
print(found)
"""


def test_nothing_of_an_earlier_submission_lies_in_the_memory_of_the_next(docker_host: str, sandbox: SandboxPool) -> None:
    word = "".join(chr(ord("A") + index % 26) for index in range(7, 40))
    scan = SCAN.replace("{word}", word[::-1])
    control = f"import sys\nkept = sys.stdin.buffer.read()\n{scan}"
    assert int(sandbox.execute(Program(control, f"{word}-".encode() * 50)).stdout) >= 49  # it finds what is there
    code = f"import sys\nfor stream in (sys.stdout, sys.stderr):\n    stream.write('{word}-' * 50)\ndef f(x):\n    return x * 50"
    for job in (
        Program(f"{code}\nimport sys\nsys.stdin.read()", f"{word}-".encode() * 50),
        Calls(code, "f", (Call((f"{word}-",)),)),
        Checks(code, ("f",), (f"assert f('{word}-') == 1, '{word}-' * 20",)),
    ):
        for _ in range(2 * sandbox.capacity):  # in every slot
            sandbox.execute(job)
        for _ in range(2 * sandbox.capacity):
            assert sandbox.execute(Program(scan)).stdout == b"0\n"


# -- submissions that would rather have no score than 0


def _frames(*messages: str) -> str:
    return textwrap.dedent(f"""
        import json, os, struct

        def tally(xs):
            for message in [{", ".join(messages)}]:
                data = message if type(message) is bytes else json.dumps(message).encode()
                data = struct.pack("!I", len(data)) + data
                while data:
                    data = data[os.write(5, data):]
            os._exit(0)
    """)


EVASIONS = {
    "opaque values handed back": _frames('{"v": {"~": "opaque", "c": "x"}}'),
    "values that cannot be read": _frames('{"v": {"~": "Fraction", "v": [1, 0]}}'),
    "no JSON": _frames('b"\\xff" * 100'),
    "deep JSON": _frames('b"[" * 100_000'),
    "a reference where none can be": _frames('{"v": {"~": "ref", "id": "x"}}'),
    "a failure that is none": _frames('{"e": [1, {"kind": {}}]}'),
    "a list as an answer": _frames("[1, 2]"),
    "a long failure": _frames('{"e": {"kind": "x" * 1_000_000, "message": "\\u00e9" * 3_000_000}}'),
    "a frame of 4 GiB": "import os\n\ndef tally(xs):\n    os.write(5, b'\\xff' * 4)\n    os._exit(0)\n",
    "half a frame": "import os\n\ndef tally(xs):\n    os.write(5, b'\\0\\0\\0\\x09{\"v\"')\n    os._exit(0)\n",
    "a long failure while it is loaded": _frames('{"e": {"kind": "x", "message": "\\u00e9" * 1_300_000}}') + "\n\ntally([])\n",
    "messages that make the verdict too long": "def tally(xs):\n    raise ValueError(chr(0x1F600) * 500)\n",
    "hostile text of an exception": textwrap.dedent("""
        class Bad(Exception):
            def __str__(self):
                raise SystemExit

            __repr__ = __str__

        Bad.__name__ = "\\ud800" * 1000

        def tally(xs):
            raise Bad
    """),
    "an exception that never ends its text": textwrap.dedent("""
        class Bad(Exception):
            def __str__(self):
                while True:
                    pass

        def tally(xs):
            raise Bad
    """),
    "an exception named like an exit": "class SystemExit(BaseException): pass\n\ndef tally(xs):\n    raise SystemExit\n",
    "memory": "def tally(xs):\n    return bytearray(1 << 40)\n",
    "a result without end": "def tally(xs):\n    return 'x' * 50_000_000\n",
    "an iterator without end": "import itertools\n\ndef tally(xs):\n    return itertools.count()\n",
    "a stack without end": "def tally(xs):\n    return tally(xs)\n",
    "a crash": "import ctypes\n\ndef tally(xs):\n    ctypes.string_at(0)\n",
    "no descriptors": "import os\nos.closerange(0, 64)\n\ndef tally(xs):\n    return 0\n",
    "text that is no Python": "def tally(xs) return 0\n",
    "text with a NUL": "def tally(xs):\n    return 0\n# \0\n",
    "an encoding that is none": "# -*- coding: no-such-thing -*-\ndef tally(xs):\n    return 0\n",
    "form feeds and a null statement": "\f\f\fdef tally(xs):\n\f    return 0;;\n",
    "half of a surrogate pair": "def tally(xs):\n    return '\ud800'\n",
    "deep expression": "def tally(xs):\n    return " + "(" * 5000 + ")" * 5000 + "\n",
    "long chain": "def tally(xs):\n    return 0" + " + 1" * 50_000 + "\n",
    "its own pieces killed": "import os\n\ndef tally(xs):\n    os.kill(-1, 9)\n",
    "stopped": "import os, signal\n\ndef tally(xs):\n    os.kill(os.getpid(), signal.SIGSTOP)\n",
}


SLOW = ("stopped", "an exception that never ends its text")  # they end at a limit


@pytest.mark.parametrize("name", EVASIONS)
def test_no_submission_makes_itself_unscored(name: str, sandbox: SandboxPool) -> None:
    routes = ("check",) if name in SLOW else ROUTES
    answers = of_function(sandbox, TALLY, EVASIONS[name], routes=routes)
    assert set(answers.values()) == {WRONG}, answers


def test_many_long_failures_are_still_a_verdict(sandbox: SandboxPool) -> None:
    code = EVASIONS["messages that make the verdict too long"]
    done = sandbox.execute(Checks(code, ("tally",), ("assert tally([1]) == 2",) * 2000), LIMITS)
    assert done.is_checked
    assert done.passed == (False,) * 2000


def test_handing_back_what_is_no_value_fails_the_test_and_not_the_tests(sandbox: SandboxPool) -> None:
    done = sandbox.execute(Checks(EVASIONS["opaque values handed back"], ("tally",), ("assert tally(tally([])) == 1",)), LIMITS)
    assert done.passed == (False,)
    assert not done.unsupported


# -- values made for our process


VALUES = {
    "many lists": "[[] for _ in range(300_000)]",
    "a long list": "list(range(400_000))",
    "a deep list": "deep(lambda inner: [inner])",
    "a deep tuple": "deep(lambda inner: (inner,))",
    "a deep dict": "deep(lambda inner: {'a': inner})",
    "keys with one hash": "{index * (2**61 - 1): 0 for index in range(3_000)}",
    "a set with one hash": "{index * (2**61 - 1) for index in range(3_000)}",
    "a long integer": "1 << 25_000_000",
    "a long decimal": "__import__('decimal').Decimal('7' * 1_000_000)",
    "a decimal of a large exponent": "__import__('decimal').Decimal('1e999999')",
    "a long fraction": "__import__('fractions').Fraction(10**20_000 + 1, 3**20_000)",
    "a long string": "'x' * 7_000_000",
    "a string of quotes": "'\"' * 7_000_000",
    "a list that holds itself": "cycle()",
    "not a number": "float('nan')",
}


@pytest.mark.parametrize("name", VALUES)
def test_a_hostile_value_costs_our_process_little(name: str, sandbox: SandboxPool) -> None:
    code = textwrap.dedent(f"""
        def deep(wrap):
            value = 0
            for _ in range(90_000):
                value = wrap(value)
            return value

        def cycle():
            items = []
            items.append(items)
            return items

        def tally(xs):
            return {VALUES[name]}
    """)
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    answers = of_function(sandbox, TALLY, code, routes=("calls", "asserts", "check"))
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert set(answers.values()) == {WRONG}, answers
    # What a value costs is bounded by what is read of it: 8 MiB and a million values for an execution.
    assert after.ru_utime - before.ru_utime < 20.0
    assert time.monotonic() - started < 60.0


def test_results_beyond_the_calls_are_not_read(sandbox: SandboxPool) -> None:
    code = "import os\ndef f(x):\n    return x\nfor _ in range(100):\n    os.write(4, b'{\"v\": 1}\\n' * 8000)\nos._exit(0)\n"
    done = sandbox.execute(Calls(code, "f", (Call((1,)), Call((2,)))), Limits(wall_s=5))
    assert [one.value for one in done.returned] == [1, 1]


def test_compiling_is_bounded(sandbox: SandboxPool) -> None:
    bombs = {
        "templates": "template<int n> struct T { T<n - 1> a; T<n - 2> b; }; T<900> t; int main() {}",
        "a device": '#include "/dev/zero"\nint main() {}',
        "itself": '#include __FILE__\nint main() {}',
        "a large array": "char data[3000000000] = {1};\nint main() { return data[5]; }",
        "somebody's file": '#include "/proc/1/environ"\nint main() {}',
    }  # fmt: skip
    for name, source in bombs.items():
        started = time.monotonic()
        assert of_program(sandbox, source, "cpp") == WRONG, name
        assert time.monotonic() - started < 45.0, name


def test_a_binary_reads_nothing_of_the_machine(sandbox: SandboxPool) -> None:
    done = sandbox.execute(Program("print(open('/etc/passwd').read(), open('/etc/shadow').read())"))
    assert done.status is Status.EXITED
    assert done.failure is not None
    with pytest.raises(SandboxError):
        sandbox.execute(Program("x" * (49 << 20)))
