"""From judge scores to scorecards: means over prompts with intervals, and bounds that hold for the whole family.

The unit is the prompt: samples of one prompt are averaged before anything else, since they are not independent.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mopo_eval.bounds import lower_bound
from mopo_eval.intervals import intervals, is_binary
from mopo_eval.scorecards import Estimate, ObjectiveScore, Scorecard
from mopo_train.family import REFERENCE

FloatArray = NDArray[np.float64]


class ScoreTable(NamedTuple):
    """Judge scores of a whole evaluation."""

    policies: Sequence[str]
    objectives: Sequence[str]
    scores: FloatArray
    """(P policies, K objectives, N prompts, S samples), in [0, 1], nothing missing."""

    @property
    def values(self) -> FloatArray:
        """(P, K, N) mean over the samples of a prompt."""
        mean: FloatArray = self.scores.mean(axis=3)
        return mean

    @property
    def wins(self) -> FloatArray:
        """(P, K, N) share of pairs of samples in which the policy beats the reference, ties counted half."""
        reference = self.scores[list(self.policies).index(REFERENCE)]  # (K, N, S)
        share = np.empty(self.scores.shape[:3])
        for p, k in np.ndindex(share.shape[:2]):  # all at once would hold S times as many numbers as there are scores
            ours, theirs = self.scores[p, k, :, :, None], reference[k, :, None, :]  # (N, S, 1), (N, 1, S)
            share[p, k] = ((ours > theirs) + 0.5 * (ours == theirs)).mean(axis=(1, 2))
        return share


def bounds_certified(policies: int, objectives: int) -> int:
    """How many lower bounds an evaluation certifies: scores and win rates, but not the reference's own win rate."""
    return (2 * policies - 1) * objectives


def make_scorecards(
    table: ScoreTable,
    judges: Mapping[str, str],
    *,
    run: str,
    confidence: float,
    conservative: bool = False,
    counted: int | None = None,
) -> list[Scorecard]:
    """The scorecard of every policy; ``judges`` names the judge of each objective.

    All ``certified_low`` together hold with probability ``confidence`` (Bonferroni over ``bounds_certified``), for
    ``counted`` policies: those of the table, and those that a search on the same prompts could have put there.
    The win rate of the reference against itself is 0.5 by definition, without uncertainty.
    """
    alpha = (1 - confidence) / bounds_certified(counted or len(table.policies), len(table.objectives))
    values, wins = table.values, table.wins
    policies, objectives, n = values.shape
    scores = _estimates(values, confidence, alpha, [is_binary(values[:, k]) for k in range(objectives)], conservative)
    only_wins = [_only_wins(table, wins, k) for k in range(objectives)]
    win_rates = _estimates(wins, confidence, alpha, only_wins, conservative)
    known = Estimate(mean=0.5, low=0.5, high=0.5, certified_low=0.5, n=n)
    cards = []
    for p, policy in enumerate(table.policies):
        found = {}
        for k, objective in enumerate(table.objectives):
            rate = known if policy == REFERENCE else win_rates[p][k]
            found[objective] = ObjectiveScore(**scores[p][k].model_dump(), judge=judges[objective], win_rate=rate)
        cards.append(Scorecard(policy=policy, run=run, confidence=confidence, objectives=found))
    return cards


def _estimates(
    values: FloatArray, confidence: float, alpha: float, binary: Sequence[bool], conservative: bool
) -> list[list[Estimate]]:
    """(P, K) of ``values`` (P, K, N): mean, two-sided interval at ``confidence``, one-sided bound at level ``alpha``.

    ``binary``, (K,): whether values can only be 0 and 1. Asked of all policies: one policy's few values may hide it.
    """
    policies, objectives, n = values.shape
    ends = intervals(values.reshape(-1, n), confidence, conservative=conservative)
    found = []
    for p in range(policies):
        row = []
        for k in range(objectives):
            low, high = ends[p * objectives + k]
            certified = lower_bound(values[p, k], alpha, binary=binary[k])
            # What the stricter bound rules out, the interval need not hold: with few skewed values it may reach lower.
            mean = float(values[p, k].mean())
            row.append(Estimate(mean=mean, low=max(low, certified), high=high, certified_low=certified, n=n))
        found.append(row)
    return found


def _only_wins(table: ScoreTable, wins: FloatArray, k: int) -> bool:
    """True if no policy but the reference ever ties on objective ``k``."""
    others = [p for p, policy in enumerate(table.policies) if policy != REFERENCE]
    return is_binary(wins[others, k])
