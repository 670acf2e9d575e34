from __future__ import annotations

import itertools

import pytest

from rlvr.types import JSON, Outcome, Problem, Rollout, Verdict
from rlvr.verifiers.knights import claim_holds, knights_knaves
from rlvr.verifiers.sudoku import broken_rule, read_grid, sudoku

GOLD = {"Ada": "knight", "Bob": "knave", "Cy": "knight"}
RIGHT = "Ada is a knight, Bob is a knave, Cy is a knight"


def kk(response: str, metadata: dict[str, JSON] | None = None, **settings: object) -> Verdict:
    problem = Problem("p", (), GOLD, metadata or {})
    return knights_knaves(problem, Rollout.from_response(problem, response), **settings)


@pytest.mark.parametrize(
    ("response", "reward"),
    [
        (f"<think>x</think><answer>{RIGHT}</answer>", 3.0),
        (f"<think></think><answer>{RIGHT}</answer>", 3.0),
        ("<think>x</think><answer>Ada is a knight, Bob is a knight, Cy is a knight</answer>", -0.5),
        ("<think>x</think><answer>Ada is a knight</answer>", -1.0),
        ("<think>x</think><answer>Ada: knight, Bob: knave, Cy: knight</answer>", -1.0),
        ("<think>x</think><answer></answer>", -1.0),
        (f"<answer>{RIGHT}</answer>", -3.0),
        (f"<think>x</think><answer>{RIGHT}</answer><answer>{RIGHT}</answer>", -3.0),
        ("", -3.0),
    ],
)
def test_logic_rls_rewards_are_its_four_totals(response: str, reward: float) -> None:
    verdict = kk(response, rule="logic_rl")
    assert verdict.details["reward"] == reward
    assert verdict.details["format_reward"] + verdict.details["answer_reward"] == reward
    assert verdict.score == (reward + 3) / 6


def test_only_the_true_world_is_consistent() -> None:
    claims: list[JSON] = [
        ["iff", ["knight", 1], ["knave", 2]],
        ["and", ["knave", 0], ["knight", 2]],
        ["or", ["knight", 0], ["knight", 1]],
    ]
    metadata: dict[str, JSON] = {"names": ["Ada", "Bob", "Cy"], "statements": claims}
    for world in itertools.product((True, False), repeat=3):
        said = ", ".join(f"{name}: {'knight' if is_knight else 'knave'}" for name, is_knight in zip(GOLD, world, strict=True))
        fits = all(claim_holds(claim, world) == is_knight for claim, is_knight in zip(claims, world, strict=True))
        assert (kk(f"<answer>{said}</answer>", metadata, rule="consistent").outcome is Outcome.CORRECT) == fits


def test_a_malformed_statement_is_our_fault() -> None:
    for claim in (["knight", 7], ["xor", ["knight", 0], ["knight", 1]], "Ada", ["not"]):
        with pytest.raises(ValueError, match="is not a statement"):
            claim_holds(claim, (True, True))


def test_every_completed_4x4_grid_is_judged_like_a_brute_force_check() -> None:
    puzzle = [0] * 16
    rows = list(itertools.permutations((1, 2, 3, 4)))
    grids = [
        [*first, *second, *third, *fourth] for first in rows[:2] for second in rows for third in rows for fourth in rows[::3]
    ]
    right = 0
    for grid in grids:
        columns = [grid[i::4] for i in range(4)]
        boxes = [[grid[r * 8 + c * 2 + i * 4 + j] for i in (0, 1) for j in (0, 1)] for r in (0, 1) for c in (0, 1)]
        is_right = all(len(set(unit)) == 4 for unit in (*columns, *boxes))
        right += is_right
        assert (broken_rule(puzzle, grid) is None) == is_right
    assert 0 < right < len(grids)


def test_one_changed_digit_is_never_right() -> None:
    solution = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
    problem = Problem("p", (), {"puzzle": "53" + "0" * 79})
    assert sudoku(problem, Rollout.from_response(problem, f"<answer>{solution}</answer>")).outcome is Outcome.CORRECT
    for cell in range(81):
        changed = solution[:cell] + str(int(solution[cell]) % 9 + 1) + solution[cell + 1 :]
        verdict = sudoku(problem, Rollout.from_response(problem, f"<answer>{changed}</answer>"))
        assert verdict.outcome is Outcome.INCORRECT, changed


@pytest.mark.parametrize("text", ["12", "1 2 3 4 and so on", "1.2", "٣" * 16, "0" * 16, "9" * 16, ""])
def test_what_is_no_grid_is_not_read(text: str) -> None:
    assert read_grid(text, 4) is None
