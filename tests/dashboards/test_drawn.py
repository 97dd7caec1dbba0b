"""Every chart has its table, and a download: what is drawn is also there in numbers, for who cannot see it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from streamlit.testing.v1 import AppTest

from dashboards.settings import AUDIT_VARIABLE, FAMILY_VARIABLE
from dashboards.views import shared
from mopo_serve.routing import family_identity
from tests.dashboards.examples import write_example_audit, write_example_family
from tests.dashboards.running import healthy, opened
from tests.dashboards.test_data_pages import write_data

DATA_AXES = {
    "front-chart": "xy",
    "parallel-chart": "y",
    "planned-chart": "xy",
    "price-": "y",
    "compared-scores": "x",
    "differences": "x",
    "categories": "x",
    "radar": "r",
    "judge_score-": "x",
    "win_rate-": "x",
    "training-": "y",
    "biases": "x",
    "over-time": "y",
    "feedback": "x",
}
"""Beginning of a chart's key, and the coordinates that hold its numbers; the others say what they are of."""
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


class Drawn(NamedTuple):
    """What one page shows."""

    charts: dict[str, go.Figure]
    cells: list[str]
    frames: list[pd.DataFrame]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Filled by every page that is opened, and shown as ever."""
    found = Drawn({}, [], [])
    chart, table, download = shared.chart, shared.table, shared.download

    def charted(figure: go.Figure, key: str, alt: str) -> None:
        found.charts[key] = figure
        chart(figure, key, alt)

    def tabled(columns: Any, rows: Any, caption: str) -> None:
        found.cells.extend(text.replace("−", "-") for row in rows for cell in row for text in (cell.text, cell.note))
        table(columns, rows, caption)

    def downloaded(frame: pd.DataFrame, name: str) -> None:
        found.frames.append(frame)
        download(frame, name)

    for name, stand_in in (("chart", charted), ("table", tabled), ("download", downloaded)):
        monkeypatch.setattr(shared, name, stand_in)
    return found


def numbers(figure: go.Figure, axes: str) -> Iterator[float]:
    """What the marks of a figure, or its lines where it has no marks, stand at, with the ends of their intervals.

    Not the front that a sandbox knows or a plan predicts, lines beside marks, nor floors, which the sliders say.
    """
    marked = [trace for trace in figure.data if "markers" in (trace.mode or "") and trace.marker.symbol != "line-ew"]
    for trace in marked or figure.data:
        for axis in axes:
            values = np.array(trace[axis], dtype=float)
            yield from values
            error = trace.error_x if axis == "x" and trace.type == "scatter" else None
            if error is not None and error.array is not None:
                yield from values + np.array(error.array, dtype=float)
                yield from values - np.array(error.arrayminus, dtype=float)


def missing(values: Iterator[float], known: list[float], tolerance: float) -> list[float]:
    there = np.unique(np.array(known, dtype=float))
    there = there[np.isfinite(there)]
    return [v for v in values if np.isfinite(v) and not (len(there) and np.abs(there - v).min() <= tolerance)]


def check(found: Drawn, app: AppTest) -> None:
    healthy(app)
    assert found.charts
    told = [float(number.replace(",", "")) for cell in found.cells for number in NUMBER.findall(cell)]
    saved = [value for frame in found.frames for value in frame.select_dtypes("number").to_numpy(float).ravel()]
    for key, figure in found.charts.items():
        axes = next(axes for start, axes in DATA_AXES.items() if key.startswith(start))
        assert missing(numbers(figure, axes), saved, 1e-9) == [], f"{key}: not in a download"
        assert missing(numbers(figure, axes), told, 1.1e-3) == [], f"{key}: not in a table"  # bounds are rounded down


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "family"
    write_example_family(path, policies=5, prompts=40)
    monkeypatch.setenv(FAMILY_VARIABLE, str(path))
    return path


@pytest.mark.parametrize(
    ("page", "mode"),
    [
        (None, ()),
        (None, ("unit", "planned")),
        ("views/price.py", ()),
        ("views/compare.py", ()),
        ("views/compare.py", ("mode", "every")),
        ("views/training.py", ()),
    ],
)
def test_what_is_drawn_is_in_a_table_and_in_a_download(
    root: Path, drawn: Drawn, page: str | None, mode: tuple[str, ...]
) -> None:
    app = opened(page)
    if mode:
        for found in drawn:
            found.clear()
        app.button_group(key=mode[0]).set_value(mode[1]).run()
    check(drawn, app)


def test_what_is_drawn_of_data_and_requests_is_in_a_table_and_in_a_download(
    root: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(root)
    app = opened("views/data.py")
    app.button(key="check").click().run()
    check(drawn, app)
    write_example_audit(root.parent / "audit.db", days=3, family=family_identity(root))
    monkeypatch.setenv(AUDIT_VARIABLE, str(root.parent / "audit.db"))
    for found in drawn:
        found.clear()
    check(drawn, opened("views/monitor.py"))
