from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.errors import PluginError
from rlvr.registry import KINDS, installed, names, register, resolve

pytestmark = pytest.mark.usefixtures("own_plugins")

PLUGIN = """
from rlvr import Verdict, verifier

@verifier("{name}")
def {function}(problem, rollout):
    return Verdict.correct("from a file")

VALUE = 1
"""


@pytest.fixture
def plugin_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN.format(name="mine", function="grade"))
    return path


def test_a_decorated_object_is_found_by_its_name_and_returned_unchanged() -> None:
    def ruler() -> int:
        return 30

    assert register("tools", "ruler")(ruler) is ruler
    assert resolve("tools", "ruler").target is ruler
    assert "ruler" in names("tools")


def test_the_same_definition_may_be_registered_again_as_in_a_notebook() -> None:
    for _ in range(2):

        @register("tools", "ruler")
        def ruler() -> int:
            return 30

    assert resolve("tools", "ruler").target is ruler


def test_two_owners_of_one_name_are_refused_and_both_are_named() -> None:
    @register("tools", "ruler")
    def ruler() -> int:
        return 30

    with pytest.raises(PluginError, match=r"two tools are named 'ruler': .*:.*ruler and .*:.*tape; rename one"):

        @register("tools", "ruler")
        def tape() -> int:
            return 40


def test_a_name_may_be_used_by_two_kinds() -> None:
    register("tools", "x")(lambda: 1)
    register("curricula", "x")(lambda: 2)
    assert resolve("tools", "x").target() == 1


def test_an_unknown_kind_is_named_with_the_known_ones() -> None:
    with pytest.raises(PluginError, match=r"unknown plugin kind 'verifier'; known: verifiers, tools"):
        resolve("verifier", "math")


def test_an_unknown_name_suggests_the_closest_and_says_how_to_point_at_a_file() -> None:
    with pytest.raises(PluginError, match=r"no verifiers plugin is named 'maths'; did you mean 'math'\? .*path/file.py:name"):
        resolve("verifiers", "maths")


def test_an_unknown_name_far_from_all_others_lists_what_is_known() -> None:
    register("curricula", "uniform")(lambda: 1)
    with pytest.raises(PluginError, match=r"known: .*uniform"):
        resolve("curricula", "zzzzzz")


def test_another_packages_entry_point_is_found_with_its_origin(other_package: Path) -> None:
    plugin = resolve("tools", "ruler")
    assert plugin.target() == 30
    assert plugin.origin == "other-rlvr 1.2"
    assert ("ruler", "other_rlvr:ruler", "other-rlvr 1.2") in installed("tools")


def test_listing_imports_no_plugin(other_package: Path) -> None:
    assert {"ruler", "absent", "broken"} <= set(names("tools"))
    installed("tools")
    assert "other_rlvr" not in sys.modules


@pytest.mark.parametrize(("name", "cause"), [("broken", "ModuleNotFoundError"), ("absent", "AttributeError")])
def test_a_plugin_that_fails_to_load_names_its_owner_and_the_cause(other_package: Path, name: str, cause: str) -> None:
    with pytest.raises(PluginError, match=rf"tools plugin '{name}' of other-rlvr 1.2 failed to load from .*{cause}") as caught:
        resolve("tools", name)
    assert type(caught.value.__cause__).__name__ == cause


def test_two_packages_with_one_name_are_ambiguous_and_both_are_named(other_package: Path) -> None:
    with pytest.raises(PluginError, match="'single_turn' is ambiguous") as caught:
        resolve("envs", "single_turn")
    assert "other_rlvr:ruler (other-rlvr 1.2)" in str(caught.value)
    assert "rlvr.envs.single_turn:SingleTurn (rlvr " in str(caught.value)


def test_a_plugin_is_found_by_file_and_name(plugin_file: Path) -> None:
    plugin = resolve("verifiers", f"{plugin_file}:grade")
    assert plugin.target.name == "mine"
    assert resolve("verifiers", f"{plugin_file}:grade").target is plugin.target


def test_a_decorated_verifier_of_a_file_has_a_reference_that_finds_it_again(plugin_file: Path) -> None:
    target = resolve("verifiers", f"{plugin_file}:grade").target
    by_name = resolve("verifiers", "mine")
    assert by_name.target is target
    assert by_name.reference == f"{plugin_file}:grade"
    assert resolve("verifiers", by_name.reference).target is target


def test_a_relative_reference_is_found_again_from_another_folder(plugin_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(plugin_file.parent)
    reference = resolve("verifiers", "mine.py:grade").reference
    monkeypatch.chdir("/")
    assert resolve("verifiers", reference).target.name == "mine"


def test_a_worker_process_finds_the_same_plugin_by_its_reference(plugin_file: Path) -> None:
    reference = resolve("verifiers", f"{plugin_file}:grade").reference
    code = f"from rlvr.registry import resolve; print(resolve('verifiers', {reference!r}).target.name)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd="/", env=os.environ.copy())
    assert answer.stdout == b"mine\n"


def test_two_files_of_one_name_are_two_plugins(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "mine.py" for folder in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(f"WHERE = {path.parent.name!r}\n")
    assert [resolve("tools", f"{path}:WHERE").target for path in paths] == ["a", "b"]


def test_a_module_reference_reaches_into_classes() -> None:
    assert resolve("tools", "rlvr.types:Verdict.correct").target("2").score == 1.0


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("/no/such/file.py:f", r"plugin file /no/such/file.py does not exist"),
        ("rlvr.no_such_module:f", r"failed to import: ModuleNotFoundError"),
        (":f", r"failed to import: ValueError"),
        ("rlvr.types:Verdictt", r"rlvr.types has no 'Verdictt'; did you mean Verdict"),
        ("rlvr.types:", r"rlvr.types has no ''"),
    ],
)
def test_a_reference_that_leads_nowhere_says_so(reference: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        resolve("tools", reference)


def test_a_file_that_fails_to_import_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(PluginError, match="ZeroDivisionError"):
            resolve("tools", f"{path}:f")
    path.write_text("f = 1\n")
    assert resolve("tools", f"{path}:f").target == 1


BUILT_IN = [(kind, name) for kind in KINDS for name, _, origin in installed(kind) if origin.startswith("rlvr ")]


def test_a_loaded_built_in_is_listed_once() -> None:
    for kind, name in BUILT_IN:
        resolve(kind, name)
    for kind in KINDS:
        listed = [name for name, _, _ in installed(kind)]
        assert len(listed) == len(set(listed))


@pytest.mark.parametrize(("kind", "name"), BUILT_IN)
def test_every_built_in_plugin_loads(kind: str, name: str) -> None:
    plugin = resolve(kind, name)
    assert plugin.origin.startswith("rlvr ")
    assert resolve(kind, plugin.reference).target is plugin.target


def test_one_file_imported_by_name_and_by_path_defines_one_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "checks_imported_twice"
    head = "from rlvr import Verdict, verifier\n\n@verifier('imported_twice')\n"
    code = head + "def grade(problem, rollout):\n    return Verdict.correct()\n"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module(name)
    assert resolve("verifiers", f"{tmp_path / name}.py:grade").name == "grade"
