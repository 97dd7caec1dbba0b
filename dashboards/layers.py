"""What is drawn on a chart, one function per kind of mark."""

from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboards import palette
from dashboards.points import Marks, Point, Span, bands, name_places, symbol
from mopo_train.family import REFERENCE

LINE_PIXELS = 20
"""Height of a name: ``points.NAME_HEIGHT`` of a chart."""
Segment = tuple[tuple[Any, Any], tuple[Any, Any]]


def add_floors(figure: go.Figure, span: tuple[Span, Span], floors: Sequence[tuple[str, float]]) -> None:
    """Shade what lies below the floors on x and y (name and value): one area, so no corner is shaded twice."""
    (left, right), (bottom, top) = span
    (x_name, x_floor), (y_name, y_floor) = floors
    x, y = max(x_floor, left), max(y_floor, bottom)
    if x <= left and y <= bottom:
        return
    path = f"M {left},{bottom} L {right},{bottom} L {right},{y} L {x},{y} L {x},{top} L {left},{top} Z"
    figure.add_shape(type="path", path=path, fillcolor=palette.SHADE, line_width=0, layer="below")
    # Between grid and points: a floor that falls on a line of the grid would vanish below it.
    rule = {"color": palette.RUST, "width": 1.6, "dash": "dash"}
    words = {"showarrow": False, "font": {"size": 13, "color": palette.RUST}}
    if x > left:
        side = "left" if x < (left + right) / 2 else "right"
        figure.add_shape(type="line", x0=x, x1=x, y0=bottom, y1=top, line=rule, layer="between")
        figure.add_annotation(x=x, y=top, text=f"{x_name} ≥ {x:.2f}", xanchor=side, yanchor="top", **words)
    if y > bottom:
        figure.add_shape(type="line", x0=left, x1=right, y0=y, y1=y, line=rule, layer="between")
        figure.add_annotation(x=right, y=y, text=f"{y_name} ≥ {y:.2f}", xanchor="right", yanchor="bottom", **words)


def add_line(figure: go.Figure, line: pd.DataFrame, name: str, dash: str = "solid") -> None:
    """A front: columns x and y, by rising x."""
    figure.add_scatter(
        x=line["x"],
        y=line["y"],
        mode="lines",
        name=name,
        line={"color": palette.GREEN, "width": 2.4, "dash": dash},
        hovertemplate=f"{escape(name)}<br>%{{x:.3f}}, %{{y:.3f}}<extra></extra>",
    )


def add_intervals(figure: go.Figure, points: Sequence[Point], opacity: float) -> None:
    """Two-sided intervals on both axes, as grey bars."""
    bars: list[Segment] = []
    for point in points:
        x, y = point.x, point.y
        bars += [((x.low, y.mean), (x.high, y.mean)), ((x.mean, y.low), (x.mean, y.high))]
    add_segments(figure, bars, {"color": palette.GREY, "width": 2.2}, opacity)


def add_certified(figure: go.Figure, points: Sequence[Point], opacity: float) -> None:
    """Certified lower bounds on both axes, as ticks at the end of a thin line."""
    reaches: list[Segment] = []
    for point in points:
        x, y = point.x, point.y
        reaches += [((x.certified_low, y.mean), (x.low, y.mean)), ((x.mean, y.certified_low), (x.mean, y.low))]
    add_segments(figure, reaches, {"color": palette.VERMILLION, "width": 1}, opacity)
    means_x, means_y = [point.x.mean for point in points], [point.y.mean for point in points]
    add_ticks(figure, [point.x.certified_low for point in points], means_y, "line-ns", opacity)
    add_ticks(figure, means_x, [point.y.certified_low for point in points], "line-ew", opacity)


def add_ticks(
    figure: go.Figure, x: Sequence[Any], y: Sequence[Any], shape: str, opacity: float = 1.0, *, size: int = 12
) -> None:
    """Marks of certified bounds and floors; ``shape`` is ``line-ns`` (upright) or ``line-ew`` (level)."""
    marker = {"symbol": shape, "size": size, "line": {"width": 2.2, "color": palette.VERMILLION}}
    figure.add_scatter(x=x, y=y, mode="markers", name="certified", opacity=opacity, marker=marker, hoverinfo="skip")


def add_segments(figure: go.Figure, segments: Sequence[Segment], line: dict[str, Any], opacity: float = 1.0) -> None:
    """Separate straight lines in one trace."""
    x = [value for start, end in segments for value in (start[0], end[0], None)]
    y = [value for start, end in segments for value in (start[1], end[1], None)]
    figure.add_scatter(x=x, y=y, mode="lines", line=line, opacity=opacity, hoverinfo="skip")


def add_ring(figure: go.Figure, points: Sequence[Point]) -> None:
    """A ring around the chosen policy."""
    figure.add_scatter(
        x=[point.x.mean for point in points],
        y=[point.y.mean for point in points],
        mode="markers",
        name="chosen",
        text=[point.policy for point in points],
        marker={"symbol": "circle-open", "size": 30, "color": palette.BLUE, "line": {"width": 2.6}},
        hoverinfo="skip",
    )


def add_points(figure: go.Figure, points: Sequence[Point], names: Sequence[str], marks: Marks) -> None:
    """The policies; colour and symbol tell the third objective, hollow ones miss a floor, dominated ones are faded.

    ``names`` are those of x, y and, if there is one, the third objective.
    """
    third = [point.third for point in points if point.third is not None]
    edges = bands(third) if third else None
    out = [point.policy in marks.out for point in points]
    more = f"<br>{names[2]} %{{customdata:.3f}}" if third else ""
    figure.add_scatter(
        x=[point.x.mean for point in points],
        y=[point.y.mean for point in points],
        mode="markers",
        name="policies",
        text=[point.policy for point in points],
        customdata=[point.third for point in points],
        marker={
            "size": 15,
            "symbol": [symbol(point, edges) for point in points],
            "color": [
                palette.PAPER if gone else _colour(point, third) for point, gone in zip(points, out, strict=True)
            ],
            "opacity": [0.4 if point.policy in marks.dominated else 1.0 for point in points],
            "line": {
                "width": [2.2 if gone else 1.2 for gone in out],
                "color": [palette.MUTED if gone else palette.INK for gone in out],
            },
        },
        hovertemplate=f"<b>%{{text}}</b><br>{names[0]} %{{x:.3f}}<br>{names[1]} %{{y:.3f}}{more}<extra></extra>",
    )


def _colour(point: Point, third: Sequence[float]) -> str:
    if not third:
        return palette.INK if point.policy == REFERENCE else palette.BLUE
    if point.third is None:
        return palette.GREY
    width = max(third) - min(third)
    return palette.tint((point.third - min(third)) / width if width else 0.5)


def add_names(figure: go.Figure, points: Sequence[Point], marks: Marks, span: tuple[Span, Span]) -> None:
    """Names beside the points; the chosen policy, the reference and the front come first and keep their places."""
    (left, right), (bottom, top) = span
    ordered = sorted(
        points, key=lambda p: (p.policy != marks.chosen, p.policy != REFERENCE, p.policy in marks.dominated)
    )
    shares = [((p.x.mean - left) / (right - left), (p.y.mean - bottom) / (top - bottom)) for p in ordered]
    faded = marks.dominated | marks.out
    names = []
    for point, place in zip(ordered, name_places(shares), strict=True):
        if place is None:
            continue
        names.append(
            {
                "name": "name",
                "text": f"<b>{point.policy}</b>" if point.policy == marks.chosen else point.policy,
                "x": point.x.mean,
                "y": point.y.mean,
                "xanchor": "left" if place.right else "right",
                "yanchor": "bottom" if place.up else "top",
                "ax": 8 if place.right else -8,
                "ay": (-1 if place.up else 1) * (6 + LINE_PIXELS * place.lines),
                "showarrow": True,
                "arrowhead": 0,
                "arrowwidth": 1,
                "arrowcolor": palette.MUTED if place.lines else "rgba(0, 0, 0, 0)",
                "font": {"size": 13, "color": palette.MUTED if point.policy in faded else palette.INK},
            }
        )
    # All at once: plotly checks the whole list again at each addition.
    figure.update_layout(annotations=[*figure.layout.annotations, *names])
