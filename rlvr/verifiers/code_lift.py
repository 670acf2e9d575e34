"""Turn asserts over literal calls into the calls alone, and a rule for what comes back.

    assert abs(f([1.0, 2.0]) - 1.5) < 1e-6      becomes      f([1.0, 2.0]), and "abs(value - 1.5) < 1e-6"

The submission is asked for values and never meets what is expected of them: nothing in its process can be read, patched or
overridden to pass. The rule is evaluated here, over plain data, by a small interpreter of the test's own syntax tree (no
`eval`): the operators below are Python's own on exact builtin types, so that it decides what the assert would have decided.

A set of tests is lifted as a whole or not at all. Taking out only those asserts that can be lifted would run the submission
twice, with another history of calls each time, and one that keeps state between calls would be judged on what it never did.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rlvr.errors import VerifierError
from rlvr.sandbox.jobs import Call, Plain
from rlvr.verifiers.call import clip
from rlvr.verifiers.code_interpret import (
    FUNCTIONS,
    MODULES,
    TYPES,
    NeedsChecksError,
    evaluate,
    is_supported,
)
from rlvr.verifiers.code_syntax import parse_python

MAX_SHOWN_CHARS = 200

# What an assert's expression raises in Python fails the assert.
_FAILURES = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class LiftedAssert:
    """One assert: the calls that it makes, and the rule for what they return."""

    source: str
    calls: tuple[Call, ...]
    rule: ast.expr = field(repr=False)
    slots: Mapping[int, int] = field(repr=False)  # id of a call's node -> which of `calls` it is

    def holds(self, values: Sequence[Plain]) -> bool:
        """Whether the assert passes when its calls return `values`.

        Raises:
            NeedsChecksError: that cannot be said from plain values.
        """
        try:
            return bool(evaluate(self.rule, self.slots, values))
        except _FAILURES:
            return False


@dataclass(frozen=True, slots=True)
class Lifted:
    """Asserts about one function, none of which needs the submission's process to be decided."""

    function: str
    asserts: tuple[LiftedAssert, ...]


@functools.lru_cache(maxsize=1024)
def lift_asserts(setup: str, asserts: tuple[str, ...]) -> Lifted | None:
    """The asserts as calls; None where one of them cannot be lifted. Those that call nothing (`assert True`) are left out.

    `setup` may only import modules and define constants that the asserts do not use.

    Raises:
        VerifierError: an assert that calls nothing fails.
    """
    trees = [parse_python(source) for source in (setup, *asserts)]
    bodies = [tree.body for tree in trees if not isinstance(tree, str)]
    if len(bodies) != len(trees):
        return None
    before, *tests = bodies
    if not _is_inert(before) or any(len(body) != 1 for body in tests):
        return None
    return _lifted([body[0] for body in tests], None)


@functools.lru_cache(maxsize=1024)
def lift_check(code: str, function: str) -> Lifted | None:
    """The asserts in HumanEval's `def check(candidate)` as calls of `function`; None where one of them cannot be lifted.

    Raises:
        VerifierError: an assert that calls nothing fails.
    """
    tree = parse_python(code)
    if isinstance(tree, str):
        return None
    checks = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if len(checks) != 1 or not _is_inert([node for node in tree.body if node is not checks[0]]):
        return None
    check = checks[0]
    arguments = check.args
    if len(arguments.args) != 1 or arguments.vararg or arguments.kwarg or arguments.kwonlyargs or check.decorator_list:
        return None
    body = [node for node in check.body if not _is_idle(node)]
    found = _lifted(body, arguments.args[0].arg)
    return None if found is None else Lifted(function, found.asserts)


def _lifted(statements: Sequence[ast.stmt], function: str | None) -> Lifted | None:
    names = {function} if function is not None else _called_names(statements)
    if len(names) != 1:
        return None
    (name,) = names
    if name in FUNCTIONS or name in TYPES or name in MODULES:
        return None
    found = []
    for statement in statements:
        if not isinstance(statement, ast.Assert):
            return None
        one = _lifted_assert(statement, name)
        if one is None:
            return None
        if one.calls:
            found.append(one)
        elif not one.holds(()):
            raise VerifierError(f"the test `assert {clip(one.source, MAX_SHOWN_CHARS)}` cannot pass, whatever is submitted")
    return Lifted(name, tuple(found)) if found else None


def _lifted_assert(statement: ast.Assert, name: str) -> LiftedAssert | None:
    calls: list[Call] = []
    slots: dict[int, int] = {}
    rule = statement.test
    nodes = [node for node in ast.walk(rule) if isinstance(node, ast.Call) and _is_call_of(node, name)]
    inside = {id(inner) for node in nodes for part in (*node.args, *node.keywords) for inner in ast.walk(part)}
    for node in nodes:
        if id(node) in inside:
            return None  # f(f(x)): the inner value would have to go back
        call = _call(node)
        if call is None:
            return None
        slots[id(node)] = len(calls)
        calls.append(call)
    if not is_supported(rule, slots):
        return None
    return LiftedAssert(ast.unparse(rule), tuple(calls), rule, slots)


def _call(node: ast.Call) -> Call | None:
    if any(isinstance(argument, ast.Starred) for argument in node.args) or any(word.arg is None for word in node.keywords):
        return None
    parts = [*node.args, *(word.value for word in node.keywords)]
    if not all(is_supported(part, {}) for part in parts):
        return None
    try:
        args = tuple(evaluate(argument, {}, ()) for argument in node.args)
        kwargs = {word.arg or "": evaluate(word.value, {}, ()) for word in node.keywords}
    except (NeedsChecksError, *_FAILURES):
        return None
    return Call(args, kwargs)


def _called_names(statements: Sequence[ast.stmt]) -> set[str]:
    """Names that are called and are neither builtins that the interpreter knows nor types."""
    calls = (node for statement in statements for node in ast.walk(statement) if isinstance(node, ast.Call))
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
    return names - FUNCTIONS.keys() - TYPES.keys()


def _is_call_of(node: ast.Call, name: str) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id == name


def _is_inert(statements: Sequence[ast.stmt]) -> bool:
    """Whether statements leave every name that the interpreter knows with its usual meaning, and call nothing."""
    for statement in statements:
        if isinstance(statement, ast.Import):
            bound = {alias.asname or alias.name.partition(".")[0]: alias.name for alias in statement.names}
            if any(name in _KNOWN and module != name for name, module in bound.items()):
                return False
        elif isinstance(statement, ast.ImportFrom):
            if any(alias.name == "*" or (alias.asname or alias.name) in _KNOWN for alias in statement.names):
                return False
        elif isinstance(statement, ast.Assign):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            if len(names) != len(statement.targets) or any(name in _KNOWN for name in names):
                return False
            if not is_supported(statement.value, {}):
                return False
        elif not _is_idle(statement):
            return False
    return True


_KNOWN = {*FUNCTIONS, *TYPES, *MODULES}


def _is_idle(statement: ast.stmt) -> bool:
    """`pass`, or a text that stands alone."""
    return isinstance(statement, ast.Pass) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
