"""Joining a Ray cluster."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

from rlvr.errors import ConfigError, EngineError, boundary


def joined(address: str | None) -> Any:
    """The `ray` module, connected: to what this process uses already, to `address`, to RAY_ADDRESS, or to a cluster started here.

    Raises:
        ConfigError: Ray is not installed.
        EngineError: the cluster does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("Ray is not installed: pip install 'rlvr[ray]'")
    import ray

    if not ray.is_initialized():
        with boundary(EngineError, f"joining the Ray cluster at {address or 'RAY_ADDRESS, or here'}"):
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    return ray
