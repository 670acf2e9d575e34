"""Where the program stands in a response, and how it becomes one that can run."""

from __future__ import annotations

import time

import pytest

from rlvr.types import Message, Problem
from rlvr.verifiers.code_extract import (
    MAX_CODE_BYTES,
    Extract,
    Language,
    completed,
    defines,
    extract_code,
    fenced_blocks,
    prompt_source,
    split_prompt,
    unrunnable,
    with_imports,
)

TWO = "First:\n```python\ndef f():\n    return 1\n```\nthen\n```python\nprint(f())\n```\n"
OUTPUT = "```python\nprint(1)\n```\nIt prints:\n```\n1\n```\n"


@pytest.mark.parametrize(
    ("response", "policy", "code"),
    [
        ("```python\nx = 1\n```", "last_block", "x = 1\n"),
        ("```py\nx = 1\n```", "last_block", "x = 1\n"),
        ("```\nx = 1\n```", "last_block", "x = 1\n"),
        ("~~~python\nx = 1\n~~~", "last_block", "x = 1\n"),
        ("````python\ns = '''\n```\n'''\n````", "last_block", "s = '''\n```\n'''\n"),
        ("1. so:\n   ```python\n   if x:\n       y()\n   ```", "last_block", "if x:\n    y()\n"),
        (TWO, "last_block", "print(f())\n"),
        (TWO, "first_block", "def f():\n    return 1\n"),
        (TWO, "all_blocks", "def f():\n    return 1\n\n\nprint(f())\n"),
        (OUTPUT, "last_block", "print(1)\n"),
        ("```bash\nls\n```", "last_block", None),
        ("```python\n\n```", "last_block", None),
        ("It cannot be done.", "last_block", None),
        ("", "last_block", None),
        ("   \n", "whole", None),
        ("x = 1", "whole", "x = 1"),
        ("def f():\n    return 1", "last_block", "def f():\n    return 1"),
        ("    return 1\n", "last_block", "    return 1\n"),
        ("print(3)", "last_block", "print(3)"),
        ("<answer>x = 1</answer>", "answer_tag", "x = 1"),
        ("<answer>\n```python\nx = 1\n```\n</answer>", "answer_tag", "x = 1\n"),
        ("```python\nx = 1\n```", "answer_tag", None),
        ("<think>```python\nx = 1\n```</think>```python\ny = 2\n```", "last_block", "y = 2\n"),
        ("<think>```python\nx = 1\n```</think>No.", "last_block", None),
        ("<think>so", "whole", "<think>so"),
        ("```python\nx = 1\n", "last_block", "x = 1"),
        ("```python\nx = 1```", "last_block", "x = 1"),
    ],
)
def test_the_program_is_found_where_the_policy_says(response: str, policy: Extract, code: str | None) -> None:
    found = extract_code(response, policy, "python")
    assert found.code == code
    assert bool(found.reason) == (code is None)


def test_of_several_blocks_the_last_that_defines_the_function_counts() -> None:
    assert extract_code(TWO, "last_block", "python", entry_point="f").code == "def f():\n    return 1\n"
    assert extract_code(TWO, "last_block", "python", entry_point="g").code == "print(f())\n"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ("x = 1", "no closed code block in python"),
        ("```python\nx = 1\n", "no closed code block"),
        ("<think>hm ```python\nx = 1\n```", "the thinking never ends"),
        ("```js\nx\n```", "those that there are say js"),
    ],
)
def test_strict_mode_wants_a_closed_block_behind_closed_thinking(response: str, reason: str) -> None:
    found = extract_code(response, "last_block", "python", is_strict=True)
    assert found.code is None
    assert reason in found.reason
    assert extract_code("```python\nx = 1\n```", "last_block", "python", is_strict=True).code == "x = 1\n"


@pytest.mark.parametrize(
    ("language", "response", "code"),
    [
        ("cpp", "```cpp\nint main(){}\n```", "int main(){}\n"),
        ("cpp", "```c++\nint main(){}\n```", "int main(){}\n"),
        ("cpp", "#include <cstdio>\nint main(){}", "#include <cstdio>\nint main(){}"),
        ("cpp", "```python\nx\n```", None),
        ("python", "```cpp\nint main(){}\n```", None),
    ],
)
def test_blocks_of_another_language_do_not_count(language: Language, response: str, code: str | None) -> None:
    assert extract_code(response, "last_block", language).code == code


LONG = {
    "fences": "```\n" * 50_000,
    "backticks": "`" * 1_000_000,
    "tildes": "~" * 1_000_000,
    "blanks": " " * 1_000_000,
    "open": "```python\n" + "x" * 1_000_000,
    "words": "if " * 300_000,
    "assignments": "x=" * 500_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_extraction_takes_linear_time(text: str) -> None:
    start = time.process_time()
    extract_code(text, "last_block", "python", entry_point="f")
    defines(text, "f")
    fenced_blocks(text)
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize(
    ("code", "is_defined"),
    [
        ("def f(x): pass", True),
        ("async def f(): pass", True),
        ("class f: pass", True),
        ("f = lambda x: x", True),
        ("f: int = 3", True),
        ("class Solution:\n    def f(self): pass", True),
        ("from math import gcd as f", True),
        ("def ff(): pass", False),
        ("f(3)", False),
        ("f == 3", False),
        ("# def f", False),
    ],
)
def test_a_definition_is_told_from_a_use(code: str, is_defined: bool) -> None:
    assert defines(code, "f") is is_defined
    assert defines(code, "Solution.f") is is_defined


PROMPT = 'from typing import List\n\ndef helper(x):\n    return -x\n\ndef f(x: int) -> int:\n    """ Double x. """\n'


def test_a_prompt_is_found_whole_in_a_message_or_in_a_block_of_it() -> None:
    for text in (PROMPT, f"Complete this:\n\n```python\n{PROMPT}```\n\nAnswer in one block."):
        source = prompt_source(Problem("p", (Message("system", "You code."), Message("user", text)), None), "f")
        assert source is not None
        before, signature = split_prompt(source, "f")
        assert before == "from typing import List\n\ndef helper(x):\n    return -x\n\n"
        assert signature == 'def f(x: int) -> int:\n    """ Double x. """\n'
    assert prompt_source(Problem("p", (Message("user", "Write f."),), None), "f") is None


@pytest.mark.parametrize(
    "response",
    [
        "    return 2 * x\n",
        "return 2 * x",
        "y = 2\nreturn y * x",
        "y = 2\n    return y * x",
        "if x:\n    return 2 * x\nreturn 0",
        "\treturn 2 * x",
        "    return 2 * x\n\n\ndef test():\n    assert f(",
        "    return 2 * x\n\nif __name__ == '__main__':\n    print(f(2))\n",
        "    return 2 * x\n\nprint(f(2), f(3",
        "def f(x):\n    return 2 * x\n",
        "from __future__ import annotations\ndef f(x):\n    return 2 * x\n",
    ],
)
def test_a_body_becomes_the_function_that_the_prompt_began(response: str) -> None:
    before, signature = split_prompt(PROMPT, "f")
    program = completed(response, before, signature, "f")
    space: dict[str, object] = {}
    exec(compile(program, "<program>", "exec"), space)  # the response is this file's
    assert space["f"](21) == 42  # type: ignore[operator]
    assert space["helper"](1) == -1  # type: ignore[operator]


def test_imports_come_before_a_submission_and_future_imports_before_them() -> None:
    program = with_imports(
        "from __future__ import annotations\n\ndef f(xs: List[int]) -> float:\n    return pow(len(Counter(xs)), 2, 5) + inf"
    )
    space: dict[str, object] = {}
    exec(compile(program, "<program>", "exec"), space)  # the submission is this file's
    assert space["f"]([1, 1]) == float("inf")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("x = 1\0", "NUL"),
        ("x = '\ud800'", "surrogate"),
        ("x" * (MAX_CODE_BYTES + 1), f"has {MAX_CODE_BYTES + 1} bytes"),
        ("x = '\u00e9\U0001f600'", None),
        ("(" * 100_000, None),
    ],
)
def test_what_is_no_program_is_said_before_it_is_run(code: str, reason: str | None) -> None:
    found = unrunnable(code)
    assert found is None if reason is None else found is not None and reason in found
