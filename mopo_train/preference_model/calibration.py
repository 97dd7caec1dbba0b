"""How well predicted preferences fit labelled pairs: log loss, accuracy, calibration error, temperature."""

import numpy as np
import scipy.optimize

from mopo_train.winrates import FloatArray

BINS = 10
"""Of the calibration error: equally many pairs in each."""
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
