"""Training problems that say what an evaluation asks, or what another training problem said.

Texts are compared as words and numbers, without case and punctuation. Eight words in a row that stand in more than a tenth of the
training problems (and in ten or more) are the task's wording, and are taken out of every text first: what two puzzles of one
generator have in common is not a leak. A text of which nothing is left is compared as it stands.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlvr.envs.tasks import Task, load_task
from rlvr.errors import ConfigError
from rlvr.types import Problem

NGRAM = 8  # words
COVERED = 0.5  # of a held-out problem's words
SIMILAR = 0.8  # Jaccard similarity of the n-grams of two training problems
_WORDING_SHARE, _WORDING_LEAST = 0.1, 10
_NOT_HELD_OUT = ("train", "all")
_PART = re.compile(r"\d+(?:\.\d+)?|[^\W\d_]+|[^\w\s.,;:!?'\"`]")


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training problem and a held-out one of `source` that share an n-gram.

    `covered`: share of the held-out problem's words that stand in n-grams of the training problem. `passage`: the longest.
    """

    problem: str
    source: str
    held_out: str
    covered: float
    passage: str

    @property
    def is_leak(self) -> bool:
        return self.covered > COVERED


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A training problem whose n-grams are those of an earlier one; `similarity` is Jaccard's, 1 for equal texts."""

    problem: str
    earlier: str
    similarity: float
    has_same_answer: bool


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What was found among `problems` training problems, held against `held_out` problems by source."""

    problems: int
    held_out: Mapping[str, int]
    overlaps: tuple[Overlap, ...]  # most covered first
    duplicates: tuple[Duplicate, ...]

    @property
    def leaks(self) -> tuple[Overlap, ...]:
        return tuple(overlap for overlap in self.overlaps if overlap.is_leak)

    @property
    def removed(self) -> frozenset[str]:
        """Ids to leave out: leaks, and duplicates with the same answer. Another answer may be another problem."""
        again = {duplicate.problem for duplicate in self.duplicates if duplicate.has_same_answer}
        return frozenset(again | {overlap.problem for overlap in self.leaks})

    def summary(self, name: str) -> list[str]:
        """What was found among the problems `name`: a line for each source, and one for duplicates."""
        lines = []
        for source, size in self.held_out.items():
            leaks = [overlap for overlap in self.leaks if overlap.source == source]
            leaking, leaked = {leak.problem for leak in leaks}, {leak.held_out for leak in leaks}
            pairs = sum(overlap.source == source for overlap in self.overlaps)
            lines.append(
                f"{name} against {source}: {len(leaking)} of {self.problems:,} problems leak {len(leaked)} of {size:,} held-out "
                f"ones (more than half of their words in common 8-grams); {pairs} pairs share an 8-gram"
            )
        equal = sum(duplicate.has_same_answer for duplicate in self.duplicates)
        lines.append(
            f"{name}: {len(self.duplicates)} near-duplicates of earlier problems, {equal} of them with the same answer; "
            f"to leave out: {len(self.removed)}"
        )
        return lines


def clean(problems: Sequence[Problem], held_out: Mapping[str, Sequence[Problem]], n: int = NGRAM) -> Cleaning:
    """Look for leaks and near-duplicates.

    A training problem leaks a held-out one when more than half of the latter's words stand in n-grams that both share; every
    pair that shares one is listed. Texts shorter than n words are compared as wholes.

    Source: Tulu 3 (arXiv 2411.15124), section 3.2: 8-grams, and one training instance that covers more than half of a test
    instance's tokens. Leaving out the common wording is ours.

    Raises:
        ConfigError: n below 1, or no problems.
    """
    if n < 1:
        raise ConfigError(f"n = {n}, but an n-gram has at least 1 word")
    if not problems:
        raise ConfigError("there are no problems to compare")
    texts = [words(problem) for problem in problems]
    wording = _wording(texts, n)
    texts = [_without(text, wording, n) for text in texts]
    overlaps: list[Overlap] = []
    for source, others in held_out.items():
        held = [_without(words(other), wording, n) for other in others]
        overlaps += _overlaps(problems, texts, source, others, held, n)
    overlaps.sort(key=lambda overlap: (-overlap.covered, overlap.problem, overlap.source, overlap.held_out))
    counts = {source: len(others) for source, others in held_out.items()}
    return Cleaning(len(problems), counts, tuple(overlaps), tuple(_duplicates(problems, texts, n)))


def held_out_problems(task: Task, split: str, against: Sequence[str] = ()) -> dict[str, Sequence[Problem]]:
    """Problems by `TASK:SPLIT`: those of the named tasks, or of the task itself; without a split, of all that are held out.

    Raises:
        ConfigError: there is nothing to hold against.
        TaskError, PluginError: a task or split is not there.
    """
    found: dict[str, Sequence[Problem]] = {}
    if not against:
        found = {f"{task.name}:{one}": task.problems(one) for one in task.splits if one not in (split, *_NOT_HELD_OUT)}
    for text in against:
        name, _, wanted = (text, "", "") if Path(text).exists() else text.partition(":")
        other_task = load_task(name)
        splits = [wanted] if wanted else [one for one in other_task.splits if one not in _NOT_HELD_OUT]
        found |= {f"{other_task.name}:{one}": other_task.problems(one) for one in splits}
    if not found:
        named = ", ".join(against) or task.name
        raise ConfigError(f"{named} has no held-out split to compare {task.name}:{split} with; name one: --against TASK:SPLIT")
    return found


def words(problem: Problem) -> tuple[str, ...]:
    """What is compared of a prompt. Symbols belong to the word after them, so that they tell formulas apart and eight words
    are eight words or numbers.

    >>> from rlvr.types import Message
    >>> words(Problem("p", (Message("user", "Is 3.5 + X^(2) > 4, then?"),), None))
    ('is', '3.5', '+x', '^(2', ')>4', 'then')
    """
    text = "\n".join(message.content for message in problem.prompt)
    found: list[str] = []
    symbols = ""
    for part in _PART.findall(text.lower()):
        if part[0].isalnum():
            found.append(symbols + part)
            symbols = ""
        else:
            symbols += part
    return (*found, symbols) if symbols else tuple(found)


def _grams(text: Sequence[str], n: int) -> list[int]:
    """One number for every n words in a row; a shorter text is one gram."""
    return [_number(text[start : start + n]) for start in range(max(1, len(text) - n + 1))]


def _number(gram: Sequence[str]) -> int:
    return int.from_bytes(hashlib.blake2b(" ".join(gram).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _wording(texts: Iterable[Sequence[str]], n: int) -> frozenset[int]:
    seen: Counter[int] = Counter()
    size = 0
    for text in texts:
        seen.update(set(_grams(text, n)))
        size += 1
    least = max(_WORDING_LEAST, math.floor(_WORDING_SHARE * size) + 1)
    return frozenset(gram for gram, count in seen.items() if count >= least)


def _without(text: tuple[str, ...], wording: frozenset[int], n: int) -> tuple[str, ...]:
    if not wording:
        return text
    common = set(_covered(text, [start for start, gram in enumerate(_grams(text, n)) if gram in wording], n))
    return tuple(word for place, word in enumerate(text) if place not in common) or text


def _overlaps(
    problems: Sequence[Problem],
    texts: Sequence[Sequence[str]],
    source: str,
    others: Sequence[Problem],
    held: Sequence[Sequence[str]],
    n: int,
) -> list[Overlap]:
    places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)  # gram -> (held-out problem, first word)
    for index, text in enumerate(held):
        for start, gram in enumerate(_grams(text, n)):
            places[gram].append((index, start))
    found = []
    for problem, text in zip(problems, texts, strict=True):
        shared: defaultdict[int, list[int]] = defaultdict(list)
        for gram in dict.fromkeys(_grams(text, n)):
            for index, start in places.get(gram, ()):
                shared[index].append(start)
        for index, starts in shared.items():
            covered = _covered(held[index], starts, n)
            passage = " ".join(held[index][place] for place in _longest_run(covered))
            share = len(covered) / max(1, len(held[index]))
            found.append(Overlap(problem.id, source, others[index].id, share, passage))
    return found


def _covered(text: Sequence[str], starts: Iterable[int], n: int) -> list[int]:
    """The places of all words in the n-grams that begin at `starts`, in order."""
    return sorted({place for start in starts for place in range(start, min(start + n, len(text)))})


def _longest_run(places: Sequence[int]) -> list[int]:
    best: list[int] = []
    run: list[int] = []
    for place in places:
        run = [*run, place] if run and place == run[-1] + 1 else [place]
        best = run if len(run) > len(best) else best
    return best


def _duplicates(problems: Sequence[Problem], texts: Sequence[Sequence[str]], n: int) -> Iterable[Duplicate]:
    """Each problem that is like an earlier one, with the most similar of those.

    Two sets with a Jaccard similarity of t share one of the |set| - ceil(t |set|) + 1 rarest members of either, so only
    those are looked up. Source: Bayardo, Ma, Srikant 2007, "Scaling up all pairs similarity search".
    """
    sets = [frozenset(_grams(text, n)) for text in texts]
    frequency = Counter(gram for grams in sets for gram in grams)
    index: defaultdict[int, list[int]] = defaultdict(list)
    for place, grams in enumerate(sets):
        rarest = sorted(grams, key=lambda gram: (frequency[gram], gram))
        prefix = rarest[: len(grams) - math.ceil(SIMILAR * len(grams)) + 1]
        candidates = dict.fromkeys(other for gram in prefix for other in index[gram])
        scored = [(len(grams & sets[other]) / len(grams | sets[other]), -other) for other in candidates]
        similarity, other = max(scored, default=(0.0, 0))
        if similarity >= SIMILAR:
            earlier = problems[-other]
            yield Duplicate(problems[place].id, earlier.id, similarity, earlier.answer == problems[place].answer)
        for gram in prefix:
            index[gram].append(place)
