import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mopo_eval.bounds import betting_low, clopper_pearson_low, lower_bound
from mopo_eval.estimates import ScoreTable, bounds_certified, make_scorecards
from mopo_eval.intervals import interval, wilson
from mopo_eval.scorecards import Scorecard

JUDGES = {"helpfulness": "pack.helpful", "safety": "pack.safe"}


def table(scores: NDArray[np.float64]) -> ScoreTable:
    policies = ["policy-00", "reference", "policy-01"][: len(scores)]
    return ScoreTable(policies, list(JUDGES)[: scores.shape[1]], scores)


def cards(scores: NDArray[np.float64], confidence: float = 0.9) -> dict[str, Scorecard]:
    found = make_scorecards(table(scores), JUDGES, run="r", confidence=confidence)
    return {card.policy: card for card in found}


def test_samples_of_a_prompt_are_averaged_before_prompts_are() -> None:
    scores = np.array([[[[0.0, 1.0], [1.0, 1.0], [0.2, 0.4]]], [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]]])  # (2, 1, 3, 2)
    score = cards(scores)["policy-00"].objectives["helpfulness"]
    assert score.mean == pytest.approx((0.5 + 1.0 + 0.3) / 3)
    assert score.n == 3
    assert (score.low, score.high) == interval(np.array([0.5, 1.0, 0.3]), 0.9)


def test_win_rates_count_ties_half_and_compare_all_samples_of_a_prompt() -> None:
    ours, reference = [[0.2, 0.8], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.1]]
    wins = table(np.array([[ours], [reference]])).wins  # (2, 1, 2)
    assert wins[0, 0].tolist() == [0.5, 0.75]  # (0 + 0 + 1 + 1) / 4, (1/2 + 1/2 + 1 + 1) / 4
    assert wins[1, 0].tolist() == [0.5, (0.5 + 0.5 + 1 + 0) / 4]  # the reference against itself averages to a half
    assert wins[1].mean() == 0.5


def test_the_reference_against_itself_is_known_not_estimated() -> None:
    scores = np.random.default_rng(0).random((3, 2, 20, 1))
    known = cards(scores)["reference"].objectives["safety"].win_rate
    assert (known.mean, known.low, known.high, known.certified_low, known.n) == (0.5, 0.5, 0.5, 0.5, 20)


def test_bounds_share_the_error_among_all_policies_objectives_and_both_measures() -> None:
    assert bounds_certified(3, 2) == 10  # 3 x 2 scores, and 2 x 2 win rates: the reference's own are known
    scores = np.random.default_rng(0).random((3, 2, 40, 1))
    made = cards(scores, confidence=0.9)
    expected = betting_low(scores[2, 1].mean(axis=1), 0.1 / 10)
    assert made["policy-01"].objectives["safety"].certified_low == pytest.approx(expected)
    wins = (scores[0, 0] > scores[1, 0]).sum()  # no ties among random numbers: an exact bound
    expected = clopper_pearson_low(int(wins), 40, 0.01)
    assert made["policy-00"].objectives["helpfulness"].win_rate.certified_low == pytest.approx(expected)


def test_a_judge_of_zeros_and_ones_gets_wilsons_interval_and_the_exact_bound() -> None:
    scores = (np.random.default_rng(0).random((2, 1, 30, 1)) < 0.8).astype(float)
    score = cards(scores, confidence=0.95)["policy-00"].objectives["helpfulness"]
    passed = int(scores[0].sum())
    assert (score.low, score.high) == wilson(passed, 30, 0.95)
    assert score.certified_low == pytest.approx(clopper_pearson_low(passed, 30, 0.05 / 3))


def test_one_policys_zeros_and_ones_do_not_make_a_graded_judge_binary() -> None:
    scores = np.concatenate([np.ones((1, 1, 30, 1)), np.full((1, 1, 30, 1), 0.5)])
    score = cards(scores)["policy-00"].objectives["helpfulness"]
    assert score.certified_low == pytest.approx(betting_low(np.ones(30), 0.1 / 3))


def test_every_card_names_its_run_confidence_and_judges() -> None:
    made = cards(np.random.default_rng(0).random((3, 2, 12, 1)))
    assert list(made) == ["policy-00", "reference", "policy-01"]
    assert {(card.run, card.confidence) for card in made.values()} == {("r", 0.9)}
    assert {name: score.judge for name, score in made["reference"].objectives.items()} == JUDGES


def test_no_floor_that_is_chosen_after_the_scores_is_missed_too_often() -> None:
    """Whoever sees all scores and picks a floor does harm only where some ``certified_low`` exceeds the truth.

    8 policies, two objectives graded 0, 1/2, 1, so that true means and win rates are sums that can be written out.
    """
    rng, grades, delta, prompts, trials = np.random.default_rng(0), np.array([0, 0.5, 1]), 0.2, 40, 300
    chances = rng.dirichlet([1, 1, 4], size=(8, 2))  # (policies, objectives, grades)
    beats = (grades[:, None] > grades) + 0.5 * (grades[:, None] == grades)
    true_means = chances @ grades
    true_wins = np.einsum("pka,kb,ab->pk", chances, chances[0], beats)
    names = ["reference", *(f"policy-{index:02d}" for index in range(7))]
    alpha = delta / bounds_certified(8, 2)
    harmed = 0
    for _ in range(trials):
        steps = (rng.random((8, 2, prompts))[..., None] > chances.cumsum(axis=-1)[:, :, None]).sum(axis=-1)
        drawn = ScoreTable(names, ["a", "b"], grades[np.minimum(steps, 2)][..., None])
        harmed += any(
            lower_bound(values[p, k], alpha, binary=False) > truth[p, k]
            for values, truth, first in ((drawn.values, true_means, 0), (drawn.wins, true_wins, 1))
            for p in range(first, 8)
            for k in range(2)
        )
    assert harmed / trials <= delta + 3 * math.sqrt(delta * (1 - delta) / trials)
