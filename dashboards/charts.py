"""Plotly figures from the frames of ``frames``; no files and no Streamlit.

Every axis names its unit. A policy is named where there is room and always when pointed at.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboards import layers, palette
from dashboards.catalogue import Catalogue
from dashboards.points import NO_MARKS, Axes, Marks, Span, measured_points, padded, planned_points, spans
from mopo_train.family import REFERENCE


def front_chart(
    scores: pd.DataFrame, axes: Axes, marks: Marks, t: Catalogue, line: pd.DataFrame | None = None
) -> go.Figure:
    """Policies in the plane of two objectives, with intervals, certified bounds, floors and the exact front.

    ``scores`` has one row per policy and objective (``frames.scores``), in judge scores; ``line`` has the
    columns x and y.
    """
    points = measured_points(scores, axes)
    span = spans(points, axes, marks.floors, [] if line is None else [line])
    figure = go.Figure(layout=layout(height=560))
    layers.add_floors(figure, span, [(t.title(name), marks.floors.get(name, 0.0)) for name in axes[:2]])
    if line is not None:
        layers.add_line(figure, line, t("chart.line_exact"))
    strength = 1.0 if len(points) <= 12 else 0.5  # many crossing bars would hide the points
    for faded in (True, False):
        rows = [point for point in points if (point.policy in marks.dominated) == faded]
        layers.add_intervals(figure, rows, opacity=strength * (0.3 if faded else 0.85))
        layers.add_certified(figure, rows, opacity=strength * (0.35 if faded else 1.0))
    layers.add_ring(figure, [point for point in points if point.policy == marks.chosen])
    layers.add_points(figure, points, [t.title(name) for name in axes if name], marks)
    layers.add_names(figure, points, marks, span)
    return _with_axes(figure, axes, span, t, t("chart.judge_score"))


def planned_chart(planned: pd.DataFrame, axes: Axes, lines: Mapping[str, pd.DataFrame], t: Catalogue) -> go.Figure:
    """What the policies were trained for, in data win rate: predicted values down to their lower bounds.

    ``planned`` comes from ``frames.planned``; ``lines`` are fronts in data win rate: ``exact``, and
    ``planned``, which is dotted.
    """
    points = planned_points(planned, axes)
    span = spans(points, axes, {}, list(lines.values()))
    figure = go.Figure(layout=layout(height=560))
    for name, line in lines.items():
        layers.add_line(figure, line, t(f"chart.line_{name}"), dash="solid" if name == "exact" else "dot")
    layers.add_intervals(figure, points, opacity=0.85)
    layers.add_points(figure, points, [t.title(name) for name in axes if name], NO_MARKS)
    layers.add_names(figure, points, NO_MARKS, span)
    return _with_axes(figure, axes, span, t, t("chart.data_win_rate"))


def whisker_chart(scores: pd.DataFrame, unit: str, t: Catalogue, *, span: Span, mark: float | None = None) -> go.Figure:
    """One objective's scores, a dot and a whisker per policy, top to bottom in the order of ``scores``.

    ``mark`` is a value to draw a line at: a floor, or parity.
    """
    figure = go.Figure(layout=layout(height=66 + 36 * len(scores)))
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
            "symbol": [_shape(row["policy"]) for row in rows],
            "color": [_dot_colour(row) for row in rows],
            "line": {"width": 1.2, "color": palette.PAPER},
        },
        customdata=scores[["low", "high", "certified_low", "n"]],
        hovertemplate="<br>".join(["<b>%{y}</b>", unit + " %{x:.3f}", *_hover(t)]) + "<extra></extra>",
    )
    figure.update_yaxes(range=(len(scores) - 0.4, -0.6), showgrid=False, ticksuffix="  ", type="category")
    figure.update_xaxes(range=span, title_text=unit, nticks=5)
    return figure


def parallel_chart(scores: pd.DataFrame, objectives: Sequence[str], marks: Marks, t: Catalogue) -> go.Figure:
    """All objectives side by side, a line per policy; floors as ticks on their objective. In judge scores.

    Policies that were not measured on every one of ``objectives`` have gaps.
    """
    figure = go.Figure(layout=layout(height=360))
    means = scores.pivot(index="policy", columns="objective", values="mean").reindex(columns=list(objectives))
    titles = [t.title(name) for name in objectives]
    ordered = sorted(means.index, key=lambda policy: policy == marks.chosen)  # the chosen one is drawn last
    for policy in ordered:
        chosen, out = policy == marks.chosen, policy in marks.out
        colour = palette.BLUE if chosen else palette.INK if policy == REFERENCE else palette.GREY
        figure.add_scatter(
            x=titles,
            y=means.loc[policy],
            mode="lines+markers",
            name=policy,
            opacity=0.45 if policy in marks.dominated and not chosen else 1,
            line={"color": colour, "width": 3.4 if chosen else 1.6, "dash": "dot" if out else "solid"},
            marker={
                "size": 9 if chosen else 6,
                "symbol": palette.REFERENCE_SYMBOL if policy == REFERENCE else "circle",
            },
            hovertemplate=f"<b>{policy}</b><br>%{{x}} %{{y:.3f}}<extra></extra>",
        )
    floors = [(t.title(name), marks.floors[name]) for name in objectives if marks.floors.get(name)]
    layers.add_ticks(figure, [name for name, _ in floors], [floor for _, floor in floors], "line-ew", size=44)
    if marks.chosen in means.index:
        value = means.loc[marks.chosen].iloc[-1]
        figure.add_annotation(
            x=titles[-1], y=value, text=f"<b>{marks.chosen}</b>", xanchor="left", xshift=12, showarrow=False
        )
    figure.update_xaxes(range=(-0.3, len(titles) - 0.45), title_text="")
    figure.update_yaxes(
        title_text=t("word.judge_score"), range=padded([*scores["mean"], *(floor for _, floor in floors)])
    )
    return figure


def shared_span(scores: pd.DataFrame, *more: float) -> Span:
    """One range that holds every interval, certified bound and further value, so that panels can be compared."""
    return padded([*scores["low"], *scores["certified_low"], *scores["high"], *more])


def _hover(t: Catalogue) -> list[str]:
    """Lines about a point's interval, bound and number of prompts, in this order in its custom data."""
    return [
        t("chart.hover_interval", low="%{customdata[0]:.3f}", high="%{customdata[1]:.3f}"),
        t("chart.hover_certified", low="%{customdata[2]:.3f}"),
        t("chart.hover_prompts", count="%{customdata[3]}"),
    ]


def _shape(policy: str) -> str:
    return palette.REFERENCE_SYMBOL if policy == REFERENCE else "circle"


def _dot_colour(row: Mapping[Any, Any]) -> str:
    if row["policy"] == REFERENCE:
        return palette.INK
    return palette.PALE_BLUE if row["dominated"] else palette.BLUE


def _with_axes(figure: go.Figure, axes: Axes, span: tuple[Span, Span], t: Catalogue, unit: str) -> go.Figure:
    figure.update_xaxes(title_text=f"<b>{t.title(axes.x)}</b> ({unit}) →", range=span[0])
    figure.update_yaxes(title_text=f"<b>{t.title(axes.y)}</b> ({unit}) →", range=span[1])
    return figure


def layout(height: int) -> dict[str, Any]:
    """What all charts share; ``height`` in pixels."""
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
