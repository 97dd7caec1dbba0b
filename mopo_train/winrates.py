"""Win rates of responses from labelled comparisons, and reductions over the responses of each prompt.

The win rate of a response is its mean label over the comparisons it appears in (design section 2, "labels").
With few comparisons per response these are optimistic: label noise is taken for quality. Nothing here corrects
for that; `comparisons_per_response` says how bad it may be.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from mopo_train.columns import mapped
from mopo_train.errors import DataError, FloorError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

UNLABELLED_RATE = 0.5
"""Rate of a response without a label: parity."""


class Labelled(Protocol):
    """R comparisons of Y distinct responses to P prompts on K objectives; `preferences.PreferenceData` is one."""

    @property
    def objectives(self) -> tuple[str, ...]:
        """K names."""

    @property
    def labels(self) -> FloatArray:
        """(R, K) probability that the first response is preferred; NaN where unlabelled."""

    @property
    def weight(self) -> FloatArray:
        """(R,) greater than 0."""

    @property
    def prompt(self) -> IntArray:
        """(R,) index of the row's prompt."""

    @property
    def first(self) -> IntArray:
        """(R,) index of the first response."""

    @property
    def second(self) -> IntArray:
        """(R,) index of the second response."""

    @property
    def response_prompt(self) -> IntArray:
        """(Y,) prompt of each response, ascending; every prompt has one."""


class WinRates(NamedTuple):
    """Win rates of Y distinct responses to P prompts on K objectives."""

    objectives: tuple[str, ...]
    rates: FloatArray
    """(Y, K) in [0, 1]; 0.5 where the response carries no label."""
    labelled: BoolArray
    """(P, K): the prompt carries a label on the objective."""
    starts: IntArray
    """(P + 1,): the responses starts[x]:starts[x + 1] belong to prompt x; none is empty."""
    mass: FloatArray
    """(Y,) pi_ref(y|x): positive, sums to 1 over each prompt's responses."""
    itself: bool = False
    """True: a response is among those that it is compared with, as a tie. Mean labels leave it out, which makes
    differences too large by r / (r - 1) for r responses (`policy.losses.correct_differences`)."""

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.starts) - 1

    @property
    def responses(self) -> int:
        """Y."""
        return len(self.rates)

    def column(self, objective: str) -> int:
        """Index of an objective; raises FloorError for an unknown one."""
        if objective not in self.objectives:
            raise FloorError(f"'{objective}' is not an objective of this data; known: {', '.join(self.objectives)}")
        return self.objectives.index(objective)

    def prompt_of(self) -> IntArray:
        """(Y,) index of each response's prompt."""
        return np.repeat(np.arange(self.prompts), np.diff(self.starts))


class LabelSums(NamedTuple):
    """What comparisons say of responses, before the division."""

    total: FloatArray
    """(Y, K) weight of the comparisons of a response that carry a label."""
    won: FloatArray
    """(Y, K) the same, times the label; ``response_b`` has 1 - label."""

    def rates(self) -> FloatArray:
        """(Y, K) weighted mean labels; `UNLABELLED_RATE` without any."""
        seen = self.total > 0
        mean = self.won / np.where(seen, self.total, 1.0)
        return np.where(seen, np.clip(mean, 0.0, 1.0), UNLABELLED_RATE)  # rounding may leave [0, 1] by 1e-16


def label_sums(data: Labelled, rows: BoolArray | None = None) -> LabelSums:
    """Sums over the comparisons ``rows`` (R,), or over all."""
    responses, objectives = len(data.response_prompt), len(data.objectives)
    total, won = np.zeros((responses, objectives)), np.zeros((responses, objectives))
    for k in range(objectives):
        present = ~np.isnan(data.labels[:, k])
        if rows is not None:
            present &= rows
        label, weight = data.labels[present, k], data.weight[present]
        for index, value in ((data.first[present], label), (data.second[present], 1 - label)):
            total[:, k] += np.bincount(index, weights=weight, minlength=responses)
            won[:, k] += np.bincount(index, weights=weight * value, minlength=responses)
    return LabelSums(total, won)


def win_rates(data: Labelled) -> WinRates:
    """w_k(x, y): the weighted mean label of y over its comparisons that carry a label on k.

    A label counts as given for ``response_a`` and as 1 - label for ``response_b``. Prompts and the distinct
    responses of a prompt count alike (uniform ``mass``).
    """
    prompts = int(data.response_prompt[-1]) + 1
    labelled = np.zeros((prompts, len(data.objectives)), dtype=bool)
    for k in range(len(data.objectives)):
        labelled[data.prompt[~np.isnan(data.labels[:, k])], k] = True
    starts = np.searchsorted(data.response_prompt, np.arange(prompts + 1)).astype(np.int64)
    return from_rates(data.objectives, label_sums(data).rates(), starts, labelled=labelled)


def from_rates(
    objectives: Sequence[str],
    rates: npt.ArrayLike,
    starts: npt.ArrayLike,
    *,
    labelled: BoolArray | None = None,
    mass: npt.ArrayLike | None = None,
) -> WinRates:
    """Checked win rates; without ``labelled`` every prompt is, without ``mass`` it is uniform in each prompt.

    Raises DataError for shapes that do not fit, rates that are NaN or outside [0, 1], prompts without
    responses and masses that are not distributions.
    """
    bounds = np.asarray(starts, dtype=np.int64)
    sizes = np.diff(bounds)
    if bounds.ndim != 1 or len(bounds) < 2 or bounds[0] != 0 or (sizes < 1).any():
        raise DataError("every prompt needs at least one response: 'starts' must rise from 0")
    values = np.asarray(rates, dtype=np.float64)
    uniform = np.repeat(1.0 / sizes, sizes)
    share = uniform if mass is None else np.asarray(mass, dtype=np.float64)
    carries = np.ones((len(sizes), len(objectives)), dtype=bool) if labelled is None else labelled
    shapes = (values.shape, share.shape, carries.shape)
    if shapes != ((bounds[-1], len(objectives)), (bounds[-1],), (len(sizes), len(objectives))):
        raise DataError(f"win rates, masses and labelled have shapes {shapes}, which do not fit 'starts'")
    if not ((values >= 0) & (values <= 1)).all():  # NaN too
        bad = int(np.count_nonzero(~((values >= 0) & (values <= 1))))
        raise DataError(f"{bad} win rates are NaN or outside [0, 1]; a win rate is a probability")
    sums = sum_by_prompt(share, bounds)
    if not ((share > 0).all() and np.allclose(sums, 1.0, rtol=0, atol=1e-9)):
        raise DataError("masses must be positive and sum to 1 over the responses of each prompt")
    return WinRates(tuple(objectives), mapped(values), carries, bounds, mapped(share))


class Comparisons(NamedTuple):
    """How often responses were compared on an objective."""

    responses: int
    """Responses with at least one label."""
    mean: float
    """Labelled comparisons per such response; 0 without any."""


def comparisons_per_response(data: Labelled) -> dict[str, Comparisons]:
    """Per objective: labelled comparisons per response that carries a label."""
    counts = {}
    for k, name in enumerate(data.objectives):
        present = ~np.isnan(data.labels[:, k])
        times = np.bincount(data.first[present], minlength=1)
        more = np.bincount(data.second[present], minlength=1)
        size = max(len(times), len(more))
        both = np.pad(times, (0, size - len(times))) + np.pad(more, (0, size - len(more)))
        seen = int(np.count_nonzero(both))
        counts[name] = Comparisons(seen, float(both.sum() / seen) if seen else 0.0)
    return counts


def sum_by_prompt(values: FloatArray, starts: IntArray) -> FloatArray:
    """(..., P) sums over the responses of each prompt of ``values`` (..., Y)."""
    sums: FloatArray = np.add.reduceat(values, starts[:-1], axis=-1)
    return sums


def max_by_prompt(values: FloatArray, starts: IntArray) -> FloatArray:
    """(..., P) maxima over the responses of each prompt of ``values`` (..., Y)."""
    maxima: FloatArray = np.maximum.reduceat(values, starts[:-1], axis=-1)
    return maxima
