import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopo_train.errors import DataError
from mopo_train.preference_model import strengths as module
from mopo_train.preference_model.strengths import (
    Strengths,
    finite_win_rates,
    logits,
    make_pairs,
    preferences,
    probability,
    set_win_rates,
)
from mopo_train.winrates import FloatArray, IntArray


def drawn(responses: int, objectives: int, width: int, seed: int, scale: float = 1.0) -> Strengths:
    random = np.random.default_rng(seed)
    return Strengths(
        scale * random.normal(size=(responses, objectives)),
        scale * random.normal(size=(responses, objectives, width)),
        random.uniform(0, 2, (responses, objectives)),
    )


def every_pair(responses: int) -> tuple[IntArray, IntArray]:
    first, second = np.indices((responses, responses))
    return first.ravel(), second.ravel()


def rock_paper_scissors(advantage: float) -> Strengths:
    """Three unit vectors at 120 degrees: e_i x e_j = sin 120 = sqrt(3) / 2 along the cycle, minus that against it."""
    angles = np.array([0, 2 * math.pi / 3, 4 * math.pi / 3])
    size = math.sqrt(advantage / (math.sqrt(3) / 2))
    vectors = size * np.stack([np.cos(angles), np.sin(angles)], axis=1)[:, None, :]
    return Strengths(np.zeros((3, 1)), vectors, np.zeros((3, 1)))


def test_a_cycle_is_held_exactly() -> None:
    chance = preferences(rock_paper_scissors(math.log(9)), *every_pair(3))[:, 0].reshape(3, 3)
    assert chance == pytest.approx(np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]]), abs=1e-12)


def test_nobody_wins_a_cycle_on_average() -> None:
    rates = finite_win_rates(rock_paper_scissors(2.0), ["x"], [0, 3])
    assert rates.rates[:, 0] == pytest.approx([0.5] * 3, abs=1e-12)


@given(st.integers(0, 10_000), st.sampled_from([0, 2, 6]), st.sampled_from([1e-3, 1.0, 40.0]))
def test_exchanging_the_responses_gives_the_complement_to_the_last_bit(seed: int, width: int, scale: float) -> None:
    model = drawn(6, 2, width, seed, scale)
    first, second = every_pair(6)
    assert (logits(model, first, second) == -logits(model, second, first)).all()
    assert (preferences(model, first, second) + preferences(model, second, first) == 1.0).all()


def test_probabilities_of_extreme_logits_are_0_and_1() -> None:
    assert probability(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_uncertain_utilities_give_mean_probabilities() -> None:
    """The mean of sigmoid(z) over z ~ N(1.2, 3), by Gauss-Hermite quadrature."""
    model = Strengths(np.array([[1.2], [0.0]]), np.zeros((2, 1, 0)), np.array([[2.0], [1.0]]))
    nodes, weight = np.polynomial.hermite_e.hermegauss(60)
    mean = (weight / (1 + np.exp(-(1.2 + math.sqrt(3.0) * nodes)))).sum() / weight.sum()
    assert preferences(model, np.array([0]), np.array([1]))[0, 0] == pytest.approx(mean, abs=0.01)


def test_a_temperature_divides_every_logit() -> None:
    model = drawn(5, 2, 4, 0)._replace(variance=np.zeros((5, 2)))
    cooled = model.scaled(np.array([2.0, 0.5]))
    assert logits(cooled, *every_pair(5)) == pytest.approx(logits(model, *every_pair(5)) / [2.0, 0.5])


def by_hand(model: Strengths, starts: IntArray, mass: FloatArray, leave_out: bool) -> FloatArray:
    """The definition, in loops."""
    rates = np.empty(model.utility.shape)
    for begin, end in zip(starts[:-1], starts[1:], strict=True):
        for y in range(begin, end):
            others = [z for z in range(begin, end) if not (leave_out and z == y)]
            total = sum(mass[others])
            rates[y] = sum(
                mass[z] / total * preferences(model, np.array([y]), np.array([z]))[0] for z in others
            ) if others else 0.5  # fmt: skip
    return rates


@pytest.mark.parametrize("leave_out", [True, False])
@pytest.mark.parametrize("block", [1, 7, 10**6])
def test_win_rates_are_means_over_the_other_responses(
    leave_out: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    starts = np.array([0, 3, 4, 6, 9, 14])
    model = drawn(14, 2, 2, 3)
    mass = np.random.default_rng(0).uniform(0.2, 1, 14)
    mass /= np.repeat(np.add.reduceat(mass, starts[:-1]), np.diff(starts))
    rates = set_win_rates(model, starts, mass=mass, leave_out=leave_out)
    assert rates == pytest.approx(by_hand(model, starts, mass, leave_out), abs=1e-12)
    means = np.add.reduceat(rates * mass[:, None], starts[:-1])
    if not leave_out:
        assert means == pytest.approx(0.5)  # the reference against itself


def test_a_single_response_has_parity() -> None:
    assert set_win_rates(drawn(2, 2, 2, 0), np.array([0, 1, 2])).tolist() == [[0.5, 0.5]] * 2


@pytest.mark.parametrize(
    ("first", "second", "labels", "weight", "message"),
    [
        ([0], [1], [1.5], None, "must lie in"),
        ([0], [0], [1.0], None, "two different responses"),
        ([-1], [0], [1.0], None, "numbered from 0"),
        ([0], [1], [1.0], [0.0], "greater than 0"),
        ([0], [1], [1.0], [math.nan], "finite"),
        ([0, 1], [1, 2], [1.0], None, "have shapes"),
        ([], [], [], None, "no comparison"),
    ],
)
def test_comparisons_that_cannot_be_used_are_refused(
    first: list[int], second: list[int], labels: list[float], weight: list[float] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        make_pairs(first, second, np.array(labels), None if weight is None else np.array(weight))
