"""Streamlit's own test runner on the dashboard, and what a page shows there."""

from html import unescape
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

from dashboards.cli import APP


def opened(page: str | None = None) -> AppTest:
    """The application at ``page`` (``views/...``), by default the front."""
    app = AppTest.from_file(APP, default_timeout=60).run()
    if page is not None:
        app.switch_page(page).run()
    return healthy(app)


def healthy(app: AppTest) -> AppTest:
    """The application, which must have raised nothing."""
    assert [error.value for error in app.exception] == []
    return app


def text(app: AppTest) -> str:
    """Everything that the page writes as HTML, except its style; spaces that hold words together are spaces."""
    return unescape("\n".join(body for body in bodies(app) if "<style" not in body)).replace("\u00a0", " ")


def bodies(app: AppTest) -> list[str]:
    return [element.proto.body for element in app.get("html")]


def charts(app: AppTest) -> list[Any]:
    return list(app.get("plotly_chart"))


def submit(app: AppTest, form: str) -> AppTest:
    """Press the only button of ``form``."""
    button = next(button for button in app.button if str(button.key or "").startswith(f"FormSubmitter:{form}-"))
    button.click().run()
    return healthy(app)


def page_file(name: str) -> Path:
    return APP.parent / "views" / f"{name}.py"
