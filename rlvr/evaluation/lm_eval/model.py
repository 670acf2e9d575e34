"""Our engines as a model of lm-evaluation-harness: `python -m rlvr.evaluation.lm_eval run --model rlvr ...`.

Source: lm-eval 0.4.13, `lm_eval/api/model.py` (what a `TemplateLM` must do), `lm_eval/models/huggingface.py` (how prompts that do
not fit are cut, how generations end) and `lm_eval/utils.py` (windows of a rolling likelihood).
"""

from __future__ import annotations

import asyncio
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from pydantic import ValidationError
from tqdm import tqdm

from rlvr.config import EngineConfig, ModelConfig
from rlvr.engines.load import load_model
from rlvr.engines.make import make_engine
from rlvr.errors import ConfigError
from rlvr.evaluation.lm_eval.likelihood import Continuation, LikelihoodScorer
from rlvr.registry import resolve
from rlvr.seeding import seed as seed_of
from rlvr.types import Sampling

T = TypeVar("T")
_MOST_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_THEIR_DEVICE = "cuda:0"  # what lm-eval passes where nobody asked for a device, also on machines that have none
_WITHOUT_EFFECT = {"num_beams": 1, "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0}


@register_model("rlvr")
class RlvrModel(TemplateLM):  # type: ignore[misc]
    """A model behind one of our engines. `engine` generates; likelihoods are computed from the same weights.

    `pretrained` is a folder, a hub name or a run folder (its newest checkpoint). `max_rows` is how many sequences the engine
    decodes together, `max_length` the context, `seed` that of sampled answers: repeats of a prompt are drawn apart, and equal
    seeds give equal answers. lm-eval always passes `batch_size` and `max_batch_size`; nothing depends on them here.

    Raises:
        ConfigError, PluginError, CheckpointError, EngineError: the model or the engine cannot be had.
    """

    def __init__(
        self,
        pretrained: str,
        *,
        engine: str = "native",
        device: str | None = None,
        precision: str = "auto",
        attention: str = "auto",
        max_rows: int = 256,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        seed: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        if hasattr(resolve("engines", engine).target, "chat"):
            raise ConfigError(
                f"engine={engine} takes messages, not tokens; use lm-eval's own local-chat-completions for a server"
            )
        where = "auto" if device in (None, _THEIR_DEVICE) else device
        try:
            load = ModelConfig.model_validate({"device": where, "precision": precision, "attention": attention})
            made = EngineConfig(name=engine, max_rows=max_rows, args={} if max_length is None else {"max_context": max_length})
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, one['loc']))} = {one['input']!r}: {one['msg']}" for one in error.errors())
            raise ConfigError(f"model_args: {said}") from error
        self._loaded = load_model(pretrained, load)
        self._engine = make_engine(made, self._loaded)
        self.tokenizer = self._loaded.tokenizer
        self.max_length = self._engine.max_context
        self.max_gen_toks = max_gen_toks
        self._seed = seed
        self._device = self._loaded.device
        self._drawn: Counter[str] = Counter()  # how often a prompt was answered
        self._before, self._start = _added(self.tokenizer)
        autocast = torch.bfloat16 if self._loaded.precision == "bf16" else None
        self._scorer = LikelihoodScorer(self._loaded.model, max_context=self.max_length, autocast=autocast)
        # One event loop for the model's whole life, in a thread of its own: lm-eval may itself be called from a loop.
        self._runner, self._thread = asyncio.Runner(), ThreadPoolExecutor(1, thread_name_prefix="rlvr-lm-eval")
        self._close = weakref.finalize(self, _close, self._runner, self._thread, self._engine.close)

    def close(self) -> None:
        """End the engine. It also ends with the process."""
        self._close()

    @property
    def eot_token_id(self) -> int:
        return min(self._loaded.end_ids)

    @property
    def prefix_token_id(self) -> int:
        """What a text without context is conditioned on: the beginning-of-sequence token, or else the end."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not self.tokenizer.chat_template:
            raise ConfigError(f"{self._loaded.path} has no chat template; leave --apply_chat_template out")
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """What the tokenizer puts in front of a text stands there once, also where a chat template has written it already."""
        ids: list[int] = self.tokenizer(string, add_special_tokens=False)["input_ids"]
        if add_special_tokens is False or (self._start and string.startswith(self._start)):
            return ids
        return [*self._before, *ids]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        asked = [(str(request.args[0]), dict(request.args[1])) for request in requests]
        wanted = [self._wanted(context, settings) for context, settings in asked]
        progress = tqdm(total=len(wanted), disable=disable_tqdm, desc="rlvr: generate_until")

        async def answer(prompt: Sequence[int], sampling: Sampling) -> str:
            completion = await self._engine.generate(prompt, sampling)
            progress.update()
            text: str = self.tokenizer.decode(
                list(completion.token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            return text[: min((text.index(end) for end in sampling.stop if end in text), default=len(text))]

        async def everything() -> list[str]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(prompt, sampling)) for prompt, sampling in wanted]
            return [task.result() for task in tasks]

        try:
            texts = self._run(everything)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        finally:
            progress.close()
        for one, text in zip(asked, texts, strict=True):
            self.cache_hook.add_partial("generate_until", one, text)
        return texts

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        texts = [str(request.args[0]) for request in requests]
        windows: list[Continuation] = []
        owner: list[int] = []
        for index, text in enumerate(texts):
            found = get_rolling_token_windows(
                self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            for before, after in map(make_disjoint_window, found):
                windows.append(Continuation(tuple(before), tuple(after)))
                owner.append(index)
        totals = [0.0] * len(texts)
        for index, one in zip(owner, self._scored(windows, "loglikelihood_rolling", is_silent=disable_tqdm), strict=True):
            totals[index] += one[0]
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [Continuation(tuple(context), tuple(text)) for _, context, text in requests]
        found = self._scored(pairs, "loglikelihood", is_silent=disable_tqdm)
        for (texts, _, _), one in zip(requests, found, strict=True):
            if texts[0] is not None:
                self.cache_hook.add_partial("loglikelihood", texts, one)
        return found

    def _scored(self, pairs: Sequence[Continuation], what: str, *, is_silent: bool) -> list[tuple[float, bool]]:
        with tqdm(total=len(pairs), disable=is_silent, desc=f"rlvr: {what}") as progress:
            return [(one.logprob, one.is_greedy) for one in self._scorer.score(pairs, progress.update)]

    def _wanted(self, context: str, settings: dict[str, Any]) -> tuple[list[int], Sampling]:
        """A request as the engine takes it; a prompt that does not fit loses its beginning, as in lm-eval's own models."""
        sampling = sampling_of(settings, max_tokens=self.max_gen_toks)
        room = self.max_length - sampling.max_tokens
        if room < 1:
            raise ConfigError(
                f"max_gen_toks = {sampling.max_tokens}, but the context holds {self.max_length} tokens, prompt included; "
                "set --gen_kwargs max_gen_toks=... lower"
            )
        self._drawn[context] += 1
        seed = seed_of("lm-eval", self._seed, context, self._drawn[context])
        ids = self.tok_encode(context) or [self.prefix_token_id]
        return ids[-room:], replace(sampling, seed=seed)

    def _run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._thread.submit(lambda: self._runner.run(main())).result()


def sampling_of(settings: Mapping[str, Any], *, max_tokens: int) -> Sampling:
    """lm-eval's generation settings as ours. Without `do_sample` the temperature decides, and without that answers are greedy.

    Raises:
        ConfigError: a setting that the engine does not have, and that would change answers.
    """
    left = dict(settings)
    limits = [value for name in _MOST_TOKENS if (value := left.pop(name, None)) is not None]
    until = left.pop("until", None) or ()
    is_sampled, temperature = left.pop("do_sample", None), left.pop("temperature", None)
    if is_sampled is None:
        is_sampled = bool(temperature)
    drawn = {name: left.pop(name) for name in ("top_p", "top_k", "min_p") if name in left}
    for name, value in left.items():
        if name not in _WITHOUT_EFFECT or value != _WITHOUT_EFFECT[name]:
            raise ConfigError(
                f"generation setting {name} = {value!r}: our engines have none; they have temperature, top_p, top_k, min_p, "
                "until, max_gen_toks"
            )
    return Sampling(
        max_tokens=int(limits[0]) if limits else max_tokens,
        temperature=float(1.0 if temperature is None else temperature) if is_sampled else 0.0,
        top_p=float(drawn.get("top_p") or 1.0),
        top_k=max(0, int(drawn.get("top_k") or 0)),
        min_p=float(drawn.get("min_p") or 0.0),
        stop=tuple(end for end in ([until] if isinstance(until, str) else until) if end),
    )


def _added(tokenizer: Any) -> tuple[list[int], str]:
    """The tokens that a tokenizer puts in front of any text, and how they are written."""
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer("a")["input_ids"]
    if whole == plain or not plain:
        return [], ""
    starts = [index for index in range(len(whole) - len(plain) + 1) if whole[index : index + len(plain)] == plain]
    before = whole[: starts[0]] if starts else []
    return before, tokenizer.decode(before, skip_special_tokens=False) if before else ""


def _close(runner: asyncio.Runner, thread: ThreadPoolExecutor, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    def end() -> None:
        runner.run(close())
        runner.close()

    thread.submit(end).result()
    thread.shutdown()
