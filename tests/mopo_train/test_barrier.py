import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopo_train.barrier import barrier_multipliers, solve_barrier
from mopo_train.dual import Solution, attainable, solve, tilt
from mopo_train.errors import FloorError
from mopo_train.robust import radii
from mopo_train.tilting import make_problem
from mopo_train.winrates import WinRates, from_rates
from tests.mopo_train.primal import random_rates, solve_primal
from tests.mopo_train.test_dual import any_problem, conflict, gain


@pytest.mark.parametrize("sigma", [0.1, 1e-3])
def test_a_conflict_of_two_responses_solves_one_equation(sigma: float) -> None:
    """The share q of what wins on b: lambda = 1 + tau log(q / (1 - q)), and the barrier wants sigma / (q - b)."""
    tau, floor = 0.2, 0.7
    found = solve_barrier(conflict(), primary="a", floors={"b": floor}, tau=tau, epsilon=0, sigma=sigma)
    q = found.predicted["b"]
    assert found.multipliers["b"] == pytest.approx(1 + tau * math.log(q / (1 - q)), abs=1e-8)
    assert found.multipliers["b"] == pytest.approx(sigma / (q - floor), rel=1e-6)
    assert found.feasible and found.floors == {"b": floor}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("epsilon", [0, 0.05])
def test_it_agrees_with_an_independent_solver_of_the_primal(seed: int, epsilon: float) -> None:
    rates = random_rates(seed, objectives="abc", labelled=0.8, mass=seed % 2 == 0)
    tau, sigma = (0.1, 0.3)[seed % 2], (0.01, 0.001)[seed % 2]
    middle = tilt(rates, primary="a", multipliers={"b": 1.0, "c": 0.7}, tau=tau, epsilon=epsilon)
    floors = {name: value - 0.01 for name, value in middle.floors.items()}
    found = solve_barrier(rates, primary="a", floors=floors, tau=tau, epsilon=epsilon, sigma=sigma)
    radius = dict.fromkeys("abc", epsilon) if epsilon else None
    expected = solve_primal(rates, primary="a", floors=floors, tau=tau, radius=radius, sigma=sigma)
    reached = gain(found, rates, "a", tau)
    reached += sigma * sum(math.log(found.predicted_low[name] - floor) for name, floor in floors.items())
    assert reached == pytest.approx(expected.objective, abs=1e-6)
    assert found.ratio * rates.mass == pytest.approx(expected.share, abs=2e-4)


@pytest.mark.parametrize("epsilon", [0, None])
def test_it_approaches_the_lagrangian_form_as_sigma_falls(epsilon: float | None) -> None:
    rates = random_rates(3, prompts=20)
    there = tilt(rates, primary="a", multipliers={"b": 1.2, "c": 0.5}, tau=0.1, epsilon=epsilon)
    exact = gain(there, rates, "a", 0.1)
    for sigma in (1e-2, 1e-4, 1e-6):
        found = solve_barrier(rates, primary="a", floors=there.floors, tau=0.1, epsilon=epsilon, sigma=sigma)
        assert 0 <= exact - gain(found, rates, "a", 0.1) <= 2 * sigma + 1e-7  # sigma per floor
        for name, floor in there.floors.items():
            assert found.predicted_low[name] > floor
    assert found.ratio == pytest.approx(there.ratio, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), begin=st.floats(-8, 5), other=st.floats(-8, 5))
def test_the_start_does_not_matter_whether_or_not_it_holds_the_floors(seed: int, begin: float, other: float) -> None:
    rates = random_rates(seed, prompts=6)
    problem = make_problem(rates, "a", ["b", "c"], 0.15)
    bounds = np.array(
        list(tilt(rates, primary="a", multipliers={"b": 1.0, "c": 0.5}, tau=0.15, epsilon=0).floors.values())
    )
    start = np.exp(np.array([begin, other]))
    found = barrier_multipliers(problem, bounds, np.zeros(2), 1e-3, start)
    usual = barrier_multipliers(problem, bounds, np.zeros(2), 1e-3)
    assert found.multipliers == pytest.approx(usual.multipliers, rel=1e-5)


def test_floors_that_no_policy_meets_are_missed_as_little_as_may_be_in_squares() -> None:
    """b and c share 1 on every prompt: floors of .8 and .7 leave both short by the same .25."""
    rates = from_rates(("a", "b", "c"), [[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]] * 2, [0, 2, 4])
    found = solve_barrier(rates, primary="a", floors={"b": 0.8, "c": 0.7}, tau=0.1, epsilon=0)
    assert not found.feasible
    assert found.predicted["b"] == pytest.approx(0.55, abs=1e-4)
    assert found.nearest_floors == pytest.approx({"b": 0.55, "c": 0.45}, abs=1e-6)
    assert found.conflict == ("b", "c")


@pytest.mark.parametrize("epsilon", [0, None])
def test_floors_of_zero_at_the_maximum_and_beyond(epsilon: float | None) -> None:
    rates = random_rates(5, prompts=8)
    best = attainable(rates, epsilon)["b"]
    loose = solve_barrier(rates, primary="a", floors={"b": 0.0}, tau=0.1, epsilon=epsilon)
    free = solve(rates, primary="a", floors={}, tau=0.1, epsilon=epsilon)
    assert loose.feasible and loose.predicted == pytest.approx(free.predicted, abs=1e-3)
    edge = solve_barrier(rates, primary="a", floors={"b": best}, tau=0.1, epsilon=epsilon)
    assert edge.feasible and edge.predicted["b"] <= 1
    assert edge.predicted_low["b"] == pytest.approx(best, abs=1e-3)
    assert not solve_barrier(rates, primary="a", floors={"b": min(1.0, best + 0.01)}, tau=0.1, epsilon=epsilon).feasible


def test_a_dear_floor_is_held_all_the_same() -> None:
    """Its price is beyond what the first logarithm reaches to."""
    rates = random_rates(5, prompts=8)
    floor = attainable(rates, 0)["b"] - 2e-4
    found = solve_barrier(rates, primary="a", floors={"b": floor}, tau=1.0, epsilon=0, sigma=1e-5)
    assert found.multipliers["b"] > 5
    assert floor < found.predicted["b"] < floor + 1e-4


def test_without_floors_it_is_the_plain_tilt() -> None:
    found = solve_barrier(conflict(), primary="a", floors={}, tau=0.5)
    assert found.predicted["a"] == pytest.approx(1 / (1 + math.exp(-2)))


def test_bad_arguments_are_named() -> None:
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(FloorError, match="sigma"):
            solve_barrier(conflict(), primary="a", floors={"b": 0.5}, tau=0.1, sigma=sigma)
    with pytest.raises(FloorError, match="'speed'"):
        solve_barrier(conflict(), primary="a", floors={"speed": 0.5}, tau=0.1)


def test_constant_objectives_and_single_responses_leave_nothing_to_choose() -> None:
    rates = from_rates(("a", "b"), np.full((5, 2), 0.5), [0, 2, 4, 5])
    found = solve_barrier(rates, primary="a", floors={"b": 0.4}, tau=0.1, epsilon=0)
    assert found.feasible and found.ratio.tolist() == pytest.approx([1.0] * 5)
    assert not solve_barrier(rates, primary="a", floors={"b": 0.6}, tau=0.1, epsilon=0).feasible
    assert radii(np.array([3]), 0).tolist() == [0.0]


def barred(rates: WinRates, floors: dict[str, float], tau: float = 0.15, sigma: float = 1e-3) -> Solution:
    return solve_barrier(rates, primary="a", floors=floors, tau=tau, epsilon=0, sigma=sigma)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_copies_shifts_and_scale_change_no_policy(seed: int) -> None:
    """Objectives in another order; every prompt twice; b shifted with its floor; win rates, tau and sigma halved."""
    rates, floors = any_problem(seed)
    one = barred(rates, floors)
    turned = from_rates(("c", "a", "b"), rates.rates[:, [2, 0, 1]], rates.starts, labelled=rates.labelled[:, [2, 0, 1]])
    assert barred(turned, dict(reversed(floors.items()))).ratio == pytest.approx(one.ratio, abs=1e-6)
    twice = from_rates(
        rates.objectives,
        np.tile(rates.rates, (2, 1)),
        np.concatenate([rates.starts, rates.starts[-1] + rates.starts[1:]]),
        labelled=np.tile(rates.labelled, (2, 1)),
    )
    assert barred(twice, floors).ratio == pytest.approx(np.tile(one.ratio, 2), abs=1e-6)
    half = rates.rates / 2
    half[:, 1] += 0.25
    shifted = from_rates(rates.objectives, half, rates.starts, labelled=rates.labelled)
    moved = barred(shifted, {"b": floors["b"] / 2 + 0.25, "c": floors["c"] / 2}, tau=0.075, sigma=0.5e-3)
    assert moved.ratio == pytest.approx(one.ratio, abs=1e-6)
