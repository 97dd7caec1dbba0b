"""The tilted policy for given multipliers: density ratio, values, divergence (design section 2).

All functions are exact on the finite responses of `WinRates`; none solves for multipliers (see `dual`).
Axes: P prompts, Y responses (contiguous per prompt), m constrained objectives.
"""

import itertools
from collections.abc import Iterable, Sequence
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


CHUNK = 2**17
"""Responses that are worked on at a time where only sums are wanted: what fits a cache and bounds the memory."""


class Moments(NamedTuple):
    """Sums over prompts of what the dual and its derivatives are made of."""

    log_partition: float
    """Of tau log E_ref exp(s / tau)."""
    values: FloatArray
    """(m,) of v_k(x)."""
    curvature: FloatArray
    """(m, m) of the covariance of the win rates under the policy, divided by tau; 0 where it was not asked for."""


def slices(problem: Problem, size: int = CHUNK) -> list[Problem]:
    """The same problem in pieces of whole prompts with about ``size`` responses; views, not copies, of the rates."""
    cuts = [0]
    while cuts[-1] < problem.prompts:
        end = int(np.searchsorted(problem.starts, problem.starts[cuts[-1]] + size, side="right")) - 1
        cuts.append(min(problem.prompts, max(end, cuts[-1] + 1)))
    return [problem] if len(cuts) == 2 else [_piece(problem, a, b) for a, b in itertools.pairwise(cuts)]


def _piece(problem: Problem, begin: int, end: int) -> Problem:
    rows = slice(int(problem.starts[begin]), int(problem.starts[end]))
    return Problem(
        base=problem.base[rows],
        rates=problem.rates[:, rows],
        labelled=problem.labelled[:, begin:end],
        mass=problem.mass[rows],
        starts=problem.starts[begin : end + 1] - problem.starts[begin],
        prompt_of=problem.prompt_of[rows] - begin,
        tau=problem.tau,
    )


def moments(parts: Iterable[Problem], multipliers: FloatArray, *, curved: bool) -> Moments:
    """Sums over all prompts of ``parts`` at ``multipliers`` (m,), with the curvature where ``curved``."""
    m = len(multipliers)
    log_partition, values, curvature = 0.0, np.zeros(m), np.zeros((m, m))
    for part in parts:
        tilted = tilt_scores(part, scores(part, multipliers))
        means = prompt_values(part, tilted.share)  # (m, prompts)
        log_partition += float(tilted.log_partition.sum())
        values += means.sum(axis=1)
        if curved:
            centred = part.rates - means[:, part.prompt_of]  # centred: no cancellation
            curvature += (centred * tilted.share) @ centred.T / part.tau
    return Moments(log_partition, values, curvature)


class Quality(NamedTuple):
    """How far a policy moved from the reference."""

    kl: float
    """Mean over prompts of KL(policy || reference), in nats."""
    ess: float
    """Mean over prompts of the effective share of the responses, in (0, 1]."""


def quality(rates: WinRates, ratio: FloatArray) -> Quality:
    """KL and effective sample size of density ratios (Y,) that average to 1 for each prompt, or over all.

    The effective sample size of a prompt is (E rho)^2 / E rho^2 under the reference: with uniform mass over r
    responses, (sum rho)^2 / (r sum rho^2). 1 is the reference itself, 1/r one response.
    """
    share = rates.mass * ratio
    logs = np.log(np.where(ratio > 0, ratio, 1.0))
    kl = sum_by_prompt(share * logs, rates.starts).mean()
    total, squares = sum_by_prompt(share, rates.starts), sum_by_prompt(share * ratio, rates.starts)
    ess = (total**2 / np.maximum(squares, 1e-300)).mean()
    return Quality(max(0.0, float(kl)), float(ess))


def values_by_prompt(rates: WinRates, share: FloatArray) -> FloatArray:
    """(K, P) expected win rate of every objective per prompt under response probabilities ``share`` (Y,)."""
    return sum_by_prompt(np.ascontiguousarray(rates.rates.T) * share, rates.starts)
