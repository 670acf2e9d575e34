from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.tools.output import clean, shown


class Words:
    """A token for each word and each line break."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [0] * len(text.replace("\n", " \n ").split(" "))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[31;1mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x1b[2J\x1b[Hb", "ab"),
        ("bell\x07 null\x00 back\x08 del\x7f c1\x9b31m", "bell null back del c1"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("half \ud83d pair", "half \ufffd pair"),
        ("naïve 中文 🎉", "naïve 中文 🎉"),
    ],
)
def test_terminal_commands_and_control_characters_are_removed(raw: str, text: str) -> None:
    assert clean(raw) == text


def test_bytes_that_are_no_text_are_shown_as_replacements() -> None:
    assert shown(b"\xff\xfeok \x1b[1m!", 100).text == "��ok !"


@pytest.mark.parametrize(
    ("raw", "text"), [(42, "42"), ({"a": [1, None]}, '{"a": [1, null]}'), ([], "[]"), (None, "null"), ({1, 2}, "{1, 2}")]
)
def test_values_are_shown_as_json(raw: object, text: str) -> None:
    assert shown(raw, 100).text == text


def test_long_output_keeps_its_beginning_and_end_and_says_what_is_missing() -> None:
    text = " ".join(str(number) for number in range(1000))
    seen = shown(text, 60, Words())
    assert seen.is_truncated
    assert len(Words().encode(seen.text)) <= 60
    assert seen.text.startswith("0 1 2 3")
    assert seen.text.endswith("998 999")
    assert "characters left out" in seen.text
    assert not shown(text, 1000, Words()).is_truncated


@pytest.mark.parametrize("raw", ["x" * 100_000_000, b"y" * 100_000_000], ids=["text", "bytes"])
def test_a_hundred_megabytes_become_a_few_tokens(raw: str | bytes) -> None:
    seen = shown(raw, 50)
    assert seen.is_truncated
    assert len(seen.text) < 200
    assert "99,999," in seen.text


@given(st.text(max_size=3000), st.integers(16, 200))
def test_no_output_has_more_tokens_than_the_limit(text: str, limit: int) -> None:
    assert len(Words().encode(shown(text, limit, Words()).text)) <= limit
