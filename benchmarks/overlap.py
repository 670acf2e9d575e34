"""Steps per second where generation and update run at the same time (`rollout.max_staleness` = 1), against the plain loop.

    waiting    phases that wait (an engine and an update that sleep): what the scheduling is worth, whatever the machine does
    computing  phases that compute: the native engine and AdamW on a model of 3M parameters, two processes, one thread each;
               every response has 96 tokens, so that both phases take the same time in every step
    varying    the same with responses of any length up to 96 tokens: the phases take equal time on average alone, and the
               longest responses of a step, sampled a few at a time, are waited for

Generation and update take equal time where they compute: groups have as many responses as that takes, found by trying. Both loops
run in turns; medians of rounds count.

The wall clock needs two cores that nobody else uses. So the computing side is told in CPU seconds, too: those of a step in the
plain loop, over those of the busier process in the other one. That is what the clock would say on two free cores at best.

    python benchmarks/overlap.py [--rounds 3] [--steps 12] [--only waiting|computing|varying] [--svg docs/overlap-timeline.svg]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvr.envs.tasks import load_task
from rlvr.evaluation.observer import SilentObserver
from rlvr.trainers.model.tiny import tiny_model
from rlvr.trainers.overlap.timeline import Lane, Span, read_timeline
from rlvr.trainers.train import train
from rlvr.types import Completion, FinishReason, Sampling

GOAL = 1.7
TOKENS = 96
PHASE_S = 0.4  # of the sides that wait
GROUP_SIZES = (2, 3, 4, 6, 8, 12, 16)  # of the sides that compute
FIRST = 4  # steps before the clock starts: the queue fills in the first ones


@dataclass(frozen=True, slots=True)
class Side:
    """One way to fill the phases."""

    name: str
    groups: int
    group_size: int  # 0: as many as make both phases equally long
    model: str = "ending"

    @property
    def waits(self) -> bool:
        return self.name == "waiting"


SIDES = (Side("waiting", 8, 16), Side("computing", 4, 0, "endless"), Side("varying", 8, 0))


class WaitingEngine:
    """Answers every request after `PHASE_S`, `max_rows` of them at a time: as long as one step's batch takes."""

    runs_beside = True

    def __init__(self, model: Any, tokenizer: Any, *, max_rows: int = 256, precision: str = "fp32") -> None:
        self.policy_version, self.max_context = 0, 1 << 20
        self._room = asyncio.Semaphore(max_rows)
        self._digits = [tokenizer.convert_tokens_to_ids(digit) for digit in "0123456789"]

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        async with self._room:
            version = self.policy_version
            await asyncio.sleep(PHASE_S)
        token = self._digits[sampling.seed % 10]
        mixed = None if version == self.policy_version else (version, self.policy_version)
        return Completion((token, token), (-2.0, -2.0), FinishReason.LENGTH, version, token_versions=mixed)

    def update_weights(self) -> None:
        self.policy_version += 1

    def push_weights(self) -> None:
        self.policy_version += 1

    async def close(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Measured:
    """One run, without its first steps."""

    steps_per_s: float
    generate_s: float  # of a step
    update_s: float
    trainer_cpu_s: float  # of a step
    other_cpu_s: float  # the same of the process that generates, where there is one
    spans: tuple[Span, ...]


def save_models(folder: Path) -> None:
    """3.2M parameters, random weights, with the characters of `chains`; one ends its responses at random, one never."""
    import torch

    spec = load_task("chains").tiny
    assert spec is not None
    larger = {"hidden": 256, "intermediate": 768, "layers": 4, "heads": 8, "kv_heads": 4, "head_dim": 32}
    model, tokenizer = tiny_model(spec.model_copy(update=larger))
    for name in ("ending", "endless"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        with torch.no_grad():  # the end token's logit is what all tokens have in one channel, times -100
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight[0] = 0.0
                layer.mlp.down_proj.weight[0] = 0.0
            table = model.model.embed_tokens.weight
            table[:, 0] = 0.2
            table[tokenizer.eos_token_id] = 0.0
            table[tokenizer.eos_token_id, 0] = -100.0


def recipe(out: Path, side: Side, *, staleness: int, steps: int) -> dict[str, Any]:
    engine = {"name": f"{Path(__file__).resolve()}:WaitingEngine"} if side.waits else {"name": "native"}
    return {
        "kind": "rl",
        "model": str(out.parent / side.model),
        "task": "chains",
        "steps": steps,
        "threads": 2 if staleness and not side.waits else 1,  # shared out between two processes: one each, as in the plain loop
        "out": str(out),
        "rollout": {
            "group_size": side.group_size,
            "problems_per_step": side.groups,
            "max_tokens": TOKENS,
            "max_staleness": staleness,
            "patience": 10_000,  # nothing is to be learned here
        },
        "engine": {**engine, "max_rows": side.groups * side.group_size},
        "algorithm": {"name": "grpo", "entropy_coef": 1e-6},  # so that no row is left out for want of signal
        "optim": {"lr": 1e-5},
        "eval": {"problems": 0},
        "checkpoint": {"every": 0},
    }


def measure(folder: Path, side: Side, *, staleness: int, steps: int) -> Measured:
    cpu = CpuClock()
    with waiting_updates() if side.waits else nullcontext():
        run = train(recipe(folder, side, staleness=staleness, steps=steps), observer=cpu)
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    ends = [row["time_total_s"] for row in rows]
    later = rows[FIRST:]
    return Measured(
        steps_per_s=len(later) / (ends[-1] - ends[FIRST - 1]),
        generate_s=statistics.median(row["time_generate_s"] for row in later),
        update_s=statistics.median(row["time_update_s"] for row in later),
        trainer_cpu_s=(cpu.own[-1] - cpu.own[FIRST - 1]) / len(later),
        other_cpu_s=(cpu.children[-1] - cpu.children[FIRST - 1]) / len(later),
        spans=tuple(read_timeline(run.folder / "timeline.jsonl")) if staleness else spans_of(rows),
    )


class CpuClock(SilentObserver):
    """CPU seconds so far at the end of every step: this process's, and those of its living children."""

    def __init__(self) -> None:
        self.own: list[float] = []
        self.children: list[float] = []

    def advance(self, count: int = 1, **metrics: float) -> None:
        if count and metrics:
            self.own.append(time.process_time())
            self.children.append(sum(map(cpu_s, children())))


def children() -> list[int]:
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def waiting_updates() -> Any:
    from rlvr.trainers.learner import Learner

    learns = Learner.learn

    def waits(self: Learner, step_batch: Any) -> dict[str, float]:
        time.sleep(PHASE_S)
        return {}

    Learner.learn = waits  # type: ignore[method-assign]
    try:
        yield
    finally:
        Learner.learn = learns  # type: ignore[method-assign]


def spans_of(rows: Sequence[dict[str, Any]]) -> tuple[Span, ...]:
    """The plain loop's, from its metrics."""
    spans = []
    for row in rows:
        end = row["time_total_s"]
        middle = end - row["time_update_s"]
        spans.append(Span(Lane.GENERATE, row["step"], middle - row["time_generate_s"], middle))
        spans.append(Span(Lane.UPDATE, row["step"], middle, end))
    return tuple(spans)


def compare(folder: Path, side: Side, rounds: int, steps: int) -> tuple[float, Measured, Measured]:
    """The ratio of the medians, and both runs of the round in the middle."""
    plain, overlapped = [], []
    for index in range(rounds):
        plain.append(measure(folder / f"{side.name}-plain-{index}", side, staleness=0, steps=steps))
        # More steps, so that both last about as long: what else the machine does then meets both alike.
        overlapped.append(measure(folder / f"{side.name}-ahead-{index}", side, staleness=1, steps=2 * steps))
    ratio = statistics.median(one.steps_per_s for one in overlapped) / statistics.median(one.steps_per_s for one in plain)
    each = ", ".join(f"{after.steps_per_s / before.steps_per_s:.2f}" for before, after in zip(plain, overlapped, strict=True))
    print(
        f"{side.name}: {side.groups} groups of {side.group_size}: {statistics.median(one.steps_per_s for one in plain):.3f} -> "
        f"{statistics.median(one.steps_per_s for one in overlapped):.3f} steps/s, x {ratio:.2f} (rounds: {each}); "
        f"plain: generation {statistics.median(one.generate_s for one in plain):.2f} s, "
        f"update {statistics.median(one.update_s for one in plain):.2f} s of a step"
    )
    if not side.waits:
        whole = statistics.median(one.trainer_cpu_s for one in plain)
        here = statistics.median(one.trainer_cpu_s for one in overlapped)
        there = statistics.median(one.other_cpu_s for one in overlapped)
        print(
            f"  CPU seconds of a step: plain {whole:.3f}; overlapped {here:.3f} in the trainer, {there:.3f} in the process that "
            f"generates: x {whole / max(here, there):.2f} on two free cores at best"
        )
    rounds_by_ratio = sorted(zip(plain, overlapped, strict=True), key=lambda pair: pair[1].steps_per_s / pair[0].steps_per_s)
    return ratio, *rounds_by_ratio[len(rounds_by_ratio) // 2]


def balanced(folder: Path, side: Side) -> Side:
    """With groups of the size at which the phases are most nearly as long as each other: the update grows faster with it."""
    tried: dict[int, float] = {}
    low, high = 0, len(GROUP_SIZES) - 1
    while low <= high:
        size = GROUP_SIZES[(low + high) // 2]
        found = measure(folder / f"{side.name}-{size}", replace(side, group_size=size), staleness=0, steps=FIRST + 4)
        tried[size] = math.log(found.generate_s / found.update_s)
        low, high = ((low + high) // 2 + 1, high) if tried[size] > 0 else (low, (low + high) // 2 - 1)
    return replace(side, group_size=min(tried, key=lambda size: abs(tried[size])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", choices=[side.name for side in SIDES])
    parser.add_argument("--svg", help="write the timeline of the runs that were measured last there")
    args = parser.parse_args()
    ratios = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_models(folder)
        for side in SIDES:
            if args.only in (None, side.name):
                chosen = side if side.group_size else balanced(folder, side)
                ratios[side.name], plain, overlapped = compare(folder, chosen, args.rounds, args.steps)
    print(f"goal: {GOAL} with equal phases; found " + ", ".join(f"{ratio:.2f} {name}" for name, ratio in ratios.items()))
    if args.svg:
        Path(args.svg).write_text(drawing(plain, overlapped), encoding="utf-8")
    return 0 if all(ratio >= GOAL for name, ratio in ratios.items() if name != "varying") else 1


WIDTH, LEFT, LANE, GAP = 760, 118, 26, 8
COLOURS = {Lane.GENERATE: "#3b82c4", Lane.UPDATE: "#d9822b", Lane.WEIGHTS: "#2f9e6e"}
STEPS_SHOWN = 8


def drawing(one: Measured, other: Measured) -> str:
    """Both loops over the same number of seconds, beginning with a step after the first ones."""
    plain, overlapped = one.spans, other.spans
    updates = [span for span in plain if span.lane is Lane.UPDATE]
    first = updates[FIRST - 1].end
    seconds = updates[min(FIRST + STEPS_SHOWN, len(updates)) - 1].end - first
    begin = next(span.end for span in overlapped if span.lane is Lane.WEIGHTS and span.name == FIRST)
    marks = [_title(18, f"In turn, rollout.max_staleness = 0: {one.steps_per_s:.2f} steps/s")]
    marks += _lane(30, "generation", [s for s in plain if s.lane is Lane.GENERATE], first, seconds)
    marks += _lane(30 + LANE + GAP, "update", updates, first, seconds)
    top = 30 + 2 * (LANE + GAP) + 26
    marks.append(_title(top - 8, f"At the same time, rollout.max_staleness = 1: {other.steps_per_s:.2f} steps/s"))
    groups = [span for span in overlapped if span.lane is Lane.GENERATE]
    depth = 3 * LANE
    marks += _groups(top + 4, depth, groups, begin, seconds)
    below = top + 4 + depth + GAP
    marks += _lane(below, "update", [s for s in overlapped if s.lane is Lane.UPDATE], begin, seconds)
    marks += _lane(below, "", [s for s in overlapped if s.lane is Lane.WEIGHTS], begin, seconds)
    for span in overlapped:
        if span.lane is Lane.WEIGHTS and begin < span.end < begin + seconds:
            x = _x(span.end - begin, seconds)
            marks.append(
                f'<line x1="{x}" x2="{x}" y1="{top + 4}" y2="{below}" stroke="{COLOURS[Lane.WEIGHTS]}" stroke-dasharray="3 3"/>'
            )
    axis = below + LANE + 18
    marks += [
        f'<text x="{_x(tick, seconds)}" y="{axis}" text-anchor="middle">{tick} s</text>'
        for tick in range(0, int(seconds) + 1, max(1, int(seconds) // 6))
    ]
    legend = "Each thin bar is one group, from its first request to its last verdict; dashed: new weights reach it."
    marks.append(f'<text x="{LEFT}" y="{axis + 22}">{legend}</text>')
    title = "Generation and update over time, in turn and at the same time"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {axis + 34}" width="{WIDTH}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="#8a8f98"><title>{title}</title>' + "".join(marks) + "</svg>\n"
    )


def _title(y: float, text: str) -> str:
    return f'<text x="{LEFT}" y="{y}" font-weight="600">{text}</text>'


def _x(seconds: float, whole: float) -> float:
    return round(LEFT + (WIDTH - LEFT - 12) * min(max(seconds / whole, 0.0), 1.0), 1)


def _lane(y: float, name: str, spans: Sequence[Span], begin: float, seconds: float) -> list[str]:
    marks = [f'<text x="{LEFT - 10}" y="{y + LANE / 2 + 4}" text-anchor="end">{name}</text>'] if name else []
    for span in spans:
        left, right = _x(span.begin - begin, seconds), _x(span.end - begin, seconds)
        if right > left:
            marks.append(
                f'<rect x="{left}" y="{y}" width="{round(max(right - left - 0.6, 0.6), 1)}" height="{LANE}" rx="2" '
                f'fill="{COLOURS[span.lane]}"/>'
            )
    return marks


def _groups(y: float, depth: float, spans: Sequence[Span], begin: float, seconds: float) -> list[str]:
    """Each group on the first line that is free, thin enough for all that were in flight at once."""
    ends: list[float] = []
    placed = []
    for span in sorted(spans, key=lambda one: (one.begin, one.name)):
        line = next((index for index, end in enumerate(ends) if end <= span.begin), len(ends))
        ends[line:] = [span.end, *ends[line + 1 :]]
        placed.append((line, span))
    height = depth / max(len(ends), 1)
    marks = [f'<text x="{LEFT - 10}" y="{y + depth / 2 + 4}" text-anchor="end">generation</text>']
    for line, span in placed:
        left, right = _x(span.begin - begin, seconds), _x(span.end - begin, seconds)
        if right > left:
            marks.append(
                f'<rect x="{left}" y="{round(y + line * height, 1)}" width="{round(max(right - left - 0.6, 0.6), 1)}" '
                f'height="{round(height * 0.8, 2)}" fill="{COLOURS[Lane.GENERATE]}"/>'
            )
    return marks


if __name__ == "__main__":
    sys.exit(main())
