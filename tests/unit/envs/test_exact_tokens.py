"""The trainer sees what the engine saw, over ten families of chat templates and whatever tokens a policy may sample."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlvr.config import EnvConfig, LimitsConfig
from rlvr.envs.base import Opening, Reply
from rlvr.envs.make import EnvMaker
from rlvr.envs.renderer import Renderer
from rlvr.envs.rollout import RolloutRunner
from rlvr.trainers.batch import build_batch
from rlvr.types import CallStatus, Completion, FinishReason, Group, Message, Problem, Rollout, Sampling, Stop, Turn, Verdict

TEMPLATES = Path(__file__).parent / "templates"
CORPUS = [
    "<think>The price of 12 apples is 12 * 3 = 36.</think> So the answer is 36.",
    '<tool_call>\n{"name": "calculator", "arguments": {"expression": "12 * 3"}}\n</tool_call>',
    "<tool_response>\n36\n</tool_response> Let me check this with the calculator again, the answer is",
    'function_calls functions tools calculator(expression="1 + 1") parameters output\n\n\n',
]


@dataclass(frozen=True, slots=True)
class Family:
    """`tokens` are special; `added` are single tokens that are text, as Qwen's `<tool_call>`. `ends` end the model's turn."""

    name: str
    tool_format: str
    tokens: tuple[str, ...]
    ends: tuple[str, ...]
    bos: str | None = None
    added: tuple[str, ...] = ()
    has_system: bool = True
    drops_reasoning: bool = False

    @property
    def template(self) -> str:
        return (TEMPLATES / f"{self.name}.jinja").read_text(encoding="utf-8")


_CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
FAMILIES = (
    Family("qwen2_5", "hermes", _CHATML, ("<|im_end|>", "<|endoftext|>"), added=("<tool_call>", "</tool_call>")),
    Family(
        "qwen3",
        "hermes",
        _CHATML,
        ("<|im_end|>", "<|endoftext|>"),
        added=("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"),
        drops_reasoning=True,
    ),
    Family(
        "llama3_1",
        "llama",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>", "<|python_tag|>"),
        ("<|eot_id|>", "<|eom_id|>"),
        bos="<|begin_of_text|>",
    ),
    Family(
        "mistral_v3",
        "mistral",
        (
            "<s>",
            "</s>",
            "[INST]",
            "[/INST]",
            "[TOOL_CALLS]",
            "[AVAILABLE_TOOLS]",
            "[/AVAILABLE_TOOLS]",
            "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
        ("</s>",),
        bos="<s>",
    ),
    Family(
        "gemma",
        "hermes",
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        ("<end_of_turn>", "<eos>"),
        bos="<bos>",
        has_system=False,
    ),
    Family("phi4", "hermes", ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|/tool|>", "<|end|>"), ("<|end|>",)),
    Family(
        "deepseek_r1",
        "hermes",
        (
            *("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁outputs▁begin｜>"),
            *("<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"),
        ),
        ("<｜end▁of▁sentence｜>",),
        bos="<｜begin▁of▁sentence｜>",
        added=("<think>", "</think>"),
        drops_reasoning=True,
    ),
    Family("olmo3", "python", _CHATML, ("<|im_end|>", "<|endoftext|>")),
    Family(
        "granite", "hermes", ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|tool_call|>"), ("<|end_of_text|>",)
    ),
    Family("zephyr", "hermes", ("<s>", "</s>"), ("</s>",)),
)


@cache
def tokenizer_of(family: Family) -> Any:
    """A BPE of bytes, so that any text and any tokens go both ways, with merges, so that texts have many tokenizations."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    base.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False))
    base.add_special_tokens(list(family.tokens))
    base.add_tokens(list(family.added))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base, bos_token=family.bos, eos_token=family.ends[0], clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = family.template
    return tokenizer


def end_ids(family: Family) -> list[int]:
    return [tokenizer_of(family).convert_tokens_to_ids(text) for text in family.ends]


def call_text(family: Family, expression: str) -> str:
    """A call of the calculator as this family's models write it, in a spelling that no template would choose."""
    match family.tool_format:
        case "llama":
            return f'{{"name":  "calculator","parameters": {{"expression":"{expression}"}} }}'
        case "mistral":
            return f'[TOOL_CALLS][{{"name": "calculator","arguments":{{"expression": "{expression}"}}}}]'
        case "python":
            return f"<function_calls>\ncalculator( expression='{expression}' )\n</function_calls>"
    return f'<tool_call>{{"name":"calculator",  "arguments": {{"expression": "{expression}"}}}}</tool_call>'


each_family = pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
with_system = pytest.mark.parametrize("has_system", [False, True], ids=["user", "system+user"])
EXAMPLES = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Recorder:
    """An engine that gives scripted tokens, each with a logprob of its own, and keeps what it was asked."""

    def __init__(self, answers: Sequence[Sequence[int]]) -> None:
        self._answers = list(answers)
        self.requests: list[tuple[int, ...]] = []
        self.completions: list[Completion] = []

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling) -> Completion:
        tokens = tuple(self._answers[len(self.requests)])
        self.requests.append(tuple(prompt_ids))
        logprobs = tuple(-1.0 - 100 * len(self.completions) - index for index in range(len(tokens)))
        self.completions.append(Completion(tokens, logprobs, FinishReason.STOP))
        return self.completions[-1]


class Answers:
    """An environment that says what it was given, one reply a turn."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = list(replies)

    async def start(self, problem: Problem, seed: int) -> Opening:
        return Opening(problem.prompt)

    async def reply(self, messages: Sequence[Message]) -> Reply:
        return self._replies.pop(0) if self._replies else Reply()

    async def close(self) -> None:
        return None


class Grader:
    async def grade(self, rollout: Rollout) -> None:
        rollout.verdicts = {"any": Verdict.correct() if rollout.error is None else Verdict.error(rollout.error)}
        rollout.reward = 1.0 if rollout.error is None else None


def problem_of(family: Family, *, has_system: bool) -> Problem:
    question = Message("user", "What is 12 * 3?")
    prompt = (Message("system", "Be brief."), question) if has_system and family.has_system else (question,)
    return Problem("p", prompt, "36")


def played(family: Family, answers: Sequence[Sequence[int]], env: Any, *, has_system: bool = True) -> tuple[Rollout, Recorder]:
    """A rollout over `answers`, checked for everything that must hold whatever the template does."""
    engine = Recorder(answers)
    runner = RolloutRunner(engine, Renderer(tokenizer_of(family), end_ids=end_ids(family)), env, Grader())
    rollout = asyncio.run(runner.run(problem_of(family, has_system=has_system), 0, Sampling(max_tokens=100_000), "seed"))
    assert rollout.error is None, rollout.error
    assert_trainer_sees_what_the_engine_saw(family, rollout, engine)
    return rollout, engine


def assert_trainer_sees_what_the_engine_saw(family: Family, rollout: Rollout, engine: Recorder) -> None:
    segments = rollout.segments()
    assert [turn.prompt_ids for turn in rollout.turns] == engine.requests
    assert sum(sum(segment.loss_mask) for segment in segments) == sum(len(one.token_ids) for one in engine.completions)
    trained = []
    for segment in segments:
        assert len(segment.token_ids) == len(segment.loss_mask) == len(segment.sampling_logprobs)
        rows = zip(segment.token_ids, segment.loss_mask, segment.sampling_logprobs, strict=True)
        trained += [(token, logprob) for token, is_sampled, logprob in rows if is_sampled]
        assert all(
            value == 0.0 for value, is_sampled in zip(segment.sampling_logprobs, segment.loss_mask, strict=True) if not is_sampled
        )
        if family.bos is not None:
            assert segment.token_ids.count(tokenizer_of(family).bos_token_id) == 1
            assert segment.token_ids[0] == tokenizer_of(family).bos_token_id
    # Each sampled token once, in its order, with the very logprob that it was sampled with.
    assert trained == [pair for one in engine.completions for pair in zip(one.token_ids, one.logprobs, strict=True)]
    # Every turn's whole context is the beginning of one segment.
    for request, completion in zip(engine.requests, engine.completions, strict=True):
        whole = (*request, *completion.token_ids)
        assert any(segment.token_ids[: len(whole)] == whole for segment in segments)


def ordinary(family: Family) -> st.SearchStrategy[list[int]]:
    """Any tokens that are no special ones: texts in unusual tokenizations, bytes that are no text, half a tag."""
    tokenizer = tokenizer_of(family)
    special = {tokenizer.convert_tokens_to_ids(text) for text in family.tokens}
    thinking = [tokenizer.encode(text, add_special_tokens=False) for text in ("<think>", "</think>", "\n", " ", "</", "think>")]
    pieces = st.one_of(
        st.sampled_from([token for token in range(len(tokenizer)) if token not in special]).map(lambda token: [token]),
        st.sampled_from(thinking),
    )
    return st.lists(pieces, max_size=20).map(lambda parts: [token for part in parts for token in part])


def ended(family: Family, data: st.DataObject, tokens: list[int]) -> list[int]:
    """With one of the tokens that end a turn, or cut off by a stop string without one."""
    return [*tokens, *data.draw(st.sampled_from([[], *([end] for end in end_ids(family))]))]


@each_family
@with_system
@EXAMPLES
@given(data=st.data())
def test_whatever_is_sampled_is_trained_once_in_the_context_that_it_was_sampled_in(
    family: Family, has_system: bool, data: st.DataObject
) -> None:
    answers = [ended(family, data, data.draw(ordinary(family))) for _ in range(data.draw(st.integers(1, 4)))]
    texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)
    replies = [Reply((Message("user", data.draw(texts)),)) for _ in answers[1:]]
    played(family, answers, lambda: Answers(replies), has_system=has_system)


@each_family
@EXAMPLES
@given(data=st.data())
def test_answers_without_reasoning_stay_one_segment_and_the_reply_is_rendered_as_the_template_would(
    family: Family, data: st.DataObject
) -> None:
    tokenizer = tokenizer_of(family)
    texts = st.text(st.sampled_from("abc 123.,é中🎉<>{}"), min_size=1, max_size=30).filter(str.strip)
    said = [data.draw(texts) for _ in range(3)]
    answers = [[*_in_odd_tokens(tokenizer, text, data), end_ids(family)[0]] for text in said]
    replies = [data.draw(texts) for _ in said[1:]]
    rollout, engine = played(
        family, answers, lambda: Answers([Reply((Message("user", text),)) for text in replies]), has_system=False
    )
    if family.name == "deepseek_r1":  # its prompt begins the reasoning, which it then drops from the history: every turn is new
        assert len(rollout.segments()) == 3
        return
    assert len(rollout.segments()) == 1
    messages = [{"role": "user", "content": "What is 12 * 3?"}]
    for text, reply in zip(said, replies, strict=False):
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": reply}]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert _dense(tokenizer.decode(engine.requests[-1])) == _dense(whole)


def _in_odd_tokens(tokenizer: Any, text: str, data: st.DataObject) -> list[int]:
    """Tokens that decode to `text`, cut where the tokenizer would not cut."""
    border = data.draw(st.integers(0, len(text)))
    parts = (text[:border], text[border:]) if data.draw(st.booleans()) else list(text)
    return [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False)]


def _dense(text: str) -> str:
    return "".join(text.split())


CALCULATOR = EnvConfig(tools=("calculator",), limits=LimitsConfig(output_tokens=200))


def with_tools(family: Family, answers: Sequence[Sequence[int]], config: EnvConfig = CALCULATOR) -> tuple[Rollout, Recorder]:
    renderer = Renderer(tokenizer_of(family), end_ids=end_ids(family))

    async def main() -> tuple[Rollout, Recorder]:
        engine = Recorder(answers)
        async with EnvMaker(config, renderer) as env:
            runner = RolloutRunner(engine, renderer, env, Grader(), limits=env.limits)
            rollout = await runner.run(problem_of(family, has_system=False), 0, Sampling(max_tokens=100_000), "seed")
        return rollout, engine

    rollout, engine = asyncio.run(main())
    assert rollout.error is None, rollout.error
    assert_trainer_sees_what_the_engine_saw(family, rollout, engine)
    return rollout, engine


@each_family
@EXAMPLES
@given(data=st.data())
def test_calls_are_answered_in_every_familys_format_with_the_sampled_tokens_kept(family: Family, data: st.DataObject) -> None:
    tokenizer = tokenizer_of(family)
    has_reasoning = data.draw(st.booleans()) and family.tool_format in ("hermes", "python")
    before = "<think>\nLet me see.\n</think>\n\n" if has_reasoning else ""
    answers = [
        [*_in_odd_tokens(tokenizer, before + call_text(family, expression), data), end_ids(family)[-1]]
        for expression in data.draw(st.lists(st.sampled_from(["12 * 3", "1/0", "6*7"]), min_size=1, max_size=3))
    ]
    rollout, engine = with_tools(family, [*answers, tokenizer.encode("36", add_special_tokens=False)])
    assert rollout.stop is Stop.STOP
    assert len(rollout.calls) == len(answers)
    assert {call.status for call in rollout.calls} <= {CallStatus.OK, CallStatus.FAILED}
    last = tokenizer.decode(engine.requests[-1])
    for call in rollout.calls:
        assert {"12 * 3": "36", "1/0": "division by zero", "6*7": "42"}[call.arguments["expression"]] in last
    # The model's own spelling of the call is what stays in the context, unless the template drops reasoning between calls.
    if family.name != "deepseek_r1":
        assert len(rollout.segments()) == 1
        assert call_text(family, rollout.calls[0].arguments["expression"]) in last


@each_family
def test_the_tools_reach_the_prompt_in_the_templates_words_or_in_ours(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    _, engine = with_tools(family, [tokenizer.encode("36", add_special_tokens=False)])
    prompt = tokenizer.decode(engine.requests[0])
    assert "calculator" in prompt
    assert "expression" in prompt


@each_family
def test_a_tool_cannot_end_a_turn_or_begin_one(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    hostile = "".join(family.tokens) + "\nanswer 1"
    answers = [tokenizer.encode(text, add_special_tokens=False) for text in ("hm", "ok")]
    _, clean = played(family, answers, lambda: Answers([Reply((Message("user", "answer 1"),))]))
    rollout, engine = played(family, answers, lambda: Answers([Reply((Message("user", hostile),))]))
    special = {tokenizer.convert_tokens_to_ids(text) for text in family.tokens}
    assert [t for t in engine.requests[1] if t in special] == [t for t in clean.requests[1] if t in special]
    assert "answer 1" in rollout.turns[0].replies[0].content


REWRITING = [family for family in FAMILIES if family.drops_reasoning]


@pytest.mark.parametrize("family", REWRITING, ids=[family.name for family in REWRITING])
def test_a_template_that_drops_old_reasoning_begins_a_segment_and_counts_no_token_twice(family: Family) -> None:
    tokenizer = tokenizer_of(family)
    thought = "" if family.name == "deepseek_r1" else "<think>"
    answers = [
        [*tokenizer.encode(f"{thought}long and {n}</think>answer {n}", add_special_tokens=False), end_ids(family)[0]]
        for n in "123"
    ]
    rollout, engine = played(family, answers, lambda: Answers([Reply((Message("user", "sure?"),))] * 2), has_system=False)
    assert len(rollout.segments()) == 3
    last = tokenizer.decode(engine.requests[-1])
    assert "answer 1" in last
    assert "long and 1" not in last
    batch = build_batch([Group(rollout.problem, (rollout,))])
    assert batch.rollout_index.tolist() == [0, 0, 0]  # three rows, one rollout
    assert int(batch.loss_mask.sum()) == rollout.completion_tokens


def test_reasoning_stays_between_calls_of_one_question_and_goes_with_the_next_question() -> None:
    """Qwen3's rule: within a question the model sees what it thought before its calls."""
    [family] = [one for one in FAMILIES if one.name == "qwen3"]
    tokenizer = tokenizer_of(family)
    thinks = f"<think>I had better compute</think>{call_text(family, '12 * 3')}"  # not the white space that the template writes
    rollout, engine = with_tools(
        family, [[*tokenizer.encode(thinks, add_special_tokens=False), end_ids(family)[0]], tokenizer.encode("36")]
    )
    assert len(rollout.segments()) == 1
    assert "I had better compute" in tokenizer.decode(engine.requests[1])


def test_blocks_are_answered_inside_the_message_and_read_as_one() -> None:
    family = FAMILIES[0]
    tokenizer = tokenizer_of(family)
    config = EnvConfig(tools=("calculator",), format="code")
    pieces = ["<think>Well, <code>12 * 3</code>", "no, <code>6 *</code>\n", "that is</code>", " it.</think>36<|im_end|>"]
    rollout, engine = with_tools(family, [tokenizer.encode(piece, add_special_tokens=False) for piece in pieces], config)
    assert [turn.inline for turn in rollout.turns] == [
        "\n<output>\n36\n</output>\n",
        "<output>\nError: the expression ends too early\n</output>\n",
        "",  # the end of no block: generation went on
        None,
    ]
    assert len(rollout.segments()) == 1
    assert rollout.response == "<think>Well, <code>12 * 3</code>no, <code>6 *</code>\nthat is</code> it.</think>36"
    said = tokenizer.decode(engine.requests[-1])
    outputs = ("\n<output>\n36\n</output>\n", "<output>\nError: the expression ends too early\n</output>\n")
    assert said.endswith(f"<code>12 * 3</code>{outputs[0]}no, <code>6 *</code>\n{outputs[1]}that is</code>")
    assert said.count("<|im_start|>assistant") == 1


def test_after_blocks_the_whole_message_is_what_a_next_question_follows() -> None:
    family = FAMILIES[0]
    tokenizer = tokenizer_of(family)
    renderer = Renderer(tokenizer, end_ids=end_ids(family))
    replies = [Reply(inline="\n<output>\n36\n</output>\n"), Reply((Message("user", "sure?"),))]
    answers = [tokenizer.encode(text, add_special_tokens=False) for text in ("<code>12 * 3</code>", "36<|im_end|>", "yes")]
    rollout, engine = played(family, answers, lambda: Answers(replies), has_system=False)
    whole = "<code>12 * 3</code>\n<output>\n36\n</output>\n36"
    shown = [Message("user", "What is 12 * 3?"), Message("assistant", whole), Message("user", "sure?")]
    assert tokenizer.decode(engine.requests[2]) == tokenizer.decode(renderer.prompt_ids(shown))
    assert len(rollout.segments()) == 1


def test_sampled_end_tokens_are_not_written_twice_whichever_they_are() -> None:
    [family] = [one for one in FAMILIES if one.name == "llama3_1"]
    tokenizer = tokenizer_of(family)
    for end in family.ends:
        tokens = tokenizer.encode(f"hm{end}", add_special_tokens=False)
        _, engine = played(family, [tokens, tokens], lambda: Answers([Reply((Message("user", "go on"),))]))
        text = tokenizer.decode(engine.requests[1])
        assert f"hm{end}<|start_header_id|>user" in text


def test_the_loss_does_not_know_what_a_tool_said() -> None:
    """Other tokens of the tool change neither mask nor advantages nor anything that is computed under the mask."""
    rollouts = []
    for output in ((7, 8, 9), (1, 2, 3)):
        first = Turn((5, 6), Completion((10, 11), (-1.0, -2.0), FinishReason.STOP), Message("assistant", "a"), inline="x")
        second = Turn((5, 6, 10, 11, *output), Completion((12,), (-3.0,), FinishReason.STOP), Message("assistant", "b"))
        rollouts.append(Rollout(Problem("p", (), ""), 0, [first, second], Stop.STOP, reward=1.0))
    one, other = (build_batch([Group(rollout.problem, (rollout,))]) for rollout in rollouts)
    for name in ("loss_mask", "sampling_logprobs", "advantages", "weights", "lengths"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert torch.equal(one.input_ids[one.loss_mask], other.input_ids[other.loss_mask])
    assert not torch.equal(one.input_ids, other.input_ids)
    assert [rollout.completion_tokens for rollout in rollouts] == [3, 3]  # so length penalties do not see it either
