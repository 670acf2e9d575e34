from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr import registry
from rlvr.cli.main import main
from rlvr.registry import KINDS, names


@pytest.fixture(autouse=True)
def only_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests registered by decorator is not there."""
    monkeypatch.setattr(registry, "_decorated", {})


def test_plugins_lists_every_kind_with_its_origin_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["kind"], row["name"]) for row in rows] == [(kind, name) for kind in KINDS for name in names(kind)]
    assert all(row["origin"].startswith("rlvr ") for row in rows)


def test_one_kind_can_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "engines"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"engines"}


def test_an_unknown_kind_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "engine"]) == 2
    assert "unknown plugin kind 'engine'; known: verifiers" in capsys.readouterr().err


def test_check_loads_every_built_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--check", "--json"]) == 0
    assert all(row["error"] is None for row in json.loads(capsys.readouterr().out))


def test_check_says_no_when_a_plugin_is_broken(other_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "tools", "--check"]) == 1
    assert "tools plugin 'broken' of other-rlvr 1.2 failed to load from other_rlvr_missing:tool" in capsys.readouterr().out


def test_verifiers_are_shown_with_version_settings_and_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "verifiers", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["number"]["settings"]["strict"] == "False"
    assert rows["math"]["isolated"] is True
    assert all(row["version"] and row["doc"] for row in rows.values())
    assert main(["plugins", "verifiers"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[1] == "number"]
    for word in ("rlvr 0.1.0", "version 1", "in process", "tolerance", "Correct when the final answer is the gold number"):
        assert word in line


def test_a_broken_verifier_is_shown_without_check_and_is_no_failure(
    other_package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = other_package / "other_rlvr-1.2.dist-info" / "entry_points.txt"
    points.write_text(points.read_text() + "\n[rlvr.verifiers]\nlost = other_rlvr_missing:verifier\n")
    registry._entries.cache_clear()
    assert main(["plugins", "verifiers", "--json"]) == 0
    (row,) = [row for row in json.loads(capsys.readouterr().out) if row["name"] == "lost"]
    assert "failed to load from other_rlvr_missing:verifier" in row["error"]
    assert main(["plugins", "verifiers", "--check"]) == 1
    assert "broken" in capsys.readouterr().out
