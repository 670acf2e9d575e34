"""Text from a model, made safe to show: it may hold terminal commands, reversed or invisible characters."""

from __future__ import annotations

import html
from itertools import chain

_KEPT = "\t\n"
_HIDDEN = chain(
    range(0x7F, 0xA0),  # DEL and C1 controls; 0x9b begins terminal commands
    (0xAD, 0x61C, 0x180E, 0x200B, 0x200E, 0x200F, 0xFEFF),  # invisible; joiners stay, scripts and emoji need them
    range(0x2028, 0x202F),  # line separators and direction overrides
    range(0x2060, 0x2070),  # invisible operators and direction isolates
    range(0xD800, 0xE000),  # lone surrogates cannot be encoded
    range(0xFFF9, 0xFFFC),
    range(0xE0000, 0xE0080),  # tags: whole hidden sentences
)
# Written as escapes, since few fonts have the control pictures.
_VISIBLE = {code: f"\\x{code:02x}" for code in range(0x20) if chr(code) not in _KEPT}
_VISIBLE |= {code: f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}" for code in _HIDDEN}


def printable(text: str) -> str:
    r"""`text` with every control and invisible character shown as an escape; tabs and line breaks stay.

    >>> printable("red \x1b[31m")
    'red \\x1b[31m'
    """
    return text.translate(_VISIBLE)


def printable_html(text: str) -> str:
    """`printable`, and escaped for HTML text and attributes."""
    return html.escape(printable(text), quote=True)
