from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers.instruction.english import STOP_WORDS, VERBS
from rlvr.verifiers.instruction.text import sentences, tokens, word_tokens, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("one. two", ["one.", "two"]),
        ("Mr. and Mrs. Li left. Dr. Wu came.", ["Mr. and Mrs. Li left.", "Dr. Wu came."]),
        ("It is 5 p.m. The shop is shut.", ["It is 5 p.m.", "The shop is shut."]),
        ("It is 5 p.m. on Monday.", ["It is 5 p.m. on Monday."]),
        ("J. Smith met I. Newton.", ["J. Smith met I. Newton."]),
        ("It costs 3.50 now. 2. item", ["It costs 3.50 now.", "2. item"]),
        ("Wait... what? Well... Then go.", ["Wait... what?", "Well...", "Then go."]),
        ('"Go!" he said. (Why?) Nobody knew.', ['"Go!"', "he said.", "(Why?)", "Nobody knew."]),
        ("He said “go.” She went.", ["He said “go.”", "She went."]),
        ("A title\n\nand text.", ["A title\n\nand text."]),
        ("  spaced.  out  ", ["spaced.", "out"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I can't, she'll; they've", ["I", "ca", "n't", ",", "she", "'ll", ";", "they", "'ve"]),
        ("It's 1,000 (or 3:15).", ["It", "'s", "1,000", "(", "or", "3:15", ")", "."]),
        ("U.S. law. Really...", ["U.S.", "law", ".", "Really", "..."]),
        ("'quoted' words--here", ["'", "quoted", "'", "words", "--", "here"]),
        ("cannot", ["can", "not"]),
        ("a *b* [c]", ["a", "*", "b", "*", "[", "c", "]"]),
    ],
)
def test_tokens_are_those_of_the_treebank(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@given(st.text(alphabet="ab .?!\"')(A1\n…", max_size=200))
def test_sentences_hold_the_whole_text_in_order(text: str) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())


@given(st.text(alphabet="abC'.,:-()*“” ", max_size=120))
def test_tokens_hold_the_whole_text_in_order(text: str) -> None:
    assert "".join(tokens(text)) == "".join(text.split())


def test_words_are_runs_of_letters_and_digits() -> None:
    assert words("don't re-do 3.5_a") == ["don", "t", "re", "do", "3", "5_a"]
    assert word_tokens("Yes , (no) !") == ["Yes", "no"]


def test_verbs_come_in_their_forms() -> None:
    assert {"write", "writing", "wrote", "tried", "tries", "stopped", "planning", "makes", "is"} <= VERBS
    assert not VERBS & {"the", "quickly", "can", "must"}
    assert len(STOP_WORDS) > 150
