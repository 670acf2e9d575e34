from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.registry import resolve
from rlvr.testing import check_verifier
from rlvr.verifiers.base import as_verifier

GOLDEN = Path(__file__).parents[2] / "golden"
WITH_CASES = sorted(path.stem for path in GOLDEN.glob("*.jsonl") if not path.stem.endswith("_pairs"))
IN_SANDBOX = {"code"}  # tests/docker grades these


@pytest.mark.parametrize("name", [name for name in WITH_CASES if name not in IN_SANDBOX])
def test_golden_cases_and_the_rules_of_every_verifier_hold(name: str) -> None:
    check_verifier(name, GOLDEN / f"{name}.jsonl", timeout_s=30.0)


def test_every_built_in_verifier_has_golden_cases() -> None:
    from importlib.metadata import entry_points

    names = {entry.name for entry in entry_points(group="rlvr.verifiers") if entry.dist is not None and entry.dist.name == "rlvr"}
    opinions = {name for name in names if as_verifier(resolve("verifiers", name)).grades == "opinion"}  # tested with a fake judge
    assert names - opinions <= set(WITH_CASES)
    assert opinions == {"judge", "reward_model"}
    assert {name for name in names if as_verifier(resolve("verifiers", name)).waits} == IN_SANDBOX
