"""Plotly figures that compare up to four policies or follow one: groups of dots, radar, steps, lines over time."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from dashboards import palette
from dashboards.catalogue import Catalogue
from dashboards.charts import layout
from dashboards.points import Span

MOST_RADAR = 5
"""Axes beyond which a radar misleads more than it shows."""


def grouped_chart(frame: pd.DataFrame, unit: str, *, order: Sequence[str], mark: float | None = None) -> go.Figure:
    """A dot and an interval per ``label`` and ``policy``; ``frame`` has also the columns mean, low and high.

    Policies get their colour and symbol by their place in ``order``, the same in every chart of a page. ``mark`` is a
    value to draw a line at.
    """
    labels = list(dict.fromkeys(frame["label"]))
    policies = [name for name in order if name in set(frame["policy"])]
    figure = go.Figure(layout=layout(height=84 + len(labels) * (16 + 22 * len(policies))))
    for index, policy in enumerate(policies):
        rows = frame[frame["policy"] == policy]
        offset = (index - (len(policies) - 1) / 2) * 0.6 / max(len(policies) - 1, 1)
        colour, shape = palette.SERIES[order.index(policy) % len(palette.SERIES)]
        figure.add_scatter(
            x=rows["mean"],
            y=[labels.index(label) + offset for label in rows["label"]],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": rows["high"] - rows["mean"],
                "arrayminus": rows["mean"] - rows["low"],
                "color": colour,
                "thickness": 2.4,
                "width": 0,
            },
            mode="markers",
            name=policy,
            customdata=rows[["label", "low", "high"]],
            marker={"size": 11, "symbol": shape, "color": colour, "line": {"width": 1, "color": palette.PAPER}},
            hovertemplate=f"<b>{policy}</b><br>%{{customdata[0]}} %{{x:.3f}}"
            "<br>%{customdata[1]:.3f} – %{customdata[2]:.3f}<extra></extra>",
        )
    if mark is not None:
        ends = {"y0": -0.6, "y1": len(labels) - 0.4}  # in rows: "between" draws no shape that spans the whole axis
        rule = {"color": palette.MUTED, "width": 1.6, "dash": "dot"}
        figure.add_shape(type="line", x0=mark, x1=mark, **ends, line=rule, layer="between")
    ticks = {"tickmode": "array", "tickvals": list(range(len(labels))), "ticktext": [f"{name}  " for name in labels]}
    figure.update_yaxes(range=(len(labels) - 0.4, -0.6), showgrid=False, **ticks)
    figure.update_xaxes(title_text=unit, nticks=6)
    return _with_legend(figure)


def radar_chart(frame: pd.DataFrame, t: Catalogue) -> go.Figure:
    """Means per ``objective`` and ``policy`` (columns also ``mean``) on up to five axes from 0 to 1."""
    figure = go.Figure(layout=layout(height=420))
    for index, policy in enumerate(dict.fromkeys(frame["policy"])):
        rows = frame[frame["policy"] == policy]
        colour, shape = palette.SERIES[index % len(palette.SERIES)]
        names, means = [t.title(name) for name in rows["objective"]], rows["mean"].tolist()
        figure.add_scatterpolar(
            theta=[*names, *names[:1]],
            r=[*means, *means[:1]],
            mode="lines+markers",
            name=policy,
            line={"color": colour, "width": 2.4},
            marker={"symbol": shape, "size": 9},
            hovertemplate=f"<b>{policy}</b><br>%{{theta}} %{{r:.3f}}<extra></extra>",
        )
    between = 90 - 180 / frame["objective"].nunique()  # degrees: clear of the axes, which begin at the top
    radial = {"range": (0, 1), "dtick": 0.25, "tickformat": ".2f", "angle": between, "tickangle": 0}
    radial |= {"gridcolor": palette.RULE, "linecolor": palette.RULE, "tickfont": {"size": 12, "color": palette.MUTED}}
    angular = {"gridcolor": palette.RULE, "rotation": 90, "direction": "clockwise"}
    figure.update_layout(polar={"radialaxis": radial, "angularaxis": angular, "bgcolor": palette.PAPER})
    figure.update_layout(margin={"l": 60, "r": 60, "t": 40, "b": 40})
    return _with_legend(figure)


def price_chart(
    corners: Mapping[str, Sequence[float]], axes: tuple[str, str], floor: float | None, top: str, span: Span
) -> go.Figure:
    """The best attainable primary over a floor (``price.staircase``), and where no policy holds it.

    ``axes`` are the titles of floor and primary, ``floor`` the one in force, ``top`` names the shaded end. ``span`` is
    the range of the primary, one for all objectives, so that their prices can be compared.
    """
    figure = go.Figure(layout=layout(height=380))
    x, end = list(corners["x"]), max(corners["x"], default=0.0)
    band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(x=x, y=list(corners["low"]), **band)
    figure.add_scatter(x=x, y=list(corners["high"]), fill="tonexty", fillcolor="rgba(0, 114, 178, 0.16)", **band)
    figure.add_scatter(
        x=x,
        y=list(corners["y"]),
        mode="lines",
        name="best",
        line={"color": palette.BLUE, "width": 3},
        hovertemplate="%{x:.2f}: %{y:.3f}<extra></extra>",
    )
    figure.add_vrect(x0=end, x1=1.02, fillcolor=palette.SHADE, line_width=0, layer="below")
    figure.add_annotation(
        x=min((end + 1.02) / 2, 0.99),
        y=0.5,
        yref="paper",
        text=top,
        textangle=-90,
        showarrow=False,
        font_color=palette.RUST,
    )
    if floor:
        figure.add_vline(x=floor, line={"color": palette.RUST, "width": 1.6, "dash": "dash"})
    figure.update_xaxes(title_text=axes[0], range=(0, 1.02))
    figure.update_yaxes(title_text=axes[1], range=span)
    return figure


def lines_chart(frame: pd.DataFrame, x: str, unit: str, names: Mapping[str, str], *, title: str = "") -> go.Figure:
    """The columns ``names`` (title by column) of ``frame`` over its column ``x``."""
    figure = go.Figure(layout=layout(height=300))
    for index, (column, name) in enumerate(names.items()):
        colour, shape = palette.SERIES[index % len(palette.SERIES)]
        figure.add_scatter(
            x=frame[x],
            y=frame[column],
            mode="lines+markers" if len(frame) <= 60 else "lines",
            name=name,
            line={"color": colour, "width": 2.2, "dash": ["solid", "dash", "dot", "dashdot"][index % 4]},
            marker={"symbol": shape, "size": 6},
            hovertemplate=f"{name}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
        )
    figure.update_xaxes(title_text=title, tickformat="")
    figure.update_yaxes(title_text=unit)
    return _with_legend(figure) if len(names) > 1 else figure


def _with_legend(figure: go.Figure) -> go.Figure:
    """Above the chart, where it needs no width."""
    legend = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "font": {"size": 13}}
    legend["bgcolor"] = "rgba(255, 255, 255, 0)"  # so that it hides nothing, where it is drawn before there is room
    figure.update_layout(showlegend=True, legend=legend)
    figure.update_layout(margin={"t": 34})
    return figure
