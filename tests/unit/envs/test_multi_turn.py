"""Conversations with a partner: a verifier's findings, a scripted user, a game; with and without tools."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import EnvConfig
from rlvr.envs.base import Reply
from rlvr.envs.make import EnvMaker
from rlvr.errors import ConfigError, PluginError, RolloutError
from rlvr.registry import resolve
from rlvr.sandbox.jobs import Execution, Returned, Status
from rlvr.sandbox.shared import use_sandbox
from rlvr.testing import FakeSandbox, check_env
from rlvr.types import Message, Problem

HERE = str(Path(__file__))
NUMBER = Problem("n", (Message("user", "What is 6 * 7?"),), "42")
SCRIPT = Problem("s", (Message("user", "Hello."),), "", {"user_turns": ["How are you?", "And now?"]})
TESTS = {"type": "calls", "fn_name": "double", "inputs": [[1], [2], [3]], "outputs": [2, 4, 6], "public": 1}
PROGRAM = Problem("c", (Message("user", "Write double(x)."),), {"tests": TESTS})
CALL = '<tool_call>{"name": "calculator", "arguments": {"expression": "6*7"}}</tool_call>'


def heard(env: EnvConfig, problem: Problem, *said: str, seed: int = 0) -> list[str | None]:
    """What the model hears to each of its messages; None where the conversation is over."""

    async def main() -> list[str | None]:
        async with EnvMaker(env, None) as make:
            one = make()
            messages = list((await one.start(problem, seed)).messages)
            found: list[str | None] = []
            for text in said:
                reply: Reply = await one.reply([*messages, Message("assistant", text)])
                messages += [Message("assistant", text), *reply.messages]
                found.append(None if reply.is_last else reply.messages[0].content)
            await one.close()
            return found

    return asyncio.run(main())


def multi_turn(partner: str, **settings: Any) -> EnvConfig:
    return EnvConfig(name="multi_turn", args={"partner": partner, **settings})


FEEDBACK = multi_turn("feedback", verifier="number", tries=3)
GAME = multi_turn("guessing_game", guesses=4)


def test_a_verifiers_finding_is_the_next_message_until_the_answer_is_right() -> None:
    [first, second] = heard(FEEDBACK, NUMBER, "I think 41", "It is 42")
    assert first == "That is not right yet: another number than the gold answer\nPlease try again."
    assert second is None


def test_tries_are_bounded() -> None:
    assert [text is None for text in heard(FEEDBACK, NUMBER, "1", "2", "3")] == [False, False, True]
    assert heard(multi_turn("feedback", verifier="number", tries=1), NUMBER, "1") == [None]


def test_the_words_around_the_finding_are_the_recipes() -> None:
    env = multi_turn("feedback", verifier="number", message="No: {reason}. {Braces} stay.")
    assert heard(env, NUMBER, "41") == ["No: another number than the gold answer. {Braces} stay."]


def test_a_program_that_fails_its_public_tests_gets_the_failure_back_and_the_hidden_tests_stay_hidden() -> None:
    seen: list[int] = []

    def doubles(job: Any, limits: Any) -> Execution:
        seen.append(len(job.calls))
        factor = 2 if "2 *" in job.code else 3
        return Execution(Status.EXITED, returned=tuple(Returned(factor * call.args[0]) for call in job.calls))

    env = multi_turn("feedback", verifier="code", settings={"which": "public"})
    with use_sandbox(FakeSandbox(doubles)):  # type: ignore[arg-type]
        [first, second] = heard(env, PROGRAM, *(f"```python\ndef double(x):\n    return {n} * x\n```" for n in (3, 2)))
    assert first is not None
    assert "3" in first
    assert second is None
    assert seen == [1, 1]


def test_a_verifier_that_fails_is_our_fault() -> None:
    broken = Problem("b", (Message("user", "?"),), "no number at all")
    with pytest.raises(RolloutError, match="the feedback failed"):
        heard(FEEDBACK, broken, "42")


def test_a_scripted_user_says_its_lines() -> None:
    env = multi_turn("scripted_user")
    assert heard(env, SCRIPT, "Hi.", "Well.", "Bye.") == ["How are you?", "And now?", None]
    with pytest.raises(RolloutError, match=r"problem n has no list of texts in metadata\['user_turns'\]"):
        heard(env, NUMBER, "Hi.")


def test_a_guessing_game_says_higher_or_lower() -> None:
    assert heard(GAME, NUMBER, "50?", "Then 40", "hm", "43 or 42") == ["lower", "higher", "Guess a number.", None]
    assert heard(GAME, NUMBER, "1", "2", "3", "4") == ["higher", "higher", "higher", None]
    with pytest.raises(RolloutError, match="but this game is about integers"):
        heard(GAME, Problem("x", (Message("user", "?"),), "x"), "1")


def echo(problem: Problem, said: Sequence[str], seed: int) -> str | None:
    return f"{problem.id} {said[-1]} {len(said)} {seed}" if len(said) < 3 else None


async def mumble(problem: Problem, said: Sequence[str], seed: int) -> Any:
    return 5


def crashes(problem: Problem, said: Sequence[str], seed: int) -> str | None:
    raise KeyError("state")


class Counting:
    """Knows how often it was opened and closed."""

    log: list[str] = []

    def __init__(self, *, step: int) -> None:
        self._step = step

    async def __aenter__(self) -> Counting:
        self.log.append("open")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.log.append("close")

    async def __call__(self, problem: Problem, said: Sequence[str], seed: int) -> str | None:
        return str(self._step * len(said))


def test_a_function_or_a_class_of_ones_own_may_be_the_partner() -> None:
    assert heard(multi_turn(f"{HERE}:echo"), NUMBER, "a", "b", "c", seed=7) == ["n a 1 7", "n b 2 7", None]
    counting = resolve("envs", f"{HERE}:Counting").target  # a file named by its path is a module of its own
    assert heard(multi_turn(f"{HERE}:Counting", step=5), NUMBER, "a", "b") == ["5", "10"]
    assert counting.log == ["open", "close"]
    with pytest.raises(RolloutError, match="a partner said 5, but it must be text"):
        heard(multi_turn(f"{HERE}:mumble"), NUMBER, "a")
    with pytest.raises(RolloutError, match="the partner of a conversation failed: KeyError: 'state'"):
        heard(multi_turn(f"{HERE}:crashes"), NUMBER, "a")


def test_calls_go_to_the_tools_and_everything_else_to_the_partner() -> None:
    env = EnvConfig(name="multi_turn", tools=("calculator",), format="hermes", args={"partner": f"{HERE}:echo"})
    assert heard(env, NUMBER, CALL, "41", CALL, "42") == ["42", "n 41 1 0", "42", "n 42 2 0"]


def test_a_message_that_tools_answered_inside_reaches_the_partner_whole() -> None:
    env = EnvConfig(name="multi_turn", tools=("calculator",), format="code", args={"partner": f"{HERE}:echo"})

    async def main() -> tuple[Reply, Reply]:
        async with EnvMaker(env, None) as make:
            one = make()
            opening = await one.start(NUMBER, 0)
            said = [Message("assistant", text) for text in ("<code>6*7</code>", "is 42")]
            return await one.reply([*opening.messages, said[0]]), await one.reply([*opening.messages, said[1]])

    inside, after = asyncio.run(main())
    assert inside.inline == "\n<output>\n42\n</output>\n"
    assert after.messages[0].content == "n <code>6*7</code>is 42 1 0"


@pytest.mark.parametrize(
    ("env", "error", "reason"),
    [
        (multi_turn("feedbak"), ConfigError, "known: feedback, scripted_user, guessing_game"),
        (EnvConfig(name="multi_turn"), ConfigError, "needs the setting 'partner'"),
        (multi_turn("feedback"), ConfigError, "needs the setting 'verifier'"),
        (multi_turn("feedback", verifier="nmber"), PluginError, "did you mean 'number'"),
        (multi_turn("feedback", verifier="number", tries=0), ConfigError, "at least one is needed"),
        (multi_turn("feedback", verifier="number", message="No."), ConfigError, "has no {reason}"),
        (
            multi_turn("feedback", verifier="number", time=3),
            ConfigError,
            "has no setting 'time'; it has verifier, settings, tries",
        ),
        (multi_turn("guessing_game", guesses=0), ConfigError, "at least one is needed"),
        (multi_turn(f"{HERE}:echo", loud=True), ConfigError, "has no settings, but got loud"),
        (multi_turn(f"{HERE}:HERE"), ConfigError, "a function is needed"),
    ],
)
def test_partners_that_cannot_work_are_refused(env: EnvConfig, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        heard(env, NUMBER)


@pytest.mark.parametrize(
    ("env", "problem", "says"),
    [
        ("single_turn", NUMBER, ("42",)),
        (FEEDBACK, NUMBER, ("41", "40", "42")),
        (GAME, NUMBER, ("50", "41", "42")),
        (multi_turn("scripted_user"), SCRIPT, ("a", "b", "c")),
        (EnvConfig(tools=("calculator",), format="hermes"), NUMBER, (CALL, CALL, "42")),
        (EnvConfig(tools=("calculator",), format="code"), NUMBER, ("<code>1/0</code>", "42")),
        (EnvConfig(name="multi_turn", tools=("calculator",), args=FEEDBACK.args, format="hermes"), NUMBER, (CALL, "41", "42")),
    ],
)
def test_every_environment_of_ours_keeps_the_rules(env: EnvConfig | str, problem: Problem, says: tuple[str, ...]) -> None:
    report = check_env(env, [problem], says=says)
    assert report.conversations > 15
    assert report.replies >= report.conversations
