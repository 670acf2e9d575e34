"""Recipes: one short TOML file, `key=value` overrides, every key checked at the door.

A recipe is `RunConfig` (reinforcement learning) or `SftConfig` (supervised warm start); `kind` says which.
"""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from rlvr.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VerifierConfig(_Section):
    """One verifier of a weighted sum. The first of a list is the one that evaluation counts."""

    name: str  # plugin name or reference
    weight: float = 1.0
    args: dict[str, Any] = {}


class RolloutConfig(_Section):
    """How rollouts are drawn."""

    group_size: Positive = 16  # rollouts of one problem
    problems_per_step: Positive = 16
    max_tokens: Positive | None = None  # new tokens of a rollout; None: the task's suggestion
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: NonNegative = 0
    min_p: Share = 0.0
    stop: tuple[str, ...] | None = None  # None: the task's suggestion
    probe: NonNegative = 0  # rollouts of a group that come first; where they all score the same, the others are not drawn; 0: off
    max_refills: NonNegative = 3  # when groups are dropped: so many times `problems_per_step` more are tried at most
    oversample: Annotated[float, Field(ge=1.0)] | Literal["auto"] = "auto"  # prompts for each group that is needed
    surplus_steps: NonNegative = 1  # for how many steps a good group that was not needed may wait; 0: it is thrown away
    max_staleness: NonNegative = 0  # updates that may overtake a rollout; above 0 generation and update run at the same time
    patience: Positive = 20  # steps in a row without any signal after which the run gives up


class LimitsConfig(_Section):
    """What a rollout with tools may take. Which limit ended it is the rollout's stop reason."""

    calls: Positive = 16  # tool calls of a rollout
    turns: Positive = 32  # requests to the engine
    output_tokens: Positive = 1024  # of a call's output; the rest is cut, and said so
    call_s: Annotated[float, Field(gt=0.0)] = 20.0  # of a call, which is then stopped
    wall_s: Annotated[float, Field(gt=0.0)] = 600.0  # of a rollout outside the engine


class EnvConfig(_Section):
    """What the model talks to: nothing, tools, or an environment that answers."""

    name: str | None = None  # plugin name or reference; unset: `tool_use` where there are tools, else `single_turn`
    tools: tuple[str | dict[str, Any], ...] = ()  # names, or tables of a name and settings
    format: str = "auto"  # of tool calls: auto (what the chat template speaks), hermes, llama, mistral, python, code, fenced
    args: dict[str, Any] = {}  # settings of the environment
    limits: LimitsConfig = LimitsConfig()

    @field_validator("tools", mode="before")
    @classmethod
    def _one_tool_may_stand_alone(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | dict) else value

    @property
    def plugin(self) -> str:
        return self.name or ("tool_use" if self.tools else "single_turn")


class EngineConfig(_Section):
    """Which engine generates, and how much it may hold at once."""

    name: str = "native"
    max_rows: Positive = 256  # sequences decoded together
    url: str | None = None  # of a server: `openai` (unset: OPENAI_BASE_URL), `vllm` (several with commas; unset: it is started)
    args: dict[str, Any] = {}  # settings of the engine


class ParallelConfig(BaseModel):
    """How several processes share the model, and the arguments of that way: `ddp`, `fsdp` or `deepspeed`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = "ddp"

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ModelConfig(_Section):
    """How the model is loaded and kept."""

    precision: Precision = "auto"  # bf16 keeps fp32 master weights; auto: bf16 where the GPU has it
    device: str = "auto"
    gradient_checkpointing: bool = False
    attention: str = "auto"  # transformers' attn_implementation; auto: what it prefers for the model
    lora_rank: NonNegative = 0  # 0: full fine-tuning
    lora_alpha: Annotated[float, Field(gt=0.0)] = 32.0
    lora_targets: str = "all-linear"
    parallel: ParallelConfig = ParallelConfig()

    @field_validator("parallel", mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class AlgorithmConfig(BaseModel):
    """An algorithm preset and its keyword arguments, as `rlvr explain NAME` lists them."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = "grpo"

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class ShapeConfig(BaseModel):
    """One step from the verifiers' weighted sum to the reward that is trained on, and its keyword arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str  # plugin name or reference

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class FilterConfig(ShapeConfig):
    """Which groups an update leaves out, and the filter's arguments: zero_variance, too_easy, too_hard, too_long, unscored."""


class CurriculumConfig(BaseModel):
    """Which problems come next: a curriculum plugin and its keyword arguments."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = "uniform"

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def shape_configs(value: Any) -> Any:
    """`kimi_length` or a list of names and tables, as the tables that `[[shapes]]` writes."""
    values = value if isinstance(value, list | tuple) else (value,)
    return tuple({"name": item} if isinstance(item, str) else item for item in values)


class OptimConfig(_Section):
    """AdamW and the shape of one update."""

    lr: Annotated[float, Field(gt=0.0)] | Literal["auto"] = "auto"  # auto: 1e-6 * sqrt(6e9 / parameters)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegative = 0
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0.0)] = 1e-8
    grad_clip: Annotated[float, Field(ge=0.0)] = 1.0  # 0: off
    epochs: Positive = 1  # passes over one step's rollouts
    minibatches: Positive = 1  # optimizer steps in one pass
    tokens_per_microbatch: Positive = 8192  # real tokens in one forward and backward
    reference_every: NonNegative = 0  # steps between refreshes of the KL reference; 0: frozen


class EvalConfig(_Section):
    """Held-out measurement before and after training, and in between where `every` is set."""

    problems: NonNegative = 200  # 0: no evaluation
    n: Positive = 8  # samples of one problem
    k: tuple[Positive, ...] = (1, 4, 8)
    every: NonNegative = 0  # steps; 0: only before and after
    patience: NonNegative = 0  # measurements without a gain that can be claimed, after which training ends; 0: never
    split: str = "test"
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    greedy: bool = True  # one greedy answer a problem beside the samples
    variants: bool = False  # also measure the harder variants that the task names

    @model_validator(mode="after")
    def _k_fits_n(self) -> EvalConfig:
        if not self.k:
            raise ValueError("eval.k = [], but pass@k needs one k or more; eval.problems = 0 turns evaluation off")
        if max(self.k) > self.n:
            raise ValueError(f"eval.k = {list(self.k)}, but eval.n = {self.n}: pass@k needs n >= k")
        if self.patience and not (self.every and self.problems):
            raise ValueError(f"eval.patience = {self.patience}, but nothing is measured on the way; set eval.every")
        return self


class DataConfig(_Section):
    """Which problems are trained on."""

    pass_rates: str | None = None  # a file written by `rlvr filter`
    keep: tuple[Share, Share] = (0.2, 0.8)  # window of pass rates, when `pass_rates` is set
    problems: Positive | None = None  # the first so many problems of the split; endless tasks: a finite set
    split: str = "train"
    half_life: Annotated[float, Field(gt=0.0)] = 50.0  # steps after which a sample of a problem's solve rate counts half

    @model_validator(mode="after")
    def _window_is_ordered(self) -> DataConfig:
        if self.keep[0] > self.keep[1]:
            raise ValueError(f"data.keep = {list(self.keep)}, but the lower pass rate comes first")
        return self


class CheckpointConfig(_Section):
    """When the run is saved, and how much of it is kept."""

    every: NonNegative = 50  # steps; the last step is always saved
    keep: Positive = 2  # whole checkpoints kept on disk


class _Recipe(_Section):
    model: str  # folder or hub name; "new:tiny" builds a small random model for the task
    task: str
    task_args: dict[str, Any] = {}
    template: str = "auto"  # auto | chat | plain | path of a Jinja file
    out: str | None = None  # run folder; None: runs/<task>-<kind>-<seed>
    seed: int = 0
    load: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    wandb: str | None = None  # project name; needs the extra `wandb`
    threads: NonNegative = 0  # CPU threads; 0: all cores


class RunConfig(_Recipe):
    """A reinforcement-learning run."""

    kind: Literal["rl"] = "rl"
    steps: Positive = 200
    env: EnvConfig | None = None  # None: the task's
    verifiers: tuple[VerifierConfig, ...] | None = None  # None: the task's
    max_unscored: Share = 0.02  # share of rollouts without a verdict at which the run stops
    rollout: RolloutConfig = RolloutConfig()
    engine: EngineConfig = EngineConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    shapes: Annotated[tuple[ShapeConfig, ...], BeforeValidator(shape_configs)] = ()  # in order, after the algorithm's own
    filters: Annotated[tuple[FilterConfig, ...], BeforeValidator(shape_configs)] = ()  # groups that an update leaves out
    curriculum: CurriculumConfig = CurriculumConfig()
    data: DataConfig = DataConfig()
    eval: EvalConfig = EvalConfig()
    health: dict[str, Any] = {}  # what is watched for: thresholds by rule, `stop`, `second` (a stricter verifier)

    @field_validator("env", "curriculum", mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class SftConfig(_Recipe):
    """A supervised warm start on the task's own demonstrations or on a file of prompt/response pairs."""

    kind: Literal["sft"] = "sft"
    steps: Positive = 1000
    data: str | None = None  # JSONL or Parquet with `prompt` and `response`; None: the task's demonstrations
    sequences_per_step: Positive = 64
    max_tokens: Positive | None = None  # longer examples are left out and counted


Recipe = RunConfig | SftConfig
UNIONS = (typing.Union, types.UnionType)


def load_recipe(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe and apply `key=value` overrides (dotted keys, TOML values; bare words are strings).

    Raises:
        ConfigError: unreadable file, unknown key (with the closest known one) or value out of range.
    """
    if isinstance(source, Mapping):
        data: dict[str, Any] = _copy(source)
        origin = "recipe"
    else:
        origin = str(source)
        try:
            data = tomllib.loads(Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"recipe {origin} cannot be read: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"recipe {origin} is not valid TOML: {error}") from error
    # A new algorithm drops the arguments of the one it replaces, so it is chosen before its own arguments are set.
    for override in sorted(
        overrides, key=lambda text: not text.startswith(("algorithm=", "algorithm.name=", "env=", "curriculum="))
    ):
        _apply(data, override)
    kind = data.get("kind", "rl")
    schemas: dict[Any, type[RunConfig] | type[SftConfig]] = {"rl": RunConfig, "sft": SftConfig}
    if not isinstance(kind, str) or kind not in schemas:
        raise ConfigError(f"{origin}: kind = {kind!r}, but a recipe is of kind 'rl' or 'sft'")
    try:
        return schemas[kind].model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {_explain(error, schemas[kind])}") from error


def env_config(settings: Iterable[str]) -> EnvConfig:
    """`[env]` from words: `key=value` as in overrides (`tools=calculator`, `limits.calls=4`), or the name of an environment.

    Raises:
        ConfigError: an unknown key or a value out of range.
    """
    data: dict[str, Any] = {}
    for setting in settings:
        _apply(data, setting if "=" in setting else f"name={setting}")
    try:
        return EnvConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"env: {_explain(error, EnvConfig)}") from error


def leaves(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all settings of a recipe."""
    found: list[str] = []
    for name, info in schema.model_fields.items():
        nested = _sections_in(info.annotation)
        found += [leaf for t in nested for leaf in leaves(t, f"{prefix}{name}.")] if nested else [prefix + name]
    return found


def to_toml(value: Mapping[str, Any]) -> str:
    """Write a resolved config; None values are left out, for TOML has none."""
    return "\n".join(_toml_body(value, prefix="")).strip() + "\n"


def _toml_body(table: Mapping[str, Any], prefix: str) -> list[str]:
    given = {key: value for key, value in table.items() if value is not None}
    lines = [f"{_toml_key(key)} = {_toml_value(value)}" for key, value in given.items() if not _is_table(value)]
    for key, value in given.items():
        name = prefix + _toml_key(key)
        if isinstance(value, Mapping) and value:
            lines += ["", f"[{name}]", *_toml_body(value, prefix=f"{name}.")]
        elif _is_table(value):
            for row in value:
                lines += ["", f"[[{name}]]", *_toml_body(row, prefix=f"{name}.")]
    return lines


def _is_table(value: Any) -> bool:
    is_rows = isinstance(value, (list, tuple)) and all(isinstance(row, Mapping) for row in value)
    return isinstance(value, (Mapping, list, tuple)) and bool(value) and (isinstance(value, Mapping) or is_rows)


def _toml_key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _toml_value(key)


def _toml_value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return repr(int(value))
        case float():
            return repr(float(value))
        case str():
            escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
            return '"' + "".join(escapes.get(c, c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}") for c in value) + '"'
        case list() | tuple():
            return "[" + ", ".join(_toml_value(item) for item in value) + "]"
        case Mapping():
            return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items() if v is not None) + "}"
    raise ConfigError(f"{value!r} of type {type(value).__name__} cannot be written as TOML")


def _copy(source: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in source.items()}


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override {override!r} is not of the form key=value, e.g. optim.lr=1e-5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if text.lstrip().startswith(("[", "{", '"', "'")):
            raise ConfigError(f"override {override!r}: {text} is not a TOML value: {error}") from error
        value = text  # bare words: model=Qwen/Qwen3-0.6B
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        nested = data.setdefault(parent, {})
        if not isinstance(nested, dict):
            raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
        data = nested
    # A new algorithm must not inherit the arguments of the one it replaces.
    if leaf in ("algorithm", "env", "curriculum") and not parents and isinstance(value, str):
        value = {"name": value}
    if (parents, leaf) == (["algorithm"], "name") and data.get("name") != value:
        data.clear()
    data[leaf] = value


def _explain(error: ValidationError, schema: type[BaseModel]) -> str:
    lines: list[str] = []
    wrong: dict[str, list[str]] = {}  # "key = value" -> what it should be, one entry for each member of a union
    for problem in error.errors():
        path, message = _path(problem["loc"], schema), str(problem["msg"])
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {path!r}{_hint(path, schema)}")
        elif problem["type"] == "missing":
            lines.append(f"{path} is missing" + ("" if "." in path else f"; set it in the recipe or as {path}=..."))
        elif problem["type"] == "value_error":
            lines.append(message.removeprefix("Value error, "))
        elif problem["type"] == "model_type":
            lines.append(f"{path} = {problem['input']!r}, but {path} is a section; set its keys, as in {path}.KEY=VALUE")
        else:
            wrong.setdefault(f"{path} = {problem['input']!r}", []).append(message.removeprefix("Input should be "))
    lines += [f"{assignment}, but it should be: {' or '.join(allowed)}" for assignment, allowed in wrong.items()]
    return "; ".join(lines)


def _path(location: tuple[int | str, ...], schema: type[BaseModel]) -> str:
    """The dotted key of an error, without the names that pydantic gives to the members of a union."""
    parts: list[str] = []
    section: type[BaseModel] | None = schema
    for part in location:
        parts.append(str(part))
        field = section.model_fields.get(str(part)) if section else None
        section = None
        if field is not None:
            members = [kind for kind in typing.get_args(field.annotation) if kind is not types.NoneType]
            if typing.get_origin(field.annotation) in UNIONS and len(members) > 1:
                break
            section = next(iter(_sections_in(field.annotation)), None)
    return ".".join(parts)


def _hint(path: str, schema: type[BaseModel]) -> str:
    """What was probably meant: the same name in another section, the same key with a typo, or the section's keys."""
    section, _, name = path.rpartition(".")
    known = leaves(schema)
    same_name = [leaf for leaf in known if leaf.rpartition(".")[2] == name]
    siblings = [leaf.rpartition(".")[2] for leaf in known if leaf.rpartition(".")[0] == section]
    candidates = siblings if section else list(dict.fromkeys(leaf.partition(".")[0] for leaf in known))
    close = same_name or [path.removesuffix(name) + match for match in difflib.get_close_matches(name, candidates, n=1)]
    if close:
        return f"; did you mean {' or '.join(map(repr, close[:3]))}?"
    return f"; {section or 'a recipe'} has {', '.join(candidates)}" if candidates else ""


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    return [kind for kind in _types_in(annotation) if issubclass(kind, BaseModel)]


def _types_in(annotation: Any) -> list[type]:
    origin = typing.get_origin(annotation)
    if origin in (*UNIONS, Annotated):
        return [kind for part in typing.get_args(annotation) for kind in _types_in(part)]
    return [annotation] if origin is None and isinstance(annotation, type) else []
