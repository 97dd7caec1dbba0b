"""How well predicted preferences fit labelled pairs: log loss, accuracy, calibration error, temperature."""

from typing import NamedTuple

import numpy as np
import scipy.optimize

from mopo_train.winrates import FloatArray, IntArray

BINS = 10
"""Of the calibration error: equally many pairs in each."""
DRAWS = 1000
"""Of the bootstrap."""
TEMPERATURES = (0.1, 20.0)
TEMPERATURE_PRIOR = 0.5
"""Standard deviation of log temperature around 0 before any held-out pair is seen: a handful cannot move it far."""


def log_losses(z: FloatArray, labels: FloatArray) -> FloatArray:
    """(R,) cross-entropy in nats of logits ``z`` for labels in [0, 1]; NaN where the label is."""
    return np.asarray(labels * np.logaddexp(0, -z) + (1 - labels) * np.logaddexp(0, z))


def log_loss(z: FloatArray, labels: FloatArray, weight: FloatArray) -> float:
    """Weighted mean of `log_losses` over the labelled pairs; NaN without any."""
    seen = ~np.isnan(labels)
    return float(np.average(log_losses(z[seen], labels[seen]), weights=weight[seen])) if seen.any() else float("nan")


def best_temperature(z: FloatArray, labels: FloatArray, weight: FloatArray) -> float:
    """T > 0 for which z / T has the least log loss on these pairs; 1 where nothing is labelled."""
    seen = ~np.isnan(labels)
    if not seen.any() or not np.abs(z[seen]).max() > 0:
        return 1.0
    scores, given, weights = z[seen], labels[seen], weight[seen]

    def regret(log_temperature: float) -> float:
        losses = log_losses(scores / np.exp(log_temperature), given)
        return float(weights @ losses + (log_temperature / TEMPERATURE_PRIOR) ** 2 / 2)

    bounds = tuple(np.log(TEMPERATURES))
    return float(np.exp(scipy.optimize.minimize_scalar(regret, bounds=bounds, method="bounded").x))


class Interval(NamedTuple):
    """An estimate with a 95 % interval."""

    mean: float
    low: float
    high: float


class Fit(NamedTuple):
    """How out-of-fold predictions fit the labels of one objective; intervals are bootstrapped over prompt groups."""

    pairs: int
    """Labelled pairs; ties count for everything but the accuracy."""
    accuracy: Interval
    """Share of the strictly labelled pairs ranked as their label ranks them; a prediction of 1/2 is half right."""
    ece: float
    """Expected calibration error: mean over bins of |mean label - mean prediction|, by the pairs in them."""
    log_loss: float
    """Nats per pair."""
    gain: Interval
    """Nats per pair by which the log loss is below that of the constant prediction 1/2."""

    @property
    def learnt(self) -> bool:
        """True where the model is surely better than saying 1/2."""
        return self.gain.low > 0


def measure_fit(z: FloatArray, labels: FloatArray, weight: FloatArray, cluster: IntArray, seed: int = 0) -> Fit | None:
    """Fit of logits ``z`` (R,) to ``labels`` (R,), NaN where unlabelled, in clusters of prompts; None if all are."""
    seen = ~np.isnan(labels)
    if not seen.any():
        return None
    z, labels, weight, cluster = z[seen], labels[seen], weight[seen], cluster[seen]
    strict = labels != 0.5
    right = np.where(z == 0, 0.5, (z > 0) == (labels > 0.5))
    gain = np.log(2) - log_losses(z, labels)  # the best that a constant can do where sides are exchangeable
    return Fit(
        pairs=len(z),
        accuracy=_interval(right[strict], weight[strict], cluster[strict], seed),
        ece=calibration_error(z, labels, weight),
        log_loss=log_loss(z, labels, weight),
        gain=_interval(gain, weight, cluster, seed),
    )


def calibration_error(z: FloatArray, labels: FloatArray, weight: FloatArray) -> float:
    """Expected calibration error in bins of equally many pairs, every pair in both orders: no side is the first."""
    chance = 1 / (1 + np.exp(-np.concatenate([z, -z])))
    label, weights = np.concatenate([labels, 1 - labels]), np.concatenate([weight, weight])
    order = np.argsort(chance, kind="stable")
    total = 0.0
    for part in np.array_split(order, min(BINS, len(order))):
        total += abs(float(weights[part] @ (label[part] - chance[part])))
    return total / float(weights.sum())


def _interval(values: FloatArray, weight: FloatArray, cluster: IntArray, seed: int) -> Interval:
    """Weighted mean with the percentile interval of a bootstrap over clusters; parity without any value."""
    if len(values) == 0:
        return Interval(0.5, 0.0, 1.0)
    _, number = np.unique(cluster, return_inverse=True)
    total = np.bincount(number, weights=weight)
    summed = np.bincount(number, weights=weight * values)
    drawn = np.random.default_rng(seed).multinomial(len(total), np.full(len(total), 1 / len(total)), size=DRAWS)
    means = (drawn @ summed) / (drawn @ total)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(summed.sum() / total.sum()), float(low), float(high))
