"""The simulation against closed forms: Erlang's C for M/M/c, and processor sharing."""

import math

import numpy as np
import pytest

from mopo_serve.capacity.simulation import Load, poisson_load, simulate
from mopo_serve.capacity.throughput import Throughput

REQUESTS = 30_000


def erlang_c(servers: int, offered: float) -> float:
    """Probability that a request of M/M/c must wait (A. K. Erlang, 1917); ``offered`` = arrivals / service rate."""
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize(("servers", "offered"), [(1, 0.7), (4, 3.0), (20, 17.0)])
def test_one_replica_with_slots_of_equal_speed_is_mmc(servers: int, offered: float) -> None:
    rng = np.random.default_rng(0)
    load = poisson_load(offered, rng.exponential(1.0, REQUESTS), rng)
    found = simulate(load, Throughput((servers,), (float(servers),)), replicas=1, slots=servers)
    wait = erlang_c(servers, offered)
    assert (found.waits > 1e-9).mean() == pytest.approx(wait, rel=0.1)
    assert found.waits.mean() == pytest.approx(wait / (servers - offered), rel=0.15)
    beyond = np.quantile(found.waits, 0.95)  # P(W > t) = C exp(-(c - a) t)
    assert beyond == pytest.approx(math.log(wait / 0.05) / (servers - offered), rel=0.15)
    assert found.busy == pytest.approx(offered, rel=0.05)


def test_a_replica_whose_total_is_fixed_is_processor_sharing() -> None:
    """M/G/1-PS: an answer of x tokens takes x / (1 - load) on average, whatever the distribution of lengths."""
    rng = np.random.default_rng(1)
    tokens = rng.choice([0.5, 2.5], REQUESTS, p=[0.75, 0.25])  # mean 1
    found = simulate(poisson_load(0.6, tokens, rng), Throughput((1,), (1.0,)), replicas=1, slots=REQUESTS)
    counted = tokens[-len(found.totals) :]
    for x in (0.5, 2.5):
        assert found.totals[counted == x].mean() == pytest.approx(x / 0.4, rel=0.08)
    assert found.waits.max() == 0


def test_the_least_busy_replica_is_next_and_others_wait_in_order() -> None:
    """Two replicas with one slot, one token a second; by hand."""
    load = Load(np.array([0.0, 1.0, 0.0, 1.0]), np.array([4.0, 2.0, 1.0, 1.0]))
    found = simulate(load, Throughput((1,), (1.0,)), replicas=2, slots=1)
    # at 0: first (until 4). at 1: second on the other (until 3), third behind the first (one each, smaller number),
    # at 2: fourth behind the second.
    assert found.waits.tolist() == [0.0, 0.0, 3.0, 1.0]
    assert found.totals.tolist() == [4.0, 2.0, 4.0, 2.0]


def test_speed_falls_with_the_number_in_flight() -> None:
    """One alone: 2 tokens a second; two together: 1.5 each."""
    load = Load(np.array([0.0, 1.0]), np.array([3.5, 3.0]))
    found = simulate(load, Throughput((1, 2), (2.0, 3.0)), replicas=1, slots=2)
    # the first has 2 tokens when the second comes, its other 1.5 take 1 s; the second then has 1.5 left at 2 a second
    assert found.totals.tolist() == [2.0, 1.75]


def test_four_replicas_behind_one_queue_discipline_beat_four_random_ones() -> None:
    rng = np.random.default_rng(2)
    load = poisson_load(3.2, rng.exponential(1.0, REQUESTS), rng)
    found = simulate(load, Throughput((1,), (1.0,)), replicas=4, slots=1)
    assert erlang_c(4, 3.2) / 0.8 < found.waits.mean() < 0.8 / 0.2  # between M/M/4 and four M/M/1
