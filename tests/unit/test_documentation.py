"""Links lead somewhere, and what is generated is up to date. That what the guides show works, test_code_blocks.py shows."""

from __future__ import annotations

import argparse
import importlib
import re
import tomllib
from pathlib import Path

import griffe
import pytest

from rlvr import config
from rlvr.cli.main import VERBS
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


def inline(page: Path) -> list[str]:
    """What stands between single backticks, outside of blocks."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Every option that a verb takes, those of its subcommands included."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set().union(*(options_of(inner) for inner in action.choices.values()))
    return found


def test_commands_in_the_text_have_verbs_and_options_that_exist() -> None:
    shown = [(page.name, code) for page in PAGES for code in inline(page) if re.match(r"rlvr [a-z]", code)]
    assert len(shown) > 100
    for name, code in shown:
        verb, *words = code.split()[1:]
        verbs = verb.split("|")
        assert set(verbs) <= set(VERBS), f"{name}: {code}"
        for each in verbs:
            parser = argparse.ArgumentParser()
            importlib.import_module(f"rlvr.cli.{each}").add_arguments(parser)
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert options <= options_of(parser), f"{name}: {code}"


def test_paths_in_the_text_exist() -> None:
    places = r"(?:rlvr|tests|tasks|benchmarks|docs|sandbox|examples)/[\w./*-]+"
    shown = [(page.name, code) for page in PAGES for code in inline(page) if re.fullmatch(places, code)]
    assert len(shown) > 15
    written = {"tests/test_even_digits.py"}  # by `rlvr init`, in the reader's folder
    gone = [(name, code) for name, code in shown if "NAME" not in code and not list(ROOT.glob(code.rstrip("/")))]
    assert [pair for pair in gone if pair[1] not in written] == []


def test_keys_of_recipes_in_the_text_exist() -> None:
    known = {*config.leaves(config.RunConfig), *config.leaves(config.SftConfig)}
    sections = {leaf.partition(".")[0] for leaf in known if "." in leaf}
    free = ("algorithm.", "curriculum.", "engine.args.", "env.args.", "load.parallel.")  # arguments of what is named there
    keys = re.compile(rf"({'|'.join(sorted(sections))})\.[a-z_.]+(?==|$)")
    shown = [(page.name, match[0]) for page in PAGES for code in inline(page) if (match := keys.match(code))]
    assert len(shown) > 50
    known |= {leaf.rpartition(".")[0] for leaf in known} | {"rollout.response", "rollout.turns"}  # these two are a `Rollout`'s
    assert [pair for pair in shown if pair[1] not in known and not pair[1].startswith(free)] == []


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
