"""The most probable strengths of numbered responses under Gaussian priors, and moments of their posterior.

Utilities are u = features @ weights + table; skew vectors are linear in the features, or free where there are none. All
parameters are whitened, so that their prior is standard normal and L-BFGS meets a well-conditioned problem.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse

from mopo_train.preference_model.strengths import Pairs, Strengths, probability
from mopo_train.winrates import BoolArray, FloatArray

START = 0.3
"""Standard deviation of the whitened skew entries at the start: at 0 their gradient vanishes."""
SWEEPS = 20
"""Of the fixed point for posterior variances of the table."""


class Prior(NamedTuple):
    """Scales of the Gaussian priors for K objectives."""

    table: FloatArray
    """(K, K) covariance of a response's utilities; zeros: no table."""
    weights: FloatArray
    """(K,) variance of the features' weights."""
    skew: FloatArray
    """(K, W) standard deviation of the entries of the skew vectors, W even; 0 where an objective has none."""


class Design(NamedTuple):
    """R labelled pairs of Y responses with F features."""

    pairs: Pairs
    features: FloatArray
    """(Y, F); F may be 0."""
    free: bool
    """Whether every response has utilities of its own (the table)."""

    @property
    def responses(self) -> int:
        """Y."""
        return len(self.features)

    def incidence(self) -> tuple["scipy.sparse.csr_array", "scipy.sparse.csr_array"]:
        """Two (Y, R) matrices that sum values of pairs over the pairs where a response is first, or second."""
        count, ones = len(self.pairs.first), np.ones(len(self.pairs.first))
        shape = (self.responses, count)
        first, second = (
            scipy.sparse.csr_array((ones, (side, np.arange(count))), shape=shape)
            for side in (self.pairs.first, self.pairs.second)
        )
        return first, second


class Fitted(NamedTuple):
    """The maximum and what can be said around it."""

    strengths: Strengths
    weights: FloatArray
    """(F, K) of the features."""
    table: FloatArray
    """(Y, K); zeros without one."""
    table_variance: FloatArray
    """(Y, K, K) posterior covariance of the table's rows."""
    weights_variance: FloatArray
    """(K, F, F) posterior covariance of the weights."""


class _Parameters(NamedTuple):
    """Whitened parameters in the shapes they have."""

    weights: FloatArray
    """(F, K)"""
    table: FloatArray
    """(Y, K), or (0, K)."""
    skew: FloatArray
    """(F, K, W), or (Y, K, W) without features."""


def maximise(design: Design, prior: Prior, seed: int = 0) -> Fitted:
    """The maximum a posteriori (for W > 0 a local one: the start is drawn from ``seed``) and its Laplace moments."""
    responses, width = design.features.shape
    k, skew = prior.skew.shape
    shapes = [(width, k), (responses if design.free else 0, k), (width or responses, k, skew)]
    bounds = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])

    def unpack(flat: FloatArray) -> _Parameters:
        return _Parameters(
            *(flat[a:b].reshape(shape) for a, b, shape in zip(bounds[:-1], bounds[1:], shapes, strict=True))
        )

    objective = _Objective(design, prior)
    start = np.zeros(bounds[-1])
    start[bounds[2] :] = np.random.default_rng(seed).normal(0, START, bounds[3] - bounds[2])

    def value_and_slope(flat: FloatArray) -> tuple[float, FloatArray]:
        value, slopes = objective.value_and_slopes(unpack(flat))
        slope = np.concatenate([part.ravel() for part in slopes]) + flat
        return value + float(flat @ flat) / 2, slope

    options = {"maxiter": 400, "maxfun": 500, "ftol": 1e-9, "gtol": 1e-5}
    found = scipy.optimize.minimize(value_and_slope, start, jac=True, method="L-BFGS-B", options=options)
    return objective.moments(unpack(found.x))


class _Objective:
    """Negative log likelihood of the pairs, its gradient and curvature."""

    def __init__(self, design: Design, prior: Prior) -> None:
        self.design, self.prior = design, prior
        self.first, self.second = design.incidence()
        labels = design.pairs.labels
        self.seen: BoolArray = ~np.isnan(labels)
        self.labels = np.where(self.seen, labels, 0.5)
        self.weight = np.where(self.seen, design.pairs.weight[:, None], 0.0)  # (R, K)
        values, axes = np.linalg.eigh(prior.table)
        self.root = axes * np.sqrt(np.maximum(values, 0.0))  # (K, K) root @ root.T = table covariance

    def strengths(self, parameters: _Parameters) -> Strengths:
        """The responses' strengths, variance left at 0."""
        utility = self.design.features @ (parameters.weights * np.sqrt(self.prior.weights))
        vectors = parameters.skew * self.prior.skew
        if self.design.free:
            utility = utility + parameters.table @ self.root.T
        if self.design.features.shape[1]:
            vectors = np.einsum("yf,fkw->ykw", self.design.features, vectors)
        return Strengths(utility, vectors, np.zeros_like(utility))

    def value_and_slopes(self, parameters: _Parameters) -> tuple[float, _Parameters]:
        """Negative log likelihood and its gradient in the whitened parameters."""
        made, pairs = self.strengths(parameters), self.design.pairs
        one, other = made.vectors[pairs.first], made.vectors[pairs.second]  # (R, K, W)
        even, odd = slice(0, None, 2), slice(1, None, 2)
        z = made.utility[pairs.first] - made.utility[pairs.second]
        z = z + (one[..., even] * other[..., odd] - one[..., odd] * other[..., even]).sum(axis=-1)
        value = float((self.weight * (np.logaddexp(0, z) - self.labels * z)).sum())
        pull = self.weight * (probability(z) - self.labels)  # (R, K) d value / d z
        utility = self.first @ pull - self.second @ pull  # (Y, K)
        vectors = np.empty_like(made.vectors)
        for w in range(0, vectors.shape[2], 2):
            vectors[..., w] = self.first @ (pull * other[..., w + 1]) - self.second @ (pull * one[..., w + 1])
            vectors[..., w + 1] = self.second @ (pull * one[..., w]) - self.first @ (pull * other[..., w])
        if self.design.features.shape[1]:
            vectors = np.einsum("yf,ykw->fkw", self.design.features, vectors)
        weights = (self.design.features.T @ utility) * np.sqrt(self.prior.weights)
        table = utility @ self.root if self.design.free else np.zeros_like(parameters.table)
        return value, _Parameters(weights, table, vectors * self.prior.skew)

    def moments(self, parameters: _Parameters) -> Fitted:
        """Laplace moments: the table response by response, the weights objective by objective."""
        made, pairs = self.strengths(parameters), self.design.pairs
        z = made.utility[pairs.first] - made.utility[pairs.second]
        chance = probability(z)
        curvature = self.weight * chance * (1 - chance)  # (R, K)
        table = parameters.table @ self.root.T if self.design.free else np.zeros_like(made.utility)
        spread = self._table_covariance(curvature)  # (Y, K, K)
        own = np.einsum("ykk->yk", spread)
        weights = parameters.weights * np.sqrt(self.prior.weights)
        known = self._weights_covariance(curvature / (1 + curvature * (own[pairs.first] + own[pairs.second])))
        variance = own + np.einsum("yf,kfg,yg->yk", self.design.features, known, self.design.features, optimize=True)
        return Fitted(made._replace(variance=variance), weights, table, spread, known)

    def _table_covariance(self, curvature: FloatArray) -> FloatArray:
        """(Y, K, K) covariance of each response's utilities, given that those it was compared with are uncertain too.

        A comparison with curvature h against a response of variance v tells h / (1 + h v), as on a tree of
        comparisons; the fixed point is reached by sweeps.
        """
        objectives = curvature.shape[1]
        if not self.design.free:
            return np.zeros((self.design.responses, objectives, objectives))
        pairs, precision = self.design.pairs, np.linalg.inv(self.prior.table)
        covariance = np.broadcast_to(self.prior.table, (self.design.responses, objectives, objectives))
        for _ in range(SWEEPS):
            variance = np.einsum("ykk->yk", covariance)
            told = self.first @ (curvature / (1 + curvature * variance[pairs.second]))
            told += self.second @ (curvature / (1 + curvature * variance[pairs.first]))  # (Y, K)
            inverse = np.broadcast_to(precision, covariance.shape).copy()
            inverse[:, np.arange(objectives), np.arange(objectives)] += told
            before, covariance = covariance, np.linalg.inv(inverse)
            if np.abs(covariance - before).max() < 1e-6:
                break
        return covariance

    def _weights_covariance(self, curvature: FloatArray) -> FloatArray:
        """(K, F, F) inverse of the curvature in the features' weights."""
        pairs, width = self.design.pairs, self.design.features.shape[1]
        if width == 0:
            return np.zeros((curvature.shape[1], 0, 0))
        difference = self.design.features[pairs.first] - self.design.features[pairs.second]  # (R, F)
        return np.stack(
            [
                np.linalg.inv((difference * curvature[:, k : k + 1]).T @ difference + np.eye(width) / prior)
                for k, prior in enumerate(self.prior.weights)
            ]
        )
