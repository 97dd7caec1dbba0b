"""Two to four policies against each other on the same prompts: differences, dominance, categories. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from dashboards.matrix import ScoreMatrix
from mopo_eval.bootstrap import resampled_means
from mopo_eval.differences import Difference, paired_differences
from mopo_eval.intervals import intervals

MOST_CATEGORIES = 12


class PairedDifference(NamedTuple):
    """One policy against the one it is compared with, on one objective."""

    policy: str
    objective: str
    difference: Difference
    """``policy`` minus the other, in judge score."""


def against(
    matrix: ScoreMatrix, base: str, others: Sequence[str], objectives: Sequence[str], confidence: float
) -> list[PairedDifference]:
    """Each of ``others`` minus ``base`` on the prompts on which all of them were judged; none with fewer than two."""
    values = matrix.complete([base, *others], list(objectives))  # (P, K, n)
    if not others or values.shape[2] < 2:
        return []
    ours = values[1:].reshape(-1, values.shape[2])
    theirs = np.tile(values[0], (len(others), 1))
    found = paired_differences(ours, theirs, confidence)
    names = [(policy, objective) for policy in others for objective in objectives]
    return [PairedDifference(*name, difference) for name, difference in zip(names, found, strict=True)]


def dominance(matrix: ScoreMatrix, policies: Sequence[str], objectives: Sequence[str]) -> dict[tuple[str, str], float]:
    """Share of resamples of the prompts in which the first of a pair is nowhere worse than the second, and differs."""
    values = matrix.complete(list(policies), list(objectives))
    if values.shape[2] < 2:
        return {}
    means = resampled_means(values.reshape(-1, values.shape[2])).reshape(-1, len(policies), len(objectives)).round(12)
    found = {}
    for a, first in enumerate(policies):
        for b, second in enumerate(policies):
            if a != b:
                no_worse = (means[:, a] >= means[:, b]).all(axis=1)
                better = (means[:, a] > means[:, b]).any(axis=1)
                found[first, second] = float((no_worse & better).mean())
    return found


def by_category(
    matrix: ScoreMatrix, categories: Mapping[str, str], policies: Sequence[str], objective: str, confidence: float
) -> pd.DataFrame:
    """Judge score per category and policy: columns label, policy, mean, low, high, n; the largest categories.

    ``categories``: by prompt id. Categories with one prompt have no interval, so they are left out.
    """
    named = np.array([categories.get(name, "") for name in matrix.prompts])
    values = np.stack([matrix.of(policy, objective) for policy in policies])  # (P, N)
    known = ~np.isnan(values).any(axis=0)
    counts = Counter(name for name in named[known] if name)
    rows = []
    for label, n in counts.most_common(MOST_CATEGORIES):
        if n < 2:
            continue
        chosen = values[:, known & (named == label)]
        for policy, each, ends in zip(policies, chosen, intervals(chosen, confidence), strict=True):
            rows.append({"label": label, "policy": policy, "mean": float(each.mean()), **ends._asdict(), "n": n})
    return pd.DataFrame(rows, columns=["label", "policy", "mean", "low", "high", "n"])
