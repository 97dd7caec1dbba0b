import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopo_train.dual import Solution, attainable, infeasible_message, solve, tilt
from mopo_train.errors import DataError, FloorError
from mopo_train.winrates import FloatArray, WinRates, from_rates
from tests.mopo_train.primal import random_rates, solve_primal


def conflict(prompts: int = 3) -> WinRates:
    """Two responses per prompt: one wins on a, the other on b."""
    return from_rates(("a", "b"), [[1.0, 0.0], [0.0, 1.0]] * prompts, np.arange(prompts + 1) * 2)


def gain(solution: Solution, rates: WinRates, primary: str, tau: float) -> float:
    share = solution.ratio * rates.mass
    k = rates.objectives.index(primary)
    held = np.where(rates.labelled[rates.prompt_of(), k], rates.rates[:, k], 0.0)
    return float(held @ share / rates.prompts - tau * solution.kl)


def test_a_conflict_of_two_responses_has_a_closed_form() -> None:
    """The share q of the response that wins on b is a logistic function of (lambda - 1) / tau."""
    tau, floor = 0.2, 0.7
    found = solve(conflict(), primary="a", floors={"b": floor}, tau=tau, epsilon=0)
    assert found.multipliers["b"] == pytest.approx(1 + tau * math.log(floor / (1 - floor)), abs=1e-9)
    assert found.predicted == pytest.approx({"a": 0.3, "b": 0.7}, abs=1e-9)
    assert found.ratio.tolist() == pytest.approx([0.6, 1.4] * 3, abs=1e-9)
    assert found.kl == pytest.approx(0.7 * math.log(1.4) + 0.3 * math.log(0.6), abs=1e-9)
    assert found.ess == pytest.approx(2**2 / (2 * (0.6**2 + 1.4**2)), abs=1e-9)
    assert found.score.tolist() == pytest.approx([1.0, found.multipliers["b"]] * 3)


def test_a_floor_that_does_not_bind_has_multiplier_zero() -> None:
    tau = 0.2
    share = 1 / (1 + math.exp(1 / tau))  # of the response that wins on b, without floors
    found = solve(conflict(), primary="a", floors={"b": share / 2}, tau=tau, epsilon=0)
    assert found.multipliers == {"b": 0.0}
    assert found.predicted["b"] == pytest.approx(share)


def test_without_floors_the_policy_is_the_plain_tilt() -> None:
    found = solve(conflict(), primary="a", floors={}, tau=0.5)
    assert found.multipliers == {} and found.feasible
    assert found.predicted["a"] == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.mark.parametrize("seed", range(12))
def test_it_agrees_with_an_independent_solver_of_the_primal(seed: int) -> None:
    """Random masses, missing labels, several scales of tau; floors half way to what the pair of them allows."""
    rates = random_rates(seed, objectives="abc" if seed % 3 else "ab", labelled=0.8, mass=seed % 2 == 0)
    tau = (0.05, 0.15, 0.6)[seed % 3]
    names = rates.objectives[1:]
    middle = tilt(rates, primary="a", multipliers=dict.fromkeys(names, 0.7), tau=tau, epsilon=0)
    floors = {name: middle.predicted[name] + 0.02 for name in names[:1]} | {name: 0.3 for name in names[1:]}
    found = solve(rates, primary="a", floors=floors, tau=tau, epsilon=0)
    expected = solve_primal(rates, primary="a", floors=floors, tau=tau)
    assert found.feasible and found.nearest_floors == floors
    assert gain(found, rates, "a", tau) == pytest.approx(expected.objective, abs=1e-7)
    assert found.ratio * rates.mass == pytest.approx(expected.share, abs=2e-4)
    for name in names:
        part = rates.labelled[:, rates.column(name)].mean()  # the primal's floors are means over labelled prompts
        assert found.multipliers[name] == pytest.approx(expected.prices[name] / part, abs=1e-4)
        assert found.predicted[name] >= floors[name] - 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_the_optimum_is_certified_to_a_billionth_by_weak_duality(seed: int) -> None:
    """Any multipliers bound the primal from above; ours meet the value of a policy that holds the floors."""
    rates = random_rates(seed, prompts=30, objectives="abcde", labelled=0.8, mass=True)
    tau, names = 0.1, ["b", "c", "d", "e"]
    reach = tilt(rates, primary="a", multipliers=dict.fromkeys(names, 0.5), tau=tau, epsilon=0).predicted
    floors = {name: reach[name] - 0.01 * (name == "c") for name in names}
    found = solve(rates, primary="a", floors=floors, tau=tau, epsilon=0)
    seen = rates.labelled[rates.prompt_of()]
    weights = np.array([1.0, *(found.multipliers[name] for name in names)])
    score = np.where(seen, rates.rates, 0.0) @ weights
    top = np.maximum.reduceat(score, rates.starts[:-1])
    sums = np.add.reduceat(rates.mass * np.exp((score - top[rates.prompt_of()]) / tau), rates.starts[:-1])
    part = rates.labelled.mean(axis=0)
    price = sum(found.multipliers[name] * part[rates.column(name)] * floor for name, floor in floors.items())
    bound = float((top + tau * np.log(sums)).mean()) - price
    assert all(found.predicted[name] >= floor - 1e-9 for name, floor in floors.items())
    assert 0 <= bound - gain(found, rates, "a", tau) + 1e-12 <= 1e-8


def bradley_terry(random: np.random.Generator) -> FloatArray:
    """(4, 3) win rates of four responses with a strength per objective: P(y > y') = sigma(s_y - s_y')."""
    strength = random.normal(size=(4, 3))
    return np.asarray((1 / (1 + np.exp(-(strength[:, None] - strength[None])))).mean(axis=1))


def cyclic(random: np.random.Generator) -> FloatArray:
    """Rock, paper, scissors and a response that loses: no strength explains it. Another cycle per objective."""
    beats = np.array([[0.5, 0.0, 1.0, 1.0], [1.0, 0.5, 0.0, 1.0], [0.0, 1.0, 0.5, 1.0], [0.0, 0.0, 0.0, 0.5]])
    orders = [random.permutation(4) for _ in range(3)]
    weight = random.dirichlet(np.ones(4), size=3)  # of the opponents
    return np.stack([beats[np.ix_(order, order)] @ share for order, share in zip(orders, weight, strict=True)], axis=1)


def conflicting(random: np.random.Generator) -> FloatArray:
    first = random.random(4)
    return np.stack([first, 1 - first, np.abs(first - 0.5)], axis=1)


def correlated(random: np.random.Generator) -> FloatArray:
    first = random.random(4)
    return np.clip(first[:, None] + 0.05 * random.normal(size=(4, 3)), 0, 1)


def heterogeneous(random: np.random.Generator) -> FloatArray:
    """A population of two groups, each with its own strengths, mixed alike."""
    return np.asarray((bradley_terry(random) + 1 - bradley_terry(random)) / 2)


@pytest.mark.parametrize("kind", [bradley_terry, cyclic, conflicting, correlated, heterogeneous])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_kind_of_preference_is_solved_exactly(kind: object, seed: int) -> None:
    assert callable(kind)
    random = np.random.default_rng(seed)
    rates = from_rates(("a", "b", "c"), np.concatenate([kind(random) for _ in range(5)]), np.arange(6) * 4)
    tau = 0.1
    reach = tilt(rates, primary="a", multipliers={"b": 1.0, "c": 0.5}, tau=tau, epsilon=0).predicted
    floors = {"b": reach["b"], "c": reach["c"]}
    found = solve(rates, primary="a", floors=floors, tau=tau, epsilon=0)
    expected = solve_primal(rates, primary="a", floors=floors, tau=tau)
    assert gain(found, rates, "a", tau) == pytest.approx(expected.objective, abs=1e-7)
    assert found.multipliers == pytest.approx({"b": 1.0, "c": 0.5}, abs=1e-6)


def test_a_tilt_is_the_solution_for_the_values_it_attains() -> None:
    rates = random_rates(3, prompts=20)
    there = tilt(rates, primary="a", multipliers={"b": 1.5, "c": 0.4}, tau=0.1, epsilon=0)
    back = solve(rates, primary="a", floors=there.floors, tau=0.1, epsilon=0)
    assert back.multipliers == pytest.approx(there.multipliers, abs=1e-7)
    assert back.ratio == pytest.approx(there.ratio, abs=1e-7)


def test_ratios_average_to_one_for_each_prompt() -> None:
    rates = random_rates(4, prompts=9, mass=True)
    found = solve(rates, primary="a", floors={"b": 0.55, "c": 0.5}, tau=0.05, epsilon=0)
    assert np.add.reduceat(found.ratio * rates.mass, rates.starts[:-1]) == pytest.approx([1.0] * 9, abs=1e-12)


# What cannot be met, or only just


def test_a_floor_at_the_attainable_value_is_met_by_the_maximiser_with_finite_multipliers() -> None:
    rates = random_rates(5, prompts=8)
    best = attainable(rates, 0)["b"]
    for floor in (best, best + 9e-7):
        found = solve(rates, primary="a", floors={"b": floor}, tau=0.1, epsilon=0)
        assert found.feasible and math.isfinite(found.multipliers["b"])
        assert found.predicted["b"] == pytest.approx(best, abs=1e-6)
    assert not solve(rates, primary="a", floors={"b": best + 1.1e-6}, tau=0.1, epsilon=0).feasible


def test_a_floor_beyond_the_attainable_value_reports_the_nearest() -> None:
    rates = random_rates(5, prompts=8)
    best = attainable(rates, 0)
    found = solve(rates, primary="a", floors={"b": best["b"] + 0.01}, tau=0.1, epsilon=0)
    assert not found.feasible
    assert found.nearest_floors == pytest.approx({"b": best["b"]}, abs=1e-9)
    assert found.predicted["b"] == pytest.approx(best["b"], abs=1e-6)
    message = infeasible_message(found, best)
    assert f"b={math.floor(best['b'] * 1e4) / 1e4:.4f}" in message and "data win rate" in message


def test_the_attainable_value_is_the_mean_of_the_best_responses_of_labelled_prompts() -> None:
    labelled = np.array([[True, True], [True, False]])
    rates = from_rates(("a", "b"), [[0.2, 0.1], [0.6, 0.9], [0.4, 0.8]], [0, 2, 3], labelled=labelled)
    assert attainable(rates, 0) == pytest.approx({"a": (0.6 + 0.4) / 2, "b": 0.9})


def test_conflicting_floors_give_the_smallest_largest_shortfall() -> None:
    """b and c share 1 on every prompt, so floors of .8 each can only be met to .5: shortfall .3 for both."""
    rates = from_rates(("a", "b", "c"), [[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]] * 2, [0, 2, 4])
    found = solve(rates, primary="a", floors={"b": 0.8, "c": 0.8}, tau=0.1, epsilon=0)
    assert not found.feasible
    assert found.nearest_floors == pytest.approx({"b": 0.5, "c": 0.5}, abs=1e-8)
    assert found.predicted == pytest.approx({"a": 0.5, "b": 0.5, "c": 0.5}, abs=1e-6)


def test_only_floors_that_must_give_way_are_lowered() -> None:
    """d is best everywhere whatever is chosen: its floor stays while b and c share what there is."""
    rates = from_rates(("a", "b", "c", "d"), [[0.5, 1.0, 0.0, 0.9], [0.5, 0.0, 1.0, 0.9]] * 2, [0, 2, 4])
    found = solve(rates, primary="a", floors={"b": 0.7, "c": 0.6, "d": 0.85}, tau=0.1, epsilon=0)
    assert found.nearest_floors == pytest.approx({"b": 0.55, "c": 0.45, "d": 0.85}, abs=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_no_direction_separates_the_nearest_floors(seed: int) -> None:
    """Weak duality: weights that sum to 1 bound the shortfall of every policy by sum weight x (floor - value)."""
    rates = random_rates(seed, prompts=10)
    floors = {"b": 0.95, "c": 0.95}
    found = solve(rates, primary="a", floors=floors, tau=0.1, epsilon=0)
    shortfall = max(floors[name] - found.nearest_floors[name] for name in floors)
    bounds = []
    for weight in np.linspace(0, 1, 2001):
        score = weight * rates.rates[:, 1] + (1 - weight) * rates.rates[:, 2]
        bounds.append(0.95 - np.maximum.reduceat(score, rates.starts[:-1]).mean())
    assert shortfall == pytest.approx(max(bounds), abs=2e-4)  # the grid of weights is coarse
    assert shortfall >= max(bounds) - 1e-9


@pytest.mark.parametrize(("floor", "feasible"), [(0.0, True), (1.0, True)])
def test_floors_of_zero_and_one_where_one_response_is_perfect(floor: float, feasible: bool) -> None:
    found = solve(conflict(), primary="a", floors={"b": floor}, tau=0.1, epsilon=0)
    assert found.feasible is feasible
    assert found.predicted["b"] == pytest.approx(1.0 if floor else 1 / (1 + math.exp(10)), abs=1e-6)


def test_one_response_per_prompt_leaves_nothing_to_choose() -> None:
    rates = from_rates(("a", "b"), [[0.3, 0.6], [0.5, 0.8]], [0, 1, 2])
    found = solve(rates, primary="a", floors={"b": 0.7}, tau=0.1, epsilon=0)
    assert found.feasible and found.ratio.tolist() == [1.0, 1.0]
    assert (found.kl, found.ess) == (0.0, 1.0)
    assert not solve(rates, primary="a", floors={"b": 0.71}, tau=0.1, epsilon=0).feasible


def test_a_constant_objective_and_all_ties_are_met_without_multipliers() -> None:
    rates = from_rates(("a", "b"), np.full((4, 2), 0.5), [0, 2, 4])
    found = solve(rates, primary="a", floors={"b": 0.5}, tau=0.1, epsilon=0)
    assert found.feasible and found.multipliers == {"b": 0.0}
    assert found.ratio.tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize("tau", [1e-4, 1e-2, 10.0])
def test_extreme_temperatures_are_solved(tau: float) -> None:
    rates = random_rates(6, prompts=30)
    middle = (attainable(rates, 0)["b"] + rates.rates[:, 1].mean()) / 2
    found = solve(rates, primary="a", floors={"b": middle}, tau=tau, epsilon=0)
    assert found.feasible
    assert found.predicted["b"] >= middle - 1e-9


def test_a_floor_on_the_primary_is_a_floor_like_any_other() -> None:
    found = solve(conflict(), primary="a", floors={"a": 0.999}, tau=0.5, epsilon=0)
    assert found.predicted["a"] == pytest.approx(0.999, abs=1e-9)
    assert found.multipliers["a"] == pytest.approx(0.5 * math.log(999) - 1, abs=1e-6)


def test_bad_arguments_are_named() -> None:
    rates = conflict()
    with pytest.raises(FloorError, match="'speed'"):
        solve(rates, primary="a", floors={"speed": 0.5}, tau=0.1)
    with pytest.raises(FloorError, match="'speed'"):
        solve(rates, primary="speed", floors={}, tau=0.1)
    for floor in (-0.1, 1.1, math.nan):
        with pytest.raises(FloorError, match="outside"):
            solve(rates, primary="a", floors={"b": floor}, tau=0.1)
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(FloorError, match="tau"):
            solve(rates, primary="a", floors={}, tau=tau)
    for epsilon in (-1.0, math.nan):
        with pytest.raises(FloorError, match="epsilon"):
            solve(rates, primary="a", floors={}, tau=0.1, epsilon=epsilon)
    for multiplier in (-1.0, math.inf):
        with pytest.raises(FloorError, match="multiplier"):
            tilt(rates, primary="a", multipliers={"b": multiplier}, tau=0.1)


def test_an_objective_without_labels_can_have_no_floor() -> None:
    rates = from_rates(("a", "b"), np.full((2, 2), 0.5), [0, 2], labelled=np.array([[True, False]]))
    with pytest.raises(DataError, match="no row carries a label on 'b'"):
        solve(rates, primary="a", floors={"b": 0.5}, tau=0.1)


# Properties

seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=15, deadline=None)


def any_problem(seed: int) -> tuple[WinRates, dict[str, float]]:
    """Random win rates and floors on b and c that can be met, with room."""
    rates = random_rates(seed, prompts=7, labelled=0.8)
    attained = tilt(rates, primary="a", multipliers={"b": 1.0, "c": 0.8}, tau=0.15, epsilon=0).predicted
    return rates, {"b": attained["b"], "c": attained["c"]}


@quick
@given(seed=seeds)
def test_the_order_of_objectives_does_not_matter(seed: int) -> None:
    rates, floors = any_problem(seed)
    turned = from_rates(("c", "a", "b"), rates.rates[:, [2, 0, 1]], rates.starts, labelled=rates.labelled[:, [2, 0, 1]])
    one = solve(rates, primary="a", floors=floors, tau=0.15, epsilon=0)
    other = solve(turned, primary="a", floors=dict(reversed(floors.items())), tau=0.15, epsilon=0)
    assert other.multipliers == pytest.approx(one.multipliers, abs=1e-6)
    assert other.ratio == pytest.approx(one.ratio, abs=1e-6)


@quick
@given(seed=seeds)
def test_the_same_prompts_twice_change_nothing(seed: int) -> None:
    rates, floors = any_problem(seed)
    doubled = from_rates(
        rates.objectives,
        np.tile(rates.rates, (2, 1)),
        np.concatenate([rates.starts, rates.starts[-1] + rates.starts[1:]]),
        labelled=np.tile(rates.labelled, (2, 1)),
    )
    one = solve(rates, primary="a", floors=floors, tau=0.15, epsilon=0)
    two = solve(doubled, primary="a", floors=floors, tau=0.15, epsilon=0)
    assert two.multipliers == pytest.approx(one.multipliers, abs=1e-6)
    assert (two.kl, two.ess) == pytest.approx((one.kl, one.ess), abs=1e-7)


@quick
@given(seed=seeds)
def test_a_constant_per_prompt_moves_values_and_floors_but_not_the_policy(seed: int) -> None:
    rates, floors = any_problem(seed)
    shift = np.random.default_rng(seed).random(rates.prompts) * rates.labelled[:, 1]
    moved = rates.rates / 2
    moved[:, 1] += shift[rates.prompt_of()] / 2  # halved, so that everything stays in [0, 1]
    mean = float(shift[rates.labelled[:, 1]].mean())
    shifted = from_rates(rates.objectives, moved, rates.starts, labelled=rates.labelled)
    one = solve(rates, primary="a", floors=floors, tau=0.15, epsilon=0)
    other = solve(
        shifted,
        primary="a",
        floors={"b": (floors["b"] + mean) / 2, "c": floors["c"] / 2},
        tau=0.075,
        epsilon=0,
    )
    assert other.ratio == pytest.approx(one.ratio, abs=1e-6)
    assert other.multipliers == pytest.approx(one.multipliers, abs=1e-6)


@quick
@given(seed=seeds, factor=st.floats(0.05, 1.0))
def test_scaling_tau_with_the_win_rates_changes_no_policy(seed: int, factor: float) -> None:
    rates, floors = any_problem(seed)
    scaled = from_rates(rates.objectives, rates.rates * factor, rates.starts, labelled=rates.labelled)
    one = solve(rates, primary="a", floors=floors, tau=0.15, epsilon=0)
    other = solve(
        scaled, primary="a", floors={name: factor * b for name, b in floors.items()}, tau=factor * 0.15, epsilon=0
    )
    assert other.ratio == pytest.approx(one.ratio, abs=1e-6)


@quick
@given(seed=seeds)
def test_a_higher_floor_never_raises_the_primary(seed: int) -> None:
    rates, floors = any_problem(seed)
    gains = []
    for lower in (0.2, 0.1, 0.0):
        loose = {name: max(0.0, floor - lower) for name, floor in floors.items()}
        gains.append(gain(solve(rates, primary="a", floors=loose, tau=0.15, epsilon=0), rates, "a", 0.15))
    assert gains[0] >= gains[1] - 1e-9 and gains[1] >= gains[2] - 1e-9


def test_a_multiplier_is_the_shadow_price_of_its_floor_times_all_prompts_over_the_labelled_ones() -> None:
    """Six prompts, b labelled on four of them and a on four: a price of 4/6 of the multiplier."""
    labelled = np.array([[True, False]] * 2 + [[True, True]] * 2 + [[False, True]] * 2)
    rates = from_rates(("a", "b"), [[0.9, 0.1], [0.4, 0.8]] * 6, np.arange(7) * 2, labelled=labelled)
    tau, step = 0.3, 1e-4
    below, at, above = (
        solve(rates, primary="a", floors={"b": floor}, tau=tau, epsilon=0) for floor in (0.6 - step, 0.6, 0.6 + step)
    )
    price = (gain(below, rates, "a", tau) - gain(above, rates, "a", tau)) / (2 * step)
    assert at.multipliers["b"] > 0.1
    assert price == pytest.approx(at.multipliers["b"] * 4 / 6, rel=1e-5)


def test_the_floors_that_are_at_odds_are_named() -> None:
    """b and c share 1 on every prompt; d can have its floor whatever else is asked."""
    rates = from_rates(("a", "b", "c", "d"), [[0.5, 1.0, 0.0, 0.9], [0.5, 0.0, 1.0, 0.2]] * 2, [0, 2, 4])
    found = solve(rates, primary="a", floors={"b": 0.7, "d": 0.3, "c": 0.6}, tau=0.1, epsilon=0)
    assert found.conflict == ("b", "c")
    assert "b and c are at odds: either can be met, not both. " in infeasible_message(found, attainable(rates, 0))
    together = solve(rates, primary="a", floors={"b": 0.7, "c": 0.6}, tau=0.1, epsilon=0)
    assert "b and c are at odds: either can be met, not both. " in infeasible_message(together, attainable(rates, 0))
    assert "Nearest feasible floors: b=0.5500, c=0.4500." in infeasible_message(together, attainable(rates, 0))
    alone = solve(rates, primary="a", floors={"b": 0.4, "d": 0.95, "c": 0.4}, tau=0.1, epsilon=0)
    assert alone.conflict == ("d",)
    assert "d alone is out of reach" in infeasible_message(alone, attainable(rates, 0))


def test_three_floors_of_which_any_two_can_be_met_are_at_odds() -> None:
    """Three answers, each best on one objective and worst on another: together they share 1.5."""
    rates = from_rates(("a", "b", "c", "d"), [[0.5, 1.0, 0.5, 0.0], [0.5, 0.0, 1.0, 0.5], [0.5, 0.5, 0.0, 1.0]], [0, 3])
    found = solve(rates, primary="a", floors={"b": 0.52, "c": 0.52, "d": 0.52}, tau=0.1, epsilon=0)
    message = infeasible_message(found, attainable(rates, 0))
    assert "b and c and d are at odds: any 2 of these can be met, not all. " in message


@pytest.mark.parametrize(("seed", "epsilon"), [(0, 0), (1, 0), (2, 0), (3, 0), (2, 0.02)])
def test_floors_at_odds_can_be_met_but_for_any_one_of_them(seed: int, epsilon: float) -> None:
    rates = random_rates(seed, prompts=8, objectives="abcd")
    floors = {name: 0.93 * best for name, best in attainable(rates, epsilon).items() if name != "a"}
    found = solve(rates, primary="a", floors=floors, tau=0.1, epsilon=epsilon)
    assert not found.feasible and len(found.conflict) >= 2
    together = {name: floors[name] for name in found.conflict}
    assert not solve(rates, primary="a", floors=together, tau=0.1, epsilon=epsilon).feasible
    for name in found.conflict:
        fewer = {other: floor for other, floor in together.items() if other != name}
        assert solve(rates, primary="a", floors=fewer, tau=0.1, epsilon=epsilon).feasible
