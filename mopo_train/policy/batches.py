"""Which responses and pairs every step of the policy step sees: planned in advance, from a seed.

The responses of a prompt stay together: each is run through the model once for all its pairs, and the current
policy's share of a prompt can be estimated from the batch.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mopo_train.winrates import IntArray


class Unit(NamedTuple):
    """Responses of one prompt that are always seen together."""

    responses: IntArray
    """(r,) indices among all responses."""
    pairs: IntArray
    """(M, 2) compared pairs, as indices into ``responses``."""


class Planned(NamedTuple):
    """One step."""

    responses: IntArray
    """(B,) indices among all responses."""
    pairs: IntArray
    """(M, 2) compared pairs, as indices into ``responses``."""
    unit: IntArray
    """(B,) number of each response's unit in the batch, from 0 without gaps."""


def make_units(compared: IntArray, response_prompt: IntArray, size: int) -> list[Unit]:
    """Every compared response, by prompt; a prompt with more than ``size`` responses makes several units.

    ``compared`` (M, 2) pairs of responses, sorted by prompt. A pair is in exactly one unit; in a prompt that
    is split, a response is in each unit that has one of its pairs.
    """
    units: list[Unit] = []
    bounds = np.flatnonzero(np.diff(response_prompt[compared[:, 0]], prepend=-1, append=-1))
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        units += [_unit(part) for part in _parts(compared[begin:end], size)]
    return units


def plan_steps(units: Sequence[Unit], lengths: IntArray, size: int, steps: int, seed: int) -> list[Planned]:
    """``steps`` batches of about ``size`` responses, units of similar length together, epoch after epoch.

    ``lengths`` (Y,) tokens per response with its prompt. A batch has at least one whole unit and
    exceeds ``size`` only if that unit does.
    """
    longest = np.array([lengths[unit.responses].max() for unit in units])
    generator = np.random.default_rng(seed)
    plan: list[Planned] = []
    while len(plan) < steps:
        groups = _epoch(units, longest, size, generator)[: steps - len(plan)]
        plan += [_joined([units[index] for index in group]) for group in groups]
    return plan


class Share(NamedTuple):
    """What one of several processes takes of a step."""

    planned: Planned
    weight: float
    """Of its mean over units, so that the mean of all shares' means is that of the whole step; 0: a stand-in."""


def shares(step: Planned, lengths: IntArray, parts: int) -> list[Share]:
    """``step`` in ``parts`` shares of whole units, with about as many tokens each.

    ``lengths`` (Y,) tokens per response with its prompt. With fewer units than parts, some shares repeat the shortest
    unit with weight 0: their process computes along, since others wait for its gradients.
    """
    units = int(step.unit[-1]) + 1
    cost = np.bincount(step.unit, weights=lengths[step.responses])  # (units,)
    taken: list[list[int]] = [[] for _ in range(parts)]
    load = np.zeros(parts)
    for unit in np.argsort(-cost, kind="stable").tolist():  # the longest first, each to where least is
        part = int(np.argmin(load))
        taken[part].append(unit)
        load[part] += cost[unit]
    return [
        Share(_some(step, sorted(mine)), parts * len(mine) / units)
        if mine
        else Share(_some(step, [int(np.argmin(cost))]), 0.0)
        for mine in taken
    ]


def _some(step: Planned, units: Sequence[int]) -> Planned:
    """The ``units`` of ``step``, ascending, numbered anew."""
    kept = np.isin(step.unit, units)
    place = np.cumsum(kept) - 1  # (B,) new index of each response that is kept
    pairs = step.pairs[kept[step.pairs[:, 0]]]
    unit = np.searchsorted(np.asarray(units), step.unit[kept])
    return Planned(step.responses[kept], place[pairs], unit)


def _epoch(units: Sequence[Unit], longest: IntArray, size: int, generator: np.random.Generator) -> list[list[int]]:
    """Indices of the units of each batch."""
    order = generator.permutation(len(units))
    window = max(1, 20 * size // 2)  # units; little padding, and batches still differ from epoch to epoch
    sizes = np.array([len(unit.responses) for unit in units])
    batches: list[list[int]] = []
    for begin in range(0, len(order), window):
        near = order[begin : begin + window]
        batches += _filled(near[np.argsort(longest[near])].tolist(), sizes, size)
    return [batches[index] for index in generator.permutation(len(batches))]


def _filled(units: Sequence[int], sizes: IntArray, size: int) -> Iterator[list[int]]:
    group: list[int] = []
    count = 0
    for unit in units:
        if group and count + sizes[unit] > size:
            yield group
            group, count = [], 0
        group.append(unit)
        count += sizes[unit]
    if group:
        yield group


def _joined(units: Sequence[Unit]) -> Planned:
    sizes = [len(unit.responses) for unit in units]
    offsets = np.cumsum([0, *sizes[:-1]])
    return Planned(
        responses=np.concatenate([unit.responses for unit in units]),
        pairs=np.concatenate([unit.pairs + offset for unit, offset in zip(units, offsets, strict=True)]),
        unit=np.repeat(np.arange(len(units)), sizes),
    )


def _parts(pairs: IntArray, size: int) -> Iterator[IntArray]:
    if len(np.unique(pairs)) <= size:
        yield pairs
        return
    begin, seen = 0, set[int]()
    for index, (first, second) in enumerate(pairs.tolist()):
        if index > begin and len(seen | {first, second}) > size:
            yield pairs[begin:index]
            begin, seen = index, set()
        seen |= {first, second}
    yield pairs[begin:]


def _unit(pairs: IntArray) -> Unit:
    responses, local = np.unique(pairs, return_inverse=True)
    return Unit(responses, local.reshape(-1, 2))
