"""Which measured policies are on the front, and how much the family covers: larger is better, in judge scores."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mopo_eval.scorecards import Scorecard


class Front(NamedTuple):
    """The nondominated policies of a family and the hypervolume of all."""

    policies: list[str]
    """Ids, in the order of the family; policies with equal means do not dominate each other."""
    hypervolume: float
    """Volume between ``reference_point`` and the front, in judge scores."""
    reference_point: dict[str, float]


def measured_front(cards: Sequence[Scorecard], reference_point: Mapping[str, float] | None = None) -> Front:
    """The front of the measured means over the objectives that every card holds.

    ``reference_point``: judge score per objective that counts as nothing; 0 where it is not given. Policies below it
    add no volume. Raises ValueError without cards or without a common objective.
    """
    import moocore
    import numpy as np

    shared = [name for name in cards[0].objectives if all(name in card.objectives for card in cards)] if cards else []
    if not shared:
        raise ValueError("no objective that every scorecard holds; measure the policies first")
    point = {name: float((reference_point or {}).get(name, 0.0)) for name in shared}
    means = np.array([[card.objectives[name].mean for name in shared] for card in cards])  # (policies, objectives)
    best = moocore.is_nondominated(means, maximise=True, keep_weakly=True)
    volume = moocore.hypervolume(means, ref=list(point.values()), maximise=True)
    on_front = [card.policy for card, kept in zip(cards, best, strict=True) if kept]
    return Front(on_front, float(volume), point)
