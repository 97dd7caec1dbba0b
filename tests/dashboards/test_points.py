from itertools import combinations
from pathlib import Path

import pytest

from dashboards import palette
from dashboards.frames import open_family, planned, scores
from dashboards.points import (
    Axes,
    Place,
    Point,
    Value,
    bands,
    measured_points,
    name_places,
    padded,
    planned_points,
    spans,
    symbol,
)
from mopo_eval.scorecards import write_scorecards
from tests.families import scorecard, write_measured_family


def point(policy: str, third: float | None) -> Point:
    value = Value(0.5, 0.4, 0.6, 0.3)
    return Point(policy, value, value, third)


def test_points_take_each_axis_from_its_objective(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    points = {
        p.policy: p for p in measured_points(scores(open_family(tmp_path)), Axes("safety", "helpfulness", "factuality"))
    }
    assert points["policy-00"].x == pytest.approx((0.60, 0.55, 0.65, 0.55))
    assert points["policy-00"].y == pytest.approx((0.85, 0.80, 0.90, 0.80))
    assert points["policy-00"].third == pytest.approx(0.70)


def test_a_policy_without_one_of_the_axes_is_not_a_point(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    write_scorecards(tmp_path, [scorecard("policy-00", {"safety": 0.6})])
    points = measured_points(scores(open_family(tmp_path)), Axes("safety", "helpfulness"))
    assert [p.policy for p in points] == ["reference", "policy-01", "policy-02", "policy-03"]
    assert {p.third for p in points} == {None}


def test_planned_points_reach_from_the_robust_value_to_the_prediction(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    points = {p.policy: p for p in planned_points(planned(open_family(tmp_path)), Axes("safety", "helpfulness"))}
    assert points["policy-01"].x == pytest.approx((0.80, 0.79, 0.80, 0.79))


def test_the_axes_hold_certified_bounds_and_floors_beyond_the_points() -> None:
    x, y = spans([point("a", None)], Axes("x", "y"), {"x": 0.9}, [])
    assert x == pytest.approx((0.3 - 0.036, 0.9 + 0.036))  # 6 % of 0.6
    assert y == pytest.approx((0.3 - 0.02, 0.6 + 0.02))
    assert padded([]) == (0.0, 1.0)


def test_the_third_objective_is_told_by_three_symbols() -> None:
    edges = bands([0.3, 0.9, 0.5])
    assert edges == pytest.approx((0.5, 0.7))
    low, middle, high = palette.SYMBOLS
    assert [symbol(point("p", third), edges) for third in (0.3, 0.6, 0.9)] == [low, middle, high]
    assert symbol(point("reference", 0.9), edges) == palette.REFERENCE_SYMBOL
    assert symbol(point("p", None), edges) == symbol(point("p", 0.4), bands([0.4, 0.4])) == middle


def test_names_take_free_corners_then_places_further_away() -> None:
    corners = [Place(True, True), Place(True, False), Place(False, True), Place(False, False)]
    assert name_places([(0.5, 0.5)] * 5) == [*corners, Place(True, True, lines=1)]
    assert name_places([(0.95, 0.5), (0.05, 0.5)]) == [Place(False, True), Place(True, True)]  # inside the chart
    assert name_places([(0.5, 0.5)] * 99)[-1:] == [None]  # the chart is full


def test_every_one_of_many_crowded_policies_gets_a_name_that_covers_no_other() -> None:
    points = [(0.4 + 0.01 * i, 0.6 - 0.01 * i) for i in range(16)]
    boxes = []
    for (x, y), place in zip(points, name_places(points), strict=True):
        assert place is not None
        boxes.append((x - 0.22 * (not place.right), y + 0.045 * (place.lines if place.up else -1 - place.lines)))
    apart = [abs(a[0] - b[0]) > 0.217 or abs(a[1] - b[1]) > 0.044 for a, b in combinations(boxes, 2)]
    assert all(apart)


def test_the_sequential_scale_runs_from_its_first_to_its_last_colour() -> None:
    assert palette.tint(0.0) == "rgb(0, 34, 78)"  # 00224E
    assert palette.tint(1.0) == palette.tint(2.0) == "rgb(237, 216, 75)"  # EDD84B
    assert palette.tint(0.5) == "rgb(125, 124, 120)"  # 7D7C78, the middle one of seven


@pytest.mark.parametrize("colour", [palette.INK, palette.MUTED, palette.RUST, palette.GREEN, palette.BLUE])
def test_text_colours_have_a_contrast_of_at_least_4_5_to_1_on_white(colour: str) -> None:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]  # WCAG 2.2
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) >= 4.5
