import numpy as np
import pytest
from scipy import stats

from mopo_eval.bootstrap import (
    RESAMPLES,
    critical,
    draws,
    percentiles,
    resampled_means,
    resampled_shifts,
    studentised,
    two_sided_p,
)


def test_each_draw_counts_every_prompt_that_it_takes_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = np.concatenate(list(draws(7, 50)))
    assert whole.shape == (50, 7)
    assert (whole.sum(axis=1) == 7).all()
    monkeypatch.setattr("mopo_eval.bootstrap.CELLS_AT_ONCE", 21)
    assert np.array_equal(np.concatenate(list(draws(7, 50))), whole)


def test_resampled_means_spread_as_the_standard_error_says() -> None:
    values = np.random.default_rng(0).beta(2, 5, (2, 400))
    means = resampled_means(values)
    assert means.shape == (RESAMPLES, 2)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=1), abs=0.001)
    assert means.std(axis=0) == pytest.approx(values.std(axis=1) / 20, rel=0.05)


def test_all_rows_are_resampled_alike() -> None:
    values = np.random.default_rng(0).random(30)
    means = resampled_means(np.stack([values, 1 - values]))
    assert means.sum(axis=1) == pytest.approx(1)


def test_the_statistic_is_students_where_values_are_normal() -> None:
    values = np.random.default_rng(1).normal(size=(1, 3000))
    deviation = studentised(*resampled_shifts(values))
    for confidence in (0.8, 0.95):
        assert critical(deviation, confidence, 2999)[0] == pytest.approx(stats.norm.ppf((1 + confidence) / 2), rel=0.04)


def test_beyond_the_resamples_the_tail_is_students() -> None:
    values = np.random.default_rng(1).normal(size=(1, 3000))
    deviation = studentised(*resampled_shifts(values))[:, 0]
    for confidence in (0.9999, 1 - 1e-5):
        reach = float(critical(deviation, confidence, 2999))
        assert reach == pytest.approx(stats.norm.isf((1 - confidence) / 2), rel=0.08)
        assert two_sided_p(reach, deviation, 2999) == pytest.approx(1 - confidence)


def test_a_longer_tail_is_continued_without_a_jump() -> None:
    deviation = np.abs(stats.t(4).rvs(RESAMPLES, random_state=0))
    farthest = float(deviation.max())
    assert two_sided_p(farthest, deviation, 199) == 2 / (RESAMPLES + 1)
    assert two_sided_p(farthest * 1.001, deviation, 199) == pytest.approx(1 / (RESAMPLES + 1), rel=0.02)
    assert two_sided_p(farthest * 1.5, deviation, 199) > 2 * stats.t.sf(farthest * 1.5, 199)
    assert critical(deviation, 1 - 1 / (RESAMPLES + 1), 199) == farthest
    assert critical(deviation, 1 - 0.5 / (RESAMPLES + 1), 199) > farthest
    assert two_sided_p(1e9, deviation, 199) == 1e-6  # no smaller one is claimed
    assert critical(deviation, 1 - 1e-7, 199) == np.inf


def test_shift_and_variance_by_definition() -> None:
    values = np.array([[0.1, 0.9, 0.4, 0.7]])
    shift, variance = resampled_shifts(values, resamples=20)
    for row, counts in enumerate(np.concatenate(list(draws(4, 20)))):
        drawn = np.repeat(values[0], counts.astype(int))
        assert shift[row, 0] == pytest.approx(drawn.mean() - values.mean())
        assert variance[row, 0] == pytest.approx(drawn.var(ddof=1) / 4, abs=1e-12)


def test_a_resample_without_spread_refutes_any_other_mean() -> None:
    assert studentised(np.array([0.1, 0.0, 0.2]), np.array([0.0, 0.0, 0.01])).tolist() == pytest.approx([np.inf, 0, 2])


def test_percentiles_of_few_symmetric_values_reach_as_far_as_students_interval() -> None:
    values = np.linspace(0.2, 0.8, 15)
    low, high = percentiles(resampled_means(values[None])[:, 0], 0.95, 15)
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 14, values.mean(), stats.sem(values)), abs=0.01)
