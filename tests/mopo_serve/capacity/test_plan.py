"""Plans, and throughput read off what was recorded."""

import math

import numpy as np
import pytest

from mopo_serve.capacity.plan import Demand, Effort, measure, plan
from mopo_serve.capacity.throughput import CapacityError, Throughput, observed_throughput, parse_throughput
from tests.mopo_serve.capacity.test_simulation import erlang_c

TOKENS = -np.log1p(-(np.arange(2000) + 0.5) / 2000)  # exponential with mean 1, by its quantiles


def test_a_plan_is_the_smallest_number_that_erlang_allows() -> None:
    """Replicas of one slot behind the least busy first are nearly M/M/c: p99 of the whole time, c by c."""
    demand = Demand(4.0, TOKENS, 0.99, 6.0)
    found = plan(demand, Throughput((1,), (1.0,)), slots=1, effort=Effort(requests=6000, runs=4))
    assert found.meets(demand)
    before = measure(demand, Throughput((1,), (1.0,)), found.replicas - 1, 1, Effort(requests=6000, runs=4))
    assert not before.meets(demand)
    assert total_beyond(found.replicas + 1, 4.0, 6.0) < 0.01  # one more than needed is enough for the exact queue,
    assert total_beyond(found.replicas - 3, 4.0, 6.0) > 0.01  # three less are not


def total_beyond(servers: int, offered: float, t: float) -> float:
    """P(wait + service > t) in M/M/c with service rate 1 (Gross and Harris, Fundamentals of Queueing Theory, 2.3)."""
    rate = servers - offered
    wait = erlang_c(servers, offered)
    return (1 - wait) * math.exp(-t) + wait * (rate * math.exp(-t) - math.exp(-rate * t)) / (rate - 1)


def test_more_load_needs_more_and_a_single_replica_may_do() -> None:
    curve = Throughput((1, 8, 32), (100.0, 500.0, 1300.0))
    tokens = np.full(10, 64.0)
    found = [
        plan(Demand(rate, tokens, 0.99, 3.0), curve, slots=32, effort=Effort(requests=500, runs=3)).replicas
        for rate in (1.0, 30.0, 120.0)
    ]
    assert found[0] == 1
    assert found[1] < found[2] <= 4 * found[1] + 1
    assert found[2] >= 120 * 64 / 1300


def test_what_no_number_of_replicas_gives_is_said() -> None:
    with pytest.raises(CapacityError, match="no number of replicas gives 1 s"):
        plan(Demand(1.0, np.array([200.0]), 0.99, 1.0), Throughput((1,), (100.0,)), slots=8)


def test_throughput_is_read_off_recorded_answers() -> None:
    """A replica that gives one request 10 tokens a second and two together 15; two begin at once, then 30 alone."""
    starts = np.concatenate([np.repeat(np.arange(20) * 10.0, 2), 1000 + np.arange(30) * 5.0])
    seconds = np.concatenate([np.full(40, 4.0), np.full(30, 3.0)])
    tokens = np.concatenate([np.full(40, 30.0), np.full(30, 30.0)])
    found = observed_throughput(starts, seconds, tokens)
    assert found.in_flight == (1, 2)
    assert found.tokens_per_second == pytest.approx((10.0, 15.0))


def test_too_few_answers_are_no_measurement() -> None:
    with pytest.raises(CapacityError, match="only 3 answers"):
        observed_throughput(np.zeros(3), np.ones(3), np.ones(3))


@pytest.mark.parametrize("points", [[], ["8"], ["0=5"], ["8=-1"], ["8=inf"], ["a=b"], ["8=nan"]])
def test_points_that_are_no_measurement_are_refused(points: list[str]) -> None:
    with pytest.raises(CapacityError, match="give IN_FLIGHT=TOKENS_PER_SECOND"):
        parse_throughput(points)


def test_speeds_are_linear_between_points_and_flat_behind_them() -> None:
    curve = parse_throughput(["8=500", "1=100"])
    assert curve.in_flight == (1, 8)
    assert curve.speeds(16)[[1, 4, 8, 16]].tolist() == pytest.approx([100, (100 + 400 * 3 / 7) / 4, 62.5, 31.25])
