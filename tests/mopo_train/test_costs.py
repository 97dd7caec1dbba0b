import pytest

from mopo_train.costs import steps
from mopo_train.dual import Solution, tilt
from mopo_train.winrates import WinRates
from tests.mopo_train.test_dual import conflict

RATES: WinRates = conflict()


def point(**predicted: float) -> Solution:
    return tilt(RATES, primary="a", multipliers={}, tau=1.0, epsilon=0)._replace(predicted=predicted)


def test_a_step_says_what_was_gained_and_what_it_cost() -> None:
    first, second = steps([point(a=0.8, b=0.5, c=0.5), point(a=0.77, b=0.55, c=0.5), point(a=0.75, b=0.6, c=0.52)])
    assert first.text == "0 to 1: b +0.050 costs a 0.030"
    assert second.text == "1 to 2: b +0.050, c +0.020 cost a 0.020"
    assert first.rates == pytest.approx({"a": 0.6})
    assert second.rates == pytest.approx({"a": 0.4})  # per unit of b, which gained more than c
    assert second.changes == pytest.approx({"a": -0.02, "b": 0.05, "c": 0.02})
    assert (second.start, second.end) == (1, 2)


def test_steps_without_gain_or_loss_are_told_as_such() -> None:
    texts = [step.text for step in steps([point(a=0.5, b=0.5), point(a=0.6, b=0.5), point(a=0.6, b=0.4)])]
    assert texts == ["0 to 1: a +0.100 at no cost", "1 to 2: nothing gained for b 0.100"]
    assert steps([point(a=0.5), point(a=0.5)])[0].text == "0 to 1: no visible change"
    assert steps([point(a=0.5)]) == []


def test_the_global_form_is_told_by_what_policies_attain() -> None:
    one, other = point(a=0.9, b=0.9), point(a=0.9, b=0.95)
    told = steps([one._replace(attained={"a": 0.6, "b": 0.5}), other._replace(attained={"a": 0.5, "b": 0.6})])
    assert told[0].text == "0 to 1: b +0.100 costs a 0.100"
