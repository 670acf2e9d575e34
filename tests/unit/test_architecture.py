"""The house rules that a tool can check: see docs/architecture.md."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import rlvr

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "rlvr").rglob("*.py"))
HEAVY = ("torch", "transformers", "vllm", "datasets", "accelerate", "tensorboard", "sympy", "pyarrow", "docker", "peft")
MAX_LINES = 500  # a file that grows past it has two purposes


def python(code: str) -> str:
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ.copy())
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', '?')}"


def test_imports_go_down_the_floors() -> None:
    command = Path(sys.executable).parent / "lint-imports"
    answer = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_module_stands_on_a_floor() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = {name.strip() for layer in layers for name in layer.replace("|", ":").split(":")}
    top_level = {
        f"rlvr.{path.stem}" for path in (ROOT / "rlvr").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    outside = {"rlvr.__init__", "rlvr.__main__", "rlvr.testing"}  # the front door, the command, and fakes that tests import
    assert top_level - outside == floors


@pytest.mark.parametrize(
    "modules", ["rlvr", "rlvr.verifiers, rlvr.envs", "rlvr.verifiers.base, rlvr.config, rlvr.registry, rlvr.testing"]
)
def test_a_verifier_author_needs_no_torch(modules: str) -> None:
    assert python(f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])") == "[]\n"


def test_import_rlvr_loads_nothing_that_costs_time() -> None:
    loaded = python("import sys; before = set(sys.modules); import rlvr; print(*sorted(set(sys.modules) - before))").split()
    assert not {"pydantic", "numpy", "rich", "asyncio", "inspect", "argparse"} & set(loaded)


def test_every_public_name_can_be_imported_from_rlvr() -> None:
    assert set(rlvr.__all__) <= set(dir(rlvr))
    for name in rlvr.__all__:
        assert getattr(rlvr, name) is not None
    assert rlvr.train.__name__ == "train"
    assert callable(rlvr.train)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        rlvr.nonsense  # noqa: B018


def test_the_function_train_wins_over_the_module_of_that_name_in_any_import_order() -> None:
    assert python("import rlvr.trainers.train, rlvr; print(callable(rlvr.train), callable(rlvr.evaluate))") == "True True\n"


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_file_has_one_purpose_and_keeps_the_rules(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    assert not source or ast.get_docstring(ast.parse(source)), "say in a docstring what the file is for"
    assert not source or path.name == "__init__.py" or "from __future__ import annotations" in source
    is_cli = path.is_relative_to(ROOT / "rlvr" / "cli")
    for node in nodes(path):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print" or is_cli, f"{where(path, node)}: print outside the command line"
            assert node.func.id not in ("eval", "exec"), f"{where(path, node)}: model text must never be run in our process"
        if isinstance(node, ast.ExceptHandler) and path.name != "errors.py":
            assert _names(node.type).isdisjoint({"Exception", "BaseException"}) or _reraises(node), (
                f"{where(path, node)}: use boundary()"
            )
            assert node.type is not None, f"{where(path, node)}: use boundary()"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert module.partition(".")[0] not in ("pickle", "dill"), f"{where(path, node)}: pickle runs code"
            assert module != "random" or path.name == "seeding.py" or _is_for_types(node, path), (
                f"{where(path, node)}: use seeding.rng"
            )


def _names(node: ast.expr | None) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node else set()


def _reraises(handler: ast.ExceptHandler) -> bool:
    """Cleaning up and raising the same error again swallows nothing."""
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None


def _is_for_types(node: ast.AST, path: Path) -> bool:
    """`random.Random` may name a type; module-level draws may not happen."""
    draws = [n for n in nodes(path) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "random"]
    return all(draw.attr == "Random" for draw in draws)


def test_there_is_no_room_for_leftovers() -> None:
    assert not [path for path in FILES if path.stem in ("utils", "helpers", "common", "misc")]


def test_every_verb_has_a_module_and_every_module_a_verb() -> None:
    from rlvr.cli.main import VERBS

    modules = {
        path.stem for path in FILES if path.parent.name == "cli" and "\ndef add_arguments(" in path.read_text(encoding="utf-8")
    }
    assert modules == set(VERBS)
    for name in VERBS:
        module = importlib.import_module(f"rlvr.cli.{name}")
        assert module.HELP
        assert callable(module.run)
