from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.cli.main import main
from rlvr.registry import KINDS, names


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
