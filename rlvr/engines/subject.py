"""A model that answers a task's problems: everything that a measurement sets up, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from rlvr.config import EngineConfig, ModelConfig, VerifierConfig
from rlvr.engines.base import TrainableEngine
from rlvr.envs.renderer import Renderer
from rlvr.envs.rollout import RolloutRunner
from rlvr.envs.tasks import Task, load_task
from rlvr.errors import ConfigError
from rlvr.registry import resolve
from rlvr.types import JSON, Problem, Sampling
from rlvr.verifiers.runner import Grader, WeightedVerifier

T = TypeVar("T")
_PACKAGES = ("rlvr", "torch", "transformers", "math-verify")
_PROMPTS_CHECKED = 1000


@dataclass(frozen=True, slots=True)
class Subject:
    """Which model answers which task, and how. None means the task's own suggestion."""

    model: str
    task: str
    task_args: Mapping[str, JSON] = field(default_factory=dict)
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    template: str = "auto"
    env: str = "single_turn"
    verifiers: tuple[VerifierConfig, ...] | None = None
    load: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def open_task(self) -> Task:
        """
        Raises:
            TaskError, PluginError: see `load_task`.
        """
        return load_task(self.task, self.task_args)

    def sampling(self, task: Task) -> Sampling:
        """
        Raises:
            ConfigError: a value out of range.
        """
        limits = {"max_tokens": self.max_tokens is None or self.max_tokens >= 1, "temperature": self.temperature >= 0}
        limits |= {"top_p": 0 < self.top_p <= 1, "top_k": self.top_k >= 0, "min_p": 0 <= self.min_p <= 1}
        for name, is_allowed in limits.items():
            if not is_allowed:
                raise ConfigError(f"{name} = {getattr(self, name)} is out of range; see `rlvr eval --help`")
        return Sampling(
            max_tokens=self.max_tokens or task.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            stop=task.stop,
        )


@dataclass(frozen=True, slots=True)
class OpenSubject:
    """A loaded model behind the rollout loop. `notes` are choices that were made for the user, one sentence each."""

    runner: RolloutRunner
    notes: tuple[str, ...]
    provenance: Mapping[str, JSON]  # what decides the results beside model, task and sampling


@asynccontextmanager
async def open_subject(
    subject: Subject, task: Task, problems: Sequence[Problem], sampling: Sampling
) -> AsyncIterator[OpenSubject]:
    """Load the model, start its engine and a grader, and close both at the end. Cheap checks come first.

    Raises:
        ConfigError, PluginError: a verifier, environment, engine or template is wrong, or a prompt and `max_tokens` do
            not fit into the model's context.
        SandboxError: a verifier runs code, and this machine has no sandbox.
        CheckpointError: the model cannot be loaded.
    """
    chosen = subject.verifiers if subject.verifiers is not None else task.verifiers
    if not chosen:
        raise ConfigError(f"task {task.name!r} names no verifier; give one")
    env = resolve("envs", subject.env).target
    make_engine = resolve("engines", subject.engine.name).target
    async with Grader([WeightedVerifier(one.name, one.weight, one.args) for one in chosen]) as grader:
        await asyncio.to_thread(grader.prepare)
        from rlvr.engines.load import load_model

        loaded = load_model(subject.model, subject.load)
        renderer = Renderer(loaded.tokenizer, subject.template, end_ids=loaded.end_ids)
        engine: TrainableEngine = make_engine(
            loaded.model, loaded.tokenizer, max_rows=subject.engine.max_rows, precision=loaded.precision
        )
        try:
            check_context(problems, renderer, sampling.max_tokens, engine.max_context)
            yield OpenSubject(
                runner=RolloutRunner(engine, renderer, env, grader),
                notes=tuple(note for note in (renderer.notice, *task.notes) if note),
                provenance={
                    "checkpoint": loaded.path,
                    "template": renderer.name,
                    "env": subject.env,
                    "grading": grader.provenance(),
                    "engine": subject.engine.name,
                    "precision": loaded.precision,
                    "versions": _versions(),
                },
            )
        finally:
            await engine.close()


def check_context(problems: Sequence[Problem], renderer: Renderer, max_tokens: int, context: int) -> None:
    """Refuse prompts that leave no room for an answer of `max_tokens`; the longest by characters stands for all.

    Raises:
        ConfigError: names the prompt, the limit and the model's context.
    """
    longest = max(problems[:_PROMPTS_CHECKED], key=lambda problem: sum(len(message.content) for message in problem.prompt))
    prompt = len(renderer.prompt_ids(longest.prompt))
    if prompt + max_tokens > context:
        raise ConfigError(
            f"max_tokens = {max_tokens} and a prompt of {prompt} tokens (problem {longest.id}) do not fit into the model's "
            f"context of {context}; set max_tokens to {max(0, context - prompt)} or less, or use another model"
        )


def sampling_json(sampling: Sampling) -> dict[str, JSON]:
    """How completions are drawn, for the record; the seed of a single request is left out."""
    return {name: value for name, value in asdict(sampling).items() if name != "seed"}


def run_to_end(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine from ordinary code, in a notebook too, where an event loop already runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(lambda: asyncio.run(main())).result()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
