"""What an audit asks a verifier: probes made from problems whose right response is known, and from golden cases."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rlvr.types import JSON, Outcome, Problem, Verdict
from rlvr.verifiers import audit_texts as texts
from rlvr.verifiers.audit_forms import Forms, Kind, forms_of, kind_of
from rlvr.verifiers.base import Verifier
from rlvr.verifiers.golden import Case

MAX_SETTINGS = 3  # texts that fit every problem are tried with the first problem of so many different settings

# Where an answer may stand when the gold response does not show how to replace it; the first that is graded correct is used.
CARRIERS: tuple[str, ...] = (
    "<answer>{}</answer>",
    "<think>I work it out.</think><answer>{}</answer>",
    "\\boxed{{{}}}",
    "#### {}",
    "{}",
)


class Must(StrEnum):
    """What a verdict on a probe has to be."""

    BE_CORRECT = "correct"
    NOT_BE_CORRECT = "not correct"
    SURVIVE = "any verdict"
    BE_AS_SAID = "as said"  # a golden case says it


@dataclass(frozen=True, slots=True)
class Sample:
    """A problem, a response that is right, and the settings to grade it with."""

    problem: Problem
    response: str
    settings: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """One rollout to grade, and what must come of it."""

    name: str
    must: Must
    problem: Problem
    response: str
    settings: Mapping[str, JSON]
    case: Case | None = None

    def is_held(self, verdict: Verdict) -> bool:
        """Whether the verdict is what it must be; a verdict without a score never is, unless a golden case says so."""
        if self.case is not None:
            wanted = self.case
            return verdict.outcome is wanted.outcome and (wanted.score is None or verdict.score == wanted.score)
        if verdict.outcome is Outcome.VERIFIER_ERROR:
            return False
        if self.must is Must.SURVIVE:
            return True
        return (verdict.outcome is Outcome.CORRECT) == (self.must is Must.BE_CORRECT)

    @property
    def expects_correct(self) -> bool | None:
        """Whether the response is right; None where nobody knows."""
        if self.case is not None:
            return None if self.case.outcome is Outcome.VERIFIER_ERROR else self.case.outcome is Outcome.CORRECT
        return None if self.must is Must.SURVIVE else self.must is Must.BE_CORRECT


@dataclass(frozen=True, slots=True)
class Subject:
    """A sample whose gold response was graded correct: the answer's forms, and how to write a response with another answer."""

    sample: Sample
    kind: Kind
    extracted: str | None
    forms: Forms | None
    carrier: str | None  # None: the answer is replaced in the gold response

    def respond(self, answer: str) -> str:
        if self.carrier is not None:
            return self.carrier.format(answer)
        before, _, after = self.sample.response.rpartition(self.extracted or "")
        return f"{before}{answer}{after}"


def samples_of(cases: Sequence[Case]) -> list[Sample]:
    """The golden cases that are right, as samples. A case that names a probe of its own is that probe and no more."""
    right = [case for case in cases if case.outcome is Outcome.CORRECT and case.probe == "golden"]
    return [Sample(case.problem, case.response, case.settings) for case in right]


def subject_of(verifier: Verifier, sample: Sample, verdict: Verdict) -> Subject:
    """What can be done with a sample, before its carrier is known (`with_carrier`)."""
    kind = (
        Kind.NONE
        if verifier.grades in ("form", "opinion")
        else kind_of(sample.problem.answer, has_letters=_has_letters(verifier))
    )
    forms = None
    if verdict.outcome is Outcome.CORRECT:
        settings = {**_defaults(verifier), **sample.settings}
        forms = forms_of(kind, sample.problem.answer, verdict.extracted, settings)
    is_form = forms is None and kind in (Kind.JSON, Kind.NONE)
    return Subject(sample, Kind.NONE if is_form else kind, verdict.extracted, forms, None)


def needs_carrier(subject: Subject) -> bool:
    """Whether the gold response does not show where the gold answer stands: as it is, once, and in a mark or alone."""
    if subject.forms is None:
        return False
    response, answer = subject.sample.response, subject.extracted or ""
    is_gold = "".join(answer.split()) == "".join(subject.forms.canonical.split())
    return not (answer and is_gold and response.count(answer) == 1 and _is_marked(response, answer))


def settings_key(settings: Mapping[str, JSON]) -> str:
    return json.dumps(dict(settings), sort_keys=True, default=repr)


def probes_of(subjects: Sequence[Subject], cases: Sequence[Case], code_mark: str) -> list[Probe]:
    """Every probe of an audit, in a fixed order."""
    probes = [_golden(case) for case in cases]
    for index, subject in enumerate(subjects):
        probes += _about(subject, _other_answer(subjects, index))
    for subject in _one_of_each_setting(subjects):
        probes += _for_any_problem(subject, code_mark)
    return probes


def _is_marked(response: str, answer: str) -> bool:
    """Whether nothing but the answer stands between the marks around it."""
    before, _, after = response.partition(answer)
    before, after = before.rstrip(), after.lstrip()
    is_tagged = before.endswith(("<answer>", "<final_answer>")) and after.startswith(("</answer>", "</final_answer>"))
    is_boxed = before.endswith("\\boxed{") and after.startswith("}")
    return is_tagged or is_boxed or (before.endswith("####") and not after) or not (before or after)


def _golden(case: Case) -> Probe:
    return Probe(case.probe, Must.BE_AS_SAID, case.problem, case.response, case.settings, case)


def _about(subject: Subject, other: str | None) -> Iterator[Probe]:
    make = _maker(subject)
    yield make("gold", Must.BE_CORRECT, subject.sample.response)
    prompt = "\n".join(message.content for message in subject.sample.problem.prompt)
    if prompt and subject.kind is not Kind.NONE:
        yield make("prompt_echo", Must.NOT_BE_CORRECT, prompt)
    forms = subject.forms
    if forms is None:
        return
    for form in forms.equivalent:
        yield make("equivalent", Must.BE_CORRECT, subject.respond(form))
    for form in (*forms.mutated, *([other] if other else [])):
        yield make("mutated", Must.NOT_BE_CORRECT, subject.respond(form))
    for response in _multiple(subject, forms):
        yield make("multiple", Must.NOT_BE_CORRECT, response)
    if (response := _truncated(subject, forms)).strip():
        yield make("truncated", Must.NOT_BE_CORRECT, response)


def _multiple(subject: Subject, forms: Forms) -> Iterator[str]:
    """Two different final answers, one of them right."""
    if not forms.mutated:
        return
    right, wrong = forms.canonical, forms.mutated[0]
    yield subject.respond(f"{right} or {wrong}")
    yield subject.respond(f"{wrong} or {right}")
    response = subject.respond(right)
    for mark in ("<answer>{}</answer>", "\\boxed{{{}}}"):
        if mark.format(right) in response:
            yield response.replace(mark.format(right), f"{mark.format(wrong)} or {mark.format(right)}")
            yield response.replace(mark.format(right), f"{mark.format(right)} or {mark.format(wrong)}")


def _truncated(subject: Subject, forms: Forms) -> str:
    """The response cut off where its answer would begin; inside an answer of several parts, in its middle."""
    if subject.kind in (Kind.ROLES, Kind.UNKNOWNS, Kind.EXPRESSION, Kind.JSON):
        response = subject.respond(forms.canonical)
        return response[: response.rindex(forms.canonical) + len(forms.canonical) // 2]
    response = subject.respond(forms.canonical)
    return response[: response.index(forms.canonical)]


def _other_answer(subjects: Sequence[Subject], index: int) -> str | None:
    """The answer of another problem of the same kind, which is none of this one's forms."""
    mine = subjects[index].forms
    if mine is None or subjects[index].kind is not Kind.TEXT:
        return None
    known = {"".join(form.split()).casefold() for form in (mine.canonical, *mine.equivalent)}
    for other in (*subjects[index + 1 :], *subjects[:index]):
        if other.forms is not None and other.kind is Kind.TEXT and other.sample.settings == subjects[index].sample.settings:
            form = other.forms.canonical
            if "".join(form.split()).casefold() not in known and mine.canonical.casefold() not in form.casefold():
                return form
    return None


def _one_of_each_setting(subjects: Sequence[Subject]) -> list[Subject]:
    found: dict[str, Subject] = {}
    for subject in subjects:
        found.setdefault(settings_key(subject.sample.settings), subject)
    return list(found.values())[:MAX_SETTINGS]


def _for_any_problem(subject: Subject, code_mark: str) -> Iterator[Probe]:
    make = _maker(subject)
    refuse = Must.SURVIVE if subject.kind is Kind.NONE else Must.NOT_BE_CORRECT
    for text in texts.EMPTY:
        # White space alone is no response, whatever is asked of it.
        yield make("empty", refuse if text.strip() else Must.NOT_BE_CORRECT, text)
    answer = subject.forms.canonical.casefold() if subject.forms is not None else ""
    for name, wrong in texts.WRONG.items():
        for text in wrong:
            # A text that happens to hold the answer may well be right; lists that hold every answer are still wrong.
            if not answer or answer not in text.casefold() or text.count(",") + text.count(" ") > 100:
                yield make(name, refuse, text)
    for text in texts.code_probes(code_mark):
        yield make("code", refuse, text)
    for name, hostile in texts.HOSTILE.items():
        for text in hostile:
            yield make(name, Must.SURVIVE, text)


def _maker(subject: Subject) -> Callable[[str, Must, str], Probe]:
    sample = subject.sample
    return lambda name, must, response: Probe(name, must, sample.problem, response, sample.settings)


def _defaults(verifier: Verifier) -> dict[str, JSON]:
    parameters = inspect.signature(verifier.function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is not p.empty}


def _has_letters(verifier: Verifier) -> bool:
    return "letters" in inspect.signature(verifier.function).parameters
