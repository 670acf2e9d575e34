"""What the trainer needs of an engine beyond `generate`."""

from __future__ import annotations

from typing import Protocol

from rlvr.types import Engine


class TrainableEngine(Engine, Protocol):
    """An engine whose weights follow the policy."""

    policy_version: int
    max_context: int  # prompt and completion together, in tokens

    def update_weights(self) -> None:
        """Take over the policy's present weights and raise `policy_version` by one. No request may be in flight."""
        ...

    async def close(self) -> None: ...
