"""`knights_knaves`: who tells the truth and who lies, by the gold roles, by what was said, or by Logic-RL's reward."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from rlvr.types import JSON, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.base import verifier
from rlvr.verifiers.extract import Extract, find_answer, tagged

RoleRule: TypeAlias = Literal["exact", "consistent", "logic_rl"]

MAX_ANSWER_CHARS = 20_000
MAX_CLAIM_DEPTH = 50

_WORD = re.compile(r"\w+|[^\w\s]")
_ROLES = {"knight": "knight", "knights": "knight", "knave": "knave", "knaves": "knave"}
_LOGIC_RL_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_LOGIC_RL_BEST, _LOGIC_RL_WORST = 3.0, -3.0


@verifier("knights_knaves", isolated=False)
def knights_knaves(
    problem: Problem, rollout: Rollout, *, extract: Extract = "auto", strict: bool = False, rule: RoleRule = "exact"
) -> Verdict:
    """Correct when the answer gives every person the right role, once: "Gina is a knave, Ines is a knight".

    `problem.answer` is `{name: "knight" | "knave"}`. A missing person or a role without a person is unparsed; a person
    with both roles is incorrect. `rule`:

    - `exact`: the roles are the gold ones.
    - `consistent`: exactly the knights' statements are true. Reads `metadata` ("names" and "statements", there or under
      "meta"): ["knight", i], ["knave", i], ["not", s], ["and" | "or" | "if" | "iff", s, t], with i a person's number. Use it
      where a puzzle has several solutions.
    - `logic_rl`: Logic-RL's reward: format +1 or -1, and answer +2 (right), -1.5 (wrong) or -2 (unreadable, or the format is
      wrong); `details["reward"]` is their sum, and the score is (reward + 3) / 6. It reads the answer as Logic-RL does, and an
      empty thinking passes; `extract` and `strict` are not used.

    Source: Xie et al. 2025 (Logic-RL, arXiv 2502.14768), section 2.2.
    """
    gold = problem.answer
    if not isinstance(gold, dict) or not gold or not set(map(str, gold.values())) <= {"knight", "knave"}:
        return Verdict.error(f"gold answer of {problem.id} is not {{name: 'knight' or 'knave'}}")
    if rule == "logic_rl":
        return _logic_rl(rollout.response, gold)
    found = find_answer(rollout.response, extract, strict=strict, auto=("answer_tag", "boxed", "sentence", "whole"))
    if found.text is None:
        return Verdict.unparsed(found.reason)
    text = found.text if found.rule != "sentence" else find_answer(rollout.response, "whole").text or ""
    if found.is_ambiguous or len(text) > MAX_ANSWER_CHARS:
        return Verdict.incorrect(text[:200], found.reason or f"the answer has {len(text)} characters")
    roles, reason = assigned_roles(text, tuple(gold))
    if roles is None:
        return Verdict.unparsed(reason)
    shown = ", ".join(f"{name}: {'/'.join(sorted(given))}" for name, given in roles.items())
    if any(len(given) > 1 for given in roles.values()):
        return Verdict.incorrect(shown, "a person has both roles")
    chosen = {name: next(iter(given)) for name, given in roles.items()}
    if rule == "consistent":
        return _consistent(problem, chosen, shown)
    wrong = [name for name, role in chosen.items() if role != gold[name]]
    return Verdict.incorrect(shown, f"wrong for {', '.join(wrong)}") if wrong else Verdict.correct(shown)


def assigned_roles(text: str, names: tuple[str, ...]) -> tuple[dict[str, set[str]] | None, str]:
    """Every role that `text` gives to each of `names`; None, with the reason, if it is not one role word for each statement."""
    lower = {name.casefold(): name for name in names}
    roles: dict[str, set[str]] = {name: set() for name in names}
    subjects: list[str] = []
    is_negated = False
    for match in _WORD.finditer(text):
        word = match[0].casefold()
        if word in lower:
            subjects.append(lower[word])
        elif word in ("not", "isn", "never"):
            is_negated = True
        elif word in ("or", "if", "either", "maybe", "perhaps"):
            return None, f"the answer hedges ({word!r})"
        elif word in _ROLES:
            if not subjects:
                return None, "a role without a person"
            role = {"knight": "knave", "knave": "knight"}[_ROLES[word]] if is_negated else _ROLES[word]
            for name in subjects:
                roles[name].add(role)
            subjects, is_negated = [], False
    missing = [name for name, given in roles.items() if not given]
    return (None, f"no role for {', '.join(missing)}") if missing else (roles, "")


def claim_holds(claim: JSON, is_knight: Sequence[bool], depth: int = 0) -> bool:
    """Whether a statement is true where `is_knight[i]` says what person i is.

    Raises:
        ValueError: not a statement; ours to mend, for statements come with the problem.
    """
    if depth > MAX_CLAIM_DEPTH:
        raise ValueError(f"a statement is nested more than {MAX_CLAIM_DEPTH} deep")
    match claim:
        case ["knight" | "knave" as role, int(person)] if 0 <= person < len(is_knight):
            return (role == "knight") is is_knight[person]
        case ["not", part]:
            return not claim_holds(part, is_knight, depth + 1)
        case ["and" | "or" | "if" | "iff" as joint, left, right]:
            first, second = claim_holds(left, is_knight, depth + 1), claim_holds(right, is_knight, depth + 1)
            values = {"and": first and second, "or": first or second, "if": not first or second, "iff": first == second}
            return values[str(joint)]
    raise ValueError(f"{str(claim)[:100]} is not a statement")


def _consistent(problem: Problem, chosen: Mapping[str, str], shown: str) -> Verdict:
    data: Any = problem.metadata if "statements" in problem.metadata else problem.metadata.get("meta")
    names, claims = (data.get("names"), data.get("statements")) if isinstance(data, Mapping) else (None, None)
    if not isinstance(names, list) or not isinstance(claims, list) or len(claims) != len(names) or set(names) != set(chosen):
        return Verdict.error(f"{problem.id}: metadata needs 'names' and 'statements', one of each for every person")
    is_knight = [chosen[name] == "knight" for name in names]
    # A knight's statement is true and a knave's is false.
    wrong = [names[i] for i, claim in enumerate(claims) if claim_holds(claim, is_knight) != is_knight[i]]
    if wrong:
        return Verdict.incorrect(shown, f"contradicts what {', '.join(wrong)} said")
    return Verdict.correct(shown)


def _logic_rl(response: str, gold: Mapping[str, str]) -> Verdict:
    """Logic-RL's rules as they are, without its search for a chat template's header."""
    starts = [response.find(tag) for tag in _LOGIC_RL_TAGS]
    is_formatted = all(response.count(tag) == 1 for tag in _LOGIC_RL_TAGS) and starts == sorted(starts)
    answers = tagged(response)
    answer = answers[-1].strip()[:MAX_ANSWER_CHARS] if answers else ""
    chosen = _logic_rl_roles(answer, tuple(gold)) if is_formatted and answer else None
    if chosen is None:
        points = -2.0
        reason = "no role for everyone could be read" if is_formatted else "the tags are not each there once, in order"
    else:
        is_right = chosen == dict(gold)
        points, reason = (2.0, "") if is_right else (-1.5, "another role than the gold one")
    reward = points + (1.0 if is_formatted else -1.0)
    score = (reward - _LOGIC_RL_WORST) / (_LOGIC_RL_BEST - _LOGIC_RL_WORST)
    details: dict[str, JSON] = {"reward": reward, "format_reward": 1.0 if is_formatted else -1.0, "answer_reward": points}
    if reward == _LOGIC_RL_BEST:
        return Verdict(Outcome.CORRECT, 1.0, answer, details=details)
    if reward == _LOGIC_RL_WORST:
        return Verdict(Outcome.INCORRECT, 0.0, None, reason, details=details)
    return Verdict(Outcome.PARTIAL, score, answer or None, reason, details=details)


def _logic_rl_roles(answer: str, names: tuple[str, ...]) -> dict[str, str] | None:
    lower = answer.lower()
    if lower.count("knight") + lower.count("knave") != len(names):
        return None
    roles: dict[str, str] = {}
    for name in names:
        stated = re.search(rf"\b{re.escape(name.lower())}\b\s{{1,4}}is\s{{1,4}}an?\s{{1,4}}(knight|knave)\b", lower)
        if stated is None:
            return None
        roles[name] = stated[1]
    return roles
