"""Lower bounds on the true values of a policy whose win rates are the very labels that chose it.

Where w is a mean of labels, the noise of a label raises a response's share and then is counted as its quality. For one
comparison of y with y', label L of mean p, let g(l) = a rho(y; l) - a' rho(y'; l) be what the policy would be if the
label were l, where a and a' are the shares of the comparison in the mean labels of y and y'. The comparison adds L g(L)
to the policy's value on its own labels and p g(L) to the true one. Their mean difference is the covariance of L and
g(L) (B. Efron, "The estimation of prediction error: covariance penalties and cross-validation", 2004), at most

    p (1 - p) (g(1) - g(0)) <= (q^2 + (1 - 2 q) p) (g(1) - g(0))        for every q,

since g increases and the parabola lies below its tangents. So subtracting (q^2 + (1 - 2 q) L) (g(1) - g(0)), with q a
guess of p from other comparisons, leaves a value that the true one exceeds on average, prompt by prompt; it is sharp
where q is good. A mean over prompts is then bounded from below as in `robust`. A response without a label counts as 0.

Rows carry labels on several objectives. By default g(1) and g(0) stand for all labels of the row at their largest and
smallest, so that an annotator's errors on one objective may go with those on another (a halo). ``independent`` varies
the valued label alone: sharper, and wrong by what such errors share.

With one comparison per response, q is 1/2 for want of others and g(1) - g(0) is large: labels alone cannot tell
quality from noise there (0.9 or 0.1 by half of the pairs look like 0.5 by all), so the bound is valid but of little
use. A model of the preferences fitted on other prompts can do better: `bounds_of_shares`.

Assumed: prompts are drawn independently, and the labels of different rows independently given the responses. The
multipliers and the reweighting of prompts are few numbers shared by all prompts, and are held fixed: that they too are
fitted moves a bound by less than its own error (simulated in ``benchmarks/robust.py``).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.special
import scipy.stats

from mopo_train.dual import Solution
from mopo_train.robust import Radius, lower_value, radii
from mopo_train.winrates import FloatArray, IntArray, Labelled, LabelSums, WinRates, label_sums, sum_by_prompt

PRIOR = 2.0
"""Labels at 1/2 that the guess of a comparison's mean label starts from."""
TOGETHER = 2**16
"""Comparisons that are worked on at a time, which bounds the memory."""


def with_bounds(
    data: Labelled,
    rates: WinRates,
    points: Sequence[Solution],
    tau: float,
    epsilon: Radius = None,
    *,
    independent: bool = False,
) -> list[Solution]:
    """``points`` with ``bound``: lower bounds at the radius that the robust floors have (`robust.radii`).

    With the default radius each exceeds the true value in at most 5 % of samples. ``epsilon`` 0 takes the labels at
    their word: the bound is then ``predicted`` itself. ``rates`` are those of ``data`` (`winrates.win_rates`).
    """
    if epsilon == 0:
        return [point._replace(bound=dict(point.predicted)) for point in points]
    radius = radii(rates.labelled.sum(axis=0), epsilon)
    sums = label_sums(data)
    found = []
    for point in points:
        values = honest_values(data, rates, sums, point, tau, independent=independent)
        found.append(point._replace(bound=_bounds(rates, values, radius)))
    return found


def bounds_of_shares(data: Labelled, rates: WinRates, share: FloatArray, epsilon: Radius = None) -> dict[str, float]:
    """Lower bound per objective for a policy with probabilities ``share`` (Y,) that its prompts' labels did not make.

    Such as the tilt on win rates that a preference model predicts which was fitted on other prompts. ``rates`` are the
    labels' own, of the same responses: they value the policy without a bias.
    """
    heard = np.where(label_sums(data).total > 0, rates.rates, 0.0)  # (Y, K)
    values = sum_by_prompt(np.ascontiguousarray(heard.T) * share, rates.starts)
    return _bounds(rates, values, radii(rates.labelled.sum(axis=0), epsilon))


def honest_values(
    data: Labelled, rates: WinRates, sums: LabelSums, point: Solution, tau: float, *, independent: bool = False
) -> FloatArray:
    """(K, P) values that the policy of ``point`` exceeds on average over the labels: see the module."""
    weights = _weights(rates, point)  # (K, P)
    policy = _Policy(point.score, tau, rates)
    heard = (np.where(sums.total[:, k] > 0, rates.rates[:, k], 0.0) for k in range(len(rates.objectives)))
    values = np.stack([sum_by_prompt(each * policy.share, rates.starts) for each in heard])
    penalties = np.zeros_like(values)
    for begin in range(0, len(data.prompt), TOGETHER):
        rows = _Rows.of(data, slice(begin, begin + TOGETHER))
        for k, penalty in enumerate(_penalties(rows, sums, policy, weights, independent=independent)):
            np.add.at(penalties[k], rows.prompt, penalty)
    return values - penalties


class _Rows(NamedTuple):
    """Some comparisons: fields as those of `winrates.Labelled`."""

    labels: FloatArray
    weight: FloatArray
    prompt: IntArray
    first: IntArray
    second: IntArray

    @classmethod
    def of(cls, data: Labelled, rows: slice) -> "_Rows":
        return cls(*(getattr(data, name)[rows] for name in cls._fields))


def _penalties(
    rows: _Rows, sums: LabelSums, policy: "_Policy", weights: FloatArray, *, independent: bool
) -> Iterator[FloatArray]:
    """For each objective, what comparisons (R,) give too much to their prompt's value; 0 for one without the label."""
    labelled = ~np.isnan(rows.labels)  # (R, K)
    pull = np.where(labelled, weights[:, rows.prompt].T, 0.0)  # (R, K) score per unit of win rate
    parts = np.stack(
        [rows.weight[:, None] / np.where(labelled, sums.total[side], 1.0) for side in (rows.first, rows.second)]
    )  # (2, R, K)
    label = np.where(labelled, rows.labels, 0.0)
    up, down = pull * (1 - label), pull * -label  # (R, K) change of a score where a label becomes 1, or 0
    every = policy.changed(rows, _moves(up, parts)), policy.changed(rows, _moves(down, parts))  # (2, R) each
    for k in range(rows.labels.shape[1]):
        if independent:
            alone = np.zeros(rows.labels.shape[1])
            alone[k] = 1.0
            high, low = (policy.changed(rows, _moves(move * alone, parts)) for move in (up, down))
        else:
            high, low = every
        risen = parts[:, :, k] * (high - low)  # (2, R): what the first gains and the second loses
        guess = _guess(rows, label[:, k], sums, k)
        tangent = guess**2 + (1 - 2 * guess) * label[:, k]
        yield np.where(labelled[:, k], tangent * (risen[0] - risen[1]), 0.0)


class _Policy:
    """Shares of a tilt, and of the same tilt with other scores for two responses of a prompt."""

    def __init__(self, score: FloatArray, tau: float, rates: WinRates) -> None:
        top = np.maximum.reduceat(score, rates.starts[:-1])
        self._tau = tau
        self._weight = rates.mass * np.exp((score - top[rates.prompt_of()]) / tau)
        self._sum = sum_by_prompt(self._weight, rates.starts)
        self.share: FloatArray = self._weight / self._sum[rates.prompt_of()]

    def changed(self, rows: _Rows, moves: FloatArray) -> FloatArray:
        """(2, R) shares of the first and second response of each row if ``moves`` (2, R) joined their scores."""
        before = np.stack([self._weight[rows.first], self._weight[rows.second]])
        with np.errstate(over="ignore", invalid="ignore"):
            after = before * np.exp(np.minimum(moves / self._tau, 700.0))
            others = np.maximum(self._sum[rows.prompt] - before.sum(axis=0), 0.0)
            shares: FloatArray = after / (others + after.sum(axis=0))
        return shares


def _moves(change: FloatArray, parts: FloatArray) -> FloatArray:
    """(2, R) changes of the scores of a row's responses for changes (R, K) of its labels times the pull."""
    return np.stack([(parts[0] * change).sum(axis=1), -(parts[1] * change).sum(axis=1)])


def _weights(rates: WinRates, point: Solution) -> FloatArray:
    """(K, P) what a unit of win rate adds to the score of ``point``: 1 for the primary, lambda t for a floor."""
    share = rates.mass * point.ratio
    total = sum_by_prompt(share, rates.starts)
    values = sum_by_prompt(np.ascontiguousarray(rates.rates.T) * share, rates.starts) / total
    weights = np.zeros((len(rates.objectives), rates.prompts))
    weights[rates.column(point.primary)] = 1.0
    for name, multiplier in point.multipliers.items():
        k = rates.column(name)
        seen = rates.labelled[:, k]
        weights[k, seen] += multiplier * _reweighting(values[k, seen], point.chi[name])
    return weights


def _reweighting(values: FloatArray, chi: float) -> FloatArray:
    """(n,) t proportional to exp(-v / chi) with mean 1; uniform on the smallest values at chi 0."""
    if np.isinf(chi):
        return np.ones(len(values))
    if chi == 0:
        lowest = (values <= values.min() + 1e-12).astype(np.float64)
        return np.asarray(lowest / lowest.mean())
    power = -values / chi
    t: FloatArray = np.exp(power - scipy.special.logsumexp(power)) * len(values)
    return t


def _guess(rows: _Rows, label: FloatArray, sums: LabelSums, k: int) -> FloatArray:
    """(R,) the mean label of a comparison, guessed from the other comparisons of its two responses."""
    lead = np.zeros(len(label))
    for side, won, sign in ((rows.first, label, 1.0), (rows.second, 1 - label, -1.0)):
        left = np.maximum(sums.total[side, k] - rows.weight, 0.0)
        rest = np.where(left > 1e-9, np.clip((sums.won[side, k] - rows.weight * won), 0.0, left), 0.0)
        lead += sign * (rest + PRIOR / 2) / (left + PRIOR)
    return np.clip(0.5 + lead / 2, 0.0, 1.0)


def _bounds(rates: WinRates, by_prompt: FloatArray, radius: FloatArray) -> dict[str, float]:
    """Per objective, the bound for values (K, P); 0 without a label."""
    found = {}
    for k, name in enumerate(rates.objectives):
        values = by_prompt[k, rates.labelled[:, k]]
        found[name] = lower_bound(values, float(radius[k])) if len(values) else 0.0
    return found


def lower_bound(values: FloatArray, epsilon: float) -> float:
    """Lower bound for the mean of a variable that is 0 or more on average, from independent draws ``values`` (n,).

    The worst reweighting of the draws and of one value of 0 that might have been seen: without it the bound would
    never fall below the smallest value seen and miss rare failures (J. Chen, A. Variyath, B. Abraham, "Adjusted
    empirical likelihood", 2008, add one value for the like reason). Exact (Clopper and Pearson) where every value is
    0 or 1, at the level for which ``epsilon`` is the radius. Never below 0.
    """
    n = len(values)
    if np.isin(values, (0.0, 1.0)).all():
        delta = float(scipy.stats.chi2.sf(2 * n * epsilon, df=1)) / 2
        wins = int(values.sum())
        return float(scipy.special.betaincinv(wins, n - wins + 1, delta)) if wins else 0.0
    return max(0.0, lower_value(np.append(values, 0.0), epsilon).value)
