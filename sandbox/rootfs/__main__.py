"""`python3 -m rootfs --tar FILE`: write a root file system, and print what is in it as one line of JSON."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rootfs.compiler import stage_compiler
from rootfs.debian_python import stage_debian
from rootfs.interpreter import add_libraries_of_packages, compile_all, stage_own
from rootfs.packages import stage_packages
from rootfs.tree import StagingError, Tree

LAYERS = ("science", "cpp")


def main() -> int:
    parser = argparse.ArgumentParser(prog="rootfs", description=__doc__)
    parser.add_argument("--python", choices=("own", "debian"), default="own", help="copy the running Python, or fetch Debian's")
    parser.add_argument("--layers", default="", help=f"comma-separated, of {', '.join(LAYERS)}")
    parser.add_argument("--tar", type=Path, help="write the root file system into this tar file")
    parser.add_argument("--folder", type=Path, help="or into this empty folder")
    args = parser.parse_args()
    layers = [layer for layer in args.layers.split(",") if layer]
    unknown = sorted(set(layers) - set(LAYERS))
    if unknown:
        parser.error(f"unknown layer {unknown[0]!r}; known: {', '.join(LAYERS)}")
    if (args.tar is None) == (args.folder is None):
        parser.error("give one of --tar and --folder")
    try:
        with tempfile.TemporaryDirectory(prefix="rlvr-rootfs-") as folder:
            tree = Tree(args.folder or Path(folder))
            facts = make(tree, own=args.python == "own", layers=layers)
            if args.tar is not None:
                tree.pack(args.tar)
    except (StagingError, OSError) as error:
        print(f"rootfs: {error}", file=sys.stderr)
        return 3
    print(json.dumps(facts, sort_keys=True))
    return 0


def make(tree: Tree, *, own: bool, layers: list[str]) -> dict[str, str | int]:
    """Fill the tree; gives the versions of what is in it, and its size.

    Raises:
        StagingError: something that is needed is not here and cannot be fetched.
    """
    python = stage_own(tree) if own else stage_debian(tree)
    facts: dict[str, str | int] = {"python": python.version}
    if "science" in layers:
        facts |= stage_packages(tree, python)
        add_libraries_of_packages(tree, python)
    if "cpp" in layers:
        facts["g++"] = stage_compiler(tree)
    compile_all(tree, python)
    tree.furnish()
    return facts | {"bytes": tree.size_bytes()}


if __name__ == "__main__":
    sys.exit(main())
