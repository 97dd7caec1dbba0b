import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopo_train.dual import Solution, attainable, solve, tilt
from mopo_train.errors import FloorError
from mopo_train.interior import smallest_shortfall
from mopo_train.robust import Confident, lower_value, radii, radius_of
from mopo_train.tilting import make_problem, prompt_values
from mopo_train.winrates import FloatArray, WinRates, from_rates
from tests.mopo_train.primal import cp, random_rates, solve_primal

seeds = st.integers(0, 2**32 - 1)


def worst_mean(values: FloatArray, epsilon: float) -> float:
    """The definition, by another solver: min of mean(t v) over t >= 0 with mean 1 and mean(t log t) <= epsilon."""
    n = len(values)
    t = cp.Variable(n, nonneg=True)
    problem = cp.Problem(cp.Minimize(t @ values / n), [cp.sum(t) == n, cp.sum(-cp.entr(t)) / n <= epsilon])
    problem.solve(solver="CLARABEL")
    return float(problem.value)


@pytest.mark.parametrize("epsilon", [1e-3, 0.02, 0.15, 0.7, 2.0, 5.0])
@pytest.mark.parametrize("n", [1, 2, 5, 40])
def test_the_lower_value_is_the_minimum_over_the_ball(epsilon: float, n: int) -> None:
    values = np.random.default_rng(n).random(n)
    found = lower_value(values, epsilon)
    assert found.value == pytest.approx(worst_mean(values, epsilon), abs=1e-6)
    assert float(found.weights.mean()) == pytest.approx(1)
    assert float((found.weights * values).mean()) == pytest.approx(found.value)


def test_the_lower_value_of_a_coin_has_a_closed_form() -> None:
    """Half zeros, half ones: the bound p solves p log 2p + (1 - p) log 2(1 - p) = epsilon."""
    p = 0.4
    epsilon = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert lower_value(np.array([0.0, 1.0] * 10), epsilon).value == pytest.approx(p, abs=1e-10)


def test_radius_zero_is_the_mean_and_a_large_one_the_minimum() -> None:
    values = np.array([0.2, 0.2, 0.5, 0.9])
    assert lower_value(values, 0.0).value == pytest.approx(0.45)
    assert lower_value(values, math.log(2)).value == pytest.approx(0.2)  # two of four tie at the minimum
    assert lower_value(values, 50.0).value == pytest.approx(0.2)
    assert lower_value(np.full(7, 0.3), 0.1).value == pytest.approx(0.3)


def test_tiny_radii_follow_the_variance() -> None:
    """mean - sqrt(2 epsilon variance) to first order."""
    values = np.random.default_rng(0).random(1000)
    for epsilon in (1e-10, 1e-7):
        below = values.mean() - lower_value(values, epsilon).value
        assert below == pytest.approx(math.sqrt(2 * epsilon * values.var()), rel=1e-3)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=12), small=st.floats(0, 2), more=st.floats(0, 2))
def test_a_larger_ball_never_has_a_larger_lower_value(values: list[float], small: float, more: float) -> None:
    array = np.array(values)
    inner, outer = lower_value(array, small).value, lower_value(array, small + more).value
    assert array.min() - 1e-12 <= outer <= inner + 1e-9
    assert inner <= array.mean() + 1e-12


def test_the_default_radius_is_the_quantile_of_chi_square() -> None:
    """chi2_1(0.9) is the square of the normal quantile at 0.95, 1.6448536."""
    assert radii(np.array([100, 400]), None).tolist() == pytest.approx([1.6448536**2 / 200, 1.6448536**2 / 800])
    assert radii(np.array([100, 400]), 0.15).tolist() == [0.15, 0.15]


def test_a_radius_follows_confidence_where_no_number_is_given() -> None:
    """The square of the normal quantile at 0.99, 2.3263479, over 2 n; 0.95 is the default."""
    counts = np.array([50])
    assert radii(counts, Confident(0.99)).tolist() == pytest.approx([2.3263479**2 / 100])
    assert radii(counts, radius_of(None, 0.95)).tolist() == pytest.approx(radii(counts, None).tolist())
    assert radii(counts, radius_of(0.15, 0.99)).tolist() == [0.15]
    rates = random_rates(1, prompts=40)
    usual, surer = (
        solve(rates, primary="a", floors={"b": 0.55}, tau=0.1, epsilon=each) for each in (None, Confident(0.999))
    )
    assert surer.predicted["b"] > usual.predicted["b"] > 0.55
    assert surer.predicted_low["b"] == pytest.approx(usual.predicted_low["b"], abs=1e-6)
    for level in (0.5, 1.0, math.nan):
        with pytest.raises(FloorError, match="confidence"):
            radii(counts, Confident(level))


def test_the_default_bound_covers_a_true_mean_at_its_rate() -> None:
    """One-sided at 95 %: over 2,000 samples of 200 values the bound exceeds the true mean in about 5 %."""
    random = np.random.default_rng(7)
    samples = random.beta(2, 3, size=(2000, 200))
    epsilon = float(radii(np.array([200]), None)[0])
    above = np.mean([lower_value(sample, epsilon).value > 2 / 5 for sample in samples])
    assert 0.03 <= above <= 0.07  # five standard errors around 0.05


def objective(found: Solution, rates: WinRates, tau: float) -> float:
    held = np.where(rates.labelled[rates.prompt_of(), 0], rates.rates[:, 0], 0.0)
    return float(held @ (found.ratio * rates.mass) / rates.prompts - tau * found.kl)


@pytest.mark.parametrize("epsilon", [None, 1e-3, 0.05, 0.15, 0.6])
@pytest.mark.parametrize("seed", range(3))
def test_robust_floors_agree_with_an_independent_solver(epsilon: float | None, seed: int) -> None:
    rates = random_rates(seed, prompts=7, objectives="abc" if seed else "ab", labelled=0.8, mass=seed == 2)
    tau = (0.05, 0.15, 0.5)[seed]
    names = rates.objectives[1:]
    reach = tilt(rates, primary="a", multipliers=dict.fromkeys(names, 0.8), tau=tau, epsilon=epsilon)
    floors = {name: reach.floors[name] + 0.01 for name in names[:1]} | {name: 0.2 for name in names[1:]}
    radius = dict(zip(rates.objectives, radii(rates.labelled.sum(axis=0), epsilon).tolist(), strict=True))
    found = solve(rates, primary="a", floors=floors, tau=tau, epsilon=epsilon)
    expected = solve_primal(rates, primary="a", floors=floors, tau=tau, radius=radius)
    assert found.feasible
    assert objective(found, rates, tau) == pytest.approx(expected.objective, abs=1e-6)
    assert found.ratio * rates.mass == pytest.approx(expected.share, abs=2e-4)
    for name, floor in floors.items():
        assert found.predicted_low[name] >= floor - 1e-7
        assert found.predicted_low[name] == pytest.approx(floor, abs=1e-7) or found.multipliers[name] == 0


def test_the_default_is_robust_and_zero_is_plain() -> None:
    rates = random_rates(1, prompts=40)
    plain = solve(rates, primary="a", floors={"b": 0.6}, tau=0.1, epsilon=0)
    careful = solve(rates, primary="a", floors={"b": 0.6}, tau=0.1)
    assert plain.predicted_low == plain.predicted
    assert careful.predicted_low["b"] == pytest.approx(0.6, abs=1e-7)
    assert careful.predicted["b"] > plain.predicted["b"] + 0.01


def test_chi_attains_the_dual_form_of_the_lower_value() -> None:
    rates = random_rates(2, prompts=30)
    found = solve(rates, primary="a", floors={"b": 0.55}, tau=0.1, epsilon=0.05)
    share = found.ratio * rates.mass
    for k, name in enumerate(rates.objectives):
        values = np.bincount(rates.prompt_of(), weights=share * rates.rates[:, k])[rates.labelled[:, k]]
        chi = found.chi[name]
        dual = -chi * math.log(np.exp(-values / chi).mean()) - chi * 0.05
        assert found.predicted_low[name] == pytest.approx(dual, abs=1e-9)
    assert set(solve(rates, primary="a", floors={"b": 0.5}, tau=0.1, epsilon=0).chi.values()) == {math.inf}


def test_a_small_radius_approaches_the_plain_solution() -> None:
    rates = random_rates(1, prompts=12)
    plain = solve(rates, primary="a", floors={"b": 0.55, "c": 0.5}, tau=0.1, epsilon=0)
    almost = solve(rates, primary="a", floors={"b": 0.55, "c": 0.5}, tau=0.1, epsilon=1e-9)
    assert almost.ratio == pytest.approx(plain.ratio, abs=1e-3)
    assert almost.multipliers == pytest.approx(plain.multipliers, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, epsilon=st.sampled_from([None, 0.01, 0.15]), lam=st.floats(0.05, 5))
def test_a_robust_tilt_weighs_the_prompts_by_its_own_worst_case(seed: int, epsilon: float | None, lam: float) -> None:
    """At the optimum the score is w_a + lambda t w_b with t the worst reweighting of the policy's own values."""
    rates = random_rates(seed, prompts=6, objectives="ab")
    found = tilt(rates, primary="a", multipliers={"b": lam}, tau=0.2, epsilon=epsilon)
    problem = make_problem(rates, "a", ["b"], 0.2)
    values = prompt_values(problem, found.ratio * rates.mass)[0]
    worst = lower_value(values, float(radii(np.array([6]), epsilon)[0]))
    expected = rates.rates[:, 0] + lam * worst.weights[rates.prompt_of()] * rates.rates[:, 1]
    assert found.score == pytest.approx(expected, abs=1e-4 * (1 + lam))
    assert found.floors["b"] == pytest.approx(worst.value, abs=1e-12)


def test_a_robust_tilt_is_the_solution_for_the_floors_it_attains() -> None:
    rates = random_rates(8, prompts=15)
    there = tilt(rates, primary="a", multipliers={"b": 1.2, "c": 0.6}, tau=0.15, epsilon=0.05)
    back = solve(rates, primary="a", floors=there.floors, tau=0.15, epsilon=0.05)
    assert back.multipliers == pytest.approx(there.multipliers, abs=1e-6)
    assert back.ratio == pytest.approx(there.ratio, abs=1e-6)


def test_the_attainable_robust_value_is_the_lower_value_of_the_maximiser() -> None:
    rates = random_rates(2, prompts=9)
    best = np.maximum.reduceat(rates.rates[:, 1], rates.starts[:-1])
    assert attainable(rates, 0.1)["b"] == pytest.approx(worst_mean(best, 0.1), abs=1e-6)


@pytest.mark.parametrize("epsilon", [0.02, 0.15, 3.0])
def test_a_robust_floor_at_and_beyond_the_attainable_value(epsilon: float) -> None:
    rates = random_rates(2, prompts=9)
    best = attainable(rates, epsilon)["b"]
    at = solve(rates, primary="a", floors={"b": best}, tau=0.1, epsilon=epsilon)
    assert at.feasible and math.isfinite(at.multipliers["b"])
    assert at.predicted_low["b"] == pytest.approx(best, abs=1e-6)
    beyond = solve(rates, primary="a", floors={"b": best + 0.01}, tau=0.1, epsilon=epsilon)
    assert not beyond.feasible
    assert beyond.nearest_floors["b"] == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.01, 0.15])
def test_the_smallest_robust_shortfall_is_certified_from_both_sides(seed: int, epsilon: float) -> None:
    rates = random_rates(seed, prompts=8)
    problem = make_problem(rates, "a", ["b", "c"], 0.1)
    bounds = np.array([0.9, 0.9])
    found = smallest_shortfall(problem, bounds, np.full(2, epsilon))
    assert found.low <= found.high <= found.low + 1e-4
    reached = solve(rates, primary="a", floors={"b": 0.9, "c": 0.9}, tau=0.1, epsilon=epsilon)
    assert not reached.feasible
    just = {name: floor - 2e-4 for name, floor in reached.nearest_floors.items()}
    assert solve(rates, primary="a", floors=just, tau=0.1, epsilon=epsilon).feasible
    lowest = max(0.9 - found.low + 1e-6, 0)  # nothing can lift both to here
    assert not solve(rates, primary="a", floors={"b": lowest, "c": lowest}, tau=0.1, epsilon=epsilon).feasible


def test_a_single_prompt_has_no_worse_reweighting() -> None:
    rates = from_rates(("a", "b"), [[1.0, 0.0], [0.0, 1.0]], [0, 2])
    plain = solve(rates, primary="a", floors={"b": 0.7}, tau=0.2, epsilon=0)
    careful = solve(rates, primary="a", floors={"b": 0.7}, tau=0.2)
    assert careful.multipliers == pytest.approx(plain.multipliers, abs=1e-6)
    assert careful.predicted_low == pytest.approx(plain.predicted, abs=1e-9)


def test_ties_and_single_responses_are_solved_robustly() -> None:
    rates = from_rates(("a", "b"), np.full((5, 2), 0.5), [0, 2, 4, 5])
    found = solve(rates, primary="a", floors={"b": 0.5}, tau=0.1)
    assert found.feasible
    assert found.ratio.tolist() == pytest.approx([1.0] * 5)
    assert not solve(rates, primary="a", floors={"b": 0.51}, tau=0.1).feasible


def test_multipliers_beyond_reason_are_refused_with_a_way_out() -> None:
    rates = random_rates(0, prompts=50, objectives="abcd")
    multipliers = dict.fromkeys("bcd", 1e7)
    with pytest.raises(FloorError, match="smaller multipliers"):
        tilt(rates, primary="a", multipliers=multipliers, tau=0.01, epsilon=0.5)


@settings(max_examples=10, deadline=None)
@given(seed=seeds)
def test_the_order_of_objectives_does_not_matter_to_robust_floors(seed: int) -> None:
    rates = random_rates(seed, prompts=7, labelled=0.8)
    there = tilt(rates, primary="a", multipliers={"b": 1.0, "c": 0.8}, tau=0.15, epsilon=0.05)
    turned = from_rates(("c", "a", "b"), rates.rates[:, [2, 0, 1]], rates.starts, labelled=rates.labelled[:, [2, 0, 1]])
    other = tilt(turned, primary="a", multipliers={"c": 0.8, "b": 1.0}, tau=0.15, epsilon=0.05)
    assert other.ratio == pytest.approx(there.ratio, abs=1e-7)


@settings(max_examples=8, deadline=None)
@given(seed=seeds)
def test_copies_shifts_and_scale_change_no_robust_policy(seed: int) -> None:
    """The same radius for every prompt twice; b shifted with its floor; win rates and tau halved."""
    rates = random_rates(seed, prompts=7)
    there = tilt(rates, primary="a", multipliers={"b": 0.8, "c": 0.5}, tau=0.2, epsilon=0.05)
    twice = from_rates(
        rates.objectives,
        np.tile(rates.rates, (2, 1)),
        np.concatenate([rates.starts, rates.starts[-1] + rates.starts[1:]]),
    )
    copied = tilt(twice, primary="a", multipliers={"b": 0.8, "c": 0.5}, tau=0.2, epsilon=0.05)
    assert copied.ratio == pytest.approx(np.tile(there.ratio, 2), abs=1e-6)
    half = rates.rates / 2
    half[:, 1] += 0.25
    shifted = from_rates(rates.objectives, half, rates.starts)
    moved = tilt(shifted, primary="a", multipliers={"b": 0.8, "c": 0.5}, tau=0.1, epsilon=0.05)
    assert moved.ratio == pytest.approx(there.ratio, abs=1e-6)
    assert moved.floors["b"] == pytest.approx(there.floors["b"] / 2 + 0.25, abs=1e-8)
