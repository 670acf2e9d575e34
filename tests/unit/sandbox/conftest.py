"""The runner is no part of the package (it lives in the container), so its modules are imported by path."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from rlvr.sandbox.sources import sandbox_folder


@pytest.fixture(scope="session")
def runner_module() -> Callable[[str], ModuleType]:
    """A module of `sandbox/runner` by its name."""
    folder = sandbox_folder() / "runner"
    spec = importlib.util.spec_from_file_location(
        "sandbox_runner", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    sys.modules.setdefault("sandbox_runner", importlib.util.module_from_spec(spec))
    return lambda name: importlib.import_module(f"sandbox_runner.{name}")
