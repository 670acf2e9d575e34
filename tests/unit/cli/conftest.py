"""A checkpoint on disk for verbs that load a model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of task `chains` in Hugging Face format."""
    from rlvr.envs.tasks import load_task
    from rlvr.trainers.model.tiny import tiny_model

    tiny = load_task("chains").tiny
    assert tiny is not None
    model, tokenizer = tiny_model(tiny, seed=0)
    folder = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
