"""What a preference model knows of each response, and the probabilities and win rates that follow.

The logit of "i is preferred to j" on objective k is

    z_k(i, j) = u_k(i) - u_k(j) + sum_s [e_k2s(i) e_k2s+1(j) - e_k2s+1(i) e_k2s(j)]

a Bradley-Terry part plus the skew-symmetric form of general preference embeddings (Zhang et al., arXiv 2410.02197,
Eq. 5-6). Both change sign exactly when i and j are exchanged, in floating point too; the second holds cycles, which
no difference of scores can. Where ``variance`` says how uncertain u is, probabilities are means over it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mopo_train.errors import DataError
from mopo_train.winrates import UNLABELLED_RATE, BoolArray, FloatArray, IntArray, WinRates, from_rates

BLOCK = 4_000_000
"""Pairs of responses whose probabilities are computed at once (about 100 MB)."""


class Pairs(NamedTuple):
    """R comparisons of responses that are numbered 0..Y-1, labelled on K objectives."""

    first: IntArray
    """(R,)"""
    second: IntArray
    """(R,)"""
    labels: FloatArray
    """(R, K) probability that the first is preferred, in [0, 1]; NaN where unlabelled."""
    weight: FloatArray
    """(R,) greater than 0."""

    def take(self, rows: BoolArray | IntArray) -> "Pairs":
        """Some of the comparisons."""
        return Pairs(self.first[rows], self.second[rows], self.labels[rows], self.weight[rows])


def make_pairs(
    first: Sequence[int], second: Sequence[int], labels: FloatArray, weight: FloatArray | None = None
) -> Pairs:
    """Checked comparisons; ``labels`` (R,) for one objective or (R, K), ``weight`` 1 where it is None.

    Raises DataError for shapes that do not fit, labels outside [0, 1], weights that are not positive and responses
    compared with themselves.
    """
    a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    values = np.asarray(labels, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    weights = np.ones(len(a)) if weight is None else np.asarray(weight, dtype=np.float64)
    if not (a.shape == b.shape == weights.shape == values.shape[:1]) or values.ndim != 2:
        shapes = (a.shape, b.shape, values.shape, weights.shape)
        raise DataError(f"first, second, labels and weight have shapes {shapes}; expected (R,), (R,), (R, K), (R,)")
    if len(a) == 0:
        raise DataError("there is no comparison to fit a preference model to; give at least one labelled pair")
    if ((values < 0) | (values > 1)).any():
        raise DataError("labels must lie in [0, 1], or be NaN where a pair is unlabelled")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise DataError("weights of comparisons must be finite and greater than 0")
    if (a == b).any() or min(a.min(), b.min()) < 0:
        raise DataError("a comparison needs two different responses, numbered from 0")
    return Pairs(a, b, values, weights)


class Strengths(NamedTuple):
    """What is known of Y responses on K objectives."""

    utility: FloatArray
    """(Y, K) u: the Bradley-Terry part, in logits."""
    vectors: FloatArray
    """(Y, K, 2 r) e: the skew part; r may be 0."""
    variance: FloatArray
    """(Y, K) posterior variance of u; 0: taken as known."""

    def scaled(self, temperature: FloatArray) -> "Strengths":
        """The same model with every logit of objective k divided by ``temperature``, (K,) or (Y, K)."""
        root = np.sqrt(temperature)[..., None]
        return Strengths(self.utility / temperature, self.vectors / root, self.variance / temperature**2)

    def take(self, responses: IntArray | slice) -> "Strengths":
        """Those of some responses."""
        return Strengths(self.utility[responses], self.vectors[responses], self.variance[responses])


def logits(strengths: Strengths, first: IntArray, second: IntArray) -> FloatArray:
    """(R, K) z of "first is preferred to second", damped for uncertainty; exchanging the two changes only the sign.

    The mean of sigmoid(z) over z ~ N(m, v) is close to sigmoid(m / sqrt(1 + pi v / 8)) (MacKay 1992).
    """
    a, b = strengths.take(first), strengths.take(second)
    z = a.utility - b.utility
    for s in range(0, strengths.vectors.shape[2], 2):
        z = z + (a.vectors[..., s] * b.vectors[..., s + 1] - a.vectors[..., s + 1] * b.vectors[..., s])
    return np.asarray(z / np.sqrt(1 + np.pi / 8 * (a.variance + b.variance)))


def probability(z: FloatArray) -> FloatArray:
    """Sigmoid of ``z``; the values at z and -z sum to 1 exactly."""
    larger = 1 / (1 + np.exp(-np.abs(z)))  # in [1/2, 1], so 1 - larger is exact
    return np.where(z >= 0, larger, 1 - larger)


def preferences(strengths: Strengths, first: IntArray, second: IntArray) -> FloatArray:
    """(R, K) P_k(first is preferred to second); P(a, b) + P(b, a) = 1 exactly."""
    return probability(logits(strengths, first, second))


def set_win_rates(
    strengths: Strengths, starts: IntArray, *, mass: FloatArray | None = None, leave_out: bool = True
) -> FloatArray:
    """(Y, K) w_k(x, y) = E P_k(y > y'): over the responses y' of the prompt, drawn by ``mass`` (uniform if None).

    ``leave_out`` leaves y itself out, as the mean labels of `winrates.win_rates` do, so that both are the same "data
    win rate"; without, y meets itself as a tie (the expectation over a finite set that stands for mu). A prompt with
    one response has parity.
    """
    sizes = np.diff(starts)
    rates = np.full(strengths.utility.shape, UNLABELLED_RATE)
    share = np.repeat(1.0 / sizes, sizes) if mass is None else mass
    for size in np.unique(sizes[sizes > 1]):  # prompts with equally many responses, together
        of_size = np.flatnonzero(sizes == size)
        step = max(1, BLOCK // int(size * size))
        for begin in range(0, len(of_size), step):
            members = starts[of_size[begin : begin + step], None] + np.arange(size)  # (p, r)
            rates[members] = _group_rates(strengths, members, share, leave_out)
    return np.clip(rates, 0.0, 1.0)


def _group_rates(strengths: Strengths, members: IntArray, share: FloatArray, leave_out: bool) -> FloatArray:
    """(p, r, K) rates of ``members`` (p, r) against each other, the rows of large groups in blocks."""
    p, r = members.shape
    rates = np.empty((p, r, strengths.utility.shape[1]))
    step = max(1, BLOCK // (p * r))
    weight = share[members]  # (p, r)
    for begin in range(0, r, step):
        rows = members[:, begin : begin + step]
        for k in range(rates.shape[2]):
            one = Strengths(*(part[:, k : k + 1] for part in strengths))
            chance = preferences(one, rows[:, :, None], members[:, None, :])[..., 0]  # (p, rows, r)
            total = np.einsum("xij,xj->xi", chance, weight)
            own = weight[:, begin : begin + step]
            rates[:, begin : begin + step, k] = (total - own / 2) / (1 - own) if leave_out else total
    return rates


def finite_win_rates(
    strengths: Strengths, objectives: Sequence[str], starts: Sequence[int], *, mass: FloatArray | None = None
) -> WinRates:
    """The win rates of a fitted model over finite response sets, as the dual takes them.

    ``starts`` (P + 1,) as in `WinRates`: for one prompt with Y responses [0, Y]. A response meets itself as a tie.
    """
    bounds = np.asarray(starts, dtype=np.int64)
    rates = set_win_rates(strengths, bounds, mass=mass, leave_out=False)
    return from_rates(objectives, rates, bounds, mass=mass)
