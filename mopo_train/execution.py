"""How the policies of a family are trained, which does not decide what they are."""

from typing import NamedTuple

from mopo_train.executor.cluster import Cluster


class Execution(NamedTuple):
    """Where and how a run works; the family is the same whatever it says, but for rounding."""

    checkpoint_seconds: float = 30.0
    """Between checkpoints of a policy in training."""
    report_to: tuple[str, ...] = ()
    """Integrations of transformers that the log goes to as well (`policy.reporting`)."""
    shard: bool = False
    """Spread the base model over the processes that train a policy together (`policy.distributed`)."""
    cluster: Cluster | None = None
    """Train policies as tasks of a Ray cluster; None: here, one after the other."""


HERE = Execution()
