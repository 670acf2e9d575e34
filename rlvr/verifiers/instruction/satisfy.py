"""Write a response that follows given constraints of IFEval: the proof that they are compatible.

The text says nothing; it is for tests, for `rlvr tasks validate` and for drawing constraints, not for learning from.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.verifiers.instruction.base import Bound
from rlvr.verifiers.instruction.text import sentences, words

MAX_SENTENCES = 400

# Without commas, digits, "I" and "A": whatever forbids these is followed.
_ENGLISH = (
    "The river moved slowly through the quiet valley.",
    "Every morning the baker opened his small shop.",
    "The children played under the old trees.",
    "Their teacher told them stories of the sea.",
    "In the evening the lamps were lit along the road.",
    "Some people walked home while others stayed to talk.",
    "The wind carried the smell of bread over the roofs.",
    "Nobody in the village was ever in much of hurry.",
    "When winter came the hills turned white and still.",
    "Spring brought back the birds and the green fields.",
    "They built new boats and mended the nets.",
    "At night the stars were bright above the harbor.",
)
# Article 1 of the Universal Declaration of Human Rights and plain sentences.
_OTHER = {
    "de": (
        "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
        "Sie sind mit Vernunft und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen.",
        "Am Morgen geht die Sonne über den Bergen auf und die Kinder laufen zur Schule.",
    ),
    "fr": (
        "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
        "Ils sont doués de raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité.",
        "Le matin le soleil se lève sur les montagnes et les enfants vont à l'école.",
    ),
    "es": (
        "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
        "Dotados como están de razón y conciencia deben comportarse fraternalmente los unos con los otros.",
        "Por la mañana el sol sale sobre las montañas y los niños van a la escuela.",
    ),
    "it": (
        "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti.",
        "Essi sono dotati di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di fratellanza.",
        "La mattina il sole sorge sopra le montagne e i bambini vanno a scuola.",
    ),
    "pt": (
        "Todos os seres humanos nascem livres e iguais em dignidade e em direitos.",
        "Dotados de razão e de consciência devem agir uns para com os outros em espírito de fraternidade.",
        "De manhã o sol nasce sobre as montanhas e as crianças vão para a escola.",
    ),
    "ru": (
        "Все люди рождаются свободными и равными в своем достоинстве и правах.",
        "Они наделены разумом и совестью и должны поступать в отношении друг друга в духе братства.",
        "Утром солнце встает над горами и дети идут в школу.",
    ),
    "pl": (
        "Wszyscy ludzie rodzą się wolni i równi w swojej godności i swoich prawach.",
        "Są oni obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa.",
        "Rano słońce wschodzi nad górami i dzieci idą do szkoły.",
    ),
    "fi": (
        "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan.",
        "Heille on annettu järki ja omatunto ja heidän on toimittava toisiaan kohtaan veljeyden hengessä.",
        "Aamulla aurinko nousee vuorten yli ja lapset menevät kouluun.",
    ),
}
LANGUAGES = tuple(sorted(_OTHER))

_Kwargs = Mapping[str, Any]


def satisfy(constraints: Sequence[Bound]) -> str | None:
    """A response that follows every one of `constraints`; None where none was found.

    Knows the constraints of IFEval. None does not prove that there is none.

    >>> from rlvr.verifiers.instruction.registry import read_constraints
    >>> satisfy(read_constraints([{"id": "detectable_format:number_bullet_lists", "kwargs": {"num_bullets": 2}}]))
    'The river moved slowly through the quiet valley.\\n* The stone bridge\\n* The stone bridge'
    """
    wanted: dict[str, list[_Kwargs]] = {}
    for bound in constraints:
        wanted.setdefault(bound.constraint.id, []).append(bound.kwargs)
    response = _Writer(wanted).write()
    return response if all(bound.follows(response) for bound in constraints) else None


class _Writer:
    """Writes inside out: sentences, their layout, what stands around them, then case and wrapping."""

    def __init__(self, wanted: Mapping[str, Sequence[_Kwargs]]) -> None:
        self._wanted = wanted
        self._bank = self._sentence_bank()

    def write(self) -> str:
        text = self._laid_out(self._body())
        text = self._surrounded(text)
        if self._has("change_case:english_capital"):
            text = text.upper()
        if self._has("change_case:english_lowercase"):
            text = text.lower()
        if self._has("detectable_format:json_format"):
            key = "RESPONSE" if text.isupper() else "response"
            text = json.dumps({key: " ".join(text.split())}, ensure_ascii=False)  # an escaped line break would be a small "n"
        return f'"{text}"' if self._has("startend:quotation") else text

    def _has(self, id: str) -> bool:
        return id in self._wanted

    def _all(self, id: str, relation: str | None = None) -> list[_Kwargs]:
        """The arguments of every constraint `id`, or of those with this relation."""
        found = self._wanted.get(id, ())
        names = ("relation", "let_relation", "capital_relation")
        return [kwargs for kwargs in found if relation is None or relation in [kwargs.get(name) for name in names]]

    def _sentence_bank(self) -> list[str]:
        languages = [kwargs["language"] for kwargs in self._all("language:response_language")]
        bank = _OTHER.get(languages[0], _ENGLISH) if languages else _ENGLISH
        unwanted = [word for kwargs in self._all("keywords:forbidden_words") for word in kwargs["forbidden_words"]]
        unwanted += [kwargs["keyword"] for kwargs in self._all("keywords:frequency", "less than")]
        allowed = [text for text in bank if not any(word.lower() in text.lower() for word in unwanted)]
        for kwargs in self._all("keywords:letter_frequency", "less than"):
            allowed.sort(key=lambda text, letter=kwargs["letter"]: text.lower().count(letter.lower()))  # type: ignore[misc]
        return allowed or list(bank)

    def _body(self) -> list[str]:
        body = [self._bank[0], *self._required_sentences()]
        min_words = max((kwargs["num_words"] for kwargs in self._all("length_constraints:number_words", "at least")), default=0)
        min_sentences = max(
            (kwargs["num_sentences"] for kwargs in self._all("length_constraints:number_sentences", "at least")), default=0
        )
        parts = max(self._parts(), min_sentences)
        for sentence in itertools.islice(itertools.cycle(self._bank), 1, MAX_SENTENCES):
            text = " ".join(body)
            if len(words(text)) >= min_words and len(sentences(text)) >= parts:
                break
            body.append(sentence)
        return body

    def _required_sentences(self) -> list[str]:
        found = [f"We thought of {' and '.join(kwargs['keywords'])}." for kwargs in self._all("keywords:existence")]
        for kwargs in self._all("keywords:frequency", "at least"):
            found.append(f"They said {' and '.join([kwargs['keyword']] * kwargs['frequency'])}.")
        for kwargs in self._all("keywords:letter_frequency", "at least"):
            found.append(f"The letters were {' '.join([kwargs['letter']] * kwargs['let_frequency'])}.")
        for kwargs in self._all("change_case:capital_word_frequency", "at least"):
            found.append(f"The sign said {' '.join(['STOP'] * kwargs['capital_frequency'])}.")
        for kwargs in self._all("detectable_content:number_placeholders"):
            found.append(f"Please write to {' and '.join(['[name]'] * kwargs['num_placeholders'])}.")
        for kwargs in self._all("detectable_format:number_highlighted_sections"):
            found.append(f"We saw {' and '.join(['*light*'] * kwargs['num_highlights'])}.")
        if self._has("detectable_format:constrained_response"):
            found.append("My answer is yes.")
        return found

    def _parts(self) -> int:
        """Into how many parts the layout divides the body."""
        keys = {
            "length_constraints:number_paragraphs": "num_paragraphs",
            "length_constraints:nth_paragraph_first_word": "num_paragraphs",
            "detectable_format:multiple_sections": "num_sections",
        }
        counts: list[int] = [kwargs[key] for id, key in keys.items() for kwargs in self._all(id)]
        return max([2 if self._has("combination:two_responses") else 1, *counts])

    def _laid_out(self, body: list[str]) -> str:
        count = self._parts()
        size = -(-len(body) // count)
        starts = [min(index * size, len(body) - count + index) for index in range(count)]
        parts = [" ".join(body[a:b]) for a, b in itertools.pairwise([*starts, len(body)])]
        for kwargs in self._all("length_constraints:nth_paragraph_first_word"):
            place = kwargs["nth_paragraph"] - 1
            parts[place] = f"{kwargs['first_word'].capitalize()} was the first word. {parts[place]}"
        for kwargs in self._all("detectable_format:multiple_sections"):
            parts = [f"{kwargs['section_spliter'].strip()} {number}\n{part}" for number, part in enumerate(parts, 1)]
        for kwargs in self._all("detectable_format:number_bullet_lists"):
            parts[-1] += "\n* The stone bridge" * kwargs["num_bullets"]
        return self._divider().join(parts)

    def _divider(self) -> str:
        if self._has("combination:two_responses"):
            return "\n******\n"
        if self._has("length_constraints:number_paragraphs"):
            return "\n***\n"
        return "\n\n" if self._has("length_constraints:nth_paragraph_first_word") else "\n"

    def _surrounded(self, text: str) -> str:
        if self._has("detectable_format:title"):
            # Behind the first word, where a paragraph must begin with that word.
            is_first = any(kwargs["nth_paragraph"] == 1 for kwargs in self._all("length_constraints:nth_paragraph_first_word"))
            text = f"{text}\n<<The Quiet Valley>>" if is_first else f"<<The Quiet Valley>>\n{text}"
        for kwargs in self._all("combination:repeat_prompt"):
            text = f"{kwargs['prompt_to_repeat']}\n{text}"
        for kwargs in self._all("detectable_content:postscript"):
            text += f"\n{kwargs['postscript_marker']} The valley sleeps."
        for kwargs in self._all("startend:end_checker"):
            text += f"\n{kwargs['end_phrase']}"
        return text
