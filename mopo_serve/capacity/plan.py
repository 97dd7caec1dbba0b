"""How many replicas: the smallest number whose simulated quantile is below the target, with an interval."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from mopo_serve.capacity.simulation import Outcome, poisson_load, simulate
from mopo_serve.capacity.throughput import CapacityError, FloatArray, Throughput

LARGEST = 100_000
"""Replicas beyond which nobody believes a plan."""


class Demand(NamedTuple):
    """What is asked for."""

    rate: float
    """Requests per second."""
    tokens: FloatArray
    """Answers' lengths to draw from, in tokens."""
    quantile: float
    seconds: float
    """The ``quantile`` of the time to the whole answer must not be longer."""


class Effort(NamedTuple):
    """How long to simulate."""

    requests: int = 4000
    """Per run; more where so many are in flight that these would not fill the system."""
    runs: int = 5
    seed: int = 0


class Point(NamedTuple):
    """What one number of replicas gives; ``low`` and ``high``: 95 % interval over the runs."""

    replicas: int
    seconds: float
    """The quantile that was asked for."""
    low: float
    high: float
    median: float
    waiting: float
    """The same quantile of the time before a replica begins."""
    in_flight: float
    """Mean requests that a replica works on."""

    def meets(self, demand: Demand) -> bool:
        """True if even the interval's upper end is short enough."""
        return self.high <= demand.seconds


def measure(demand: Demand, throughput: Throughput, replicas: int, slots: int, effort: Effort) -> Point:
    """Simulate ``replicas``; runs differ by seed, and the same seeds are used for every number of replicas."""
    alone = float(demand.tokens.mean()) / throughput.speeds(1)[1]
    requests = max(effort.requests, math.ceil(10 * demand.rate * alone))
    outcomes: list[Outcome] = []
    for run in range(effort.runs):
        rng = np.random.default_rng([effort.seed, run])
        load = poisson_load(demand.rate, rng.choice(demand.tokens, requests), rng)
        outcomes.append(simulate(load, throughput, replicas=replicas, slots=slots))
    found = np.array([np.quantile(outcome.totals, demand.quantile) for outcome in outcomes])
    reach = float(stats.t.ppf(0.975, effort.runs - 1) * stats.sem(found))
    return Point(
        replicas,
        float(found.mean()),
        float(found.mean()) - reach,
        float(found.mean()) + reach,
        float(np.mean([np.median(outcome.totals) for outcome in outcomes])),
        float(np.mean([np.quantile(outcome.waits, demand.quantile) for outcome in outcomes])),
        float(np.mean([outcome.busy for outcome in outcomes])),
    )


def plan(
    demand: Demand,
    throughput: Throughput,
    *,
    slots: int,
    effort: Effort = Effort(),  # noqa: B008 - immutable
    tell: Callable[[Point], None] = lambda point: None,
) -> Point:
    """The fewest replicas that meet ``demand``. Raises CapacityError where no number does."""
    fastest = float(np.max(throughput.speeds(max(throughput.in_flight))[1:]))
    alone = float(np.quantile(demand.tokens, demand.quantile)) / fastest
    if alone > demand.seconds:
        raise CapacityError(
            f"a replica without other work needs {alone:.3g} s for an answer of that quantile's length; no number of "
            f"replicas gives {demand.seconds:g} s. Ask for more time, limit max_tokens, or take a faster engine."
        )
    few = max(1, math.ceil(demand.rate * float(demand.tokens.mean()) / throughput.peak))  # fewer never keep up

    def tried(replicas: int) -> Point:
        point = measure(demand, throughput, replicas, slots, effort)
        tell(point)
        return point

    best = tried(few)
    if best.meets(demand):
        return best
    many = few
    while not best.meets(demand):
        few, many = many, max(many + 1, math.ceil(many * 1.25))
        if many > LARGEST:
            raise CapacityError(f"more than {LARGEST} replicas would be needed; ask for more time or less load")
        best = tried(many)
    while many - few > 1:
        middle = (few + many) // 2
        point = tried(middle)
        if point.meets(demand):
            many, best = middle, point
        else:
            few = middle
    return best
