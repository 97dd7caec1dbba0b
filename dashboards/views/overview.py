"""All policies at a glance: scores with intervals, win rates against the reference, what each was trained for."""

import pandas as pd
import streamlit as st

from dashboards import charts, markup
from dashboards.floors import held
from dashboards.frames import FamilyView, measured_objectives, planned, score_table, scores
from dashboards.markup import Cell
from dashboards.views import shared

PER_ROW = 3


def show(view: FamilyView) -> None:
    """The view of all policies."""
    show_scores(view)
    show_win_rates(view)
    shared.download(score_table(view), f"{view.root.name}-scores")
    show_planned(view)


def show_scores(view: FamilyView) -> None:
    """A panel per objective, in judge scores."""
    t = shared.words()
    st.header(t("compare.judge_score"), anchor=False)
    entries = [
        ("dot", t("compare.mean")),
        ("faded-dot", t("word.dominated")),
        ("reference", t("front.key_reference")),
        ("interval", t("front.key_interval")),
        ("certified", t("compare.certified")),
    ]
    floors = view.profiles.organisation.floors
    if any(name in floors for name in measured_objectives(view)):
        entries.append(("floor", t("compare.organisation")))
    st.html(markup.key(entries))
    show_panels(scores(view), "judge_score", floors)
    show_table(view, "judge_score", t("compare.numbers_table"))
    shared.note_unmeasured(view)


def show_win_rates(view: FamilyView) -> None:
    """A panel per objective, in win rate against the reference."""
    t = shared.words()
    st.header(t("compare.win_rate"), anchor=False)
    shared.note(t("compare.win_rate_note"))
    frame = scores(view, "win rate")
    show_panels(frame, "win_rate", dict.fromkeys(view.family.objectives, 0.5))
    show_table(view, "win_rate", t("compare.win_rate"))


def show_panels(frame: pd.DataFrame, unit: str, lines: dict[str, float]) -> None:
    """Panels side by side on one scale, with a line where ``lines`` has a value for the objective."""
    t = shared.words()
    told = t("word.win_rate" if unit == "win_rate" else "word.judge_score")
    names = frame["objective"].drop_duplicates().tolist()
    span = charts.shared_span(frame, *(lines[name] for name in names if name in lines))
    for start in range(0, len(names), PER_ROW):
        row = names[start : start + PER_ROW]
        for column, name in zip(st.columns(max(len(row), 2)), row, strict=False):
            with column:
                st.subheader(t.title(name), anchor=False)
                some = frame[frame["objective"] == name]
                figure = charts.whisker_chart(some, told, t, span=span, mark=lines.get(name))
                alt = t("chart.whisker_alt", name=t.title(name), count=len(some), unit=told)
                shared.chart(figure, f"{unit}-{name}", alt)


def show_table(view: FamilyView, unit: str, caption: str) -> None:
    """The same scores as numbers."""
    t, known, rows = shared.words(), measured_objectives(view), []
    for policy, card in view.cards.items():
        if card is None:
            continue
        cells = [Cell(policy)]
        for name in known:
            score = card.objectives.get(name)
            if score is None:
                cells.append(Cell("–", "number"))
                continue
            value = score.win_rate if unit == "win_rate" else score
            certified = t("word.certified", value=held(value.certified_low, 3))
            interval = t.listed([t.interval(value.low, value.high), certified])
            cells.append(Cell(f"{value.mean:.3f}", "number", interval))
        rows.append(cells)
    heads = [Cell(t.title(name), "number", t("word.mean_interval_certified")) for name in known]
    shared.table([Cell(t("word.policy")), *heads], rows, caption)


def show_planned(view: FamilyView) -> None:
    """What each policy was trained for, in data win rate."""
    t = shared.words()
    st.header(t("compare.trained_for"), anchor=False)
    shared.note(t("compare.trained_note"))
    names = view.family.objectives
    rows = []
    for policy in view.family.policies:
        floors = t.floors(policy.floors, "word.floor_short")
        prices = t.listed(f"{t.objective(name)} {value:.2f}" for name, value in policy.multipliers.items())
        kind = "" if policy.kind == policy.id else policy.kind
        cells = [Cell(policy.id, note=kind), Cell(floors or t("compare.no_floor")), Cell(prices or "–")]
        for name in names:
            value, low = policy.predicted.get(name), policy.predicted_low.get(name)
            note = "" if low is None else t("compare.low", value=low)
            cells.append(Cell("–" if value is None else f"{value:.3f}", "number", note))
        cells.append(Cell("–" if policy.ess is None else f"{policy.ess:.2f}", "number"))
        rows.append(cells)
    heads = [Cell(t("word.policy")), Cell(t("compare.floors"), note=t("compare.data_win_rate"))]
    heads.append(Cell(t("compare.prices")))
    heads += [Cell(t.title(name), "number", t("compare.predicted")) for name in names]
    heads.append(Cell(t("compare.sample"), "number", t("compare.effective")))
    shared.table(heads, rows, t("compare.trained_for"))
    shared.download(planned(view), f"{view.root.name}-training")
