"""The Python of the image: a copy of the interpreter that runs this, whatever prefix it was installed under.

It moves to /usr/local, so that no path of this machine shows in the image. Python finds its library from where its program
lies; its shared libraries go beside libc, where the loader looks in any case.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rootfs.elf import Needs, add_libraries, is_elf, needs
from rootfs.tree import StagingError, Tree

PREFIX = PurePosixPath("/usr/local")
# Tests, and what needs a screen, a terminal or an installer: 15 of 45 MB with Debian, 900 with pyenv.
LEFT_OUT = frozenset(
    ("test", "tests", "idlelib", "tkinter", "turtledemo", "turtle.py", "ensurepip", "lib2to3", "site-packages", "dist-packages")
)
MODULES_LEFT_OUT = re.compile(r"(_test\w*|xx\w*|_ctypes_test|_tkinter|nis)\.")
OTHER_BYTECODE = re.compile(r"\.opt-\d\.pyc$")


@dataclass(frozen=True, slots=True)
class Staged:
    """A Python in a tree: its version, where its library lies in the image, and the loader that starts it."""

    version: str  # "3.11.7"
    program: PurePosixPath
    library: PurePosixPath  # .../lib/python3.11
    packages: PurePosixPath  # where installed packages are found
    loader: PurePosixPath
    shared: PurePosixPath  # folder of shared libraries


def stage_own(tree: Tree) -> Staged:
    """Copy the interpreter that runs this, without packages.

    Raises:
        StagingError: it cannot be copied: no glibc, no `ldd`, a library of the program itself is missing.
    """
    if sys.platform != "linux":
        raise StagingError(f"a Python for {sys.platform} does not run in a Linux container")
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    program = Path(sys.base_prefix, "bin", name)
    program = (program if program.exists() else Path(sys.executable)).resolve()
    library = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))
    found = needs([program])
    if found.missing:
        raise StagingError(f"{program} needs {', '.join(sorted(found.missing))}, which is not found here")
    target = PREFIX / sys.platlibdir / name
    tree.copy(program, PREFIX / "bin" / name)
    tree.link(f"{PREFIX}/bin/python3", name)
    tree.copy_folder(library, target, skip=is_left_out)
    broken = _add_extensions(tree, library, target, found)
    if broken:
        print(f"left out, because their libraries are not installed: {', '.join(sorted(broken))}", file=sys.stderr)
    staged = Staged(
        version=platform.python_version(),
        program=PREFIX / "bin" / name,
        library=target,
        packages=target / _packages_folder(),
        loader=PurePosixPath(next(iter(found.loaders))),
        shared=PurePosixPath(found.libraries["libc.so.6"].parent),
    )
    tree.path(staged.packages).mkdir(parents=True, exist_ok=True)
    return staged


def is_left_out(inside: PurePosixPath) -> bool:
    """Whether a file of the standard library stays outside, by its path in it."""
    first = inside.parts[0]
    return (
        inside.name in LEFT_OUT
        or first.startswith("config-")
        or (first == "lib-dynload" and bool(MODULES_LEFT_OUT.match(inside.name)))
        or bool(OTHER_BYTECODE.search(inside.name))
    )


def _add_extensions(tree: Tree, library: Path, target: PurePosixPath, program: Needs) -> set[str]:
    """Libraries of the program and of every extension module; extensions whose libraries are missing are taken out again."""
    taken = tree.path(target / "lib-dynload")
    extensions = [path for path in sorted(library.glob("lib-dynload/*.so")) if (taken / path.name).exists()]
    found = needs(extensions)
    broken = [path for path in extensions if found.missing and needs([path]).missing]
    for path in broken:
        (taken / path.name).unlink()
    whole = needs([path for path in extensions if path not in broken]) if broken else found
    add_libraries(
        tree,
        Needs({**whole.libraries, **program.libraries}, whole.loaders | program.loaders, frozenset()),
    )
    return {path.name.partition(".")[0] for path in broken}


def _packages_folder() -> str:
    """Debian's own Python looks in another folder than everybody else's."""
    return PurePosixPath(sysconfig.get_path("purelib", vars={"base": sys.base_prefix})).name


def run_staged(tree: Tree, python: Staged, *arguments: str) -> str:
    """Run the Python of the tree, with its own loader and libraries, and give its output.

    Raises:
        StagingError: it failed.
    """
    command = [
        str(tree.path(python.loader)),
        "--library-path",
        str(tree.path(python.shared)),
        str(tree.path(python.program)),
        *arguments,
    ]
    environment = {"PYTHONHOME": str(tree.path(python.library).parents[1]), "PATH": os.defpath, "LANG": "C.UTF-8"}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if answer.returncode != 0:
        raise StagingError(f"the copied Python failed: {' '.join(arguments[:3])}: {(answer.stderr or answer.stdout)[-500:]}")
    return answer.stdout


def compile_all(tree: Tree, python: Staged) -> None:
    """Bytecode for every module that has none: the image is read-only, so that a start could not keep it."""
    run_staged(
        tree, python, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
        "-s", str(tree.root), "-p", "/", str(tree.path(python.library)),
    )  # fmt: skip


def add_libraries_of_packages(tree: Tree, python: Staged) -> None:
    """Shared libraries that the extension modules of installed packages need from the system.

    Raises:
        StagingError: one is not installed here.
    """
    files = [path for path in tree.path(python.packages).rglob("*.so*") if path.is_file() and is_elf(path)]
    found = needs(files)
    # Wheels carry some libraries beside their modules, under names of their own that only their modules can resolve.
    missing = {name for name in found.missing if not any(path.name == name for path in files)}
    if missing:
        raise StagingError(f"installed packages need {', '.join(sorted(missing))}, which is not found here")
    if files:
        add_libraries(tree, found)
