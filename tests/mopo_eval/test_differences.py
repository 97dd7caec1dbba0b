import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mopo_eval.differences import holm, paired_difference, prompts_to_separate, unpaired_difference


def test_many_paired_values_agree_with_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.beta(4, 4, 800)
    ours = np.clip(theirs + rng.normal(0.012, 0.15, 800), 0, 1)
    found, peer = paired_difference(ours, theirs), stats.ttest_rel(ours, theirs)
    assert (found.low, found.high) == pytest.approx(tuple(peer.confidence_interval()), abs=0.001)
    assert found.p_value == pytest.approx(peer.pvalue, abs=0.01)
    assert found.n == 800


def test_many_unpaired_values_agree_with_welchs_test() -> None:
    rng = np.random.default_rng(1)
    ours, theirs = rng.beta(5, 4, 700), rng.beta(2, 2, 400)
    found, peer = unpaired_difference(ours, theirs), stats.ttest_ind(ours, theirs, equal_var=False)
    assert (found.low, found.high) == pytest.approx(tuple(peer.confidence_interval()), abs=0.002)
    assert found.p_value == pytest.approx(peer.pvalue, abs=0.01)
    assert found.n == 400


def test_pairing_removes_what_the_prompts_share() -> None:
    rng = np.random.default_rng(2)
    theirs = rng.random(100) * 0.9
    ours = theirs + rng.random(100) * 0.1
    assert paired_difference(ours, theirs).low > 0
    assert unpaired_difference(ours, theirs).p_value > 0.05


def test_few_differing_prompts_bet_and_no_difference_is_never_a_point() -> None:
    same = np.full(30, 0.4)
    found = paired_difference(same, same)
    assert found.low < 0 == found.mean < found.high
    assert found.p_value == 1
    sure = paired_difference(np.ones(30), np.zeros(30))
    assert sure.low > 0.5
    assert sure.p_value < 0.001
    few = unpaired_difference(np.ones(5), np.zeros(5))
    assert few.low < few.mean == 1 == few.high


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40),
    st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.9999, 1 - 1e-7]),
)
def test_an_interval_excludes_0_exactly_where_the_p_value_says_so(
    pairs: list[tuple[int, int]], confidence: float
) -> None:
    ours, theirs = (np.array(side) / 4 for side in zip(*pairs, strict=True))
    for difference in (paired_difference, unpaired_difference):
        found = difference(ours, theirs, confidence)
        assert -1 <= found.low <= found.mean <= found.high <= 1
        assert found.low < found.high
        excluded = found.low > 0 or found.high < 0
        assert (found.p_value <= 1 - confidence + 1e-9) == excluded


def test_swapping_the_sides_mirrors_a_difference() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(40), rng.random(40)
    found, turned = paired_difference(a, b), paired_difference(b, a)
    assert (turned.mean, turned.low, turned.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert turned.p_value == found.p_value


@pytest.mark.parametrize("chance", [0.05, 0.3])
def test_equal_policies_are_told_apart_no_more_often_than_stated(chance: float) -> None:
    """Right or wrong answers that differ on ``chance`` of the prompts: the hardest case for a bootstrap."""
    rng, trials = np.random.default_rng(4), 300
    rejected = 0
    for _ in range(trials):
        side = rng.random(100)
        ours, theirs = (side < chance / 2).astype(float), (side > 1 - chance / 2).astype(float)
        rejected += paired_difference(ours, theirs).p_value <= 0.05
    assert rejected <= stats.binom.ppf(0.999, trials, 0.05)


def test_a_clear_difference_is_found_among_many_comparisons() -> None:
    rng = np.random.default_rng(6)
    theirs = rng.random(200) * 0.5
    ours = theirs + 0.1 + 0.1 * rng.random(200)
    for difference in (paired_difference, unpaired_difference):
        adjusted = holm([difference(ours, theirs).p_value, *[1.0] * 249])[0]
        peer = (stats.ttest_rel if difference is paired_difference else stats.ttest_ind)(ours, theirs).pvalue
        assert 250 * peer < adjusted <= 250 * 1e-6


def test_few_failures_on_other_prompts_are_told_from_many() -> None:
    """A policy that hardly ever fails leaves nothing to resample; Fisher's exact test knows the truth."""
    ours, theirs = np.repeat([0.0, 1.0], [2, 298]), np.repeat([0.0, 1.0], [80, 220])
    found = unpaired_difference(ours, theirs)
    exact = stats.fisher_exact([[2, 298], [80, 220]]).pvalue
    assert exact < found.p_value < 1e-6
    assert found.low > 0
    few = unpaired_difference(np.repeat([0.0, 1.0], [2, 298]), np.repeat([0.0, 1.0], [6, 294]))
    assert few.p_value > 0.05


def test_bets_on_different_prompts_rarely_refute_what_is_true() -> None:
    rng, trials = np.random.default_rng(7), 400
    refuted = [unpaired_difference(*(rng.random((2, 60)) < 0.03).astype(float)).p_value <= 0.05 for _ in range(trials)]
    assert sum(refuted) <= stats.binom.ppf(0.999, trials, 0.05)


def test_holms_adjustment_by_hand() -> None:
    # Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, then never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_prompts_that_power_asks_for_give_that_power() -> None:
    differences = np.array([0.6, -0.4] * 50)  # mean 0.1, standard deviation 0.5025
    needed = prompts_to_separate(0.5 + differences / 2 + 0.0, 0.5 - differences / 2, power=0.8)
    assert needed == 199  # ((1.95996 + 0.84162) x 0.50252 / 0.1)^2 = 198.2
    rng = np.random.default_rng(5)
    found = rng.choice([0.6, -0.4], (4000, needed))
    t = found.mean(axis=1) / found.std(axis=1, ddof=1) * np.sqrt(needed)
    assert np.mean(t > 1.96) == pytest.approx(0.8, abs=0.03)


def test_no_number_of_prompts_separates_what_does_not_differ() -> None:
    assert prompts_to_separate(np.array([0.2, 0.4]), np.array([0.4, 0.2])) is None


@pytest.mark.parametrize("function", [paired_difference, unpaired_difference, prompts_to_separate])
@pytest.mark.parametrize("values", [[], [0.5], [0.5, 1.2], [0.5, float("nan")]])
def test_a_difference_needs_two_prompts_in_the_unit_interval(function, values: list[float]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="two prompts or more"):
        function(np.array(values), np.array([0.5, 0.5]))


def test_paired_values_of_different_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="same prompts; got 3 and 2"):
        paired_difference(np.zeros(3), np.zeros(2))
