"""The predicted front as a page that needs no network: one panel per objective that trades against the primary."""

import html
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

INK, SOFT, FAULT, LIMIT = "#1f4e79", "#8fb3d4", "#c0504d", "#b0b0b0"
COLORS = {"predicted": INK, "bound": SOFT, "attained": FAULT}
NAMES = {"predicted": "predicted", "bound": "lower bound", "attained": "attained by policies"}


def plan_page(document: Mapping[str, Any]) -> str:
    """A self-contained HTML page for the object of ``plan --json``."""
    figure = plan_figure(document).to_html(include_plotlyjs=True, full_html=False, config={"displaylogo": False})
    said = "".join(f"<li>{html.escape(each['text'])}</li>" for each in document["steps"])
    steps = f"<h2>What each step costs (data win rates)</h2><ul>{said}</ul>" if said else ""
    style = "body{font-family:sans-serif;margin:1.5em} h2{font-size:1.1em} li{margin:.2em 0}"
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Predicted front</title>'
        f"<style>{style}</style></head><body>{figure}{steps}</body></html>\n"
    )


def plan_figure(document: Mapping[str, Any]) -> go.Figure:
    """Predicted values as numbered points, lower bounds on them, and the largest floor that can be held as a line."""
    primary, points = document["primary"], document["points"]
    others = [name for name in document["objectives"] if name != primary]
    figure = make_subplots(rows=1, cols=len(others), horizontal_spacing=0.12)
    for column, name in enumerate(others, start=1):
        place = {"row": 1, "col": column}
        if any("attained" in point for point in points):
            figure.add_trace(_trace(points, "attained", primary, name, show=column == 1), **place)
        figure.add_trace(_trace(points, "bound", primary, name, show=column == 1), **place)
        figure.add_trace(_trace(points, "predicted", primary, name, show=column == 1), **place)
        figure.add_hline(y=document["attainable"][name], line_dash="dot", line_color=LIMIT, **place)
        figure.update_xaxes(title_text=f"{primary} (data win rate)", **place)
        figure.update_yaxes(title_text=f"{name} (data win rate)", **place)
    figure.update_layout(
        title={
            "text": f"Predicted front: {document['prompts']} prompts, tau {document['tau']:g}"
            "<br><sub>0.5 is parity with the data's responses; dotted: the largest floor, alone</sub>"
        },
        template="plotly_white",
        height=520,
        width=max(640, 520 * len(others)),
        legend={"orientation": "h", "y": -0.2},
    )
    return figure


def _trace(points: list[dict[str, Any]], field: str, primary: str, name: str, *, show: bool) -> go.Scatter:
    plain = field == "predicted"
    lines = "+lines" if len(points[0]["predicted"]) == 2 else ""  # with more objectives neighbours here are not
    return go.Scatter(
        x=[point[field][primary] for point in points],
        y=[point[field][name] for point in points],
        mode=f"markers+text{lines}" if plain else "markers",
        marker={"size": 11 if plain else 8, "color": COLORS[field]},
        line={"color": INK, "width": 1},
        text=[str(index) for index in range(len(points))],
        textposition="top center",
        customdata=[[point["kl"], point["ess"]] for point in points],
        hovertemplate=f"point %{{text}}<br>{primary} %{{x:.3f}}<br>{name} %{{y:.3f}}<br>"
        "KL %{customdata[0]:.2f} nats<br>ESS %{customdata[1]:.2f}<extra></extra>",
        name=NAMES[field],
        legendgroup=field,
        showlegend=show,
    )
