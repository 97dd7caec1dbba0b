import math

import numpy as np
import pytest
import scipy.optimize

from mopo_train.dual import solve
from mopo_train.errors import DataError
from mopo_train.preference_model.calibration import best_temperature, log_loss
from mopo_train.preference_model.finite import fit_finite
from mopo_train.preference_model.laplace import Design, Prior, maximise
from mopo_train.preference_model.strengths import (
    Pairs,
    Strengths,
    finite_win_rates,
    make_pairs,
    preferences,
)
from mopo_train.winrates import FloatArray

BEATS = np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]])
"""Rock, paper, scissors with mistakes."""


def utilities(values: FloatArray) -> Strengths:
    return Strengths(values, np.zeros((*values.shape, 0)), np.zeros(values.shape))


def sampled(truth: Strengths, number: int, seed: int) -> Pairs:
    """Pairs drawn uniformly, labels drawn from the true preferences."""
    random = np.random.default_rng(seed)
    responses, objectives = truth.utility.shape
    first = random.integers(0, responses, number)
    second = (first + random.integers(1, responses, number)) % responses
    labels = random.random((number, objectives)) < preferences(truth, first, second)
    return make_pairs(first.tolist(), second.tolist(), labels.astype(float))


def chances(model: Strengths) -> FloatArray:
    """(Y, Y) of the first objective."""
    first, second = np.indices((len(model.utility),) * 2)
    return preferences(model, first.ravel(), second.ravel())[:, 0].reshape(first.shape)


def test_rock_paper_scissors_is_learnt_from_noisy_pairs_and_no_difference_of_scores_can() -> None:
    random = np.random.default_rng(0)
    first = random.integers(0, 3, 2000)
    second = (first + random.integers(1, 3, 2000)) % 3
    labels = (random.random(2000) < BEATS[first, second]).astype(float)
    pairs = make_pairs(first.tolist(), second.tolist(), labels)
    assert np.abs(chances(fit_finite(pairs, 3)) - BEATS).max() < 0.04
    pointwise = maximise(Design(pairs, np.zeros((3, 0)), True), Prior(np.eye(1), np.ones(1), np.zeros((1, 0))))
    assert np.abs(chances(pointwise.strengths) - 0.5).max() < 0.05  # the best that scores can say of a cycle


def test_the_maximum_is_that_of_another_solver() -> None:
    """Ridge-regularised Bradley-Terry, minimised by a method without gradients."""
    pairs = make_pairs(
        [0, 1, 2, 0, 3], [1, 2, 0, 2, 1], np.array([1.0, 0.8, 0.3, 1.0, 0.5]), np.array([1, 2, 1, 3, 1.0])
    )

    def loss(u: FloatArray) -> float:
        z = u[pairs.first] - u[pairs.second]
        labels = pairs.labels[:, 0]
        cost = labels * np.log1p(np.exp(-z)) + (1 - labels) * np.log1p(np.exp(z))
        return float(pairs.weight @ cost + (u**2).sum() / (2 * 0.7))

    found = scipy.optimize.minimize(
        loss, np.zeros(4), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000}
    )
    prior = Prior(np.array([[0.7]]), np.ones(1), np.zeros((1, 0)))
    fitted = maximise(Design(pairs, np.zeros((4, 0)), True), prior)
    assert fitted.strengths.utility[:, 0] == pytest.approx(found.x, abs=1e-4)


@pytest.mark.parametrize("features", [0, 3])
def test_skew_vectors_follow_their_gradient_to_a_stationary_point(features: int) -> None:
    """The penalised loss at the maximum does not fall in any direction, by finite differences of its definition."""
    random = np.random.default_rng(1)
    design = Design(
        sampled(utilities(random.normal(size=(5, 2))), 60, 2), random.normal(size=(5, features)), not features
    )
    prior = Prior(np.array([[1.0, 0.3], [0.3, 0.8]]), np.full(2, 0.5), np.full((2, 2), 0.7))
    made = maximise(design, prior, seed=3).strengths
    pairs, labels = design.pairs, design.pairs.labels
    basis = design.features if features else np.eye(5)

    def loss(change: FloatArray) -> float:
        """At weights moved by ``change`` in (utility weights, skew weights)."""
        du, de = change[: basis.shape[1] * 2].reshape(-1, 2), change[basis.shape[1] * 2 :].reshape(-1, 2, 2)
        weights = np.linalg.lstsq(basis, made.utility, rcond=None)[0] + du
        skew = np.einsum("fy,ykw->fkw", np.linalg.pinv(basis), made.vectors) + de
        moved = Strengths(basis @ weights, np.einsum("yf,fkw->ykw", basis, skew), made.variance * 0)
        chance = preferences(moved, pairs.first, pairs.second)
        cost = -(labels * np.log(chance) + (1 - labels) * np.log(1 - chance)).sum()
        precision = np.eye(2) / 0.5 if features else np.linalg.inv(prior.table)
        return float(cost + np.einsum("fk,kl,fl->", weights, precision, weights) / 2 + (skew**2).sum() / (2 * 0.49))

    slope = scipy.optimize.approx_fprime(np.zeros(basis.shape[1] * 6), loss, 1e-6)
    assert np.abs(slope).max() < 5e-3


def test_unlabelled_pairs_are_left_out_and_a_weight_counts_as_repetition() -> None:
    truth = utilities(np.random.default_rng(0).normal(size=(6, 2)))
    pairs = sampled(truth, 15, 1)
    labels = pairs.labels.copy()
    labels[5:, 1] = np.nan
    prior = Prior(np.eye(2), np.ones(2), np.zeros((2, 0)))
    partly = maximise(Design(pairs._replace(labels=labels), np.zeros((6, 0)), True), prior).strengths.utility
    few = maximise(Design(pairs.take(np.arange(5)), np.zeros((6, 0)), True), prior).strengths.utility
    whole = maximise(Design(pairs, np.zeros((6, 0)), True), prior).strengths.utility
    assert partly[:, 0] == pytest.approx(whole[:, 0], abs=1e-4)
    assert partly[:, 1] == pytest.approx(few[:, 1], abs=1e-4)
    twice = pairs.take(np.array([*range(15), 0, 0]))
    heavy = pairs._replace(weight=np.array([3.0] + [1.0] * 14))
    repeated, weighed = (
        maximise(Design(each, np.zeros((6, 0)), True), prior).strengths.utility for each in (twice, heavy)
    )
    assert repeated == pytest.approx(weighed, abs=1e-4)


def test_a_soft_label_counts_as_so_many_hard_ones() -> None:
    prior = Prior(np.eye(1), np.ones(1), np.zeros((1, 0)))
    soft = make_pairs([0], [1], np.array([0.75]), np.array([4.0]))
    hard = make_pairs([0] * 4, [1] * 4, np.array([1.0, 1.0, 1.0, 0.0]))
    one, other = (maximise(Design(each, np.zeros((2, 0)), True), prior).strengths.utility for each in (soft, hard))
    assert one == pytest.approx(other, abs=1e-6)


def test_few_comparisons_shrink_towards_parity_and_come_closer_to_the_truth_than_labels() -> None:
    random = np.random.default_rng(0)
    truth = utilities(random.normal(size=(400, 1)) * 1.5)
    pairs = sampled(truth, 800, 1)  # four comparisons per response
    exact = finite_win_rates(truth, ["x"], [0, 400]).rates
    won, seen = np.zeros(400), np.zeros(400)
    for index, label in ((pairs.first, pairs.labels[:, 0]), (pairs.second, 1 - pairs.labels[:, 0])):
        np.add.at(won, index, label)
        np.add.at(seen, index, 1)
    labels = np.where(seen > 0, won / np.maximum(seen, 1), 0.5)
    model = finite_win_rates(fit_finite(pairs, 400), ["x"], [0, 400]).rates
    assert ((model - exact) ** 2).mean() < 0.6 * ((labels[:, None] - exact) ** 2).mean()
    slope = np.polyfit(model[:, 0], exact[:, 0], 1)[0]
    assert slope == pytest.approx(1.0, abs=0.2)  # a posterior mean is neither too bold nor too timid


def test_features_tell_of_responses_that_were_never_compared() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(600, 4))
    truth = utilities(features @ np.array([[1.5], [-1.0], [0.5], [0.0]]))
    pairs = sampled(Strengths(*(part[:300] for part in truth)), 1500, 1)
    model = fit_finite(pairs, 600, features=np.column_stack([features * 7 + 3, np.ones(600)]))
    exact = finite_win_rates(truth, ["x"], [0, 600]).rates
    assert np.abs(finite_win_rates(model, ["x"], [0, 600]).rates - exact)[300:].max() < 0.06


def test_cycles_in_features_are_found() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 3))
    truth = Strengths(np.zeros((300, 1)), 1.5 * features[:, None, :2], np.zeros((300, 1)))
    model = fit_finite(sampled(truth, 4000, 1), 300, features=features)
    assert np.abs(chances(model) - chances(truth)).mean() < 0.05


def test_an_objective_with_few_labels_learns_from_one_that_agrees_with_it() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(300, 1)) * 1.5
    truth = utilities(np.hstack([values, values]))
    pairs = sampled(truth, 3000, 1)
    labels = pairs.labels.copy()
    labels[300:, 1] = np.nan
    exact = finite_win_rates(truth, ["x", "y"], [0, 300]).rates[:, 1]
    together = finite_win_rates(fit_finite(pairs._replace(labels=labels), 300), ["x", "y"], [0, 300]).rates[:, 1]
    alone = finite_win_rates(fit_finite(pairs._replace(labels=labels[:, 1:]), 300), ["y"], [0, 300]).rates[:, 0]
    assert ((together - exact) ** 2).mean() < 0.5 * ((alone - exact) ** 2).mean()


@pytest.mark.parametrize("labels", [[0.5] * 30, [math.nan] * 30])
def test_ties_and_missing_labels_alone_give_parity(labels: list[float]) -> None:
    random = np.random.default_rng(0)
    first = random.integers(0, 6, 30)
    pairs = make_pairs(first.tolist(), ((first + 1) % 6).tolist(), np.column_stack([labels, random.integers(0, 2, 30)]))
    assert finite_win_rates(fit_finite(pairs, 6), ["x", "y"], [0, 6]).rates[:, 0] == pytest.approx([0.5] * 6, abs=1e-6)


def test_labels_that_never_vary_stay_inside_the_unit_interval() -> None:
    pairs = make_pairs(list(range(40)) * 2, list(range(40, 80)) * 2, np.ones(80))
    rates = finite_win_rates(fit_finite(pairs, 80), ["x"], [0, 80]).rates[:, 0]
    assert (rates[:40] > 0.5).all() and (rates[40:] < 0.5).all() and (rates < 1).all()


def test_the_dual_takes_the_models_win_rates() -> None:
    truth = utilities(np.random.default_rng(0).normal(size=(50, 2)))
    rates = finite_win_rates(fit_finite(sampled(truth, 500, 1), 50), ["x", "y"], [0, 50])
    assert solve(rates, primary="x", floors={"y": 0.6}, tau=0.15, epsilon=0).predicted["y"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("responses", "options", "message"),
    [
        (2, {}, "names response 2, but there are 2"),
        (3, {"table": False}, "needs features, a table, or both"),
        (3, {"features": np.zeros((2, 1))}, "do not fit 3 responses"),
        (3, {"features": np.full((3, 1), np.nan)}, "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(responses: int, options: dict[str, FloatArray], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_finite(make_pairs([0, 1], [1, 2], np.array([1.0, 0.0])), responses, **options)  # type: ignore[arg-type]


def test_the_temperature_is_the_factor_by_which_logits_are_too_large() -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=20_000) * 2
    labels = (random.random(20_000) < 1 / (1 + np.exp(-z))).astype(float)
    weight = np.ones(20_000)
    assert best_temperature(3 * z, labels, weight) == pytest.approx(3.0, rel=0.05)
    assert best_temperature(np.zeros(5), np.ones(5), np.ones(5)) == 1.0
    assert best_temperature(z, np.full(20_000, np.nan), weight) == 1.0
    assert math.isnan(log_loss(z, np.full(20_000, np.nan), weight))
    assert log_loss(np.zeros(2), np.array([1.0, np.nan]), np.ones(2)) == pytest.approx(math.log(2))
