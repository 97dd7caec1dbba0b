"""Which of a family's policies are neighbours, so that a member between them is worth having."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from mopo_train.winrates import FloatArray


def neighbours(multipliers: Sequence[Mapping[str, float]]) -> list[tuple[int, int]]:
    """Pairs of policies, the first of each before the second, by the Lagrange ``multipliers`` of each policy.

    log pi / pi_ref of an optimum is (w_primary + sum multiplier_k w_k) / tau up to a constant per prompt: linear in the
    multipliers, so half way between two policies lies the optimum for the multipliers half way. Two are neighbours
    where no third policy's multipliers, each in units of its largest, lie inside the ball that has theirs as ends of
    a diameter (the Gabriel graph; K. R. Gabriel, R. R. Sokal, "A new statistical approach to geographic variation
    analysis", 1969). With two objectives these are the policies next to each other; with more, the members fill the
    surface, not a path on it.
    """
    names = sorted({name for each in multipliers for name in each})
    places = np.array([[each.get(name, 0.0) for name in names] for each in multipliers])
    largest = places.max(axis=0, initial=0.0)
    places = places / np.where(largest > 0, largest, 1.0)
    pairs = itertools.combinations(range(len(places)), 2)
    return [(i, j) for i, j in pairs if not _inside(places, places[i], places[j]).any()]


def _inside(places: FloatArray, one: FloatArray, other: FloatArray) -> FloatArray:
    """(n,) bool: whether a place sees ``one`` and ``other`` under more than a right angle."""
    return np.asarray(((places - one) * (places - other)).sum(axis=1) < 0)
