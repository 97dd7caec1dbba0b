"""Answers side by side: one prompt, the policies' answers and what the judges said, all as plain text."""

from pathlib import Path

import pandas as pd
import streamlit as st

from dashboards import markup
from dashboards.answers import AnswerStore, evaluation_runs, evenly, find_prompts, prompt_titles, read_prompts
from dashboards.errors import EvaluationError
from dashboards.frames import FamilyView, dominated_policies, file_state
from dashboards.views import shared
from mopo_train.family import REFERENCE

# Plain comments: Streamlit's "magic" would print strings that stand alone in a page.
LISTED = 200  # prompts in the list at once; the search narrows them
BESIDE = 8  # answers shown before anyone chooses
ALL = "All categories"


def show(view: FamilyView) -> None:
    """The page."""
    runs = evaluation_runs(view.root)
    if not runs:
        text = "No evaluation holds answers of this family. Measure it, then reload this page:"
        st.html(markup.help_page("No answers yet", text, [f"mopo-eval run {view.root}"]))
        return
    used = next((card.run for card in view.measured if card.run in runs), runs[0])
    run = used
    if len(runs) > 1:
        run = st.selectbox("Evaluation", runs, index=runs.index(used), key="run")
    directory = view.root / "evaluation" / run
    try:
        prompts = _prompts(str(directory), file_state(directory / "responses.parquet"))
        states = [file_state(directory / f"{name}.parquet") for name in ("responses", "judgements")]
        store = _store(str(directory), tuple(states))
    except EvaluationError as error:
        st.html(markup.help_page("The answers cannot be read", str(error), [f"mopo-eval run {view.root}"]))
        return
    prompt_id = ask_prompt(prompts)
    if prompt_id is None:
        return
    if not store.judged:
        st.html(markup.note(f"This evaluation has no judgements yet. Run mopo-eval run {view.root} to finish it."))
    show_answers(view, prompts, store, prompt_id)


@st.cache_resource(max_entries=2, show_spinner="Reading the prompts")
def _prompts(directory: str, state: tuple[str, int, int] | None) -> pd.DataFrame:
    """``state`` is part of the key only: a changed file is read again."""
    return read_prompts(Path(directory))


@st.cache_resource(max_entries=2, show_spinner="Reading the answers")
def _store(directory: str, states: tuple[tuple[str, int, int] | None, ...]) -> AnswerStore:
    """``states`` are part of the key only: a changed file is read again."""
    return AnswerStore(Path(directory))


def ask_prompt(prompts: pd.DataFrame) -> str | None:
    """The id of the prompt that was chosen, after search and category; None if none is found."""
    left, right = st.columns([2, 1])
    words = left.text_input("Search in prompts", placeholder="every word must occur", key="words")
    categories = sorted(name for name in prompts["category"].unique() if name)
    category = ALL
    if categories:
        category = right.selectbox("Category", [ALL, *categories], key="category")
    found = find_prompts(prompts, words, "" if category == ALL else category)
    if found.empty:
        st.html(markup.note("No prompt matches. Use fewer words or another category."))
        return None
    listed = found.head(LISTED)
    titles = prompt_titles(listed)
    count = f"{len(found):,} of {len(prompts):,} prompts"
    if len(found) > LISTED:
        count += f", the first {LISTED} listed; search to narrow them"
    chosen: str = st.selectbox(f"Prompt ({count})", list(titles), format_func=lambda name: titles[name], key="prompt")
    return chosen


def show_answers(view: FamilyView, prompts: pd.DataFrame, store: AnswerStore, prompt_id: str) -> None:
    """The prompt and its answers."""
    row = prompts[prompts["prompt_id"] == prompt_id].iloc[0]
    st.html(markup.prompt(row["prompt"], row["category"]))
    answers = store.find(prompt_id)
    samples = sorted({answer.sample for answer in answers})
    sample = samples[0]
    if len(samples) > 1:
        sample = st.segmented_control("Sample", samples, default=sample, required=True, key="sample")
    here = {answer.policy: answer for answer in answers if answer.sample == sample}
    order = [policy.id for policy in view.family.policies if policy.id in here]
    order += sorted(set(here) - set(order))
    chosen = st.pills("Policies", order, selection_mode="multi", default=first_choice(view, order), key="policies")
    kinds = {policy.id: policy.kind for policy in view.family.policies}
    st.html(markup.answer_grid([here[name] for name in order if name in chosen], kinds))


def first_choice(view: FamilyView, order: list[str]) -> list[str]:
    """The policies shown at first: all, or where there are many the reference and some spread over the front."""
    if len(order) <= BESIDE:
        return order
    dominated = dominated_policies(view)
    front = [name for name in order if name not in dominated | {REFERENCE}]
    return [name for name in order if name == REFERENCE] + evenly(front, BESIDE - 1)


if __name__ == "__main__":
    opened = shared.opened("Answers side by side")
    if opened is not None:
        show(opened)
