import re
from xml.etree import ElementTree

import numpy as np
import pytest

from mopo_eval.page.scatter import Point, scatter, ticks
from tests.families import estimate

SVG = re.compile(r"\d+\.\d+")


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.48, 0.74, ["0.50", "0.55", "0.60", "0.65", "0.70"]),
        (0.801, 0.829, ["0.805", "0.810", "0.815", "0.820", "0.825"]),
    ],
)
def test_ticks_are_round(low: float, high: float, shown: list[str]) -> None:
    assert ticks(low, high) == shown


@pytest.mark.parametrize("seed", range(20))
def test_there_are_four_to_nine_ticks_whatever_the_range(seed: int) -> None:
    low, high = sorted(np.random.default_rng(seed).random(2))
    found = ticks(low, high)
    assert 4 <= len(found) <= 9
    assert all(low - 1e-9 <= float(value) <= high + 1e-9 for value in found)
    assert len(np.unique(np.diff([float(value) for value in found]).round(9))) == 1


def test_points_and_intervals_stand_where_the_axis_says() -> None:
    points = [
        Point("reference", estimate(0.5, 0.1), estimate(0.5, 0.1), False),
        Point("policy-00", estimate(0.7, 0.1), estimate(0.4, 0.1), True),
    ]
    picture = ElementTree.fromstring(scatter(points, ("helpfulness (judge score)", "a <b> & c")))
    grid = {
        text.text: float(text.get("x", 0))
        for text in picture.iter("text")
        if text.get("text-anchor") == "middle" and SVG.fullmatch(text.text or "")
    }
    left, right = grid["0.5"], grid["0.7"]
    (circle,) = picture.iter("circle")
    assert float(circle.get("cx", 0)) == pytest.approx(right, abs=0.1)
    (front,) = [group for group in picture.iter("g") if group.get("class") == "front"]
    bar = front.findall("line")[0]
    width = (right - left) / 0.2
    assert float(bar.get("x2", 0)) - float(bar.get("x1", 0)) == pytest.approx(0.2 * width, abs=0.3)
    assert "policy-00: 0.700 [0.600, 0.800]" in "".join(front.itertext())
    assert "a <b> & c →" in [text.text for text in picture.iter("text")]


def test_names_do_not_lie_on_each_other() -> None:
    rng = np.random.default_rng(0)
    points = [
        Point(f"policy-{n:02d}", estimate(rng.uniform(0.3, 0.9)), estimate(rng.uniform(0.3, 0.9)), True)
        for n in range(10)
    ]
    picture = ElementTree.fromstring(scatter(points, ("x", "y")))
    names = [(float(t.get("x", 0)), float(t.get("y", 0))) for t in picture.iter("text") if t.get("class") == "name"]
    assert len(names) == 10
    for i, (x, y) in enumerate(names):
        for other_x, other_y in names[:i]:
            assert abs(x - other_x) >= 9 * 6.4 or abs(y - other_y) >= 12.9
