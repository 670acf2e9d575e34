"""`rlvr train`: run a recipe, or continue a run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr.errors import ConfigError

if TYPE_CHECKING:
    from rlvr.config import Recipe
    from rlvr.evaluation.observer import Observer

HELP = "Train a model by a recipe: reinforcement learning (kind = rl) or a supervised warm start (kind = sft)."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a recipe file, or TASK/NAME for tasks/TASK/NAME.toml, e.g. chains/quickstart")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings that replace the recipe's, e.g. optim.lr=1e-6"
    )
    parser.add_argument("--resume", metavar="RUN", help="continue the run in this folder from its newest checkpoint")
    parser.add_argument(
        "--continue",
        dest="continues",
        action="store_true",
        help="if the recipe's folder holds this run already, go on with it: one command to repeat until the run is finished",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, print the resolved recipe and its arithmetic, stop"
    )
    parser.add_argument(
        "--on", metavar="DEVICE", help="estimate --dry-run for this device instead of the one at hand, e.g. h200 or 8xa100-80gb"
    )
    parser.add_argument("--json", action="store_true", help="print the run's summary (or the dry run) as JSON")


def run(args: argparse.Namespace) -> int:
    from rlvr.config import load_recipe
    from rlvr.trainers.train import resume, train, train_or_resume

    if args.on is not None and not args.dry_run:
        raise ConfigError(f"--on {args.on} says what to estimate for; add --dry-run, or leave it out")
    if args.resume is not None:
        if args.recipe is not None:
            raise ConfigError(f"--resume continues with the run's own recipe; leave out {args.recipe!r}")
        with _view(as_json=args.json) as view:
            finished = resume(args.resume, observer=view)
    else:
        if args.recipe is None:
            raise ConfigError("give a recipe, e.g. `rlvr train chains/quickstart`, or --resume RUN")
        recipe = load_recipe(recipe_path(args.recipe), args.overrides)
        if args.dry_run:
            return _dry_run(recipe, args.on, as_json=args.json)
        with _view(as_json=args.json) as view:
            finished = (train_or_resume if args.continues else train)(recipe, observer=view)
    if args.json and _is_first_process():
        print(json.dumps(dict(finished.summary), indent=2))
    return 0


@contextmanager
def _view(*, as_json: bool) -> Iterator[Observer]:
    """The terminal view, on the first of several processes alone; with --json, stdout is left to the JSON."""
    from rich.console import Console

    from rlvr.cli.live import LiveView
    from rlvr.evaluation.observer import SilentObserver

    if not _is_first_process():
        yield SilentObserver()
        return
    with LiveView(out=Console(stderr=True) if as_json else None) as view:
        yield view


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def recipe_path(name: str) -> Path:
    """A recipe by its path, or by TASK/NAME in the folders of known tasks.

    Raises:
        ConfigError: there is none; lists those of the task.
    """
    path = Path(name)
    if path.is_file():
        return path
    task, slash, stem = name.partition("/")
    if slash and not name.endswith(".toml"):
        from rlvr.envs.tasks import load_task

        folder = load_task(task).folder
        found = folder / f"{stem}.toml"
        if found.is_file():
            return found
        known = sorted(f"{task}/{other.stem}" for other in folder.glob("*.toml") if other.stem != "task")
        raise ConfigError(f"task {task!r} has no recipe {stem!r}; it has: {', '.join(known) or 'none'}")
    raise ConfigError(f"recipe {name!r} is neither a file nor TASK/NAME, e.g. chains/quickstart")


def _dry_run(recipe: Recipe, device: str | None, *, as_json: bool) -> int:
    from rlvr.config import RunConfig, to_toml
    from rlvr.trainers.sizing.devices import machine_at_hand, machine_named
    from rlvr.trainers.sizing.dry import estimate_recipe
    from rlvr.trainers.train import dry_run

    machine = None if device is None else machine_named(device)
    resolved, counted = dry_run(recipe)
    estimate = None
    if isinstance(resolved, RunConfig):
        estimate = estimate_recipe(resolved, machine or machine_at_hand(resolved.load.device))
    if as_json:
        found = None if estimate is None else estimate.as_json()
        print(json.dumps({"recipe": resolved.model_dump(mode="json"), "arithmetic": counted, "estimate": found}, indent=2))
        return 0
    print(to_toml(resolved.model_dump()))
    sys.stdout.write("".join(f"# {key} = {value}\n" for key, value in counted.items()))
    no_estimate = "no estimate of memory and time: they are known for reinforcement learning of dense models of Llama's build"
    lines = [no_estimate] if estimate is None else estimate.sentences()
    sys.stdout.write("".join(f"# {line}\n" for line in lines))
    return 0
