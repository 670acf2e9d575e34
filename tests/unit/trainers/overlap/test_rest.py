"""Between the last rollout and the update, the plain loop lets an engine rest that can."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from rlvr.engines.base import TrainableEngine
from rlvr.trainers.overlap.pace import InTurn


class Engine:
    policy_version, max_context = 0, 8

    def __init__(self) -> None:
        self.said: list[str] = []

    async def generate(self, prompt_ids: Any, sampling: Any) -> Any:
        raise AssertionError("nothing is asked here")

    def update_weights(self) -> None:
        self.said.append("weights")

    async def close(self) -> None:
        return None


class Resting(Engine):
    def rest(self) -> None:
        self.said.append("rest")


def one_step(engine: Engine) -> list[str]:
    async def run() -> None:
        turn = InTurn(cast(TrainableEngine, engine))
        await turn.compute(lambda: engine.said.append("update"))
        await turn.hand_over()

    asyncio.run(run())
    return engine.said


def test_an_engine_that_can_rests_before_the_update_and_gets_its_weights_after_it() -> None:
    assert one_step(Resting()) == ["rest", "update", "weights"]


def test_any_other_engine_is_left_alone() -> None:
    assert one_step(Engine()) == ["update", "weights"]
