"""What a run will take of disk and memory, from sizes alone, beside what is there: told before anything is spent.

What is sure to be taken and does not fit is refused. What a batch takes is an estimate, of which a person is warned.
Not covered: what a preference model takes, and generation.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mopo_train.console import say, size_text
from mopo_train.errors import RoomError
from mopo_train.policy.scoring import TOGETHER

FLOAT = 4
"""Bytes of a trained weight."""
TRAINED = 4 * FLOAT
"""Bytes that a trained weight takes in memory: itself, its gradient, Adam's two moments."""
STATE = 3 * FLOAT
"""Bytes that a trained weight takes in a checkpoint: itself and the two moments."""
NUMBER = 8
"""Bytes of a number that is kept per response."""
POINT = 2 * NUMBER
"""Bytes that a point of the front takes per response: its ratio and its score."""
PROCESS = 600_000_000
"""Bytes of memory that Python, torch and transformers take in a process (docs/training.md)."""
SMALL = 1 << 20
"""Bytes of disk for what does not grow: logs, plans, tokenizers, the headers of files."""


class ModelSizes(NamedTuple):
    """What a model's requirements depend on."""

    weights: int
    """Parameters."""
    sides: int
    """Sum over linear layers but the last of inputs and outputs: an adapter of rank r has r times as many weights."""
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int

    def adapter(self, rank: int) -> int:
        """Weights of a LoRA adapter on all linear layers."""
        return rank * self.sides


def sizes_of(model: PreTrainedModel) -> ModelSizes:
    """The sizes of ``model``, which may be on the device ``meta``, without weights."""
    base: Any = model
    head, config = base.get_output_embeddings(), base.config.get_text_config()
    linear = [part for part in base.modules() if isinstance(part, (nn.Linear, Conv1D)) and part is not head]
    vocabulary, hidden = base.get_input_embeddings().weight.shape
    wide = getattr(config, "intermediate_size", None) or 4 * hidden
    return ModelSizes(
        weights=sum(part.numel() for part in base.parameters()),
        sides=sum(sum(part.weight.shape) for part in linear),
        hidden=hidden,
        intermediate=max(wide) if isinstance(wide, (list, tuple)) else int(wide),
        layers=int(config.num_hidden_layers),
        vocabulary=vocabulary,
    )


def activations(sizes: ModelSizes, tokens: int, element: int) -> int:
    """Bytes that a forward pass over ``tokens`` keeps for the backward pass, at ``element`` bytes per number.

    A layer keeps 13 vectors of the hidden size (two norms with their inputs, the input of query, key and value, these
    three, two of them again after the rotation, attention's output) and 4 of the intermediate size (both inputs of the
    gate's product, the gate before its nonlinearity, the product). The logits exist `scoring.TOGETHER` at a time.
    """
    kept = sizes.layers * (13 * sizes.hidden + 4 * sizes.intermediate)
    return tokens * kept * element + 3 * TOGETHER * sizes.vocabulary * FLOAT


class Need(NamedTuple):
    """What a process will take."""

    sure: int
    """Bytes."""
    batch: int
    """Bytes for the largest batch, about."""
    parts: Mapping[str, int]
    """What ``sure`` consists of."""

    @property
    def total(self) -> int:
        """Bytes, about."""
        return self.sure + self.batch


def training_need(sizes: ModelSizes, *, rank: int, element: int, tokens: int, parts: int = 1) -> Need:
    """Of training an adapter of ``rank`` on frozen weights of ``element`` bytes, with ``tokens`` in the largest batch.

    ``parts``: processes that the weights are spread over.
    """
    told = {"weights": sizes.weights * element // parts, "adapter and optimiser": TRAINED * sizes.adapter(rank)}
    return Need(sum(told.values()), activations(sizes, tokens, element), told)


def tuning_need(sizes: ModelSizes, *, tokens: int) -> Need:
    """Of training all weights, in float32, with ``tokens`` in the largest batch."""
    told = {"weights, gradients and optimiser": TRAINED * sizes.weights}
    return Need(sum(told.values()), activations(sizes, tokens, FLOAT), told)


def check_memory(need: Need, what: str, advice: str, *, beside: int = 1) -> None:
    """Raise RoomError where ``need`` exceeds the memory there is; warn where its batch may.

    ``beside``: processes of this machine that need as much; each has a GPU of its own where there are any. ``what``
    begins the sentence, ``advice`` ends it.
    """
    free = free_memory()
    if free is None:
        return
    free = free if torch.cuda.is_available() else free // beside
    told = ", ".join(f"{name} {size_text(size)}" for name, size in need.parts.items())
    if need.sure > free:
        raise RoomError(
            f"{what} takes {size_text(need.sure)} of memory ({told}), {size_text(free)} are free; {advice}."
        )
    if need.total > free:
        say(
            f"warning: {what} takes {size_text(need.sure)} of memory ({told}) and a batch about "
            f"{size_text(need.batch)} more, {size_text(free)} are free; {advice}"
        )


def check_points(policies: int, responses: int) -> None:
    """Raise RoomError where so many points of the front, with a number or two per response each, exceed the memory."""
    need, free = policies * responses * POINT, free_memory(cuda=False)
    if free is not None and need > free:
        raise RoomError(
            f"{policies:,} policies on {responses:,} responses take {size_text(need)} of memory before any is trained, "
            f"{size_text(free)} are free; ask for fewer --policies."
        )


class Files(NamedTuple):
    """What is going to be written."""

    root: Path
    """Where."""
    parts: Mapping[str, int]
    """Bytes, by what they are."""


def tuning_files(root: Path, sizes: ModelSizes) -> Files:
    """What a model all of whose weights are trained will take beside ``root``: checkpoints, then itself."""
    parts = {"checkpoints": 2 * STATE * sizes.weights, "model": FLOAT * sizes.weights, "the rest": SMALL}
    return Files(root, parts)


def family_files(  # noqa: PLR0913  all of them are numbers
    root: Path, sizes: ModelSizes, *, rank: int, left: int, at_once: int, base: int
) -> Files:
    """What a family in ``root`` will take: ``left`` adapters, checkpoints of those ``at_once`` in training, the base.

    A checkpoint is written beside the last one.
    """
    adapter = FLOAT * sizes.adapter(rank)
    checkpoints = 2 * STATE * sizes.adapter(rank) * min(at_once, left)
    parts = {"base model": base, "adapters": left * adapter, "checkpoints": checkpoints, "the rest": SMALL}
    return Files(root, {name: size for name, size in parts.items() if size})


def log_probability_files(root: Path, responses: int) -> Files:
    """What the reference's log-probabilities will take; they are written beside the last ones."""
    return Files(root, {"log-probabilities": 2 * NUMBER * responses})


def token_files(root: Path, characters: int) -> Files:
    """About what the tokens of so many ``characters`` will take: four bytes for some four characters."""
    return Files(root, {"tokens": characters})


def check_disk(*files: Files) -> None:
    """Raise RoomError where a file system has no room for what is going to be written to it."""
    by_system: dict[int, list[Files]] = {}
    for each in files:
        by_system.setdefault(os.stat(_existing(each.root)).st_dev, []).append(each)
    for together in by_system.values():
        place = together[0].root
        free = shutil.disk_usage(_existing(place)).free
        parts = {name: size for each in together for name, size in each.parts.items()}
        if sum(parts.values()) > free:
            told = ", ".join(f"{name} {size_text(size)}" for name, size in parts.items())
            raise RoomError(
                f"no space left on device: {size_text(sum(parts.values()))} are needed at '{place}' ({told}), "
                f"{size_text(free)} are free; make room, or name another directory."
            )


def free_memory(*, cuda: bool | None = None) -> int | None:
    """Bytes of the GPU where there is one, else of the machine and this process's group; None where nobody tells.

    ``cuda`` False: of the machine in any case.
    """
    if torch.cuda.is_available() and cuda is not False:
        return int(torch.cuda.mem_get_info()[0])
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        free = int(told["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        most, used = ((group / f"memory.{name}").read_text(encoding="ascii") for name in ("max", "current"))
        return min(free, int(most) - int(used))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return free


def _existing(path: Path) -> Path:
    """The nearest directory on the way to ``path`` that exists."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
