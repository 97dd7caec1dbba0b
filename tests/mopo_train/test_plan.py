import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mopo_train.cli import main
from mopo_train.picture import plan_figure
from mopo_train.plan import plan_table


def plan(*arguments: str | Path) -> Result:
    """By labels alone: the preference model has tests of its own (``preference_model/test_view.py``)."""
    return CliRunner().invoke(main, ["plan", "--no-cross-fit", *(str(argument) for argument in arguments)])


def plan_json(*arguments: str | Path) -> dict[str, Any]:
    result = plan(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """120 prompts with one pair each: helpfulness prefers a; safety prefers b on two thirds of them."""
    return write(
        tmp_path / "pairs.jsonl",
        [
            {
                "prompt": f"Question {i}?",
                "response_a": f"Long answer {i}",
                "response_b": "No.",
                "preferences": {"helpfulness": 1, "safety": 0 if i % 3 else 1},
            }
            for i in range(120)
        ],
    )


def test_the_plan_has_every_field_that_programs_rely_on(pairs: Path) -> None:
    document = plan_json(pairs, "--policies", "4", "--tau", "0.2")
    assert document["objectives"] == ["helpfulness", "safety"]
    assert (document["primary"], document["tau"]) == ("helpfulness", 0.2)
    assert document["attainable"] == {"helpfulness": 1.0, "safety": 1.0}
    assert (document["prompts"], document["pairs"], document["responses"]) == (120, 120, 240)
    assert document["comparisons_per_response"] == {"helpfulness": 1.0, "safety": 1.0}
    assert len(document["points"]) == 4
    for point in document["points"]:
        assert set(point) >= {"floors", "multipliers", "predicted", "predicted_low", "bound", "kl", "ess", "feasible"}
        assert set(point["floors"]) == set(point["multipliers"]) == {"safety"}
        assert point["floors"]["safety"] == pytest.approx(point["predicted_low"]["safety"])
        assert all(0 <= point["bound"][name] < point["predicted_low"][name] for name in document["objectives"])


def test_a_floor_gives_the_one_point_that_meets_it(pairs: Path) -> None:
    """On the 80 prompts in conflict a share q goes to b; safety = (80 q + 40 s) / 120 = 0.8 with s nearly 1."""
    (point,) = plan_json(pairs, "--floor", "safety=0.8", "--epsilon", "0")["points"]
    assert point["feasible"] is True
    assert point["floors"] == {"safety": 0.8}
    assert point["predicted"]["safety"] == pytest.approx(0.8, abs=1e-9)
    assert point["predicted_low"] == point["bound"] == point["predicted"]
    # b minus a is lambda - 1 where they conflict and -(1 + lambda) elsewhere
    lam, tau = point["multipliers"]["safety"], 0.15
    q, s = 1 / (1 + np.exp((1 - lam) / tau)), 1 / (1 + np.exp(-(1 + lam) / tau))
    assert (80 * q + 40 * s) / 120 == pytest.approx(0.8, abs=1e-9)
    assert point["predicted"]["helpfulness"] == pytest.approx((80 * (1 - q) + 40 * s) / 120, abs=1e-9)


def test_floors_that_cannot_be_met_are_reported_with_the_nearest(pairs: Path) -> None:
    result = plan(pairs, "--floor", "safety=0.9", "--floor", "helpfulness=0.9", "--epsilon", "0", "--json")
    assert result.exit_code == 0
    (point,) = json.loads(result.stdout)["points"]
    assert point["feasible"] is False
    # safety + helpfulness is at most (80 x 1 + 40 x 2) / 120 = 4 / 3
    assert point["nearest_floors"] == pytest.approx({"safety": 2 / 3, "helpfulness": 2 / 3}, abs=1e-8)
    assert "no policy meets the floors safety=0.9000, helpfulness=0.9000 (data win rate)" in result.stderr
    assert "Attainable one at a time: safety=1.0000" in result.stderr


def test_the_primary_can_be_chosen(pairs: Path) -> None:
    document = plan_json(pairs, "--primary", "safety")
    assert document["primary"] == "safety"
    assert set(document["points"][0]["floors"]) == {"helpfulness"}


def test_few_comparisons_are_called_optimistic(pairs: Path) -> None:
    warning = next(each for each in plan_json(pairs)["warnings"] if "comparisons per response" in each)
    assert "helpfulness 1.0, safety 1.0" in warning and "optimistic" in warning


def test_enough_comparisons_are_not(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "prompt": f"p{p}",
            "response_a": f"r{a}",
            "response_b": f"r{b}",
            "preferences": {"x": 1.0, "y": float(a % 2)},
        }
        for p in range(5)
        for a in range(7)
        for b in range(7)
        if a < b
    ]
    document = plan_json(write(tmp_path / "many.jsonl", rows))
    assert document["comparisons_per_response"] == {"x": 6.0, "y": 6.0}
    assert not any("comparisons" in each for each in document["warnings"])


def test_a_low_effective_sample_size_is_a_warning(pairs: Path) -> None:
    assert any("effective sample size" in each for each in plan_json(pairs, "--tau", "0.01")["warnings"])
    mild = plan_json(pairs, "--tau", "2", "--floor", "safety=0.6")
    assert not any("effective sample size" in each for each in mild["warnings"])


def test_objectives_that_agree_are_said_to_agree(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{i}", "response_a": "yes", "response_b": "no", "preferences": {"x": i % 2, "y": i % 2}}
        for i in range(20)
    ]
    document = plan_json(write(tmp_path / "same.jsonl", rows))
    assert len(document["points"]) == 1
    assert any("floors will not bind" in each for each in document["warnings"])


def test_out_writes_the_same_plan_and_a_page_that_needs_no_network(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "plan"
    result = plan(pairs, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads((out / "plan.json").read_text(encoding="utf-8")) == json.loads(result.stdout)
    page = (out / "plan.html").read_text(encoding="utf-8")
    assert "safety (data win rate)" in page
    assert "<script src=" not in page
    assert sorted(path.name for path in out.iterdir()) == ["plan.html", "plan.json"]


@pytest.mark.parametrize("name", ["family.json", "run.json"])
def test_the_plan_of_a_family_is_not_replaced(name: str, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}", encoding="utf-8")
    result = plan(pairs, "--out", str(tmp_path))
    assert (result.exit_code, "holds a family" in result.stderr) == (1, True)
    assert not (tmp_path / "plan.json").exists()


def test_the_table_names_its_unit(pairs: Path) -> None:
    result = plan(pairs, "--policies", "3")
    assert result.exit_code == 0, result.output
    assert "data win rates" in result.stdout
    assert "floor safety" in result.stdout and "attainable" in result.stdout


def test_the_table_puts_what_is_attainable_below_floors_not_below_predictions_that_may_be_above_it(pairs: Path) -> None:
    document = plan_json(pairs, "--policies", "3", "--epsilon", "0.15")
    columns, rows = plan_table(document)
    last = dict(zip(columns, rows[-1], strict=True))
    assert last["floor safety"] == f"{document['attainable']['safety']:.3f}"
    assert last["safety"] == last["helpfulness"] == ""


def test_the_picture_has_a_panel_per_other_objective(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        {
            "prompt": f"p{i}",
            "response_a": "yes",
            "response_b": "no",
            "preferences": dict(zip("xyz", random.integers(0, 2, 3).tolist(), strict=True)),
        }
        for i in range(60)
    ]
    document = plan_json(write(tmp_path / "three.jsonl", rows), "--policies", "5", "--epsilon", "0")
    figure = plan_figure(document)
    predicted = [trace for trace in figure.data if trace.name == "predicted"]
    assert [list(trace.y) for trace in predicted] == [
        [point["predicted"][name] for point in document["points"]] for name in ("y", "z")
    ]
    assert len(figure.layout.shapes) == 2  # an attainable line in each panel


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--floor", "safety"], 2, "write it as objective=value"),
        (["--floor", "speed=0.5"], 1, "'speed', which is not an objective"),
        (["--floor", "safety=1.5"], 2, "outside [0, 1]"),
        (["--floor", "safety=0.9", "--floor", "safety=0.1"], 2, "two floors on 'safety'"),
        (["--primary", "speed"], 1, "'speed' is not an objective"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(
    pairs: Path, arguments: list[str], status: int, message: str
) -> None:
    result = plan(pairs, *arguments)
    assert result.exit_code == status
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["--floor", "speed=0.5"], ["--primary", "speed"]])
def test_a_misspelt_objective_is_told_before_a_preference_model_is_fitted(pairs: Path, arguments: list[str]) -> None:
    result = plan(pairs, "--cross-fit", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("main: ") and "speed" in result.stderr


def test_a_missing_file_is_a_mistake_and_a_bad_option_is_usage(tmp_path: Path, pairs: Path) -> None:
    assert plan(tmp_path / "none.jsonl").exit_code == 1
    assert plan(pairs, "--tau", "0").exit_code == 2
    assert plan(pairs, "--epsilon", "-1").exit_code == 2


@pytest.mark.data
def test_real_pairs_of_helpfulness_and_safety_are_planned(real_data: Path) -> None:
    document = plan_json(real_data / "pku_saferlhf_train.jsonl.gz")
    assert document["objectives"] == ["helpfulness", "safety"]
    assert len(document["points"]) == 6
    safety = [point["predicted"]["safety"] for point in document["points"]]
    assert safety == sorted(safety) and safety[-1] - safety[0] > 0.2


def test_the_global_normaliser_is_a_labelled_option_that_says_how_far_it_misleads(pairs: Path) -> None:
    """A third of the prompts agree: weighing these predicts nearly (1, 1), where policies share 1 on the others."""
    document = plan_json(pairs, "--normaliser", "global", "--floor", "safety=0.9")
    (point,) = document["points"]
    assert document["normaliser"] == "global"
    assert point["predicted"]["safety"] == pytest.approx(0.9, abs=1e-6) and point["predicted"]["helpfulness"] > 0.95
    assert sum(point["attained"].values()) < 4 / 3 + 1e-9
    assert any("no policy can" in warning for warning in document["warnings"])
    table = plan(pairs, "--normaliser", "global").stdout
    assert "attained" in table


def test_the_log_barrier_holds_a_floor_with_room(pairs: Path) -> None:
    document = plan_json(pairs, "--variant", "log-barrier", "--floor", "safety=0.8", "--epsilon", "0")
    assert document["variant"] == "log-barrier"
    assert 0.8 < document["points"][0]["predicted"]["safety"] < 0.801


def test_a_plan_says_what_each_step_costs(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    result = plan(pairs, "--policies", "4", "--out", str(out))
    document = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    assert [(step["start"], step["end"]) for step in document["steps"]] == [(0, 1), (1, 2), (2, 3)]
    for step in document["steps"]:
        before, after = (document["points"][step[end]]["predicted"] for end in ("start", "end"))
        assert step["changes"] == pytest.approx({name: after[name] - before[name] for name in before})
        assert "safety +" in step["text"] and "costs helpfulness" in step["text"]
        assert step["text"] in result.stdout
        assert step["text"] in (out / "plan.html").read_text(encoding="utf-8")


def test_independent_labels_give_higher_lower_bounds(pairs: Path) -> None:
    safe, sharp = (
        plan_json(pairs, "--floor", "safety=0.7", *more)["points"][0] for more in ([], ["--independent-labels"])
    )
    assert safe["predicted"] == pytest.approx(sharp["predicted"])
    assert safe["bound"]["safety"] < sharp["bound"]["safety"] < safe["predicted_low"]["safety"]


def test_more_policies_than_the_front_has_points_are_fewer_and_said_so(tmp_path: Path) -> None:
    """All ties: nothing to choose, one point."""
    rows = [
        {"prompt": f"p{i}", "response_a": "x", "response_b": "y", "preferences": {"a": 0.5, "b": 0.5}} for i in range(4)
    ]
    document = plan_json(write(tmp_path / "ties.jsonl", rows), "--policies", "50")
    assert len(document["points"]) == 1 and document["steps"] == []
    assert document["points"][0]["predicted"] == {"a": 0.5, "b": 0.5}
    assert "one point, not a front" in document["warnings"][0]


@pytest.mark.parametrize("floor", ["0", "1"])
@pytest.mark.parametrize("variant", ["lagrangian", "log-barrier"])
def test_floors_of_zero_and_one_are_planned(pairs: Path, floor: str, variant: str) -> None:
    (point,) = plan_json(pairs, "--floor", f"safety={floor}", "--epsilon", "0", "--variant", variant)["points"]
    assert point["feasible"] is True  # one answer to every prompt is perfectly safe
    assert point["predicted"]["safety"] == pytest.approx(1.0, abs=2e-3) or floor == "0"


def test_an_objective_that_nobody_labelled_can_have_no_floor(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{i}", "response_a": "x", "response_b": "y", "preferences": {"a": 1, "b": 0, "c": None}}
        for i in range(4)
    ]
    result = plan(write(tmp_path / "null.jsonl", rows), "--floor", "c=0.5")
    assert result.exit_code == 1 and "'c'" in result.stderr and "Traceback" not in result.stderr


def test_a_higher_confidence_lowers_the_bounds_and_asks_more_of_a_floor(pairs: Path) -> None:
    usual, surer = (plan_json(pairs, "--floor", "safety=0.7", *more) for more in ([], ["--confidence", "0.999"]))
    assert (usual["confidence"], surer["confidence"]) == (0.95, 0.999)
    assert surer["epsilon"]["safety"] > usual["epsilon"]["safety"]
    assert surer["points"][0]["predicted"]["safety"] > usual["points"][0]["predicted"]["safety"]
    assert surer["points"][0]["bound"]["helpfulness"] < usual["points"][0]["bound"]["helpfulness"]
    assert plan(pairs, "--confidence", "1").exit_code == 2
