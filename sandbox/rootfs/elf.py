"""Which shared libraries a program needs, as the dynamic loader of this machine finds them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rootfs.tree import StagingError, Tree

_FOUND = re.compile(r"^\s+(\S+) => (/.*?) \(0x", re.MULTILINE)
_LOADER = re.compile(r"^\s+(/\S+)(?: => /\S+)? \(0x", re.MULTILINE)
_MISSING = re.compile(r"^\s+(\S+) => not found", re.MULTILINE)
# Loaded by name at run time, so that no file says that it needs them: thread exit, and looking up users before glibc 2.34.
BY_NAME = ("libgcc_s.so.1", "libnss_files.so.2")
MAGIC = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class Needs:
    """What `files` need: libraries by the name that they are asked for, dynamic loaders, and names that were not found."""

    libraries: dict[str, Path]
    loaders: frozenset[Path]
    missing: frozenset[str]


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def needs(files: Iterable[Path]) -> Needs:
    """
    Raises:
        StagingError: there is no `ldd` here.
    """
    names = [str(path) for path in files]
    if not names:
        return Needs({}, frozenset(), frozenset())
    try:
        answer = subprocess.run(
            ["ldd", *names], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        ).stdout
    except FileNotFoundError as error:
        raise StagingError("'ldd' is not installed, so the libraries of this Python cannot be found") from error
    return Needs(
        libraries={name: Path(path) for name, path in _FOUND.findall(answer)},
        loaders=frozenset(Path(path) for path in _LOADER.findall(answer)),
        missing=frozenset(_MISSING.findall(answer)),
    )


def add_libraries(tree: Tree, found: Needs) -> None:
    """Put the libraries where the loader looks by itself: beside libc, whatever folder they came from.

    Libraries that lie in the tree already (a package's own) stay where they are.
    """
    folder = library_folder(found)
    for loader in found.loaders:
        tree.copy(loader, PurePosixPath(loader))
    for name, path in found.libraries.items():
        if not path.is_relative_to(tree.root):
            tree.copy(path, folder / name)
    for name in BY_NAME:
        for place in (folder, PurePosixPath("/usr", *folder.parts[1:]), PurePosixPath("/lib64"), PurePosixPath("/usr/lib")):
            if (path := Path(place) / name).is_file():
                tree.copy(path, folder / name)
                break


def library_folder(found: Needs) -> PurePosixPath:
    libc = found.libraries.get("libc.so.6")
    if libc is None:
        raise StagingError("this Python does not use glibc (musl?); only systems with glibc can be copied")
    return PurePosixPath(libc.parent)
