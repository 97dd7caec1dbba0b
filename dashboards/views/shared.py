"""What every page does: open the family (cached by its files' states), or say what is missing."""

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboards import markup
from dashboards.cli import FAMILY_VARIABLE
from dashboards.frames import FamilyView, Stamp, open_family, stamp
from mopo_train.errors import FamilyNotFound, MopoError


def root() -> Path:
    """The family directory that the dashboard was started for."""
    return Path(os.environ[FAMILY_VARIABLE])


def opened(heading: str) -> FamilyView | None:
    """The family, under a page's ``heading`` and a line of facts; None after a page that helps."""
    st.title(heading, anchor=False)
    try:
        view = _open(str(root()), stamp(root()))
    except FamilyNotFound as error:
        commands = [f"mopo-train run DATA --model MODEL --out {root()}"]
        st.html(markup.help_page("This family is not finished", f"{error} Reload this page afterwards.", commands))
        return None
    except MopoError as error:
        advice = "Restore the directory from a copy, or repeat the command that wrote it; then reload this page."
        st.html(markup.help_page("This family cannot be read", f"{str(error).rstrip('.')}. {advice}"))
        return None
    st.html(markup.facts(_facts(view)))
    for problem in view.problems:
        st.html(markup.note(f"Left out: {problem}"))
    return view


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(path: str, state: Stamp) -> FamilyView:
    """``state`` is part of the key only: a changed file is read again."""
    return open_family(Path(path))


def _facts(view: FamilyView) -> list[tuple[str, str]]:
    trained = len(view.family.policies) - 1
    parts = [
        (f"{view.root.parent.name}/{view.root.name}", "family"),
        (str(trained), f"trained {'policy' if trained == 1 else 'policies'} and the reference"),
    ]
    if not view.measured:
        return [*parts, ("not measured", "yet")]
    card = view.measured[0]
    prompts = max(score.n for other in view.measured for score in other.objectives.values())
    parts += [(f"{prompts:,}", "prompts"), (f"{card.confidence:.0%}", "confidence"), (card.run, "evaluation")]
    return parts


def ask_to_measure(view: FamilyView) -> None:
    """The page of a family without scorecards."""
    st.html(
        markup.help_page(
            "Not measured yet",
            "This family is trained, but no policy has a scorecard, so there are no judge scores to show. "
            "Measure it, then reload this page:",
            [f"mopo-eval run {view.root}"],
        )
    )


def note_unmeasured(view: FamilyView) -> None:
    """Name the policies that have no scorecard."""
    if view.unmeasured:
        names = ", ".join(view.unmeasured)
        st.html(markup.note(f"Not measured, so not shown: {names}. Run mopo-eval run {view.root} to measure them."))


def table(columns: Sequence[markup.Cell], rows: Sequence[Sequence[markup.Cell]], caption: str) -> None:
    """Show a table."""
    st.html(markup.table(columns, rows, caption))


def download(frame: pd.DataFrame, name: str, label: str = "Download as CSV") -> None:
    """A button that saves ``frame`` as ``name``.csv."""
    st.download_button(
        label,
        frame.to_csv(index=False).encode(),
        file_name=f"{name}.csv",
        mime="text/csv",
        icon=":material/download:",
        key=f"download-{name}",
        on_click="ignore",
    )
