import numpy as np
import pytest
from scipy import stats

from mopo_eval.intervals import betting_interval, clopper_pearson, interval, intervals, wilson


def test_five_of_five_by_hand() -> None:
    low, high = wilson(5, 5, 0.95)
    assert low == pytest.approx(5 / (5 + 1.959964**2), abs=1e-6)
    assert high == 1


@pytest.mark.parametrize("passed", [0, 1, 17, 39, 40])
def test_wilson_agrees_with_scipy(passed: int) -> None:
    theirs = stats.binomtest(passed, 40).proportion_ci(0.9, method="wilson")
    assert wilson(passed, 40, 0.9) == pytest.approx((theirs.low, theirs.high))


def test_zeros_and_ones_get_wilsons_interval() -> None:
    assert interval(np.array([1.0] * 7 + [0.0] * 3), 0.95) == wilson(7, 10, 0.95)


def test_the_bootstrap_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    rng, trials = np.random.default_rng(0), 200
    found = [interval(rng.beta(2, 5, 60), 0.9) for _ in range(trials)]
    covered = sum(low <= 2 / 7 <= high for low, high in found) / trials
    assert 0.84 <= covered <= 0.96


def test_the_bootstrap_interval_of_many_symmetric_values_is_nearly_the_normal_one() -> None:
    values = np.random.default_rng(0).beta(5, 5, 2000)
    reach = 1.959964 * values.std() / np.sqrt(2000)
    assert interval(values, 0.95) == pytest.approx((values.mean() - reach, values.mean() + reach), abs=reach / 10)


def test_an_interval_is_the_same_whenever_it_is_made() -> None:
    values = np.random.default_rng(0).beta(2, 5, 100)
    assert interval(values, 0.95) == interval(values.copy(), 0.95)


@pytest.mark.parametrize(
    "values",
    [
        [0.7] * 40,
        [0.7] * 2,
        [0.2, 0.8],
        [0.5, 0.5, 1.0],
        [0.999] * 39 + [1.0],
        [0.5] * 9 + [0.0],
        [1.0] * 30,
        [0.0] * 3,
    ],
)
def test_no_interval_is_a_point_and_each_holds_its_mean(values: list[float]) -> None:
    low, high = interval(np.array(values), 0.95)
    assert 0 <= low <= np.mean(values) <= high <= 1
    assert high - low > 0.001


def test_values_that_are_all_the_same_get_a_betting_interval() -> None:
    assert interval(np.full(40, 0.7), 0.95) == betting_interval(np.full(40, 0.7), 0.95)


def test_a_betting_interval_mirrors() -> None:
    values = np.random.default_rng(0).beta(2, 5, 50)
    low, high = betting_interval(values, 0.9)
    assert betting_interval(1 - values, 0.9) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("values", [[], [0.5], [0.5, 2.0], [0.5, float("nan")]])
def test_an_interval_needs_two_values_in_the_unit_interval(values: list[float]) -> None:
    with pytest.raises(ValueError, match="two values or more"):
        interval(np.array(values), 0.95)


def test_a_rate_needs_a_prompt() -> None:
    with pytest.raises(ValueError, match="score some first"):
        wilson(0, 0, 0.95)


@pytest.mark.parametrize("passed", [0, 1, 17, 39, 40])
def test_clopper_and_pearsons_interval_agrees_with_scipy(passed: int) -> None:
    theirs = stats.binomtest(passed, 40).proportion_ci(0.9, method="exact")
    assert clopper_pearson(passed, 40, 0.9) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("n", [2, 30, 300])
@pytest.mark.parametrize("rate", [0.005, 0.05, 0.5, 0.995])
def test_the_conservative_interval_of_a_rate_covers_it_at_least_as_often_as_it_says(n: int, rate: float) -> None:
    found = [interval(np.repeat([1.0, 0.0], [passed, n - passed]), 0.95, conservative=True) for passed in range(n + 1)]
    covers = np.array([low <= rate <= high for low, high in found])
    assert stats.binom.pmf(np.arange(n + 1), n, rate)[covers].sum() >= 0.95  # exact, no simulation


def test_conservative_intervals_of_graded_scores_bet() -> None:
    values = np.random.default_rng(0).beta(2, 5, 100)
    assert interval(values, 0.9, conservative=True) == betting_interval(values, 0.9)


def test_rows_get_the_intervals_that_they_would_get_alone() -> None:
    rng = np.random.default_rng(0)
    rows = np.stack([rng.random(25), (rng.random(25) < 0.4).astype(float), np.full(25, 0.3), rng.beta(2, 5, 25)])
    assert np.array(intervals(rows, 0.95)) == pytest.approx(np.array([interval(row, 0.95) for row in rows]))
