"""How far a judge is to be trusted: its scores beside people's labels of the same answers.

Pure functions of arrays. Rows of one prompt depend on each other, so all intervals resample prompts.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mopo_eval.bootstrap import draws
from mopo_eval.bounds import FloatArray
from mopo_train.errors import DataError

IntArray = npt.NDArray[np.int64]
LEAST_PROMPTS = 10
"""Below this, resampling says nothing about other prompts."""
BINS = 10
RESAMPLES = 1999


@dataclass(frozen=True)
class Figure:
    """A number with its percentile bootstrap interval over prompts."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """A judge against people."""

    n: int
    """Labelled rows."""
    prompts: int
    confidence: float
    accuracy: Figure | None
    """Share of rows on the same side of 0.5, without those where people are at 0.5; the judge's 0.5 counts half."""
    kappa: Figure | None
    """Cohen's (Educational and Psychological Measurement 20, 1960) of the sides; None where all are on one."""
    calibration_error: Figure
    """Expected calibration error in `BINS` equal bins (Guo et al., arXiv 1706.04599, Eq. 3). A resample adds its noise,
    so the interval lies somewhat high."""
    bias: Figure
    """Mean of judge - people."""
    length_bias: Figure | None
    """Bias on the longer half minus bias on the shorter half, of answers or of pairs by which one is longer."""


def agreement(
    judge: FloatArray, people: FloatArray, length: FloatArray, prompt: IntArray, confidence: float
) -> Agreement:
    """Of scores ``judge`` with labels ``people``, (n,) in [0, 1], of answers with ``length`` (n,) to ``prompt`` (n,).

    Raises DataError for fewer than `LEAST_PROMPTS` prompts.
    """
    _, code = np.unique(prompt, return_inverse=True)
    prompts = _enough(code, len(judge))

    def figure(columns: FloatArray, metric: Callable[[FloatArray], FloatArray]) -> Figure | None:
        return _figure(_by_prompt(columns, code, prompts), metric, confidence)

    sided = people != 0.5
    same = np.where(judge == 0.5, 0.5, (judge > 0.5) == (people > 0.5))
    right = np.column_stack([same * sided, sided])
    error = judge - people
    bias = figure(np.column_stack([error, np.ones_like(error)]), _ratio)
    calibration = figure(_bins(judge, people), _calibration_error)
    assert bias is not None and calibration is not None  # every resample has rows
    longer = length > np.median(length)
    halves = np.column_stack([error * longer, longer, error * ~longer, ~longer]).astype(np.float64)
    return Agreement(
        n=len(judge),
        prompts=prompts,
        confidence=confidence,
        accuracy=figure(right, _ratio),
        kappa=figure(_cells(judge, people) * sided[:, None], _kappa),
        calibration_error=calibration,
        bias=bias,
        length_bias=figure(halves, lambda sums: _ratio(sums[..., :2]) - _ratio(sums[..., 2:])),
    )


def repeatability(first: FloatArray, second: FloatArray, prompt: IntArray, confidence: float) -> Figure:
    """Share of rows (n,) that the same judge puts on the same side of 0.5, or at 0.5, both times."""
    same = np.sign(first - 0.5) == np.sign(second - 0.5)
    return mean_figure(same.astype(np.float64), prompt, confidence)


def mean_figure(values: FloatArray, prompt: IntArray, confidence: float) -> Figure:
    """Mean of ``values`` (n,), of answers to ``prompt`` (n,). Raises DataError as `agreement`."""
    _, code = np.unique(prompt, return_inverse=True)
    prompts = _enough(code, len(values))
    columns = np.column_stack([values, np.ones_like(values)])
    found = _figure(_by_prompt(columns, code, prompts), _ratio, confidence)
    assert found is not None  # every resample has rows
    return found


def _enough(code: IntArray, rows: int) -> int:
    """Number of prompts with ``code`` from 0 on. Raises DataError where they rate no judge."""
    prompts = int(code.max()) + 1 if len(code) else 0
    if prompts < LEAST_PROMPTS:
        raise DataError(
            f"{rows} labels on {prompts} prompts; a judge cannot be rated on fewer than {LEAST_PROMPTS} prompts."
        )
    return prompts


def _figure(stats: FloatArray, metric: Callable[[FloatArray], FloatArray], confidence: float) -> Figure | None:
    """``metric`` of the sums over prompts of ``stats`` (prompts, columns), and over resamples of the prompts."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(metric(stats.sum(axis=0)))
        drawn = np.concatenate([metric(counts @ stats) for counts in draws(len(stats), RESAMPLES)])
    drawn = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(drawn) == 0:
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]).tolist()
    return Figure(value, min(low, value), max(high, value))


def _by_prompt(columns: FloatArray, code: IntArray, prompts: int) -> FloatArray:
    """(prompts, columns) sums over the rows of each prompt."""
    return np.column_stack([np.bincount(code, column, prompts) for column in columns.T.astype(np.float64)])


def _ratio(sums: FloatArray) -> FloatArray:
    ratio: FloatArray = sums[..., 0] / sums[..., 1]
    return ratio


def _cells(judge: FloatArray, people: FloatArray) -> FloatArray:
    """(n, 4) counts: both high, judge alone, people alone, neither; a judge's 0.5 is half of each side."""
    high = np.where(judge == 0.5, 0.5, judge > 0.5)
    theirs = (people > 0.5).astype(np.float64)
    return np.column_stack([high * theirs, high * (1 - theirs), (1 - high) * theirs, (1 - high) * (1 - theirs)])


def _kappa(cells: FloatArray) -> FloatArray:
    share = cells / cells.sum(axis=-1, keepdims=True)
    agreed = share[..., 0] + share[..., 3]
    judge, people = share[..., 0] + share[..., 1], share[..., 0] + share[..., 2]
    chance = judge * people + (1 - judge) * (1 - people)
    kappa: FloatArray = (agreed - chance) / (1 - chance)
    return kappa


def _bins(judge: FloatArray, people: FloatArray) -> FloatArray:
    """(n, 2 BINS): per bin of the judge's score, judge - people and whether the row is in it."""
    place = np.minimum((judge * BINS).astype(np.int64), BINS - 1)
    inside = (place[:, None] == np.arange(BINS)).astype(np.float64)
    return np.hstack([inside * (judge - people)[:, None], inside])


def _calibration_error(sums: FloatArray) -> FloatArray:
    gaps, counts = np.abs(sums[..., :BINS]), sums[..., BINS:]
    error: FloatArray = gaps.sum(axis=-1) / counts.sum(axis=-1)
    return error
