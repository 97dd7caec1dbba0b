"""Labelling: compare two answers objective by objective, with the keyboard; rows that ``mopo-train`` reads."""

from pathlib import Path
from typing import NamedTuple

import streamlit as st

from dashboards import markup
from dashboards.answers import AnswerStore, prompt_text
from dashboards.catalogue import Catalogue
from dashboards.errors import EvaluationError
from dashboards.frames import FamilyView, file_state, measured_objectives
from dashboards.labelling import (
    BETTER_A,
    BETTER_B,
    FILE,
    TIE,
    Pair,
    choose_pairs,
    done_pairs,
    label_row,
    objective_weights,
    save_label,
)
from dashboards.matrix import ScoreMatrix
from dashboards.views import shared
from mopo_train.rows import RowError

KEYS = [("a", "A", BETTER_A), ("tie", "T", TIE), ("b", "B", BETTER_B), ("skip", "S", None)]
"""Answer to a question, its key, and the preference that it stands for."""


class Question(NamedTuple):
    """What is on the screen."""

    pair: Pair
    prompt: str
    """As the evaluation keeps it."""
    answers: tuple[str, str]
    """Texts of A and B."""


def show(view: FamilyView) -> None:
    """The page."""
    t = shared.words()
    if shared.settings().read_only:
        shared.note(t("app.read_only"))
        return
    if not view.measured:
        shared.ask_to_measure(view)
        return
    matrix = shared.judged(view)
    directory = view.root / "evaluation" / view.measured[0].run
    try:
        states = tuple(file_state(directory / f"{name}.parquet") for name in ("responses", "judgements"))
        store = _store(str(directory), states)
    except EvaluationError as error:
        st.html(markup.help_page(t("shell.broken_answers"), str(error), [f"mopo-eval run {view.root}"]))
        return
    if matrix is None:
        shared.note(t("compare.no_judgements"))
        return
    shared.note(t("labelling.intro", file=f"{view.root.name}/{FILE}"))
    name = shared.ask_name(st.container(), key="annotator").strip()
    if not name:
        shared.note(t("answers.name_needed"))
        return
    show_next(view, matrix, store, name)


@st.cache_resource(max_entries=2, show_spinner=False)
def _store(directory: str, states: tuple[tuple[str, int, int] | None, ...]) -> AnswerStore:
    """``states`` are part of the key only: a changed file is read again."""
    return AnswerStore(Path(directory))


@st.fragment
def show_next(view: FamilyView, matrix: ScoreMatrix, store: AnswerStore, name: str) -> None:
    """The next question, or that there is none left; a key reruns only this."""
    t, objectives = shared.words(), measured_objectives(view)
    done = done_pairs(view.root, name)
    question = _next_question(view, matrix, store, name, done)
    if question is None:
        st.html(markup.verdict(t("labelling.finished"), t("labelling.count", count=len(done)), feasible=True))
        return
    given: dict[str, float | None] = st.session_state.setdefault("label-given", {})
    open_ones = [objective for objective in objectives if objective not in given]
    objective = open_ones[0]
    st.html(
        markup.verdict(
            t("labelling.question", name=t.objective(objective)),
            t("labelling.progress", number=len(given) + 1, count=len(objectives), pairs=len(done)),
            feasible=True,
        )
    )
    st.html(markup.prompt(prompt_text(question.prompt), "", t))
    for column, letter, text in zip(st.columns(2), "AB", question.answers, strict=True):
        column.html(markup.card(t("labelling.answer", letter=letter), "", text, "", t))
    with st.container(horizontal=True):
        for told, key, value in KEYS:
            st.button(
                t(f"labelling.key_{told}"),
                shortcut=key,
                key=f"label-{told}",
                on_click=_give,
                args=(view, question, name, objectives, objective, value),
            )
        st.button(
            t("labelling.undo"), shortcut="U", key="label-undo", on_click=_undo, disabled=not given, type="tertiary"
        )
    if problem := st.session_state.pop("label-problem", None):
        st.error(problem)
    said = [f"{t.objective(each)}: {_told(value, t)}" for each, value in given.items()]
    if said:
        shared.note(t.listed(said))


def _next_question(
    view: FamilyView, matrix: ScoreMatrix, store: AnswerStore, name: str, done: list[tuple[str, str, str]]
) -> Question | None:
    """The pair in work, or the best one that ``name`` has not seen; identical answers are passed over."""
    kept: Question | None = st.session_state.get("label-question")
    if kept is not None and kept.pair[:3] not in done:
        return kept
    st.session_state["label-given"] = {}
    for pair in _queue(view, matrix, tuple(done)):
        found = {each.policy: each for each in reversed(store.find(pair.prompt_id))}
        if pair.first not in found or pair.second not in found:
            continue
        a, b = (found[policy].response for policy in pair.shown)
        if a.strip() and b.strip() and a.strip() != b.strip():
            question = Question(pair, store.prompt(pair.prompt_id), (a, b))
            st.session_state["label-question"] = question
            return question
    st.session_state.pop("label-question", None)
    return None


def _queue(view: FamilyView, matrix: ScoreMatrix, done: tuple[tuple[str, str, str], ...]) -> list[Pair]:
    primary = view.family.primary
    cards = [card for card in view.measured if primary in card.objectives]
    order = [card.policy for card in sorted(cards, key=lambda card: -card.objectives[primary].mean)]
    profiles = view.profiles
    floors = [profiles.organisation.floors, *(profile.floors for profile in profiles.profiles.values())]
    weights = objective_weights(view.measured, measured_objectives(view), floors)
    return choose_pairs(matrix, order, weights, done)


def _give(
    view: FamilyView, question: Question, name: str, objectives: list[str], objective: str, value: float | None
) -> None:
    """Take the answer to one question; the last one saves the pair."""
    given: dict[str, float | None] = st.session_state["label-given"]
    given[objective] = value
    if len(given) < len(objectives):
        return
    preferences = {each: said for each, said in given.items() if said is not None}
    try:
        row = label_row(question.prompt, question.answers, preferences, name) if preferences else None
        save_label(view.root, row, question.pair, name)
        st.session_state["label-given"] = {}
    except (OSError, RowError) as error:
        del given[objective]
        st.session_state["label-problem"] = shared.words()("shell.not_saved", error=error)


def _undo() -> None:
    """Take back the last answer about this pair."""
    given: dict[str, float | None] = st.session_state["label-given"]
    if given:
        given.popitem()


def _told(value: float | None, t: Catalogue) -> str:
    return next(t(f"labelling.key_{name}") for name, _, each in KEYS if each == value)


if __name__ == "__main__":
    opened = shared.opened("labelling.heading")
    if opened is not None:
        show(opened)
