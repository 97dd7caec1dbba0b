import itertools

import numpy as np
import pytest

from benchmarks.front_statistics import (
    Front,
    at_divergence,
    best_subset,
    hypervolume,
    interval,
    mean_hypervolume,
    policy_means,
    promises_kept,
    resampled,
    share_of_floors_met,
)

NADIR = np.array([0.5, 0.5])


def test_hypervolume_is_a_share_of_the_box_above_the_reference_point() -> None:
    assert hypervolume(np.array([[0.75, 1.0]]), NADIR) == pytest.approx(0.5)
    assert hypervolume(np.array([[0.75, 1.0], [1.0, 0.75]]), NADIR) == pytest.approx(0.75)
    assert hypervolume(np.array([[0.4, 1.0]]), NADIR) == 0  # below the reference point on one objective


def test_the_best_subset_is_that_of_trying_all() -> None:
    points = np.random.default_rng(0).uniform(0.5, 1, (12, 3))
    nadir = np.full(3, 0.5)
    most = max(hypervolume(points[list(some)], nadir) for some in itertools.combinations(range(12), 4))
    chosen = best_subset(points, 4, nadir)
    assert len(set(chosen)) == 4
    assert hypervolume(points[chosen], nadir) == pytest.approx(most, rel=0.02)  # exchanges find a local best
    assert best_subset(points[:2], 4, nadir) in ([0, 1], [1, 0])


def test_means_leave_out_prompts_that_say_nothing_and_count_weights() -> None:
    values = np.array([[[0.0, 1.0, np.nan], [0.5, 0.5, 0.8]]])  # (1 policy, 2 objectives, 3 prompts)
    assert policy_means(values).tolist() == [[0.5, pytest.approx(0.6)]]
    assert policy_means(values, np.array([1.0, 3.0, 0.0])).tolist() == [[0.75, 0.5]]


def test_floors_are_held_by_the_policy_that_was_chosen_for_them() -> None:
    choose = np.array([[0.9, 0.5], [0.6, 0.8], [0.5, 0.9]])
    test = np.array([[0.9, 0.5], [0.6, 0.7], [0.5, 0.9]])
    floors = np.array([[np.nan, 0.4], [np.nan, 0.75], [np.nan, 0.85], [np.nan, 0.95]])
    # the first policy holds the first; the second was chosen for the next and fails; the third holds; nobody holds .95
    assert share_of_floors_met(choose, test, floors, primary=0) == 0.5


def test_a_promise_is_kept_where_the_promised_policy_reaches_every_floor() -> None:
    floors = np.array([[np.nan, 0.4], [np.nan, 0.75], [0.6, 0.3], [np.nan, 0.0]])
    held = [np.array([0.1, 0.4]), np.array([0.9, 0.7]), np.array([0.6, 0.2]), None]
    assert promises_kept(held, floors) == 1  # the second and the third miss one, and nobody is promised for the last


def test_worth_at_a_divergence_is_read_between_the_settings() -> None:
    curve = [(2.0, 0.9), (1.0, 0.5)]
    assert at_divergence(curve, 1.5) == pytest.approx(0.7)
    assert (at_divergence(curve, 0.1), at_divergence(curve, 9.0)) == (0.5, 0.9)


def fronts(seed: int, lift: float = 0.0) -> list[Front]:
    rng = np.random.default_rng(seed)
    return [Front(rng.uniform(0.5, 0.9, (4, 2, 50)) + lift, NADIR, 0.5) for _ in range(3)]


def test_resamples_are_paired_and_vary_as_means_of_prompts_do() -> None:
    draws = resampled({"one": fronts(0), "same": fronts(0), "better": fronts(0, lift=0.05)}, resamples=200)
    assert (draws["one"] == draws["same"]).all()
    assert (draws["better"] > draws["one"]).all()
    constant = [Front(np.full((1, 2, 9), 0.75), NADIR, 0.25)]
    assert resampled({"flat": constant}, resamples=5)["flat"] == pytest.approx([1.0] * 5)
    assert mean_hypervolume(constant) == pytest.approx(1.0)
    alone = [Front(np.stack([[np.linspace(0.6, 1, 400)] * 2]), np.array([0.0, 0.0]), 1.0)]  # one policy: mean squared
    spread = resampled({"x": alone}, resamples=400)["x"].std()
    error = np.linspace(0.6, 1, 400).std() / np.sqrt(400)
    assert spread == pytest.approx(2 * 0.8 * error, rel=0.15)


def test_the_interval_is_reflected_about_the_mean() -> None:
    draws = np.linspace(0.4, 0.8, 1001)
    assert interval(0.5, draws) == pytest.approx((0.5, 0.21, 0.59))
