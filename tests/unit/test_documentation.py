"""What the guides show works: commands run or are checked, Python runs, TOML loads, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from rlvr.cli.main import VERBS, main, parse
from rlvr.config import load_recipe
from rlvr.errors import SandboxError
from rlvr.registry import resolve
from rlvr.sandbox.shared import shared_sandbox

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
CHEAP = ("verify", "explain", "doctor", "plugins", "--dry-run", "cat", "echo")  # the others need a GPU, a download or minutes


def blocks(language: str, *pages: Path) -> list[tuple[str, str]]:
    """(page and number, content) of the fenced blocks of a language."""
    found = []
    for page in pages or PAGES:
        contents = [content for kind, content in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]
        found += [(f"{page.relative_to(ROOT)}#{index}", content) for index, content in enumerate(contents)]
    return found


def of(language: str) -> pytest.MarkDecorator:
    found = blocks(language)
    return pytest.mark.parametrize("content", [content for _, content in found], ids=[name for name, _ in found])


def commands(block: str) -> list[list[str]]:
    """The `rlvr` commands of a shell block, as words, without what a heredoc feeds."""
    without_files = re.sub(r"^cat .*?^END$", "", block, flags=re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line, comments=True) for line in without_files.splitlines()]
    return [words[words.index("rlvr") :] for words in lines if "rlvr" in words]


def is_cheap(words: list[str]) -> bool:
    is_offline = "model=Qwen/Qwen3-0.6B" not in words
    return is_offline and "--serve" not in words and any(word in CHEAP for word in words)


def skip_without_sandbox() -> None:
    try:
        shared_sandbox()
    except SandboxError as error:
        if os.environ.get("RLVR_REQUIRE_DOCKER") == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture
def workplace(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder with the files that the guides tell their readers to write; a page's own ones win, then the README's."""
    page = ROOT / request.node.callspec.id.partition("#")[0]
    for pages in (PAGES, [ROOT / "README.md"], [page]):
        for _, content in blocks("python", *pages):
            if name := re.match(r"# (\w+\.py)\n", content):
                (tmp_path / name[1]).write_text(content, encoding="utf-8")
        for _, content in blocks("sh", *pages):
            for file, text in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END$", content, flags=re.DOTALL | re.MULTILINE):
                (tmp_path / file).write_text(text, encoding="utf-8")
    return tmp_path


@of("sh")
def test_commands_in_the_guides_are_ones_that_the_command_line_takes(content: str) -> None:
    for _, verb, *arguments in commands(content):
        assert verb in VERBS
        args = parse(verb, arguments)
        if verb == "train" and not args.resume:
            from rlvr.cli.train import recipe_path

            load_recipe(recipe_path(args.recipe), args.overrides)


@of("sh")
@pytest.mark.usefixtures("own_plugins")
def test_commands_in_the_guides_that_are_quick_run(
    content: str, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    for words in filter(is_cheap, commands(content)):
        assert main(words[1:]) == 0, capsys.readouterr().err
        assert capsys.readouterr().out


@of("sh")
def test_make_targets_in_the_guides_exist(content: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"^make (\w+)", content, flags=re.MULTILINE)) <= set(targets)


@of("python")
def test_python_in_the_guides_runs(content: str, workplace: Path) -> None:
    if "rlvr.sandbox" in content:
        skip_without_sandbox()
    environment = {**os.environ, "PYTHONPATH": str(workplace), "OMP_WAIT_POLICY": "PASSIVE"}
    answer = subprocess.run(
        [sys.executable, "-c", content], cwd=workplace, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr


@of("toml")
def test_toml_in_the_guides_loads(content: str) -> None:
    table = tomllib.loads(content)
    if "project" not in table:
        load_recipe({"model": "any", "task": "gsm8k", **table})


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


def test_the_changelog_knows_the_present_version_or_what_comes_next() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
