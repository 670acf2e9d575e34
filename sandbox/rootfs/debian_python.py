"""The Python of the image from Debian packages, where the one that runs this cannot be copied."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

from rootfs import debian
from rootfs.interpreter import PREFIX, Staged, is_left_out, run_staged
from rootfs.tree import StagingError, Tree

_LIBRARY = re.compile(r"/usr/lib(64)?/([^/]+-linux-gnu\w*/)?(lib[\w.+-]+\.so[.\d]*|ld-linux[\w.-]*\.so[.\d]*)")


def stage_debian(tree: Tree) -> Staged:
    """Fetch the release's Python with apt and unpack it; nothing is installed.

    Raises:
        StagingError: apt cannot fetch it.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        packages = debian.closure(["python3", "libgcc-s1"], installed=False)
        debian.unpack(packages, root)
        return _stage(tree, root)


def _stage(tree: Tree, root: Path) -> Staged:
    programs = sorted(root.glob("usr/bin/python3.[0-9]*"))
    if not programs:
        raise StagingError("the package 'python3' and what it depends on have no interpreter in them")
    name = programs[0].name
    library = PREFIX / "lib" / name
    tree.copy(programs[0], PREFIX / "bin" / name)
    tree.link(f"{PREFIX}/bin/python3", name)
    tree.copy_folder(root / "usr/lib" / name, library, skip=is_left_out)
    for path in debian.leaves(root):
        target = "/" / tree.path(str(path.relative_to(root))).relative_to(tree.root)
        if _LIBRARY.fullmatch(str(target)):
            tree.copy_as_is(path, str(target))
    loaders = [path for path in sorted(tree.root.glob("usr/lib*/**/ld-linux*.so*")) if not path.is_symlink()]
    libcs = sorted(tree.root.glob("usr/lib*/**/libc.so.6"))
    if not loaders or not libcs:
        raise StagingError(f"the packages of {name} brought no C library")
    python = Staged(
        version="",
        program=PREFIX / "bin" / name,
        library=library,
        packages=library / "dist-packages",
        loader="/" / PurePosixPath(loaders[0].relative_to(tree.root)),
        shared="/" / PurePosixPath(libcs[0].parent.relative_to(tree.root)),
    )
    tree.path(python.packages).mkdir(parents=True, exist_ok=True)
    version = run_staged(tree, python, "-I", "-c", "import platform; print(platform.python_version())").strip()
    return replace(python, version=version)
