import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mopo_eval.bounds import betting_low, clopper_pearson_low, lower_bound, p_value

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def discrete(values: list[float], chances: list[float]) -> Draw:
    return lambda rng, n: rng.choice(values, size=n, p=chances)


DISTRIBUTIONS: dict[str, tuple[float, Draw]] = {  # true mean, sampler
    "beta(8, 2)": (0.8, lambda rng, n: rng.beta(8, 2, n)),
    "beta(1/2, 1/2)": (0.5, lambda rng, n: rng.beta(0.5, 0.5, n)),
    "rare zeros": (0.882, discrete([0, 0.9], [0.02, 0.98])),
    "rare ones": (0.02, discrete([0, 1], [0.98, 0.02])),
    "win, tie, loss": (0.55, discrete([0, 0.5, 1], [0.25, 0.4, 0.35])),
    "nearly sure": (0.9925, discrete([0, 0.5, 1], [0.005, 0.005, 0.99])),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize(("n", "trials"), [(30, 500), (300, 200)])
def test_a_betting_bound_exceeds_the_true_mean_no_more_often_than_it_says(name: str, n: int, trials: int) -> None:
    mean, draw = DISTRIBUTIONS[name]
    rng, alpha = np.random.default_rng(n), 0.1
    above = sum(betting_low(draw(rng, n), alpha) > mean for _ in range(trials))
    assert above / trials <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


@pytest.mark.parametrize("rate", [0.03, 0.5, 0.97])
@pytest.mark.parametrize("n", [30, 300])
def test_the_exact_bound_exceeds_the_true_rate_with_probability_at_most_alpha(rate: float, n: int) -> None:
    alpha = 0.1
    bounds = np.array([clopper_pearson_low(passed, n, alpha) for passed in range(n + 1)])
    chance = stats.binom.pmf(np.arange(n + 1), n, rate)[bounds > rate].sum()  # exact, no simulation
    assert chance <= alpha + 1e-12


def test_a_betting_bound_is_not_far_below_what_the_normal_approximation_gives() -> None:
    rng, alpha = np.random.default_rng(1), 0.05 / 40
    samples = [rng.beta(8, 2, 300) for _ in range(20)]
    gap = np.mean([x.mean() - betting_low(x, alpha) for x in samples])
    normal = np.mean([stats.norm.isf(alpha) * x.std() / math.sqrt(300) for x in samples])
    assert normal < gap < 1.7 * normal


def by_definition(values: NDArray[np.float64], alpha: float, m: float) -> float:
    """Capital against the mean m, bet by bet."""
    total = shares = 0.0
    for k in (1.5 * (16 / 1.5) ** (i / 9) for i in range(10)):
        stake = k * math.sqrt(2 * math.log(1 / alpha) / (len(values) * m * (1 - m)))
        capital = 1.0
        for x in values:
            capital *= 1 + stake / (1 + stake * m) * (x - m)
        total, shares = total + capital / k, shares + 1 / k
    return total / shares


def test_a_betting_bound_is_what_the_definition_gives_step_by_step() -> None:
    values, alpha = np.array([0.9, 0.4, 1.0, 0.7, 0.8, 0.6, 0.95, 0.3, 0.85, 1.0] * 3), 0.05
    bound = betting_low(values, alpha)
    assert by_definition(values, alpha, bound) == pytest.approx(1 / alpha, rel=1e-5)
    falling = [by_definition(values, alpha, m) for m in np.linspace(0.01, 0.99, 99)]
    assert all(np.diff(falling) < 0)


def test_a_betting_bound_does_not_depend_on_the_order_of_the_prompts() -> None:
    rng = np.random.default_rng(0)
    values = rng.beta(0.5, 0.5, 200)
    assert {
        betting_low(order, 0.001) for order in (values, values[::-1], np.sort(values), rng.permutation(values))
    } == {betting_low(values, 0.001)}


def test_a_single_bet_is_won_with_the_chance_that_the_bound_allows() -> None:
    # One value of 1 multiplies capital by at most 1/m, so that no m above alpha is refuted.
    assert 0.02 < betting_low(np.ones(1), 0.05) < 0.05


def test_exact_bounds_by_hand() -> None:
    assert clopper_pearson_low(20, 20, 0.05) == pytest.approx(0.05 ** (1 / 20))  # rate^20 = alpha
    assert clopper_pearson_low(1, 20, 0.05) == pytest.approx(1 - 0.95 ** (1 / 20))  # 1 - (1 - rate)^20 = alpha
    assert clopper_pearson_low(0, 20, 0.05) == 0


def test_exact_bounds_agree_with_scipys_binomial_test() -> None:
    for passed in (3, 17, 29):
        test = stats.binomtest(passed, 30, alternative="greater")
        ours = clopper_pearson_low(passed, 30, 0.01)
        assert ours == pytest.approx(test.proportion_ci(0.99, method="exact").low)


def test_values_that_can_only_be_0_or_1_get_the_exact_bound_and_others_bet() -> None:
    values = np.array([1.0] * 18 + [0.0] * 2)
    assert lower_bound(values, 0.05, binary=True) == clopper_pearson_low(18, 20, 0.05)
    assert lower_bound(values, 0.05, binary=False) == betting_low(values, 0.05)


def test_all_zeros_bound_nothing() -> None:
    assert betting_low(np.zeros(50), 0.05) == 0


@pytest.mark.parametrize("values", [[], [0.5, 1.1], [0.5, math.nan], [-0.1, 0.5]])
def test_betting_refuses_values_that_no_bound_covers(values: list[float]) -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        betting_low(np.array(values), 0.05)


def test_more_passed_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="3 passed of 2"):
        clopper_pearson_low(3, 2, 0.05)


@pytest.mark.parametrize("binary", [True, False])
def test_a_p_value_is_at_most_alpha_exactly_where_the_bound_clears_the_floor(binary: bool) -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        n, alpha = int(rng.integers(2, 120)), float(rng.choice([0.001, 0.05, 0.2]))
        values = (rng.random(n) < 0.7).astype(float) if binary else rng.beta(4, 2, n)
        bound = lower_bound(values, alpha, binary=binary)
        assert p_value(values, bound + 1e-6, alpha, binary=binary) > alpha
        assert p_value(values, bound - 1e-6, alpha, binary=binary) <= alpha * (1 + 1e-9)


def test_the_p_value_of_a_rate_agrees_with_scipys_binomial_test() -> None:
    for passed, floor in ((0, 0.4), (3, 0.05), (17, 0.4), (30, 0.9)):
        values = np.repeat([1.0, 0.0], [passed, 30 - passed])
        peer = stats.binomtest(passed, 30, floor, alternative="greater").pvalue
        assert p_value(values, floor, 0.05, binary=True) == pytest.approx(peer)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_betting_p_values_below_any_level_are_no_more_frequent_than_it(name: str) -> None:
    mean, draw = DISTRIBUTIONS[name]
    rng, trials = np.random.default_rng(3), 400
    found = np.array([p_value(draw(rng, 60), mean, 0.05, binary=False) for _ in range(trials)])
    for level in (0.01, 0.05, 0.2):
        assert (found <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / trials)


def test_a_floor_of_nothing_is_certain_and_one_above_everything_hopeless() -> None:
    values = np.array([0.5, 1.0, 0.7])
    assert p_value(values, 0.0, 0.05, binary=False) == 0
    assert p_value(values, 1.0, 0.05, binary=False) == 1
