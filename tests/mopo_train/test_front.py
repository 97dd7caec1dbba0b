import itertools

import moocore
import numpy as np
import pytest

from mopo_train.dual import attainable, solve, tilt
from mopo_train.errors import FloorError
from mopo_train.front import propose
from mopo_train.winrates import WinRates, from_rates
from tests.mopo_train.primal import random_rates


def noisy(objectives: int, prompts: int = 300, seed: int = 0) -> WinRates:
    """Four responses per prompt with independent rates of 0, 0.5 or 1: a front with room."""
    rates = np.random.default_rng(seed).integers(0, 3, (4 * prompts, objectives)) / 2
    return from_rates(tuple("abcde"[:objectives]), rates, np.arange(prompts + 1) * 4)


@pytest.mark.parametrize("epsilon", [0.0, None])
def test_points_of_two_objectives_part_the_front_evenly(epsilon: float | None) -> None:
    """From the point without floors on, the same sum of sqrt(-da db) between neighbours."""
    rates = noisy(2)
    points = propose(rates, primary="a", policies=7, tau=0.15, epsilon=0)
    assert len(points) == 7
    place = np.array([point.multipliers["b"] for point in points])
    fine = np.linspace(0, place[-1] * 3, 1500)
    traced = [tilt(rates, primary="a", multipliers={"b": float(at)}, tau=0.15, epsilon=0).predicted for at in fine]
    moves = np.diff(np.array([[value["a"], value["b"]] for value in traced]), axis=0)
    along = np.concatenate([[0], np.cumsum(np.sqrt(np.maximum(-moves[:, 0] * moves[:, 1], 0)))])
    steps = np.diff(np.interp(place, fine, along))
    assert steps == pytest.approx(np.full(6, steps.mean()), rel=0.03)
    assert place[0] == 0
    robust = propose(rates, primary="a", policies=7, tau=0.15, epsilon=epsilon)
    values = np.array([[point.predicted["a"], point.predicted["b"]] for point in robust])
    assert (np.diff(values[:, 1]) > 0).all() and (np.diff(values[:, 0]) < 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_points_of_two_objectives_hold_nearly_the_most_hypervolume_that_as_many_can(seed: int) -> None:
    """Against the best of all choices of 5 points on a fine curve, found by dynamic programming."""
    rates = noisy(2, prompts=40, seed=seed)
    points = propose(rates, primary="a", policies=5, tau=0.15, epsilon=0)
    curve = np.array(
        [
            list(tilt(rates, primary="a", multipliers={"b": float(at)}, tau=0.15, epsilon=0).predicted.values())
            for at in np.concatenate([[0], np.geomspace(0.02, 10, 250)])
        ]
    )
    nadir = np.array([curve[-1, 0], curve[0, 1]])
    x, y = (curve[::-1] - nadir).T
    best = x * y
    for _ in range(4):
        joined = best[:, None] + (x[None] - x[:, None]) * y[None]
        best = np.maximum(best, np.where(x[None] > x[:, None], joined, -1).max(axis=0))
    values = np.array([[point.predicted["a"], point.predicted["b"]] for point in points])
    held = moocore.hypervolume(values[(values > nadir).all(axis=1)], ref=nadir, maximise=True)
    assert 0.95 * best.max() < held <= best.max() * 1.01


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_every_proposed_floor_is_feasible_and_gives_its_point_back(objectives: int) -> None:
    rates = noisy(objectives, prompts=60)
    for point in propose(rates, primary="b", policies=5, tau=0.15):
        assert point.feasible and "b" not in point.floors
        again = solve(rates, primary="b", floors=point.floors, tau=0.15)
        assert again.feasible
        assert again.predicted == pytest.approx(point.predicted, abs=1e-5)


@pytest.mark.parametrize("objectives", [3, 5])
def test_no_proposed_point_dominates_another_and_the_primary_comes_first(objectives: int) -> None:
    points = propose(noisy(objectives), primary="a", policies=8, tau=0.15, epsilon=0)
    assert len(points) == 8
    assert points[0].predicted["a"] == max(point.predicted["a"] for point in points)
    for one, other in itertools.permutations(points, 2):
        assert any(one.predicted[name] > other.predicted[name] for name in one.predicted)


def test_neighbours_of_three_objectives_are_closer_than_points_at_random() -> None:
    points = propose(noisy(3), primary="a", policies=8, tau=0.15, epsilon=0)
    places = np.array([list(point.predicted.values()) for point in points])
    along = np.linalg.norm(np.diff(places, axis=0), axis=1).mean()
    every = [np.linalg.norm(one - other) for one, other in itertools.combinations(places, 2)]
    assert along < 0.8 * np.mean(every)


def test_the_last_point_keeps_more_than_one_response_per_prompt() -> None:
    """Half of the way to the largest value would be free; the last hundredth would cost all other responses."""
    points = propose(random_rates(1, prompts=200, objectives="ab"), primary="a", policies=4, tau=0.15, epsilon=0)
    best = attainable(random_rates(1, prompts=200, objectives="ab"), 0)["b"]
    assert points[-1].multipliers["b"] < 20
    assert points[-1].predicted["b"] == pytest.approx(best, abs=0.02)


def test_objectives_that_agree_give_one_point() -> None:
    rates = np.random.default_rng(0).random((400, 1))
    same = from_rates(("a", "b"), np.repeat(rates, 2, axis=1), np.arange(101) * 4)
    points = propose(same, primary="a", policies=6, tau=0.15)
    assert len(points) == 1 and points[0].multipliers == {"b": 0.0}


def test_nothing_to_choose_gives_one_point() -> None:
    ties = from_rates(("a", "b"), np.full((8, 2), 0.5), [0, 4, 8])
    single = from_rates(("a", "b"), np.random.default_rng(0).random((5, 2)), range(6))
    for rates in (ties, single):
        assert len(propose(rates, primary="a", policies=6, tau=0.15)) == 1


def test_a_front_shorter_than_the_points_asked_for_gives_fewer() -> None:
    """a and b differ by 0.01 on one of two responses, so the front is about 0.01 long."""
    rates = from_rates(("a", "b"), [[0.505, 0.48], [0.48, 0.505]] * 3, [0, 2, 4, 6])
    points = propose(rates, primary="a", policies=40, tau=0.002, epsilon=0)
    assert 2 <= len(points) < 40


def test_an_objective_without_labels_takes_no_part() -> None:
    rates = noisy(3, prompts=50)
    labelled = np.tile([True, True, False], (50, 1))
    points = propose(from_rates("abc", rates.rates, rates.starts, labelled=labelled), primary="a", policies=3, tau=0.15)
    assert [list(point.multipliers) for point in points] == [["b"]] * 3


def test_one_policy_is_the_one_without_floors() -> None:
    rates = noisy(2, prompts=20)
    (point,) = propose(rates, primary="a", policies=1, tau=0.15)
    assert point.predicted == pytest.approx(solve(rates, primary="a", floors={}, tau=0.15).predicted)


def test_proposals_exist_for_a_radius_that_leaves_large_multipliers_without_a_solution() -> None:
    points = propose(noisy(4, prompts=100), primary="a", policies=5, tau=0.02, epsilon=0.5)
    assert len(points) == 5


def test_no_policies_at_all_cannot_be_proposed() -> None:
    with pytest.raises(FloorError, match="at least one"):
        propose(noisy(2, prompts=2), primary="a", policies=0, tau=0.15)
    with pytest.raises(FloorError, match="'speed'"):
        propose(noisy(2, prompts=2), primary="speed", policies=2, tau=0.15)


def test_very_many_objectives_are_refused() -> None:
    names = [f"o{k}" for k in range(13)]
    rates = from_rates(names, np.random.default_rng(0).random((8, 13)), [0, 4, 8])
    with pytest.raises(FloorError, match="13 objectives: points are proposed for at most 12"):
        propose(rates, primary="o0", policies=4, tau=0.15)
