"""Tests that must run as code: what a `Checks` job needs to know of them, found by reading them.

Which names do they leave open? Those that they call are the submission's (`f`, or a class whose objects they hand over);
modules of the standard library are imported on the tests' side (MBPP forgets some imports); anything else means that the tests
are broken, or that the prompt is missing which defines a helper. A helper is never taken from the submission where the
prompt has it: whoever supplies the helper that he is compared with passes.
"""

from __future__ import annotations

import ast
import builtins
import functools
import symtable
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlvr.errors import VerifierError
from rlvr.verifiers.code_syntax import parse_python, symbols_of

MAX_SHOWN_NAMES = 5

_PLAIN_MODULES = frozenset(name for name in sys.stdlib_module_names if not name.startswith("_"))
_GIVEN = frozenset(dir(builtins)) | {"__name__", "__file__", "__doc__"}


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """The parts of a `Checks` job: see `rlvr.sandbox.jobs.Checks`."""

    entry_points: tuple[str, ...]
    setup: str
    tests: tuple[str, ...]
    finish: str = ""


@functools.lru_cache(maxsize=1024)
def plan_asserts(setup: str, asserts: tuple[str, ...]) -> CheckPlan:
    """MBPP's tests: what they call and do not define is the submission's.

    Raises:
        VerifierError: they are no Python, call nothing of the submission, or use a name that nothing defines.
    """
    for number, source in enumerate(asserts, 1):
        _parsed(source, f"test {number}")
    tree = _parsed("\n".join([setup, *asserts]), "the setup of the tests")
    open_names = _open_names("\n".join([setup, *asserts]))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    entry_points = tuple(sorted(open_names & called))
    if not entry_points:
        raise VerifierError("the tests call nothing of the submission")
    return CheckPlan(entry_points, _with_modules(setup, open_names - called, "define"), asserts)


@functools.lru_cache(maxsize=1024)
def plan_check(before: str, code: str, entry_point: str) -> CheckPlan:
    """HumanEval's `check(candidate)`, with the helpers that the prompt defines `before` the function.

    Raises:
        VerifierError: the tests are no Python, or use a name that neither they nor the prompt define.
    """
    _parsed(code, "the code of the tests")
    setup = f"{_parsable(before)}\n{code}"
    finish = f"check({entry_point})"
    open_names = _open_names(f"{setup}\n{finish}") - {entry_point}
    return CheckPlan((entry_point,), _with_modules(setup, open_names, "nor the prompt define; give the prompt"), (), finish)


def _with_modules(setup: str, names: set[str], hint: str) -> str:
    unknown = sorted(names - _PLAIN_MODULES)
    if unknown:
        shown = ", ".join(unknown[:MAX_SHOWN_NAMES])
        raise VerifierError(f"the tests use {shown}, which they neither {hint if hint != 'define' else 'define nor call'}")
    return "\n".join([*(f"import {name}" for name in sorted(names)), setup])


def _parsed(source: str, what: str) -> ast.Module:
    found = parse_python(source)
    if isinstance(found, str):
        raise VerifierError(f"{what} cannot be read as Python: {found}")
    return found


def _parsable(source: str) -> str:
    """The beginning of a prompt, as far as it is Python; a prompt may be cut anywhere."""
    return "" if isinstance(parse_python(source), str) else source


def _open_names(source: str) -> set[str]:
    """Names that the code uses as globals and does not define itself, builtins aside."""
    try:
        top = symbols_of(source)
    except SyntaxError as error:
        raise VerifierError(f"the tests cannot be read as Python: {error}") from error
    defined = {symbol.get_name() for symbol in top.get_symbols() if _is_defined(symbol)}
    used = {symbol.get_name() for table in _tables([top]) for symbol in table.get_symbols() if _is_global_use(symbol, table, top)}
    assigned_inside = {
        symbol.get_name() for table in _tables([top]) for symbol in table.get_symbols() if symbol.is_declared_global()
    }
    return used - defined - assigned_inside - _GIVEN


def _is_defined(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()


def _is_global_use(symbol: symtable.Symbol, table: symtable.SymbolTable, top: symtable.SymbolTable) -> bool:
    return symbol.is_referenced() and (table is top or symbol.is_global())


def _tables(tables: Sequence[symtable.SymbolTable]) -> Iterator[symtable.SymbolTable]:
    for table in tables:
        yield table
        yield from _tables(table.get_children())
