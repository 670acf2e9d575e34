from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from rlvr.evaluation.printable import printable, printable_html


@given(st.text())
def test_nothing_that_moves_the_cursor_or_hides_is_left(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\t\n" for c in shown)
    shown.encode()  # a lone surrogate would raise


def test_terminal_commands_and_hidden_text_are_shown_as_escapes() -> None:
    assert printable("\x1b]0;title\x07") == "\\x1b]0;title\\x07"
    assert printable("\x9b31m\r") == "\\u009b31m\\x0d"
    assert printable("a\u202eb\u200bc") == "a\\u202eb\\u200bc"
    assert printable("\U000e0041") == "\\U000e0041"


def test_ordinary_text_of_any_script_stays() -> None:
    text = "x² ≤ π\n\tनमस्ते · 数学 · 👩‍🔬"
    assert printable(text) == text


def test_html_is_escaped_too() -> None:
    assert printable_html("<b a='\"'>&\x1b") == "&lt;b a=&#x27;&quot;&#x27;&gt;&amp;\\x1b"
