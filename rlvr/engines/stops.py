"""Stop strings, found in the text that tokens decode to, also where they cross token borders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StopFinder:
    """Looks for stop strings at the end of a growing completion."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._may_complete: dict[tuple[int, tuple[str, ...]], bool] = {}

    def may_complete(self, token: int, stop: tuple[str, ...]) -> bool:
        """False when `token` cannot be the last of a stop string: the cheap test before any text is decoded."""
        key = (token, stop)
        known = self._may_complete.get(key)
        if known is None:
            # Twice, because some tokenizers drop the space in front of the first token.
            text = self._text([token, token])
            known = self._may_complete[key] = "\ufffd" in text or any(ending[-1] in text for ending in stop)
        return known

    def window(self, stop: tuple[str, ...]) -> int:
        """How many of the last tokens hold any stop string that the last one completes: a token of it may be a single byte."""
        return max(len(ending.encode()) for ending in stop) + 4

    def is_complete(self, tail: Sequence[int], stop: tuple[str, ...]) -> bool:
        """Whether the text of the last `window` tokens holds a stop string."""
        text = self._text(tail)
        return any(ending in text for ending in stop)

    def _text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text
