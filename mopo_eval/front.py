"""Which measured policies are on the front, how surely, and how much the family covers; larger is better.

In judge scores, whose range is [0, 1]: the best value is 1 for every objective, the reference point 0 unless given.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mopo_eval.scorecards import Scorecard

if TYPE_CHECKING:
    from mopo_eval.bounds import FloatArray


class Front(NamedTuple):
    """The nondominated policies of a family and the hypervolume of all."""

    policies: list[str]
    """Ids, in the order of the family; policies with equal means do not dominate each other."""
    hypervolume: float
    """Volume between ``reference_point`` and the front, as a share of the box from there to 1 in every objective."""
    reference_point: dict[str, float]


class ResampledFront(NamedTuple):
    """What other prompts of the same kind might have shown."""

    probability: list[float]
    """(P,) share of resamples of the prompts in which a policy is on the front."""
    low: float
    """Lower end of the hypervolume's interval."""
    high: float


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
    on_front = [card.policy for card, kept in zip(cards, best, strict=True) if kept]
    return Front(on_front, covered(means, list(point.values())), point)


def covered(means: "FloatArray", reference_point: Sequence[float]) -> float:
    """Hypervolume of ``means`` (P, K), as a share of the box from ``reference_point`` (K,), each below 1, to 1."""
    import moocore
    import numpy as np

    box = float(np.prod(1 - np.asarray(reference_point, dtype=np.float64)))
    if box <= 0:
        raise ValueError(f"a reference point must be below 1 in every objective; got {list(reference_point)}")
    return float(moocore.hypervolume(means, ref=list(reference_point), maximise=True)) / box


def resampled_front(values: "FloatArray", reference_point: Sequence[float], confidence: float) -> ResampledFront:
    """Bootstrap over the prompts, the same for all policies, of ``values`` (P policies, K objectives, N prompts).

    The hypervolume's interval is the `bootstrap.reflected` one, or where resamples cannot show it, the ``sure_volume``.
    """
    import moocore
    import numpy as np

    from mopo_eval.bootstrap import reflected, resampled_means
    from mopo_eval.intervals import enough_for_bootstrap

    policies, objectives, prompts = values.shape
    rows = values.reshape(-1, prompts)
    means = resampled_means(rows).reshape(-1, policies, objectives)
    means = means.round(12)  # sums of equal scores may be rounded differently, and would dominate each other
    on_front = np.mean([moocore.is_nondominated(each, maximise=True, keep_weakly=True) for each in means], axis=0)
    if not any(enough_for_bootstrap(row) for row in rows):
        return ResampledFront(on_front.tolist(), *sure_volume(values, reference_point, confidence))
    drawn = np.array([covered(each, reference_point) for each in means])
    low, high = reflected(drawn, covered(values.mean(axis=2), reference_point), confidence, prompts)
    return ResampledFront(on_front.tolist(), max(low, 0.0), min(high, 1.0))


def sure_volume(values: "FloatArray", reference_point: Sequence[float], confidence: float) -> tuple[float, float]:
    """Interval for the hypervolume of the true means of ``values`` (P, K, N): wide, for few prompts or constant scores.

    The volumes of the lower and of the upper ends of conservative intervals that hold for all means at once
    (Bonferroni): a hypervolume only grows with its points. (0, 1) for a single prompt.
    """
    import numpy as np

    from mopo_eval.intervals import intervals

    policies, objectives, prompts = values.shape
    if prompts < 2:
        return 0.0, 1.0
    each = 1 - (1 - confidence) / (policies * objectives)
    ends = np.array(intervals(values.reshape(-1, prompts), each, conservative=True)).reshape(policies, objectives, 2)
    return covered(ends[:, :, 0], reference_point), covered(ends[:, :, 1], reference_point)
