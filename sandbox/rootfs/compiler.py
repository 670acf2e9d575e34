"""g++ for the image, with its headers and libraries: from the packages that are installed here, else fetched with apt.

No shell, no make, no C compiler, no sanitizers: what `g++ FILE.cpp -o PROGRAM` needs, and nothing else.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from rootfs import debian
from rootfs.tree import StagingError, Tree

PACKAGE = "g++"
FLAGS = ("-O2", "-std=c++17")  # a precompiled header is read only by compilations with the same
_PART = re.compile(
    r"/usr/bin/(\w+-linux-gnu\w*-)?(g\+\+(-\d+)?|as|ld|ld\.bfd)"
    r"|/usr/lib(exec)?/gcc/[^/]+/\d+/("
    r"cc1plus|collect2|lto-wrapper|liblto_plugin\.so|crt\w+\.o|include/.*|include-fixed/.*"
    r"|lib(gcc|gcc_eh|stdc\+\+|stdc\+\+fs|supc\+\+|atomic|quadmath)\.a|lib(gcc_s|stdc\+\+|atomic|quadmath)\.so)"
    r"|/usr/lib/[^/]+-linux-gnu\w*/("
    r"\w*crt[1in]\.o|lib(c|m)\.so|lib(c|c_nonshared|m|m-[\d.]+|mvec|pthread|rt|dl|util)\.a|libmvec\.so|ldscripts/elf_\w+\.x\w*"
    r"|lib(c|m|mvec|stdc\+\+|gcc_s|atomic|quadmath|isl|mpc|mpfr|gmp|zstd|z|ctf|sframe|jansson)\.so(\.[\d.]+)?"
    r"|lib(bfd|opcodes)-.*\.so)"
    r"|/usr/lib/linux/uapi/.*"
    r"|/usr/include/(?!(drm|rdma|sound|video|mtd|xen|misc|scsi|cxl|regulator|rpc|rpcsvc)/).*"
)


def stage_compiler(tree: Tree) -> str:
    """Add g++; gives its version.

    Raises:
        StagingError: it is not installed as a Debian package, and apt cannot fetch it.
    """
    if debian.is_installed(PACKAGE):
        _take(tree, Path("/"), debian.files_of(debian.closure([PACKAGE], installed=True)))
        _precompile(tree)
    else:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "root")
            debian.unpack(debian.closure([PACKAGE], installed=False), root)
            _take(tree, root, debian.leaves(root))
    return _version(tree)


def is_part(path: str) -> bool:
    """Whether a file of g++'s packages is needed to compile and link a program; `path` as in the image."""
    return bool(_PART.fullmatch(path))


def _take(tree: Tree, root: Path, paths: list[Path]) -> None:
    for path in paths:
        target = "/" / tree.path(str(path.relative_to(root))).relative_to(tree.root)
        if is_part(str(target)):
            tree.copy_as_is(path, str(target))


def _precompile(tree: Tree) -> None:
    """The header that solutions to programming contests begin with, as g++ reads it four times faster: for 100 MB, 0.4 s.

    Only the very compiler that made it can use it, so it is made where that one is installed.
    """
    for header in tree.path("/usr/include").rglob("bits/stdc++.h"):
        debian.run(PACKAGE, *FLAGS, "-x", "c++-header", str(header), "-o", f"{header}.gch")


def _version(tree: Tree) -> str:
    folders = sorted(path.parent for path in tree.path("/usr").glob("lib*/gcc/*/*/cc1plus"))
    if not folders:
        raise StagingError(f"no compiler was found in the package {PACKAGE!r} and what it depends on")
    return folders[-1].name
