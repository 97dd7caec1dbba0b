"""What a front is worth, with intervals over seeds and prompts: the arithmetic of `benchmarks.front`.

Larger is better everywhere. A front is measured as values (policies, objectives, prompts), NaN where a prompt says
nothing on an objective.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import moocore
import numpy as np

from mopo_train.winrates import FloatArray

RESAMPLES = 1000


class Interval(NamedTuple):
    """A mean with its 95 % percentile interval."""

    mean: float
    low: float
    high: float


def policy_means(values: FloatArray, weight: FloatArray | None = None) -> FloatArray:
    """(policies, objectives) means of ``values`` over the prompts that have them, counted ``weight`` (N,) times."""
    known = ~np.isnan(values)
    times = np.ones(values.shape[-1]) if weight is None else weight
    counted = (known * times).sum(axis=-1)
    means: FloatArray = (np.where(known, values, 0.0) * times).sum(axis=-1) / np.maximum(counted, 1e-12)
    return means


def hypervolume(means: FloatArray, nadir: FloatArray) -> float:
    """Volume between ``nadir`` (K,) and the points (P, K), as a share of the box from there to 1."""
    return float(moocore.hypervolume(means, ref=nadir, maximise=True)) / float(np.prod(1 - nadir))


def best_subset(points: FloatArray, size: int, nadir: FloatArray) -> list[int]:
    """``size`` of the ``points`` (N, K) with the most hypervolume: greedy, then single exchanges until none helps."""
    chosen: list[int] = []
    for _ in range(min(size, len(points))):
        chosen.append(_best_addition(points, chosen, nadir))
    improved = True
    while improved:
        improved = False
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            other = [*rest, _best_addition(points, rest, nadir)]
            if hypervolume(points[other], nadir) > hypervolume(points[chosen], nadir) + 1e-12:
                chosen, improved = other, True
    return chosen


def _best_addition(points: FloatArray, chosen: list[int], nadir: FloatArray) -> int:
    return int(np.argmax([hypervolume(points[[*chosen, index]], nadir) for index in range(len(points))]))


def share_of_floors_met(choose: FloatArray, test: FloatArray, floors: FloatArray, primary: int) -> float:
    """Of floors (F, K; NaN where an objective is free), the share that holds on ``test`` means (P, K).

    For each, the policy with the best primary among those whose ``choose`` means (P, K) hold it is taken; where none
    does, it is missed.
    """
    held = 0
    for floor in floors:
        free = np.isnan(floor)
        able = np.flatnonzero(((choose >= floor) | free).all(axis=1))
        if len(able):
            taken = able[np.argmax(choose[able, primary])]
            held += bool(((test[taken] >= floor) | free).all())
    return held / len(floors)


def promises_kept(held: Sequence[FloatArray | None], floors: FloatArray) -> int:
    """Of how many ``floors`` (F, K; NaN where free) the means (K,) ``held`` by the promised policy reach them.

    None where nobody is promised, or the reference, which no cell measures.
    """
    return sum(
        means is not None and bool((np.isnan(floor) | (means >= floor)).all())
        for means, floor in zip(held, floors, strict=True)
    )


def at_divergence(curve: Sequence[tuple[float, float]], wanted: float) -> float:
    """Worth at divergence ``wanted`` of a ``curve`` of (divergence, worth): linear, beyond its ends the nearest."""
    kl, worth = np.array(sorted(curve)).T
    return float(np.interp(wanted, kl, worth))


class Front(NamedTuple):
    """One method on one seed, measured on the test prompts."""

    values: FloatArray
    """(policies, objectives, prompts)."""
    nadir: FloatArray
    """(K,) reference point of the seed."""
    scale: float
    """What hypervolumes are divided by: the best subset's, or 1."""


def resampled(
    fronts: Mapping[str, Sequence[Front]], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, FloatArray]:
    """(resamples,) mean hypervolume over seeds, by method: seeds are drawn again, and within each its prompts.

    The same draws serve every method, so differences of methods are paired; each value of ``fronts`` has one front for
    every seed, in the same order.
    """
    generator = np.random.default_rng(seed)
    seeds = len(next(iter(fronts.values())))
    found = {method: np.zeros(resamples) for method in fronts}
    for draw in range(resamples):
        for place in generator.integers(0, seeds, seeds).tolist():
            prompts = next(iter(fronts.values()))[place].values.shape[-1]
            weight = np.bincount(generator.integers(0, prompts, prompts), minlength=prompts).astype(np.float64)
            for method, each in fronts.items():
                front = each[place]
                means = policy_means(front.values, weight)
                found[method][draw] += hypervolume(means, front.nadir) / front.scale / seeds
    return found


def mean_hypervolume(fronts: Sequence[Front]) -> float:
    """Over the seeds."""
    return float(np.mean([hypervolume(policy_means(front.values), front.nadir) / front.scale for front in fronts]))


def interval(mean: float, draws: FloatArray) -> Interval:
    """``mean`` with the basic bootstrap interval of ``draws``: resampled fronts are larger on average than the front.

    A hypervolume is a maximum over noisy policies, so percentiles of resamples are shifted; reflecting them about the
    mean takes the shift out to first order (Davison and Hinkley, 1997, section 5.2).
    """
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(mean, float(2 * mean - high), float(2 * mean - low))
