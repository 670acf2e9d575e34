"""Python packages of the image: copied from where this runs if they are installed for the same Python, else fetched with pip."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath

from rootfs.interpreter import OTHER_BYTECODE, Staged
from rootfs.tree import StagingError, Tree

SCIENCE = ("numpy", "sympy", "mpmath")  # mpmath is all that sympy needs
_NOT_NEEDED = (".pyi", ".h", ".a", ".c", ".pxd", ".lib")
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_27", "manylinux_2_28")


def stage_packages(tree: Tree, python: Staged, names: tuple[str, ...] = SCIENCE) -> dict[str, str]:
    """Install packages into the tree's Python; gives their versions.

    Raises:
        StagingError: one is not installed here, and pip cannot fetch it.
    """
    versions = {name: _copy(tree, python, name) for name in names} if python.version == platform.python_version() else {}
    absent = [name for name in names if not versions.get(name)]
    if absent:
        versions |= _fetch(tree, python, absent)
    return {name: str(versions[name]) for name in names}


def _copy(tree: Tree, python: Staged, name: str) -> str | None:
    """The package's version, or None where it is not installed with a list of its files."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    files = [file for file in found.files or () if ".." not in file.parts and not is_left_out(PurePosixPath(file))]
    if not any(file.suffix == ".py" for file in files):
        return None  # installed for development, or by a system's package manager
    for file in files:
        source = Path(str(found.locate_file(file)))
        if source.is_file():
            tree.copy(source, python.packages / PurePosixPath(file))
    return found.version


def is_left_out(inside: PurePosixPath) -> bool:
    """Whether a package's file stays outside: tests, and what only compilers and type checkers read."""
    return "tests" in inside.parts[:-1] or inside.suffix in _NOT_NEEDED or bool(OTHER_BYTECODE.search(inside.name))


def _fetch(tree: Tree, python: Staged, names: list[str]) -> dict[str, str]:
    major, minor = python.version.split(".")[:2]
    machine = platform.machine()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile",
            "--only-binary=:all:", "--target", folder, "--implementation", "cp", "--python-version", f"{major}.{minor}",
            "--abi", f"cp{major}{minor}", "--abi", "none", *(f"--platform={name}_{machine}" for name in _PLATFORMS), *names,
        ]  # fmt: skip
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            cause = (answer.stderr.strip() or answer.stdout.strip()).splitlines()[-1:]
            absent = f"{', '.join(names)}: not installed for Python {python.version} here"
            raise StagingError(f"{absent}, and pip could not fetch them: {''.join(cause)}")
        tree.copy_folder(Path(folder), python.packages, skip=lambda inside: inside.name == "bin" or is_left_out(inside))
        found = importlib.metadata.distributions(path=[folder])
        return {distribution.metadata["Name"].lower(): distribution.version for distribution in found}
