"""Links lead somewhere, and what is generated is up to date. That what the guides show works, test_code_blocks.py shows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from rlvr.registry import resolve

ROOT = Path(__file__).parents[2]
PLACES = ("*.md", "docs/**/*.md", "benchmarks/*.md", "sandbox/*.md", "tasks/*/*.md", "rlvr/**/*.md")
PAGES = sorted(page for place in PLACES for page in ROOT.glob(place))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not link.startswith("http"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE) if anchor else []
            assert not anchor or anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, (
                link
            )


def test_generated_parts_of_the_guides_are_up_to_date() -> None:
    generate = resolve("tools", f"{ROOT / 'docs' / 'generate.py'}:main").target
    assert generate(["--check"]) == 0, "run `make docs`"


def test_every_extra_that_a_user_may_install_is_explained() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    table = (ROOT / "docs" / "start-here.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w-]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)))
    assert set(extras) - {"dev", "docs"} <= set(named)


def test_the_changelog_knows_the_present_version_or_what_comes_next() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
