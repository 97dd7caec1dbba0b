"""What one replica does per second, by the number of requests that it works on at the same time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mopo_train.errors import MopoError

FloatArray = NDArray[np.float64]
LEAST_SHARE = 0.002
"""Share of the time that a number of requests in flight must have lasted to be measured by."""


class CapacityError(MopoError):
    """A load, measurement or target with which no capacity can be planned."""


class Throughput(NamedTuple):
    """Completion tokens per second of one replica, measured at some numbers of requests in flight."""

    in_flight: tuple[int, ...]
    """Ascending, from 1 or more."""
    tokens_per_second: tuple[float, ...]
    """All requests together."""

    def speeds(self, most: int) -> FloatArray:
        """Tokens per second that *each* of b requests gets, for b = 0 (unused) to ``most``: (most + 1,).

        Linear between the measured points and through zero, flat behind the last one.
        """
        b = np.arange(most + 1)
        total = np.interp(b, (0, *self.in_flight), (0.0, *self.tokens_per_second))
        result: FloatArray = total / np.maximum(b, 1)
        return result

    @property
    def peak(self) -> float:
        """The most tokens per second at any number in flight."""
        return max(self.tokens_per_second)


def parse_throughput(points: Iterable[str]) -> Throughput:
    """``IN_FLIGHT=TOKENS_PER_SECOND`` arguments. Raises CapacityError."""
    found: dict[int, float] = {}
    for point in points:
        left, _, right = point.partition("=")
        try:
            in_flight, rate = int(left), float(right)
        except ValueError:
            in_flight, rate = 0, 0.0
        if in_flight < 1 or not 0 < rate < float("inf"):
            raise CapacityError(f"'{point}' is no measurement; give IN_FLIGHT=TOKENS_PER_SECOND, such as 8=620")
        found[in_flight] = rate
    if not found:
        raise CapacityError("no measurement was given; give IN_FLIGHT=TOKENS_PER_SECOND, such as 8=620")
    return _curve(found)


def observed_throughput(starts: FloatArray, seconds: FloatArray, tokens: FloatArray) -> Throughput:
    """The throughput of one replica, from when its answers (n,) began, how long they took, and their tokens.

    While b answers were being made, each contributed its own mean rate; T(b) is the tokens made meanwhile over the time
    that it lasted. Numbers in flight that hardly occurred are left out. Raises CapacityError for fewer than 20 answers.
    """
    if len(starts) < 20:
        raise CapacityError(
            f"only {len(starts)} answers with counted tokens are recorded; 20 are the least to plan with"
        )
    rates = tokens / np.maximum(seconds, 1e-9)
    moments = np.concatenate([starts, starts + seconds])
    order = np.argsort(moments, kind="stable")
    change = np.concatenate([np.ones(len(starts)), -np.ones(len(starts))])[order]
    rate_change = np.concatenate([rates, -rates])[order]
    lasting = np.diff(moments[order])
    busy = np.cumsum(change)[:-1].astype(int)
    rate = np.cumsum(rate_change)[:-1]
    time_at = np.bincount(busy, lasting)
    made_at = np.bincount(busy, lasting * np.maximum(rate, 0.0))
    enough = time_at[1:] >= LEAST_SHARE * time_at[1:].sum()
    return _curve({b: made_at[b] / time_at[b] for b in (np.flatnonzero(enough) + 1).tolist()})


def _curve(points: Mapping[int, float]) -> Throughput:
    known: Sequence[int] = sorted(points)
    return Throughput(tuple(known), tuple(float(points[b]) for b in known))
