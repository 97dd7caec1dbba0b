import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mopo_train.cli import main
from mopo_train.dual import tilt
from mopo_train.errors import FloorError
from mopo_train.formulation import Formulation
from mopo_train.policy.followed import make_target
from mopo_train.preference_model.planning import QUICK, advice, expected_seconds
from mopo_train.preference_model.settings import FitSettings
from mopo_train.preference_model.strengths import Strengths, set_win_rates
from mopo_train.preference_model.view import ModelView, with_itself
from mopo_train.preferences import read_preferences
from mopo_train.run import RunConfig, choose_points, planned_points
from mopo_train.winrates import from_rates, win_rates
from tests.comparisons import row, write_rows
from tests.mopo_train.labelled import Pairs, bradley_terry, drawn
from tests.mopo_train.preference_model.worlds import word_data, word_rows

FORM = Formulation("a", 0.15)


def seen_through(pairs: Pairs, model: Strengths) -> ModelView:
    """The view of a model that is known, not fitted."""
    labels = win_rates(pairs)
    rates = labels._replace(rates=set_win_rates(model, labels.starts, leave_out=False), itself=True)
    return ModelView(pairs, rates, with_itself(labels))


def exact(strength: np.ndarray[tuple[int, int, int], np.dtype[np.float64]]) -> Strengths:
    flat = strength.reshape(-1, strength.shape[-1])
    return Strengths(flat, np.zeros((*flat.shape, 0)), np.zeros(flat.shape))


def test_labels_become_rates_against_all_responses() -> None:
    """With three answers, w over the two others becomes (2 w + 1/2) / 3."""
    rates = from_rates(["x"], [[0.0], [0.5], [1.0], [0.3]], [0, 3, 4])
    assert with_itself(rates).rates[:, 0] == pytest.approx([1 / 6, 0.5, 5 / 6, 0.5])
    assert with_itself(with_itself(rates)).rates.tolist() == with_itself(rates).rates.tolist()


def test_the_pairwise_step_does_not_correct_twice() -> None:
    """Labels' differences are too large by r / (r - 1); rates that include the response itself are not."""
    rates = from_rates(["x"], [[0.0], [1.0]], [0, 2])
    score = np.array([0.0, 0.3])
    halved = make_target(np.ones(2), score, 0.1, rates).tilt
    whole = make_target(np.ones(2), score, 0.1, rates._replace(itself=True)).tilt
    assert (halved[1] - halved[0], whole[1] - whole[0]) == (pytest.approx(1.5), pytest.approx(3.0))


def test_an_overconfident_model_has_its_floors_raised_until_the_labels_bear_them_out() -> None:
    random = np.random.default_rng(0)
    strength = random.normal(size=(400, 4, 2))
    strength[..., 1] -= strength[..., 0]  # in conflict
    pairs, _ = drawn(bradley_terry(strength), 1, random)
    view = seen_through(pairs, exact(3 * strength))  # promises three times the true differences
    trusting = tilt(view.rates, primary="a", multipliers={"b": 1.0}, tau=0.15)
    (judged,) = view.bounded([trusting], None)
    assert judged.bound["b"] < trusting.predicted_low["b"] - 0.03
    floor = judged.bound["b"] + 0.01
    held = view.solve({"b": floor}, FORM)
    assert held.feasible and held.floors == {"b": floor}
    assert held.bound["b"] == pytest.approx(floor, abs=0.02) and held.bound["b"] >= floor - 1e-3
    assert held.predicted_low["b"] > floor + 0.02  # what the model had to promise
    beyond = view.solve({"b": 0.99}, FORM)
    assert not beyond.feasible
    assert beyond.nearest_floors["b"] == pytest.approx(beyond.bound["b"])


def test_at_radius_zero_the_model_is_taken_at_its_word() -> None:
    random = np.random.default_rng(0)
    strength = random.normal(size=(50, 3, 2))
    view = seen_through(drawn(bradley_terry(strength), 1, random)[0], exact(strength))
    point = view.solve({"b": 0.55}, FORM._replace(epsilon=0.0))
    assert point.bound == point.predicted
    assert point.predicted["b"] >= 0.55 - 1e-9


def simulated(seed: int) -> tuple[float, float]:
    """A floor solved on a noisy model: its bound, and the true value for the population of prompts.

    The model knows utilities with errors of its own that it repeats on every prompt (features it misjudges), as a model
    that was fitted on other prompts does; labels are drawn anew. The truth is that of the same rule on many prompts.
    """
    random = np.random.default_rng(seed)
    weights = random.normal(size=(3, 2))
    wrong = weights + random.normal(size=(3, 2)) * 0.6
    features = random.normal(size=(2150, 4, 3))
    strength, believed = features @ weights, features @ wrong
    pairs, _ = drawn(bradley_terry(strength[:150]), 1, random)
    view = seen_through(pairs, exact(believed[:150]))
    goal = tilt(view.rates, primary="a", multipliers={"b": 1.0}, tau=0.15)
    (judged,) = view.bounded([goal], None)
    point = view.solve({"b": judged.bound["b"]}, FORM)
    fresh = np.arange(0, 4 * 2000 + 1, 4)
    rates = from_rates("ab", set_win_rates(exact(believed[150:]), fresh, leave_out=False), fresh)
    truth = from_rates("ab", set_win_rates(exact(strength[150:]), fresh, leave_out=False), fresh)
    rule = tilt(rates, primary="a", multipliers=point.multipliers, tau=0.15, epsilon=0)
    return point.bound["b"], float((truth.mass * rule.ratio) @ truth.rates[:, 1]) / truth.prompts


def test_the_true_value_falls_below_the_bound_in_no_more_than_one_of_twenty_samples() -> None:
    below = sum(bound > true + 0.005 for bound, true in (simulated(seed) for seed in range(60)))
    assert below <= 8  # 5 % of 60 is 3; P(Binomial(60, .05) > 8) = 0.4 %


# the plan


def plan(*arguments: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["plan", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.fixture(scope="module")
def one_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One noisy pair per prompt."""
    return write_rows(tmp_path_factory.mktemp("plan") / "pairs.jsonl", word_rows(300, 1, per_prompt=2))


def test_few_labels_show_the_cross_fitted_values_beside_their_own(one_pair: Path) -> None:
    document = plan(one_pair, "--policies", "3")
    assert document["source"] == "labels"
    for point in document["points"]:
        assert set(point["cross_fitted"]) == {"x", "y"}
    first = document["points"][0]
    assert first["predicted"]["x"] > first["cross_fitted"]["x"] + 0.05  # two answers and one noisy label
    assert first["cross_fitted"]["x"] < 0.75  # at most 3/4: the better of two meets itself half of the time
    assert "believe the cross-fitted values" in document["preference_model"]["believe"]
    assert document["preference_model"]["objectives"]["x"]["accuracy"]["low"] > 0.6
    assert any("believe the cross-fitted" in warning for warning in document["warnings"])
    table = CliRunner().invoke(main, ["plan", str(one_pair), "--policies", "3"])
    assert "a preference model is fitted to show its values beside theirs: about 1 s the first time" in table.stderr
    assert "x cross-fitted" in " ".join(table.stdout.replace("┃", " ").split())


def test_without_cross_fitting_the_plan_says_how_to_have_it(one_pair: Path) -> None:
    document = plan(one_pair, "--no-cross-fit")
    assert "preference_model" not in document and "cross_fitted" not in document["points"][0]
    assert any("--cross-fit shows" in warning for warning in document["warnings"])


def test_a_plan_by_the_preference_model_promises_what_labels_bear_out(one_pair: Path) -> None:
    document = plan(one_pair, "--source", "preference-model", "--policies", "3")
    assert document["source"] == "preference-model"
    labels = plan(one_pair, "--policies", "3", "--no-cross-fit")
    assert document["attainable"]["x"] < labels["attainable"]["x"] - 0.1
    for point in document["points"]:
        assert point["floors"]["y"] == point["bound"]["y"] <= point["predicted"]["y"]
    floor = document["points"][1]["floors"]["y"]
    (held,) = plan(one_pair, "--source", "preference-model", "--floor", f"y={floor}")["points"]
    assert held["feasible"] and held["bound"]["y"] >= floor - 1e-3


def test_large_data_are_planned_without_a_model(tmp_path: Path) -> None:
    data = word_data(tmp_path / "some.jsonl", 50, 0)
    assert expected_seconds(data, FitSettings()) < QUICK
    assert expected_seconds(data, FitSettings(epochs=1e5)) > QUICK


def test_ties_alone_are_not_learnt_and_not_believed(tmp_path: Path) -> None:
    rows = word_rows(40, 0, per_prompt=2)
    for each in rows:
        each["preferences"]["y"] = 0.5
    path = write_rows(tmp_path / "ties.jsonl", rows)
    told = plan(path, "--cross-fit")["preference_model"]
    assert "y: the preference model learnt nothing" in told["believe"]


def test_one_response_per_prompt_is_not_possible_but_two_equal_prompts_are(tmp_path: Path) -> None:
    rows = [row("Same?", f"answer {i}", f"reply {i}", {"x": 1, "y": 0}) for i in range(6)]
    result = CliRunner().invoke(main, ["plan", str(write_rows(tmp_path / "one.jsonl", rows)), "--cross-fit"])
    assert result.exit_code == 1
    assert "3 folds for 1 split group" in result.stderr and "Traceback" not in result.stderr


def test_advice_names_every_kind_of_objective() -> None:
    told = advice({"x": True, "y": False, "z": True}, {"x": 1.0, "y": 2.0, "z": 9.0})
    assert told.startswith("x: believe the cross-fitted")
    assert "y: the preference model learnt nothing" in told and "z: believe the labels" in told


# the run


def test_a_run_chooses_points_whose_bounds_hold_the_floors() -> None:
    random = np.random.default_rng(0)
    strength = random.normal(size=(300, 4, 2))
    strength[..., 1] -= strength[..., 0]
    view = seen_through(drawn(bradley_terry(strength), 1, random)[0], exact(2 * strength))
    config = RunConfig(primary="a", policies=3, floors={"b": 0.52}, source="preference-model")
    points = view.bounded(choose_points(view.rates, config, view), None)
    assert len(points) == 3
    assert all(point.bound["b"] >= 0.52 - 1e-3 for point in points)
    with pytest.raises(FloorError, match="no policy meets the floors b=0.9900"):
        choose_points(view.rates, config.model_copy(update={"floors": {"b": 0.99}}), view)


def test_a_run_trains_for_the_points_that_the_plan_shows(one_pair: Path) -> None:
    config = RunConfig(primary="x", policies=3, source="preference-model")
    planned = planned_points(read_preferences([one_pair]), config)
    assert planned.rates.itself
    shown = plan(one_pair, "--source", "preference-model", "--policies", "3")["points"]
    for point, told in zip(planned.points, shown, strict=True):
        assert point.predicted == pytest.approx(told["predicted"])
        assert point.bound == pytest.approx(told["bound"])
