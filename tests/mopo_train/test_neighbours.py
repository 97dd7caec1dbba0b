"""Neighbours against the definition in distances, and what lies half way between them against the dual."""

import numpy as np
import pytest
from scipy.spatial import Delaunay

from mopo_train.dual import tilt
from mopo_train.neighbours import neighbours
from mopo_train.winrates import from_rates

NAMES = ["safety", "factuality"]


@pytest.mark.parametrize("seed", range(5))
def test_no_third_policy_is_nearer_to_the_middle_than_its_ends(seed: int) -> None:
    places = np.random.default_rng(seed).random((9, 2)) * [1, 40]
    found = neighbours([dict(zip(NAMES, place, strict=True)) for place in places.tolist()])
    scaled = places / places.max(axis=0)
    expected = []
    for i in range(9):
        for j in range(i + 1, 9):
            middle = (scaled[i] + scaled[j]) / 2
            others = np.delete(scaled, [i, j], axis=0)
            if np.linalg.norm(others - middle, axis=1).min() >= np.linalg.norm(scaled[i] - middle):
                expected.append((i, j))
    assert found == expected
    triangles = Delaunay(scaled).simplices
    edges = {tuple(sorted((int(a), int(b)))) for each in triangles for a in each for b in each if a != b}
    assert set(found) <= edges  # a known property of Gabriel graphs


def test_on_one_multiplier_they_are_the_next_ones_in_its_order() -> None:
    assert neighbours([{"safety": 0.0}, {"safety": 9.0}, {"safety": 0.3}, {"safety": 2.0}]) == [(0, 2), (1, 3), (2, 3)]


def test_a_missing_multiplier_is_zero_and_few_policies_have_few_neighbours() -> None:
    assert neighbours([{}]) == []
    assert neighbours([{}, {"safety": 1.0}]) == [(0, 1)]
    assert neighbours([{}, {}]) == [(0, 1)]
    assert neighbours([{}, {"safety": 1.0}, {"factuality": 1.0}]) == [(0, 1), (0, 2), (1, 2)]


def test_half_way_between_two_optima_lies_the_optimum_for_the_multipliers_half_way() -> None:
    rates = from_rates(["helpfulness", *NAMES], np.random.default_rng(0).random((40, 3)), np.arange(0, 41, 4))
    ends = [{"safety": 0.2, "factuality": 1.5}, {"safety": 2.0, "factuality": 0.1}]
    middle = {name: (ends[0][name] + ends[1][name]) / 2 for name in NAMES}
    first, second, between = (
        np.log(tilt(rates, primary="helpfulness", multipliers=each, tau=0.1, epsilon=0).ratio)
        for each in (*ends, middle)
    )
    apart = (between - (first + second) / 2).reshape(10, 4)
    assert np.abs(apart - apart[:, :1]).max() < 1e-9  # the same for all responses to a prompt
