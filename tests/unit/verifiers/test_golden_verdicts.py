from __future__ import annotations

from pathlib import Path

import pytest

from rlvr.testing import check_verifier

GOLDEN = Path(__file__).parents[2] / "golden"
WITH_CASES = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))


@pytest.mark.parametrize("name", WITH_CASES)
def test_golden_cases_and_the_rules_of_every_verifier_hold(name: str) -> None:
    check_verifier(name, GOLDEN / f"{name}.jsonl", timeout_s=30.0)


def test_every_built_in_verifier_has_golden_cases() -> None:
    from importlib.metadata import entry_points

    names = {entry.name for entry in entry_points(group="rlvr.verifiers") if entry.dist is not None and entry.dist.name == "rlvr"}
    assert names <= set(WITH_CASES)
