"""`rlvr explain`: what an algorithm computes, in formulas and words, and on a batch written by hand."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.cli.explain_curriculum import explain_curriculum
from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.trainers.explain.algorithm import Explanation, Preset
    from rlvr.trainers.explain.toy_batch import ToyResult

HELP = "show the formula, constants and traps of an algorithm, or compute it on a toy batch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "algorithm",
        nargs="?",
        help="preset or plugin reference; without one, all presets are listed. curriculum=NAME task=TASK shows a curriculum",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="arguments of the preset, e.g. ratio_max=5.0; shapes=NAME (or a TOML list of tables) shapes the rewards",
    )
    parser.add_argument(
        "--on", metavar="FILE", help="JSON batch to compute advantages, weights, loss and gradient on; - is stdin"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    from rlvr.trainers.algorithms import build
    from rlvr.trainers.explain.algorithm import explain, parse_settings, presets, shapes_from
    from rlvr.trainers.explain.toy_batch import ToyBatch, compute
    from rlvr.trainers.shaping.sections import with_shapes

    if args.algorithm is not None and args.algorithm.startswith("curriculum="):
        if args.on is not None:
            raise ConfigError(
                "--on computes an algorithm; a curriculum only needs task=NAME and, if there is one, data.pass_rates"
            )
        explain_curriculum([args.algorithm, *args.settings], as_json=args.json)
        return 0
    if args.algorithm is None:
        if args.on is not None:
            raise ConfigError("--on needs an algorithm, e.g. rlvr explain grpo --on batch.json")
        found = presets()
        _show([asdict(preset) for preset in found], lambda: _preset_table(found), as_json=args.json)
        return 0
    settings = parse_settings(args.settings)
    shapes = shapes_from(settings)
    if args.on is not None:
        algorithm = with_shapes(build(args.algorithm, settings), shapes)
        result = compute(algorithm, ToyBatch.parse(_read_json(args.on)), are_scores=bool(shapes))
        _show(asdict(result), lambda: _result_table(args.algorithm, result), as_json=args.json)
        return 0
    explanation = explain(args.algorithm, settings, shapes)
    _show(explanation.as_dict(), lambda: _panel(explanation), as_json=args.json)
    return 0


def _read_json(name: str) -> Any:
    try:
        return json.loads(sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"batch {name} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"batch {name} is not valid JSON: {error}") from error


def _show(data: Any, render: Callable[[], RenderableType], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(data, ensure_ascii=False))
        return
    from rich.console import Console

    Console(highlight=False).print(render())


def _panel(explanation: Explanation) -> RenderableType:
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    formula = Text(explanation.objective, style="bold cyan")
    where = Text("\n".join(f"  {line}" for line in explanation.where), style="cyan")
    choices = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    choices.add_column(style="bold", no_wrap=True)
    choices.add_column(style="dim", overflow="fold", ratio=2)
    choices.add_column(overflow="fold", ratio=3)
    for choice in explanation.choices:
        choices.add_row(choice.part, Text(choice.formula), Text(choice.words))
    up, down = explanation.gradient_multiplier.values()
    multiplier = f"{up:g}" if up == down else f"{up:g} (A>0), {down:g} (A<0)"
    choices.add_row("on-policy gradient", Text(f"× {multiplier}"), Text("relative to REINFORCE on the same advantages"))
    settings = Text("  ".join(f"{key}={_plain(value)}" for key, value in explanation.settings.items()), style="dim")
    warnings = [Text(f"⚠ {warning}", style="yellow") for warning in explanation.warnings] or [
        Text("no known trap", style="green")
    ]
    body = Group(
        Text(explanation.summary),
        Text(explanation.source, style="dim"),
        Text(),
        formula,
        where,
        Text(),
        choices,
        Text(),
        *warnings,
        Text(),
        settings,
    )
    return Panel(body, title=f"[bold]{explanation.name}[/]", title_align="left", border_style="cyan", padding=(1, 2))


def _preset_table(presets: list[Preset]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 2, 1, 0))
    table.add_column("algorithm", style="bold cyan", no_wrap=True)
    table.add_column("what it maximises, and where it comes from", overflow="fold")
    for preset in presets:
        text = Text.assemble((preset.objective, "cyan"), "\n", preset.summary, " ", (preset.source, "dim"))
        table.add_row(preset.name, text)
    return table


def _result_table(name: str, result: ToyResult) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("rollout", "reward", "advantages", "weights", "d loss / d logprobs"):
        table.add_column(column, overflow="fold")
    rows = zip(result.advantages, result.weights, result.grad_logprobs, strict=True)
    for i, columns in enumerate(rows):
        reward = result.rewards[i]
        told = (" ".join(f"{value:.4g}" for value in values) for values in columns)
        table.add_row(str(i), "left out" if reward is None else f"{reward:.4g}", *told)
    lines: list[RenderableType] = [Text.assemble((f"{name}: loss = {result.loss:.6g}", "bold cyan")), table]
    lines += [Text(note, style="yellow") for note in result.notes]
    return Group(*lines)


def _plain(value: object) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
