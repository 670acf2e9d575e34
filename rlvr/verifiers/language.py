"""`language`: how much of the reasoning is written in the language that was asked for; `detect` says which language a text is in.

Source: DeepSeek-R1 (arXiv 2501.12948, section 2.3.2): the language consistency reward is the share of target-language words in
the chain of thought. The paper does not say what a word is, nor how its language is found; both are said here.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rlvr.errors import ConfigError
from rlvr.types import JSON, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import split_thinking
from rlvr.verifiers.prose import without_code_and_math

UNDETERMINED = "und"
MAX_DETECT_CHARS = 20_000
MAX_READ_CHARS = 200_000
MAX_WORD_LETTERS = 60
CLEARLY = 0.6  # below this confidence a window of text is not held against the model
WINDOW_LETTERS = 40  # shorter texts are often taken for the wrong language

Part: TypeAlias = Literal["thinking", "answer", "response"]

_SENTENCE_END = re.compile(r"[.!?;:\n。！？；：…।؟]+")

# Detected languages that count as the one asked for: dialects, creoles and neighbours that share most of their spelling.
_CLOSE: dict[str, frozenset[str]] = {
    "en": frozenset({"en", "pcm"}),
    "zh": frozenset({"zh", "yue", "wuu"}),
    "ar": frozenset({"ar", "arz", "ary"}),
    "no": frozenset({"no", "nn", "da"}),
    "da": frozenset({"da", "no", "nn"}),
    "id": frozenset({"id", "ms"}),
    "ms": frozenset({"ms", "id"}),
    "hr": frozenset({"hr", "bs", "sr"}),
    "bs": frozenset({"bs", "hr", "sr"}),
    "sr": frozenset({"sr", "bs", "hr"}),
    "es": frozenset({"es", "gl", "an", "ext"}),
    "pt": frozenset({"pt", "gl"}),
    "de": frozenset({"de", "lb"}),
}
_KANA = frozenset({"HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"})
# Scripts by the first word of a character's Unicode name; a language that is not here is written in Latin letters.
_SCRIPTS: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        ("ru", "uk", "bg", "be", "mk", "mn", "kk", "ky", "tg", "tt", "ba"),
        frozenset({"CYRILLIC"}),
    ),
    **dict.fromkeys(("ar", "fa", "ur", "ps", "ug", "arz", "ary", "sdh"), frozenset({"ARABIC"})),
    **dict.fromkeys(("hi", "mr", "ne", "sa", "gom"), frozenset({"DEVANAGARI"})),
    **dict.fromkeys(("bn", "as"), frozenset({"BENGALI"})),
    **dict.fromkeys(("zh", "yue", "wuu"), frozenset({"CJK"})),
    "sr": frozenset({"CYRILLIC", "LATIN"}),
    "ja": _KANA | {"CJK"},
    "ko": frozenset({"HANGUL"}),
    "el": frozenset({"GREEK"}),
    "he": frozenset({"HEBREW"}),
    "th": frozenset({"THAI"}),
    "lo": frozenset({"LAO"}),
    "km": frozenset({"KHMER"}),
    "my": frozenset({"MYANMAR"}),
    "ka": frozenset({"GEORGIAN"}),
    "hy": frozenset({"ARMENIAN"}),
    "am": frozenset({"ETHIOPIC"}),
    "gu": frozenset({"GUJARATI"}),
    "kn": frozenset({"KANNADA"}),
    "ml": frozenset({"MALAYALAM"}),
    "or": frozenset({"ORIYA"}),
    "pa": frozenset({"GURMUKHI"}),
    "si": frozenset({"SINHALA"}),
    "ta": frozenset({"TAMIL"}),
    "te": frozenset({"TELUGU"}),
}
_LATIN = frozenset({"LATIN"})
_UNSPACED = _KANA | {"CJK", "THAI", "LAO", "KHMER", "MYANMAR"}
# Scripts that only one of the detector's languages uses need no detector; Japanese shares its characters with Chinese.
_OWN_SCRIPT = frozenset(name for name, scripts in _SCRIPTS.items() if list(_SCRIPTS.values()).count(scripts) == 1) - {"ja"}

_lock = threading.Lock()  # guards the loading of the model; the loaded model is only ever read
_identifier: Any = None


@dataclass(frozen=True, slots=True)
class Detection:
    """A language (ISO 639 code; "und" for a text without letters) and the detector's confidence in it, in [0, 1]."""

    language: str
    confidence: float


def detect(text: str) -> Detection:
    """The language of `text`: the same for the same text in every process and thread. Reads the first 20,000 characters.

    >>> detect("Nous devons trouver la valeur.").language
    'fr'

    Raises:
        ConfigError: the detector is not installed.
    """
    text = text[:MAX_DETECT_CHARS]
    if not any(char.isalpha() for char in text):
        return Detection(UNDETERMINED, 0.0)
    language, confidence = load_detector().classify(text)
    return Detection(str(language), round(float(confidence), 6))


def known_languages() -> frozenset[str]:
    """The codes that `detect` can answer with."""
    return frozenset(load_detector().labels)


def load_detector() -> Any:
    """The loaded py3langid model, shared by all threads of the process. Takes about half a second the first time.

    Raises:
        ConfigError: the detector is not installed.
    """
    global _identifier
    if _identifier is not None:
        return _identifier
    with _lock:
        if _identifier is None:
            try:
                from py3langid.langid import MODEL_FILE, LanguageIdentifier
            except ModuleNotFoundError as error:
                raise ConfigError("language detection needs py3langid: pip install 'rlvr[language]'") from error
            _identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    return _identifier


def _warm_up() -> None:
    load_detector()


# Isolated for its cost: about a microsecond for each character.
@verifier("language", grades="form", warm_up=_warm_up)
def language(
    problem: Problem, rollout: Rollout, *, language: str = "auto", part: Part = "thinking", threshold: float = 1.0
) -> Verdict:
    """Score: the share of words of the reasoning that are in the wanted language; code and mathematics are left out.

    `language` is an ISO 639 code; "auto" takes `problem.metadata["language"]`, else the language of the prompt. `part` is what
    is read: the thinking (the whole response where no thinking is marked), the answer after it, or both. A share of
    `threshold` or more is correct. A word in another script is in another language; the rest is judged in windows of about
    one sentence, and a window counts against the model only where the detector is sure. In scripts without spaces each
    character counts as a word. A text without words is unparsed.

    Source: DeepSeek-R1, arXiv 2501.12948, section 2.3.2.
    """
    wanted = _wanted(problem, language)
    if wanted is None:
        return Verdict.error(f"{problem.id} names no language in its metadata and has no prompt; set language = 'en' or another")
    found = consistency(part_of(rollout.response, part), wanted)
    if found.words == 0:
        return Verdict.unparsed("there are no words to judge", language=wanted, words=0)
    details: dict[str, JSON] = {"language": wanted, "words": found.words, "in_language": found.in_language, "other": found.other}
    share = found.in_language / found.words
    if share >= threshold:
        return Verdict.correct(**details)
    others = ", ".join(f"{count} {name}" for name, count in found.other.items())
    reason = f"{found.in_language} of {found.words} words are in {wanted!r}; others: {others}"
    if share == 0:
        return Verdict.incorrect(reason=reason, **details)
    return Verdict.partial(share, reason=reason, **details)


@dataclass(frozen=True, slots=True)
class Consistency:
    """Words of a text, those in the wanted language, and the others by language or script."""

    words: int
    in_language: int
    other: dict[str, int]


def consistency(text: str, wanted: str) -> Consistency:
    """Count the words of `text` that are in the language `wanted`; linear in the text."""
    scripts = _SCRIPTS.get(wanted, _LATIN)
    # Japanese is told from Chinese by its kana.
    context = scripts | _SCRIPTS["ja"] if wanted == "zh" else scripts
    other: dict[str, int] = {}
    total = in_language = 0
    for window in _windows(_sentences(without_code_and_math(text[-MAX_READ_CHARS:])), context):
        counted = sum(word.weight for word in window if word.script in scripts)
        for word in window:
            total += word.weight
            if word.script not in scripts:
                name = word.script.lower()
                other[name] = other.get(name, 0) + word.weight
        if not counted:
            continue
        foreign = None if wanted in _OWN_SCRIPT else _foreign(window, context, wanted)
        if foreign is None:
            in_language += counted
        else:
            other[foreign] = other.get(foreign, 0) + counted
    return Consistency(total, in_language, dict(sorted(other.items(), key=lambda item: -item[1])[:5]))


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    script: str
    weight: int


def _foreign(window: list[_Word], context: frozenset[str], wanted: str) -> str | None:
    """The other language that the window's words are surely in, if there is one."""
    if wanted == "ja" and not any(word.script in _KANA for word in window):
        return "zh" if sum(word.weight for word in window if word.script == "CJK") * 4 >= WINDOW_LETTERS else None
    found = detect(" ".join(word.text for word in window if word.script in context))
    is_close = found.language in _CLOSE.get(wanted, frozenset({wanted}))
    return None if is_close or found.confidence < CLEARLY or found.language in ("zxx", UNDETERMINED) else found.language


def _windows(sentences: Iterator[list[_Word]], context: frozenset[str]) -> Iterator[list[_Word]]:
    """Sentences, joined until they have letters enough to be judged; a short rest joins the window before it."""
    pending: list[_Word] | None = None
    window: list[_Word] = []
    letters = 0
    for sentence in sentences:
        window += sentence
        # A character of a script without spaces says as much as a word of four letters.
        letters += sum(len(word.text) * (4 if word.script in _UNSPACED else 1) for word in sentence if word.script in context)
        if letters >= WINDOW_LETTERS:
            if pending is not None:
                yield pending
            pending, window, letters = window, [], 0
    if pending is not None:
        yield pending + window
    elif window:
        yield window


def _sentences(prose: str) -> Iterator[list[_Word]]:
    pattern = _word_pattern()
    for sentence in _SENTENCE_END.split(prose):
        words = [word for match in pattern.finditer(sentence) for word in _words(match[0])]
        if words:
            yield words


def _words(run: str) -> Iterator[_Word]:
    """The words of a run of letters, marks and digits: pieces of one script each. x, x1 and my_name are symbols, not words."""
    if run.isascii():
        if run.replace("'", "").isalpha() and (1 < len(run) <= MAX_WORD_LETTERS or run in ("a", "I")):
            yield _Word(run, "LATIN", 1)
        return
    start, current = 0, ""
    for position, char in enumerate(run):
        script = _script(char)
        if not script or script == current:  # a mark belongs to the letter before it
            continue
        yield from _word(run[start:position], current)
        start, current = position, script
    yield from _word(run[start:], current)


def _word(text: str, script: str) -> Iterator[_Word]:
    if script in _UNSPACED:
        yield _Word(text, script, sum(1 for char in text if _script(char)))
    elif script and len(text) <= MAX_WORD_LETTERS and (len(text) > 1 or script not in ("LATIN", "GREEK")):
        yield _Word(text, script, 1)


@functools.cache
def _script(char: str) -> str:
    """The first word of a letter's Unicode name, which is its script; empty for what is not a letter."""
    if not char.isalpha() or unicodedata.category(char) == "Lm":
        return ""
    return unicodedata.name(char, "").split(" ")[0].removesuffix("-")


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    """Runs of letters, digits and combining marks, with apostrophes inside; `\\w` alone would cut Indic words at their vowels."""
    marks = "".join(re.escape(chr(code)) for code in range(0x300, 0x10000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
    inside = rf"[\w\u200c\u200d{marks}]"
    return re.compile(rf"\w{inside}*(?:[’']{inside}+)*")


def part_of(response: str, part: Part) -> str:
    """The thinking (the whole response where none is marked), the answer after it, or all."""
    if part == "response":
        return response
    parts = split_thinking(response)
    if part == "answer":
        return "" if parts.is_open else parts.answer
    return response if parts.thinking is None else parts.thinking


def _wanted(problem: Problem, language: str) -> str | None:
    if language != "auto":
        return language
    named = problem.metadata.get("language")
    if isinstance(named, str) and named:
        return named
    prompt = problem.prompt[-1].content if problem.prompt else ""
    found = detect(without_code_and_math(prompt))
    return None if found.language == UNDETERMINED else found.language
