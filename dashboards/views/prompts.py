"""Answers side by side: one prompt, the policies' answers and what the judges said, all as plain text."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import streamlit as st
from pydantic import ValidationError

from dashboards import markup
from dashboards.answers import AnswerStore, evaluation_runs, evenly, find_prompts, prompt_titles, read_prompts
from dashboards.catalogue import Catalogue
from dashboards.errors import EvaluationError
from dashboards.finding import largest_first, shortfall, spread
from dashboards.flags import Flag, add_flag, now, read_flags
from dashboards.floors import binding_floors
from dashboards.frames import FamilyView, dominated_policies, file_state
from dashboards.markup import Cell
from dashboards.matrix import ScoreMatrix, read_matrix
from dashboards.views import shared
from mopo_train.family import REFERENCE

LISTED = 200  # prompts in the list at once; the search narrows them
BESIDE = 8  # answers shown before anyone chooses
ORDERS = ["asked", "differ", "missed", "flagged"]


class Reading(NamedTuple):
    """An evaluation that is read."""

    run: str
    prompts: pd.DataFrame
    store: AnswerStore
    matrix: ScoreMatrix | None


def show(view: FamilyView) -> None:
    """The page."""
    t = shared.words()
    runs = evaluation_runs(view.root)
    if not runs:
        commands = [f"mopo-eval run {view.root}"]
        st.html(markup.help_page(t("shell.no_answers"), t("shell.no_answers_text"), commands))
        return
    used = next((card.run for card in view.measured if card.run in runs), runs[0])
    run = used
    if len(runs) > 1:
        run = st.selectbox(t("word.evaluation"), runs, index=runs.index(used), key="run")
    directory = view.root / "evaluation" / run
    try:
        states = [file_state(directory / f"{name}.parquet") for name in ("responses", "judgements")]
        reading = _read(str(directory), tuple(states))
    except EvaluationError as error:
        st.html(markup.help_page(t("shell.broken_answers"), str(error), [f"mopo-eval run {view.root}"]))
        return
    if not reading.store.judged:
        shared.note(t("answers.not_judged", command=f"mopo-eval run {view.root}"))
    chosen = ask_policies(view, reading, t)
    prompt_id = ask_prompt(view, reading, chosen, t)
    if prompt_id is not None:
        show_answers(view, reading, prompt_id, chosen, t)


@st.cache_resource(max_entries=2, show_spinner=False)
def _read(directory: str, states: tuple[tuple[str, int, int] | None, ...]) -> Reading:
    """``states`` are part of the key only: a changed file is read again."""
    path = Path(directory)
    return Reading(path.name, read_prompts(path), AnswerStore(path), read_matrix(path))


def ask_policies(view: FamilyView, reading: Reading, t: Catalogue) -> list[str]:
    """The policies whose answers are shown and compared."""
    here = set(reading.store.policies)
    order = [policy.id for policy in view.family.policies if policy.id in here]
    order += sorted(here - set(order))
    chosen = st.pills(
        t("word.policies"), order, selection_mode="multi", default=first_choice(view, order), key="policies"
    )
    return [name for name in order if name in chosen]


def first_choice(view: FamilyView, order: list[str]) -> list[str]:
    """The policies shown at first: all, or where there are many the reference and some spread over the front."""
    if len(order) <= BESIDE:
        return order
    dominated = dominated_policies(view)
    front = [name for name in order if name not in dominated | {REFERENCE}]
    return [name for name in order if name == REFERENCE] + evenly(front, BESIDE - 1)


def ask_prompt(view: FamilyView, reading: Reading, chosen: list[str], t: Catalogue) -> str | None:
    """The id of the prompt that was chosen, after search, category and order; None if none is found."""
    left, middle, right = st.columns([2, 1, 1])
    words = left.text_input(t("answers.search"), placeholder=t("answers.every_word"), key="words")
    also = left.checkbox(t("answers.in_answers"), key="in-answers")
    categories = sorted(name for name in reading.prompts["category"].unique() if name)
    category = ""
    if categories:
        told = {"": t("word.every_category")}
        category = middle.selectbox(
            t("word.category"), ["", *categories], format_func=lambda name: told.get(name, name), key="category"
        )
    order = right.selectbox(
        t("answers.order"), ORDERS, format_func=lambda name: t(f"answers.order_{name}"), key="order"
    )
    found = find_prompts(reading.prompts, words, category)
    if also and words.strip():
        inside = reading.prompts[reading.prompts["prompt_id"].isin(reading.store.search(words))]
        found = pd.concat([found, find_prompts(inside, "", category)]).drop_duplicates("prompt_id").sort_index()
    ranked = rank(view, reading, chosen, order, t)
    if ranked is not None:
        place = {name: index for index, name in enumerate(ranked)}
        found = found[found["prompt_id"].isin(place)]
        found = found.assign(place=found["prompt_id"].map(place)).sort_values("place")
    if found.empty:
        shared.note(t("answers.nothing"))
        return None
    return _ask_listed(reading, found, ranked or {}, t)


def rank(view: FamilyView, reading: Reading, chosen: list[str], order: str, t: Catalogue) -> dict[str, float] | None:
    """The prompts that ``order`` keeps, best first, with what they are ordered by; None for all as they were asked."""
    if order == "flagged":
        flags, _ = read_flags(view.root)
        return {flag.prompt_id: 0.0 for flag in flags if flag.run == reading.run}
    if order == "asked" or reading.matrix is None:
        return None
    matrix = reading.matrix
    told = {"": t("answers.any_objective")}
    objective = st.segmented_control(
        t("word.objective"),
        ["", *matrix.objectives],
        format_func=lambda name: told.get(name) or t.title(name),
        default="",
        required=True,
        key="ranked-by",
    )
    asked = [objective] if objective else matrix.objectives
    if order == "differ":
        return largest_first(matrix.prompts, spread(matrix, chosen, asked))
    floors = binding_floors(view, st.session_state.get("floors", {}))
    shared.note(t("answers.floors", floors=t.floors(floors)) if floors else t("answers.no_floors"))
    return largest_first(matrix.prompts, shortfall(matrix, chosen, {k: v for k, v in floors.items() if k in asked}))


def _ask_listed(reading: Reading, found: pd.DataFrame, ranked: dict[str, float], t: Catalogue) -> str:
    """A list, and two buttons (and keys) that step through it."""
    listed = found.head(LISTED)
    titles = prompt_titles(listed)
    names = list(titles)
    label = t("answers.prompt", found=len(found), count=len(reading.prompts))
    if len(found) > LISTED:
        label = t("answers.prompt_many", found=len(found), count=len(reading.prompts), listed=LISTED)
    if st.session_state.get("prompt") not in names:
        st.session_state["prompt"] = names[0]

    def step(by: int) -> None:
        place = names.index(st.session_state["prompt"]) + by
        st.session_state["prompt"] = names[min(max(place, 0), len(names) - 1)]

    def told(name: str) -> str:
        return f"{ranked[name]:.2f} · {titles[name]}" if ranked.get(name) else titles[name]

    chosen: str = st.selectbox(label, names, format_func=told, key="prompt")
    with st.container(horizontal=True):
        st.button(t("answers.previous"), on_click=step, args=(-1,), shortcut="K", key="previous")
        st.button(t("answers.next"), on_click=step, args=(1,), shortcut="J", key="next")
    return chosen


def show_answers(view: FamilyView, reading: Reading, prompt_id: str, chosen: list[str], t: Catalogue) -> None:
    """The prompt and its answers."""
    row = reading.prompts[reading.prompts["prompt_id"] == prompt_id].iloc[0]
    st.html(markup.prompt(row["prompt"], row["category"], t))
    answers = reading.store.find(prompt_id)
    samples = sorted({answer.sample for answer in answers})
    sample = samples[0]
    if len(samples) > 1:
        sample = st.segmented_control(t("answers.sample"), samples, default=sample, required=True, key="sample")
    here = {answer.policy: answer for answer in answers if answer.sample == sample}
    kinds = {policy.id: policy.kind for policy in view.family.policies}
    st.html(markup.answer_grid([here[name] for name in chosen if name in here], kinds, t))
    show_flags(view, Flag(time="-", name="-", run=reading.run, prompt_id=prompt_id, policy="-", sample=sample), here, t)


def show_flags(view: FamilyView, at: Flag, policies: Iterable[str], t: Catalogue) -> None:
    """What was said about the answers to this prompt (``at`` says where), and a form to say more."""
    st.header(t("answers.flags"), anchor=False)
    flags, problems = read_flags(view.root)
    for problem in problems:
        shared.note(t("shell.left_out", problem=problem))
    mine = [flag for flag in flags if (flag.run, flag.prompt_id, flag.sample) == (at.run, at.prompt_id, at.sample)]
    if mine:
        heads = [Cell(t("word.policy")), Cell(t("answers.comment")), Cell(t("answers.who"))]
        rows = [[Cell(f"⚑ {flag.policy}"), Cell(flag.comment), Cell(flag.name, note=flag.time)] for flag in mine]
        shared.table(heads, rows, t("answers.flags"))
    if flags:
        shared.download(pd.DataFrame([flag.model_dump() for flag in flags]), f"{view.root.name}-flags")
    if shared.settings().read_only:
        return
    with st.form("flag", clear_on_submit=True):
        left, right = st.columns(2)
        policy = left.selectbox(t("answers.which"), list(policies), key="flag-policy")
        name = shared.ask_name(right, key="flag-name")
        comment = st.text_area(t("answers.comment"), max_chars=5000, key="flag-comment")
        if st.form_submit_button(t("answers.flag"), icon=":material/flag:"):
            try:
                made = {"time": now(), "name": name.strip(), "policy": policy, "comment": comment.strip()}
                add_flag(view.root, Flag.model_validate(at.model_dump() | made))
                st.rerun()
            except ValidationError:
                st.error(t("answers.name_needed"))
            except OSError as error:
                st.error(t("shell.not_saved", error=error))


if __name__ == "__main__":
    opened = shared.opened("answers.heading")
    if opened is not None:
        show(opened)
