"""`rlvr explain curriculum=NAME task=...`: which problems a run would draw, in words and as a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from rlvr.filtering.forecast import Forecast

_BAR = 12  # characters


def explain_curriculum(words: Sequence[str], *, as_json: bool) -> None:
    """`words` are overrides as `rlvr train` takes them (`curriculum=window`, `task=chains`, `data.pass_rates=FILE`), and the
    name of a recipe file, if there is one.

    Raises:
        ConfigError, PluginError, TaskError: as `rlvr train`.
        StarvedError: the curriculum would draw nothing.
    """
    from rlvr.config import RunConfig, load_recipe
    from rlvr.envs.tasks import load_task
    from rlvr.filtering.forecast import forecast
    from rlvr.filtering.pass_rates import load_pass_rates, select_problems
    from rlvr.filtering.window import Window

    files = [word for word in words if "=" not in word]
    if len(files) > 1:
        raise ConfigError(f"{' and '.join(files)} are both taken for recipes; give one, and everything else as key=value")
    recipe = load_recipe(files[0] if files else {"model": "any"}, [word for word in words if "=" in word])
    if not isinstance(recipe, RunConfig):
        raise ConfigError("a supervised recipe has no curriculum; give one of kind 'rl'")
    task = load_task(recipe.task, recipe.task_args)
    problems = list(task.problems(recipe.data.split, limit=recipe.data.problems))
    rates = None
    if recipe.data.pass_rates is not None:
        rates = load_pass_rates(recipe.data.pass_rates, task=task.name)
        problems = select_problems(problems, rates, Window(*recipe.data.keep), f"data.pass_rates = {recipe.data.pass_rates!r}")
    found = forecast(
        problems,
        rates,
        recipe.curriculum.name,
        recipe.curriculum.arguments,
        group_size=recipe.rollout.group_size,
        steps=recipe.steps,
        seed=recipe.seed,
    )
    if as_json:
        print(json.dumps(asdict(found)))
        return
    from rich.console import Console

    Console(highlight=False).print(_panel(found, task.name))


def _panel(found: Forecast, task: str) -> RenderableType:
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("solve rate", no_wrap=True)
    table.add_column("problems", justify="right")
    for name in ("first step", "half-way", "last step"):
        table.add_column(name, no_wrap=True)
    most = max(share for row in found.bins for share in row.shares)
    for row in found.bins:
        cells = (Text.assemble((f"{share:4.0%} ", ""), ("▇" * round(_BAR / 2 * share / most), "cyan")) for share in row.shares)
        table.add_row(f"{row.low:.0%} to {row.high:.0%}", f"{row.problems}", *cells)
    unknown = found.problems - found.known
    known = f"{found.known} of {found.problems} problems of {task} were sampled before"
    if unknown:
        known += f"; the {'other ' if found.known else ''}{unknown} are believed 50 %, with nothing known"
    signal = found.signal[0]
    prompts = f"about {1 / signal:.1f} prompts for each group that teaches something" if signal > 0.01 else "hardly any"
    body = Group(
        Text(found.words[0].upper() + found.words[1:] + "."),
        Text(known + ".", style="dim"),
        Text(),
        table,
        Text(),
        Text(
            f"In groups of {found.group_size}, {signal:.0%} of the first draws should have both right and wrong answers: "
            f"{prompts} (drawn evenly: {found.signal_uniform:.0%})."
        ),
        Text("Shares are of the draws, with what is known now; training changes what is known.", style="dim"),
    )
    return Panel(body, title=f"[bold]curriculum {found.name}[/]", title_align="left", border_style="cyan", padding=(1, 2))
