"""Joining a Ray cluster, or starting one on this machine, with errors that say what to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from mopo_train import __version__
from mopo_train.console import say, size_text
from mopo_train.errors import ClusterError, MopoError

RETRIES = 5
"""Times that a task is begun again after its worker was lost."""
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


class Cluster(NamedTuple):
    """Which cluster, and what a task takes of it."""

    address: str | None = None
    """As ``ray.init`` takes it; None: RAY_ADDRESS, or a cluster of this machine alone."""
    gpus: float | None = None
    """Per task, may be a fraction; None: 1 where the cluster has any."""
    cpus: float = 1.0
    """Per task."""
    memory: int = 0
    """Bytes that a task takes beside what the program does: as many run on a machine at once as it has room for."""
    shared: bool | None = None
    """Whether all machines see the family directory; None: look."""


@contextmanager
def connected(cluster: Cluster) -> Iterator[Cluster]:
    """Ray, while the block runs; yields ``cluster`` with its GPUs decided.

    Raises ClusterError where ray is missing, nothing answers at the address, or no machine has what a task takes.
    """
    ray = import_ray()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        ray.init(cluster.address, include_dashboard=False, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ClusterError(
            f"cannot join the Ray cluster at '{cluster.address or 'this machine'}': {reason}. Check --ray-address and "
            "that 'ray status' answers there."
        ) from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = cluster.gpus if cluster.gpus is not None else float(any(node.get("GPU") for node in nodes))
        check_machines(nodes, cluster._replace(gpus=gpus))
        say(f"Ray: {len(nodes)} machines; a task takes {cluster.cpus:g} CPUs and {gpus:g} GPUs of one")
        yield cluster._replace(gpus=gpus)
    finally:
        ray.shutdown()


def import_ray() -> Any:
    """The package, which is an extra. Raises ClusterError without it."""
    try:
        import ray
    except ImportError as error:
        raise ClusterError("--executor ray needs Ray: pip install 'mopo-suite[ray]'.") from error
    return ray


def users_error(error: Any) -> BaseException:
    """What a task's ``RayTaskError`` is to the user: the `MopoError` that the task raised, or itself."""
    cause: BaseException = error.cause
    return cause if isinstance(cause, MopoError) else error


def check_version(version: str) -> None:
    """Raise ClusterError in a worker whose package is not the driver's ``version``."""
    if version != __version__:
        raise ClusterError(
            f"a worker has mopo-suite {__version__} and the command {version}; install the same on every machine."
        )


def check_machines(nodes: list[dict[str, float]], task: Cluster) -> None:
    """Raise ClusterError where none of ``nodes``, by Ray's resources, has what a task takes; several tasks wait."""
    asked = {"CPU": task.cpus, "GPU": task.gpus or 0.0, "memory": float(task.memory)}

    def told(node: dict[str, float]) -> str:
        memory = f", {size_text(node.get('memory', 0.0))} of memory" if task.memory else ""
        return f"{node.get('CPU', 0.0):g} CPUs, {node.get('GPU', 0.0):g} GPUs{memory}"

    if not any(all(node.get(name, 0.0) >= amount for name, amount in asked.items()) for node in nodes):
        raise ClusterError(
            f"no machine of the cluster has {told(asked)} for a task (they have {'; '.join(map(told, nodes))}); ask "
            "for less, or add a machine."
        )
