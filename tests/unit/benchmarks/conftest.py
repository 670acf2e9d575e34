from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks are scripts: those that lie beside a script are imported from its folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
