"""The pool of the ablations: the quickstart's problems among others that are out of its base's reach."""

from __future__ import annotations

from rlvr.envs.tasks import load_task


def test_so_many_training_problems_are_out_of_reach_and_the_others_the_quickstarts_own() -> None:
    from ablation_pool import OUT_OF_REACH, pool

    found = pool({"never": 0.6}).problems("train", limit=1000)
    assert len({problem.id for problem in found}) == 1000
    own = [problem for problem in found if problem.metadata["terms"] in (4, 5)]
    far = [problem for problem in found if OUT_OF_REACH[0] <= int(str(problem.metadata["terms"])) <= OUT_OF_REACH[1]]
    assert len(own) + len(far) == 1000
    assert 0.55 < len(far) / 1000 < 0.65
    assert own == list(load_task("chains").problems("train", limit=len(own)))


def test_what_is_held_out_is_the_quickstarts_own() -> None:
    from ablation_pool import pool

    assert pool({"never": 0.6}).problems("test", limit=50) == load_task("chains").problems("test", limit=50)


def test_a_problem_of_the_pool_does_not_depend_on_how_many_are_asked_for() -> None:
    from ablation_pool import pool

    source = pool({"never": 0.35}).source
    assert source.problem("train", 40) == pool({"never": 0.35}).problems("train", limit=100)[40]
    assert len(source.problems("train", None)) == len(load_task("chains").problems("train"))
