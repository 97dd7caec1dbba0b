"""Points that spread evenly over the predicted front: which policies are worth training.

Every multiplier vector >= 0 gives a point of the front, so proposals are chosen by multipliers and their floors are
the values attained there: none is infeasible and none is slack, unlike a grid of floors. Candidates are placed by
the plain tilt (milliseconds each); only the chosen ones are solved with robust floors.
"""

import heapq
import itertools
from typing import Literal, NamedTuple

import moocore
import numpy as np

from mopo_train.dual import Solution, tilt
from mopo_train.errors import FloorError
from mopo_train.global_form import global_problem, tilt_global
from mopo_train.robust import Radius
from mopo_train.solution import check_problem
from mopo_train.tilting import Problem, make_problem, scores, tilt_scores
from mopo_train.winrates import FloatArray, WinRates, max_by_prompt

NEARLY = 0.98
"""Share of the way from its value without a floor to its largest one at which an objective's multiplier stops: beyond,
multipliers and divergence grow without visible gain."""
DISTINCT = 2e-3
"""Points closer than this in every data win rate are one point."""
NO_CONFLICT = 0.01
"""Where the nondominated candidates span less than this in every objective, floors do not bind."""
EDGE = 0.05
"""How far below the worst candidate the reference point of the hypervolume lies, in spans, so that the ends count."""
INSET = 0.5
"""Steps that the last point lies inside the end of a front of two objectives: the price is highest there."""
CURVE = 96
"""Candidates along a front of two objectives."""
LEVELS = {2: 14, 3: 7, 4: 5}
"""Values of each multiplier on the grid for fronts of three, four and five objectives; 3 for more."""
MOST_CANDIDATES = 800
MOST_OBJECTIVES = 12
"""The exact hypervolume takes exponential time in the objectives."""
EXCHANGES, MOST_EXCHANGED = 4, 16
"""Rounds of exchanges, and the number of points up to which they are worth their time."""


Normaliser = Literal["prompt", "global"]
"""Whether a density ratio averages to 1 for each prompt, as a policy's does, or over all (`global_form`)."""


class _Candidates(NamedTuple):
    multipliers: FloatArray
    """(candidates, m); the first is 0."""
    values: FloatArray
    """(candidates, 1 + m) data win rates: the primary first."""


def propose(
    rates: WinRates,
    *,
    primary: str,
    policies: int,
    tau: float,
    epsilon: Radius = None,
    normaliser: Normaliser = "prompt",
) -> list[Solution]:
    """At most ``policies`` solutions spread evenly over the predicted front, neighbours close, the primary's end first.

    Two objectives: even in the length sum sqrt(-da db) of the front, which is the arc length of a straight one and
    counts nothing where one objective is gained at no cost to the other; that is where hypervolume wants its points
    (A. Auger, J. Bader, D. Brockhoff, E. Zitzler, "Theory of the hypervolume indicator", 2009), whatever the scale of
    the objectives. The last lies half a step inside its end. More objectives: the candidates of a grid of multipliers
    that hold most hypervolume together, by greedy choice and exchanges. The first has most of the primary: against it
    people see what a floor costs. It is the one without floors, lambda = 0, unless a floor helps the primary, too.

    Fewer points come back where the front has fewer distinct ones; exactly one, lambda = 0, where the objectives
    agree so that no floor binds. With ``normaliser`` "global" the points are on the front of that form. Objectives
    without labels take no part. Raises FloorError and DataError as `solve`.
    """
    if policies < 1:
        raise FloorError(f"policies = {policies}; ask for at least one")
    counts = rates.labelled.sum(axis=0)
    others = [name for k, name in enumerate(rates.objectives) if name != primary and counts[k] > 0]
    if len(others) >= MOST_OBJECTIVES:
        raise FloorError(
            f"{len(others) + 1} objectives: points are proposed for at most {MOST_OBJECTIVES}. "
            "Leave out data that label the others, or name floors for one point."
        )
    check_problem(rates, primary, others, tau, epsilon)
    make = global_problem if normaliser == "global" else make_problem
    problem = make(rates, primary, others, tau)
    chosen = np.zeros((1, len(others)))
    if policies > 1 and others:
        tracer = _Tracer(problem, 1.0 if normaliser == "global" else float(counts[rates.column(primary)]))
        top = _largest(tracer)
        pool = _curve(tracer, top) if len(others) == 1 else _grid(tracer, top)
        chosen = _choose(pool, policies)
    places = [dict(zip(others, row.tolist(), strict=True)) for row in chosen]
    if normaliser == "global":
        return [tilt_global(rates, primary=primary, multipliers=each, tau=tau, epsilon=epsilon) for each in places]
    return [_tilted(rates, primary, each, tau, epsilon) for each in places]


def _tilted(rates: WinRates, primary: str, multipliers: dict[str, float], tau: float, epsilon: Radius) -> Solution:
    """The tilt, with smaller multipliers where a large robust radius leaves no solution for these."""
    for _ in range(20):
        try:
            return tilt(rates, primary=primary, multipliers=multipliers, tau=tau, epsilon=epsilon)
        except FloorError:
            multipliers = {name: value / 1.5 for name, value in multipliers.items()}
    return tilt(rates, primary=primary, multipliers=multipliers, tau=tau, epsilon=epsilon)


class _Tracer(NamedTuple):
    """Evaluates plain tilts of one problem."""

    problem: Problem
    labelled: float
    """Prompts labelled on the primary; 1 in the global form, which takes all responses for those of one."""

    def values(self, multipliers: FloatArray) -> FloatArray:
        """(1 + m,) data win rates of the tilt for ``multipliers`` (m,), the primary first."""
        share = tilt_scores(self.problem, scores(self.problem, multipliers)).share
        held = self.problem.rates @ share / self.problem.counts
        return np.append(self.problem.base @ share / self.labelled, held)

    def candidates(self, multipliers: FloatArray) -> _Candidates:
        """The tilts for ``multipliers`` (candidates, m)."""
        return _Candidates(multipliers, np.array([self.values(row) for row in multipliers]))


def _largest(tracer: _Tracer) -> FloatArray:
    """(m,) multiplier of each objective alone that comes `NEARLY` to its largest value; 0 for a constant one."""
    problem = tracer.problem
    m = len(problem.rates)
    best = max_by_prompt(problem.rates, problem.starts).sum(axis=1) / problem.counts
    now = tracer.values(np.zeros(m))[1:]
    top = np.zeros(m)
    for k in range(m):
        goal = now[k] + NEARLY * (best[k] - now[k])
        if best[k] - now[k] < DISTINCT:
            continue
        top[k] = problem.tau
        while top[k] < 1e4 * problem.tau and tracer.values(top[k] * np.eye(m)[k])[1 + k] < goal:
            top[k] *= 1.25
    return top


def _curve(tracer: _Tracer, top: FloatArray) -> _Candidates:
    """A fine polyline along the front of two objectives: the longest segment is halved until `CURVE` points."""
    if top[0] == 0:
        return tracer.candidates(np.zeros((1, 1)))
    places = [0.0, *(float(top[0]) * np.geomspace(1 / 32, 1, 8))]
    values = [tracer.values(np.array([place])) for place in places]
    while len(places) < CURVE:
        gap = int(np.argmax([np.linalg.norm(after - before) for before, after in itertools.pairwise(values)]))
        place = (places[gap] + places[gap + 1]) / 2
        places.insert(gap + 1, place)
        values.insert(gap + 1, tracer.values(np.array([place])))
    return _Candidates(np.array(places)[:, None], np.array(values))


def _grid(tracer: _Tracer, top: FloatArray) -> _Candidates:
    """Tilts on a product of geometric levels up to ``top``, with 0; the first is lambda = 0."""
    m = len(top)
    levels = LEVELS.get(m, 3)
    axes = [[0.0, *(value * np.geomspace(1 / 16, 1, levels - 1))] if value > 0 else [0.0] for value in top.tolist()]
    grid = np.array(list(itertools.islice(itertools.product(*axes), MOST_CANDIDATES)))
    return tracer.candidates(grid)


def _choose(pool: _Candidates, policies: int) -> FloatArray:
    """(at most ``policies``, m) multipliers of well-spread candidates in an order of short steps."""
    values, m = pool.values, pool.multipliers.shape[1]
    front = moocore.is_nondominated(values, maximise=True, keep_weakly=True)
    if front.sum() < 2 or np.ptp(values[front], axis=0).max() < NO_CONFLICT:
        return pool.multipliers[:1]
    if m == 1:
        return _even(pool, policies)
    near = ~np.array(
        [((values >= value).all(axis=1) & (values > value + DISTINCT).any(axis=1)).any() for value in values]
    )
    values, multipliers = values[near], pool.multipliers[near]
    scaled = (values - values.min(axis=0)) / np.maximum(np.ptp(values, axis=0), DISTINCT) + EDGE  # reference point: 0
    chosen = _exchanged(_greedy(scaled, values, policies), scaled, values)
    places: FloatArray = multipliers[chosen][_short_path(scaled[chosen])]
    return places


def _volume(scaled: FloatArray, rows: list[int]) -> float:
    """Hypervolume of some points above 0."""
    return float(moocore.hypervolume(scaled[rows], ref=np.zeros(scaled.shape[1]), maximise=True))


def _greedy(scaled: FloatArray, values: FloatArray, policies: int) -> list[int]:
    """The candidate with most of the primary, then those that each add most hypervolume above 0 to the ones before.

    What a candidate adds only shrinks as others join, so an old figure is a bound and few are computed anew.
    """
    chosen = [int(np.argmax(values[:, 0]))]
    now = _volume(scaled, chosen)
    bounds = [(-np.inf, i) for i in range(len(scaled))]  # a heap: largest bound first
    while bounds and len(chosen) < policies:
        _, i = heapq.heappop(bounds)
        if _distance(values[chosen], values[i]).min() < DISTINCT:
            continue
        gain = _volume(scaled, [*chosen, i]) - now
        if not bounds or gain >= -bounds[0][0]:
            chosen.append(i)
            now += gain
        else:
            heapq.heappush(bounds, (-gain, i))
    return chosen


def _exchanged(chosen: list[int], scaled: FloatArray, values: FloatArray) -> list[int]:
    """``chosen`` after exchanging points but the first while that adds hypervolume, `EXCHANGES` rounds at most."""
    chosen = list(chosen)
    held = _volume(scaled, chosen)
    for _ in range(EXCHANGES if len(chosen) <= MOST_EXCHANGED else 0):
        before = held
        for place in range(1, len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            for i in range(len(scaled)):
                if _distance(values[rest], values[i]).min() < DISTINCT:
                    continue
                joined = _volume(scaled, [*rest, i])
                if joined > held * (1 + 1e-9):
                    held, chosen[place] = joined, i
        if held <= before:
            break
    return chosen


def _even(pool: _Candidates, policies: int) -> FloatArray:
    """(at most ``policies``, 1) multipliers that part the curve evenly, in the length that `propose` describes."""
    moves = np.diff(pool.values, axis=0)
    steps = np.sqrt(np.maximum(-moves[:, 0] * moves[:, 1], 0.0))
    along = np.concatenate([[0.0], np.cumsum(steps)])
    arc = float(np.linalg.norm(moves[steps > 0], axis=1).sum())
    count = min(policies, 1 + int(arc / DISTINCT))
    places = np.arange(count) / max(count - INSET, 1) * along[-1]
    return np.asarray(np.interp(places, along, pool.multipliers[:, 0]))[:, None]


def _distance(points: FloatArray, point: FloatArray) -> FloatArray:
    """(points,) Euclidean distances to ``point``."""
    return np.asarray(np.linalg.norm(points - point, axis=1))


def _short_path(points: FloatArray) -> list[int]:
    """An order of ``points`` (n, d) that starts at the first and is short: nearest neighbour, then 2-opt."""
    path, left = [0], list(range(1, len(points)))
    while left:
        nearest = min(left, key=lambda i: float(np.linalg.norm(points[i] - points[path[-1]])))
        left.remove(nearest)
        path.append(nearest)

    def length(order: list[int]) -> float:
        return float(np.linalg.norm(np.diff(points[order], axis=0), axis=1).sum())

    improved = len(path) <= 64  # beyond, the nearest neighbour is good enough
    while improved:
        improved = False
        for i, j in itertools.combinations(range(1, len(path)), 2):
            turned = path[:i] + path[i : j + 1][::-1] + path[j + 1 :]
            if length(turned) < length(path) - 1e-12:
                path, improved = turned, True
    return path
