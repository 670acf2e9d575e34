"""What a constraint is, how its functions are registered, and how its arguments are checked.

Sources: IFEval, arXiv 2311.07911; IFBench, arXiv 2507.02833. "The reference" is the code that was published with them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

from rlvr.errors import ConfigError
from rlvr.types import JSON

Source: TypeAlias = Literal["ifeval", "ifbench"]
Compat: TypeAlias = Literal["fixed", "reference"]
Follows: TypeAlias = Callable[..., bool]

MAX_TEXT_CHARS = 100_000  # of one argument
MAX_LIST_ITEMS = 200


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The smallest value that a whole-number argument may have."""

    minimum: int


Count: TypeAlias = Annotated[int, AtLeast(0)]
Position: TypeAlias = Annotated[int, AtLeast(1)]
Relation: TypeAlias = Literal["less than", "at least"]


def compare(count: int, relation: Relation, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint: what it says to the model, and whether a response follows it.

    `follows(response, **kwargs)` is ours; `reference` gives the reference's verdict, and is the same function where no defect
    of the reference is known. `text` is the sentence that a prompt carries, with the arguments in braces.
    """

    id: str
    source: Source
    text: str
    follows: Follows
    reference: Follows
    parameters: Mapping[str, Any] = field(repr=False)
    check_kwargs: Callable[..., str] | None = field(default=None, repr=False)

    @property
    def has_fix(self) -> bool:
        return self.reference is not self.follows

    @property
    def meaning(self) -> str:
        """What following means, in one line."""
        return self._paragraphs()[0]

    @property
    def fixed(self) -> str:
        """The reference's defect that `follows` does not have; empty where there is none."""
        return next((part.removeprefix("Fixed: ") for part in self._paragraphs() if part.startswith("Fixed: ")), "")

    def render(self, kwargs: Mapping[str, JSON]) -> str:
        """The sentence for a prompt."""
        return self.text.format(**{name: _spoken(value) for name, value in kwargs.items()})

    def _paragraphs(self) -> list[str]:
        text = inspect.cleandoc(self.follows.__doc__ or self.id)
        return [" ".join(part.split()) for part in text.split("\n\n")]


@dataclass(frozen=True, slots=True)
class Bound:
    """A constraint with its arguments."""

    constraint: Constraint
    kwargs: Mapping[str, JSON]

    def follows(self, response: str, compat: Compat = "fixed") -> bool:
        """Whether a response follows the constraint. A blank response follows nothing."""
        if not response.strip():
            return False
        check = self.constraint.follows if compat == "fixed" else self.constraint.reference
        return check(response, **self.kwargs)

    @property
    def text(self) -> str:
        return self.constraint.render(self.kwargs)

    def to_json(self) -> dict[str, JSON]:
        return {"id": self.constraint.id, "kwargs": dict(self.kwargs)}


@dataclass(slots=True)
class _Registered:
    follows: Follows
    source: Source
    text: str
    check_kwargs: Callable[..., str] | None


_follows: dict[str, _Registered] = {}
_reference: dict[str, Follows] = {}


def ifeval(id: str, text: str, check_kwargs: Callable[..., str] | None = None) -> Callable[[Follows], Follows]:
    """Register `(response, *, arguments) -> bool` as IFEval's constraint `id`. `check_kwargs` says what is wrong, or ''."""
    return functools.partial(_register, id, "ifeval", text, check_kwargs)


def ifbench(id: str, text: str, check_kwargs: Callable[..., str] | None = None) -> Callable[[Follows], Follows]:
    """Register a constraint of IFBench."""
    return functools.partial(_register, id, "ifbench", text, check_kwargs)


def reference(id: str) -> Callable[[Follows], Follows]:
    """Register what the reference finds for `id` where that is known to be wrong."""

    def decorate(function: Follows) -> Follows:
        _reference[id] = function
        return function

    return decorate


def collect() -> dict[str, Constraint]:
    """Every constraint that the imported families registered."""
    return {
        id: Constraint(
            id,
            entry.source,
            entry.text,
            entry.follows,
            _reference.get(id, entry.follows),
            _parameters(entry.follows),
            entry.check_kwargs,
        )
        for id, entry in _follows.items()
    }


def bind(known: Mapping[str, Constraint], id: JSON, kwargs: JSON) -> Bound:
    """The constraint `id` with its arguments checked. Arguments that are null are left out, as data sets have them.

    Raises:
        ConfigError: no such constraint; an argument is missing, unknown or of the wrong kind.
    """
    if not isinstance(id, str) or id not in known:
        close = difflib.get_close_matches(str(id), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"there is no constraint {id!r}{hint}")
    constraint = known[id]
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ConfigError(f"constraint {id}: kwargs is {type(kwargs).__name__}, not an object")
    given = {name: value for name, value in (kwargs or {}).items() if value is not None}
    for name in given:
        if name not in constraint.parameters:
            raise ConfigError(f"constraint {id} has no argument {name!r}; it takes {_listed(constraint.parameters)}")
    for name in constraint.parameters:
        if name not in given:
            raise ConfigError(f"constraint {id} needs the argument {name!r}")
    values = {name: _value(id, name, given[name], kind) for name, kind in constraint.parameters.items()}
    if constraint.check_kwargs is not None and (wrong := constraint.check_kwargs(**values)):
        raise ConfigError(f"constraint {id}: {wrong}")
    return Bound(constraint, values)


def _register(id: str, source: Source, text: str, check_kwargs: Callable[..., str] | None, function: Follows) -> Follows:
    _follows[id] = _Registered(function, source, text, check_kwargs)
    return function


def _parameters(function: Follows) -> dict[str, Any]:
    hints = typing.get_type_hints(function, include_extras=True)
    names = list(inspect.signature(function).parameters)[1:]
    return {name: hints[name] for name in names}


def _value(id: str, name: str, value: JSON, kind: Any) -> JSON:
    """The argument as its constraint takes it; whole numbers may be written 5.0, as the data sets' tables do."""
    where = f"constraint {id}: {name} = {value!r:.80}"
    origin = typing.get_origin(kind)
    if origin is Annotated:
        minimum = kind.__metadata__[0].minimum
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            raise ConfigError(f"{where}; it must be a whole number")
        if not minimum <= value <= 10**9:
            raise ConfigError(f"{where}; it must be at least {minimum} and at most 10^9")
        return int(value)
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise ConfigError(f"{where}; it must be one of {', '.join(map(repr, typing.get_args(kind)))}")
        return value
    if kind is str:
        return _text(where, value)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_LIST_ITEMS:
        raise ConfigError(f"{where}; it must be a list of 1 to {MAX_LIST_ITEMS} texts")
    return [_text(where, item) for item in value]


def _text(where: str, value: JSON) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}; it must be a text that is not blank")
    if len(value) > MAX_TEXT_CHARS:
        raise ConfigError(f"{where}; it has {len(value)} characters, and at most {MAX_TEXT_CHARS} are read")
    return value


def _spoken(value: JSON) -> str:
    return ", ".join(f'"{item}"' for item in value) if isinstance(value, list) else str(value)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names) or "none"
