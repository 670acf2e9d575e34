"""`task.toml`, checked key by key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlvr.config import EnvConfig, VerifierConfig
from rlvr.errors import TaskError

Positive = Annotated[int, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSpec(_Section):
    """Text around every problem: `system` is a message of its own, `suffix` follows the problem after an empty line."""

    system: str = ""
    suffix: str = ""


class HubSplit(_Section):
    """Where the rows of a split lie on the Hugging Face hub."""

    hub: str  # repository, e.g. openai/gsm8k
    config: str | None = None
    split: str
    label: str | None = None  # in the ids of rows without one of their own; None: the split

    @property
    def name(self) -> str:
        return self.label or self.split


class TinyModel(_Section):
    """A tiny model that can learn the task on a CPU, with a tokenizer of single characters and whole tags."""

    alphabet: str
    tags: tuple[str, ...] = ()
    hidden: Positive
    layers: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    intermediate: Positive
    context: Positive = 256  # tokens of prompt and response together


class TaskSpec(_Section):
    """The whole file. A generated task has `sizes`, a task with data has `splits`."""

    description: str
    verifiers: Annotated[tuple[VerifierConfig, ...], Field(min_length=1)]
    max_tokens: Positive
    stop: tuple[str, ...] = ()
    env: EnvConfig | None = None  # what the model talks to where the recipe does not say
    prompt: PromptSpec = PromptSpec()
    args: dict[str, Any] = {}
    sizes: dict[str, Positive] = {}  # problems of each split when no limit is given
    splits: dict[str, tuple[HubSplit, ...]] = {}
    local: str | None = None  # file or folder name inside RLVR_DATA; None: the task's name
    tiny: TinyModel | None = None
    variants: dict[str, dict[str, Any]] = {}  # name -> arguments of the same task made harder, to be reported beside it


def read_spec(path: Path) -> TaskSpec:
    """Read a `task.toml`.

    Raises:
        TaskError: unreadable, not TOML, an unknown key or a wrong value.
    """
    try:
        return TaskSpec.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise TaskError(f"{path} cannot be read: {error.strerror or error}") from error
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"{path} is not valid TOML: {error}") from error
    except ValidationError as error:
        raise TaskError(f"{path}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """One line for all that pydantic found: key, value, what is allowed."""
    found = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        match item["type"]:
            case "extra_forbidden":
                found.append(f"unknown key {key!r}")
            case "missing":
                found.append(f"{key} is missing")
            case "value_error":
                found.append(item["msg"].removeprefix("Value error, "))
            case _:
                found.append(f"{key} = {item['input']!r}: {item['msg']}".removeprefix(" = "))
    return "; ".join(found)
