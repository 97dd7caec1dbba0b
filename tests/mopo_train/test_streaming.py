from collections.abc import Iterator

import numpy as np
import pytest

from mopo_train.dual import solve, solve_plain, tilt
from mopo_train.errors import DataError, FloorError
from mopo_train.streaming import Chunks, solve_stream
from mopo_train.tilting import make_problem, moments, slices
from mopo_train.winrates import WinRates, from_rates
from tests.mopo_train.primal import random_rates


def chunked(rates: WinRates, prompts: int) -> Chunks:
    def chunks() -> Iterator[WinRates]:
        for begin in range(0, rates.prompts, prompts):
            end = min(begin + prompts, rates.prompts)
            rows = slice(rates.starts[begin], rates.starts[end])
            yield from_rates(
                rates.objectives,
                rates.rates[rows],
                rates.starts[begin : end + 1] - rates.starts[begin],
                labelled=rates.labelled[begin:end],
                mass=rates.mass[rows],
            )

    return chunks


@pytest.mark.parametrize("prompts", [1, 7, 1000])
def test_chunks_give_the_solution_of_the_whole(prompts: int) -> None:
    rates = random_rates(0, prompts=40, labelled=0.8, mass=True)
    floors = tilt(rates, primary="a", multipliers={"b": 1.0, "c": 0.5}, tau=0.15, epsilon=0).floors
    whole = solve(rates, primary="a", floors=floors, tau=0.15, epsilon=0)
    found = solve_stream(chunked(rates, prompts), primary="a", floors=floors, tau=0.15)
    assert found is not None
    assert found.multipliers == pytest.approx(whole.multipliers, abs=1e-8)
    assert found.predicted == pytest.approx(whole.predicted, abs=1e-9)
    assert (found.kl, found.ess) == pytest.approx((whole.kl, whole.ess))
    assert (found.prompts, found.responses) == (40, rates.responses)


def test_floors_beyond_reach_give_nothing_and_no_floors_the_plain_tilt() -> None:
    rates = random_rates(1, prompts=10)
    assert solve_stream(chunked(rates, 4), primary="a", floors={"b": 0.99, "c": 0.99}, tau=0.15) is None
    free = solve_stream(chunked(rates, 4), primary="a", floors={}, tau=0.15)
    assert free is not None
    assert free.predicted == pytest.approx(solve(rates, primary="a", floors={}, tau=0.15).predicted)


def test_what_cannot_be_solved_is_refused() -> None:
    rates = random_rates(1, prompts=4)
    with pytest.raises(DataError, match="no chunks"):
        solve_stream(lambda: iter(()), primary="a", floors={}, tau=0.15)
    with pytest.raises(FloorError, match="'speed'"):
        solve_stream(chunked(rates, 2), primary="a", floors={"speed": 0.5}, tau=0.15)
    with pytest.raises(FloorError, match="'speed'"):
        solve_stream(chunked(rates, 2), primary="speed", floors={"b": 0.5}, tau=0.15)
    silent = from_rates("ab", rates.rates[:, :2], rates.starts, labelled=np.tile([True, False], (4, 1)))
    with pytest.raises(DataError, match="need labels"):
        solve_stream(chunked(silent, 2), primary="a", floors={"b": 0.5}, tau=0.15)
    with pytest.raises(DataError, match="differ"):
        solve_stream(lambda: iter((rates, silent)), primary="a", floors={"b": 0.5}, tau=0.15)


def test_pieces_of_a_problem_hold_whole_prompts_and_sum_to_it() -> None:
    rates = random_rates(2, prompts=50, labelled=0.7)
    problem = make_problem(rates, "a", ["b", "c"], 0.2)
    parts = slices(problem, 9)
    assert sum(part.prompts for part in parts) == 50 and len(parts) > 5
    assert max(len(part.base) for part in parts) <= 9
    multipliers = np.array([0.8, 1.1])
    whole, summed = (moments(each, multipliers, curved=True) for each in ([problem], parts))
    assert summed.log_partition == pytest.approx(whole.log_partition)
    assert summed.values == pytest.approx(whole.values)
    assert summed.curvature == pytest.approx(whole.curvature)
    assert all(np.shares_memory(part.rates, problem.rates) for part in parts)


def test_a_start_changes_nothing_but_the_way() -> None:
    problem = make_problem(random_rates(3, prompts=20), "a", ["b", "c"], 0.1)
    bounds = np.array([0.55, 0.5])
    usual = solve_plain(problem, bounds)
    assert usual is not None
    for start in (np.zeros(2), np.array([5.0, 0.01])):
        assert solve_plain(problem, bounds, start) == pytest.approx(usual, abs=1e-8)
