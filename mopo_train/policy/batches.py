"""Which responses and pairs every step of the policy step sees: planned in advance, from a seed.

The responses of a prompt stay together: each is run through the model once for all its pairs, and the current
policy's share of a prompt can be estimated from the batch. Units and steps lie in flat arrays: a million of them take
no objects.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar, overload

import numpy as np

from mopo_train.winrates import BoolArray, IntArray

Part = TypeVar("Part")


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


class _Parts(Sequence[Part]):
    """A sequence whose items are cut out of flat arrays when they are asked for."""

    @abstractmethod
    def item(self, place: int) -> Part:
        """The item at ``place`` from 0 on."""

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> list[Part]: ...
    def __getitem__(self, index: int | slice) -> Part | list[Part]:
        places = range(len(self))[index]
        return self.item(places) if isinstance(places, int) else [self.item(place) for place in places]


class Units(_Parts[Unit]):
    """U units, one after the other."""

    def __init__(self, responses: IntArray, starts: IntArray, pairs: IntArray, pair_starts: IntArray) -> None:
        """``responses`` (N,) and ``pairs`` (M, 2) of all; those of unit u begin at starts[u] and pair_starts[u]."""
        self.responses, self.starts, self.pairs, self.pair_starts = responses, starts, pairs, pair_starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def item(self, place: int) -> Unit:
        """A unit."""
        begin, end = self.starts[place : place + 2]
        first, last = self.pair_starts[place : place + 2]
        return Unit(self.responses[begin:end], self.pairs[first:last])

    def sizes(self) -> IntArray:
        """(U,) responses of each."""
        return np.diff(self.starts)


class Steps(_Parts[Planned]):
    """The batches of S steps, as the units of each: what memory and a message to another machine hold is in them."""

    def __init__(self, units: Units, taken: IntArray, ends: IntArray) -> None:
        """``taken``: numbers of ``units``, step after step; those of step s end at ends[s]."""
        starts, pair_starts = (_starts(np.diff(each)[taken]) for each in (units.starts, units.pair_starts))
        responses = units.responses[_places(units.starts, taken)]
        pairs = units.pairs[_places(units.pair_starts, taken)]
        self._units = Units(responses, starts, pairs, pair_starts)
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def item(self, place: int) -> Planned:
        """The batch of a step."""
        begin, end = int(self._ends[place - 1]) if place else 0, int(self._ends[place])
        units = self._units
        first = units.starts[begin]
        sizes = np.diff(units.starts[begin : end + 1])
        counts = np.diff(units.pair_starts[begin : end + 1])
        offsets = np.repeat(units.starts[begin:end] - first, counts)  # of the unit of each pair in the batch
        return Planned(
            responses=units.responses[first : units.starts[end]],
            pairs=units.pairs[units.pair_starts[begin] : units.pair_starts[end]] + offsets[:, None],
            unit=np.repeat(np.arange(end - begin), sizes),
        )

    def responses(self) -> IntArray:
        """Indices of the responses of all steps."""
        return self._units.responses

    def most_tokens(self, lengths: IntArray) -> int:
        """Of the largest batch, its rows as long as the longest; ``lengths`` (Y,) tokens of prompt and response."""
        starts = self._units.starts[np.append(0, self._ends)]  # (S + 1,)
        widths = np.maximum.reduceat(lengths[self.responses()], starts[:-1])
        return int((np.diff(starts) * widths).max())


def make_units(compared: IntArray, response_prompt: IntArray, size: int) -> Units:
    """Every compared response, by prompt; a prompt with more than ``size`` responses makes several units.

    ``compared`` (M, 2) pairs of responses, sorted by prompt. A pair is in exactly one unit; in a prompt that
    is split, a response is in each unit that has one of its pairs.
    """
    prompt = response_prompt[compared[:, 0]]
    begins = _at_unit(compared, np.diff(prompt, prepend=-1) != 0)
    sizes = np.diff(begins.starts)
    if (sizes > size).any():
        first = np.zeros(len(compared), dtype=bool)
        first[begins.pair_starts[:-1]] = True
        for unit in np.flatnonzero(sizes > size).tolist():
            begin, end = begins.pair_starts[unit : unit + 2].tolist()
            first[[begin + place for place in _cuts(compared[begin:end], size)]] = True
        begins = _at_unit(compared, first)
    return begins


def _at_unit(compared: IntArray, first: BoolArray) -> Units:
    """Units that begin at the pairs where ``first`` (M,) is True."""
    unit = np.cumsum(first) - 1  # (M,)
    responses = int(compared.max()) + 1
    keys, local = np.unique((unit[:, None] * responses + compared).ravel(), return_inverse=True)
    starts = np.searchsorted(keys, np.arange(int(unit[-1]) + 2) * responses)
    pairs = local.reshape(-1, 2) - starts[unit][:, None]
    return Units(keys % responses, starts, pairs, np.append(np.flatnonzero(first), len(compared)))


def plan_steps(units: Units, lengths: IntArray, size: int, steps: int, seed: int) -> Steps:
    """``steps`` batches of about ``size`` responses, units of similar length together, epoch after epoch.

    ``lengths`` (Y,) tokens per response with its prompt. A batch has at least one whole unit and
    exceeds ``size`` only if that unit does.
    """
    longest = np.maximum.reduceat(lengths[units.responses], units.starts[:-1])
    generator = np.random.default_rng(seed)
    taken, sizes = list[IntArray](), list[int]()
    while len(sizes) < steps:
        order, starts = _epoch(units.sizes(), longest, size, generator)
        batches = generator.permutation(len(starts) - 1)[: steps - len(sizes)]
        taken += [order[starts[batch] : starts[batch + 1]] for batch in batches.tolist()]
        sizes += np.diff(starts)[batches].tolist()
    return Steps(units, np.concatenate(taken), np.cumsum(sizes))


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


class _Epoch(NamedTuple):
    """Units in the order in which batches take them."""

    order: IntArray
    """(U,)"""
    starts: IntArray
    """(batches + 1,): batch b takes order[starts[b]:starts[b + 1]]."""


def _epoch(sizes: IntArray, longest: IntArray, size: int, generator: np.random.Generator) -> _Epoch:
    """All units once; those of similar length are neighbours."""
    order = generator.permutation(len(sizes))
    window = max(1, 20 * size // 2)  # units; little padding, and batches still differ from epoch to epoch
    starts = list[int]()
    for begin in range(0, len(order), window):
        near = order[begin : begin + window]
        near = near[np.argsort(longest[near])]
        order[begin : begin + window] = near
        starts += [begin + place for place in _filled(sizes[near].tolist(), size)]
    return _Epoch(order, np.array([*starts, len(order)]))


def _filled(sizes: Sequence[int], size: int) -> Iterator[int]:
    """Where batches of ``size`` begin among units of ``sizes``."""
    count = 0
    for place, more in enumerate(sizes):
        if place == 0 or count + more > size:
            yield place
            count = 0
        count += more


def _cuts(pairs: IntArray, size: int) -> Iterator[int]:
    """Where further units begin in the ``pairs`` (M, 2) of a prompt with more than ``size`` responses."""
    begin, seen = 0, set[int]()
    for index, (first, second) in enumerate(pairs.tolist()):
        if index > begin and len(seen | {first, second}) > size:
            yield index
            begin, seen = index, set()
        seen |= {first, second}


def _starts(sizes: IntArray) -> IntArray:
    """(n + 1,) where each of n parts of ``sizes`` begins, and the end."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])


def _places(starts: IntArray, taken: IntArray) -> IntArray:
    """The places of the parts ``taken``, one after the other, in an array whose parts begin at ``starts``."""
    sizes = np.diff(starts)[taken]
    places: IntArray = np.repeat(starts[taken] - _starts(sizes)[:-1], sizes) + np.arange(int(sizes.sum()))
    return places
