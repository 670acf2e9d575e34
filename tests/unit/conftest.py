"""Fixtures that several folders of unit tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr import registry

ENTRY_POINTS = """
[rlvr.tools]
ruler = other_rlvr:ruler
absent = other_rlvr:absent
broken = other_rlvr_missing:tool

[rlvr.envs]
single_turn = other_rlvr:ruler
"""


@pytest.fixture
def own_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test registers by decorator is forgotten after it."""
    monkeypatch.setattr(registry, "_decorated", dict(registry._decorated))


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for an installed distribution, "other-rlvr 1.2", with entry points of its own, some broken."""
    site = tmp_path / "site"
    info = site / "other_rlvr-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-rlvr\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "other_rlvr.py").write_text("def ruler():\n    return 30\n")
    monkeypatch.syspath_prepend(site)
    registry._entries.cache_clear()
    yield site
    sys.modules.pop("other_rlvr", None)
    registry._entries.cache_clear()
