"""The findings of ``mopo-train check`` as one HTML page that needs no network. Numbers are taken over, not computed."""

import itertools
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from mopo_train.check.report import check_tables

INK, SOFT, MIDDLE, BLANK = "#1f4e79", "#c8553d", "#e3c16f", "#d9d9d9"
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;border-bottom:1px solid #ddd;"
    "text-align:right}th:first-child,td:first-child{text-align:left}.verdict{font-size:1.15rem;background:#f2f6fa;"
    "padding:1rem;border-left:4px solid #1f4e79}.kind{font-weight:600}figure{margin:1rem 0}"
)


def check_page(document: Mapping[str, Any], sources: str) -> str:
    """The page for the object of ``check --json``; ``sources`` names the data."""
    title = f"What {sources} can support"
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="verdict">{escape(document["verdict"])}</p>', _problems(document)]
    parts += [_table(*table) for table in check_tables(document)]
    told = f"Intervals are at {document['confidence']:.0%}, clustered by prompt; α is Krippendorff's, interval level."
    parts.append(f"<p>{escape(told)}</p>")
    for index, figure in enumerate(figures(document)):
        drawn = figure.to_html(include_plotlyjs=index == 0, full_html=False, config={"displaylogo": False})
        parts.append(f"<figure>{drawn}</figure>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def figures(document: Mapping[str, Any]) -> Iterator[go.Figure]:
    """Labels, biases, conflicts between objectives, comparisons per response, lengths."""
    yield _labels(document)
    yield _biases(document)
    if len(document["objectives"]) > 1:
        yield _relations(document)
    yield _histogram(document)
    yield _lengths(document)


def _labels(document: Mapping[str, Any]) -> go.Figure:
    names, facts = list(document["objectives"]), list(document["objectives"].values())
    counts = {
        "a preferred": [each["a_preferred"] for each in facts],
        "tie": [each["ties"] for each in facts],
        "b preferred": [each["labelled"] - each["ties"] - each["a_preferred"] for each in facts],
        "unlabelled": [document["rows"] - each["labelled"] for each in facts],
    }
    figure = go.Figure()
    for (label, values), colour in zip(counts.items(), (INK, MIDDLE, SOFT, BLANK), strict=True):
        figure.add_bar(y=names, x=values, name=label, orientation="h", marker_color=colour)
    figure.update_layout(barmode="stack")
    return _finished(figure, "Labels", "comparisons", "", 160 + 50 * len(names))


def _biases(document: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for key, label, colour in (
        ("first_preferred", "first response preferred", INK),
        ("longer_preferred", "longer response preferred", SOFT),
    ):
        found = {name: facts[key] for name, facts in document["objectives"].items() if facts[key]}
        values = [share["value"] for share in found.values()]
        figure.add_scatter(
            y=list(found),
            x=values,
            mode="markers",
            name=label,
            marker={"size": 11, "color": colour},
            error_x={
                "type": "data",
                "array": [share["high"] - share["value"] for share in found.values()],
                "arrayminus": [share["value"] - share["low"] for share in found.values()],
            },
        )
    figure.add_vline(x=0.5, line_dash="dot", line_color=BLANK)
    figure.update_xaxes(range=[0, 1], tickformat=".0%")
    return _finished(figure, "Biases", "share of strict comparisons", "", 180 + 50 * len(document["objectives"]))


def _relations(document: Mapping[str, Any]) -> go.Figure:
    names = list(document["objectives"])
    cells: list[list[float | None]] = [[1.0 if a == b else None for a in names] for b in names]
    told = [["" for _ in names] for _ in names]
    for key, value in document["rank_correlation"].items():
        first, second = (names.index(name) for name in key.split("|"))
        share = document["conflict"].get(key)
        text = "-" if value is None else f"{value:.2f}"
        text += f"<br>conflict {share:.0%}" if share is not None else ""
        for row, column in ((first, second), (second, first)):
            cells[row][column], told[row][column] = value, text
    heat = go.Heatmap(
        z=cells, x=names, y=names, text=told, texttemplate="%{text}", zmin=-1, zmax=1, colorscale="RdBu", xgap=2, ygap=2
    )
    title = "Rank correlation and conflicts"
    figure = _finished(go.Figure(heat), title, "", "", 240 + 80 * len(names))
    figure.update_layout(width=340 + 140 * len(names))
    return figure


def _histogram(document: Mapping[str, Any]) -> go.Figure:
    figure = go.Figure()
    for name, counts in document["distributions"]["comparisons_per_response"].items():
        figure.add_bar(x=[int(value) for value in counts], y=list(counts.values()), name=name)
    title = "Labelled comparisons per response"
    return _finished(figure, title, "comparisons", "responses", 380)


def _lengths(document: Mapping[str, Any]) -> go.Figure:
    found = document["distributions"]["response_characters"]
    bins = [f"{low}-{high - 1}" if high - low > 1 else str(low) for low, high in itertools.pairwise(found["edges"])]
    figure = go.Figure(go.Bar(x=bins, y=found["counts"], marker_color=INK))
    figure.update_xaxes(type="category")
    return _finished(figure, "Length of the responses", "characters", "distinct responses", 380)


def _finished(figure: go.Figure, title: str, x: str, y: str, height: int) -> go.Figure:
    figure.update_layout(
        title=title,
        template="plotly_white",
        height=height,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
    )
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    return figure


def _problems(document: Mapping[str, Any]) -> str:
    if not document["problems"]:
        return "<p>No problem was found.</p>"
    lines = [
        f'<li><span class="kind">{escape(each["kind"])}</span>: {escape(each["message"])}'
        + (f" Rows (from 0): {', '.join(map(str, each['examples']))} …" if each["examples"] else "")
        + "</li>"
        for each in document["problems"]
    ]
    return f"<h2>Problems</h2><ul>{''.join(lines)}</ul>"


def _table(title: str, columns: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table>"
