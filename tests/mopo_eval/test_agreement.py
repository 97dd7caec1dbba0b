import numpy as np
import pytest

from mopo_eval.agreement import Agreement, agreement, repeatability
from mopo_train.errors import DataError


def rated(judge: list[float], people: list[float], length: list[float] | None = None, times: int = 10) -> Agreement:
    """Of rows that are repeated on so many prompts."""
    n = len(judge)
    lengths = np.array((length or [1.0] * n) * times)
    prompt = np.repeat(np.arange(times), n)
    return agreement(np.array(judge * times), np.array(people * times), lengths, prompt, 0.95)


def test_accuracy_and_kappa_of_a_table_worked_out_by_hand() -> None:
    """Both high 4, judge alone 1, people alone 2, neither 3: agreed .7, by chance .5 x .6 + .5 x .4 = .5, kappa .4."""
    judge = [0.9] * 5 + [0.1] * 5
    people = [1.0] * 4 + [0.0] + [1.0] * 2 + [0.0] * 3
    found = rated(judge, people)
    assert found.accuracy is not None and found.kappa is not None
    assert found.accuracy.value == pytest.approx(0.7)
    assert found.kappa.value == pytest.approx(0.4)
    assert (found.n, found.prompts) == (100, 10)
    assert found.accuracy.low == pytest.approx(0.7)  # the same rows on every prompt: nothing varies


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    """Score .95 on rows that are right half of the time, and .25 on rows that never are: (2 x .45 + 2 x .25) / 4."""
    found = rated([0.95, 0.95, 0.25, 0.25], [1, 0, 0, 0])
    assert found.calibration_error.value == pytest.approx(0.35)
    assert found.bias.value == pytest.approx((0.95 * 2 + 0.25 * 2 - 1) / 4)


def test_a_judge_that_likes_long_answers_is_told_by_its_bias_on_them() -> None:
    found = rated([0.9, 0.9, 0.2, 0.2], [0.5, 0.5, 0.5, 0.5], [100, 90, 10, 5])
    assert found.length_bias is not None
    assert found.length_bias.value == pytest.approx(0.4 - -0.3)
    assert found.accuracy is None and found.kappa is None  # people took no side


def test_a_judges_tie_counts_half() -> None:
    found = rated([0.5, 0.5, 0.9, 0.1], [1, 0, 1, 0])
    assert found.accuracy is not None and found.accuracy.value == pytest.approx(0.75)


def test_all_on_one_side_leaves_kappa_unknown() -> None:
    found = rated([0.9, 0.9], [1, 1])
    assert found.kappa is None
    assert found.accuracy is not None and found.accuracy.value == 1


def test_intervals_widen_where_rows_share_a_prompt() -> None:
    rng = np.random.default_rng(0)
    right = np.repeat(rng.random(40) < 0.7, 10)
    people = np.ones(400)
    judge = np.where(right, 0.9, 0.1)
    together = agreement(judge, people, np.ones(400), np.repeat(np.arange(40), 10), 0.95).accuracy
    apart = agreement(judge, people, np.ones(400), np.arange(400), 0.95).accuracy
    assert together is not None and apart is not None
    ratio = (together.high - together.low) / (apart.high - apart.low)
    assert ratio == pytest.approx(np.sqrt(10), rel=0.25)


def test_repeatability_is_the_share_of_equal_sides() -> None:
    first, second = np.array([0.9, 0.9, 0.1, 0.1] * 10), np.array([0.8, 0.2, 0.3, 0.4] * 10)
    assert repeatability(first, second, np.repeat(np.arange(10), 4), 0.95).value == pytest.approx(0.75)


def test_a_judge_that_gives_the_middle_twice_repeats_itself() -> None:
    middle, prompt = np.full(20, 0.5), np.arange(20)
    assert repeatability(middle, middle, prompt, 0.95).value == 1
    assert repeatability(middle, np.tile([0.5, 1.0], 10), prompt, 0.95).value == pytest.approx(0.5)


def test_few_prompts_rate_no_judge() -> None:
    with pytest.raises(DataError, match="30 labels on 3 prompts"):
        agreement(np.ones(30), np.ones(30), np.ones(30), np.repeat(np.arange(3), 10), 0.95)
    with pytest.raises(DataError, match="0 labels on 0 prompts"):
        agreement(np.ones(0), np.ones(0), np.ones(0), np.arange(0), 0.95)
