"""Algorithm 1 on a finite response set: its fixed points have closed forms."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mopo_train.dual import Solution, solve
from mopo_train.policy.followed import Followed, Refresh, make_target
from mopo_train.policy.lagged import Lag, lagged_step, next_floors, reference_values, reweighted
from mopo_train.winrates import FloatArray, WinRates, from_rates

TAU, T0 = 0.4, 10
RATES = from_rates(("help", "safe"), np.random.default_rng(5).uniform(size=(12, 2)), [0, 3, 7, 12])
SHARES = np.repeat([1 / 3, 1 / 4, 1 / 5], [3, 4, 5])


def solving(rates: WinRates, floors: Mapping[str, float]) -> Solution:
    return solve(rates, primary="help", floors=floors, tau=TAU, epsilon=0)


def normalised(weight: FloatArray) -> FloatArray:
    """(Y,) probabilities per prompt."""
    share: FloatArray = weight / np.repeat(np.add.reduceat(weight, RATES.starts[:-1]), np.diff(RATES.starts))
    return share


def segments(work: Path, lag: Lag, floors: Mapping[str, float], count: int) -> list[tuple[Followed, FloatArray]]:
    """What is followed in each segment, and the log-probabilities of a tabular policy that follows it exactly."""
    point = solving(RATES, floors)
    reference = np.log(SHARES)
    first = Followed(make_target(point.ratio, point.score, TAU, RATES), reference, RATES.mass, point)
    refresh, found = Refresh(lag, solving, work), []
    for segment in range(count):
        followed = refresh.at(segment * lag.every, first, RATES, TAU)
        policy = followed.reference + np.log(followed.point.ratio)
        found.append((followed, policy))
        refresh.keep((segment + 1) * lag.every, policy)
    return found


def test_with_fixed_multipliers_the_policy_is_the_reference_tilted_once_per_effective_refresh(tmp_path: Path) -> None:
    """s = w_help: the reference of segment j is the policy at its last but one refresh, so tilts are 1, 1, 2, 2, 3."""
    found = segments(tmp_path, Lag(T0), {}, 6)
    for segment, (_, policy) in enumerate(found):
        tilts = 1 + segment // 2
        expected = normalised(SHARES * np.exp(tilts * RATES.rates[:, 0] / TAU))
        assert np.exp(policy).tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    assert found[0][0] is not found[2][0]
    assert len(list(tmp_path.glob("*.npy"))) == 2  # the last two refreshes are enough to continue


def test_floors_are_solved_with_the_mass_of_the_lagged_policy(tmp_path: Path) -> None:
    """Each segment is the plain problem whose responses have the lagged policy's shares."""
    found = segments(tmp_path, Lag(T0), {"safe": 0.62}, 4)
    for (_, lagged), (followed, policy) in zip(found[:2], found[2:], strict=True):
        plain = solving(RATES._replace(mass=np.exp(lagged)), {"safe": 0.62})
        assert followed.point.multipliers["safe"] == pytest.approx(plain.multipliers["safe"], abs=1e-7)
        assert np.exp(policy).tolist() == pytest.approx((np.exp(lagged) * plain.ratio).tolist(), abs=1e-9)
        assert followed.point.predicted["safe"] >= 0.62 - 1e-6
    helpful = [followed.point.predicted["help"] for followed, _ in found]
    assert helpful[2] > helpful[0]  # freed from the first reference, the floor costs less


def test_adaptive_floors_are_beta_times_the_values_of_the_lagged_policy(tmp_path: Path) -> None:
    found = segments(tmp_path, Lag(T0, "adaptive", beta=0.9), {"safe": 0.62}, 4)
    assert [followed.point.floors for followed, _ in found[:2]] == [{"safe": 0.62}] * 2  # nothing has lagged yet
    for (_, lagged), (followed, _) in zip(found[:2], found[2:], strict=True):
        value = np.add.reduceat(np.exp(lagged) * RATES.rates[:, 1], RATES.starts[:-1]).mean()
        assert followed.point.floors == {"safe": pytest.approx(0.9 * value)}


def test_a_lagged_policy_that_gave_a_response_up_leaves_a_reference_that_can_be_solved() -> None:
    gone = np.zeros(12)
    gone[0] = -1e4
    moved = reweighted(RATES, gone)
    assert (moved.mass > 0).all()
    assert moved.mass[:3].tolist() == pytest.approx([0, 0.5, 0.5], abs=1e-11)
    assert math.isfinite(solving(moved, {"safe": 0.6}).kl)


def test_reference_values_leave_unlabelled_prompts_out() -> None:
    labelled = np.array([[True, False], [True, True], [True, False]])
    rates = RATES._replace(labelled=labelled)
    assert reference_values(rates)["safe"] == pytest.approx(RATES.rates[3:7, 1].mean())
    assert next_floors(rates, {"safe": 0.1}, Lag(5, "adaptive", 0.5)) == pytest.approx(
        {"safe": RATES.rates[3:7, 1].mean() / 2}
    )
    assert next_floors(rates, {"safe": 0.1}, Lag(5)) == {"safe": 0.1}


@pytest.mark.parametrize(("step", "lagged"), [(0, 0), (9, 0), (10, 0), (19, 0), (20, 10), (29, 10), (30, 20)])
def test_the_reference_is_the_policy_of_t0_steps_before_the_last_refresh(step: int, lagged: int) -> None:
    settings: Any = Lag(10)
    assert lagged_step(step, settings) == lagged
