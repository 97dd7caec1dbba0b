"""The losses of the policy step against hand arithmetic, and their minimisers against the exact tilt."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from mopo_train.dual import tilt
from mopo_train.policy.followed import make_target
from mopo_train.policy.losses import (
    Pairs,
    forward_kl,
    length_scale,
    level_loss,
    mean_by_prompt,
    pairwise_logistic_loss,
    pairwise_loss,
    weighted_bc_loss,
)
from mopo_train.winrates import from_rates

ONE_PAIR = Pairs(torch.tensor([0]), torch.tensor([1]))


def test_pairwise_loss_and_slope_of_a_policy_equal_to_its_reference() -> None:
    log_ratio = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss = pairwise_loss(log_ratio, torch.tensor([3.0, 1.0], dtype=torch.float64), ONE_PAIR)
    (slope,) = torch.autograd.grad(loss.sum(), log_ratio)
    assert loss.tolist() == [4.0]  # (0 - 2)^2
    assert slope.tolist() == [-4.0, 4.0]  # 2 (0 - 2), raised for the better, lowered for the worse


def test_pairwise_loss_sees_only_differences() -> None:
    log_ratio, target = torch.tensor([1.5, -0.5]), torch.tensor([7.0, 5.0])
    assert pairwise_loss(log_ratio, target, ONE_PAIR).tolist() == [0.0]


def test_the_logistic_loss_is_the_squared_one_for_small_differences_and_grows_linearly_for_large_ones() -> None:
    small, none = torch.tensor([0.02, 0.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    assert pairwise_logistic_loss(small, none, ONE_PAIR).tolist() == pytest.approx([0.02**2], rel=1e-3)
    assert pairwise_logistic_loss(none, small, ONE_PAIR).tolist() == pytest.approx([0.02**2], rel=1e-3)
    wrong = [torch.tensor([-h, 0.0], dtype=torch.float64) for h in (30.0, 31.0)]
    sure = torch.tensor([40.0, 0.0], dtype=torch.float64)
    losses = [float(pairwise_logistic_loss(log_ratio, sure, ONE_PAIR)) for log_ratio in wrong]
    assert losses[1] - losses[0] == pytest.approx(8)
    assert pairwise_logistic_loss(sure, sure + 2, ONE_PAIR).tolist() == [0.0]


def test_weighted_bc_loss_and_slope() -> None:
    log_probability = torch.tensor([-2.0, -1.0, -4.0], dtype=torch.float64, requires_grad=True)
    ratio = torch.tensor([0.5, 2.5, 0.0], dtype=torch.float64, requires_grad=True)
    loss = weighted_bc_loss(log_probability, ratio)
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert loss.tolist() == [1.0, 2.5, 0.0]
    assert log_probability.grad is not None
    assert log_probability.grad.tolist() == [-0.5, -2.5, 0.0]
    assert ratio.grad is None  # frozen in the step


def test_level_loss_is_the_squared_mean_deviation_of_a_prompt() -> None:
    prompt = torch.tensor([0, 0, 1])
    log_ratio, wanted = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 1.0, 1.0])
    assert level_loss(log_ratio, wanted, prompt).tolist() == [1.0, 4.0]


def test_prompts_count_alike_however_many_values_they_have() -> None:
    means = mean_by_prompt(torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 0, 1]))
    assert means.tolist() == [2.0, 10.0]


def test_the_target_is_corrected_for_labels_that_leave_the_response_itself_out() -> None:
    """Three responses with in-set means 1, 1/2, 0: with itself (a tie) among three they are 5/6, 1/2, 1/6."""
    rates = from_rates(("help", "safe"), [[1.0, 0.5], [0.5, 0.5], [0.0, 0.5]], [0, 3])
    point = tilt(rates, primary="help", multipliers={"safe": 0.0}, tau=0.25, epsilon=0)
    target = make_target(point.ratio, point.score, 0.25, rates)
    wins = np.array([5 / 6, 1 / 2, 1 / 6])
    assert (target.tilt - target.tilt[1]).tolist() == pytest.approx(((wins - 1 / 2) / 0.25).tolist())
    expected = np.exp(wins / 0.25) / np.exp(wins / 0.25).mean()
    assert np.exp(target.level).tolist() == pytest.approx(expected.tolist())


def test_length_normalised_sums_are_means_over_tokens_in_the_unit_of_a_response_of_mean_length() -> None:
    sums, lengths = torch.tensor([-6.0, -6.0, -6.0]), torch.tensor([2, 4, 6])
    assert (length_scale(lengths) * sums).tolist() == pytest.approx([-12.0, -6.0, -4.0])


def minimise(start: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    free = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([free], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, history_size=50)

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(free)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return free.detach()


PROMPTS, SEEN = 3, 4


class Tabular:
    """Three prompts, four responses each that the data holds, and a last one that it does not; softmax parameters."""

    def __init__(self, unseen: float) -> None:
        generator = np.random.default_rng(0)
        self.rates = from_rates(
            ("help", "safe"), generator.uniform(size=(PROMPTS * SEEN, 2)), np.arange(0, PROMPTS * SEEN + 1, SEEN)
        )
        self.point = tilt(self.rates, primary="help", multipliers={"safe": 0.7}, tau=0.2, epsilon=0)
        self.tau = 0.2
        seen = torch.full((PROMPTS, SEEN), math.log((1 - unseen) / SEEN), dtype=torch.float64)
        last = torch.full((PROMPTS, 1), math.log(unseen) if unseen else -math.inf, dtype=torch.float64)
        self.reference = torch.cat([seen, last], dim=1) if unseen else seen
        self.prompt = torch.arange(PROMPTS).repeat_interleave(SEEN)
        left, right = torch.triu_indices(SEEN, SEEN, offset=1)
        offsets = torch.arange(PROMPTS).repeat_interleave(len(left)) * SEEN
        self.pairs = Pairs(left.repeat(PROMPTS) + offsets, right.repeat(PROMPTS) + offsets)

    def log_probability(self, logits: Tensor) -> Tensor:
        """(responses of the data,) log pi_theta."""
        return torch.log_softmax(logits, dim=1)[:, :SEEN].flatten()

    def log_ratio(self, logits: Tensor) -> Tensor:
        return self.log_probability(logits) - self.reference[:, :SEEN].flatten()


def test_weighted_bc_recovers_the_ratio_exactly() -> None:
    world = Tabular(unseen=0.0)
    ratio = torch.from_numpy(world.point.ratio)
    found = minimise(
        world.reference,
        lambda logits: mean_by_prompt(weighted_bc_loss(world.log_probability(logits), ratio), world.prompt).mean(),
    )
    assert world.log_ratio(found).exp().tolist() == pytest.approx(ratio.tolist(), abs=1e-6)


@pytest.mark.parametrize("loss", [pairwise_loss, pairwise_logistic_loss])
def test_pairwise_recovers_the_ratio_up_to_the_mass_of_unseen_text(loss: Callable[..., Tensor]) -> None:
    world = Tabular(unseen=0.3)
    wanted = torch.from_numpy(world.point.score / world.tau)  # uncorrected: these win rates are the population's
    found = minimise(
        world.reference + torch.linspace(-1, 1, SEEN + 1, dtype=torch.float64),
        lambda logits: loss(world.log_ratio(logits), wanted, world.pairs).mean(),
    )
    ratio = world.log_ratio(found).exp().view(PROMPTS, SEEN)
    exact = torch.from_numpy(world.point.ratio).view(PROMPTS, SEEN)
    assert (ratio / ratio.mean(dim=1, keepdim=True)).flatten().tolist() == pytest.approx(
        exact.flatten().tolist(), abs=1e-6
    )
    assert (ratio.mean(dim=1) - 1).abs().min() > 0.01  # differences alone leave the level where it started


def test_the_level_term_holds_the_mass_of_unseen_text() -> None:
    world = Tabular(unseen=0.3)
    wanted = torch.from_numpy(world.point.score / world.tau)
    level = torch.log(torch.from_numpy(world.point.ratio))

    def loss(logits: Tensor) -> Tensor:
        ratio = world.log_ratio(logits)
        return pairwise_loss(ratio, wanted, world.pairs).mean() + 0.1 * level_loss(ratio, level, world.prompt).mean()

    found = minimise(world.reference + torch.linspace(-1, 1, SEEN + 1, dtype=torch.float64), loss)
    assert world.log_ratio(found).exp().tolist() == pytest.approx(world.point.ratio.tolist(), abs=1e-5)
    unseen = torch.softmax(found, dim=1)[:, SEEN]
    assert unseen.tolist() == pytest.approx([0.3] * PROMPTS, abs=1e-5)


def test_the_references_own_samples_hold_the_mass_of_unseen_text_without_moving_the_differences() -> None:
    """Every response in proportion to its probability is what infinitely many own samples are."""
    world = Tabular(unseen=0.3)
    wanted = torch.from_numpy(world.point.score / world.tau)
    weight = world.reference.exp() / PROMPTS

    def loss(logits: Tensor) -> Tensor:
        divergence = (weight * forward_kl(torch.log_softmax(logits, dim=1), world.reference)).sum()
        return pairwise_loss(world.log_ratio(logits), wanted, world.pairs).mean() + 1e-2 * divergence

    found = minimise(world.reference + torch.linspace(-1, 1, SEEN + 1, dtype=torch.float64), loss)
    assert torch.softmax(found, dim=1)[:, SEEN].tolist() == pytest.approx([0.3] * PROMPTS, abs=5e-3)
    assert world.log_ratio(found).exp().tolist() == pytest.approx(world.point.ratio.tolist(), abs=2e-2)
