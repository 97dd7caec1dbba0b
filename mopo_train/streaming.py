"""The exact plain dual for data that do not fit in memory: chunks of prompts, read again for every evaluation.

Memory is that of one chunk and of a few numbers per objective. Plain floors only: the robust ones need a number per
prompt and objective (use `dual.solve`, whose own evaluations are chunked too).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from mopo_train.errors import DataError
from mopo_train.family import check_floors
from mopo_train.newton import Totals, minimise
from mopo_train.tilting import Moments, Problem, make_problem, moments, quality, scores, tilt_scores
from mopo_train.winrates import UNLABELLED_RATE, FloatArray, WinRates

Chunks = Callable[[], Iterable[WinRates]]
"""Gives all prompts anew, in chunks that each hold whole prompts and fit in memory."""


class StreamSolution(NamedTuple):
    """`dual.Solution` without what has a number per response."""

    multipliers: dict[str, float]
    predicted: dict[str, float]
    """Plain mean over the labelled prompts, for every objective."""
    kl: float
    ess: float
    prompts: int
    responses: int


def solve_stream(chunks: Chunks, *, primary: str, floors: Mapping[str, float], tau: float) -> StreamSolution | None:
    """As `dual.solve` at epsilon 0; None where no policy meets the floors.

    The first chunk alone is solved to start from, so that few passes over all of them are needed. Raises DataError
    for no data and for objectives without labels, FloorError for floors that cannot be.
    """
    names = list(floors)
    counts, objectives = _counted(chunks)
    check_floors(dict(floors) | {primary: 0.0}, list(objectives))
    seen = np.array([counts.labelled[objectives.index(name)] for name in (primary, *names)])
    if (seen == 0).any():
        raise DataError("the primary and every objective with a floor need labels; some have none in these chunks")
    bounds = np.array(list(floors.values()), dtype=np.float64)
    totals = Totals(counts.prompts, seen[1:].astype(np.float64))

    def problems() -> Iterable[Problem]:
        return (make_problem(chunk, primary, names, tau) for chunk in chunks())

    def evaluate(multipliers: FloatArray, curved: bool) -> Moments:
        return moments(problems(), multipliers, curved=curved)

    if not names:
        return _described(chunks, primary, {}, tau)
    first = next(iter(problems()))
    start = None
    if (first.counts > 0).all():
        sample = Totals(first.prompts, first.counts)
        start = minimise(lambda lam, curved: moments([first], lam, curved=curved), bounds, sample)
    found = minimise(evaluate, bounds, totals, start)
    return None if found is None else _described(chunks, primary, dict(zip(names, found.tolist(), strict=True)), tau)


class _Counts(NamedTuple):
    prompts: int
    labelled: FloatArray
    """(K,)"""


def _counted(chunks: Chunks) -> tuple[_Counts, tuple[str, ...]]:
    prompts, labelled = 0, np.zeros(0)
    objectives: tuple[str, ...] = ()
    for chunk in chunks():
        if objectives and chunk.objectives != objectives:
            raise DataError(f"chunks differ in their objectives: {objectives} and {chunk.objectives}")
        objectives = chunk.objectives
        labelled = chunk.labelled.sum(axis=0) + (labelled if prompts else 0)
        prompts += chunk.prompts
    if not prompts:
        raise DataError("no chunks: the data hold no prompts")
    return _Counts(prompts, labelled), objectives


def _described(chunks: Chunks, primary: str, multipliers: dict[str, float], tau: float) -> StreamSolution:
    prompts = responses = 0
    kl = ess = 0.0
    won, labelled = np.zeros(0), np.zeros(0)
    names: tuple[str, ...] = ()
    weights = np.array(list(multipliers.values()))
    for chunk in chunks():
        problem = make_problem(chunk, primary, list(multipliers), tau)
        share = tilt_scores(problem, scores(problem, weights)).share
        held = np.where(chunk.labelled[chunk.prompt_of()], chunk.rates, 0.0)
        first = not prompts
        won = share @ held + (0 if first else won)
        labelled = chunk.labelled.sum(axis=0) + (0 if first else labelled)
        moved = quality(chunk, share / chunk.mass)
        kl, ess = kl + moved.kl * chunk.prompts, ess + moved.ess * chunk.prompts
        prompts, responses, names = prompts + chunk.prompts, responses + chunk.responses, chunk.objectives
    means = np.where(labelled > 0, won / np.maximum(labelled, 1), UNLABELLED_RATE)
    predicted = dict(zip(names, means.tolist(), strict=True))
    return StreamSolution(multipliers, predicted, kl / prompts, ess / prompts, prompts, responses)
