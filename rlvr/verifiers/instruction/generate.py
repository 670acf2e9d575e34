"""Draw constraints for training: mutually compatible, put in words, each set with a response that follows it.

Source: training on verifiable instructions as in IFBench, arXiv 2507.02833 (IF-RLVR); only IFEval's kinds are drawn, so that
IFBench stays a test of kinds never trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rlvr.errors import ConfigError
from rlvr.types import JSON
from rlvr.verifiers.instruction.base import Bound, bind
from rlvr.verifiers.instruction.english import word_list
from rlvr.verifiers.instruction.language import NAMES
from rlvr.verifiers.instruction.registry import constraints
from rlvr.verifiers.instruction.satisfy import LANGUAGES, satisfy

MAX_ATTEMPTS = 200

_KEYWORDS = word_list(
    """
    anchor apple autumn basket blanket bottle bridge butter candle canvas captain carpet castle clock cloud coffee compass
    copper cottage crystal desert diamond doctor engine feather forest garden garlic giant ginger guitar hammer honey island
    jacket journey jungle ladder lantern lemon letter library magnet marble market meadow mirror monkey mountain museum needle
    ocean orchard painter parrot pebble pepper pillow planet pocket puzzle rabbit ribbon rocket saddle sailor shadow shelter
    silver statue summer sunset teapot thunder ticket tunnel turtle velvet violin wagon walnut whistle window winter wizard
    """
)
_END_PHRASES = (
    "Is there anything else I can help with?",
    "Any other questions?",
    "That is all for now.",
    "Thank you for reading.",
)
_RARE_LETTERS = "jkqvxz"

# At most one of each group.
_EXCLUSIVE: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "language:response_language",
            "change_case:english_capital",
            "change_case:english_lowercase",
            "change_case:capital_word_frequency",
        }
    ),
    frozenset(
        {
            "detectable_format:json_format",
            "detectable_format:constrained_response",
            "detectable_format:multiple_sections",
            "length_constraints:number_paragraphs",
            "length_constraints:nth_paragraph_first_word",
            "combination:two_responses",
        }
    ),
)
# Pairs that contradict each other, or that no reader would ask for at once.
_APART: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "detectable_format:json_format",
        frozenset({"startend:quotation", "startend:end_checker", "detectable_content:postscript", "detectable_format:title"})
        | frozenset({"detectable_format:number_bullet_lists", "detectable_format:number_highlighted_sections"}),
    ),
    (
        "language:response_language",
        frozenset(
            {"keywords:existence", "keywords:frequency", "keywords:letter_frequency", "detectable_format:constrained_response"}
        )
        | frozenset(
            {"startend:end_checker", "length_constraints:nth_paragraph_first_word", "detectable_format:multiple_sections"}
        ),
    ),
    (
        "change_case:english_lowercase",
        frozenset(
            {"detectable_format:multiple_sections", "detectable_format:constrained_response", "detectable_content:postscript"}
        ),
    ),
    ("change_case:english_capital", frozenset({"detectable_format:multiple_sections", "detectable_format:constrained_response"})),
    ("combination:two_responses", frozenset({"detectable_content:postscript", "startend:end_checker"})),
    ("detectable_content:postscript", frozenset({"startend:end_checker"})),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Constraints that can be followed together, and a response that does (only as the proof of it)."""

    constraints: tuple[Bound, ...]
    witness: str

    @property
    def text(self) -> str:
        """The constraints as sentences for a prompt, each on a line of its own."""
        return "\n".join(spoken(bound) for bound in self.constraints)

    def answer(self) -> dict[str, JSON]:
        """What the verifier reads as the gold answer."""
        return {"constraints": [bound.to_json() for bound in self.constraints]}


class _Words:
    """Keywords of one sample, each given out once."""

    def __init__(self, rng: random.Random) -> None:
        self._left = rng.sample(_KEYWORDS, len(_KEYWORDS))

    def take(self, count: int) -> list[str]:
        return [self._left.pop() for _ in range(count)]


_Draw = Callable[[random.Random, _Words], Mapping[str, JSON]]


def _relation(rng: random.Random) -> str:
    return rng.choice(("less than", "at least"))


def _length(name: str, at_least: tuple[int, int], less_than: tuple[int, int]) -> _Draw:
    def draw(rng: random.Random, words: _Words) -> Mapping[str, JSON]:
        relation = _relation(rng)
        low, high = at_least if relation == "at least" else less_than
        return {name: rng.randint(low, high), "relation": relation}

    return draw


def _letter(rng: random.Random, words: _Words) -> Mapping[str, JSON]:
    relation = _relation(rng)
    letters = _RARE_LETTERS if relation == "less than" else "abcdefghilmnoprstuwy"
    return {"letter": rng.choice(letters), "let_frequency": rng.randint(2, 12), "let_relation": relation}


def _nth_paragraph(rng: random.Random, words: _Words) -> Mapping[str, JSON]:
    count = rng.randint(2, 6)
    return {"num_paragraphs": count, "nth_paragraph": rng.randint(1, count), "first_word": words.take(1)[0]}


def _count(name: str, low: int, high: int) -> _Draw:
    return lambda rng, words: {name: rng.randint(low, high)}


def _nothing(rng: random.Random, words: _Words) -> Mapping[str, JSON]:
    return {}


_DRAWS: dict[str, _Draw] = {
    "keywords:existence": lambda rng, words: {"keywords": words.take(rng.randint(1, 3))},
    "keywords:frequency": lambda rng, words: {
        "keyword": words.take(1)[0],
        "frequency": rng.randint(2, 5),
        "relation": _relation(rng),
    },
    "keywords:forbidden_words": lambda rng, words: {"forbidden_words": words.take(rng.randint(1, 3))},
    "keywords:letter_frequency": _letter,
    "language:response_language": lambda rng, words: {"language": rng.choice(LANGUAGES)},
    "length_constraints:number_sentences": _length("num_sentences", (2, 12), (4, 15)),
    "length_constraints:number_words": _length("num_words", (30, 250), (60, 400)),
    "length_constraints:number_paragraphs": _count("num_paragraphs", 2, 6),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": _count("num_placeholders", 1, 5),
    "detectable_content:postscript": lambda rng, words: {"postscript_marker": rng.choice(("P.S.", "P.P.S"))},
    "detectable_format:number_bullet_lists": _count("num_bullets", 2, 8),
    "detectable_format:constrained_response": _nothing,
    "detectable_format:number_highlighted_sections": _count("num_highlights", 1, 5),
    "detectable_format:multiple_sections": lambda rng, words: {
        "section_spliter": rng.choice(("Section", "SECTION", "Part")),
        "num_sections": rng.randint(2, 6),
    },
    "detectable_format:json_format": _nothing,
    "detectable_format:title": _nothing,
    "combination:two_responses": _nothing,
    "startend:end_checker": lambda rng, words: {"end_phrase": rng.choice(_END_PHRASES)},
    "startend:quotation": _nothing,
    "change_case:capital_word_frequency": lambda rng, words: {
        "capital_frequency": rng.randint(2, 10),
        "capital_relation": _relation(rng),
    },
    "change_case:english_capital": _nothing,
    "change_case:english_lowercase": _nothing,
    "punctuation:no_comma": _nothing,
}
KINDS = tuple(_DRAWS)


def sample_constraints(rng: random.Random, count: int, *, kinds: Sequence[str] = KINDS) -> Sample:
    """Draw `count` constraints of different kinds that can be followed together. Depends on `rng` and the arguments alone.

    Every set is checked: `Sample.witness` follows it, or it is drawn anew.

    Raises:
        ConfigError: an unknown kind, or no set of so many compatible ones was found.

    >>> sample = sample_constraints(random.Random(3), 2)
    >>> all(bound.follows(sample.witness) for bound in sample.constraints)
    True
    """
    for kind in kinds:
        if kind not in _DRAWS:
            raise ConfigError(f"constraints of kind {kind!r} cannot be drawn; allowed: {', '.join(KINDS)}")
    if count < 1:
        raise ConfigError(f"count = {count}; at least one constraint is needed")
    for _ in range(MAX_ATTEMPTS):
        chosen = _compatible(rng, count, kinds)
        words = _Words(rng)
        bound = tuple(bind(constraints(), kind, _DRAWS[kind](rng, words)) for kind in chosen)
        witness = satisfy(bound) if len(bound) == count else None
        if witness is not None:
            return Sample(bound, witness)
    raise ConfigError(f"no {count} compatible constraints were found among {len(kinds)} kinds in {MAX_ATTEMPTS} draws")


def are_compatible(left: str, right: str) -> bool:
    """Whether two kinds may be asked for at once."""
    if left == right or any({left, right} <= group for group in _EXCLUSIVE):
        return False
    return not any((left == kind and right in others) or (right == kind and left in others) for kind, others in _APART)


def spoken(bound: Bound) -> str:
    """The constraint as a sentence for a prompt; a language is called by its name."""
    if bound.constraint.id == "language:response_language":
        return f"Your ENTIRE response should be in {NAMES[str(bound.kwargs['language'])]}, no other language is allowed."
    return bound.text


def _compatible(rng: random.Random, count: int, kinds: Sequence[str]) -> list[str]:
    """Up to `count` kinds, taken in random order where they go with those taken before."""
    chosen: list[str] = []
    for kind in rng.sample(list(kinds), len(kinds)):
        if len(chosen) < count and all(are_compatible(kind, other) for other in chosen):
            chosen.append(kind)
    return chosen
