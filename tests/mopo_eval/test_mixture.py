"""The mixture's program against an independent solver (cvxpy) and against arithmetic."""

from typing import Any

import cvxpy
import numpy as np
import pytest

from mopo_eval.mixture import best_mixture, draw, unit_interval

PRIMARY = {"bold": 0.9, "even": 0.7, "safe": 0.5}
SAFETY = {"bold": 0.5, "even": 0.75, "safe": 0.9}


def test_a_floor_between_two_policies_is_met_by_the_share_that_just_holds_it() -> None:
    # bold-even gives .8 of helpfulness at safety .625, on or above bold-safe's .9 - .4 * .125 / .4 = .775
    assert best_mixture(PRIMARY, {"safety": SAFETY}, {"safety": 0.625}) == pytest.approx({"bold": 0.5, "even": 0.5})


def test_without_floors_the_best_policy_takes_it_all() -> None:
    assert best_mixture(PRIMARY, {}, {}) == {"bold": 1.0}


@pytest.mark.parametrize(("floor", "found"), [(0.9, {"safe": 1.0}), (0.91, None), (0.5, {"bold": 1.0})])
def test_a_floor_at_the_edge(floor: float, found: dict[str, float] | None) -> None:
    assert best_mixture(PRIMARY, {"safety": SAFETY}, {"safety": floor}) == (found and pytest.approx(found))


def test_nobody_is_mixed_into_nothing() -> None:
    assert best_mixture({}, {"safety": {}}, {"safety": 0.1}) is None


@pytest.mark.parametrize("seed", range(8))
def test_value_and_floors_agree_with_an_independent_solver(seed: int) -> None:
    random = np.random.default_rng(seed)
    policies = [f"p{index}" for index in range(6)]
    means, table = random.random(6), random.random((3, 6))
    floors = dict(zip("abc", table.max(axis=1) * random.uniform(0.5, 1.0, 3), strict=True))
    bounds = {name: dict(zip(policies, row, strict=True)) for name, row in zip("abc", table, strict=True)}
    share: Any = cvxpy.Variable(6, nonneg=True)
    solver: Any = cvxpy
    limits = [solver.sum(share) == 1, table @ share >= np.array(list(floors.values()))]
    truth = solver.Problem(solver.Maximize(means @ share), limits)
    truth.solve(solver="CLARABEL")
    found = best_mixture(dict(zip(policies, means, strict=True)), bounds, floors)
    if truth.status == "infeasible":
        assert found is None
        return
    assert found is not None
    shares = np.array([found.get(policy, 0.0) for policy in policies])
    assert shares.sum() == pytest.approx(1)
    assert means @ shares == pytest.approx(truth.value, abs=1e-6)
    assert (table @ shares >= np.array(list(floors.values())) - 1e-6).all()
    assert len(found) <= len(floors) + 1


def test_a_conversation_keeps_its_policy_and_conversations_follow_the_shares() -> None:
    weights = {"bold": 0.2, "even": 0.5, "safe": 0.3}
    drawn = [draw(weights, f"conversation {number}", "family") for number in range(4000)]
    assert drawn == [draw(weights, f"conversation {number}", "family") for number in range(4000)]
    for policy, share in weights.items():  # 4 standard errors
        assert drawn.count(policy) / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)
    other = [draw(weights, f"conversation {number}", "another family") for number in range(100)]
    assert other != drawn[:100]


def test_any_text_has_a_place() -> None:
    assert 0 <= unit_interval("\ud800", "x" * 100) < 1
    assert draw({"only": 1.0}, "", "") == "only"
