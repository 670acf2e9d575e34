"""Every data set of the package `reasoning-gym` as a task and a verifier: `task=reasoning_gym:leg_counting`.

The verifier makes the problem again from its seed and index, so that the package's own `score_answer` sees exactly the entry
that it made, tuples and all. That code runs in a worker process. A few of its scorers hand the answer to `eval` or to sympy's
parser; for these, only answers made of what such an answer can need get there.
"""

from __future__ import annotations

import difflib
import functools
import json
import random
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import Field

from rlvr.config import VerifierConfig
from rlvr.envs.tasks import Draft, Generator, Task
from rlvr.envs.tasks.generated import GeneratedProblems
from rlvr.envs.tasks.spec import PromptSpec
from rlvr.errors import ConfigError, TaskError, VerifierError, boundary
from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import TEXT_RULES, Extract, find_answer
from rlvr.verifiers.numeric import parse_number, same_number

SIZES = {"train": 10_000, "test": 500}
DEFAULT = "chain_sum"
PROMPT = PromptSpec(suffix="Think between <think> and </think>, then write only your answer between <answer> and </answer>.")
MAX_ANSWER_CHARS = 20_000
FULL_SCORE = 0.999999  # scores are floats

_ARRAY = re.compile(r"[\d\s\[\],.-]*")
_LETTERS = re.compile(r"[A-Za-z\d\s\[\],'\"_-]*")
_ARITHMETIC = re.compile(r"(?:[\d\s+\-/().=]|\*(?!\*))*")
# Numbers, single letters and named functions; powers of small numbers alone.
_FORMULA = re.compile(
    r"(?:\d{1,12}(?!\d)|(?<=\d)\.|\.(?=\d)|(?:asin|acos|atan|sinh|cosh|tanh|sin|cos|tan|exp|log|ln|sqrt|pi|[a-zA-Z])(?![a-zA-Z])|[\s+\-/()=]"
    r"|(?:\*\*|\^)\s?(?:\d{1,2}|\(-?\d{1,2}(?:/\d{1,2})?\))(?!\d)(?!\s*(?:\*\*|\^))|\*(?!\*))*"
)
# What reasoning-gym evaluates as Python, and what may get there.
_GUARDED: dict[str, re.Pattern[str]] = {
    "string_insertion": _LETTERS,
    "n_queens": _LETTERS,
    "spiral_matrix": _ARRAY,
    "binary_matrix": _ARRAY,
    "countdown": _ARITHMETIC,
    "puzzle24": _ARITHMETIC,
    "simple_integration": _FORMULA,
    "intermediate_integration": _FORMULA,
    "polynomial_multiplication": _FORMULA,
}
MAX_GUARDED_CHARS = 2_000
# Data sets whose scorer accepts any text (bool("False") is True): the answer must be the gold text.
_BY_TEXT = frozenset({"game_of_life_halting"})
# Data sets without a gold answer of their own keep an example of one in an entry's metadata.
_EXAMPLES = ("example_answer", "possible_answer", "example_correct_answer")
# acre makes all its entries at once, in a second for each thousand; word_ladder refuses more than its words give.
MAX_ENTRIES = {"acre": 1_000, "word_ladder": 500}


class Entries(Generator):
    """`dataset`: its name in reasoning-gym; `config`: what its configuration class takes; `seed` of the problems."""

    dataset: str
    config: dict[str, Any] = {}
    seed: int = Field(default=0, ge=0)

    def draw(self, rng: random.Random) -> Draft | None:
        config = json.dumps(self.config, sort_keys=True)
        index = rng.randrange(len(_dataset(self.dataset, config, self.seed)))
        entry = _entry(self.dataset, config, self.seed, index)
        answer, question = _gold(entry), entry["question"]
        if not answer:
            return None
        origin: dict[str, JSON] = {"dataset": self.dataset, "config": self.config, "seed": self.seed, "index": index}
        return Draft(question, answer, content=question, metadata={"reasoning_gym": origin})

    def gold_response(self, problem: Problem) -> str:
        return f"<answer>{problem.answer}</answer>"


def task(args: Mapping[str, JSON]) -> Task:
    """The task plugin `reasoning_gym`; `args` are `dataset`, `seed`, and settings of the data set's own configuration.

    Without `dataset` it is `chain_sum`, and the package is not imported before problems are asked for.

    Raises:
        TaskError: no such data set, or a wrong setting.
    """
    own = {key: value for key, value in args.items() if key in ("dataset", "seed")}
    config = {key: value for key, value in args.items() if key not in own}
    with boundary(TaskError, f"task reasoning_gym, arguments {dict(args)}"):
        adapter = Entries.model_validate({"dataset": DEFAULT, **own, "config": config})
        description = "Tasks of the package reasoning-gym: write reasoning_gym:NAME for one of them (this is chain_sum)."
        if "dataset" in own:
            description = _describe(adapter)
    name = f"reasoning_gym:{adapter.dataset}" if "dataset" in own else "reasoning_gym"
    return Task(
        name=name,
        description=description,
        folder=Path(__file__).parent,
        args={"seed": adapter.seed, **config},
        verifiers=(VerifierConfig(name="reasoning_gym"),),
        max_tokens=2048,
        stop=(),
        tiny=None,
        variants={},
        adapter=adapter,
        source=GeneratedProblems(name, adapter, PROMPT, SIZES),
    )


def _describe(adapter: Entries) -> str:
    """
    Raises:
        TaskError: no such data set.
    """
    known = dataset_names()
    if adapter.dataset not in known:
        close = difflib.get_close_matches(adapter.dataset, known, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {', '.join(known)}"
        raise TaskError(f"reasoning_gym has no data set {adapter.dataset!r}; {hint}")
    source = _dataset(adapter.dataset, json.dumps(adapter.config, sort_keys=True), adapter.seed)
    return " ".join((source.__doc__ or f"{adapter.dataset} of reasoning-gym").split())


def _warm_up() -> None:
    _package()


@verifier("reasoning_gym", warm_up=_warm_up)
def reasoning_gym(
    problem: Problem,
    rollout: Rollout,
    *,
    extract: Extract = "auto",
    strict: bool = False,
    partial_credit: bool = False,
) -> Verdict:
    """Correct when the data set's own `score_answer` gives full marks. `details["raw"]` is what it gave.

    Many data sets give 0.01 to 0.5 to wrong or unreadable answers, and the default scorer credits any text that holds the
    answer; `partial_credit` passes that on as the score, and is off by default.
    """
    origin = problem.metadata.get("reasoning_gym")
    if not isinstance(origin, Mapping) or not {"dataset", "config", "seed", "index"} <= origin.keys():
        return Verdict.error(
            f"{problem.id} does not come from the task reasoning_gym: its metadata does not say which entry it is"
        )
    name, config = str(origin["dataset"]), json.dumps(origin["config"], sort_keys=True)
    found = find_answer(rollout.response, extract, strict=strict, auto=TEXT_RULES)
    if found.text is None:
        return Verdict.unparsed(found.reason)
    shown = found.text[:MAX_ANSWER_CHARS]
    if found.is_ambiguous or len(found.text) > MAX_ANSWER_CHARS:
        return Verdict.incorrect(shown, found.reason or f"the answer has {len(found.text)} characters")
    entry = _entry(name, config, origin["seed"], origin["index"])
    if _gold(entry) != problem.answer:
        return Verdict.error(f"{problem.id}: reasoning-gym now makes another problem of its seed; the versions differ")
    if _is_same_number(_gold(entry), found.text):
        return Verdict.correct(shown, raw=1.0)
    spellings = [text for text in dict.fromkeys((found.text, _plainly(found.text))) if _is_harmless(name, text)]
    if not spellings:
        return Verdict.unparsed(f"an answer to {name} cannot need what this one holds")
    scorer = _dataset(name, config, origin["seed"])
    scores, complaint = [], ""
    for text in spellings:
        try:
            scores.append(_score(name, scorer, text, entry))
        except VerifierError as error:
            complaint = str(error)[:500]
    if not scores:
        _score(name, scorer, _gold(entry), entry)  # a scorer that can read the gold answer stumbled over the model's text
        return Verdict.unparsed(complaint)
    raw = max(scores)
    if raw >= FULL_SCORE:
        return Verdict.correct(shown, raw=raw)
    if partial_credit and raw > 0:
        return Verdict.partial(raw, shown, f"{name} gives it {raw:g}", raw=raw)
    return Verdict.incorrect(shown, f"{name} gives it {raw:g}", raw=raw)


def dataset_names() -> list[str]:
    """The data sets that the installed package has, sorted.

    Raises:
        ConfigError: it is not installed.
    """
    return sorted(_package().factory.DATASETS)


def _plainly(text: str) -> str:
    """The answer without its typography: dollar signs, a command, another minus, a full stop at the end."""
    plain = text.replace("\\displaystyle", " ").replace("−", "-").strip().removeprefix("$").removesuffix("$")
    return plain.strip().removesuffix(".")


def _is_same_number(gold: str, answer: str) -> bool:
    """Whether both are numbers and equal. Digits with a leading zero are a text, not a number."""
    whole = gold.lstrip("-").partition(".")[0]
    expected = None if whole.startswith("0") and len(whole) > 1 else parse_number(gold)
    found = None if expected is None else parse_number(answer)
    return expected is not None and found is not None and same_number(expected, found)


def _score(name: str, scorer: Any, answer: str, entry: Mapping[str, Any]) -> float:
    """
    Raises:
        VerifierError: the scorer raised.
    """
    if name in _BY_TEXT:
        return float(answer.strip().casefold() == _gold(entry).casefold())
    with boundary(VerifierError, f"the scorer of {name} cannot read the answer"):
        return float(scorer.score_answer(answer=answer, entry=entry))


def _gold(entry: Mapping[str, Any]) -> str:
    """The gold answer as text, or an example of a right one; empty where there is neither."""
    if entry["answer"] is not None:
        return str(entry["answer"])
    found = next((entry["metadata"][key] for key in _EXAMPLES if entry["metadata"].get(key)), "")
    return found if isinstance(found, str) else json.dumps(found)


def _is_harmless(name: str, answer: str) -> bool:
    pattern = _GUARDED.get(name)
    return pattern is None or (len(answer) <= MAX_GUARDED_CHARS and pattern.fullmatch(answer) is not None)


@functools.lru_cache(maxsize=32)
def _dataset(name: str, config: str, seed: int) -> Any:
    settings: dict[str, Any] = json.loads(config)
    accepted = {field.name for field in fields(_package().factory.DATASETS[name][1])}
    size = MAX_ENTRIES.get(name, sum(SIZES.values()) * 10)
    own = {key: value for key, value in {"seed": seed, "size": size}.items() if key in accepted}
    return _package().create_dataset(name, **{**own, **settings})


@functools.lru_cache(maxsize=4096)
def _entry(name: str, config: str, seed: int, index: int) -> Any:
    return _dataset(name, config, seed)[index]


def _package() -> Any:
    try:
        import reasoning_gym
        import reasoning_gym.factory
    except ModuleNotFoundError as error:
        raise ConfigError("the tasks of reasoning-gym need the package: pip install 'rlvr[reasoning-gym]'") from error
    return reasoning_gym
