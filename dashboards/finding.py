"""Which prompts are worth reading: where policies differ most, and where an answer falls below a floor. Pure."""

from collections.abc import Mapping, Sequence

import numpy as np

from dashboards.matrix import FloatArray, ScoreMatrix


def spread(matrix: ScoreMatrix, policies: Sequence[str], objectives: Sequence[str]) -> FloatArray:
    """(N,) the largest difference between two of ``policies`` on any of ``objectives``; 0 where fewer were judged."""
    values = _scores(matrix, policies, objectives)
    widest = _extreme(values, np.fmax) - _extreme(values, np.fmin)  # (K, N)
    found: FloatArray = np.nan_to_num(widest).max(axis=0, initial=0.0)
    return found


def shortfall(matrix: ScoreMatrix, policies: Sequence[str], floors: Mapping[str, float]) -> FloatArray:
    """(N,) how far the worst answer of ``policies`` lies below a floor (in judge score) of its objective; 0 if none.

    A floor is kept on average, not by every answer: these are the answers that cost the average most.
    """
    found = np.zeros(len(matrix.prompts))
    for name, floor in floors.items():
        if name in matrix.objectives:
            worst = _extreme(_scores(matrix, policies, [name]), np.fmin)[0]
            found = np.maximum(found, np.nan_to_num(floor - worst))
    return found


def largest_first(prompts: Sequence[str], measure: FloatArray) -> dict[str, float]:
    """The prompts whose ``measure`` is above 0 with it, largest first, ties in their order."""
    order = np.argsort(-measure, kind="stable")
    return {prompts[place]: float(measure[place]) for place in order if measure[place] > 0}


def _scores(matrix: ScoreMatrix, policies: Sequence[str], objectives: Sequence[str]) -> FloatArray:
    """(K, P, N)."""
    rows = [[matrix.of(policy, name) for policy in policies] for name in objectives]
    return np.array(rows).reshape(len(objectives), len(policies), len(matrix.prompts))


def _extreme(values: FloatArray, choose: np.ufunc) -> FloatArray:
    """(K, N) over the policies, leaving out NaN; NaN where nothing is left."""
    if values.shape[1] == 0:
        return np.full((values.shape[0], values.shape[2]), np.nan)
    found: FloatArray = choose.reduce(values, axis=1)
    return found
