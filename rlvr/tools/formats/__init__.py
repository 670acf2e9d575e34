"""The formats that a recipe can name, and the one that a chat template speaks."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from rlvr.errors import ConfigError
from rlvr.tools.base import ToolSpec
from rlvr.tools.formats.blocks import CODE, FENCED
from rlvr.tools.formats.hermes import Hermes
from rlvr.tools.formats.llama import Llama
from rlvr.tools.formats.mistral import Mistral
from rlvr.tools.formats.python_calls import PythonCalls
from rlvr.tools.parse import ToolFormat

# In the order in which a template is asked for their markers: the rarer ones first.
FORMATS: dict[str, ToolFormat] = {one.name: one for one in (Mistral(), PythonCalls(), Hermes(), Llama(), CODE, FENCED)}


def format_named(name: str) -> ToolFormat:
    """
    Raises:
        ConfigError: there is no such format.
    """
    if name not in FORMATS:
        close = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"env.format = {name!r}; {hint}known: auto, {', '.join(FORMATS)}")
    return FORMATS[name]


def format_for(chat_template: str | None, specs: Sequence[ToolSpec]) -> ToolFormat:
    """The format that a template speaks; where it speaks none, JSON calls, or code blocks for a base model's only tool."""
    if not chat_template:
        return CODE if len(specs) == 1 and specs[0].text_argument is not None else FORMATS["hermes"]
    return next((one for one in FORMATS.values() if one.marker and one.marker in chat_template), FORMATS["hermes"])
