"""`make site`: it builds without a warning, needs nothing from elsewhere, and loses nothing that pages say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import rlvr

ROOT = Path(__file__).parents[2]
# Attributes whose address a browser fetches by itself; a link that a reader follows is none.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "link": "href"}
WORDS = """html head meta title link script style body div span a p h1 h2 h3 h4 h5 h6 ul ol li code pre table thead tbody tr th td
em strong nav label input form button svg path header footer main article details summary img hr br sub sup dialog noscript dl dt
dd blockquote aside section small"""
TAGS = set(re.findall(r"\w+", WORDS))


class Page(HTMLParser):
    """What a page holds: its elements, the addresses that a browser fetches for it, and the anchors in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.tags.add(tag)
        self.anchors.add(values.get("id") or "")
        if address := values.get(FETCHED.get(tag, "")):
            self.fetched.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    found = {str(path.relative_to(site)): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(found) > 50
    return found


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[str, Page]) -> None:
    addresses = [(name, address) for name, page in pages.items() for address in page.fetched]
    addresses += [(str(path), address) for path in site.rglob("*.css") for address in _addresses_of(path)]
    assert len(addresses) > 100
    assert [pair for pair in addresses if re.match(r"(?:[a-z]+:)?//", pair[1])] == []


def _addresses_of(style: Path) -> Iterator[str]:
    yield from re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", style.read_text(encoding="utf-8"))


def test_everything_that_a_page_needs_is_there(site: Path, pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        for address in page.fetched if name != "404.html" else []:  # it may stand in for any page, so its addresses are absolute
            assert (site / name).parent.joinpath(address.partition("?")[0]).exists(), f"{name}: {address}"


def test_no_words_in_angle_brackets_are_lost_as_tags(pages: dict[str, Page]) -> None:
    assert {name: page.tags - TAGS for name, page in pages.items() if page.tags - TAGS} == {}


def test_every_public_name_is_in_the_reference(pages: dict[str, Page]) -> None:
    anchors = set().union(*(page.anchors for name, page in pages.items() if name.startswith("api/")))
    homes = {name: rlvr._HOME[name] for name in rlvr.__all__ if name != "algorithms"}
    assert {f"{home}.{name}" for name, home in homes.items()} <= anchors


def test_the_search_knows_every_page(site: Path, pages: dict[str, Page]) -> None:
    text = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    known = {entry["location"].partition("#")[0] for entry in json.loads(text.removeprefix("var __index = "))["docs"]}
    assert set(pages) - {"404.html"} <= known


def test_the_search_works_on_pages_opened_as_files_without_a_network(site: Path, browser: Any) -> None:
    context = browser.new_context(offline=True)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto((site / "index.html").as_uri())
    page.click("[data-md-component=search-query]")
    page.keyboard.type("clip_high")
    page.wait_for_selector(".md-search-result__item a[href*='algorithms.html']")
    assert errors == []
    context.close()


def test_no_page_is_wider_than_a_narrow_screen(site: Path, pages: dict[str, Page], browser: Any) -> None:
    context = browser.new_context(offline=True, viewport={"width": 400, "height": 800})
    page = context.new_page()
    wide = {}
    for name in pages:
        page.goto((site / name).as_uri())
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 400:
            wide[name] = width
    assert wide == {}
    context.close()
