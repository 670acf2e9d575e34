"""Whom the model talks to in several turns: a checker that gives its findings back, a scripted user, a game.

A partner is a function of the problem, of all that the model said so far, and of the rollout's seed, so it keeps nothing for a
rollout and cannot mix two of them up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol

from rlvr.errors import ConfigError, RolloutError
from rlvr.types import JSON, Outcome, Problem, Rollout
from rlvr.verifiers.runner import Grader, WeightedVerifier

_NUMBER = re.compile(r"-?\d{1,18}")
_READ_CHARS = 20_000


class Partner(Protocol):
    """The other side of a conversation; a function with the same parameters will do."""

    async def __call__(self, problem: Problem, said: Sequence[str], seed: int) -> str | None:
        """What the partner says to `said[-1]`, the model's latest message; None when it has nothing more to say.

        Raises:
            RolloutError: infrastructure failed; the rollout ends unscored.
        """
        ...


class Feedback:
    """A verifier's finding as the user's next message, until the answer is right or was tried `tries` times.

    `verifier` and `settings` are those of a recipe's `[[verifiers]]`; for programs `verifier = "code"` and
    `settings = {which = "public"}` keep the hidden tests hidden. `message` holds `{reason}`. Only what the verifier says is given
    back, so choose one whose reasons do not give the answer away.

    Raises:
        ConfigError, PluginError: a setting, or the verifier's.
    """

    def __init__(
        self,
        *,
        verifier: str,
        settings: Mapping[str, JSON] | None = None,
        tries: int = 3,
        message: str = "That is not right yet: {reason}\nPlease try again.",
    ) -> None:
        if tries < 1:
            raise ConfigError(f"env.args.tries = {tries}; at least one is needed")
        if "{reason}" not in message:
            raise ConfigError("env.args.message has no {reason}, so the model would not learn what was wrong")
        self._grader = Grader([WeightedVerifier(verifier, 1.0, settings or {})])
        self._tries = tries
        self._message = message

    async def __aenter__(self) -> Feedback:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._grader.close()

    async def __call__(self, problem: Problem, said: Sequence[str], seed: int) -> str | None:
        if len(said) >= self._tries:
            return None
        rollout = Rollout.from_response(problem, said[-1])
        await self._grader.grade(rollout)
        verdict = rollout.verdict
        if verdict is None or verdict.outcome is Outcome.VERIFIER_ERROR:
            raise RolloutError(f"the feedback failed: {verdict.reason if verdict is not None else 'no verdict'}")
        return None if verdict.outcome is Outcome.CORRECT else self._message.replace("{reason}", verdict.reason)


class ScriptedUser:
    """Says the texts in the problem's metadata under `key`, one after each message of the model."""

    def __init__(self, *, key: str = "user_turns") -> None:
        self._key = key

    async def __call__(self, problem: Problem, said: Sequence[str], seed: int) -> str | None:
        """
        Raises:
            RolloutError: the problem has no such texts.
        """
        turns = problem.metadata.get(self._key)
        if not isinstance(turns, list | tuple) or not all(isinstance(turn, str) for turn in turns):
            raise RolloutError(f"problem {problem.id} has no list of texts in metadata[{self._key!r}] for its user to say")
        return str(turns[len(said) - 1]) if len(said) <= len(turns) else None


class GuessingGame:
    """The model guesses the problem's answer, an integer: the last number of its message counts, and it hears higher or lower.

    The game is over at the right number, or after `guesses`.
    """

    def __init__(self, *, guesses: int = 10) -> None:
        if guesses < 1:
            raise ConfigError(f"env.args.guesses = {guesses}; at least one is needed")
        self._guesses = guesses

    async def __call__(self, problem: Problem, said: Sequence[str], seed: int) -> str | None:
        """
        Raises:
            RolloutError: the answer is no integer.
        """
        try:
            secret = int(problem.answer)
        except (TypeError, ValueError) as error:
            raise RolloutError(
                f"problem {problem.id} has the answer {problem.answer!r}, but this game is about integers"
            ) from error
        numbers = _NUMBER.findall(said[-1][-_READ_CHARS:])
        if (numbers and int(numbers[-1]) == secret) or len(said) >= self._guesses:
            return None
        if not numbers:
            return "Guess a number."
        return "higher" if int(numbers[-1]) < secret else "lower"


PARTNERS = {"feedback": Feedback, "scripted_user": ScriptedUser, "guessing_game": GuessingGame}
