import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from mopo_train.check.agreement import centred_ranks, conflict, krippendorff_alpha, rank_correlation
from mopo_train.winrates import from_rates

NAN = math.nan
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section C: 4 observers, 12 units.
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


def test_alpha_is_the_published_one() -> None:
    known = ~np.isnan(OBSERVERS)
    unit = np.broadcast_to(np.arange(12), OBSERVERS.shape)[known]
    assert krippendorff_alpha(unit, OBSERVERS[known]) == pytest.approx(0.849, abs=5e-4)


def test_alpha_is_one_for_agreement_and_undefined_without_pairs_or_variation() -> None:
    assert krippendorff_alpha(np.array([0, 0, 1, 1]), np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(1)
    assert math.isnan(krippendorff_alpha(np.array([0, 1]), np.array([0.0, 1.0])))
    assert math.isnan(krippendorff_alpha(np.array([0, 0]), np.array([1.0, 1.0])))


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=30))
def test_ranks_are_scipys_within_each_group(rows: list[tuple[int, float]]) -> None:
    group, value = (np.array(column) for column in zip(*rows, strict=True))
    found = centred_ranks(group, value)
    for name in np.unique(group):
        ranks = scipy.stats.rankdata(value[group == name])
        assert found[group == name] == pytest.approx((ranks - ranks.mean()) / len(ranks))


def test_objectives_that_are_opposite_conflict_everywhere() -> None:
    rates = from_rates(["a", "b"], [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], [0.2, 0.9], [0.8, 0.1]], [0, 3, 5])
    labels = np.array([[1.0, 0.0], [0.9, 0.2], [0.5, 0.0], [1.0, NAN]])
    found = conflict(labels, rates, 0, 1)
    assert (found.rows, found.share) == (2, 1.0)
    assert found.correlation == pytest.approx((-1, -1, 1))  # two prompts show nothing about others


def test_the_interval_of_a_rank_correlation_covers_it() -> None:
    """Two responses to a prompt: ranks are +-1/4, so the correlation is 1 - 2 P(the objectives disagree) = 0.4."""
    random, covered = np.random.default_rng(0), 0
    for _ in range(400):
        disagree = random.random(60) < 0.3
        first = random.random(60) < 0.5
        rates = np.stack([np.stack([first, ~first], axis=1), np.stack([first ^ disagree, ~first ^ disagree], axis=1)])
        found = rank_correlation(from_rates(["a", "b"], rates.reshape(2, -1).T, np.arange(0, 121, 2)), 0, 1)
        covered += found.low <= 0.4 <= found.high
    assert 0.98 <= covered / 400


def test_prompts_that_all_agree_do_not_make_a_correlation_certain() -> None:
    rates = from_rates(["a", "b"], np.tile([[0.0, 0.0], [1.0, 1.0]], (10, 1)), np.arange(0, 21, 2))
    value, low, high = rank_correlation(rates, 0, 1)
    # ten of ten prompts agree: at 99 % at least 0.01^(1/10) of them do (Clopper and Pearson, one side)
    assert (value, low, high) == pytest.approx((1, 2 * 0.01**0.1 - 1, 1))
