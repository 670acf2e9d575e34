"""`rlvr parity --against trl|verl`: our loss and gradient beside another package's, on the same batch and weights."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from rlvr.trainers.parity.comparison import Comparison, Peer

HELP = "compare our loss and the gradient of every parameter with TRL's or verl's own code"
DESCRIPTION = "Runs the same random rollouts and weights through both. Exit code 1 when anything differs by more than rounding."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", required=True, metavar="PACKAGE", help="trl or verl; it must be installed")
    parser.add_argument("--algorithm", metavar="NAME", help="only the settings of this preset")
    parser.add_argument("--parameters", action="store_true", help="also a table of every parameter's gradient")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    from rlvr.trainers.parity.comparison import compare
    from rlvr.trainers.parity.peers import load_peer

    peer = load_peer(args.against)
    settings = [setting for setting in peer.settings if args.algorithm in (None, setting.algorithm)]
    if not settings:
        known = ", ".join(dict.fromkeys(setting.algorithm for setting in peer.settings))
        raise ConfigError(f"--algorithm {args.algorithm}: {peer.name} is compared for {known}")
    found = [compare(peer, setting) for setting in settings]
    if args.json:
        rows = [{**asdict(one), "gradient_gap": one.gradient_gap, "is_equal": one.is_equal} for one in found]
        print(json.dumps({"against": peer.name, "version": peer.version, "settings": rows}))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(_table(peer, found))
        if args.parameters:
            for one in found:
                console.print(_parameters(one))
    return 0 if all(one.is_equal for one in found) else 1


def _table(peer: Peer, found: Sequence[Comparison]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"against {peer.name} {peer.version}, float64", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("setting", overflow="fold")
    for name in ("our loss", "their loss", "difference", "gradients differ by", ""):
        table.add_column(name, justify="right", no_wrap=True)
    for one in found:
        mark = Text("equal", style="green") if one.is_equal else Text("differs", style="bold red")
        numbers = (f"{one.loss:+.6f}", f"{one.their_loss:+.6f}", f"{one.loss_gap:.0e}", f"{one.gradient_gap:.0e}")
        table.add_row(one.setting, *numbers, mark)
    return table


def _parameters(one: Comparison) -> RenderableType:
    from rich.table import Table

    table = Table(title=one.setting, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("parameter")
    table.add_column("largest gradient", justify="right")
    table.add_column("largest difference", justify="right")
    for row in one.parameters:
        table.add_row(row.name, f"{row.largest:.3e}", f"{row.gap:.1e}")
    return table
