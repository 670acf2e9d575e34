from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest

from rlvr.sandbox import sources
from rlvr.sandbox.image import Layer, base_tag_of, tag_of
from rlvr.sandbox.sources import RECIPE, RUNNER, build_context, digest_of, files_of, sandbox_folder


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `sandbox/` in a place where it may be changed, as a wheel has it."""
    folder = tmp_path / "_sandbox"
    shutil.copytree(sandbox_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(sources, "_IN_WHEEL", folder)
    return folder


def test_everything_that_an_image_is_made_of_is_in_one_folder() -> None:
    names = {path.name for path in sandbox_folder().iterdir()}
    assert {"Dockerfile", "runner", "rootfs", "start_engine.sh"} <= names


def test_a_changed_runner_makes_another_image_on_the_same_base(copied: Path) -> None:
    runner, recipe, tag, base = digest_of(RUNNER), digest_of(RECIPE), tag_of([]), base_tag_of([])
    (copied / "runner" / "__main__.py").write_text("print('another')\n")
    assert digest_of(RUNNER) != runner
    assert digest_of(RECIPE) == recipe
    assert tag_of([]) != tag
    assert base_tag_of([]) == base


def test_a_changed_recipe_makes_another_base(copied: Path) -> None:
    tag, base = tag_of([]), base_tag_of([])
    (copied / "rootfs" / "tree.py").write_text("")
    assert base_tag_of([]) != base
    assert tag_of([]) != tag


def test_bytecode_changes_nothing(copied: Path) -> None:
    before = digest_of(RUNNER)
    (copied / "runner" / "__pycache__").mkdir()
    (copied / "runner" / "__pycache__" / "x.pyc").write_bytes(b"\0")
    assert digest_of(RUNNER) == before
    assert not [path for path in files_of(RUNNER) if path.suffix == ".pyc"]


def test_layers_have_images_of_their_own_in_any_order() -> None:
    assert tag_of([Layer.CPP, Layer.SCIENCE]) == tag_of([Layer.SCIENCE, Layer.CPP])
    assert len({tag_of([]), tag_of([Layer.CPP]), tag_of([Layer.SCIENCE]), tag_of(list(Layer))}) == 4


def test_a_context_holds_the_sources_and_the_dockerfile() -> None:
    with tarfile.open(fileobj=io.BytesIO(build_context(RUNNER, "FROM scratch\n"))) as archive:
        names = archive.getnames()
        dockerfile = archive.extractfile("Dockerfile")
        assert dockerfile is not None
        assert dockerfile.read() == b"FROM scratch\n"
    assert "runner/__main__.py" in names
    assert not [name for name in names if "__pycache__" in name]
