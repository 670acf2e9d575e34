"""`rlvr plugins`: what is installed, where it comes from, and what its settings are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlvr.errors import PluginError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.verifiers.base import Verifier

HELP = "List plugins by kind, with version, origin and settings; --check loads each one."
PIPE_WIDTH = 1_000  # one line a row, whatever its length
DOC_CHARS = 110


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "kind", nargs="?", help="verifiers, tools, envs, tasks, algorithms, shapes, curricula, engines or health; all by default"
    )
    parser.add_argument("--check", action="store_true", help="load every plugin; exit code 1 if one fails")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(args: argparse.Namespace) -> int:
    from rlvr import registry

    rows = [
        _row(kind, name, reference, origin, check=args.check)
        for kind in ([args.kind] if args.kind else registry.KINDS)
        for name, reference, origin in registry.installed(kind)
    ]
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        (console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)).print(_table(rows, check=args.check))
    return 1 if args.check and any(row["error"] for row in rows) else 0


def _row(kind: str, name: str, reference: str, origin: str, *, check: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind, "name": name, "reference": reference, "origin": origin}
    # Verifiers are cheap to load; an engine or an algorithm may bring torch with it.
    if not check and kind != "verifiers":
        return row
    try:
        target = _load(kind, name)
    except PluginError as error:
        return {**row, "error": str(error)}
    return {**row, **_about(target), "error": None}


def _load(kind: str, name: str) -> Any:
    from rlvr.registry import resolve
    from rlvr.verifiers.base import as_verifier

    plugin = resolve(kind, name)
    return as_verifier(plugin) if kind == "verifiers" else plugin.target


def _about(target: Any) -> dict[str, Any]:
    from rlvr.verifiers.base import Verifier

    doc = (target.function if isinstance(target, Verifier) else target).__doc__ or ""
    first = " ".join(doc.strip().split("\n\n")[0].split())
    if not isinstance(target, Verifier):
        return {"doc": first}
    where = {"isolated": target.isolated, "waits": target.waits}
    return {"version": target.version, **where, "settings": _settings(target), "doc": first}


def _settings(verifier: Verifier) -> dict[str, Any]:
    """Each setting's default as text, None where it must be given."""
    import inspect

    parameters = list(inspect.signature(verifier.function).parameters.values())[2:]
    named = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    return {one.name: None if one.default is one.empty else repr(one.default) for one in named}


def _where(row: Mapping[str, Any]) -> str:
    return "in a worker" if row["isolated"] else "in threads" if row["waits"] else "in process"


def _table(rows: Sequence[Mapping[str, Any]], *, check: bool) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    for is_wide in (False, False, False, False, True, True):
        table.add_column(no_wrap=not is_wide)
    for row in rows:
        if row.get("error"):
            said = Text(row["error"], "red", no_wrap=False, overflow="fold")
            table.add_row(row["kind"], row["name"], Text(row["origin"], "dim"), Text("broken", "bold red"), "", said)
            continue
        where = _where(row) if "isolated" in row else ""
        version = f"version {row['version']}" if "version" in row else ""
        settings = " ".join(name for name in row.get("settings", ()))
        state = " · ".join(part for part in ("ok" if check else "", version, where) if part)
        table.add_row(
            row["kind"], Text(row["name"], "bold"), Text(row["origin"], "dim"), state, Text(settings, "cyan"), _what(row)
        )
    return table


def _what(row: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    doc = row.get("doc", "")
    return Text(doc if len(doc) <= DOC_CHARS else f"{doc[:DOC_CHARS]}…") if doc else Text(row["reference"], "dim")
