"""Fit a preference model to numbered responses: a table of utilities, features, or both. Nothing else is needed.

    strengths = fit_finite(make_pairs(first, second, labels), Y)               # no side information
    strengths = fit_finite(make_pairs(first, second, labels), Y, features=X)   # X (Y, F)
    rates = finite_win_rates(strengths, objectives, [0, Y])                    # for `dual.solve`

The priors come from the data: the covariance of the table over the objectives (so that objectives inform each other,
and sparse data shrink towards parity) and the variance of the features' weights by expectation maximisation; rank and
scale of the skew part, and the temperature, per objective by the log loss of held-out pairs. Not covered: text.
"""

from typing import NamedTuple

import numpy as np

from mopo_train.errors import DataError
from mopo_train.preference_model.calibration import best_temperature, log_loss
from mopo_train.preference_model.laplace import Design, Fitted, Prior, maximise
from mopo_train.preference_model.strengths import Pairs, Strengths, logits
from mopo_train.winrates import FloatArray, IntArray

FIRST_VARIANCE = 1.0
"""Of utilities before the data speak: a standard deviation of 1 makes P between .15 and .85 common."""
LEAST_VARIANCE = 1e-6
CYCLES = ((2, 1.0), (2, 0.5), (8, 0.7), (8, 0.35))
"""Skew parts that are tried: dimensions 2 r, and prior standard deviation of their entries."""
WORTH = 0.002
"""Nats per pair that a skew part must gain on held-out pairs to be used."""
HELD_OUT = 0.2
FEWEST = 20
"""Pairs below which nothing is held out: a Bradley-Terry model at temperature 1."""
GROWTH = (1.0, 2.0, 4.0, 8.0)
"""Factors on the prior variances that are tried: Laplace's approximation finds too little spread in binary labels."""
ROUNDS = 15
"""Of expectation maximisation at most."""
SETTLED = 0.02
"""Relative change of the priors at which it ends."""


def fit_finite(
    pairs: Pairs, responses: int, *, features: FloatArray | None = None, table: bool | None = None, seed: int = 0
) -> Strengths:
    """The strengths of Y = ``responses`` responses on the K objectives of ``pairs``, calibrated on held-out pairs.

    ``features`` (Y, F) are scaled here; ``table`` gives every response utilities of its own (default: where there are
    no features). A response without comparisons has parity but for its features; an objective without labels has
    parity everywhere. Raises DataError for responses out of range and features that do not fit or are not finite.
    """
    largest = int(max(pairs.first.max(), pairs.second.max()))
    if largest >= responses:
        raise DataError(f"a comparison names response {largest}, but there are {responses}, numbered from 0")
    free = features is None if table is None else table
    if features is None and not free:
        raise DataError("a preference model of numbered responses needs features, a table, or both")
    design = Design(pairs, _scaled(features, responses), free)
    held = np.random.default_rng(seed).random(len(pairs.first)) < HELD_OUT
    if len(pairs.first) < FEWEST or not held.any() or held.all():
        return _silent(_fit(design, _no_cycles(design)).strengths, pairs)
    choice = _choose(design._replace(pairs=pairs.take(~held)), pairs.take(held), seed)
    prior = _grown(_fit_prior(design), choice.growth)._replace(skew=choice.skew)
    return _silent(maximise(design, prior, seed).strengths.scaled(choice.temperature), pairs)


class _Choice(NamedTuple):
    """What held-out pairs prefer, per objective."""

    growth: FloatArray
    """(K,) of the prior variances."""
    skew: FloatArray
    """(K, W) as in `Prior`."""
    temperature: FloatArray
    """(K,)"""


def _choose(design: Design, unseen: Pairs, seed: int) -> _Choice:
    """The growth, then the skew part and its temperature, of least log loss on ``unseen`` pairs."""
    objectives = unseen.labels.shape[1]
    prior = _fit_prior(design)

    def losses(z: FloatArray) -> FloatArray:
        return np.array([log_loss(z[:, k], unseen.labels[:, k], unseen.weight) for k in range(objectives)])

    def predicted(trial: Prior) -> FloatArray:
        return logits(maximise(design, trial, seed).strengths, unseen.first, unseen.second)

    grown = [losses(predicted(_grown(prior, np.full(objectives, factor)))) for factor in GROWTH]
    growth = np.array(GROWTH)[_least(grown)]
    prior = _grown(prior, growth)
    shrink = max(1, design.features.shape[1]) ** 0.5  # vectors that are sums over features keep their size
    tried = [prior.skew, *(np.full((objectives, width), scale / shrink) for width, scale in CYCLES)]
    found, temperatures = [], []
    for skew in tried:
        z = predicted(prior._replace(skew=skew))
        temperatures.append([best_temperature(z[:, k], unseen.labels[:, k], unseen.weight) for k in range(objectives)])
        found.append(losses(z / temperatures[-1]) + (WORTH if skew.size else 0.0))
    best = _least(found)
    chosen = np.zeros((objectives, max(tried[index].shape[1] for index in best)))
    for k, index in enumerate(best):
        chosen[k, : tried[index].shape[1]] = tried[index][k]
    return _Choice(growth, chosen, np.array(temperatures)[best, np.arange(objectives)])


def _least(losses: list[FloatArray]) -> IntArray:
    """(K,) which of the trials has the least loss on each objective; the first where nothing is labelled."""
    return np.asarray(np.nan_to_num(np.stack(losses), nan=np.inf).argmin(axis=0), dtype=np.int64)


def _grown(prior: Prior, growth: FloatArray) -> Prior:
    """The prior with variances multiplied by ``growth`` (K,), correlations kept."""
    root = np.sqrt(growth)
    return prior._replace(table=prior.table * root[:, None] * root, weights=prior.weights * growth)


def _no_cycles(design: Design) -> FloatArray:
    return np.zeros((design.pairs.labels.shape[1], 0))


def _fit_prior(design: Design) -> Prior:
    """Expectation maximisation of the priors of a Bradley-Terry model (Laplace's approximation in each round)."""
    objectives, width = design.pairs.labels.shape[1], design.features.shape[1]
    table = np.eye(objectives) * FIRST_VARIANCE if design.free else np.zeros((objectives, objectives))
    prior = Prior(table, np.full(objectives, FIRST_VARIANCE / max(1, width)), _no_cycles(design))
    for _ in range(ROUNDS):
        updated = _expected(design, maximise(design, prior), prior)
        done = all(
            np.allclose(new, old, rtol=SETTLED, atol=LEAST_VARIANCE)
            for new, old in ((updated.table, prior.table), (updated.weights, prior.weights))
        )
        prior = updated
        if done:
            break
    return prior


def _expected(design: Design, fitted: Fitted, prior: Prior) -> Prior:
    """The priors under which the posterior's second moments are what is expected."""
    table, weights = prior.table, prior.weights
    if design.free:  # responses that were never compared say nothing
        seen = np.union1d(design.pairs.first, design.pairs.second)
        rows, spread = fitted.table[seen], fitted.table_variance[seen]
        table = (rows.T @ rows + spread.sum(axis=0)) / len(seen) + LEAST_VARIANCE * np.eye(len(weights))
    width = design.features.shape[1]
    if width:
        own = np.einsum("kff->k", fitted.weights_variance)
        weights = ((fitted.weights**2).sum(axis=0) + own) / width + LEAST_VARIANCE
    return Prior(table, weights, prior.skew)


def _fit(design: Design, skew: FloatArray) -> Fitted:
    return maximise(design, _fit_prior(design)._replace(skew=skew))


def _silent(strengths: Strengths, pairs: Pairs) -> Strengths:
    """Parity on objectives that no pair labels: the skew part's random start would be left there."""
    labelled = np.sum(~np.isnan(pairs.labels), axis=0) > 0  # (K,)
    vectors = strengths.vectors * labelled.reshape(1, -1, 1)
    return strengths._replace(utility=strengths.utility * labelled, vectors=vectors)


def _scaled(features: FloatArray | None, responses: int) -> FloatArray:
    """(Y, F) centred features of unit variance without the constant ones; F = 0 without any."""
    if features is None:
        return np.zeros((responses, 0))
    values = np.asarray(features, dtype=np.float64)
    if values.ndim != 2 or len(values) != responses or not np.isfinite(values).all():
        raise DataError(f"features of shape {values.shape} do not fit {responses} responses, or are not finite")
    spread = values.std(axis=0)
    kept = spread > 1e-12 * np.maximum(1.0, np.abs(values).max(axis=0, initial=0.0))
    return np.asarray((values - values.mean(axis=0))[:, kept] / spread[kept])
