from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mopo_eval.front import covered, measured_front, resampled_front, sure_volume
from mopo_eval.scorecards import ObjectiveScore, Scorecard
from tests.families import OBJECTIVES, SCORES, estimate, scorecard


def card(policy: str, means: dict[str, float]) -> Scorecard:
    scores = {
        name: ObjectiveScore(**estimate(mean).model_dump(), judge="j", win_rate=estimate(0.5))
        for name, mean in means.items()
    }
    return Scorecard(policy=policy, run="r", confidence=0.95, objectives=scores)


def union_of_boxes(points: NDArray[np.float64]) -> float:
    """Volume of the union of the boxes from the origin to each point, by inclusion and exclusion."""
    return sum(
        (1 if size % 2 else -1) * float(np.prod(np.min(chosen, axis=0)))
        for size in range(1, len(points) + 1)
        for chosen in combinations(points, size)
    )


def dominated(point: NDArray[np.float64], points: NDArray[np.float64]) -> bool:
    return any((other >= point).all() and (other > point).any() for other in points)


@pytest.mark.parametrize("objectives", [2, 3, 4])
def test_front_and_hypervolume_agree_with_brute_force(objectives: int) -> None:
    points = np.random.default_rng(objectives).random((9, objectives)).round(2)
    cards = [card(f"p{i}", {f"o{k}": float(v) for k, v in enumerate(point)}) for i, point in enumerate(points)]
    front = measured_front(cards)
    assert front.policies == [f"p{i}" for i, point in enumerate(points) if not dominated(point, points)]
    assert front.hypervolume == pytest.approx(union_of_boxes(points))
    assert front.reference_point == {f"o{k}": 0.0 for k in range(objectives)}


def test_the_made_up_family_has_one_dominated_policy() -> None:
    front = measured_front([scorecard(name, scores) for name, scores in SCORES.items()])
    assert front.policies == ["policy-00", "policy-01", "policy-02"]
    assert list(front.reference_point) == OBJECTIVES


def test_equal_policies_are_both_on_the_front() -> None:
    means = {"a": 0.5, "b": 0.5}
    assert measured_front([card("p", means), card("q", means)]).policies == ["p", "q"]


def test_a_reference_point_cuts_the_volume_and_policies_below_it_add_none() -> None:
    cards = [card("p", {"a": 0.8, "b": 0.6}), card("q", {"a": 0.9, "b": 0.1})]
    front = measured_front(cards, {"a": 0.5, "b": 0.2})
    assert front.hypervolume == pytest.approx(0.3 * 0.4 / (0.5 * 0.8))  # of the box from there to 1
    assert front.policies == ["p", "q"]


def test_one_objective_has_its_best_policy_for_a_front() -> None:
    front = measured_front([card("p", {"a": 0.4}), card("q", {"a": 0.7})])
    assert front.policies == ["q"]
    assert front.hypervolume == pytest.approx(0.7)


def test_only_objectives_that_every_policy_was_measured_on_count() -> None:
    front = measured_front([card("p", {"a": 0.4, "b": 0.9}), card("q", {"a": 0.7})])
    assert front.reference_point == {"a": 0.0}


def test_nothing_measured_has_no_front() -> None:
    with pytest.raises(ValueError, match="measure the policies first"):
        measured_front([])


def test_a_reference_point_at_the_best_leaves_nothing_to_cover() -> None:
    with pytest.raises(ValueError, match="below 1"):
        covered(np.array([[0.5, 0.5]]), [0.0, 1.0])


def test_being_best_is_as_probable_as_the_paired_difference_says() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(300) * 0.6
    second = first + rng.normal(0.008, 0.1, 300)
    front = resampled_front(np.stack([first, second])[:, None, :], [0.0], 0.95)
    difference = second - first
    expected = stats.norm.cdf(difference.mean() / (difference.std() / np.sqrt(300)))
    assert front.probability == pytest.approx([1 - expected, expected], abs=0.02)


def test_the_hypervolume_of_one_policy_and_objective_varies_as_its_mean() -> None:
    values = np.random.default_rng(1).beta(2, 3, 200)
    front = resampled_front(values[None, None], [0.0], 0.9)
    peer = stats.bootstrap((values,), np.mean, confidence_level=0.9, method="basic", rng=np.random.default_rng(2))
    assert (front.low, front.high) == pytest.approx(tuple(peer.confidence_interval), abs=0.004)
    assert front.probability == [1.0]


def test_the_hypervolume_of_a_flat_family_is_not_taken_for_more_than_it_is() -> None:
    """Noise lifts the volume of 30 prompts above the truth, and percentiles of resamples lie above even that."""
    rng = np.random.default_rng(0)
    truth = np.stack([np.linspace(0.55, 0.6, 8), np.linspace(0.7, 0.65, 8), np.linspace(0.66, 0.62, 8)], axis=1)
    held = 0
    for _ in range(30):
        values = truth[:, :, None] + rng.uniform(-0.12, 0.12, (1, 3, 30)) + rng.uniform(-0.24, 0.24, (8, 3, 30))
        front = resampled_front(values, [0.0] * 3, 0.95)
        assert front.low <= covered(values.mean(axis=2), [0.0] * 3) <= front.high
        held += front.low <= covered(truth, [0.0] * 3) <= front.high
    assert held >= 24  # by percentiles about 8; fewer of 30 at 93 % have a chance below 1 %


def test_policies_with_equal_scores_are_always_on_the_front_together() -> None:
    scores = np.random.default_rng(2).random((1, 3, 50)).repeat(2, axis=0)
    assert resampled_front(scores, [0.0] * 3, 0.95).probability == [1.0, 1.0]


def test_scores_without_spread_and_few_prompts_give_no_point() -> None:
    low, high = sure_volume(np.ones((1, 1, 20)), [0.0], 0.95)
    assert (low, high) == pytest.approx((0.025 ** (1 / 20), 1))  # Clopper and Pearson for 20 of 20
    front = resampled_front(np.ones((2, 1, 20)), [0.0], 0.95)
    assert (front.low, front.high) == pytest.approx((0.0125 ** (1 / 20), 1))  # for two means at once
    few = resampled_front(np.random.default_rng(0).random((2, 2, 3)), [0.0, 0.0], 0.95)
    assert few.low < 0.1 and few.high > 0.9
    assert sure_volume(np.ones((1, 1, 1)), [0.0], 0.95) == (0, 1)


def test_the_sure_volume_covers_the_true_one() -> None:
    rng, truth, held = np.random.default_rng(3), np.array([[0.9, 0.3], [0.5, 0.6]]), 0
    for _ in range(200):
        values = (rng.random((2, 2, 8)) < truth[:, :, None]).astype(float)
        low, high = sure_volume(values, [0.0, 0.0], 0.95)
        held += low <= covered(truth, [0.0, 0.0]) <= high
    assert held >= 190
