"""A run whose native engine decodes in two processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import load_recipe
from rlvr.trainers.train import train_or_resume

pytestmark = pytest.mark.processes


def test_training_with_two_processes_is_training_with_one_bit_for_bit(
    recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    weights = []
    for name, engine in (("one", {}), ("two", {"args": {"processes": 2}})):
        settings = recipe(out=str(tmp_path / name), engine=engine, rollout={"max_tokens": 24})
        run = train_or_resume(load_recipe(settings))
        weights.append((Path(run.checkpoint) / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    lines = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    assert [line["engine_gap_max"] < 1e-5 for line in lines] == [True, True]
