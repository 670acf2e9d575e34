from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from rlvr.envs.renderer import Renderer
from rlvr.errors import ConfigError
from rlvr.types import Completion, FinishReason, Message, Rollout, Turn

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|header|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|header|>assistant\n\n{% endif %}"
)
# Drops the reasoning of all answers but the last message, as Qwen3's and DeepSeek's templates do.
DROPS_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIALS = ("<|bos|>", "<|im_start|>", "<|im_end|>", "<|header|>")
QUESTION = (Message("system", "Be brief."), Message("user", "1+1?"))


def tokenizer_of(template: str | None, *, adds_bos: bool = True) -> Any:
    """One token for each character, and for each special token; like Llama's, it puts a BOS before plain text."""
    characters = sorted({chr(code) for code in range(32, 127)} | {"\n"})
    vocabulary = {text: index for index, text in enumerate([*SPECIALS, *characters])}
    base = Tokenizer(models.WordLevel(vocabulary, unk_token=" "))
    base.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    base.decoder = decoders.Fuse()
    base.add_special_tokens(list(SPECIALS))
    if adds_bos:
        base.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, bos_token="<|bos|>", eos_token="<|im_end|>")
    tokenizer.chat_template = template
    return tokenizer


def answered(tokenizer: Any, prompt_ids: tuple[int, ...], text: str, renderer: Renderer) -> Turn:
    tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
    completion = Completion(tokens, (-1.0,) * len(tokens), FinishReason.STOP)
    return Turn(prompt_ids, completion, renderer.parse(completion))


def two_turns(tokenizer: Any, answer: str, reply: Message) -> tuple[Rollout, str]:
    """A rollout of two turns, and the text of the second prompt."""
    renderer = Renderer(tokenizer)
    first = answered(tokenizer, renderer.prompt_ids(QUESTION), answer, renderer)
    second_prompt = renderer.extend(QUESTION, first, [reply])
    second = answered(tokenizer, second_prompt, "ok<|im_end|>", renderer)
    rollout = Rollout(None, 0, [first, second])  # type: ignore[arg-type]
    return rollout, tokenizer.decode(second_prompt)


def test_a_chat_prompt_is_the_templates_own_text() -> None:
    tokenizer = tokenizer_of(CHATML)
    text = tokenizer.decode(Renderer(tokenizer).prompt_ids(QUESTION))
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(("template", "count"), [(LLAMA, 1), (CHATML, 0), (None, 1)])
def test_there_is_one_bos_where_the_template_writes_it_or_the_prompt_is_plain(template: str | None, count: int) -> None:
    tokenizer = tokenizer_of(template)
    renderer = Renderer(tokenizer)
    prompt = renderer.prompt_ids(QUESTION)
    assert prompt.count(tokenizer.bos_token_id) == count
    assert prompt[0] == tokenizer.bos_token_id or not count
    turn = answered(tokenizer, prompt, "2<|im_end|>", renderer)
    assert renderer.extend(QUESTION, turn, [Message("user", "and 2+2?")]).count(tokenizer.bos_token_id) == count


def test_a_model_without_template_gets_plain_text_and_a_notice() -> None:
    renderer = Renderer(tokenizer_of(None, adds_bos=False))
    assert renderer.name == "plain"
    assert renderer.notice is not None
    assert "no chat template" in renderer.notice
    assert tokenizer_of(None).decode(renderer.prompt_ids(QUESTION)) == "Be brief.\n\n1+1?\n"
    assert Renderer(tokenizer_of(CHATML)).notice is None


@pytest.mark.parametrize("template", [CHATML, LLAMA])
@pytest.mark.parametrize("answer", ["2<|im_end|>", " 2 \n<|im_end|>", "<think>easy</think>2<|im_end|>", "cut off"])
def test_the_next_prompt_begins_with_exactly_the_sampled_tokens(template: str, answer: str) -> None:
    rollout, text = two_turns(tokenizer_of(template), answer, Message("user", "sure?"))
    first, second = rollout.turns
    kept = (*first.prompt_ids, *first.completion.token_ids)
    assert second.prompt_ids[: len(kept)] == kept
    assert text.count("<|im_end|>") == 4 if template == CHATML else text.count("<|im_end|>") >= 3
    assert "<|im_end|><|im_end|>" not in text
    [segment] = rollout.segments()
    sampled = [token for token, is_sampled in zip(segment.token_ids, segment.loss_mask, strict=True) if is_sampled]
    assert sampled == [*first.completion.token_ids, *second.completion.token_ids]


def test_replies_are_rendered_as_the_template_would() -> None:
    tokenizer = tokenizer_of(CHATML)
    _, text = two_turns(tokenizer, "2<|im_end|>", Message("tool", "exit 0"))
    whole = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in (*QUESTION, Message("assistant", "2"), Message("tool", "exit 0"))],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == whole


def test_a_template_that_rewrites_history_begins_a_new_segment() -> None:
    rollout, text = two_turns(tokenizer_of(DROPS_THINKING), "<think>long</think>2<|im_end|>", Message("user", "sure?"))
    assert "long" not in text
    first, second = rollout.segments()
    assert first.token_ids == (*rollout.turns[0].prompt_ids, *rollout.turns[0].completion.token_ids)
    assert second.token_ids == (*rollout.turns[1].prompt_ids, *rollout.turns[1].completion.token_ids)
    assert sum(first.loss_mask) == len(rollout.turns[0].completion.token_ids)
    assert sum(second.loss_mask) == len(rollout.turns[1].completion.token_ids)


def test_an_answer_without_thinking_keeps_the_segment_even_there() -> None:
    rollout, _ = two_turns(tokenizer_of(DROPS_THINKING), "2<|im_end|>", Message("user", "sure?"))
    assert len(rollout.segments()) == 1


def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt() -> None:
    tokenizer = tokenizer_of(None)
    ends = [("<|bos|>", 0), ("<|im_end|>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A <|im_end|>", special_tokens=ends
    )
    assert tokenizer.decode(Renderer(tokenizer).prompt_ids(QUESTION)) == "<|bos|>Be brief.\n\n1+1?\n"


def test_plain_turns_go_on_token_exactly() -> None:
    rollout, text = two_turns(tokenizer_of(None), "2<|im_end|>", Message("user", "and 2+2?"))
    assert text.endswith("1+1?\n2<|im_end|>\nand 2+2?\n")
    assert len(rollout.segments()) == 1


def test_the_end_token_is_not_part_of_the_message() -> None:
    tokenizer = tokenizer_of(CHATML)
    renderer = Renderer(tokenizer)
    assert answered(tokenizer, (1,), "2<|im_end|>", renderer).message == Message("assistant", "2")
    assert answered(tokenizer, (1,), "2", renderer).message == Message("assistant", "2")
    assert answered(tokenizer, (1,), "<|im_end|>", renderer).message == Message("assistant", "")


def test_a_jinja_file_replaces_the_template(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("Q: {{ messages[-1].content }}\nA:")
    tokenizer = tokenizer_of(None)
    renderer = Renderer(tokenizer, str(file))
    assert tokenizer.decode(renderer.prompt_ids(QUESTION)) == "Q: 1+1?\nA:"
    assert renderer.notice is None


def test_wrong_templates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the tokenizer has no chat template; use 'plain'"):
        Renderer(tokenizer_of(None), "chat")
    with pytest.raises(ConfigError, match="neither 'auto', 'chat', 'plain' nor a readable file"):
        Renderer(tokenizer_of(None), str(tmp_path / "missing.jinja"))
    refusing = tmp_path / "refusing.jinja"
    refusing.write_text("{{ raise_exception('no system role') }}")
    with pytest.raises(ConfigError, match=r"refused a conversation of roles \['system', 'user'\].*no system role"):
        Renderer(tokenizer_of(None), str(refusing)).prompt_ids(QUESTION)
