import numpy as np
import pytest

from mopo_eval.intervals import interval
from mopo_eval.prediction_powered import corrected_mean
from mopo_train.errors import DataError


def test_the_mean_is_that_of_the_paper_with_its_weight() -> None:
    """Weight cov(Y, f) / ((1 + n / N) var f); mean of Y - weight f, plus weight times the mean of f elsewhere."""
    rng = np.random.default_rng(1)
    judge, elsewhere = rng.random(40), rng.random(200)
    people = np.clip(judge + rng.normal(0, 0.1, 40), 0, 1)
    weight = np.cov(people, judge)[0, 1] / ((1 + 40 / 200) * np.concatenate([judge, elsewhere]).var(ddof=1))
    found = corrected_mean(people, judge, elsewhere, 0.95)
    assert found.weight == pytest.approx(weight)
    assert found.mean == pytest.approx(people.mean() + weight * (elsewhere.mean() - judge.mean()))
    assert (found.labelled, found.unlabelled) == (40, 200)
    assert found.low < found.mean < found.high


def test_a_judge_that_tells_nothing_counts_nothing() -> None:
    people = np.array([0.0, 1.0] * 10)
    found = corrected_mean(people, np.full(20, 0.7), np.full(100, 0.7), 0.95)
    assert found.weight == 0
    assert (found.low, found.high) == pytest.approx(tuple(interval(people, 0.95)))
    against = corrected_mean(people, 1 - people, np.full(100, 0.5), 0.95)
    assert against.weight == 0


def test_a_judge_that_is_always_wrong_by_the_same_is_corrected() -> None:
    rng = np.random.default_rng(2)
    truth = rng.uniform(0.2, 0.6, 1000)
    found = corrected_mean(truth[:100], truth[:100] + 0.3, truth[100:] + 0.3, 0.95)
    assert found.low <= truth.mean() <= found.high
    assert found.high - found.low < 0.06
    assert abs((truth + 0.3).mean() - found.mean) > 0.25  # what the judge alone would have said


@pytest.mark.parametrize(("n", "base", "accuracy"), [(30, 0.6, 0.9), (60, 0.9, 0.85), (60, 0.95, 0.7)])
def test_the_interval_covers_the_truth(n: int, base: float, accuracy: float) -> None:
    """400 repetitions: a coverage of .95 shows at least .92 in all but one of 1,000 tests."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(400):
        label = (rng.random(6 * n) < base).astype(float)
        judge = np.where(rng.random(6 * n) < accuracy, label, 1 - label) * 0.8 + 0.2 * rng.random(6 * n)
        found = corrected_mean(label[:n], judge[:n], judge[n:], 0.95)
        covered += found.low <= base <= found.high
    assert covered / 400 >= 0.92


def test_labels_halve_the_error_where_the_judge_is_good() -> None:
    rng = np.random.default_rng(4)
    judge = rng.random(2000)
    people = np.clip(judge + rng.normal(0, 0.05, 2000), 0, 1)
    corrected = corrected_mean(people[:50], judge[:50], judge[50:], 0.95)
    low, high = interval(people[:50], 0.95)
    assert corrected.high - corrected.low < 0.5 * (high - low)


def test_few_labels_correct_nothing() -> None:
    with pytest.raises(DataError, match="9 prompts with labels"):
        corrected_mean(np.ones(9), np.ones(9), np.ones(50), 0.95)
