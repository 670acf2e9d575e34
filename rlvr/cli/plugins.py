"""`rlvr plugins`: what is installed, and where it comes from."""

from __future__ import annotations

import argparse
import json

from rlvr.errors import PluginError

HELP = "List plugins by kind, with where they come from; --check loads each one."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", help="verifiers, tools, envs, tasks, algorithms, curricula or engines; all by default")
    parser.add_argument("--check", action="store_true", help="load every plugin; exit code 1 if one fails")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    from rlvr import registry

    rows = []
    for kind in [args.kind] if args.kind else registry.KINDS:
        for name, reference, origin in registry.installed(kind):
            row: dict[str, object] = {"kind": kind, "name": name, "reference": reference, "origin": origin}
            if args.check:
                row["error"] = _failure(kind, name)
            rows.append(row)
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            state = f"  {row['error'] or 'ok'}" if args.check else ""
            print(f"{row['kind']:<11} {row['name']:<20} {row['reference']:<45} {row['origin']}{state}")
    return 1 if any(row.get("error") for row in rows) else 0


def _failure(kind: str, name: str) -> str | None:
    from rlvr import registry

    try:
        registry.resolve(kind, name)
    except PluginError as error:
        return str(error)
    return None
