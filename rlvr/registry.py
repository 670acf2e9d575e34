"""Plugins: by entry point, by decorator, or by reference (`path/file.py:name`, `package.module:name`).

Built-ins come through the same door: they are entry points of the rlvr package itself.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rlvr.errors import PluginError, boundary

KINDS = ("verifiers", "tools", "envs", "tasks", "algorithms", "shapes", "curricula", "engines", "health")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A resolved plugin. `reference` finds the same object again in another process."""

    kind: str
    name: str
    target: Any
    reference: str
    origin: str  # "rlvr 0.1.0", "other-package 1.2", "tasks/mine.py", "decorator in module"

    @property
    def is_reachable(self) -> bool:
        """Whether another process finds it by its reference: as a module-level name in a file."""
        location, _, attribute = self.reference.rpartition(":")
        is_missing_file = location.endswith(".py") and not Path(location).is_file()
        return not ("<locals>" in attribute or location in ("__main__", "?", "") or is_missing_file)


_decorated: dict[tuple[str, str], Plugin] = {}


def register(kind: str, name: str) -> Callable[[T], T]:
    """Decorator that makes `name` known in this process.

    Raises:
        PluginError: another object already has this name.
    """
    _check_kind(kind)

    def decorate(target: T) -> T:
        plugin = Plugin(kind, name, target, _reference_of(target), f"decorator in {getattr(target, '__module__', '?')}")
        known = _decorated.get((kind, name))
        # Re-running a notebook cell, reloading a file, or importing it once by name and once by path defines the same
        # plugin again: that is no conflict.
        if known is not None and known.reference != plugin.reference and _origin_of(known.target) != _origin_of(target):
            raise PluginError(f"two {kind} are named {name!r}: {known.reference} and {plugin.reference}; rename one")
        _decorated[(kind, name)] = plugin
        return target

    return decorate


def resolve(kind: str, reference: str) -> Plugin:
    """Find a plugin by name or by reference.

    Raises:
        PluginError: unknown (with the closest names), ambiguous, or it failed to import.
    """
    _check_kind(kind)
    if ":" in reference:
        return _from_reference(kind, reference)
    found = [_load(kind, entry) for entry in _entries(kind) if entry.name == reference]
    decorated = _decorated.get((kind, reference))
    # A built-in that registers itself by decorator when its entry point is loaded is one plugin, not two.
    if decorated is not None and all(decorated.target is not plugin.target for plugin in found):
        found.append(decorated)
    if len(found) > 1:
        owners = " and ".join(f"{plugin.reference} ({plugin.origin})" for plugin in found)
        raise PluginError(f"{kind} name {reference!r} is ambiguous: {owners}; use the full reference instead of the name")
    if found:
        return found[0]
    known = names(kind)
    close = difflib.get_close_matches(reference, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known: {', '.join(known) or 'none'}"
    raise PluginError(f"no {kind} plugin is named {reference!r}; {hint} (or give path/file.py:name)")


def names(kind: str) -> list[str]:
    """All names of a kind, sorted, without importing any plugin."""
    _check_kind(kind)
    return sorted({entry.name for entry in _entries(kind)} | {name for known, name in _decorated if known == kind})


def installed(kind: str) -> list[tuple[str, str, str]]:
    """(name, reference, origin) of every plugin of a kind, without importing any."""
    _check_kind(kind)
    rows = [(entry.name, entry.value, _origin(entry)) for entry in _entries(kind)]
    seen = {(name, reference) for name, reference, _ in rows}  # a loaded built-in has registered itself, too
    decorated = [plugin for (known, _), plugin in _decorated.items() if known == kind]
    rows += [(p.name, p.reference, p.origin) for p in decorated if (p.name, p.reference) not in seen]
    return sorted(rows)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise PluginError(f"unknown plugin kind {kind!r}; known: {', '.join(KINDS)}")


@cache
def _entries(kind: str) -> tuple[EntryPoint, ...]:
    return tuple(dict.fromkeys(entry_points(group=f"rlvr.{kind}")))


def _origin(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"


def _load(kind: str, entry: EntryPoint) -> Plugin:
    with boundary(PluginError, f"{kind} plugin {entry.name!r} of {_origin(entry)} failed to load from {entry.value}"):
        target = entry.load()
    return Plugin(kind, entry.name, target, entry.value, _origin(entry))


def _from_reference(kind: str, reference: str) -> Plugin:
    location, _, attribute = reference.rpartition(":")
    if location.endswith(".py"):
        location = str(Path(location).expanduser().resolve())  # workers may stand in another folder
    with boundary(PluginError, f"{kind} plugin {reference!r} failed to import"):
        module = _module_from_file(Path(location)) if location.endswith(".py") else importlib.import_module(location)
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            public = [name for name in vars(module) if not name.startswith("_")]
            close = difflib.get_close_matches(attribute, public, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise PluginError(f"{location} has no {attribute!r}{hint}")
        target = getattr(target, part)
    return Plugin(kind, attribute, target, f"{location}:{attribute}", location)


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"plugin file {path} does not exist")
    # The name must be unique for each file, and equal in every process, so that objects can be found again.
    name = f"rlvr_plugin_{hashlib.blake2b(str(path).encode(), digest_size=8).hexdigest()}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plugin file {path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _origin_of(target: Any) -> tuple[str | None, str]:
    """The file that defines a target, and its name there."""
    file = getattr(sys.modules.get(getattr(target, "__module__", "")), "__file__", None)
    name = getattr(target, "__qualname__", type(target).__qualname__)
    return (None, _reference_of(target)) if file is None else (str(Path(file).resolve()), name)


def _reference_of(target: Any) -> str:
    module = getattr(target, "__module__", None) or "?"
    attribute = getattr(target, "__qualname__", type(target).__qualname__)
    is_importable = module != "__main__" and not module.startswith("rlvr_plugin_")
    file = None if is_importable else getattr(sys.modules.get(module), "__file__", None)
    return f"{Path(file).resolve()}:{attribute}" if file else f"{module}:{attribute}"
