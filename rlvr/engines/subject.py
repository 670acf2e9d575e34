"""A model that answers a task's problems: everything that a measurement sets up, in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from rlvr.config import EngineConfig, EnvConfig, ModelConfig, VerifierConfig
from rlvr.envs.base import Opening
from rlvr.envs.make import EnvMaker
from rlvr.envs.renderer import Renderer, Tokenizer
from rlvr.envs.rollout import RolloutRunner
from rlvr.envs.tasks import Task, load_task
from rlvr.errors import ConfigError
from rlvr.registry import resolve
from rlvr.types import JSON, Problem, Sampling
from rlvr.verifiers.pool import WorkerPool
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
    env: EnvConfig | str | None = None
    verifiers: tuple[VerifierConfig, ...] | None = None
    load: ModelConfig = field(default_factory=ModelConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def open_task(self) -> Task:
        """
        Raises:
            TaskError, PluginError: see `load_task`.
        """
        return load_task(self.task, self.task_args)

    def env_config(self, task: Task) -> EnvConfig:
        """What the model talks to: as asked for, or as the task suggests."""
        if isinstance(self.env, str):
            return EnvConfig(name=self.env)
        return self.env or task.env or EnvConfig()

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
    tokenizer: Tokenizer | None  # None: a server keeps it
    notes: tuple[str, ...]
    provenance: Mapping[str, JSON]  # what decides the results beside model, task and sampling


@asynccontextmanager
async def open_subject(
    subject: Subject, task: Task, problems: Sequence[Problem], sampling: Sampling
) -> AsyncIterator[OpenSubject]:
    """Load the model, start its engine, its environment and a grader, and close all at the end. Cheap checks come first.

    Raises:
        ConfigError, PluginError: a verifier, environment, tool, engine or template is wrong, or a prompt and `max_tokens` do
            not fit into the model's context.
        CheckpointError: the model cannot be loaded.
        ToolError: a server of tools cannot be reached.
    """
    chosen = subject.verifiers if subject.verifiers is not None else task.verifiers
    if not chosen:
        raise ConfigError(f"task {task.name!r} names no verifier; give one")
    config = subject.env_config(task)
    target = resolve("engines", subject.engine.name).target
    async with AsyncExitStack() as stack:
        grader = await stack.enter_async_context(_grader(target, chosen))
        speaker = _remote(subject, target) if hasattr(target, "chat") else _local(subject, config)
        stack.push_async_callback(speaker.engine.close)
        env = await stack.enter_async_context(speaker.env or EnvMaker(config, speaker.renderer))
        if speaker.renderer is not None:
            check_context(problems, speaker.renderer, sampling.max_tokens, speaker.max_context, env.opening)
        yield OpenSubject(
            runner=RolloutRunner(speaker.engine, speaker.renderer, env, grader, limits=env.limits),
            tokenizer=speaker.renderer.tokenizer if speaker.renderer is not None else None,
            notes=tuple(note for note in (*speaker.notes, *task.notes) if note),
            provenance={
                **speaker.provenance,
                "env": env.provenance(),
                "grading": grader.provenance(),
                "engine": subject.engine.name,
                "versions": _versions(),
            },
        )


@dataclass(frozen=True, slots=True)
class _Speaker:
    """An engine, and what turns conversations into its tokens where it takes tokens."""

    engine: Any
    renderer: Renderer | None
    max_context: int
    notes: tuple[str | None, ...]
    provenance: Mapping[str, JSON]
    env: EnvMaker | None = None


def _grader(target: Any, chosen: Sequence[VerifierConfig]) -> Grader:
    """With its workers on the engine's nodes, if that has some."""
    # Not with `engines.make`, which imports torch: whoever asks a server need not have it.
    verifiers = [WeightedVerifier(one.name, one.weight, one.args) for one in chosen]
    return Grader(verifiers, make_pool=getattr(target, "verifier_pool", WorkerPool))


def _local(subject: Subject, config: EnvConfig) -> _Speaker:
    from rlvr.engines.load import load_model
    from rlvr.engines.make import make_engine, tool_host

    loaded = load_model(subject.model, subject.load)
    renderer = Renderer(loaded.tokenizer, subject.template, end_ids=loaded.end_ids)
    # Its settings are wrong or right before an engine is started.
    env = EnvMaker(config, renderer, make_tools=tool_host(subject.engine))
    engine = make_engine(subject.engine, loaded)
    provenance = {"checkpoint": loaded.path, "template": renderer.name, "precision": loaded.precision}
    return _Speaker(engine, renderer, engine.max_context, (renderer.notice,), provenance, env)


def _remote(subject: Subject, make: Any) -> _Speaker:
    if subject.template != "auto":
        raise ConfigError(
            f"template = {subject.template!r}, but engine {subject.engine.name!r} has a template of its own; use auto"
        )
    engine = make(subject.model, url=subject.engine.url, max_requests=subject.engine.max_rows)
    return _Speaker(engine, None, 0, (), {"checkpoint": subject.model, "template": "the server's"})


def check_context(
    problems: Sequence[Problem], renderer: Renderer, max_tokens: int, context: int, opening: Callable[[Problem], Opening]
) -> None:
    """Refuse prompts that leave no room for an answer of `max_tokens`; the longest by characters stands for all.

    Raises:
        ConfigError: names the prompt, the limit and the model's context.
    """
    longest = max(problems[:_PROMPTS_CHECKED], key=lambda problem: sum(len(message.content) for message in problem.prompt))
    begun = opening(longest)
    prompt = len(renderer.prompt_ids(begun.messages, begun.tools))
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
