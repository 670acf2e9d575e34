"""IFBench: constraints that belong to one prompt each."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable
from datetime import date
from itertools import pairwise

from rlvr.verifiers.instruction.base import ifbench, reference
from rlvr.verifiers.instruction.text import PUNCTUATION, sentences, without_punctuation

_EDGES = PUNCTUATION + " "
_QUESTION = re.compile(r"Question \d+[.|):;]?\s*")
_OPTION = re.compile(r"[A-Ea-e][.|)]\s*\w")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_CAPITALS = [
    "Reykjavik", "Helsinki", "Oslo", "Tallinn", "Stockholm", "Riga", "Moscow", "Copenhagen", "Vilnius", "Minsk", "Dublin",
    "Berlin", "Amsterdam", "Warsaw", "London", "Brussels", "Prague", "Luxembourg", "Paris", "Vienna", "Bratislava", "Budapest",
    "Vaduz", "Chisinau", "Bern", "Ljubljana", "Zagreb",
]  # fmt: skip
_AFRICAN_LINES = 52


@ifbench("custom:multiples", "Count from 10 to 50 but only print multiples of 7.")
def multiples(response: str) -> bool:
    """The numbers in the response are 14, 21, 28, 35, 42, 49."""
    return re.findall(r"\d+", response) == ["14", "21", "28", "35", "42", "49"]


@ifbench(
    "custom:mcq_count_length",
    'Generate 4 multiple choice questions with 5 options each about "20th century art history". Each question should start with '
    'the label "Question". The questions should get progressively longer. Do not provide an explanation.',
)
def mcq_count_length(response: str) -> bool:
    """From its first word on, the response is four "Question N" with five options A to E each, each question longer."""
    if not response.startswith("Question"):
        return False
    questions = [part.strip() for part in _QUESTION.split(response) if part.strip()]
    if len(questions) != 4 or any(_options(question) != 5 for question in questions):
        return False
    return all(left < right for left, right in pairwise(map(_question_length, questions)))


@ifbench("custom:reverse_newline", "List the countries of Africa in reverse alphabetical order, each on a new line.")
def reverse_newline(response: str) -> bool:
    """From the line with Zimbabwe on, at least 52 different lines in reverse alphabetical order; accents do not count.

    Fixed: the reference accepts the same line over and over.
    """
    lines = _lines_from_zimbabwe(response)
    return len(lines) >= _AFRICAN_LINES and all(left > right for left, right in pairwise(lines))


@reference("custom:reverse_newline")
def reference_reverse_newline(response: str) -> bool:
    lines = _lines_from_zimbabwe(response)
    return len(lines) >= _AFRICAN_LINES and lines == sorted(lines, reverse=True)


@ifbench(
    "custom:word_reverse",
    "What animal is the national symbol of the US? Respond to this query, but make your sentence in reverse order of what it "
    "should be, per word.",
)
def word_reverse(response: str) -> bool:
    """Read word by word from its end, the response is one sentence with "bald eagle"."""
    text = " ".join(reversed(without_punctuation(response.lower().strip()).split()))
    return "bald eagle" in text and text in sentences(text)


@ifbench(
    "custom:character_reverse",
    "What animal is the national symbol of the US? Respond to this query, but make your sentence in reverse order of what it "
    "should be, per letter.",
)
def character_reverse(response: str) -> bool:
    """ "elgae dlab" occurs, in any case."""
    return "elgae dlab" in response.lower()


@ifbench(
    "custom:sentence_alphabet",
    "Tell me a 26-sentence story where each sentence's first word starts with the letters of the alphabet in order.",
)
def sentence_alphabet(response: str) -> bool:
    """26 sentences, which begin with a to z, in any case."""
    found = sentences(response)
    return [sentence[0].lower() for sentence in found] == [chr(ord("a") + index) for index in range(26)]


@ifbench(
    "custom:european_capitals_sort",
    "Give me the names of all capital cities of european countries whose latitude is higher than than 45 degrees? List the "
    "capital cities without country names, separated by commas, sorted by latitude, from highest to lowest.",
)
def european_capitals_sort(response: str) -> bool:
    """The capitals from Reykjavik to Zagreb in order, separated by commas; accents do not count.

    Fixed: the reference's list leaves out Kyiv (50.45 degrees north); here it may stand in its place.
    """
    found = _listed_capitals(response)
    prague = _CAPITALS.index("Prague")
    return found == _CAPITALS or any(found == [*_CAPITALS[:prague], kyiv, *_CAPITALS[prague:]] for kyiv in ("Kyiv", "Kiev"))


@reference("custom:european_capitals_sort")
def reference_european_capitals_sort(response: str) -> bool:
    return _listed_capitals(response) == _CAPITALS


@ifbench(
    "custom:csv_city",
    'Generate CSV data: The column names are ["ID", "Country", "City", "Year", "Count"], the data should be comma delimited. '
    "Please generate 7 rows.",
)
def csv_city(response: str) -> bool:
    """The header and 7 rows of 5 fields, and nothing else."""
    rows = _csv_rows(response)
    return len(rows) == 8 and rows[0] == ["ID", "Country", "City", "Year", "Count"] and all(len(row) == 5 for row in rows)


@ifbench(
    "custom:csv_special_character",
    'Generate CSV data: The column names are ["ProductID", "Category", "Brand", "Price", "Stock"], the data should be comma '
    "delimited. Please generate 14 rows. Add one field which contains a special character and enclose it in double quotes.",
)
def csv_special_character(response: str) -> bool:
    """The header and 14 rows of 5 fields; a field in double quotes holds something else than letters, digits and space.

    Fixed: the reference does not look at the rows behind the first such field.
    """
    rows = _special_rows(response)
    return all(len(row) == 5 for row in rows) and any(_is_special(field) for row in rows for field in row)


@reference("custom:csv_special_character")
def reference_csv_special_character(response: str) -> bool:
    for row in _special_rows(response):
        if len(row) != 5:
            return False
        if any(map(_is_special, row)):
            return True
    return False


@ifbench(
    "custom:csv_quotes",
    'Generate CSV data: The column names are ["StudentID", "Subject", "Grade", "Semester", "Score"], the data should be tab '
    "delimited. Please generate 3 rows and enclose each single field in double quotes.",
)
def csv_quotes(response: str) -> bool:
    """The header and 3 rows of 5 fields with tabs between them, each field in double quotes."""
    if not _has_header(response, ("StudentID", "Subject", "Grade", "Semester", "Score"), r"\t *"):
        return False
    rows = _csv_rows(_with_kept_quotes(response), delimiter="\t")
    fields = [field.strip() for row in rows for field in row]
    return [len(row) for row in rows] == [5] * 4 and all(field[:1] == field[-1:] == '"' for field in fields)


@ifbench(
    "custom:date_format_list",
    "List the start dates of all the battles Napoleon fought separated by commas, use the following date format: YYYY-MM-DD. Do "
    "not provide an explanation.",
)
def date_format_list(response: str) -> bool:
    """Dates between 1769 and 1821, as YYYY-MM-DD, separated by commas, and nothing else.

    Fixed: the reference accepts dates that no calendar has (1800-00-00, 1801-02-29).
    """
    return _all_dates(response, _is_calendar_date)


@reference("custom:date_format_list")
def reference_date_format_list(response: str) -> bool:
    return _all_dates(response, _is_near_date)


def _options(question: str) -> int:
    return sum(_OPTION.match(line.strip()) is not None for line in question.split("\n"))


def _question_length(question: str) -> int:
    """Characters before the first option."""
    text = ""
    for line in question.split("\n"):
        if _OPTION.match(line.strip()):
            break
        text += " " + line.strip()
    return len(text.strip())


def _lines_from_zimbabwe(response: str) -> list[str]:
    lines = [line for line in (line.strip(_EDGES) for line in response.split("\n")) if line]
    start = next((index for index, line in enumerate(lines) if "Zimbabwe" in line), len(lines))
    return [_ascii(line) for line in lines[start:]]


def _listed_capitals(response: str) -> list[str]:
    return [name.strip() for name in _ascii(response).split(",") if name.strip()]


def _ascii(text: str) -> str:
    """Without accents, and without what then is not ASCII."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


def _csv_rows(text: str, delimiter: str = ",") -> list[list[str]]:
    """The rows; none where the text is no CSV."""
    try:
        return list(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error:
        return []


def _with_kept_quotes(text: str) -> str:
    """So that the reader leaves every quotation mark in its field."""
    return text.replace('"', '"""')


def _has_header(text: str, names: tuple[str, ...], separator: str) -> bool:
    pattern = separator.join(f'(?:{name}|"{name}")' for name in names)
    return re.fullmatch(pattern, text.split("\n", 1)[0].strip()) is not None


def _special_rows(response: str) -> list[list[str]]:
    if not _has_header(response, ("ProductID", "Category", "Brand", "Price", "Stock"), r",[ \t]*"):
        return []
    rows = _csv_rows(_with_kept_quotes(response))
    return rows[1:] if len(rows) == 15 else []


def _is_special(field: str) -> bool:
    """A quotation mark, later a character that is no letter, digit or space, later another mark, all in the first line."""
    first_line = field.split("\n", 1)[0]
    inside = first_line[1 : first_line.rfind('"')] if first_line.startswith('"') else ""
    return any(not (char.isalnum() or char == "_" or char.isspace()) for char in inside)


def _all_dates(response: str, is_date: Callable[[int, int, int], bool]) -> bool:
    found = [part.strip() for part in response.strip().split(",")]
    if not all(_DATE.fullmatch(part) for part in found):
        return False
    return all(1769 <= int(part[:4]) <= 1821 and is_date(int(part[:4]), int(part[5:7]), int(part[8:])) for part in found)


def _is_calendar_date(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _is_near_date(year: int, month: int, day: int) -> bool:
    longest = {2: 29, 4: 30, 6: 30, 9: 30, 11: 30}.get(month, 31 if month else 99)
    return month <= 12 and day <= longest
