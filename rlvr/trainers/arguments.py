"""Keyword arguments of a plugin, as a recipe gives them, checked against its signature and its type hints."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlvr.errors import ConfigError, PluginError, boundary


def settings_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The keyword arguments of a function or class with their defaults."""
    return {name: parameter.default for name, parameter in inspect.signature(target).parameters.items()}


def checked_arguments(
    what: str, target: Callable[..., Any], arguments: Mapping[str, Any], *, section: str = "algorithm"
) -> dict[str, Any]:
    """`arguments` as the type hints of `target` want them; `what` names it in errors, e.g. "algorithm 'grpo'".

    Raises:
        PluginError: its type hints cannot be read.
        ConfigError: an argument is unknown (with the closest known one) or has a wrong value.
    """
    known = list(settings_of(target))
    with boundary(PluginError, f"the type hints of {what} cannot be read"):
        hints = typing.get_type_hints(target)
    for key in arguments:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"{what} has no argument {key!r}; {guess}Allowed: {', '.join(known) or 'none'}")
    return {key: _checked(f"{section}.{key}", value, hints.get(key, Any)) for key, value in arguments.items()}


def _checked(key: str, value: Any, hint: Any) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        wanted = " or ".join(dict.fromkeys(problem["msg"] for problem in error.errors()))
        raise ConfigError(f"{key} = {value!r}: {wanted}") from error
