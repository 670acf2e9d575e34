"""Read the Python of a data set (prompts, tests), never a submission's: Python's parser is not safe on hostile text."""

from __future__ import annotations

import ast
import symtable
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

MAX_SOURCE_CHARS = 2_000_000

_lock = threading.Lock()  # guards the warning filters, which are the process's


def parse_python(source: str) -> ast.Module | str:
    """The syntax tree, or what is wrong with the text."""
    if len(source) > MAX_SOURCE_CHARS:
        return f"it has {len(source)} characters; at most {MAX_SOURCE_CHARS} are read"
    try:
        with _without_warnings():
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__


def symbols_of(source: str) -> symtable.SymbolTable:
    """The names of code that `parse_python` can read.

    Raises:
        SyntaxError: what only the compiler refuses (`return` outside of a function).
    """
    with _without_warnings():
        return symtable.symtable(source, "<tests>", "exec")


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Old code is full of '\\d', which newer versions warn of."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
