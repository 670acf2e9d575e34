"""How much time tools cost beside their own: rollouts against their critical path, and our overhead for one call.

    python benchmarks/tool_rollouts.py
    python benchmarks/tool_rollouts.py --rollouts 256 --tool-s 0.1

A scripted engine answers at once, and every call of the tool takes `--tool-s` seconds; 64 rollouts make 1 to 5 calls each. No
rollout can end before its own calls are done, so the rollout with the most calls is the critical path: 5 x 0.5 s. The goals:
wall time within 10 % of it, and less than 2 ms of our own for each call (reading it, checking its arguments, running it, cutting
and cleaning its output, rendering the next prompt), measured with a tool that returns at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.config import EnvConfig
from rlvr.envs.make import EnvMaker
from rlvr.envs.renderer import Renderer
from rlvr.envs.rollout import RolloutRunner
from rlvr.registry import resolve
from rlvr.tools.base import Scope, ToolSpec
from rlvr.types import Completion, FinishReason, Message, Problem, Rollout, Sampling, Stop, Verdict

TOKENIZER_TEXTS = ["<tool_call> {name: wait, arguments: seconds} </tool_call> user assistant system tool"]
AT_ONCE: list[int] = []  # how many calls ran whenever one began
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Wait:
    """A tool that takes `seconds` and gives a page of text. `log` counts the calls at the same time."""

    is_ordered = False

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running = 0

    @property
    def spec(self) -> ToolSpec:
        return ToolSpec("wait", "Waits.", {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})

    async def call(self, arguments: Mapping[str, Any], scope: Scope) -> str:
        if self._seconds:
            self._running += 1
            AT_ONCE.append(self._running)
            await asyncio.sleep(self._seconds)
            self._running -= 1
        return f"result {arguments['n']}: " + "lorem ipsum dolor sit amet " * 20


class Scripted:
    """Asks for as many calls as the problem says, one a turn, then answers. Counts requests that wait at the same time."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens = {}
        self.requests = 0
        for text in (*(f'<tool_call>{{"name": "wait", "arguments": {{"n": {n}}}}}</tool_call>' for n in range(10)), "done"):
            self._tokens[text] = tuple(tokenizer.encode(text + "<|im_end|>", add_special_tokens=False))
        self._end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        self.requests += 1
        await asyncio.sleep(0)
        turns = (list(prompt_ids).count(self._end) - 1) // 2
        wanted = int(self._tokenizer.decode(list(prompt_ids[:40])).partition("calls: ")[2][:1])
        text = "done" if turns >= wanted else f'<tool_call>{{"name": "wait", "arguments": {{"n": {turns}}}}}</tool_call>'
        tokens = self._tokens[text]
        return Completion(tokens, (-1.0,) * len(tokens), FinishReason.STOP)


class Ungraded:
    async def grade(self, rollout: Rollout) -> None:
        rollout.verdicts = {"none": Verdict.correct()}
        rollout.reward = 1.0


@dataclass(frozen=True, slots=True)
class Measured:
    wall_s: float
    cpu_s: float
    calls: int
    rollouts: int
    most_at_once: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--tool-s", type=float, default=0.5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    tokenizer = chat_tokenizer()
    runs = [asyncio.run(measure(tokenizer, args.rollouts, args.tool_s)) for _ in range(args.repeats)]
    wall = min(runs, key=lambda run: run.wall_s)
    critical = 5 * args.tool_s
    quick = least(tokenizer, args.rollouts, args.repeats)
    empty = least(tokenizer, args.rollouts, args.repeats, calls=0)
    overhead_ms = 1000 * (quick.cpu_s - empty.cpu_s) / quick.calls
    found = {
        "rollouts": wall.rollouts,
        "calls": wall.calls,
        "critical_path_s": critical,
        "wall_s": wall.wall_s,
        "ratio": wall.wall_s / critical,
        "calls_at_once": wall.most_at_once,
        "one_after_the_other_s": wall.calls * args.tool_s,
        "overhead_ms_per_call": overhead_ms,
    }
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{wall.rollouts} rollouts, {wall.calls} calls of {args.tool_s:g} s, up to {wall.most_at_once} at the same time")
        print(f"  critical path        {critical:8.3f} s   (one after the other: {found['one_after_the_other_s']:.0f} s)")
        print(f"  wall time            {wall.wall_s:8.3f} s   ratio {found['ratio']:.3f}   goal < 1.1")
        print(f"  our own time a call  {overhead_ms:8.3f} ms  goal < 2")
    return 0 if found["ratio"] < 1.1 and overhead_ms < 2 else 1


def least(tokenizer: Any, rollouts: int, repeats: int, calls: int | None = None) -> Measured:
    """The cheapest of several runs with a tool that takes no time, by CPU time: other processes are not our overhead."""
    return min((asyncio.run(measure(tokenizer, rollouts, 0.0, calls)) for _ in range(repeats)), key=lambda run: run.cpu_s)


async def measure(tokenizer: Any, rollouts: int, tool_s: float, calls: int | None = None) -> Measured:
    """Rollouts with 1 to 5 calls each, or `calls`, and how long they took together."""
    renderer = Renderer(tokenizer)
    engine = Scripted(tokenizer)
    at_once = resolve("tools", f"{__file__}:AT_ONCE").target  # a plugin named by its path is a module of its own
    at_once.clear()
    tool = {"name": f"{__file__}:Wait", "seconds": tool_s}
    config = EnvConfig(tools=(tool,), args={"describe": False})
    problems = [
        Problem(str(index), (Message("user", f"calls: {index % 5 + 1 if calls is None else calls}"),), "")
        for index in range(rollouts)
    ]
    async with EnvMaker(config, renderer) as env:
        runner = RolloutRunner(engine, renderer, env, Ungraded(), limits=env.limits)
        started, cpu = time.perf_counter(), time.process_time()
        done = await asyncio.gather(*(runner.run(problem, 0, Sampling(max_tokens=10_000), "benchmark") for problem in problems))
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert all(rollout.stop is Stop.STOP for rollout in done), [rollout.error for rollout in done][:3]
    return Measured(wall, cpu, sum(len(rollout.calls) for rollout in done), rollouts, max(at_once, default=0))


def chat_tokenizer() -> Any:
    """A byte-level BPE with a chat template, so that rendering costs what it costs."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    base.train_from_iterator(TOKENIZER_TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    base.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, eos_token="<|im_end|>", clean_up_tokenization_spaces=False)
    tokenizer.chat_template = CHATML
    return tokenizer


if __name__ == "__main__":
    raise SystemExit(main())
