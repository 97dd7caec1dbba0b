"""The tilted policy for given multipliers: density ratio, values, divergence (design section 2).

All functions are exact on the finite responses of `WinRates`; none solves for multipliers (see `dual`).
Axes: P prompts, Y responses (contiguous per prompt), m constrained objectives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mopo_train.winrates import BoolArray, FloatArray, IntArray, WinRates, max_by_prompt, sum_by_prompt


@dataclass(frozen=True)
class Problem:
    """Primary and constrained objectives of one dual, with unlabelled prompts masked out."""

    base: FloatArray
    """(Y,) win rate on the primary; 0 where its prompt is unlabelled."""
    rates: FloatArray
    """(m, Y) win rates on the constrained objectives; 0 where the prompt is unlabelled."""
    labelled: BoolArray
    """(m, P)."""
    mass: FloatArray
    """(Y,) reference probabilities."""
    starts: IntArray
    prompt_of: IntArray
    """(Y,)."""
    tau: float

    @property
    def prompts(self) -> int:
        """P."""
        return len(self.starts) - 1

    @property
    def counts(self) -> FloatArray:
        """(m,) labelled prompts per constrained objective."""
        counts: FloatArray = self.labelled.sum(axis=1).astype(np.float64)
        return counts

    def keep(self, rows: BoolArray | IntArray) -> "Problem":
        """The same problem with some of the constrained objectives."""
        return Problem(
            self.base, self.rates[rows], self.labelled[rows], self.mass, self.starts, self.prompt_of, self.tau
        )


def make_problem(rates: WinRates, primary: str, constrained: Sequence[str], tau: float) -> Problem:
    """The dual's data in the layout that the solvers work on: objectives first, contiguous."""
    prompt_of = rates.prompt_of()
    columns = [rates.column(name) for name in constrained]
    masked = np.where(rates.labelled[prompt_of], rates.rates, 0.0).T  # (K, Y)
    return Problem(
        base=np.ascontiguousarray(masked[rates.column(primary)]),
        rates=np.ascontiguousarray(masked[columns]),
        labelled=np.ascontiguousarray(rates.labelled.T[columns]),
        mass=rates.mass,
        starts=rates.starts,
        prompt_of=prompt_of,
        tau=tau,
    )


class Tilted(NamedTuple):
    """A policy proportional to pi_ref exp(score / tau)."""

    score: FloatArray
    """(Y,) s."""
    share: FloatArray
    """(Y,) probability of the response under the tilted policy."""
    log_partition: FloatArray
    """(P,) tau log E_ref exp(s / tau)."""


def scores(problem: Problem, multipliers: FloatArray) -> FloatArray:
    """(Y,) s = w_p + sum_k u_k w_k for multipliers (m,), or (m, P) where they depend on the prompt."""
    if multipliers.ndim == 1:
        total: FloatArray = problem.base + multipliers @ problem.rates
    else:
        total = problem.base + np.einsum("ky,ky->y", multipliers[:, problem.prompt_of], problem.rates)
    return total


def tilt_scores(problem: Problem, score: FloatArray) -> Tilted:
    """The policy for given scores; stable for any score / tau."""
    top = max_by_prompt(score, problem.starts)  # (P,)
    weight = problem.mass * np.exp((score - top[problem.prompt_of]) / problem.tau)
    total = sum_by_prompt(weight, problem.starts)  # (P,)
    return Tilted(score, weight / total[problem.prompt_of], top + problem.tau * np.log(total))


def prompt_values(problem: Problem, share: FloatArray) -> FloatArray:
    """(m, P) v_k(x): expected win rate per prompt under response probabilities ``share``."""
    return sum_by_prompt(problem.rates * share, problem.starts)


def covariances(problem: Problem, share: FloatArray, values: FloatArray) -> FloatArray:
    """(P, m, m) covariance of the constrained win rates under ``share``; ``values`` are their means (m, P)."""
    m = len(problem.rates)
    result = np.empty((problem.prompts, m, m))
    for i in range(m):
        deviation = share * (problem.rates[i] - values[i][problem.prompt_of])  # centred: no cancellation
        for j in range(i + 1):
            result[:, i, j] = result[:, j, i] = sum_by_prompt(deviation * problem.rates[j], problem.starts)
    return result


class Quality(NamedTuple):
    """How far a policy moved from the reference."""

    kl: float
    """Mean over prompts of KL(policy || reference), in nats."""
    ess: float
    """Mean over prompts of the effective share of the responses, in (0, 1]."""


def quality(rates: WinRates, ratio: FloatArray) -> Quality:
    """KL and effective sample size of density ratios (Y,) that average to 1 for each prompt.

    The effective sample size of a prompt is (E rho)^2 / E rho^2 under the reference: with uniform mass over r
    responses, (sum rho)^2 / (r sum rho^2). 1 is the reference itself, 1/r one response.
    """
    share = rates.mass * ratio
    logs = np.log(np.where(ratio > 0, ratio, 1.0))
    kl = sum_by_prompt(share * logs, rates.starts).mean()
    ess = (1.0 / sum_by_prompt(share * ratio, rates.starts)).mean()
    return Quality(max(0.0, float(kl)), float(ess))


def values_by_prompt(rates: WinRates, share: FloatArray) -> FloatArray:
    """(K, P) expected win rate of every objective per prompt under response probabilities ``share`` (Y,)."""
    return sum_by_prompt(np.ascontiguousarray(rates.rates.T) * share, rates.starts)
