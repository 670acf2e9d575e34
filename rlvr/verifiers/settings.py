"""Check a verifier's settings against its signature, before any rollout is graded."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Mapping

from rlvr.errors import ConfigError
from rlvr.types import JSON
from rlvr.verifiers.base import Verifier


def check_settings(verifier: Verifier, settings: Mapping[str, JSON]) -> None:
    """Every setting must be a keyword parameter of the verifier's function, of the declared type.

    Raises:
        ConfigError: an unknown, missing or ill-typed setting; the text names the verifier, the key and what is allowed.
    """
    parameters = list(inspect.signature(verifier.function).parameters.values())[2:]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {
        parameter.name: parameter
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    for key in settings:
        if key not in named and not takes_any:
            close = difflib.get_close_matches(key, named, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"verifier {verifier.name!r} has no setting {key!r}; {hint}allowed: {', '.join(named) or 'none'}")
    missing = [name for name, parameter in named.items() if parameter.default is parameter.empty and name not in settings]
    if missing:
        raise ConfigError(f"verifier {verifier.name!r} needs the setting {missing[0]!r}")
    if settings:
        _check_types(verifier, settings)


def _check_types(verifier: Verifier, settings: Mapping[str, JSON]) -> None:
    from pydantic import (
        ConfigDict,
        TypeAdapter,
        ValidationError,
    )  # pydantic costs a tenth of a second: only where settings are given
    from pydantic.errors import PydanticUserError

    try:
        hints = typing.get_type_hints(verifier.function)
    except (NameError, TypeError, AttributeError):
        return  # annotations that only a type checker can resolve
    for key, value in settings.items():
        if key not in hints:
            continue
        try:
            TypeAdapter(hints[key], config=ConfigDict(strict=True)).validate_python(value)
        except ValidationError as error:
            wanted = "; ".join(detail["msg"] for detail in error.errors())
            raise ConfigError(f"verifier {verifier.name!r}: setting {key} = {value!r}: {wanted}") from error
        except PydanticUserError:
            continue
