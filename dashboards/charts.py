"""Plotly figures from the frames of ``frames``; no files and no Streamlit.

Every axis names its unit. A policy is named where there is room and always when pointed at.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboards import layers, palette
from dashboards.points import NO_MARKS, Axes, Marks, Span, measured_points, padded, planned_points, spans
from mopo_train.family import REFERENCE


def title(objective: str) -> str:
    """An objective's name for people."""
    return objective.replace("_", " ").replace("-", " ").capitalize()


def front_chart(scores: pd.DataFrame, axes: Axes, marks: Marks, line: pd.DataFrame | None = None) -> go.Figure:
    """Policies in the plane of two objectives, with intervals, certified bounds, floors and the exact front.

    ``scores`` has one row per policy and objective (``frames.scores``), in judge scores; ``line`` has the
    columns x and y.
    """
    points = measured_points(scores, axes)
    span = spans(points, axes, marks.floors, [] if line is None else [line])
    figure = go.Figure(layout=_layout(height=560))
    layers.add_floors(figure, span, [(title(name), marks.floors.get(name, 0.0)) for name in axes[:2]])
    if line is not None:
        layers.add_line(figure, line, "Exact front of the sandbox")
    strength = 1.0 if len(points) <= 12 else 0.5  # many crossing bars would hide the points
    for faded in (True, False):
        rows = [point for point in points if (point.policy in marks.dominated) == faded]
        layers.add_intervals(figure, rows, opacity=strength * (0.3 if faded else 0.85))
        layers.add_certified(figure, rows, opacity=strength * (0.35 if faded else 1.0))
    layers.add_ring(figure, [point for point in points if point.policy == marks.chosen])
    layers.add_points(figure, points, [title(name) for name in axes if name], marks)
    layers.add_names(figure, points, marks, span)
    return _with_axes(figure, axes, span, "judge score, 0 to 1")


def planned_chart(planned: pd.DataFrame, axes: Axes, lines: Mapping[str, pd.DataFrame]) -> go.Figure:
    """What the policies were trained for, in data win rate: predicted values down to their robust lower values.

    ``planned`` comes from ``frames.planned``; ``lines`` are fronts in data win rate by name, drawn dotted
    but for the exact one.
    """
    points = planned_points(planned, axes)
    span = spans(points, axes, {}, list(lines.values()))
    figure = go.Figure(layout=_layout(height=560))
    for name, line in lines.items():
        layers.add_line(figure, line, name, dash="solid" if name.startswith("Exact") else "dot")
    layers.add_intervals(figure, points, opacity=0.85)
    layers.add_points(figure, points, [title(name) for name in axes if name], NO_MARKS)
    layers.add_names(figure, points, NO_MARKS, span)
    return _with_axes(figure, axes, span, "data win rate, 0.5 = parity")


def whisker_chart(scores: pd.DataFrame, unit: str, *, span: Span, mark: float | None = None) -> go.Figure:
    """One objective's scores, a dot and a whisker per policy, top to bottom in the order of ``scores``.

    ``mark`` is a value to draw a line at: a floor, or parity.
    """
    figure = go.Figure(layout=_layout(height=66 + 36 * len(scores)))
    if mark is not None:
        ends = {"y0": -0.6, "y1": len(scores) - 0.4}  # in rows: "between" draws no shape that spans the whole axis
        rule = {"color": palette.MUTED, "width": 1.4, "dash": "dot"}
        figure.add_shape(type="line", x0=mark, x1=mark, **ends, line=rule, layer="between")
    rows = scores.to_dict("records")
    bars = [((row["low"], row["policy"]), (row["high"], row["policy"])) for row in rows]
    layers.add_segments(figure, bars, {"color": palette.GREY, "width": 3})
    layers.add_ticks(figure, scores["certified_low"].tolist(), scores["policy"].tolist(), "line-ns")
    figure.add_scatter(
        x=scores["mean"],
        y=scores["policy"],
        mode="markers",
        name="policies",
        marker={
            "size": 12,
            "opacity": 1,
            "symbol": [palette.REFERENCE_SYMBOL if row["policy"] == REFERENCE else "circle" for row in rows],
            "color": [_dot_colour(row) for row in rows],
            "line": {"width": 1.2, "color": palette.PAPER},
        },
        customdata=scores[["low", "high", "certified_low", "n"]],
        hovertemplate="<b>%{y}</b><br>" + unit + " %{x:.3f}<br>interval %{customdata[0]:.3f} to %{customdata[1]:.3f}"
        "<br>certified at least %{customdata[2]:.3f}<br>%{customdata[3]} prompts<extra></extra>",
    )
    figure.update_yaxes(range=(len(scores) - 0.4, -0.6), showgrid=False, ticksuffix="  ", type="category")
    figure.update_xaxes(range=span, title_text=unit, nticks=5)
    return figure


def shared_span(scores: pd.DataFrame, *more: float) -> Span:
    """One range that holds every interval, certified bound and further value, so that panels can be compared."""
    return padded([*scores["low"], *scores["certified_low"], *scores["high"], *more])


def _dot_colour(row: Mapping[Any, Any]) -> str:
    if row["policy"] == REFERENCE:
        return palette.INK
    return palette.PALE_BLUE if row["dominated"] else palette.BLUE


def _with_axes(figure: go.Figure, axes: Axes, span: tuple[Span, Span], unit: str) -> go.Figure:
    figure.update_xaxes(title_text=f"<b>{title(axes.x)}</b> ({unit}) →", range=span[0])
    figure.update_yaxes(title_text=f"<b>{title(axes.y)}</b> ({unit}) →", range=span[1])
    return figure


def _layout(height: int) -> dict[str, Any]:
    axis = {
        "gridcolor": palette.RULE,
        "zeroline": False,
        "linecolor": palette.GREY,
        "tickformat": ".2f",
        "title": {"font": {"size": 14, "color": palette.INK}, "standoff": 10},
        "tickfont": {"size": 13, "color": palette.MUTED},
        "automargin": True,
        "fixedrange": True,
    }
    return {
        "height": height,
        "font": {"family": palette.FONT, "size": 14, "color": palette.INK},
        "paper_bgcolor": palette.PAPER,
        "plot_bgcolor": palette.PAPER,
        "margin": {"l": 8, "r": 14, "t": 12, "b": 46},
        "showlegend": False,
        "hoverlabel": {"bgcolor": palette.PAPER, "bordercolor": palette.GREY, "font": {"family": palette.FONT}},
        "xaxis": axis,
        "yaxis": axis,
    }
