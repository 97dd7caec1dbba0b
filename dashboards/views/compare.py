"""Policies compared: two to four closely, on the same prompts, or all at a glance."""

from operator import attrgetter

import pandas as pd
import streamlit as st

from dashboards import comparisons, markup
from dashboards.answers import evenly
from dashboards.catalogue import Catalogue
from dashboards.errors import EvaluationError
from dashboards.frames import FamilyView, dominated_policies, file_state, measured_objectives, scores
from dashboards.markup import Cell
from dashboards.matrix import ScoreMatrix
from dashboards.paired import PairedDifference, against, by_category, dominance
from dashboards.views import overview, shared
from mopo_train.family import REFERENCE

CLOSE, EVERY = "close", "every"
MOST = 4
BESIDE = [1, 1.1]
"""Widths of a chart and of the table beside it."""
SOURCE = attrgetter("source")
Pairs = dict[tuple[str, str], float]


def show(view: FamilyView) -> None:
    """The page."""
    if not view.measured:
        shared.ask_to_measure(view)
        overview.show_planned(view)
        return
    t = shared.words()
    mode = st.segmented_control(
        t("compare.mode"),
        [CLOSE, EVERY],
        format_func=lambda name: t(f"compare.mode_{name}"),
        default=CLOSE,
        required=True,
        key="mode",
    )
    if mode == EVERY:
        overview.show(view)
    else:
        show_close(view, t)


def show_close(view: FamilyView, t: Catalogue) -> None:
    """Two to four policies."""
    names = [card.policy for card in view.measured]
    chosen = st.multiselect(
        t("compare.choose"), names, default=first_choice(view, names), max_selections=MOST, key="compared"
    )
    if len(chosen) < 2:
        shared.note(t("compare.choose_more"))
        return
    known = measured_objectives(view)
    frame = scores(view)
    frame = frame[frame["policy"].isin(chosen)]
    frame = frame.assign(order=frame["policy"].map(chosen.index)).sort_values("order", kind="stable")
    show_scores(frame, chosen, t)
    matrix = shared.judged(view)
    if matrix is None:
        shared.note(t("compare.no_judgements"))
    else:
        confidence = view.measured[0].confidence
        show_differences(_against(matrix, tuple(chosen), tuple(known), confidence), chosen[0], confidence, t)
        show_dominance(_dominance(matrix, tuple(chosen), tuple(known)), chosen, t)
        show_categories(view, matrix, chosen, known, t)
    if 3 <= len(known) <= comparisons.MOST_RADAR:
        st.header(t("compare.radar"), anchor=False)
        shared.note(t("compare.radar_note"))
        alt = t("compare.radar_alt", names=t.listed(chosen))
        shared.chart(comparisons.radar_chart(frame, t), "radar", alt)


def first_choice(view: FamilyView, names: list[str]) -> list[str]:
    """What is compared before anyone chooses: the reference and the two ends of the front."""
    dominated = dominated_policies(view)
    front = [name for name in names if name not in dominated | {REFERENCE}] or names[:1]
    return [name for name in names if name == REFERENCE] + evenly(front, 2)


@st.cache_data(max_entries=32, show_spinner=False, hash_funcs={ScoreMatrix: SOURCE})
def _against(
    matrix: ScoreMatrix, chosen: tuple[str, ...], objectives: tuple[str, ...], confidence: float
) -> list[PairedDifference]:
    """Once per state of the judgements."""
    return against(matrix, chosen[0], chosen[1:], objectives, confidence)


@st.cache_data(max_entries=32, show_spinner=False, hash_funcs={ScoreMatrix: SOURCE})
def _dominance(matrix: ScoreMatrix, chosen: tuple[str, ...], objectives: tuple[str, ...]) -> Pairs:
    """As ``_against``."""
    return dominance(matrix, chosen, objectives)


def show_scores(frame: pd.DataFrame, chosen: list[str], t: Catalogue) -> None:
    """Means with intervals."""
    st.header(t("compare.scores"), anchor=False)
    shared.note(t("compare.scores_note"))
    labelled = frame.assign(label=frame["objective"].map(t.title))
    alt = t("compare.grouped_alt", what=t("word.judge_score"), names=t.listed(chosen))
    left, right = st.columns(BESIDE, gap="large")
    with left:
        shared.chart(comparisons.grouped_chart(labelled, t("word.judge_score"), order=chosen), "compared-scores", alt)
    heads = [Cell(t("word.objective")), *(Cell(name, "number") for name in chosen)]
    rows = []
    for objective, group in frame.groupby("objective", sort=False):
        found = {row["policy"]: row for row in group.to_dict("records")}
        cells = [Cell(t.title(str(objective)))]
        for name in chosen:
            row = found.get(name)
            note = t.interval(row["low"], row["high"]) if row else ""
            cells.append(Cell(f"{row['mean']:.3f}", "number", note) if row else Cell("–", "number"))
        rows.append(cells)
    with right:
        shared.table(heads, rows, t("compare.scores_table"))
        shared.download(frame.drop(columns="order"), "compared-scores")


def show_differences(found: list[PairedDifference], base: str, confidence: float, t: Catalogue) -> None:
    """The others against the first, prompt by prompt."""
    st.header(t("compare.differences", base=base), anchor=False)
    if not found:
        shared.note(t("compare.no_judgements"))
        return
    shared.note(t("compare.differences_note", base=base, confidence=confidence))
    frame = pd.DataFrame(
        [
            {"policy": each.policy, "objective": each.objective, "label": t.title(each.objective)}
            | {name: getattr(each.difference, name) for name in ("mean", "low", "high", "p_value", "n")}
            for each in found
        ]
    )
    others = list(dict.fromkeys(each.policy for each in found))
    alt = t("compare.grouped_alt", what=t("compare.difference"), names=t.listed(others))
    unit = t("compare.difference_unit", base=base)
    left, right = st.columns(BESIDE, gap="large")
    with left:
        shared.chart(comparisons.grouped_chart(frame, unit, order=[base, *others], mark=0.0), "differences", alt)
    rows = []
    for each in found:
        mean, low, high = each.difference.mean, each.difference.low, each.difference.high
        verdict = Cell(t("compare.unclear"), "muted")
        if low > 0:
            verdict = Cell(f"▲ {t('compare.better')}", "good")
        elif high < 0:
            verdict = Cell(f"▼ {t('compare.worse')}", "bad")
        interval = t.interval(low, high, "+.3f")
        rows.append([Cell(each.policy), Cell(t.title(each.objective)), Cell(markup.signed(mean), "number", interval)])
        rows[-1].append(verdict)
    heads = [Cell(t("word.policy")), Cell(t("word.objective")), Cell(t("compare.difference"), "number")]
    with right:
        shared.table([*heads, Cell(t("compare.verdict"))], rows, t("compare.differences_table"))
        shared.download(frame.drop(columns="label"), "differences")


def show_dominance(found: Pairs, chosen: list[str], t: Catalogue) -> None:
    """How surely one policy is no worse on anything."""
    st.header(t("compare.dominance"), anchor=False)
    shared.note(t("compare.dominance_note"))
    heads = [Cell(""), *(Cell(name, "number") for name in chosen)]
    rows = [
        [
            Cell(t("compare.dominates", name=first)),
            *(Cell(f"{found[first, other]:.0%}" if (first, other) in found else "–", "number") for other in chosen),
        ]
        for first in chosen
    ]
    shared.table(heads, rows, t("compare.dominance_table"))
    frame = pd.DataFrame([(*pair, share) for pair, share in found.items()], columns=["policy", "over", "probability"])
    shared.download(frame, "dominance")


def show_categories(view: FamilyView, matrix: ScoreMatrix, chosen: list[str], known: list[str], t: Catalogue) -> None:
    """Scores on each category of prompts, for one objective at a time."""
    st.header(t("compare.categories"), anchor=False)
    directory = view.root / "evaluation" / view.measured[0].run
    try:
        categories = shared.categories(str(directory), file_state(directory / "responses.parquet"))
    except EvaluationError as error:
        shared.note(str(error))
        return
    if not any(categories.values()):
        shared.note(t("compare.no_categories"))
        return
    objective = st.segmented_control(
        t("word.objective"), known, format_func=t.title, default=known[0], required=True, key="category-objective"
    )
    confidence = view.measured[0].confidence
    frame = _by_category(matrix, categories, tuple(chosen), objective, confidence)
    alt = t("compare.grouped_alt", what=t.objective(objective), names=t.listed(chosen))
    left, right = st.columns(BESIDE, gap="large")
    with left:
        shared.chart(comparisons.grouped_chart(frame, t("word.judge_score"), order=chosen), "categories", alt)
    rows = []
    for label, group in frame.groupby("label", sort=False):
        found = {row["policy"]: row for row in group.to_dict("records")}
        count = t.number(int(group["n"].iloc[0]), "word.prompts")
        cells = [Cell(str(label), note=count)]
        for name in chosen:
            row = found[name]
            note = t.interval(row["low"], row["high"])
            cells.append(Cell(f"{row['mean']:.3f}", "number", note))
        rows.append(cells)
    heads = [Cell(t("word.category")), *(Cell(name, "number") for name in chosen)]
    with right:
        shared.table(heads, rows, t("compare.categories_table"))
        shared.download(frame, f"categories-{objective}")


@st.cache_data(max_entries=32, show_spinner=False, hash_funcs={ScoreMatrix: SOURCE})
def _by_category(
    matrix: ScoreMatrix, categories: dict[str, str], chosen: tuple[str, ...], objective: str, confidence: float
) -> pd.DataFrame:
    """As ``_against``."""
    return by_category(matrix, categories, chosen, objective, confidence)


if __name__ == "__main__":
    opened = shared.opened("compare.heading")
    if opened is not None:
        show(opened)
