"""Labelling: compare two answers objective by objective, with the keyboard; rows that ``mopo-train`` reads."""

import streamlit as st

from dashboards import markup
from dashboards.answers import prompt_text
from dashboards.catalogue import Catalogue
from dashboards.frames import FamilyView, file_state, measured_objectives
from dashboards.labelling import (
    BETTER_A,
    BETTER_B,
    FILE,
    QUEUE,
    TIE,
    Pair,
    choose_pairs,
    done_pairs,
    label_row,
    read_queue,
    save_label,
)
from dashboards.views import shared
from mopo_train.errors import MopoError

KEYS = [("a", "A", BETTER_A), ("tie", "T", TIE), ("b", "B", BETTER_B), ("skip", "S", None)]
"""Answer to a question, its key, and the preference that it stands for."""
MOST = 1000


def show(view: FamilyView) -> None:
    """The page."""
    t = shared.words()
    if shared.settings().read_only:
        shared.note(t("app.read_only"))
        return
    if not view.measured:
        shared.ask_to_measure(view)
        return
    shared.note(t("labelling.intro", file=f"{view.root.name}/{FILE}"))
    queue, problems = _queue(view, (file_state(view.root / QUEUE),))
    for problem in problems:
        shared.note(t("shell.left_out", problem=problem))
    if not queue:
        ask_pairs(view, 0, t)
        return
    name = shared.ask_name(st.container(), key="annotator").strip()
    if not name:
        shared.note(t("answers.name_needed"))
        return
    show_next(view, queue, name)


@st.cache_data(max_entries=4, show_spinner=False, hash_funcs={FamilyView: lambda view: str(view.root)})
def _queue(view: FamilyView, states: tuple[object, ...]) -> tuple[list[Pair], list[str]]:
    """``states`` are part of the key only: a changed file is read again."""
    return read_queue(view.root)


def ask_pairs(view: FamilyView, seed: int, t: Catalogue) -> None:
    """A form that draws pairs."""
    told = {"": t("labelling.front")}
    with st.form("choose"):
        left, right = st.columns(2)
        names = ["", *view.profiles.profiles]
        profile = left.selectbox(t("labelling.doubt"), names, format_func=lambda n: told.get(n, n), key="doubt")
        count = right.number_input(t("labelling.how_many"), 1, MOST, 100, key="how-many")
        if not st.form_submit_button(t("labelling.choose"), type="primary"):
            return
    floors = {**view.profiles.organisation.floors, **view.profiles.profiles[profile].floors} if profile else {}
    try:
        choose_pairs(view.root, view.family, floors, int(count), seed)
    except (MopoError, OSError) as error:
        st.error(t("labelling.not_chosen", error=error))
        return
    st.rerun()


@st.fragment
def show_next(view: FamilyView, queue: list[Pair], name: str) -> None:
    """The next question, or that there is none left; a key reruns only this."""
    t, objectives = shared.words(), measured_objectives(view)
    done = done_pairs(view.root, name)
    pair = next((each for each in queue if each.key not in done), None)
    if pair is None:
        st.html(markup.verdict(t("labelling.finished"), t("labelling.count", count=len(done)), feasible=True))
        ask_pairs(view, len(done), t)
        return
    given = _given(pair)
    objective = st.session_state["label-asked"] = next(each for each in objectives if each not in given)
    progress = t("labelling.progress", number=len(given) + 1, count=len(objectives), pairs=len(done), all=len(queue))
    st.html(markup.verdict(t("labelling.question", name=t.objective(objective)), progress, feasible=True))
    st.html(markup.prompt(prompt_text(pair.prompt), "", t))
    for column, letter, text in zip(st.columns(2), "AB", (pair.response_a, pair.response_b), strict=True):
        column.html(markup.card(t("labelling.answer", letter=letter), "", text, "", t))
    with st.container(horizontal=True):
        for told, key, value in KEYS:
            label, place = t(f"labelling.key_{told}"), f"label-{told}"
            st.button(label, shortcut=key, key=place, on_click=_give, args=(view, pair, name, value))
        undo = t("labelling.undo")
        st.button(undo, shortcut="U", key="label-undo", on_click=given.clear, disabled=not given, type="tertiary")
    if problem := st.session_state.pop("label-problem", None):
        st.error(problem)
    said = [f"{t.objective(each)}: {_told(value, t)}" for each, value in given.items()]
    if said:
        shared.note(t.listed(said))


def _given(pair: Pair) -> dict[str, float | None]:
    """What was said about the pair on the screen; nothing about a new one."""
    if st.session_state.get("label-pair") != pair.key:
        st.session_state["label-pair"], st.session_state["label-given"] = pair.key, {}
    given: dict[str, float | None] = st.session_state["label-given"]
    return given


def _give(view: FamilyView, pair: Pair, name: str, value: float | None) -> None:
    """Take the answer to the question on the screen; the last one saves the pair.

    A key that is pressed again before the next question is drawn answers nothing.
    """
    objective = st.session_state.pop("label-asked", None)
    if objective is None:
        return
    given = _given(pair)
    given[objective] = value
    if len(given) < len(measured_objectives(view)):
        return
    try:
        row = label_row(pair, given, name) if any(said is not None for said in given.values()) else None
        save_label(view.root, row, pair, name)
    except OSError as error:
        del given[objective]
        st.session_state["label-problem"] = shared.words()("shell.not_saved", error=error)


def _told(value: float | None, t: Catalogue) -> str:
    return next(t(f"labelling.key_{name}") for name, _, each in KEYS if each == value)


if __name__ == "__main__":
    opened = shared.opened("labelling.heading")
    if opened is not None:
        show(opened)
