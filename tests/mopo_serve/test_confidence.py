"""Confidence sequences: the definition written out, monotone capital, and coverage at all times by simulation."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from mopo_serve.confidence import FloatArray, bounds, log_capital, path, stakes

ALPHA = 0.05


def written_out(values: list[float], m: float, alpha: float) -> tuple[float, float]:
    """Capitals of both gamblers at the end, as the paper defines them, one value at a time."""
    up = down = 1.0
    total, squares = 0.5, 0.25
    variance = 0.25
    for t, x in enumerate(values, 1):
        bet = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(t + 1)))
        up *= 1 + min(bet, 0.5 / m) * (x - m)
        down *= 1 - min(bet, 0.5 / (1 - m)) * (x - m)
        total += x
        squares += (x - total / (t + 1)) ** 2
        variance = squares / (t + 1)
    return up, down


def test_bounds_are_where_the_written_out_capitals_cross() -> None:
    values = np.random.default_rng(3).beta(4, 2, size=120)
    found = bounds(values)
    for m, refuted in ((found.low - 1e-6, True), (found.low + 1e-6, False)):
        assert (written_out(values.tolist(), m, ALPHA)[0] >= 2 / ALPHA) is refuted
    for m, refuted in ((found.high + 1e-6, True), (found.high - 1e-6, False)):
        assert (written_out(values.tolist(), m, ALPHA)[1] >= 2 / ALPHA) is refuted
    assert found.mean == pytest.approx(values.mean())


def test_capital_falls_with_the_mean_that_is_bet_against() -> None:
    values = np.random.default_rng(0).choice([0.0, 0.3, 1.0], size=200)
    capitals = [log_capital(values, stakes(values, ALPHA), m)[-1] for m in np.linspace(0.001, 0.999, 400)]
    assert (np.diff(capitals) <= 1e-9).all()


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda rng, size: rng.binomial(1, 0.9, size).astype(float), 0.9),
        (lambda rng, size: rng.binomial(1, 0.5, size).astype(float), 0.5),
        (lambda rng, size: rng.beta(2, 5, size), 2 / 7),
        (lambda rng, size: rng.choice([0.0, 0.5, 1.0], size, p=[0.1, 0.2, 0.7]), 0.8),
    ],
)
def test_the_true_mean_is_held_at_all_times_at_once(
    draw: Callable[[np.random.Generator, tuple[int, int]], FloatArray], mean: float
) -> None:
    """600 sequences of 1,000 looks each."""
    sequences = draw(np.random.default_rng(7), (600, 1000))
    missed = 0
    for values in sequences:
        bets = stakes(values, ALPHA)
        up = log_capital(values, bets, mean).max()
        down = log_capital(1 - values, bets, 1 - mean).max()
        missed += max(up, down) >= math.log(2 / ALPHA)
    assert missed / len(sequences) <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / len(sequences))


def test_bounds_close_in_and_a_chart_gets_the_way_there() -> None:
    values = np.random.default_rng(1).binomial(1, 0.8, 2000).astype(float)
    widths = [bounds(values[:n]).high - bounds(values[:n]).low for n in (1, 20, 200, 2000)]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0.9 and widths[-1] < 0.08
    way = path(values, points=10)
    assert len(way) == 10
    assert way[-1] == (2000, bounds(values))


def test_evidence_that_is_taken_back_lowers_the_bound() -> None:
    good, bad = np.ones(200), np.zeros(400)
    assert bounds(good).low > 0.9
    assert bounds(np.concatenate([good, bad])).low < bounds(good).low


@pytest.mark.parametrize("values", [[], [0.5, 1.2], [-0.1], [float("nan")]])
def test_values_that_cannot_be_bounded_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        bounds(np.array(values, dtype=float))
