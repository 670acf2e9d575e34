"""Write the parts of the guides that come from the code; `--check` only says whether they are up to date.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from rlvr import config
from rlvr.cli.main import VERBS
from rlvr.registry import names, resolve
from rlvr.trainers.shaping.sections import build_shape
from rlvr.trainers.sizing.devices import machine_named
from rlvr.trainers.sizing.estimate import Subject, estimate_run
from rlvr.trainers.sizing.shape import ModelShape
from rlvr.verifiers.instruction.registry import constraints

HERE = Path(__file__).parent
PART = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def recipe_keys() -> str:
    """A table for each section of a recipe: key, type, default, meaning."""
    common = set(config._Recipe.model_fields)
    parts = [_table("Every recipe", config._Recipe, "", common)]
    parts.append(_table('`kind = "rl"`', config.RunConfig, "", set(config.RunConfig.model_fields) - common))
    parts.append(_table('`kind = "sft"`', config.SftConfig, "", set(config.SftConfig.model_fields) - common))
    for owner in (config.RunConfig, config._Recipe):
        for name, info in owner.model_fields.items():
            for section in config._sections_in(info.annotation):
                if owner is config._Recipe or name not in common:
                    parts += _section_tables(name, section)
    parts.append(_table(f"`[[verifiers]]`: {_first_line(config.VerifierConfig)}", config.VerifierConfig, "", None))
    parts.append(_table(f"`[[shapes]]`: {_first_line(config.ShapeConfig)}", config.ShapeConfig, "", None))
    parts.append(_table(f"`[[filters]]`: {_first_line(config.FilterConfig)}", config.FilterConfig, "", None))
    total = len({*config.leaves(config.RunConfig), *config.leaves(config.SftConfig)})
    return f"{total} keys in all.\n\n" + "\n\n".join(parts)


def _section_tables(name: str, section: type[BaseModel]) -> list[str]:
    """The table of a section, then those of the sections in it."""
    parts = [_table(f"`[{name}]`: {_first_line(section)}", section, f"{name}.", set(section.model_fields))]
    for inner, info in section.model_fields.items():
        for nested in config._sections_in(info.annotation):
            parts += _section_tables(f"{name}.{inner}", nested)
    return parts


def presets() -> str:
    """The keyword arguments of every algorithm preset."""
    lines = ["| preset | arguments and defaults |", "|---|---|"]
    for name in names("algorithms"):
        signature = inspect.signature(resolve("algorithms", name).target)
        arguments = [f"`{p.name}={_toml(p.default)}`" for p in signature.parameters.values()]
        lines.append(f"| `{name}` | {', '.join(arguments)} |")
    return "\n".join(lines)


def shapes() -> str:
    """Every shape that a recipe can name: its arguments, and its formula at their defaults."""
    lines = ["| shape | arguments and defaults | formula | |", "|---|---|---|---|"]
    for name in names("shapes"):
        shape: Any = build_shape(name)
        parameters = inspect.signature(resolve("shapes", name).target).parameters.values()
        arguments = ", ".join(f"`{p.name}={_toml(p.default)}`" for p in parameters)
        lines.append(f"| `{name}` | {arguments} | {_cell(shape.formula)} | {_cell(shape.words)} |")
    return "\n".join(lines)


def instruction_constraints() -> str:
    """Every constraint: its arguments and when it is followed; a dagger marks a fixed defect of the reference."""
    lines = ["| id | arguments | followed when |", "|---|---|---|"]
    for constraint in constraints().values():
        arguments = ", ".join(f"`{name}`" for name in constraint.parameters)
        lines.append(f"| `{constraint.id}`{' †' if constraint.fixed else ''} | {arguments} | {_cell(constraint.meaning)} |")
    return "\n".join(lines)


def instruction_defects() -> str:
    """The reference's defects that ours does not have."""
    found = [f"- `{constraint.id}`: {_cell(constraint.fixed)}" for constraint in constraints().values() if constraint.fixed]
    return f"{len(found)} constraints.\n\n" + "\n".join(found)


def command_line() -> str:
    """Every verb with its arguments, as `rlvr VERB --help` has them."""
    parts = []
    for verb in VERBS:
        module: Any = importlib.import_module(f"rlvr.cli.{verb}")
        parser = argparse.ArgumentParser(prog=f"rlvr {verb}", description=module.HELP)
        module.add_arguments(parser)
        parts.append(f"## {verb}\n\n{_cell(module.HELP)}\n\n" + "\n\n".join(_command_tables(parser)))
    return "\n\n".join(parts)


def scale() -> str:
    """What `rlvr train --dry-run` estimates for the recipes in examples/scale."""
    lines = [
        "| recipe | model | devices | update, GB | generation, GB | a step, s |",
        "|---|---|---|---|---|---|",
    ]
    for recipe, model, machines in _AT_SCALE:
        for machine in machines:
            settings: Any = config.load_recipe(HERE.parent / "examples" / "scale" / recipe)
            shape = _SHAPES[model]
            adapter = settings.load.lora_rank * shape.layers * _adapter_width(shape)
            subject = Subject(shape, adapter, adapter, prompt=256, has_reference=False, scoring_passes=0)
            found = estimate_run(settings, subject, machine_named(machine))
            fits = "" if found.fits else " (does not fit)"
            generation = f"{found.memory.generation / 1e9:.0f}" if found.work.is_native else "elsewhere"
            assert found.time is not None
            seconds = f"{found.time.total:.0f}" if found.work.is_native else f"{found.time.total:.0f} and generation"
            cells = (f"`{recipe}`", model, f"{machine}{fits}", f"{found.memory.update / 1e9:.0f}", generation, seconds)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _adapter_width(shape: ModelShape) -> int:
    """Inputs and outputs of a layer's seven matrices."""
    attention = 2 * (shape.hidden + shape.query_width) + 2 * (shape.hidden + shape.kv_width)
    return attention + 3 * (shape.hidden + shape.intermediate)


# Source: config.json of the models.
_SHAPES = {
    "Qwen2.5-1.5B": ModelShape(1536, 8960, 28, 12, 2, 128, 151_936, has_query_key_norm=False, is_tied=True, has_bias=True),
    "Qwen2.5-7B": ModelShape(3584, 18944, 28, 28, 4, 128, 152_064, has_query_key_norm=False, is_tied=False, has_bias=True),
}
_AT_SCALE = (
    ("one-gpu.toml", "Qwen2.5-1.5B", ("rtx-4090", "a100-80gb", "h200")),
    ("eight-gpus.toml", "Qwen2.5-7B", ("8xa100-40gb", "8xa100-80gb", "8xh100-80gb", "16xh100-80gb")),
    ("adapter-with-servers.toml", "Qwen2.5-7B", ("a100-80gb", "h100-80gb")),
)


def _command_tables(parser: argparse.ArgumentParser) -> list[str]:
    """The table of a command, then those of its subcommands."""
    rows, inner = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                inner += [f"`rlvr {parser.prog.split()[1]} {name}`", *_command_tables(command)]
        elif not isinstance(action, argparse._HelpAction) and action.help is not argparse.SUPPRESS:
            rows.append(f"| {_usage(action)} | {_cell((action.help or '').replace('%%', '%'))} |")
    return (["\n".join(["| argument | |", "|---|---|", *rows])] if rows else []) + inner


def _usage(action: argparse.Action) -> str:
    """How an argument is written: `-n N, --samples N`, `{list,show}`, `[task]`."""
    name = (
        action.metavar if isinstance(action.metavar, str) else action.dest if not action.option_strings else action.dest.upper()
    )
    value = f"{{{','.join(map(str, action.choices))}}}" if action.choices and action.metavar is None else name
    several = {"*": f"[{value} ...]", "+": f"{value} [{value} ...]", "?": f"[{value}]", 0: ""}
    shown = several.get(action.nargs, value) if action.nargs is not None else value
    ways = [f"{option} {shown}".strip() for option in action.option_strings] or [shown]
    return ", ".join(f"`{way}`".replace("|", "\\|") for way in ways)


PARTS: dict[str, Callable[[], str]] = {
    "recipe keys": recipe_keys,
    "command line": command_line,
    "presets": presets,
    "scale": scale,
    "shapes": shapes,
    "instruction constraints": instruction_constraints,
    "instruction defects": instruction_defects,
}


def _cell(text: str) -> str:
    """Text for a cell of a table: outside of code, a `<` would begin a tag."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


def _table(title: str, schema: type[BaseModel], prefix: str, only: set[str] | None) -> str:
    comments = _comments(schema)
    rows = ["| key | type | default | |", "|---|---|---|---|"]
    for name, info in schema.model_fields.items():
        if (only is None or name in only) and not config._sections_in(info.annotation):
            default = "required" if info.is_required() else "unset" if info.default is None else f"`{_toml(info.default)}`"
            rows.append(f"| `{prefix}{name}` | {_type(schema, name)} | {default} | {comments.get(name, '')} |")
    return f"### {title}\n\n" + "\n".join(rows)


def _toml(value: Any) -> str:
    return "unset" if value is None else config._toml_value(value)


def _type(schema: type[BaseModel], name: str) -> str:
    """The type as JSON Schema has it, in words."""
    field = schema.model_json_schema()["properties"][name]
    kinds = [_kind(option) for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    return " or ".join(kinds)


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = " ".join(f"{sign} {schema[key]:g}" for key, sign in limits.items() if key in schema)
    word = {"object": "table", "array": "list"}.get(schema.get("type", ""), schema.get("type", "table"))
    return f"{word} {bounds}".strip()


def _comments(schema: type[BaseModel]) -> dict[str, str]:
    """Field -> the comment behind it in the source, of the class and of those that it inherits from."""
    found: dict[str, str] = {}
    for owner in reversed(schema.__mro__):
        if issubclass(owner, BaseModel) and owner.__module__ == config.__name__:
            source = textwrap.dedent(inspect.getsource(owner))
            for token in tokenize.generate_tokens(io.StringIO(source).readline):
                field = re.match(r"\s*(\w+):", token.line)
                if token.type == tokenize.COMMENT and field:
                    found[field[1]] = _cell(token.string.lstrip("# ")).replace("None:", "unset:")
    return found


def _first_line(schema: type[BaseModel]) -> str:
    return inspect.cleandoc(schema.__doc__ or schema.__name__).splitlines()[0].rstrip(".")


def rendered(text: str) -> str:
    """The page with its generated parts written anew."""
    return PART.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}\n{match[3]}", text)


def main(arguments: list[str]) -> int:
    stale = []
    for page in sorted(HERE.glob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = rendered(old)
        if new != old:
            stale.append(page.name)
            if "--check" not in arguments:
                page.write_text(new, encoding="utf-8")
    if stale:
        print(f"{'out of date' if '--check' in arguments else 'rewritten'}: {', '.join(stale)}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
