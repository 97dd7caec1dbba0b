"""A Ray cluster whose machines are nodes on this one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mopo_train.executor.cluster import QUIET

NODE = {"num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
"""What every node gets; none is given CPUs that it does not ask for."""


def with_workers(machines: Any, count: int) -> list[Any]:
    """So many nodes of one CPU each in the cluster: some are added or taken away."""
    for node in list(machines.worker_nodes)[count:]:
        machines.remove_node(node)
    while len(machines.worker_nodes) < count:
        machines.add_node(**NODE, num_cpus=1)
    nodes: list[Any] = list(machines.worker_nodes)
    return nodes


@contextmanager
def ray_machines() -> Iterator[Any]:
    """A cluster whose head takes no tasks: what is added to it (``add_node``) does. Skips where Ray is missing."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'mopo-suite[ray]'")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUIET, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        machines = Cluster(initialize_head=True, head_node_args=NODE | {"num_cpus": 0})
        try:
            yield machines
        finally:
            machines.shutdown()  # type: ignore[no-untyped-call]
