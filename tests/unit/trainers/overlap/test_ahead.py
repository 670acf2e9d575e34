"""The bounded queue of groups: with simulated rollouts of any length, nothing too old is ever trained on."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from rlvr.config import load_recipe
from rlvr.filtering.curriculum import Course, StarvedError, Uniform
from rlvr.filtering.posterior import SolveRates
from rlvr.seeding import rng
from rlvr.trainers.algorithms import build
from rlvr.trainers.model.distributed import World
from rlvr.trainers.overlap.ahead import AheadCollector
from rlvr.trainers.overlap.staleness import oldest_version, staleness_metrics
from rlvr.trainers.overlap.timeline import Timeline
from rlvr.trainers.rollouts import Collected
from rlvr.types import Completion, FinishReason, Group, Message, Problem, Rollout, Sampling, Stop, Turn, Verdict

PROBLEMS = tuple(Problem(f"p{i}", (Message("user", str(i)),), "") for i in range(40))
Lasts = Callable[[str], int]
T = TypeVar("T")


class Runner:
    """Stands for the rollout loop: a group lasts so many turns of the event loop, and may see weights change meanwhile."""

    def __init__(self, lasts: Lasts, *, has_signal: Callable[[str], bool] = lambda name: True) -> None:
        self._lasts, self._has_signal = lasts, has_signal
        self.version, self.turn_s = 0, 0.0
        self.asked: list[tuple[str, tuple[Any, ...]]] = []
        self.most_in_flight = self._in_flight = 0

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: Any, first: int = 0) -> Group:
        self.asked.append((problem.id, seed_parts))
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        begun = self.version
        try:
            for _ in range(self._lasts(f"{problem.id}{seed_parts}")):
                await asyncio.sleep(self.turn_s)
        finally:
            self._in_flight -= 1
        return Group(problem, tuple(self._rollout(problem, index, (begun, self.version)) for index in range(first, first + n)))

    def _rollout(self, problem: Problem, index: int, versions: tuple[int, int]) -> Rollout:
        mixed = versions if versions[0] != versions[1] else None
        completion = Completion((5, 6), (-1.0, -1.0), FinishReason.STOP, versions[0], token_versions=mixed)
        rollout = Rollout(problem, index, [Turn((1,), completion, Message("assistant", ""))], Stop.STOP)
        score = float(index == 0 and self._has_signal(problem.id))
        rollout.verdicts, rollout.reward = {"v": Verdict.correct() if score else Verdict.incorrect()}, score
        return rollout


class Tick:
    """A clock that nothing but the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(
    runner: Runner,
    *,
    staleness: int,
    steps: int,
    curriculum: Any = None,
    clock: Any = None,
    world: Any = None,
    **rollout: Any,
) -> AheadCollector:
    settings = {"group_size": 2, "problems_per_step": 4, "max_staleness": staleness, **rollout}
    recipe = load_recipe({"model": "m", "task": "t", "steps": steps, "rollout": settings})
    rates = SolveRates((problem.id for problem in PROBLEMS), half_life=50.0)
    course = Course(PROBLEMS, rates, 2, steps)
    return AheadCollector(
        runner,  # type: ignore[arg-type]
        curriculum or Uniform(course),
        build("dapo").bind(max_tokens=10),
        recipe,  # type: ignore[arg-type]
        Sampling(max_tokens=10),
        world or World(),
        rates,
        problems=PROBLEMS,
        version=0,
        timeline=Timeline(Path("unused"), clock or Tick()),
    )


async def train(collector: AheadCollector, runner: Runner, steps: range, update: Callable[[int], int]) -> list[Collected]:
    """The loop's side: take a step's groups, compute for so many turns, push the weights."""
    found = []
    for step in steps:
        found.append(await asyncio.wait_for(collector.collect(step), 120))
        for _ in range(update(step)):
            await asyncio.sleep(0)
        runner.version = step + 1
        collector.arrived(step + 1)
    return found


def random_durations(seed: int, longest: int) -> Lasts:
    def lasts(name: str) -> int:
        draw = rng("duration", seed, name)
        return draw.randint(0, 5) if draw.random() < 0.8 else draw.randint(0, longest)

    return lasts


class Hall:
    """Where ranks that are threads of this process meet."""

    def __init__(self, size: int) -> None:
        self.size, self.parts = size, [[] for _ in range(size)]  # type: ignore[var-annotated]
        self.barrier = threading.Barrier(size, timeout=120)


class Member(World):
    """The world as one of them sees it."""

    def __init__(self, hall: Hall, rank: int) -> None:
        object.__setattr__(self, "hall", hall)
        super().__init__(rank, hall.size)

    def gather_lists(self, part: Any) -> list[list[Any]]:
        hall: Hall = self.hall  # type: ignore[attr-defined]
        hall.parts[self.rank] = list(part)
        hall.barrier.wait()
        found = list(hall.parts)
        hall.barrier.wait()
        return found


def on_ranks(size: int, work: Callable[[World], T]) -> list[T]:
    hall = Hall(size)
    with ThreadPoolExecutor(size) as executor:
        return list(executor.map(lambda rank: work(Member(hall, rank)), range(size)))


def picture(found: Sequence[Collected]) -> list[Any]:
    """What ranks must agree on."""
    return [
        [[(group.problem.id, oldest_version(group)) for group in part] for part in (one.kept, one.groups, one.expired)]
        for one in found
    ]


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_ranks_agree_on_every_step_whatever_ends_where_and_each_samples_its_share(staleness: int, seed: int) -> None:
    runners: list[Runner] = []

    def work(world: World) -> list[Collected]:
        def signal(name: str) -> bool:
            return rng(seed, name).random() < 0.7

        runner = Runner(random_durations(seed * 10 + world.rank, 3000), has_signal=signal)
        runners.append(runner)
        collector = make(runner, staleness=staleness, steps=8, max_refills=50, world=world)
        return asyncio.run(train(collector, runner, range(8), lambda step: rng(seed, step, world.rank).randint(0, 2000)))

    first, *others = on_ranks(3, work)
    assert all(picture(found) == picture(first) for found in others)
    for step, one in enumerate(first):
        assert len(one.kept) == 4
        assert all(0 <= step - (oldest_version(group) or 0) <= staleness for group in one.kept)
        assert not one.expired
    asked = [name for runner in runners for name in runner.asked]
    assert len(set(asked)) == len(asked)  # nothing twice, and nothing on two ranks
    assert max(len(runner.asked) for runner in runners) < len(asked) / 2
    assert sum(len(one.groups) for one in first) <= len(asked)


class Gated(Runner):
    """The first two groups end at once. Those after them end without signal, when the gate opens; then all is as usual."""

    def __init__(self) -> None:
        super().__init__(lambda name: 1)
        self.gate = asyncio.Event()

    async def run_group(self, problem: Problem, n: int, sampling: Sampling, *seed_parts: Any, first: int = 0) -> Group:
        waits = len(self.asked) >= 2 and not self.gate.is_set()
        found = await super().run_group(problem, n, sampling, *seed_parts, first=first)
        if waits:
            await self.gate.wait()
            for rollout in found.rollouts:
                rollout.verdicts, rollout.reward = {"v": Verdict.incorrect()}, 0.0
        return found


def test_a_group_without_signal_is_replaced_on_its_rank_while_all_update() -> None:
    def work(world: World) -> tuple[list[tuple[str, tuple[Any, ...]]], list[Collected]]:
        runner = Gated()
        collector = make(runner, staleness=1, steps=4, world=world)

        async def main() -> tuple[list[tuple[str, tuple[Any, ...]]], list[Collected]]:
            found = [await collector.collect(0)]
            assert len(runner.asked) == 4
            runner.gate.set()
            for _ in range(30):
                await asyncio.sleep(0)  # an update; no rank hears of another
            asked = runner.asked[4:]
            runner.version = 1
            collector.arrived(1)
            found += await train(collector, runner, range(1, 4), lambda step: 20)
            return asked, found

        return asyncio.run(main())

    (asked, found), (other_asked, other_found) = on_ranks(2, work)
    assert all("spare" in parts for _, parts in asked + other_asked)
    assert (len(asked), len(other_asked)) == (2, 2)
    assert picture(found) == picture(other_found)
    assert [len(one.kept) for one in found] == [4] * 4
    assert [one.dropped for one in found] == [0, 4, 0, 0]


def test_refills_of_ranks_are_bounded_and_a_curriculum_that_ends_ends_all_of_them() -> None:
    class Ends(Uniform):
        def next(self, count: int, step: int) -> list[Problem]:
            if self._drawn >= 30:
                raise StarvedError("nothing left", is_solved=True)
            return super().next(min(count, 30 - self._drawn), step)

    def work(world: World) -> tuple[list[int], int]:
        runner = Runner(lambda name: 2, has_signal=lambda name: rng(name).random() < 0.3)
        rates = SolveRates((problem.id for problem in PROBLEMS), half_life=50.0)
        ends = Ends(Course(PROBLEMS, rates, 2, 30))
        collector = make(runner, staleness=1, steps=30, curriculum=ends, world=world, max_refills=2)
        sizes: list[int] = []

        async def main() -> None:
            for step in range(30):
                found = await train(collector, runner, range(step, step + 1), lambda step: 3)
                sizes.append(len(found[0].kept))

        with pytest.raises(StarvedError, match="nothing left"):
            asyncio.run(main())
        return sizes, len(runner.asked)

    (sizes, asked), (others, theirs) = on_ranks(2, work)
    assert sizes == others
    assert 0 < sum(sizes) <= 12
    assert asked + theirs <= 30


def test_a_run_that_is_interrupted_on_one_rank_ends_on_all_of_them_and_is_saved_for_any_number_of_ranks() -> None:
    def work(world: World) -> tuple[dict[str, Any], dict[str, Any], Any]:
        endless: list[bool] = []
        runner = Runner(lambda name: 10**9 if endless else 30 if "p1" in name else 2)
        collector = make(runner, staleness=2, steps=20, world=world)

        async def main() -> tuple[dict[str, Any], dict[str, Any]]:
            await train(collector, runner, range(3), lambda step: 10)
            states = collector.state_dict(), collector.own_state()
            endless.append(True)
            runner.turn_s = 0.01
            waiting = asyncio.create_task(train(collector, runner, range(3, 20), lambda step: 1))
            await asyncio.sleep(0.4)
            if world.rank == 1:
                waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await collector.close()
            return states

        return (*asyncio.run(main()), collector._curriculum.state_dict())

    states = on_ranks(3, work)
    assert states[0][0] == states[1][0] == states[2][0]
    again = Runner(lambda name: 2)
    again.version = 3
    resumed = make(again, staleness=2, steps=20)
    resumed._version = resumed._taken = 3
    resumed._curriculum.load_state_dict(states[0][2])
    resumed.load_state_dict(states[0][0], [own for _, own, _ in states])
    landed = [serial for _, own, _ in states for serial, *_ in own["landed"]]
    in_flight = [(problem, tuple(parts)) for serial, problem, parts in states[0][0]["flights"] if serial not in landed]
    assert landed
    assert in_flight
    found = asyncio.run(train(resumed, again, range(3, 8), lambda step: 10))
    assert again.asked[: len(in_flight)] == in_flight
    assert [len(one.kept) for one in found] == [4] * 5


@pytest.mark.parametrize("staleness", [0, 1, 2, 4])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_trained_on_that_more_updates_have_overtaken_and_nothing_is_thrown_away(staleness: int, seed: int) -> None:
    runner = Runner(random_durations(seed, 60), has_signal=lambda name: rng(seed, name).random() < 0.7)
    collector = make(runner, staleness=staleness, steps=25, max_refills=50)
    found = asyncio.run(train(collector, runner, range(25), lambda step: rng("update", seed, step).randint(0, 30)))
    for step, one in enumerate(found):
        assert len(one.kept) == 4
        oldest = [oldest_version(group) for group in one.kept]
        assert all(version is not None and 0 <= step - version <= staleness for version in oldest)
        assert not one.expired
        assert staleness_metrics(one.kept, step, staleness)["staleness_max"] <= staleness
    assert runner.most_in_flight <= 4 * (staleness + 1)
    assert len(set(runner.asked)) == len(runner.asked)
    trained = Counter(id(rollout) for one in found for group in one.kept for rollout in group.rollouts)
    assert set(trained.values()) == {1}
    stored = [id(group) for one in found for group in one.stored]
    assert len(set(stored)) == len(stored)
    if staleness:
        ages = [step - (oldest_version(group) or 0) for step, one in enumerate(found) for group in one.kept]
        assert max(ages) > 0


def test_generation_waits_where_the_update_is_slower() -> None:
    runner = Runner(lambda name: 1)
    collector = make(runner, staleness=1, steps=30)
    asyncio.run(train(collector, runner, range(10), lambda step: 100))
    assert len(runner.asked) == 11 * 4 + 4  # one step ahead of the last one that began, and no further


def test_long_rollouts_are_carried_over_while_their_bound_allows_it() -> None:
    """One of the first groups lasts through two updates; others are trained on first, and it comes in time."""
    runner = Runner(lambda name: 400 if "'rollout', 0, 0, 0)" in name and name.startswith(first) else 2)
    collector = make(runner, staleness=3, steps=8)
    first = Uniform(Course(PROBLEMS, SolveRates((), 1.0), 2, 1)).next(1, 0)[0].id
    found = asyncio.run(train(collector, runner, range(8), lambda step: 100))
    [step] = [
        step for step, one in enumerate(found) for group in one.kept if oldest_version(group) == 0 and group.problem.id == first
    ]
    assert step == 3
    metrics = staleness_metrics(found[3].kept, 3, 3)
    assert metrics["staleness_max"] == 3
    assert metrics["staleness_0"] > 0


def test_refills_are_bounded_and_a_step_without_signal_is_no_error() -> None:
    runner = Runner(lambda name: 1, has_signal=lambda name: False)
    found = asyncio.run(train(make(runner, staleness=1, steps=3, max_refills=2), runner, range(3), lambda step: 1))
    assert [len(one.kept) for one in found] == [0, 0, 0]
    assert all(one.dropped == len(one.groups) > 0 for one in found)
    assert len(runner.asked) <= 3 * 4 * (1 + 2 + 1)


def test_a_curriculum_that_has_nothing_left_ends_the_run_after_what_it_gave() -> None:
    class Ends(Uniform):
        def next(self, count: int, step: int) -> list[Problem]:
            if self._drawn >= 12:
                raise StarvedError("nothing left", is_solved=True)
            return super().next(min(count, 12 - self._drawn), step)

    runner = Runner(lambda name: 3)
    rates = SolveRates((problem.id for problem in PROBLEMS), half_life=50.0)
    collector = make(runner, staleness=1, steps=9, curriculum=Ends(Course(PROBLEMS, rates, 2, 9)))
    found = []

    async def main() -> None:
        for step in range(9):
            found.extend(await train(collector, runner, range(step, step + 1), lambda step: 2))

    with pytest.raises(StarvedError, match="nothing left"):
        asyncio.run(main())
    assert [len(one.kept) for one in found] == [4, 4, 4]


def test_a_fault_of_ours_while_sampling_is_raised_to_the_loop() -> None:
    def breaks(name: str) -> int:
        raise ZeroDivisionError("in a rollout")

    runner = Runner(breaks)
    with pytest.raises(ZeroDivisionError, match="in a rollout"):
        asyncio.run(train(make(runner, staleness=1, steps=3), runner, range(1), lambda step: 0))


def test_a_checkpoint_keeps_what_has_landed_and_what_is_in_flight_is_asked_again_with_the_same_seeds() -> None:
    runner = Runner(lambda name: 30 if "p1" in name else 2)
    collector = make(runner, staleness=2, steps=20)

    async def first() -> tuple[dict[str, Any], dict[str, Any]]:
        await train(collector, runner, range(3), lambda step: 10)
        states = collector.state_dict(), collector.own_state()
        await collector.close()
        return states

    state, own = asyncio.run(first())
    assert state["flights"]
    assert own["landed"]
    again = Runner(lambda name: 2)
    again.version = 3
    resumed = make(again, staleness=2, steps=20)
    resumed._version = resumed._taken = 3
    resumed._curriculum.load_state_dict(collector._curriculum.state_dict())
    resumed.load_state_dict(state, [own])
    found = asyncio.run(train(resumed, again, range(3, 8), lambda step: 10))
    expected = [(problem, tuple(parts)) for _, problem, parts in state["flights"]]
    assert again.asked[: len(expected)] == expected
    assert len(set(again.asked)) == len(again.asked)
    assert set(runner.asked) & set(again.asked) <= set(expected)  # nothing else twice
    names = {group.problem.id for one in found for group in one.kept}
    assert len(names) == 20
    for step, one in enumerate(found, start=3):
        assert all(0 <= step - (oldest_version(group) or 0) <= 2 for group in one.kept)


def test_an_engine_that_has_to_be_empty_for_new_weights_is_given_nothing_until_it_is() -> None:
    runner = Runner(lambda name: 20)
    collector = make(runner, staleness=1, steps=9)

    async def main() -> None:
        await collector.collect(0)
        await asyncio.sleep(0)
        asked = len(runner.asked)
        await collector.drained()
        assert (runner._in_flight, len(runner.asked)) == (0, asked)
        runner.version = 1
        collector.arrived(1)
        assert collector.metrics()["groups_in_flight"] > 0
        await collector.close()

    asyncio.run(main())


def test_the_seconds_in_which_something_was_in_flight_are_counted() -> None:
    runner, clock = Runner(lambda name: 3), Tick()
    collector = make(runner, staleness=1, steps=9, clock=clock)

    async def main() -> tuple[float, float, float]:
        collecting = asyncio.create_task(collector.collect(0))
        await asyncio.sleep(0)
        clock.now = 5.0
        running = collector.busy_s()
        clock.now = 7.0
        await collecting
        for _ in range(10):
            await asyncio.sleep(0)
        clock.now = 50.0
        return running, collector.busy_s(), collector.busy_s()

    assert asyncio.run(main()) == (5.0, 2.0, 0.0)
