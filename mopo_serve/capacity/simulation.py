"""The simulation: requests that arrive at random, replicas that share their throughput, the least busy one next.

A replica works on at most ``slots`` requests at the same time (vLLM's ``--max-num-seqs``), each at the same speed,
which depends on how many there are; others wait in order. With a speed that does not depend on it this is M/G/c, and
with a total that does not depend on it processor sharing.
"""

import heapq
from collections import deque
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import simpy

from mopo_serve.capacity.throughput import FloatArray, Throughput

WARM_UP = 0.2
"""Share of the requests, at the beginning, that are not counted: the system starts empty."""


class Load(NamedTuple):
    """Requests of one run."""

    gaps: FloatArray
    """Seconds before each request (n,)."""
    tokens: FloatArray
    """Of each answer (n,)."""


class Outcome(NamedTuple):
    """How requests went, without those of the warm-up."""

    waits: FloatArray
    """Seconds before a replica began to work on each."""
    totals: FloatArray
    """Seconds until each had its answer."""
    busy: float
    """Mean number of requests that a replica worked on."""


class Replica:
    """One engine: a set of requests that are served at the same speed, and those that wait for a slot."""

    def __init__(self, world: "World", place: int) -> None:
        self._world, self.place = world, place
        self._served = 0.0
        """Tokens that a request would have got that was there from the beginning."""
        self._active: list[tuple[float, int]] = []  # (served when done, request)
        self._waiting: deque[int] = deque()
        self._at = 0.0
        self._plan = 0
        self.busy_seconds = 0.0

    @property
    def outstanding(self) -> int:
        """Requests that are here."""
        return len(self._active) + len(self._waiting)

    def take(self, request: int) -> None:
        """Serve ``request``, now or later."""
        self._advance()
        if len(self._active) < self._world.slots:
            self._begin(request)
        else:
            self._waiting.append(request)
        self._schedule()

    def _begin(self, request: int) -> None:
        self._world.began[request] = self._world.env.now
        heapq.heappush(self._active, (self._served + self._world.load.tokens[request], request))

    def _advance(self) -> None:
        now, active = self._world.env.now, len(self._active)
        self._served += (now - self._at) * self._world.speeds[active]
        self.busy_seconds += (now - self._at) * active
        self._at = now

    def _schedule(self) -> None:
        """Come back when the next answer is done; an earlier plan is void."""
        self._plan += 1
        if self._active:
            left = max(0.0, self._active[0][0] - self._served) / self._world.speeds[len(self._active)]
            self._world.env.timeout(left, self._plan).callbacks.append(self._due)

    def _due(self, event: Any) -> None:
        if event.value != self._plan:
            return
        self._advance()
        _, request = heapq.heappop(self._active)
        self._world.done[request] = self._world.env.now
        if self._waiting:
            self._begin(self._waiting.popleft())
        self._schedule()
        self._world.offer(self)


class World:
    """One run."""

    def __init__(self, load: Load, throughput: Throughput, replicas: int, slots: int) -> None:
        self.env = simpy.Environment()
        self.load, self.slots = load, slots
        self.speeds = throughput.speeds(min(slots, len(load.gaps))).tolist()
        self.came, self.began, self.done = (np.zeros(len(load.gaps)) for _ in range(3))
        self.replicas = [Replica(self, place) for place in range(replicas)]
        self._ranking = [(0, place) for place in range(replicas)]
        """A heap of (outstanding, replica); entries that are no longer true are dropped when they come up."""

    def offer(self, replica: Replica) -> None:
        """Rank ``replica`` by what it has now."""
        heapq.heappush(self._ranking, (replica.outstanding, replica.place))

    def run(self) -> None:
        """Until the last answer."""
        self.env.process(self._arrive())
        self.env.run()

    def _arrive(self) -> Generator[simpy.Event, Any, None]:
        for request, gap in enumerate(self.load.gaps.tolist()):
            yield self.env.timeout(gap)
            self.came[request] = self.env.now
            replica = self._least_busy()
            replica.take(request)
            self.offer(replica)

    def _least_busy(self) -> Replica:
        while True:
            outstanding, place = self._ranking[0]
            if self.replicas[place].outstanding == outstanding:
                return self.replicas[place]
            heapq.heappop(self._ranking)


def poisson_load(rate: float, tokens: FloatArray, rng: np.random.Generator) -> Load:
    """Requests at ``rate`` per second, at times that do not depend on each other, for answers of ``tokens`` (n,)."""
    return Load(rng.exponential(1 / rate, len(tokens)), tokens)


def simulate(load: Load, throughput: Throughput, *, replicas: int, slots: int) -> Outcome:
    """Serve ``load`` with ``replicas`` engines, each with ``slots``."""
    world = World(load, throughput, replicas, slots)
    world.run()
    counted = slice(int(WARM_UP * len(load.gaps)), None)
    span = float(world.env.now)
    busy = sum(replica.busy_seconds for replica in world.replicas) / (replicas * span)
    return Outcome((world.began - world.came)[counted], (world.done - world.came)[counted], busy)
