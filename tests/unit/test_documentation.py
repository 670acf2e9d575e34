"""Links lead somewhere, and what is generated is up to date. That what the guides show works, test_code_blocks.py shows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import griffe
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


def test_the_reference_has_a_sentence_on_everything_that_others_may_call_or_write() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in ROOT.glob("docs/api/*.md"))
    package = griffe.load("rlvr", search_paths=[ROOT])
    shown = [package[name] for name in re.findall(r"^::: rlvr\.([\w.]+)", pages, flags=re.MULTILINE)]
    found = [member for module in shown if module.is_module for member in module.members.values()]
    found = [member for member in found if not member.is_alias and not member.is_attribute and member.is_public]
    contracts = [member for member in found if member.is_class and any(str(base).startswith("Protocol") for base in member.bases)]
    found += [asked for contract in contracts for asked in contract.members.values() if asked.is_function]
    assert len(contracts) > 10
    assert [member.path for member in found if not member.docstring] == []


def test_the_changelog_knows_the_present_version_or_what_comes_next() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
