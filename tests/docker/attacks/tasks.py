"""The tasks that the attacks pretend to solve. What they ask for cannot be guessed."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from tests.docker.attacks.model import FunctionTask, ProgramTask


def text(code: str) -> str:
    return textwrap.dedent(code).strip("\n") + "\n"


TALLY = FunctionTask(
    function="tally",
    solution="def tally(xs):\n    return 7 * sum(x ** 3 for x in xs) + 11\n",
    cases=((([3, 1, 2],), 263), (([5],), 886), (([],), 11), (([10, -1],), 7004)),
    check=text("""
        def check(candidate):
            for xs, expected in [([3, 1, 2], 263), ([5], 886), ([], 11), ([10, -1], 7004)]:
                result = candidate(xs)
                assert isinstance(result, int)
                assert result == expected
    """),
)

ROWS = FunctionTask(
    function="rows",
    solution="def rows(n):\n    return [[i * i + 4] * i for i in range(1, n + 1)]\n",
    cases=(((1,), [[5]]), ((2,), [[5], [8, 8]]), ((3,), [[5], [8, 8], [13, 13, 13]])),
    check=text("""
        def check(candidate):
            wanted = []
            for i in range(1, 6):
                wanted.append([i * i + 4] * i)
                assert candidate(i) == wanted
    """),
)

AREA = FunctionTask(
    function="area",
    solution="def area(r):\n    return 2.7182818284 * r * r + 0.125\n",
    cases=(((2.0,), 10.9981273136), ((0.5,), 0.8045704571), ((10.0,), 271.95318284)),
    check=text("""
        def check(candidate):
            import math

            for r in (2.0, 0.5, 10.0, 3.25):
                assert math.isclose(candidate(r), 2.7182818284 * r * r + 0.125, rel_tol=1e-9)
    """),
    assertion="assert abs({call} - {expected!r}) < 1e-6",
)

NAME = FunctionTask(
    function="greet",
    solution="def greet(name):\n    return f'Dear {name}, no. {len(name) * 17}'\n",
    cases=((("Ada",), "Dear Ada, no. 51"), (("Grace",), "Dear Grace, no. 85")),
    check=text("""
        def check(candidate):
            for name, number in (("Ada", 51), ("Grace", 85), ("Edsger", 102)):
                result = candidate(name)
                assert result.startswith("Dear " + name)
                assert result.endswith(str(number))
    """),
)

LETTERS = FunctionTask(
    function="letters",
    solution="def letters(s):\n    return {c: 3 * s.count(c) - 1 for c in s}\n",
    cases=((("aab",), {"a": 5, "b": 2}), (("",), {}), (("zz",), {"z": 5})),
    check=text("""
        def check(candidate):
            for s in ("aab", "zz", "hello"):
                assert candidate(s) == {c: 3 * s.count(c) - 1 for c in s}
    """),
)

ORDER = FunctionTask(
    function="order",
    solution="def order(xs):\n    return sorted(xs)\n",
    cases=((([3, 1, 2],), [1, 2, 3]), (([9, -4],), [-4, 9])),
    check=text("""
        def check(candidate):
            for xs in ([3, 1, 2], [9, -4, 9, 0], [5, 5, 1]):
                xs = list(xs)
                assert candidate(xs) == sorted(xs)
    """),
)

DIGITS = FunctionTask(
    function="digits",
    solution="def digits(n):\n    return sum(map(int, str(n)))\n",
    cases=(((1234,), 10), ((99,), 18)),
    check=text("""
        import random

        def check(candidate):
            for _ in range(25):
                n = random.randrange(10 ** 6)
                total, rest = 0, n
                while rest:
                    total, rest = total + rest % 10, rest // 10
                assert candidate(n) == total
    """),
)

ZERO = FunctionTask(
    function="zero",
    prompt=text("""
        def value_at(coefficients, x):
            return sum(c * float(x) ** i for i, c in enumerate(coefficients))
    """),
    solution=text("""
        def zero(coefficients):
            low, high = -1000.0, 1000.0
            sign = 1 if value_at(coefficients, high) > 0 else -1
            for _ in range(200):
                middle = (low + high) / 2
                if sign * value_at(coefficients, middle) > 0:
                    high = middle
                else:
                    low = middle
            return (low + high) / 2
    """),
    cases=(),
    check=text("""
        def check(candidate):
            for coefficients in ([1.0, 2.0], [-6.0, 11.0, -6.0, 1.0], [5.0, -3.0]):
                assert abs(value_at(coefficients, candidate(list(coefficients)))) < 1e-4
    """),
)

SPLIT = FunctionTask(
    function="split",
    solution="def split(n):\n    p = next(p for p in range(2, n) if n % p == 0)\n    return [p, n // p]\n",
    cases=(),
    check=text("""
        def check(candidate):
            for n in (8633, 10403, 36863):
                found = candidate(n)
                assert found[0] * found[1] == n
                assert 1 < found[0] < n
    """),
)

# A name that begins as a class's does: nothing of the submission decides that it is one.
SPLIT_LIKE_A_CLASS = replace(SPLIT, function="Split", solution=SPLIT.solution.replace("def split", "def Split"))

PICK = FunctionTask(
    function="pick",
    solution=text("""
        import itertools

        def pick(xs, total):
            return next(list(three) for three in itertools.combinations(xs, 3) if sum(three) == total)
    """),
    cases=(),
    check=text("""
        def check(candidate):
            for xs, total in (([3, 34, 4, 12, 5, 2], 41), ([7, 11, 13, 29, 31], 71)):
                found = candidate(list(xs), total)
                assert len(set(found)) == 3
                assert all(x in xs for x in found)
                assert sum(found) == total
    """),
)

REFUSE = FunctionTask(
    function="root",
    solution=text("""
        def root(n):
            if n < 0:
                raise ValueError(n)
            return int(n ** 0.5 + 0.5) * 3
    """),
    cases=(),
    check=text("""
        def check(candidate):
            try:
                candidate(-1)
            except:
                pass
            else:
                raise AssertionError
            try:
                candidate(-2)
            except BaseException:
                pass
            else:
                raise AssertionError
    """),
)

FUNCTION_TASKS = (TALLY, ROWS, AREA, NAME, LETTERS, ORDER, DIGITS, ZERO, SPLIT, SPLIT_LIKE_A_CLASS, PICK, REFUSE)

SUM = ProgramTask(
    solution="import sys\nprint(7 * sum(int(x) ** 3 for x in sys.stdin.read().split()) + 11)\n",
    cases=(("3 1 2\n", "263\n"), ("5\n", "886\n"), ("10 -1\n", "7004\n")),
    cpp_solution=text("""
        #include <cstdio>
        long tally(const long *xs, int n) {
            long total = 0;
            for (int i = 0; i < n; i++) total += xs[i] * xs[i] * xs[i];
            return 7 * total + 11;
        }
        #ifndef TESTED
        int main() {
            long xs[100], x;
            int n = 0;
            while (std::scanf("%ld", &x) == 1) xs[n++] = x;
            std::printf("%ld\\n", tally(xs, n));
        }
        #endif
    """),
    cpp_asserts=text("""
        #include <cassert>
        int main() {
            const long first[] = {3, 1, 2}, second[] = {5};
            assert(tally(first, 3) == 263);
            assert(tally(second, 1) == 886);
        }
    """),
)
