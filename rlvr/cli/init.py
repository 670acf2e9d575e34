"""`rlvr init`: begin a verifier, a task, an environment or a tool with something that already works."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rlvr.errors import ConfigError

HELP = "Write the package of a new verifier, environment or tool, or the folder of a new task: small, tested, ready to change."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("verifier", "task", "env", "tool"))
    parser.add_argument("name", help="lower-case words joined by underscores, e.g. even_digits")
    parser.add_argument("--dir", default=".", metavar="DIR", help="where the folder NAME is made (here)")
    parser.add_argument("--json", action="store_true", help='print {"folder", "files"}')


def run(args: argparse.Namespace) -> int:
    from rlvr import scaffold

    _check_is_free(args.what, args.name)
    files = scaffold.write(args.what, args.name, Path(args.dir))
    folder = Path(args.dir) / args.name
    if args.json:
        print(json.dumps({"folder": str(folder), "files": [str(path) for path in files]}, indent=2))
        return 0
    for path in files:
        print(path)
    print("\nnext:")
    for command in _next_commands(args.what, args.name, folder):
        print(f"  {command}")
    return 0


def _check_is_free(what: str, name: str) -> None:
    from rlvr.registry import names

    taken = names(f"{what}s") if what != "task" else []
    if what == "task":
        from rlvr.envs.tasks import task_names

        taken = task_names()
    if name in taken:
        raise ConfigError(f"a {what} is already named {name!r} (`rlvr plugins` lists them); two of one name cannot be told apart")


def _next_commands(what: str, name: str, folder: Path) -> list[str]:
    if what == "task":
        place = folder if folder.is_absolute() else f"./{folder}"
        return [f"rlvr tasks validate {place}", f"rlvr tasks show {place}"]
    shows = {"verifier": f"rlvr verify --audit {name}", "env": "rlvr plugins envs", "tool": "rlvr plugins tools"}
    return [f"pip install -e {folder}", f"pytest {folder}", shows[what]]
