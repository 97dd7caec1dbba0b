"""The losses of the policy step: what makes a policy follow the density ratio of the dual.

Everything is per prompt first: `mean_by_prompt` makes prompts count alike, however many responses or pairs they
have. Log-probabilities are of whole responses, in nats: sums over tokens, or scaled by `length_scale`.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class Pairs(NamedTuple):
    """M compared pairs of the responses of a batch."""

    first: Tensor
    """(M,) index of one response in the batch."""
    second: Tensor
    """(M,) index of the other."""


def pairwise_loss(log_ratio: Tensor, target: Tensor, pairs: Pairs) -> Tensor:
    """Per-pair squared error (h - (t_i - t_j))^2, design section 2, policy step (b).

    ``log_ratio`` (B,): log[pi_theta / pi_ref](y) in nats; h is its difference between the two responses of a pair.
    ``target`` (B,): score / tau, with `correct_differences` applied; only differences within a prompt matter, so the
    normaliser cancels. Returns (M,), 0 at the optimum; callers average.
    """
    margin = log_ratio[pairs.first] - log_ratio[pairs.second]
    wanted = target[pairs.first] - target[pairs.second]
    return (margin - wanted) ** 2


def pairwise_logistic_loss(log_ratio: Tensor, target: Tensor, pairs: Pairs) -> Tensor:
    """Per-pair 8 KL(sigmoid(t_i - t_j) || sigmoid(h)): of the choice between two responses, target against policy.

    Arguments, optimum and, near it for small differences, curvature of `pairwise_loss`: its square is 8 KL to second
    order. But where both are sure it asks for little, so a few large targets of strict floors, which no policy reaches
    in few steps, do not drown all others. With labels for targets it would be DPO's loss. Returns (M,).
    """
    margin = log_ratio[pairs.first] - log_ratio[pairs.second]
    wanted = target[pairs.first] - target[pairs.second]
    chosen = torch.sigmoid(wanted)
    lost = chosen * (logsigmoid(wanted) - logsigmoid(margin))
    return 8 * (lost + (1 - chosen) * (logsigmoid(-wanted) - logsigmoid(-margin)))


def weighted_bc_loss(log_probability: Tensor, ratio: Tensor) -> Tensor:
    """Per-response -rho(x, y) log pi_theta(y | x): arXiv 2505.10892, Eq. 7, with rho frozen.

    ``log_probability`` (B,) in nats; ``ratio`` (B,) >= 0, averaging to 1 over each prompt's responses. Returns (B,);
    callers average over samples of pi_ref.
    """
    return -ratio.detach() * log_probability


def level_loss(log_ratio: Tensor, log_target: Tensor, prompt: Tensor) -> Tensor:
    """Per-prompt (mean over its responses of log_ratio - log_target)^2, (prompts in the batch,).

    The part of the squared error that differences of responses leave free: with it, mass cannot leak from the
    responses of the data to unseen text. ``log_target`` (B,) is log rho; ``prompt`` (B,) numbers prompts from 0.
    """
    return mean_by_prompt(log_ratio - log_target, prompt) ** 2


def forward_kl(log_probability: Tensor, reference: Tensor) -> Tensor:
    """Per-sample log[pi_ref / pi_theta](y), (B,), of responses y that pi_ref wrote itself.

    Its mean estimates KL(pi_ref || pi_theta); its slope is that of supervised training on these samples. Differences
    of the data's responses leave free how much mass all of them have together; among all policies with the same
    differences this term is least where that mass is pi_ref's, so text that the data does not hold keeps its share.
    """
    return reference - log_probability


def length_scale(lengths: Tensor) -> Tensor:
    """Mean length over length, (Y,), for ``lengths`` in tokens: turns sums over tokens into means, in the old unit.

    A tilt of tau then belongs to a response of mean length; longer ones must move further in total. There is no exact
    optimum behind it, as there is behind sums: it keeps the length of a response from deciding how fast it is learned.
    """
    return lengths.double().mean() / lengths


def correct_differences(responses: int) -> float:
    """Factor (r - 1) / r for the scores of ``responses`` = r distinct responses of a prompt.

    An in-set mean label leaves the response itself out: with itself (a tie, 1/2) among the r, the win rate is
    ((r - 1) w + 1/2) / r, so differences of the labels' means are too large by r / (r - 1).
    """
    return (responses - 1) / responses


def mean_by_prompt(values: Tensor, prompt: Tensor) -> Tensor:
    """(prompts,) means of ``values`` (N,) over entries with the same ``prompt`` (N,), numbered from 0 without gaps."""
    count = int(prompt.max()) + 1
    total = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, prompt, values)
    number = torch.bincount(prompt, minlength=count)
    return total / number
