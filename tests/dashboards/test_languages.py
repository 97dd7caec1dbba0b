"""Whatever a page shows is either in the catalogue or comes from the family's files.

The catalogue is replaced by one whose texts stand in brackets. What is then outside of brackets must be made of words
that the family's files hold, numbers and symbols.
"""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from dashboards.catalogue import TEXTS, Catalogue, read_texts
from dashboards.navigation import FILES, PAGES
from dashboards.settings import AUDIT_VARIABLE, FAMILY_VARIABLE
from dashboards.versions import save_version
from dashboards.views import shared
from mopo_serve.routing import family_identity
from tests.dashboards.examples import PROFILES, write_example_audit, write_example_family
from tests.dashboards.running import healthy, opened, submit

OPEN, CLOSE = "\u27e6", "\u27e7"
VIEWS = [FILES.get(name, name) for name, _, _ in PAGES]
UNITS = {"English", "日本語", "KL", "ESS", "MOPO", "Krippendorff", "p", "jsonl", "json", "labels"}
"""Names that are the same in every language."""
COMMANDS = re.compile(r"<pre>.*?</pre>", re.S)
HIDDEN = re.compile(r"<(style|script)\b.*?</\1>|<[^>]*>", re.S)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "family"
    write_example_family(path, policies=4, prompts=40)
    write_example_audit(tmp_path / "audit.db", days=3, family=family_identity(path))
    save_version(path, PROFILES, "policy-00")  # an author whose name is known
    monkeypatch.setenv(FAMILY_VARIABLE, str(path))
    monkeypatch.setenv(AUDIT_VARIABLE, str(tmp_path / "audit.db"))
    marked = {key: f"{OPEN}{text}{CLOSE}" for key, text in read_texts(TEXTS / "en.yaml").items()}
    monkeypatch.setattr(shared, "catalogue", lambda language: Catalogue("en", marked))
    return path


def shown(app: AppTest) -> Iterator[str]:
    """Every text that a person or a screen reader meets."""
    for element in app.get("html"):
        body = COMMANDS.sub(" ", element.proto.body)
        yield from re.findall(r'(?:aria-label|title|alt)="([^"]*)"', body)
        yield HIDDEN.sub(" ", body)
    for kind in ("title", "header", "subheader", "caption"):
        yield from (str(getattr(element, "value", "")) for element in app.get(kind))
    widgets = ("button", "selectbox", "slider", "text_input", "text_area", "checkbox", "multiselect", "number_input")
    for kind in (*widgets, "date_input", "button_group", "expander", "download_button"):
        for element in app.get(kind):
            yield str(getattr(element, "label", None) or getattr(element.proto, "label", ""))
            yield from (str(option) for option in getattr(element, "options", []) or [])
    for element in app.get("plotly_chart"):
        yield element.proto.alt


def outside(text: str) -> str:
    """What is not in brackets, however deep."""
    depth, kept = 0, []
    for character in unescape(text):
        depth += (character == OPEN) - (character == CLOSE)
        if depth == 0 and character != CLOSE:
            kept.append(character)
    return "".join(kept)


def known_words(root: Path) -> set[str]:
    """Words of the family's files."""
    import pandas as pd

    text = " ".join(path.read_text(encoding="utf-8") for path in [*root.rglob("*.json"), *root.rglob("*.yaml")])
    for name in ("responses", "judgements"):
        rows = pd.read_parquet(root / "evaluation" / "first" / f"{name}.parquet")
        text += " ".join(rows.astype(str).to_numpy().ravel().tolist())
    columns = pd.read_parquet(root / "training" / "policy-01.parquet").columns
    return set(re.findall(r"[^\W\d_]+", f"{text} {root} {' '.join(columns)}")) | UNITS


@pytest.mark.parametrize("view", VIEWS)
def test_no_text_of_a_page_is_outside_the_catalogue(root: Path, view: str) -> None:
    app = opened(f"views/{view}.py")
    if view == "labelling":
        submit(app, "choose")
        app.text_input(key="annotator").input("policy").run()
    words, known = {}, {word.lower() for word in known_words(root)}
    for tab in ["draft", "sign", "history"] if view == "profiles" else [None]:
        if tab is not None:
            app.button_group(key="profiles-tab").set_value(tab).run()
        for text in shown(healthy(app)):
            for word in re.findall(r"[^\W\d_]{2,}", outside(text)):
                if word.lower() not in known:
                    words[word] = text[:120]
    assert words == {}
