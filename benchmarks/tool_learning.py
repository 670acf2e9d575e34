"""What a tool and the loss mask are worth to a model that cannot multiply: the recipe of `tasks/products`, in three ways.

    python benchmarks/tool_learning.py
    python benchmarks/tool_learning.py --out runs/tool-learning --svg docs/tool-learning.svg

One base (a supervised warm start of minutes), then the same reinforcement: with the calculator; with the calculator, but without
the loss mask, so that what the tool said is trained on as if the model had said it; and without a tool. All have the same
problems, seeds and number of rollouts. Prints held-out pass@1 before and after, and the share of rollouts with a useful call.
Minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.trainers.train import Run, train

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "tasks" / "products"
UNMASKED = f"{ROOT / 'tests' / 'learning' / 'unmasked.py'}:Unmasked"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 52, 190, 16, 36


@dataclass(frozen=True, slots=True)
class Way:
    """One of the three: its settings on top of the recipe's, and how it is drawn."""

    name: str
    colour: str
    settings: dict[str, Any]


WAYS = (
    Way("with the calculator", "#2a9d5c", {}),
    Way("its tokens not masked", "#d1495b", {"env": "single_turn", "engine": {"name": UNMASKED}, "max_tokens": 80}),
    Way("without a tool", "#7a8190", {"env": "single_turn"}),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/tool-learning", help="where the runs go; a base that is there is used again")
    parser.add_argument("--svg", help="write the curves there")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    out = Path(args.out)
    if not (out / "base" / "summary.json").exists():
        train(recipe(RECIPES / "base.toml", out=str(out / "base"), threads=args.threads))
    runs = {way.name: reinforced(way, out, args.threads) for way in WAYS}
    print("| training | pass@1 before | after | gain in points | rollouts with a useful call |")
    print("|---|---|---|---|---|")
    for name, summary in runs.items():
        print(f"| {name} | {share(summary['before'])} | {share(summary['after'])} | {gain(summary)} | {calls(summary)} |")
    if args.svg:
        curves = [(way, smooth(correct(out / slug(way)))) for way in WAYS]
        Path(args.svg).write_text(drawing(curves), encoding="utf-8")
    return 0


def recipe(path: Path, **settings: Any) -> dict[str, Any]:
    import tomllib

    return {**tomllib.loads(path.read_text(encoding="utf-8")), **settings}


def reinforced(way: Way, out: Path, threads: int) -> dict[str, Any]:
    """The summary of the run, made if it is not there."""
    folder = out / slug(way)
    if (folder / "summary.json").exists():
        found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return found
    settings = dict(way.settings)
    asked = recipe(RECIPES / "tools.toml", model=str(out / "base"), out=str(folder), threads=threads)
    if "max_tokens" in settings:
        asked["rollout"] = {**asked["rollout"], "max_tokens": settings.pop("max_tokens")}
    run: Run = train({**asked, **settings})
    return dict(run.summary)


def slug(way: Way) -> str:
    return way.name.replace(" ", "-")


def share(measured: dict[str, Any]) -> str:
    found = measured["pass@1"]
    return f"{found['mean']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def gain(summary: dict[str, Any]) -> str:
    found = summary["gain"]["pass@1"]
    return f"{100 * found['mean']:+.1f} [{100 * found['low']:+.1f}, {100 * found['high']:+.1f}]"


def calls(summary: dict[str, Any]) -> str:
    before, after = (summary[when].get("useful_call_share") for when in ("before", "after"))
    return "" if before is None or after is None else f"{before:.0%}, then {after:.0%}"


def correct(folder: Path) -> list[float]:
    """Share of correct rollouts, step by step."""
    return [json.loads(line)["correct_share"] for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def smooth(values: Sequence[float], reach: int = 3) -> list[float]:
    windows = [values[max(0, index - reach) : index + reach + 1] for index in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def drawing(curves: Sequence[tuple[Way, list[float]]]) -> str:
    """Correct rollouts over steps; names at the ends of their lines. Readable on a light page and on a dark one."""
    steps = max(len(values) for _, values in curves)
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT

    def x(step: float) -> float:
        return round(LEFT + (right - LEFT) * step / steps, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - TOP) * value, 1)

    marks = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        marks.append(f'<line x1="{LEFT}" x2="{right}" y1="{y(tick)}" y2="{y(tick)}" stroke="#8884" />')
        marks.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4}" text-anchor="end">{tick:.0%}</text>')
    for step in range(0, steps + 1, 20):
        marks.append(f'<text x="{x(step)}" y="{bottom + 18}" text-anchor="middle">{step}</text>')
    marks.append(f'<text x="{x(steps / 2)}" y="{HEIGHT - 3}" text-anchor="middle">steps of reinforcement</text>')
    for way, values in curves:
        points = " ".join(f"{x(index + 1)},{y(value)}" for index, value in enumerate(values))
        marks.append(
            f'<polyline points="{points}" fill="none" stroke="{way.colour}" stroke-width="2.5" stroke-linejoin="round" />'
        )
        marks.append(f'<text x="{right + 8}" y="{y(values[-1]) + 4}" fill="{way.colour}" font-weight="600">{way.name}</text>')
    title = "Correct rollouts over the steps of training: " + ", ".join(way.name for way, _ in curves)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="#8a8f98"><title>{title}</title>' + "".join(marks) + "</svg>\n"
    )


if __name__ == "__main__":
    raise SystemExit(main())
