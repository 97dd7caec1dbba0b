from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dashboards import palette
from dashboards.catalogue import catalogue
from dashboards.charts import front_chart, planned_chart, shared_span, whisker_chart
from dashboards.frames import open_family, planned, scores
from dashboards.points import NO_MARKS, Axes, Marks
from tests.families import write_measured_family

T = catalogue("en")
AXES = Axes("safety", "helpfulness", "factuality")
ORDER = ["reference", "policy-00", "policy-01", "policy-02", "policy-03"]


@pytest.fixture
def frame(tmp_path: Path) -> pd.DataFrame:
    write_measured_family(tmp_path)
    return scores(open_family(tmp_path))


def trace(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name)


def test_every_policy_stands_at_its_means(frame: pd.DataFrame) -> None:
    points = trace(front_chart(frame, AXES, NO_MARKS, T), "policies")
    assert list(points.text) == ORDER
    assert list(points.x) == pytest.approx([0.80, 0.60, 0.80, 0.95, 0.90])
    assert list(points.y) == pytest.approx([0.50, 0.85, 0.70, 0.55, 0.50])


def test_certified_ticks_stand_at_the_certified_bounds(frame: pd.DataFrame) -> None:
    figure = front_chart(frame, AXES, NO_MARKS, T)
    upright = [t for t in figure.data if t.name == "certified" and t.marker.symbol == "line-ns"]
    assert sorted(x for t in upright for x in t.x) == pytest.approx([0.55, 0.75, 0.75, 0.85, 0.90])


def test_dominated_policies_are_faded_those_out_hollow_and_the_chosen_one_ringed(frame: pd.DataFrame) -> None:
    marks = Marks(out={"policy-00"}, dominated={"policy-03"}, chosen="policy-01", floors={"safety": 0.7})
    figure = front_chart(frame, AXES, marks, T)
    points = trace(figure, "policies")
    assert list(points.marker.opacity) == [1, 1, 1, 1, 0.4]
    assert [colour == palette.PAPER for colour in points.marker.color] == [False, True, False, False, False]
    assert list(trace(figure, "chosen").text) == ["policy-01"]
    assert "<b>policy-01</b>" in [note.text for note in figure.layout.annotations]


def test_the_area_below_the_floors_is_shaded_once_and_each_floor_is_named(frame: pd.DataFrame) -> None:
    marks = Marks(set(), set(), None, {"safety": 0.7, "helpfulness": 0.6, "factuality": 0.9})
    figure = front_chart(frame, AXES, marks, T)
    areas = [shape for shape in figure.layout.shapes if shape.type == "path"]
    left, bottom = figure.layout.xaxis.range[0], figure.layout.yaxis.range[0]
    assert len(areas) == 1
    assert areas[0].path.startswith(f"M {left},{bottom}")
    assert " L 0.7,0.6 " in areas[0].path
    notes = [note.text for note in figure.layout.annotations]
    assert "Safety ≥ 0.70" in notes
    assert "Helpfulness ≥ 0.60" in notes
    assert not any("Factuality" in note for note in notes)  # not an axis here


def test_nothing_is_shaded_without_floors(frame: pd.DataFrame) -> None:
    assert not front_chart(frame, AXES, NO_MARKS, T).layout.shapes


def test_colour_and_symbol_tell_the_third_objective(frame: pd.DataFrame) -> None:
    marker = trace(front_chart(frame, AXES, NO_MARKS, T), "policies").marker
    # factuality .80 .70 .75 .85 .80: policy-00 is the lowest, policy-02 the highest
    assert marker.color[1] == palette.tint(0)
    assert marker.color[3] == palette.tint(1)
    assert list(marker.symbol[:2]) == [palette.REFERENCE_SYMBOL, palette.SYMBOLS[0]]


def test_two_objectives_need_no_third(frame: pd.DataFrame) -> None:
    points = trace(front_chart(frame, Axes("safety", "helpfulness"), NO_MARKS, T), "policies")
    assert set(points.marker.color) == {palette.INK, palette.BLUE}


def test_an_empty_frame_gives_an_empty_chart(frame: pd.DataFrame) -> None:
    assert list(trace(front_chart(frame.iloc[:0], AXES, NO_MARKS, T), "policies").x) == []


def test_the_axes_name_objective_and_unit(frame: pd.DataFrame, tmp_path: Path) -> None:
    measured = front_chart(frame, AXES, NO_MARKS, T)
    plan = planned_chart(planned(open_family(tmp_path)), AXES, {}, T)
    assert "Safety" in measured.layout.xaxis.title.text
    assert all("judge score" in axis.title.text for axis in (measured.layout.xaxis, measured.layout.yaxis))
    assert all("data win rate" in axis.title.text for axis in (plan.layout.xaxis, plan.layout.yaxis))


def test_the_exact_front_is_a_line_and_the_predicted_one_is_dotted(frame: pd.DataFrame, tmp_path: Path) -> None:
    line = pd.DataFrame({"x": [0.6, 0.97], "y": [0.9, 0.6]})
    drawn = trace(front_chart(frame, AXES, NO_MARKS, T, line), "Exact front of the sandbox")
    assert (list(drawn.x), list(drawn.y)) == ([0.6, 0.97], [0.9, 0.6])
    plan = planned_chart(planned(open_family(tmp_path)), AXES, {"planned": line, "exact": line}, T)
    assert trace(plan, "Predicted front (plan)").line.dash == "dot"
    assert trace(plan, "Exact front of the sandbox").line.dash == "solid"


def test_a_whisker_chart_has_a_row_per_policy_and_a_line_at_the_floor(frame: pd.DataFrame) -> None:
    some = frame[frame["objective"] == "safety"]
    figure = whisker_chart(some, "judge score", T, span=shared_span(some), mark=0.7)
    points = trace(figure, "policies")
    assert list(points.y) == ORDER
    assert list(points.x) == pytest.approx([0.80, 0.60, 0.80, 0.95, 0.90])
    assert list(trace(figure, "certified").x) == pytest.approx([0.75, 0.55, 0.75, 0.90, 0.85])
    assert [shape.x0 for shape in figure.layout.shapes] == [0.7]
    assert points.marker.color[4] == palette.PALE_BLUE  # policy-03 is dominated


def test_panels_share_one_range(frame: pd.DataFrame) -> None:
    assert shared_span(frame, 0.2) == pytest.approx((0.2 - 0.048, 1.02))  # 0.2 to 1.0, 6 % more, hardly beyond 1


def test_objectives_are_written_for_people() -> None:
    assert T.title("harm_avoidance") == "Harm avoidance"
    assert catalogue("ja").title("safety") == "安全性"
    assert T.title("safety.win_rate") == "Safety (win rate)"
