from pathlib import Path

import numpy as np
import pytest

from dashboards.frames import open_family
from dashboards.matrix import ScoreMatrix, read_matrix
from dashboards.price import dearest, price_steps, staircase, with_intervals
from mopo_eval.differences import paired_difference
from mopo_eval.profiles import ThresholdProfile
from mopo_eval.selection import select
from tests.families import write_measured_family


def test_each_step_is_what_serving_would_select_on_either_side_of_it(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    view = open_family(tmp_path)
    steps = price_steps(view.measured, "helpfulness", "safety", {})
    # helpfulness .85 .70 .55; certified safety .55 .75 .90
    assert [step.policy for step in steps] == ["policy-00", "policy-01", "policy-02"]
    assert [step.begin for step in steps] == pytest.approx([0, 0.55, 0.75])
    assert [step.end for step in steps] == pytest.approx([0.55, 0.75, 0.90])
    for step in steps:
        for floor in (step.begin + 1e-6, step.end):
            asked = ThresholdProfile(primary="helpfulness", floors={"safety": floor})
            assert select(asked, view.cards).policy == step.policy
    beyond = ThresholdProfile(primary="helpfulness", floors={"safety": steps[-1].end + 1e-6})
    assert not select(beyond, view.cards).feasible


def test_a_price_is_the_drop_per_hundredth_of_the_floors_that_it_buys(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    steps = price_steps(open_family(tmp_path).measured, "helpfulness", "safety", {})
    assert [step.price for step in steps] == pytest.approx([0, 0.15 / 20, 0.15 / 15])
    assert dearest(steps) == steps[2]


def test_another_floor_leaves_fewer_policies(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    cards = open_family(tmp_path).measured
    steps = price_steps(cards, "helpfulness", "safety", {"factuality": 0.78, "safety": 0.99})
    assert [step.policy for step in steps] == ["policy-02"]  # safety's own floor is what is priced
    assert dearest(steps) is None
    assert price_steps(cards, "helpfulness", "safety", {"factuality": 0.95}) == []


def test_intervals_are_those_of_the_paired_difference_to_the_step_before(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    draw = np.random.default_rng(0)
    scores = draw.uniform(0, 1, (3, 1, 60))
    matrix = ScoreMatrix(["policy-00", "policy-01", "policy-02"], ["helpfulness"], [str(i) for i in range(60)], scores)
    steps = price_steps(open_family(tmp_path).measured, "helpfulness", "safety", {})
    found = with_intervals(steps, matrix, "helpfulness", 0.95)
    alone = paired_difference(scores[0, 0], scores[1, 0], 0.95)
    assert found[0].lost is None
    assert found[1].lost == alone
    assert found[1].price_interval == pytest.approx((alone.low / 20, alone.high / 20))
    assert with_intervals(steps, None, "helpfulness", 0.95) == steps


def test_the_staircase_has_two_corners_per_step(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    steps = price_steps(open_family(tmp_path).measured, "helpfulness", "safety", {})
    corners = staircase(steps, {"policy-00": (0.8, 0.9)})
    assert corners["x"] == pytest.approx([0, 0.55, 0.55, 0.75, 0.75, 0.90])
    assert corners["y"] == pytest.approx([0.85, 0.85, 0.70, 0.70, 0.55, 0.55])
    assert corners["low"][:2] == [0.8, 0.8]


def test_the_matrix_holds_the_mean_over_samples(tmp_path: Path) -> None:
    import pandas as pd

    rows = [("a", "x", "p0", 0, 0.2), ("a", "x", "p0", 1, 0.6), ("b", "x", "p1", 0, None), ("b", "x", "p0", 0, 1.0)]
    columns = ["policy", "objective", "prompt_id", "sample", "score"]
    pd.DataFrame(rows, columns=columns).to_parquet(tmp_path / "judgements.parquet")
    matrix = read_matrix(tmp_path)
    assert matrix is not None
    assert matrix.of("a", "x").tolist() == [pytest.approx(0.4), pytest.approx(float("nan"), nan_ok=True)]
    assert matrix.complete(["a", "b"], ["x"]).tolist() == [[[pytest.approx(0.4)]], [[1.0]]]
    assert np.isnan(matrix.of("c", "x")).all()
    assert read_matrix(tmp_path / "nowhere") is None
