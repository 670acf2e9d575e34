"""A Ray cluster of two 'nodes' on this machine, one for all tests here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STORE_BYTES = 80 * 2**20


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """The cluster itself, to which nodes can be added."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rlvr[ray]'")
    from ray.cluster_utils import Cluster

    root = str(Path(__file__).parents[2])
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own, of its start
        patch.setenv("PYTHONPATH", os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]))  # of workers
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RLVR_SANDBOX", "unsafe")
        made = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 4, "object_store_memory": STORE_BYTES, "include_dashboard": False},
        )
        made.add_node(num_cpus=4, object_store_memory=STORE_BYTES)
        ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="session")
def cluster(nodes: Any) -> Any:
    """The `ray` module, connected to it."""
    import ray

    return ray
