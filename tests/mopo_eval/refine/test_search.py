"""The search on families whose scores are a known function of the place: what it finds is the best of the space."""

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopo_eval.bounds import clopper_pearson_low
from mopo_eval.refine.candidates import Gap, Space, Trained, raised_multipliers, search_space
from mopo_eval.refine.search import Candidate, Look, Outcome, Place, search
from mopo_train.family import INTERPOLATED, Between, Policy
from tests.families import family

Truth = Callable[[float], tuple[dict[str, float], float]]
"""Margins and primary at a position along the front."""


def straight(position: float) -> tuple[dict[str, float], float]:
    """Safety rises by 0.1 per policy from 0.5, helpfulness falls alike from 0.9."""
    return {"safety": 0.5 + 0.1 * position}, 0.9 - 0.1 * position


class World:
    """Policies 0..n - 1 at positions 0..n - 1; a training at factor f lies log2(f) beyond the last."""

    def __init__(self, policies: int, floors: dict[str, float], truth: Truth, rounds: int = 3) -> None:
        self.names = [f"policy-{index:02d}" for index in range(policies)]
        self.floors, self.truth = floors, truth
        gaps = [Gap(one, other) for one, other in itertools.pairwise(self.names)]
        self.space = Space(gaps, [Trained(self.names[-1], 2), Trained(self.names[-1], 4)], rounds)
        self.asked: list[Candidate] = []

    def look(self, name: str, position: float) -> Look:
        values, primary = self.truth(position)
        return Look(name, {floor: values[floor] - least for floor, least in self.floors.items()}, primary)

    def position(self, name: str) -> float:
        if "-x" in name:
            return len(self.names) - 1 + float(np.log2(int(name.rpartition("-x")[2])))
        return self.names.index(name)

    def measure(self, candidate: Candidate) -> Look:
        self.asked.append(candidate)
        if isinstance(candidate, Trained):
            return self.look(candidate.id, self.position(candidate.id))
        first, second = (self.position(end) for end in candidate.gap)
        return self.look(candidate.id, first + float(candidate.share) * (second - first))

    def search(self, **options: Any) -> Outcome:
        members = {name: self.look(name, index) for index, name in enumerate(self.names)}
        return search(self.space, members, self.measure, **options)


@given(st.integers(2, 6), st.integers(1, 5), st.floats(0.501, 0.999), st.floats(0.3, 3))
def test_between_a_neighbour_that_holds_and_one_that_does_not_the_best_place_of_the_grid_is_found(
    policies: int, rounds: int, part: float, bend: float
) -> None:
    top = 0.5 + 0.1 * (policies - 1)
    floor = 0.5 + (top - 0.5) * part

    def bent(position: float) -> tuple[dict[str, float], float]:
        reach = policies - 1
        return {"safety": 0.5 + (top - 0.5) * (position / reach) ** bend}, 1 - position / reach

    world = World(policies, {"safety": floor}, bent, rounds)
    found = world.search()
    every = np.arange(0, (policies - 1) * 2**rounds + 1) / 2**rounds
    best = max(primary for values, primary in map(bent, every.tolist()) if values["safety"] >= floor)
    assert found.best is not None
    assert found.best.primary == pytest.approx(best)
    assert len(found.looks) <= rounds
    assert all(isinstance(candidate, Place) for candidate in world.asked)


def test_nothing_is_tried_where_the_best_policy_of_all_holds() -> None:
    world = World(3, {"safety": 0.4}, straight)
    found = world.search()
    assert (found.best, found.candidate, found.looks) == (world.look("policy-00", 0), None, [])


def test_beyond_the_last_policy_others_are_trained_and_the_way_to_them_is_halved() -> None:
    """The last policy has 0.7; twice its multiplier 0.8 and four times 0.9; 0.86 first holds at 0.8 of that way."""
    world = World(3, {"safety": 0.86}, straight, rounds=3)
    found = world.search()
    assert [each.policy for each in found.looks[:2]] == ["policy-02-x2", "policy-02-x4"]
    assert found.best is not None
    assert isinstance(found.candidate, Place)
    assert found.candidate == Place(Gap("policy-02", "policy-02-x4"), Fraction(7, 8))  # 0.875; 6/8 has 0.85
    assert found.candidate.id == "policy-02.875-x4"
    assert len(found.looks) == 2 + 3
    assert world.search(train=False).best is None


def test_what_is_out_of_reach_names_the_closest() -> None:
    found = World(3, {"safety": 0.95}, straight).search()
    assert (found.best, found.candidate) == (None, None)
    assert found.closest.policy == "policy-02-x4"
    assert found.closest.worst == pytest.approx(-0.05)


def test_between_neighbours_that_miss_different_floors_one_that_holds_both_is_tried() -> None:
    """Safety and factuality cross at position 0.5, at 0.55; the primary is best at the start."""

    def crossing(position: float) -> tuple[dict[str, float], float]:
        return {"safety": 0.5 + 0.1 * position, "factuality": 0.6 - 0.1 * position}, 0.9 - position / 10

    world = World(2, {"safety": 0.53, "factuality": 0.53}, crossing, rounds=3)
    found = world.search()
    assert found.candidate == Place(Gap("policy-00", "policy-01"), Fraction(3, 8))  # 1/4 has safety 0.525
    assert found.candidate is not None
    assert world.asked[0] == Place(Gap("policy-00", "policy-01"), Fraction(1, 2))


@given(st.integers(2, 5), st.integers(1, 4), st.floats(0.3, 1.2), st.floats(0.3, 1.2))
def test_every_policy_that_is_tried_was_counted(policies: int, rounds: int, safety: float, factuality: float) -> None:
    def crossing(position: float) -> tuple[dict[str, float], float]:
        return {"safety": 0.5 + 0.1 * position, "factuality": 0.9 - 0.1 * position}, np.sin(position)

    world = World(policies, {"safety": safety, "factuality": factuality}, crossing, rounds)
    world.search()
    space = world.space
    steps = [Fraction(step, 2**rounds) for step in range(1, 2**rounds)]
    further = [Gap(trained.origin, trained.id) for trained in space.trained]
    possible: set[Candidate] = {Place(gap, step) for gap in [*space.gaps, *further] for step in steps}
    possible |= set(space.trained)
    assert len(possible) == space.size
    assert set(world.asked) <= possible
    assert len(world.asked) == len(set(world.asked)) <= 1 + len(space.trained) + rounds


def test_the_space_depends_on_the_plan_alone() -> None:
    made = family()
    between = Between(first="policy-00", second="policy-01", share=0.5)
    extra = Policy(id="policy-00.5", kind=INTERPOLATED, adapter="policies/policy-00.5", between=between)
    space = search_space(
        made.model_copy(update={"policies": [*made.policies, extra]}), {"safety": 0.9}, rounds=2, trainings=1
    )
    trained = [policy for policy in made.policies if policy.kind == "mopo"]
    assert [tuple(gap) for gap in space.gaps] == [(a.id, b.id) for a, b in itertools.pairwise(trained)]
    safest = max(trained, key=lambda policy: policy.predicted["safety"])
    assert space.trained == [Trained(safest.id, 2)]
    assert space.size == len(space.gaps) * 3 + 4
    assert (
        search_space(made, {"helpfulness": 0.9}, rounds=2, trainings=1).trained == []
    )  # the primary has no multiplier


def test_multipliers_are_raised_on_the_floored_objectives() -> None:
    origin = Policy(id="p", kind="mopo", adapter="a", multipliers={"safety": 0.6, "factuality": 0.0})
    assert raised_multipliers(origin, ["safety"], 2) == {"safety": 1.2, "factuality": 0.0}
    assert raised_multipliers(origin, ["factuality"], 4) == {"safety": 0.6, "factuality": 1.0}


def test_the_bound_of_what_an_adaptive_search_takes_holds_as_often_as_it_says() -> None:
    """Worst case: all policies are equally good and the search takes the luckiest of all it may try, at delta = 0.1.

    Shared among the whole space the bound fails in at most 10 % of 2,000 searches (plus simulation error); shared among
    the two members alone it fails far more often.
    """
    generator = np.random.default_rng(0)
    others, members, prompts, delta, searches = 29, 2, 100, 0.1, 2000
    passed = generator.binomial(prompts, 0.5, size=(searches, others + members)).max(axis=1)
    shared, alone = (
        np.mean([clopper_pearson_low(int(count), prompts, delta / policies) > 0.5 for count in passed])
        for policies in (others + members, members)
    )
    assert shared <= delta + 3 * np.sqrt(delta * (1 - delta) / searches)
    assert alone > 4 * delta
