from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.types import Message, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.language import consistency, detect, known_languages, language
from rlvr.verifiers.prose import without_code_and_math

ENGLISH = "We need to find the value of x, so we add both numbers and check the sum. "
FRENCH = "Nous devons trouver la valeur de x, donc nous additionnons les deux nombres. "
SENTENCES = {
    "en": "So the answer is five, because we add both numbers.",
    "es": "Entonces la respuesta es cinco, porque sumamos los dos números.",
    "pt": "Então não há outra solução: a resposta é cinco, pois você somou os dois números.",
    "it": "Quindi la risposta è cinque, perché sommiamo i due numeri.",
    "de": "Also ist die Antwort fünf, weil wir beide Zahlen addieren.",
    "fi": "Siten vastaus on viisi, koska laskemme luvut yhteen.",
    "pl": "Odpowiedź brzmi pięć, ponieważ dodajemy obie liczby.",
    "vi": "Vậy câu trả lời là năm, vì chúng ta cộng hai số.",
    "sw": "Kwa hiyo jibu ni tano, kwa sababu tunajumlisha namba mbili.",
    "ru": "Таким образом, ответ пять, потому что мы складываем оба числа.",
    "uk": "Отже, відповідь п'ять, тому що ми додаємо обидва числа.",
    "bg": "Следователно отговорът е пет, защото събираме двете числа.",
    "ar": "إذن الجواب خمسة لأننا نجمع العددين معا",
    "fa": "بنابراین پاسخ پنج است چون دو عدد را جمع می‌کنیم",
    "ur": "تو جواب پانچ ہے کیونکہ ہم دونوں اعداد جمع کرتے ہیں",
    "hi": "इसलिए उत्तर पाँच है, क्योंकि हम दोनों संख्याओं को जोड़ते हैं।",
    "mr": "म्हणून उत्तर पाच आहे, कारण आपण दोन्ही संख्या मिळवतो.",
    "bn": "সুতরাং উত্তর পাঁচ, কারণ আমরা দুটি সংখ্যা যোগ করি।",
    "ta": "எனவே விடை ஐந்து, ஏனெனில் இரண்டு எண்களைக் கூட்டுகிறோம்.",
    "te": "కాబట్టి సమాధానం ఐదు, ఎందుకంటే రెండు సంఖ్యలను కలుపుతాము.",
    "kn": "ಆದ್ದರಿಂದ ಉತ್ತರ ಐದು, ಏಕೆಂದರೆ ಎರಡೂ ಸಂಖ್ಯೆಗಳನ್ನು ಕೂಡಿಸುತ್ತೇವೆ.",
    "ml": "അതിനാൽ ഉത്തരം അഞ്ച് ആണ്, കാരണം രണ്ട് സംഖ്യകളും കൂട്ടുന്നു.",
    "gu": "તેથી જવાબ પાંચ છે, કારણ કે આપણે બંને સંખ્યાઓ ઉમેરીએ છીએ.",
    "pa": "ਇਸ ਲਈ ਜਵਾਬ ਪੰਜ ਹੈ, ਕਿਉਂਕਿ ਅਸੀਂ ਦੋਵੇਂ ਨੰਬਰ ਜੋੜਦੇ ਹਾਂ।",
    "th": "ดังนั้นคำตอบคือห้า เพราะเราบวกเลขทั้งสอง",
    "ko": "그래서 답은 오입니다. 두 수를 더하기 때문입니다.",
    "ja": "したがって、答えは五です。二つの数を足すからです。",
    "zh": "所以答案是五，因为我们把两个数字相加。",
    "he": "לכן התשובה היא חמש, כי אנחנו מחברים את שני המספרים.",
}


def grade(thinking: str, **settings: object) -> Verdict:
    return language(
        Problem("p", (), None), Rollout.from_response(Problem("p", (), None), f"<think>{thinking}</think>5"), **settings
    )


@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_wholly_in_its_own_language_and_not_in_another(code: str) -> None:
    assert detect(SENTENCES[code]).language == code
    assert grade(SENTENCES[code], language=code).score == 1.0
    other = "en" if code != "en" else "de"
    assert grade(SENTENCES[code], language=other).score == 0.0


def test_the_score_is_the_share_of_words() -> None:
    verdict = grade(ENGLISH * 3 + FRENCH, language="en")
    assert verdict.outcome is Outcome.PARTIAL
    assert verdict.score == verdict.details["in_language"] / verdict.details["words"]
    assert verdict.details["other"] == {"fr": 12}


def test_a_longer_foreign_part_scores_lower() -> None:
    scores = [grade(ENGLISH * 4 + FRENCH * count, language="en").score or 0.0 for count in range(5)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 5


def test_detection_is_the_same_in_all_threads() -> None:
    texts = list(SENTENCES.values()) * 5
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(detect, texts)) == [detect(text) for text in texts]


def test_a_text_without_letters_has_no_language() -> None:
    assert detect("12 + 3 = 15").language == "und"
    assert detect("").confidence == 0.0
    assert {"en", "zh", "ne", "kn", "ml"} <= known_languages()


def test_the_prompt_says_the_language_where_nothing_else_does() -> None:
    problem = Problem("p", (Message("system", "Think."), Message("user", SENTENCES["de"])), None)
    rollout = Rollout.from_response(problem, f"<think>{SENTENCES['de']}</think>5")
    assert language(problem, rollout).score == 1.0
    named = Problem("p", problem.prompt, None, {"language": "en"})
    assert language(named, Rollout.from_response(named, rollout.response)).score == 0.0


def test_a_long_word_is_no_word() -> None:
    assert grade("a" * 500, language="en").outcome is Outcome.UNPARSED


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("add $x$ and $$y$$ and \\(z\\) and \\[w\\] now", "add and and and now"),
        ("run `f(x)` then\n```py\nprint(1)\n```\ndone", "run then done"),
        ("a lone $ sign and a lone ` tick", "a lone sign and a lone tick"),
        ("open\n```\nnever closed", "open"),
        ("see https://example.org/a?b=c and <answer>so</answer>", "see and so"),
        ("so \\boxed{4} and \\alpha", "so and"),
    ],
)
def test_code_and_mathematics_are_left_out(text: str, kept: str) -> None:
    assert without_code_and_math(text).split() == kept.split()


@given(st.text(max_size=200), st.sampled_from(["en", "zh", "ja", "ru", "hi"]))
def test_counts_add_up_for_any_text(text: str, wanted: str) -> None:
    found = consistency(text, wanted)
    assert 0 <= found.in_language <= found.words
    assert found == consistency(text, wanted)
