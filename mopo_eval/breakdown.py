"""Scores by category of prompts, with intervals."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from mopo_eval.intervals import intervals
from mopo_eval.results import RunResults

MOST_CATEGORIES = 20
NO_CATEGORY = "without a category"
POOR = 0.5
"""Judge score below which an answer is counted as poor."""


class CategoryScore(NamedTuple):
    """One policy on one objective, on the prompts of one category, in judge scores."""

    category: str
    policy: str
    objective: str
    mean: float
    low: float
    """Two-sided, at the run's confidence, of this category alone; 0 and ``high`` 1 with a single prompt."""
    high: float
    n: int
    """Prompts."""
    poor: float
    """Share of the answers that the judge scored below 0.5."""


def by_category(results: RunResults) -> list[CategoryScore]:
    """The ``MOST_CATEGORIES`` categories with most prompts, each with all policies and objectives.

    None where no prompt has a category.
    """
    names = [prompt.category or NO_CATEGORY for prompt in results.prompts]
    counts = Counter(names)
    if set(counts) == {NO_CATEGORY}:
        return []
    found = []
    for category, n in counts.most_common(MOST_CATEGORIES):
        chosen = np.array([name == category for name in names])
        scores = results.table.scores[:, :, chosen]  # (P, K, n, S)
        values = scores.mean(axis=3)  # (P, K, n)
        rows = values.reshape(-1, n)
        summary = results.summary
        ends = intervals(rows, summary.confidence, conservative=summary.conservative) if n > 1 else [(0, 1)] * len(rows)
        poor = (scores < POOR).mean(axis=(2, 3))  # (P, K)
        for p, policy in enumerate(results.table.policies):
            for k, objective in enumerate(results.table.objectives):
                low, high = ends[p * len(results.table.objectives) + k]
                mean = float(values[p, k].mean())
                found.append(CategoryScore(category, policy, objective, mean, low, high, n, float(poor[p, k])))
    return found


def left_out(results: RunResults) -> int:
    """How many categories ``by_category`` leaves out."""
    return max(0, len({prompt.category or NO_CATEGORY for prompt in results.prompts}) - MOST_CATEGORIES)
