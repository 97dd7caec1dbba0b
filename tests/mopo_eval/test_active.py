import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mopo_eval.active import draw, floor_doubt, inclusion, unbiased_terms, win_probability, win_rate
from mopo_train.errors import DataError


def test_equal_scores_are_a_coin_toss_and_units_do_not_matter() -> None:
    ours, theirs = np.array([0.5, 0.9, 0.1]), np.array([0.5, 0.1, 0.9])
    guess = win_probability(ours, theirs)
    assert guess[0] == 0.5
    assert guess[1] == pytest.approx(1 - guess[2])
    assert win_probability(ours / 7, theirs / 7) == pytest.approx(guess)
    assert win_probability(theirs, theirs).tolist() == [0.5] * 3


def test_doubt_is_greatest_at_the_floor() -> None:
    doubt = floor_doubt(np.array([0.5, 0.6, 0.5, 0.5]), np.array([0.1, 0.1, 0.0, 0.0]), np.array([0.5, 0.5, 0.4, 0.5]))
    assert doubt == pytest.approx([1, np.exp(-0.5), 0, 1])


@given(hnp.arrays(np.float64, st.integers(5, 40), elements=st.floats(0, 1e3)), st.integers(1, 5))
def test_probabilities_sum_to_the_labels_and_none_is_0_or_above_1(importance: np.ndarray, labels: int) -> None:
    probability = inclusion(importance, labels)
    assert probability.sum() == pytest.approx(labels)
    assert ((probability > 0) & (probability <= 1)).all()
    order = np.argsort(importance)
    assert (np.diff(probability[order]) >= -1e-12).all()


def test_all_pairs_are_certain_where_all_are_asked_for_and_more_are_refused() -> None:
    assert inclusion(np.array([0.0, 1.0, 5.0]), 3) == pytest.approx([1, 1, 1])
    with pytest.raises(DataError, match="4 pairs asked for, but there are only 3"):
        inclusion(np.ones(3), 4)


def test_with_every_pair_labelled_the_terms_are_the_labels() -> None:
    label = np.array([0.0, 1.0, 1.0, 0.5] * 5)
    assert unbiased_terms(np.full(20, 0.9), np.ones(20), label) == pytest.approx(label)
    found = win_rate(np.concatenate([label, np.full(20, 0.5)]), 20, 0.95)
    assert found.mean == pytest.approx((label.sum() + 10) / 40)
    assert found.low < found.mean < found.high


def test_few_labels_make_no_win_rate_and_equal_terms_no_point() -> None:
    with pytest.raises(DataError, match="9 labelled pairs"):
        win_rate(np.full(50, 0.5), 9, 0.95)
    found = win_rate(np.full(50, 0.5), 10, 0.95)
    assert (found.low, found.high) == (0, 1)


def test_active_labels_cost_less_than_random_ones_and_cover_the_truth() -> None:
    """A judge that is sure of 80 % of the pairs, rightly, and knows nothing of the rest.

    The variance of a label given the judge is .95 x .05 on the former and .25 on the latter. By Neyman's allocation the
    same precision takes (mean of the deviations)^2 / mean of the variances = .86 of the labels of random choice;
    the evenly spread part gives some of that back.
    """
    rng, pairs, labels, times = np.random.default_rng(0), 1000, 100, 500
    mean, covered = 0.8 * (0.6 * 0.95 + 0.4 * 0.05) + 0.2 * 0.5, 0
    errors = np.zeros((times, 2))
    for repetition in range(times):
        sure = rng.random(pairs) < 0.8
        guess = np.where(sure, np.where(rng.random(pairs) < 0.6, 0.95, 0.05), 0.5)
        truth = rng.random(pairs) < guess
        for column, importance in enumerate((np.sqrt(guess * (1 - guess)), np.ones(pairs))):
            probability = inclusion(importance, labels)
            label = np.where(draw(probability, rng), truth, np.nan)
            terms = unbiased_terms(guess, probability, label)
            errors[repetition, column] = terms.mean() - truth.mean()
            if column == 0 and repetition < 60:
                found = win_rate(terms, int((~np.isnan(label)).sum()), 0.95)
                covered += found.low <= mean <= found.high
    active, random = errors.std(axis=0)
    assert (np.abs(errors.mean(axis=0)) < 4 * errors.std(axis=0) / np.sqrt(times)).all()
    assert active**2 < 0.95 * random**2
    assert covered >= 52  # of 60 at 95 %: fewer in one of 2,000 tests
