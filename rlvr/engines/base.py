"""What the trainer needs of an engine beyond `generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from rlvr.types import Engine


@dataclass(frozen=True, slots=True)
class WeightUpdate:
    """How an update of an engine's weights went: the gap between its logprobs and the trainer's afterwards, and its seconds.

    `restarts`: how often an instance of the engine died and was brought back in this run.
    """

    gap_mean: float
    gap_max: float
    elapsed_s: float
    restarts: int = 0

    def metrics(self) -> dict[str, float]:
        """What stands of it in the step's metrics."""
        return {
            "engine_gap_mean": self.gap_mean,
            "engine_gap_max": self.gap_max,
            "engine_restarts": self.restarts,
            "time_weights_s": self.elapsed_s,
        }


class TrainableEngine(Engine, Protocol):
    """An engine whose weights follow the policy."""

    policy_version: int
    max_context: int  # prompt and completion together, in tokens

    def update_weights(self) -> WeightUpdate | None:
        """Take over the policy's present weights and raise `policy_version` by one. No request may be in flight.

        None: the engine computes with the policy's own weights, so that there is nothing to compare.
        """
        ...

    async def close(self) -> None:
        """Give back what it holds. Called exactly once, also after an error."""
        ...


@runtime_checkable
class PushedEngine(TrainableEngine, Protocol):
    """An engine that generates in another process, and takes weights between its decoding steps."""

    def push_weights(self) -> WeightUpdate | None:
        """Like `update_weights`, with requests in flight: they go on with the new weights, and their tokens name their version.

        It blocks until the weights are there: for a thread beside the event loop that asks `generate`.
        """
        ...


@runtime_checkable
class RestingEngine(TrainableEngine, Protocol):
    """An engine that has memory to give back while the trainer updates."""

    def rest(self) -> None:
        """Nothing is asked until the next `update_weights`. No request may be in flight."""
        ...
