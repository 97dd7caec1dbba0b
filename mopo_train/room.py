"""Whether there is room for a run, asked before anything is spent: `policy.requirements` of what the run will do."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mopo_train.cache import cache_root
from mopo_train.execution import Execution
from mopo_train.family import between_id
from mopo_train.members import policy_id
from mopo_train.policy.adapter import OWN_PER_STEP
from mopo_train.policy.batches import Steps
from mopo_train.policy.distributed import from_leader, group
from mopo_train.policy.models import empty_model, find_model, is_half
from mopo_train.policy.requirements import (
    ModelSizes,
    Need,
    check_disk,
    check_memory,
    family_files,
    log_probability_files,
    sizes_of,
    training_need,
)
from mopo_train.winrates import IntArray

if TYPE_CHECKING:
    from mopo_train.baselines.config import BaselineConfig
    from mopo_train.run import RunConfig

SMALLER = "take a smaller --batch-size or --max-length, --precision bfloat16, or a smaller model"


def check_room(
    config: "RunConfig", out: Path, model: str, execution: Execution, plans: Sequence[Steps], lengths: IntArray
) -> Need:
    """What training one of ``plans`` takes of memory; ``lengths`` (Y,) tokens of prompt and response.

    Raises RoomError where it, or the files of the whole family in ``out``, do not fit; ModelError.
    """
    sizes = sizes_of(empty_model(model))
    tokens = max(plan.most_tokens(lengths) for plan in plans)
    if config.own_anchor:
        tokens += tokens // OWN_PER_STEP
    element = 2 if is_half(config.precision) else 4
    parts = group().size if execution.shard else 1
    need = training_need(sizes, rank=config.rank, element=element, tokens=-(-tokens // group().size), parts=parts)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", group().size))  # processes of this machine
    names = [policy_id(index) for index in range(len(plans))]
    between = [part / (config.interpolate + 1) for part in range(1, config.interpolate + 1)]
    names += [between_id(name, share) for name in names[:-1] for share in between]  # neighbours' graph is connected

    def check() -> None:
        if execution.cluster is None:
            check_memory(need, "training a policy", SMALLER, beside=beside)
        at_once = config.chains if execution.cluster is not None else 1
        _check_files(out, model, sizes, config.rank, names, at_once=at_once, responses=len(lengths))

    from_leader(check)
    return need


def check_baseline_room(
    config: "BaselineConfig", out: Path, model: str, adapters: Sequence[str], lengths: IntArray
) -> None:
    """The same for ``adapters`` that are trained one after the other by TRL."""
    sizes = sizes_of(empty_model(model))
    tokens = config.batch_size * int(lengths.max())
    need = training_need(sizes, rank=config.rank, element=2 if is_half("auto") else 4, tokens=tokens)
    check_memory(need, "training an adapter", "take a smaller --batch-size or --max-length, or a smaller model")
    _check_files(out, model, sizes, config.rank, adapters, at_once=1, responses=len(lengths))


def _check_files(  # noqa: PLR0913
    out: Path, model: str, sizes: ModelSizes, rank: int, names: Sequence[str], *, at_once: int, responses: int
) -> None:
    left = sum(not (out / "policies" / name).is_dir() for name in names)
    source = find_model(model)
    files = [] if source is None or (out / "base").is_dir() else [file for file in source.iterdir() if file.is_file()]
    base = sum(file.stat().st_size for file in files)
    family = family_files(out, sizes, rank=rank, left=left, at_once=at_once, base=base)
    check_disk(family, log_probability_files(cache_root(), responses))
