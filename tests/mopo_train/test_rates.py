import numpy as np
import pytest
import scipy.stats

from mopo_train.rates import clustered_rate, wilson_interval


@pytest.mark.parametrize("passed", [0, 1, 7, 20])
def test_wilson_agrees_with_scipy(passed: int) -> None:
    peer = scipy.stats.binomtest(passed, 20).proportion_ci(0.9, method="wilson")
    assert wilson_interval(passed / 20, 20, 0.9) == pytest.approx((peer.low, peer.high))


def test_clusters_of_copies_are_worth_one_row() -> None:
    right = np.array([1.0, 1, 0, 1, 0, 1, 1, 0, 1, 1])
    alone = clustered_rate(right, np.arange(10), 0.95)
    assert alone == pytest.approx(wilson_interval(0.7, 10, 0.95))
    copies = clustered_rate(np.repeat(right, 5), np.repeat(np.arange(10), 5), 0.95)
    assert copies == pytest.approx(alone)
    assert clustered_rate(np.ones(50), np.repeat(np.arange(10), 5), 0.95) == pytest.approx(wilson_interval(1, 10, 0.95))


def test_clustered_intervals_cover_the_truth() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        rate = np.repeat(random.beta(1.2, 0.8, size=60), 4)  # mean 0.6; rows of a prompt share its rate
        low, high = clustered_rate((random.random(240) < rate).astype(float), np.repeat(np.arange(60), 4), 0.95)
        covered += low <= 0.6 <= high
    assert covered / 600 > 0.93


@pytest.mark.parametrize(("clusters", "rows"), [(2, 100), (3, 100), (5, 40), (10, 100)])
def test_few_clusters_of_many_rows_do_not_look_certain(clusters: int, rows: int) -> None:
    random, covered = np.random.default_rng(1), 0
    code = np.repeat(np.arange(clusters), rows)
    for _ in range(500):
        rate = random.beta(12, 8, size=clusters)[code]  # mean 0.6
        low, high = clustered_rate((random.random(len(code)) < rate).astype(float), code, 0.95)
        covered += low <= 0.6 <= high
    assert covered / 500 > 0.93  # without the reduction 0.72 to 0.91


def test_one_cluster_says_nothing_and_no_rows_are_an_error() -> None:
    assert clustered_rate(np.array([1.0, 1, 0]), np.zeros(3, dtype=np.int64), 0.95) == (0, 1)
    with pytest.raises(ValueError, match="cannot rate 0 rows"):
        clustered_rate(np.zeros(0), np.zeros(0, dtype=np.int64), 0.95)
