"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in ROOT.glob("rlvr/**/*.py")
    if "    >>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
@pytest.mark.usefixtures("own_plugins")
def test_what_the_examples_show_comes_out(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0, "no example that runs: `+SKIP` shows what nobody tried"
    assert results.failed == 0
