"""What every page does: open the family (cached by its files' states), or say what is missing."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboards import markup
from dashboards.answers import read_prompts
from dashboards.catalogue import DEFAULT, Catalogue, catalogue
from dashboards.drafts import Measured, certify_draft, read_measured
from dashboards.errors import EvaluationError
from dashboards.frames import FamilyView, Stamp, file_state, fitted_judges, open_family, stamp
from dashboards.matrix import ScoreMatrix, read_matrix
from dashboards.settings import Settings, read_settings
from dashboards.spreadsheet import csv_bytes
from mopo_eval.certificate import Certificate
from mopo_eval.certification import Request, certify_family
from mopo_eval.profiles import Floors, ThresholdProfile
from mopo_eval.selection import Selection
from mopo_train.errors import FamilyNotFound, MopoError

CHART_SETTINGS = {"displayModeBar": False}


def settings() -> Settings:
    """What the dashboard was started with."""
    return read_settings()


def root() -> Path:
    """The family directory that the dashboard was started for."""
    return settings().family


def words() -> Catalogue:
    """The texts in the language that was chosen in the sidebar."""
    return catalogue(st.session_state.get("language", DEFAULT))


def signed_in() -> str | None:
    """The name, or the address, of who signed in; None without a login."""
    if not settings().login or not st.user.get("is_logged_in"):
        return None
    found = st.user.get("name") or st.user.get("email")
    return str(found) if found else None


def ask_name(place: DeltaGenerator, key: str) -> str:
    """Who is acting: who signed in, or what the person says; offered again for as long as the session lasts."""
    name = ask_signature(place, key, st.session_state.get("name", ""))
    st.session_state["name"] = name
    return name


def ask_signature(place: DeltaGenerator, key: str, offered: str = "") -> str:
    """As ``ask_name``, for what a person answers for: nobody's name is there before they give it."""
    known = signed_in()
    if known is not None:
        place.caption(words()("app.signed_in", name=known))
        return known
    name: str = place.text_input(words()("shell.your_name"), value=offered, max_chars=200, key=key)
    return name


def opened(heading: str) -> FamilyView | None:
    """The family, under a page's ``heading`` and a line of facts; None after a page that helps."""
    t = words()
    st.title(t(heading), anchor=False)
    try:
        view = _open(str(root()), stamp(root()))
    except FamilyNotFound as error:
        commands = [f"mopo-train run DATA --model MODEL --out {root()}"]
        st.html(markup.help_page(t("shell.unfinished"), t("shell.unfinished_text", error=error), commands))
        return None
    except MopoError as error:
        text = t("shell.unreadable_text", error=str(error).rstrip("."))
        st.html(markup.help_page(t("shell.unreadable"), text))
        return None
    st.html(markup.facts(_facts(view, t)))
    for problem in view.problems:
        st.html(markup.note(t("shell.left_out", problem=problem)))
    for objective, known in fitted_judges(view).items():
        numbers = known.model_dump(include={"accuracy", "low", "high", "chance", "ece", "n"})
        st.html(markup.note(t("shell.fitted_judge", name=t.objective(objective), **numbers)))
    return view


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(path: str, state: Stamp) -> FamilyView:
    """``state`` is part of the key only: a changed file is read again."""
    return open_family(Path(path))


def _facts(view: FamilyView, t: Catalogue) -> list[tuple[str, str]]:
    trained = len(view.family.policies) - 1
    parts = [
        (f"{view.root.parent.name}/{view.root.name}", t("shell.family")),
        (str(trained), t("shell.trained_one" if trained == 1 else "shell.trained")),
    ]
    if not view.measured:
        return [*parts, (t("shell.not_measured"), t("shell.yet"))]
    card = view.measured[0]
    prompts = max(score.n for other in view.measured for score in other.objectives.values())
    return [
        *parts,
        (f"{prompts:,}", t("shell.prompts")),
        (f"{card.confidence:.0%}", t("shell.confidence")),
        (card.run, t("shell.evaluation")),
    ]


def ask_to_measure(view: FamilyView) -> None:
    """The page of a family without scorecards."""
    t = words()
    st.html(markup.help_page(t("shell.unmeasured"), t("shell.unmeasured_text"), [f"mopo-eval run {view.root}"]))


def note_unmeasured(view: FamilyView) -> None:
    """Name the policies that have no scorecard."""
    if view.unmeasured:
        t = words()
        names, command = t.listed(view.unmeasured), f"mopo-eval run {view.root}"
        note(t("shell.some_unmeasured", names=names, command=command))


def why_out(margins: Mapping[str, float | None], t: Catalogue) -> str:
    """The floors that are missed, with the amounts; empty if all hold."""
    return t.listed(
        t("word.below", name=t.objective(name), amount=-margin)
        if margin is not None
        else f"{t.objective(name)} {t('word.not_measured')}"
        for name, margin in margins.items()
        if margin is None or margin < 0
    )


def gets(choice: Selection, t: Catalogue) -> markup.Cell:
    """The policy that a profile gets, and why where it gets none that holds its floors."""
    if choice.feasible:
        mixed = t("front.mixture") if choice.weights else ""
        return markup.Cell(f"✓ {choice.served}", "good", mixed)
    if choice.policy:
        return markup.Cell(f"▲ {choice.policy}", "bad", t("front.fallback"))
    closest = next((row for row in choice.policies if row.id == choice.closest), None)
    if closest is None:
        return markup.Cell(f"✕ {t('front.refused')}", "bad", t("front.nobody"))
    why = t("front.refused_why", policy=closest.id, why=why_out(closest.margins, t))
    return markup.Cell(f"✕ {t('front.refused')}", "bad", why)


def judged(view: FamilyView) -> ScoreMatrix | None:
    """The judge scores of the evaluation that the scorecards are of; None where its judgements are missing."""
    if not view.measured:
        return None
    directory = view.root / "evaluation" / view.measured[0].run
    try:
        return _matrix(str(directory), file_state(directory / "judgements.parquet"))
    except EvaluationError as error:
        note(str(error))
        return None


@st.cache_resource(max_entries=2, show_spinner=False)
def _matrix(directory: str, state: tuple[str, int, int] | None) -> ScoreMatrix | None:
    """``state`` is part of the key only: a changed file is read again."""
    return read_matrix(Path(directory)) if state else None


def certificate(
    view: FamilyView, profile: ThresholdProfile, name: str | None, organisation: Floors
) -> Certificate | str:
    """The certificate of ``profile``; a sentence where there can be none. ``name``: of a profile that is in force."""
    directory = view.root / "evaluation" / view.measured[0].run
    names = ("run.json", "judgements.parquet", "registration.json")
    states = tuple(file_state(directory / each) for each in names)
    try:
        measured = _measured(str(directory), states)  # in any case, so that a slider's first move need not wait for it
        if name is None:
            return certify_draft(view.family, measured, profile, organisation)
        return _certificate(view, Request(profile, name, organisation), (stamp(view.root), states))
    except MopoError as error:
        return words()("profiles.no_certificate", error=error)


@st.cache_data(max_entries=64, show_spinner=False, hash_funcs={FamilyView: lambda view: str(view.root), Request: repr})
def _certificate(view: FamilyView, request: Request, states: tuple[object, ...]) -> Certificate:
    """``states`` are part of the key only: changed files are read again."""
    return certify_family(view.root, view.family, request)


@st.cache_resource(max_entries=2, show_spinner=False)
def _measured(directory: str, states: tuple[object, ...]) -> Measured:
    """``states`` are part of the key only: changed files are read again."""
    return read_measured(Path(directory))


@st.cache_data(max_entries=2, show_spinner=False)
def categories(directory: str, state: tuple[str, int, int] | None) -> dict[str, str]:
    """Category per prompt id, empty where there is none; ``state`` is part of the key only."""
    if state is None:
        return {}
    prompts = read_prompts(Path(directory))
    return dict(zip(prompts["prompt_id"], prompts["category"], strict=True))


def forget_stale(key: str, options: Container[object]) -> None:
    """Forget a choice that is no longer among ``options``, before the widget with ``key`` is made."""
    if key in st.session_state and st.session_state[key] not in options:
        del st.session_state[key]


def note(text: str) -> None:
    """A paragraph of explanation."""
    st.html(markup.note(text))


def table(columns: Sequence[markup.Cell], rows: Sequence[Sequence[markup.Cell]], caption: str) -> None:
    """Show a table."""
    st.html(markup.table(columns, rows, caption))


def chart(figure: go.Figure, key: str, alt: str) -> None:
    """Show a chart; ``alt`` is what a screen reader says of it."""
    st.plotly_chart(figure, theme=None, config=CHART_SETTINGS, key=key, alt=alt)


def download(frame: pd.DataFrame, name: str) -> None:
    """A button that saves ``frame`` as ``name``.csv."""
    st.download_button(
        words()("word.download"),
        csv_bytes(frame),
        file_name=f"{name}.csv",
        mime="text/csv",
        icon=":material/download:",
        key=f"download-{name}",
        on_click="ignore",
    )
