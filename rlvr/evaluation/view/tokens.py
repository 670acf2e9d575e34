"""A rollout token by token: its text, its probability, and whether the policy sampled it."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.errors import EvaluationError, boundary
from rlvr.evaluation.printable import printable
from rlvr.types import JSON, Rollout

MOST_TOKENS = 20_000  # of one rollout; the rest is counted
_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Pieces:
    """Texts of tokens. A token that is a part of a character has an empty text, and the last of its parts the character."""

    texts: tuple[str, ...]
    logprobs: tuple[float | None, ...]  # None where the policy did not sample the token
    left_out: int

    def to_json(self) -> dict[str, JSON]:
        return {"texts": list(self.texts), "logprobs": list(self.logprobs), "left_out": self.left_out}


class TokenTexts:
    """Decodes with the tokenizer of a run; looks for it when it is first needed."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._tokenizer: Any = None
        self._why_not: str | None = None

    def pieces(self, rollout: Rollout) -> Pieces | str:
        """The tokens of a rollout, segments one after the other, or why they cannot be shown."""
        if not any(turn.completion.token_ids for turn in rollout.turns):
            return "no token ids are stored with this rollout: it came from a server or a text that had none"
        if self._tokenizer is None and self._why_not is None:
            self._load()
        if self._tokenizer is None:
            return self._why_not or "there is no tokenizer"
        ids: list[int] = []
        logprobs: list[float | None] = []
        for segment in rollout.segments():
            ids += segment.token_ids
            sampled = zip(segment.loss_mask, segment.sampling_logprobs, strict=True)
            logprobs += [value if is_sampled and math.isfinite(value) else None for is_sampled, value in sampled]
        left_out = max(0, len(ids) - MOST_TOKENS)
        try:
            with boundary(EvaluationError, "the tokens cannot be turned into text"):
                texts = self._texts(ids[:MOST_TOKENS])
        except EvaluationError as error:
            return printable(str(error))
        return Pieces(tuple(texts), tuple(logprobs[:MOST_TOKENS]), left_out)

    def _texts(self, ids: Sequence[int]) -> list[str]:
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=False)
        return [printable(stream.step(self._tokenizer, id) or "") for id in ids]

    def _load(self) -> None:
        path = next((path for folder in self._folders() if (path := folder / _FILE).is_file()), None)
        if path is None:
            self._why_not = (
                f"no {_FILE} lies in the run's checkpoints or in the folder of its model, so token ids cannot be turned into text"
            )
            return
        try:
            with boundary(EvaluationError, f"{path} cannot be read"):
                from tokenizers import Tokenizer

                self._tokenizer = Tokenizer.from_file(str(path))
        except EvaluationError as error:
            self._why_not = f"{printable(str(error))}; `pip install 'rlvr[train]'` brings what reads it"

    def _folders(self) -> list[Path]:
        """Where the tokenizer may be: checkpoints, newest first, and the model that the run started from."""
        return [*sorted((self._run / "checkpoints").glob("step-*"), reverse=True), *self._model_folders()]

    def _model_folders(self) -> list[Path]:
        try:
            with boundary(EvaluationError, "config.toml cannot be read"):
                model = tomllib.loads((self._run / "config.toml").read_text(encoding="utf-8")).get("model")
        except EvaluationError:
            return []
        if not isinstance(model, str):
            return []
        folder = Path(model)
        return [folder, *sorted((folder / "checkpoints").glob("step-*"), reverse=True), *_downloaded(model)]


def _downloaded(model: str) -> list[Path]:
    """The folder of a hub's model on this machine; nothing is fetched."""
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        return []
    try:
        found = try_to_load_from_cache(model, _FILE)
    except HFValidationError:
        return []
    return [Path(found).parent] if isinstance(found, str) else []
