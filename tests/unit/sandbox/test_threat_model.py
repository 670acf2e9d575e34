"""The threat model names tests that exist, and counts what there is."""

from __future__ import annotations

import re
from pathlib import Path

from tests.docker.attacks.catalog import ALL, BY_THEME

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "sandbox" / "THREAT_MODEL.md").read_text(encoding="utf-8")


def test_every_test_that_it_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    files = [*(ROOT / "tests" / "docker").glob("test_*.py"), *(ROOT / "tests" / "unit" / "sandbox").glob("test_*.py")]
    defined = {name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)}
    assert len(named) > 15
    assert named <= defined


def test_every_theme_of_the_attacks_stands_in_it() -> None:
    table = "".join(line for line in TEXT.splitlines() if line.startswith("|"))
    themes = {theme.strip() for group in re.findall(r"\(([\w +,]+)\)", table) for theme in group.split(",")}
    assert set(BY_THEME) <= themes


def test_the_number_of_attacks_is_right() -> None:
    assert re.search(r"texts of (\d+) attacks", TEXT)[1] == str(len(ALL))  # type: ignore[index]
