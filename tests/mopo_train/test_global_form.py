import math

import numpy as np
import pytest

from mopo_train.dual import solve
from mopo_train.errors import FloorError
from mopo_train.formulation import Formulation, propose_points, solve_floors
from mopo_train.global_form import solve_global, tilt_global
from mopo_train.winrates import from_rates
from tests.mopo_train.primal import cp, random_rates
from tests.mopo_train.test_dual import conflict


def agreeing_half() -> tuple[list[list[float]], list[int]]:
    """Two prompts in conflict, then two where one response is best on both objectives."""
    return [[1.0, 0.0], [0.0, 1.0]] * 2 + [[1.0, 1.0], [0.0, 0.0]] * 2, [0, 2, 4, 6, 8]


def test_it_meets_floors_by_weighing_prompts_which_no_policy_can() -> None:
    """Where labels agree on half of the prompts, the global ratio moves there and predicts nearly (1, 1)."""
    rates = from_rates(("a", "b"), *agreeing_half())
    found = solve_global(rates, primary="a", floors={"b": 0.95}, tau=0.05)
    assert found.feasible and found.predicted["b"] == pytest.approx(0.95, abs=1e-8)
    assert found.predicted["a"] > 0.95
    policy = solve(rates, primary="a", floors={"b": 0.7}, tau=0.05, epsilon=0)
    assert found.attained["a"] + found.attained["b"] <= 1.5 + 1e-9  # a and b share 1 where they are in conflict
    assert policy.predicted["a"] + policy.predicted["b"] <= 1.5 + 1e-9
    by_prompt = np.add.reduceat(found.ratio * rates.mass, rates.starts[:-1])
    assert by_prompt.mean() == pytest.approx(1.0)
    assert by_prompt[2:].min() > 1.5 > 0.5 > by_prompt[:2].max()


def test_a_ratio_by_hand() -> None:
    """Without floors rho is exp(w_a / tau) over its mean; two responses of four have w_a = 1."""
    found = tilt_global(conflict(2), primary="a", multipliers={}, tau=0.5)
    high = math.exp(2) / ((math.exp(2) + 1) / 2)
    assert found.ratio.tolist() == pytest.approx([high, 2 - high] * 2)


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_an_independent_solver_of_its_primal(seed: int) -> None:
    rates = random_rates(seed, mass=seed % 2 == 0)
    floors = {"b": 0.75, "c": 0.6}
    tau = 0.2
    found = solve_global(rates, primary="a", floors=floors, tau=tau)
    mass = rates.mass / rates.prompts
    share = cp.Variable(rates.responses, nonneg=True)
    values = rates.rates.T @ share
    held = [values[k] >= floors[name] for k, name in enumerate("abc") if name in floors]
    problem = cp.Problem(cp.Maximize(values[0] - tau * cp.sum(cp.rel_entr(share, mass))), [cp.sum(share) == 1, *held])
    problem.solve(solver="CLARABEL")
    assert found.predicted["a"] - tau * found.kl == pytest.approx(float(problem.value), abs=1e-6)
    assert found.ratio * mass == pytest.approx(np.asarray(share.value), abs=1e-4)


def test_one_prompt_is_normalised_alike_in_both_forms() -> None:
    rates = random_rates(3, prompts=1)
    one = solve(rates, primary="a", floors={"b": 0.6}, tau=0.2, epsilon=0)
    other = solve_global(rates, primary="a", floors={"b": 0.6}, tau=0.2)
    assert other.ratio == pytest.approx(one.ratio, abs=1e-7)
    assert other.attained == pytest.approx(other.predicted, abs=1e-9)


def test_unlabelled_prompts_count_as_parity() -> None:
    labelled = np.array([[True, True], [True, False]])
    rates = from_rates(("a", "b"), [[1.0, 0.9], [0.0, 0.1], [1.0, 0.5], [0.0, 0.5]], [0, 2, 4], labelled=labelled)
    found = tilt_global(rates, primary="a", multipliers={"b": 0.3}, tau=0.4)
    expected = np.exp((rates.rates[:, 0] + 0.3 * rates.rates[:, 1]) / 0.4)
    assert found.ratio == pytest.approx(expected / expected.mean())
    assert found.floors["b"] == pytest.approx(float((found.ratio / 4) @ rates.rates[:, 1]))


def test_the_front_of_the_global_form_is_proposed() -> None:
    rates = random_rates(1, prompts=60, objectives="ab")
    points = propose_points(rates, 5, Formulation("a", 0.15, None, "lagrangian", "global"))
    assert len(points) == 5
    for point in points:
        again = solve_global(rates, primary="a", floors=point.floors, tau=0.15)
        assert again.predicted == pytest.approx(point.predicted, abs=1e-5)
    assert points[-1].predicted["b"] > points[-1].attained["b"] + 0.05


def test_forms_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(FloorError, match="plain floors only"):
        solve_global(conflict(), primary="a", floors={"b": 0.5}, tau=0.1, epsilon=0.1)
    with pytest.raises(FloorError, match="not both"):
        solve_floors(conflict(), {"b": 0.5}, Formulation("a", 0.1, None, "log-barrier", "global"))


def test_the_barrier_is_proposed_for_the_floors_of_the_front() -> None:
    rates = random_rates(1, prompts=30, objectives="ab")
    plain = propose_points(rates, 4, Formulation("a", 0.15))
    barred = propose_points(rates, 4, Formulation("a", 0.15, None, "log-barrier"))
    for one, other in zip(plain, barred, strict=True):
        assert other.floors == one.floors
        assert other.predicted_low["b"] > one.predicted_low["b"]
        assert other.predicted == pytest.approx(one.predicted, abs=2e-2)
