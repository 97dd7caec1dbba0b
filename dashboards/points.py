"""Policies as points in the plane of two objectives, and the arithmetic of drawing them. No plotly."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from dashboards import palette
from mopo_train.family import REFERENCE

Span = tuple[float, float]
NAME_WIDTH, NAME_HEIGHT = 0.22, 0.045
"""About the size of a policy's name on a phone, as a share of the chart; on a wide one it is less wide."""
MOST_LINES = 12
"""How many lines of text a name may be moved up or down."""


class Axes(NamedTuple):
    """The objectives on the two axes and in the colour."""

    x: str
    y: str
    third: str | None = None


class Value(NamedTuple):
    """A score with its interval and certified bound."""

    mean: float
    low: float
    high: float
    certified_low: float


class Point(NamedTuple):
    """One policy; ``third`` is its mean on the third objective, None if that was not measured or not chosen."""

    policy: str
    x: Value
    y: Value
    third: float | None


class Place(NamedTuple):
    """Where a point's name is written."""

    right: bool
    """Right of the point, else left."""
    up: bool
    """Above the point, else below."""
    lines: int = 0
    """Lines of text between the point and its name; a thin line joins them if there are any."""


class Marks(NamedTuple):
    """What the front chart says about single policies."""

    out: set[str]
    """Policies that miss a floor."""
    dominated: set[str]
    chosen: str | None
    """The policy to draw a ring around."""
    floors: Mapping[str, float]
    """Floors in the chart's unit; the area below those on the two axes is shaded."""


CORNERS = [
    Place(right, up, lines) for lines in range(MOST_LINES + 1) for right in (True, False) for up in (True, False)
]
"""Where a name may be written, best first."""
NO_MARKS = Marks(set(), set(), None, {})


def measured_points(scores: pd.DataFrame, axes: Axes) -> list[Point]:
    """The policies measured on both axes, in order, from one row per policy and objective (``frames.scores``)."""
    values: dict[str, dict[str, Value]] = {}
    for row in scores.to_dict("records"):
        value = Value(row["mean"], row["low"], row["high"], row["certified_low"])
        values.setdefault(row["policy"], {})[row["objective"]] = value
    points = []
    for policy, known in values.items():
        if axes.x in known and axes.y in known:
            third = known.get(axes.third) if axes.third else None
            points.append(Point(policy, known[axes.x], known[axes.y], third.mean if third else None))
    return points


def planned_points(planned: pd.DataFrame, axes: Axes) -> list[Point]:
    """The policies' predictions (``frames.planned``) as points, from the lower bound up to the plain mean."""
    points = []
    for row in planned.to_dict("records"):
        x, y = (_prediction(row, name) for name in (axes.x, axes.y))
        if x is not None and y is not None:
            third = _prediction(row, axes.third) if axes.third else None
            points.append(Point(row["policy"], x, y, third.mean if third else None))
    return points


def _prediction(row: Mapping[Any, Any], objective: str) -> Value | None:
    mean, low = row[f"{objective} predicted"], row[f"{objective} predicted_low"]
    if mean != mean:  # NaN: nothing was predicted
        return None
    low = mean if low != low else low
    return Value(mean, low, mean, low)


def spans(
    points: Sequence[Point], axes: Axes, floors: Mapping[str, float], lines: Sequence[pd.DataFrame]
) -> tuple[Span, Span]:
    """Ranges of the two axes that hold every interval, line and floor."""
    found = []
    for axis, objective in (("x", axes.x), ("y", axes.y)):
        ends = [end for point in points for end in (point.x if axis == "x" else point.y)]
        ends += [end for line in lines for end in line[axis].tolist()]
        floor = floors.get(objective, 0.0)
        found.append(padded([*ends, floor] if floor > max(ends, default=0.0) else ends))
    return found[0], found[1]


def padded(ends: Sequence[float]) -> Span:
    """A little more than the range of ``ends``, hardly beyond [0, 1]; all of it without any."""
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    pad = max(0.02, 0.06 * (high - low))
    return max(-0.02, low - pad), min(1.02, high + pad)


def bands(third: Sequence[float]) -> Span:
    """The two values that part the range of the third objective into low, middle and high."""
    low, high = min(third), max(third)
    return low + (high - low) / 3, high - (high - low) / 3


def symbol(point: Point, edges: Span | None) -> str:
    """A point's marker: the reference has its own, others show in which band their third objective lies."""
    if point.policy == REFERENCE:
        return palette.REFERENCE_SYMBOL
    if point.third is None or edges is None or edges[0] == edges[1]:
        return palette.SYMBOLS[1]
    return palette.SYMBOLS[int(point.third >= edges[0]) + int(point.third >= edges[1])]


def name_places(places: Sequence[tuple[float, float]]) -> list[Place | None]:
    """Where names keep apart; a place is (x, y) as shares of the chart.

    Greedy, in order: each name takes the first free corner of its point, or one some lines further up or down, or
    None where all are taken.
    """
    taken: list[tuple[float, float]] = []
    chosen: list[Place | None] = []
    for x, y in places:
        for place in CORNERS:
            left = x if place.right else x - NAME_WIDTH
            bottom = y + (place.lines if place.up else -1 - place.lines) * NAME_HEIGHT
            if (
                0 <= left <= 1 - NAME_WIDTH
                and (place.lines == 0 or 0 <= bottom <= 1 - NAME_HEIGHT)
                and all(abs(left - a) > 0.99 * NAME_WIDTH or abs(bottom - b) > 0.99 * NAME_HEIGHT for a, b in taken)
            ):
                taken.append((left, bottom))
                chosen.append(place)
                break
        else:
            chosen.append(None)
    return chosen
