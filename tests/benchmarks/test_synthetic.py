import itertools

import moocore
import numpy as np
import pytest

from benchmarks.synthetic import POLICIES, best_of_two, exact_front, plan_values, volume
from benchmarks.synthetic_worlds import KINDS, compare, make_world
from mopo_train.winrates import win_rates


@pytest.mark.parametrize("kind", KINDS)
def test_a_worlds_win_rates_are_what_many_labels_tend_to(kind: str) -> None:
    rng = np.random.default_rng(0)
    world = make_world(kind, 6, 3, rng)
    first, second = (np.array(each) for each in zip(*itertools.permutations(range(6), 2), strict=True))
    chance = world.preference(first, second)
    assert chance + world.preference(second, first) == pytest.approx(np.ones_like(chance))
    by_hand = np.stack([np.bincount(first, chance[:, k]) / 5 for k in range(3)], axis=1)
    assert world.rates.rates == pytest.approx(by_hand)
    sampled = win_rates(compare(world, 60_000, rng))
    assert sampled.rates == pytest.approx(by_hand, abs=0.02)


def test_only_kinds_without_strengths_have_intransitive_majorities() -> None:
    """Among 12 responses some three beat each other in a circle where the kind is cyclic; in Bradley-Terry none do."""

    def circles(kind: str) -> int:
        world = make_world(kind, 12, 2, np.random.default_rng(1))
        triples = np.array(list(itertools.permutations(range(12), 3)))
        beats = [world.preference(triples[:, i], triples[:, j])[:, 0] > 0.5 for i, j in ((0, 1), (1, 2), (2, 0))]
        return int(np.all(beats, axis=0).sum())

    assert circles("cyclic") > 0
    assert circles("independent") == circles("opposed") == 0


def test_the_best_points_of_two_objectives_are_the_best_of_all_choices() -> None:
    rng = np.random.default_rng(2)
    front = np.sort(rng.random((11, 2)), axis=0)
    front[:, 1] = front[::-1, 1]
    nadir = front.min(axis=0)
    choices = itertools.combinations(range(11), POLICIES)
    best = max(moocore.hypervolume(front[list(each)], ref=nadir, maximise=True) for each in choices)
    assert best_of_two(front, nadir) == pytest.approx(best)


@pytest.mark.parametrize("objectives", [2, 3])
def test_a_plan_from_exact_win_rates_holds_nearly_what_the_best_points_do(objectives: int) -> None:
    world = make_world("opposed", 20, objectives, np.random.default_rng(3))
    planned = plan_values(world.rates, world.rates)
    front = exact_front(world.rates, planned)
    assert 0.96 * front.best < volume(planned, front.nadir) <= front.best <= front.whole * 1.01
