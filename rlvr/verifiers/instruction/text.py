"""Sentences and words of English text, without data files. Both are linear in the text.

The references split with NLTK's Punkt model and Treebank tokenizer; the rules here are those of Punkt (Kiss and Strunk 2006,
doi 10.1162/coli.2006.32.4.485) with word lists in place of its trained tables, and the Penn Treebank conventions. How often the
two agree is in docs/verifiers-instruction.md.
"""

from __future__ import annotations

import re
import string

from rlvr.verifiers.instruction.english import ABBREVIATIONS, COMMON_WORDS

PUNCTUATION = string.punctuation
_WITHOUT_PUNCTUATION = str.maketrans("", "", PUNCTUATION)

_TOKEN = re.compile(r"\S+")
_WORD = re.compile(r"\w+")
# What may stand between a final mark and the space behind it, as in "done.) Next".
_END_INSIDE = re.compile(r"[.?!](?=[)\";}\]*:@'({\[!?‘’“”«»]|$)")
_CLOSING = re.compile(r"[\"')\]}‘’“”«»]+(?=\s|--|$)")
_LEADING = '("`{[:;&#*@)}]-,'
_INNER_BREAK = re.compile(r"[)\";}\]*:@'({\[‘’“”«»]|--|\.{2,}(?=[^.])")
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")

_OPEN_OR_CLOSE = r"\[\](){}<>;@#$%&?!*\"«»“”‘’„‒–—―"
_PIECE = re.compile(
    rf"\.{{2,}}|--|`+|[{_OPEN_OR_CLOSE}]|[:,](?!\d)|(?:(?!\.\.|--)[^\s:,`{_OPEN_OR_CLOSE}]|[:,](?=\d))+", re.IGNORECASE
)
_SUFFIX = re.compile(r"(.*?[^'])('[sSmMdD]|'ll|'LL|'re|'RE|'ve|'VE|n't|N'T|')")
_CLITIC = re.compile(r"'(?:re|ve|ll|m|t|s|d|n)\b", re.IGNORECASE)
_FINAL_STOP = re.compile(r"(?<=[^.])\.(?=[\])}>\"'»”’ ]*$)")
_JOINED = {"cannot": 3, "gonna": 3, "gotta": 3, "wanna": 3, "gimme": 3, "lemme": 3}


def words(text: str) -> list[str]:
    r"""Runs of letters, digits and underscores: "don't" is two words."""
    return _WORD.findall(text)


def without_punctuation(text: str) -> str:
    """`text` without ASCII punctuation; "well-known" becomes one word."""
    return text.translate(_WITHOUT_PUNCTUATION)


def sentences(text: str) -> list[str]:
    """The sentences of a text, stripped. Line breaks alone end none.

    >>> sentences('Dr. Smith left at 5 p.m. on Monday. "Why?" he asked. No reason.')
    ['Dr. Smith left at 5 p.m. on Monday.', '"Why?"', 'he asked.', 'No reason.']
    """
    found: list[str] = []
    start = 0
    for stop in _breaks(text):
        if stop <= start:
            continue
        closing = _CLOSING.match(text, _skip_space(text, stop))
        end = closing.end() if closing else stop
        if sentence := text[start:end].strip():
            found.append(sentence)
        start = end
    if rest := text[start:].strip():
        found.append(rest)
    return found


def tokens(text: str) -> list[str]:
    """Words and punctuation marks as the Penn Treebank has them, sentence by sentence.

    >>> tokens("I don't know Dr. Li.")
    ['I', 'do', "n't", 'know', 'Dr.', 'Li', '.']
    """
    return [token for sentence in sentences(text) for token in _sentence_tokens(sentence)]


def word_tokens(text: str) -> list[str]:
    """The tokens that hold a letter or digit."""
    return [token for token in tokens(text) if any(char.isalnum() for char in token)]


def _breaks(text: str) -> list[int]:
    """Where sentences end: behind a final mark."""
    found = []
    chunks = list(_TOKEN.finditer(text))
    for index, token in enumerate(chunks):
        following = chunks[index + 1][0] if index + 1 < len(chunks) else ""
        # The last character of the text needs no break behind it.
        last = len(token[0]) if following else len(token[0]) - 1
        ends = [mark.end() for mark in _END_INSIDE.finditer(token[0]) if mark.end() <= last]
        if not ends:
            continue
        # Several marks in one token, as in "wait...what?!", end one sentence, at the last of them; in a token of marks, "?!!",
        # the first does, too.
        if ends[0] == 1 and len(ends) > 1:
            found.append(token.start() + 1)
        inside = token[0][ends[-1] :]
        if _ends_sentence(token[0][: ends[-1]], inside or following):
            found.append(token.start() + ends[-1])
    return found


def _ends_sentence(token: str, following: str) -> bool:
    """Whether the mark at the end of `token` ends a sentence, given the text behind it."""
    if "?" in token or "!" in token or "?" in following[:-1] or "!" in following[:-1]:
        return True
    core = _INNER_BREAK.split(token)[-1].lstrip(_LEADING)
    if core in ("", "."):
        return True
    if core.endswith(".."):
        return _starts_sentence(following) is True
    stem = core[:-1].lower()
    if len(stem) == 1 and stem.isalpha():  # an initial, or the end of "Plan B."
        starts = _starts_sentence(following)
        is_name = starts is False or (starts is None and following[:1].isupper())
        return stem not in ABBREVIATIONS and not is_name
    if stem in ABBREVIATIONS or stem.rpartition("-")[2] in ABBREVIATIONS:
        return _starts_sentence(following) is True
    if _NUMBER.fullmatch(stem):
        return _starts_sentence(following) is not False
    return True


def _starts_sentence(following: str) -> bool | None:
    """Whether a word looks like the first one of a sentence; None where its case does not tell."""
    first = _WORD.match(following)
    if first is None:
        return None if following[:1] not in ".,;:?!" else False
    if first[0][0].islower():
        return False
    return True if first[0][0].isupper() and first[0].lower() in COMMON_WORDS else None


def _skip_space(text: str, position: int) -> int:
    """Where the next character that is not white space stands."""
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _sentence_tokens(sentence: str) -> list[str]:
    text = _FINAL_STOP.sub(" . ", sentence)
    return [token for chunk in text.split() for token in _chunk_tokens(chunk)]


def _chunk_tokens(chunk: str) -> list[str]:
    found: list[str] = []
    for piece in _PIECE.findall(chunk):
        if piece.startswith("'") and len(piece) > 1 and not _CLITIC.match(piece):
            found.append("'")
            piece = piece[1:]
        suffix = _SUFFIX.fullmatch(piece) if "'" in piece else None
        if suffix is not None:
            found += [suffix[1], suffix[2]]
        elif (cut := _JOINED.get(piece.lower())) is not None:
            found += [piece[:cut], piece[cut:]]
        else:
            found.append(piece)
    return found
