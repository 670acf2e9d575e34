"""What an algorithm resolves to: its formula with every constant, a line of plain words for each choice, its traps."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from rlvr.config import ShapeConfig, shape_configs
from rlvr.errors import ConfigError
from rlvr.registry import installed, resolve
from rlvr.trainers.algorithms import Algorithm, build
from rlvr.trainers.arguments import checked_arguments, settings_of
from rlvr.trainers.explain.traps import on_policy_multiplier, warnings_for
from rlvr.trainers.shaping.sections import formulas, shapes_in, with_shapes


@dataclass(frozen=True, slots=True)
class Choice:
    """One part of an algorithm: what it is called, what it resolved to, and what that means."""

    part: str
    formula: str
    words: str


@dataclass(frozen=True, slots=True)
class Explanation:
    name: str
    summary: str
    source: str
    objective: str  # J(θ), to be maximised; the loss is -J
    where: tuple[str, ...]  # definitions of what the objective mentions
    choices: tuple[Choice, ...]
    gradient_multiplier: dict[str, float]  # on-policy, for A > 0 and A < 0; 1 is REINFORCE's
    min_group_size: int
    needs_reference: bool
    warnings: tuple[str, ...]
    settings: dict[str, Any]  # the preset's arguments as they are now

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset at its defaults, for a list."""

    name: str
    summary: str
    source: str
    objective: str
    origin: str


def explain(reference: str, arguments: Mapping[str, Any] | None = None, shapes: Sequence[ShapeConfig] = ()) -> Explanation:
    """Resolve a preset with these arguments, and shapes after its own, and say what it computes.

    Raises:
        PluginError: no such preset or shape.
        ConfigError: an argument is unknown or has a wrong value.
    """
    algorithm = with_shapes(build(reference, arguments), shapes)
    preset = resolve("algorithms", reference).target
    summary, source = _documentation(preset)
    return Explanation(
        name=algorithm.name,
        summary=summary,
        source=source,
        objective=_objective(algorithm),
        where=tuple(_definitions(algorithm)),
        choices=tuple(_choices(algorithm)),
        gradient_multiplier={
            "positive_advantage": on_policy_multiplier(algorithm, 1.0),
            "negative_advantage": on_policy_multiplier(algorithm, -1.0),
        },
        min_group_size=algorithm.min_group_size,
        needs_reference=algorithm.needs_reference,
        warnings=tuple(warnings_for(algorithm)),
        settings=settings_of(preset) | checked_arguments(f"algorithm {reference!r}", preset, arguments or {}),
    )


def presets() -> list[Preset]:
    """All installed presets, at their defaults."""
    found = []
    for name, _, origin in installed("algorithms"):
        summary, source = _documentation(resolve("algorithms", name).target)
        found.append(Preset(name, summary, source, _objective(build(name)), origin))
    return found


def parse_settings(words: Iterable[str]) -> dict[str, Any]:
    """`["ratio_max=5.0", "kl=k2"]` as keyword arguments; values are TOML, and bare words are strings.

    Raises:
        ConfigError: a word is not of the form key=value, or a key comes twice.
    """
    settings: dict[str, Any] = {}
    for word in words:
        key, equals, text = (part.strip() for part in word.partition("="))
        if not (equals and key and text):
            raise ConfigError(f"{word!r} is not of the form key=value, e.g. clip_high=0.28")
        if key in settings:
            raise ConfigError(f"{key} is given twice: {settings[key]!r} and {text}")
        settings[key] = _toml_value(text)
    return settings


def shapes_from(settings: dict[str, Any]) -> tuple[ShapeConfig, ...]:
    """The `shapes` among the settings, taken out of them: a name, or a list of names and tables.

    Raises:
        ConfigError: they are not of that form.
    """
    given = settings.pop("shapes", ())
    try:
        return TypeAdapter(tuple[ShapeConfig, ...]).validate_python(shape_configs(given))
    except ValidationError as error:
        raise ConfigError(
            f"shapes = {given!r}; give a name, or a list of names and tables: shapes='[{{name = \"kimi_length\", weight = 0.5}}]'"
        ) from error


def _toml_value(text: str) -> Any:
    if text.lower() in ("none", "null"):  # TOML has no word for it
        return None
    try:
        return tomllib.loads(f"value = {text.lower() if text in ('True', 'False') else text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _documentation(preset: Callable[..., Algorithm]) -> tuple[str, str]:
    text = inspect.getdoc(preset) or ""
    summary, _, source = text.partition("Source:")
    return " ".join(summary.split("\n\n")[0].split()), re.sub(r"\s+", " ", source).strip()


def _objective(algorithm: Algorithm) -> str:
    term = _formula(algorithm.objective)
    if algorithm.correction is not None:
        term = f"wᵢₜ · {term}"
    extra = ""
    if algorithm.needs_reference and not algorithm.kl_in_reward:
        extra += f" − {algorithm.kl_coef:g} KLᵢₜ"
    if algorithm.entropy_coef > 0:
        extra += f" + {algorithm.entropy_coef:g} H(π_θ)ᵢₜ"
    return f"J(θ) = {_formula(algorithm.aggregate)} " + (f"[ {term}{extra} ]" if extra else term)


def _definitions(algorithm: Algorithm) -> Iterable[str]:
    yield _formula(algorithm.advantage)
    if algorithm.needs_policy_logprobs:
        per_token = hasattr(algorithm.advantage, "std_eps")
        span = "KLᵢₜ from each token on" if per_token else "Σₜ KLᵢₜ before the baseline"
        yield f"the reward loses {algorithm.kl_coef:g} · {span}"
    yield from (part.where for part in (algorithm.objective,) if hasattr(part, "where"))
    if algorithm.correction is not None:
        yield f"wᵢₜ = {_formula(algorithm.correction)}, without gradient"
    if algorithm.needs_reference:
        yield f"KLᵢₜ = {algorithm.kl.name} = {algorithm.kl.formula},  d = log π_ref(oᵢₜ) − log π_θ(oᵢₜ)"
    if hasattr(algorithm.shape, "formula"):
        yield from formulas(algorithm.shape)
    yield "i: the R rollouts of the step,  g: the rollouts of one problem,  t: sampled tokens only"


def _choices(algorithm: Algorithm) -> Iterable[Choice]:
    for part in ("advantage", "objective", "aggregate"):
        yield _choice(part, getattr(algorithm, part))
    if not algorithm.needs_reference:
        yield Choice("kl", "kl_coef = 0", "no KL term; no reference model is loaded")
    else:
        place = "taken from the reward" if algorithm.kl_in_reward else "added to each token's loss"
        words = f"{place}; {algorithm.kl.name} is {algorithm.kl.words}"
        yield Choice("kl", f"{algorithm.kl_coef:g} · {algorithm.kl.name}", words)
    if algorithm.entropy_coef > 0:
        yield Choice("entropy", f"{algorithm.entropy_coef:g} · H", "a bonus for an undecided policy, aggregated like the loss")
    else:
        yield Choice("entropy", "entropy_coef = 0", "logged, not rewarded")
    if algorithm.correction is None:
        yield Choice("correction", "off", "the engine's sampling probabilities are taken to be the trainer's")
    else:
        yield _choice("correction", algorithm.correction)
    yield Choice("stale", f"stale = {algorithm.stale.value}", f"{algorithm.stale.words}; only with rollout.max_staleness > 0")
    yield _choice("keep_group", algorithm.keep_group)
    yield from (_choice("shape", shape) for shape in shapes_in(algorithm.shape))
    size = algorithm.min_group_size
    needs = "rollouts are not compared" if size == 1 else "rollouts of one problem are compared with each other"
    yield Choice("group size", f"rollout.group_size ≥ {size}", needs)


def _choice(part: str, value: object) -> Choice:
    return Choice(part, _name(value), str(getattr(value, "words", "a part of your own")))


def _name(value: object) -> str:
    inner = getattr(value, "score", value)  # PerRollout(Normalize(...)) is known by its score
    return repr(inner) if hasattr(inner, "__dataclass_fields__") else str(getattr(inner, "__qualname__", repr(inner)))


def _formula(part: object) -> str:
    return str(getattr(part, "formula", None) or getattr(part, "__qualname__", type(part).__qualname__))
