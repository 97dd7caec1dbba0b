import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mopo_train import optimism
from mopo_train.dual import Solution, solve, tilt
from mopo_train.optimism import bounds_of_shares, honest_values, lower_bound, with_bounds
from mopo_train.robust import lower_value, radii
from mopo_train.winrates import FloatArray, from_rates, label_sums, win_rates
from tests.mopo_train.labelled import Pairs, bradley_terry, compared, drawn


def lone_pair(a: float, b: float) -> Pairs:
    """One prompt, two responses, one comparison labelled on a and b."""
    return compared([[a, b]], [0], [1], [0, 0])


def fixed(pairs: Pairs, multiplier: float, tau: float) -> Solution:
    return tilt(win_rates(pairs), primary="a", multipliers={"b": multiplier}, tau=tau, epsilon=0)


def expectations(
    probability: FloatArray, joint: FloatArray, *, independent: bool, tau: float = 0.4
) -> tuple[FloatArray, FloatArray]:
    """(K,) mean honest and true value of a lone pair's policy over labels with distribution ``joint`` (2, 2)."""
    honest, true = np.zeros(2), np.zeros(2)
    for label in itertools.product((0, 1), repeat=2):
        pairs = lone_pair(*(float(each) for each in label))
        point, rates = fixed(pairs, 0.7, tau), win_rates(pairs)
        values = honest_values(pairs, rates, label_sums(pairs), point, tau, independent=independent)
        share = point.ratio * rates.mass
        honest += joint[label] * values[:, 0]
        true += joint[label] * (share[0] * probability + share[1] * (1 - probability))
    return honest, true


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("q", [0.1, 0.5, 0.8])
def test_a_lone_pair_is_never_overvalued_on_average(p: float, q: float) -> None:
    """All four outcomes summed; independent labels, where both forms must hold, and the sharper one is sharper."""
    probability = np.array([p, q])
    joint = np.outer([1 - p, p], [1 - q, q])
    safe, true = expectations(probability, joint, independent=False)
    sharp, _ = expectations(probability, joint, independent=True)
    assert (safe <= sharp + 1e-12).all() and (sharp <= true + 1e-12).all()
    if p == q == 0.5:
        assert sharp == pytest.approx(true)  # the guess of 1/2 is right, so nothing is given away


def test_errors_that_objectives_share_need_the_form_that_allows_for_them() -> None:
    """Every pair is a coin toss, and one toss decides both labels: each objective seems to confirm the other."""
    joint = np.array([[0.5, 0.0], [0.0, 0.5]])
    safe, true = expectations(np.array([0.5, 0.5]), joint, independent=False)
    sharp, _ = expectations(np.array([0.5, 0.5]), joint, independent=True)
    assert true == pytest.approx([0.5, 0.5])
    assert (safe <= true + 1e-12).all()
    assert sharp.max() > 0.55


def test_a_floorless_lone_pair_by_hand() -> None:
    """Only a counts: rho = sigma(1 / tau) on the winner whatever the label says, so g(1) - g(0) = 2 (2 rho - 1)."""
    tau = 0.4
    pairs = lone_pair(1.0, 0.0)
    point = tilt(win_rates(pairs), primary="a", multipliers={}, tau=tau, epsilon=0)
    share = 1 / (1 + math.exp(-1 / tau))
    values = honest_values(pairs, win_rates(pairs), label_sums(pairs), point, tau)
    assert values[0, 0] == pytest.approx(share - (2 * (2 * share - 1)) / 4)  # 1/2: noise for all that labels show
    assert values[0, 0] == pytest.approx(0.5)


def conflict(prompts: int, r: int, random: np.random.Generator) -> FloatArray:
    first = random.normal(size=(prompts, r))
    second = -0.8 * first + 0.6 * random.normal(size=(prompts, r))
    return bradley_terry(1.5 * np.stack([first, second], axis=-1))


@pytest.mark.parametrize("halo", [False, True])
@pytest.mark.parametrize("rounds", [1, 4])
def test_bounds_hold_with_label_noise_and_fitting_where_the_labels_own_value_never_does(
    rounds: int, halo: bool
) -> None:
    random = np.random.default_rng(rounds)
    missed, fooled, repetitions = 0, 0, 30
    for _ in range(repetitions):
        pairs, truth = drawn(conflict(150, 3, random), rounds, random, halo=halo)
        rates = win_rates(pairs)
        point = solve(rates, primary="a", floors={"b": 0.58}, tau=0.15)
        (bounded,) = with_bounds(pairs, rates, [point], 0.15)
        true = (point.ratio * rates.mass) @ win_rates(truth).rates / rates.prompts
        missed += int((np.array(list(bounded.bound.values())) > true).any())
        fooled += int((np.array(list(point.predicted_low.values())) > true).any())
    assert missed <= stats.binom.ppf(0.999, repetitions, 0.05)
    assert fooled >= 0.9 * repetitions


def test_more_labels_bring_the_bound_to_the_truth() -> None:
    random = np.random.default_rng(3)
    gaps = []
    for rounds in (1, 10, 200):
        pairs, truth = drawn(conflict(60, 3, random), rounds, random)
        rates = win_rates(pairs)
        point = solve(rates, primary="a", floors={"b": 0.55}, tau=0.3, epsilon=0)
        values = honest_values(pairs, rates, label_sums(pairs), point, 0.3).mean(axis=1)
        gaps.append(float(((point.ratio * rates.mass) @ win_rates(truth).rates / 60 - values).max()))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.02


def test_independent_errors_give_the_higher_bound() -> None:
    random = np.random.default_rng(5)
    pairs, _ = drawn(conflict(100, 4, random), 1, random)
    rates = win_rates(pairs)
    point = solve(rates, primary="a", floors={"b": 0.6}, tau=0.15)
    (safe,) = with_bounds(pairs, rates, [point], 0.15)
    (sharp,) = with_bounds(pairs, rates, [point], 0.15, independent=True)
    for name in "ab":
        assert 0 < safe.bound[name] < sharp.bound[name] < point.predicted_low[name]


def test_a_single_labelled_objective_per_row_makes_both_forms_one() -> None:
    random = np.random.default_rng(6)
    pairs, _ = drawn(conflict(40, 3, random), 2, random)
    labels = pairs.labels.copy()
    labels[np.arange(len(labels)), np.arange(len(labels)) % 2] = np.nan
    pairs = pairs._replace(labels=labels)
    rates = win_rates(pairs)
    point = solve(rates, primary="a", floors={"b": 0.6}, tau=0.15, epsilon=0)
    sums = label_sums(pairs)
    one = honest_values(pairs, rates, sums, point, 0.15)
    other = honest_values(pairs, rates, sums, point, 0.15, independent=True)
    assert one == pytest.approx(other, abs=1e-12)


def test_radius_zero_takes_labels_at_their_word() -> None:
    pairs = lone_pair(1.0, 0.0)
    point = fixed(pairs, 0.5, 0.3)
    (bounded,) = with_bounds(pairs, win_rates(pairs), [point], 0.3, epsilon=0)
    assert bounded.bound == point.predicted


def test_a_response_without_a_label_counts_as_nothing() -> None:
    """Three responses, one comparison: the third is on no side of it, so its share of the policy is worth 0."""
    pairs = compared([[1.0]], [0], [1], [0, 0, 0])
    rates = win_rates(pairs)
    uniform = tilt(rates, primary="a", multipliers={}, tau=1e6, epsilon=0)
    values = honest_values(pairs, rates, label_sums(pairs), uniform, 1e6)
    assert values[0, 0] == pytest.approx(1 / 3, abs=1e-5)


def test_labels_value_a_policy_that_they_did_not_make() -> None:
    """Ten prompts, the first response is taken; its label is 1 on seven: exactly the binomial bound."""
    n, won = 10, 7
    labels = (np.arange(n) < won).astype(np.float64)[:, None]
    even = list(range(0, 2 * n, 2))
    pairs = compared(labels, even, [index + 1 for index in even], np.repeat(np.arange(n), 2).tolist())
    found = bounds_of_shares(pairs, win_rates(pairs), np.tile([1.0, 0.0], n))
    assert found["a"] == pytest.approx(stats.beta.ppf(0.05, won, n - won + 1))
    half = bounds_of_shares(pairs, win_rates(pairs), np.full(2 * n, 0.5))
    assert half["a"] == pytest.approx(lower_value(np.append(np.full(n, 0.5), 0.0), radii(np.array([n]), None)[0]).value)


def test_an_objective_without_labels_is_bounded_by_nothing() -> None:
    pairs = lone_pair(1.0, math.nan)
    point = tilt(win_rates(pairs), primary="a", multipliers={}, tau=0.3)
    (bounded,) = with_bounds(pairs, win_rates(pairs), [point], 0.3)
    assert bounded.bound["b"] == 0.0


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.97, 0.995])
def test_rare_failures_that_were_not_seen_are_allowed_for(rate: float) -> None:
    """Graded values, 0.9 with probability ``rate`` and else 0: exact coverage of the bound over the binomial count."""
    n = 60
    epsilon = float(radii(np.array([n]), None)[0])
    covered = 0.0
    for good in range(n + 1):
        values = np.where(np.arange(n) < good, 0.9, 0.0)
        if lower_bound(values, epsilon) <= 0.9 * rate + 1e-12:
            covered += stats.binom.pmf(good, n, rate)
    assert covered >= 0.94  # the radius is asymptotic


def test_bounds_do_not_depend_on_the_order_of_rows_or_the_side_of_responses() -> None:
    random = np.random.default_rng(9)
    pairs, _ = drawn(conflict(30, 3, random), 2, random)
    order = random.permutation(len(pairs.labels))
    turned = pairs._replace(
        labels=1 - pairs.labels[order], prompt=pairs.prompt[order], first=pairs.second[order], second=pairs.first[order]
    )
    bounds = []
    for each in (pairs, turned):
        rates = win_rates(each)
        point = solve(rates, primary="a", floors={"b": 0.55}, tau=0.2)
        bounds.append(with_bounds(each, rates, [point], 0.2)[0].bound)
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-7)


def test_rates_of_a_constant_are_bounded_with_room_for_what_was_not_seen() -> None:
    rates = from_rates(("a",), np.full((8, 1), 0.5), range(9))
    low = lower_bound(rates.rates[:, 0], float(radii(np.array([8]), None)[0]))
    assert 0.3 < low < 0.5


def test_values_do_not_depend_on_how_many_comparisons_are_worked_on_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs, _ = drawn(conflict(20, 3, np.random.default_rng(7)), 2, np.random.default_rng(8))
    point, rates, sums = fixed(pairs, 0.7, 0.3), win_rates(pairs), label_sums(pairs)
    whole = honest_values(pairs, rates, sums, point, 0.3)
    monkeypatch.setattr(optimism, "TOGETHER", 3)
    assert (honest_values(pairs, rates, sums, point, 0.3) == whole).all()
