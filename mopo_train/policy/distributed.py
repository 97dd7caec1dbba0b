"""Several processes that train one policy: who they are, and how they agree.

``torchrun`` and ``accelerate launch`` start the same command in every process. Each reads the data and plans the same
steps; of a step each takes its share of the prompts. What is read from or written to the family directory is the
leader's (rank 0): `from_leader`. In a process that was started by itself everything here is the identity.

Not covered: a family directory that the processes do not share.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from mopo_train.console import launched
from mopo_train.errors import MopoError
from mopo_train.winrates import FloatArray

Value = TypeVar("Value")
PATIENCE = timedelta(hours=12)
"""A process waits so long for another: the leader may be fitting a preference model. A dead one ends all at once."""
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")
"""What the launchers tell a process."""


class Group(NamedTuple):
    """This process among those that train together."""

    rank: int = 0
    size: int = 1


@contextmanager
def joined() -> Iterator[None]:
    """The process as one of those that a launcher started, if one did, while the block runs.

    An error that a user can fix meets all processes or ends them all: the first that meets one tells it.
    """
    if launched() == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield
    except MopoError:
        if _is_first(store):
            raise
        sys.exit(1)
    finally:
        dist.destroy_process_group()


def _is_first(store: Any) -> bool:
    """Whether no other process of the group asked before."""
    try:
        return int(store.add("mopo/errors", 1)) == 1
    except RuntimeError:  # the process that keeps the store has ended, with an error of its own
        return False


def is_sharded(asked: bool) -> bool:
    """Whether base models are spread over the processes (FSDP2): ``asked``, or by ``accelerate launch --use_fsdp``.

    Raises MopoError for that in a process that is alone.
    """
    # Taken out of the environment: Trainer would shard again what is sharded as it is loaded.
    by_accelerate = os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
    if (asked or by_accelerate) and launched() == 1:
        raise MopoError(
            "--fsdp shares a model between processes, and this is a single one; start them with 'torchrun "
            "--nproc-per-node N -m mopo_train run ...'."
        )
    return asked or by_accelerate


def group() -> Group:
    """Who this process is; alone unless it was `joined` to others."""
    if not dist.is_available() or not dist.is_initialized() or "RANK" not in os.environ:
        return Group()
    return Group(dist.get_rank(), dist.get_world_size())


def from_leader(make: Callable[[], Value]) -> Value:
    """What ``make`` gives in the leader, in every process; the others wait for it and get a copy.

    In ``make`` the leader is a process by itself. What it raises ends the others too, without a word: it speaks.
    """
    me = group()
    if me.size == 1:
        return make()
    told: list[tuple[bool, Value | None]] = [(False, None)]
    if me.rank == 0:
        try:
            with _alone():
                value = make()
        except BaseException:
            dist.broadcast_object_list(told)
            raise
        told = [(True, value)]
        dist.broadcast_object_list(told)
        return value
    dist.broadcast_object_list(told)
    ((made, given),) = told
    if not made:
        sys.exit(1)
    copy: Value = given  # type: ignore[assignment]
    return copy


def summed(values: FloatArray) -> FloatArray:
    """The sum over processes of each element."""
    if group().size == 1:
        return values
    total = torch.from_numpy(np.array(values, dtype=np.float64))
    dist.all_reduce(total)
    return total.numpy()


@contextmanager
def _alone() -> Iterator[None]:
    """Without what the launcher told, so that engines in the block take this process for the only one."""
    kept = {name: os.environ.pop(name) for name in LAUNCHED if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
