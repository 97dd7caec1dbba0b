"""Policies compared: scores with intervals, win rates against the reference, and what each was trained for."""

import pandas as pd
import streamlit as st

from dashboards import charts, markup
from dashboards.frames import FamilyView, measured_objectives, planned, score_table, scores
from dashboards.markup import Cell
from dashboards.views import shared

PER_ROW = 3


def show(view: FamilyView) -> None:
    """The page."""
    if not view.measured:
        shared.ask_to_measure(view)
    else:
        show_scores(view)
        show_win_rates(view)
        show_table(view)
    show_planned(view)


def show_scores(view: FamilyView) -> None:
    """A panel per objective, in judge scores."""
    st.header("Judge score", anchor=False)
    entries = [
        ("dot", "mean"),
        ("faded-dot", "dominated"),
        ("reference", "reference (before training)"),
        ("interval", "interval"),
        ("certified", "certified lower bound: what floors are held against"),
    ]
    floors = view.profiles.organisation.floors
    if any(name in floors for name in measured_objectives(view)):
        entries.append(("floor", "the organisation's floor"))
    st.html(markup.key(entries))
    show_panels(scores(view), "judge score", floors)
    shared.note_unmeasured(view)


def show_win_rates(view: FamilyView) -> None:
    """A panel per objective, in win rate against the reference."""
    st.header("Win rate against the reference", anchor=False)
    text = "How often a policy's answer beats the reference's on the same prompt; ties count half, 0.5 is parity."
    st.html(markup.note(text))
    frame = scores(view, "win rate")
    show_panels(frame, "win rate", dict.fromkeys(view.family.objectives, 0.5))


def show_panels(frame: pd.DataFrame, unit: str, lines: dict[str, float]) -> None:
    """Panels side by side on one scale, with a line where ``lines`` has a value for the objective."""
    names = frame["objective"].drop_duplicates().tolist()
    span = charts.shared_span(frame, *(lines[name] for name in names if name in lines))
    for start in range(0, len(names), PER_ROW):
        row = names[start : start + PER_ROW]
        for column, name in zip(st.columns(max(len(row), 2)), row, strict=False):
            with column:
                st.subheader(charts.title(name), anchor=False)
                figure = charts.whisker_chart(frame[frame["objective"] == name], unit, span=span, mark=lines.get(name))
                st.plotly_chart(figure, theme=None, config={"displayModeBar": False}, key=f"{unit}-{name}")


def show_table(view: FamilyView) -> None:
    """The same scores as numbers."""
    st.header("The numbers", anchor=False)
    known = measured_objectives(view)
    rows = []
    for policy in view.family.policies:
        card = view.cards[policy.id]
        if card is None:
            continue
        cells = [Cell(policy.id), Cell(policy.kind)]
        for name in known:
            score = card.objectives.get(name)
            if score is None:
                cells += [Cell("–", "number")] * 2
                continue
            interval = f"{score.low:.3f} to {score.high:.3f}, ≥ {score.certified_low:.3f}"
            rate = score.win_rate
            cells.append(Cell(f"{score.mean:.3f}", "number", interval))
            cells.append(Cell(f"{rate.mean:.3f}", "number", f"{rate.low:.3f} to {rate.high:.3f}"))
        rows.append(cells)
    heads = []
    for name in known:
        heads += [Cell(charts.title(name), "number", "judge score"), Cell("", "number", "win rate vs reference")]
    shared.table([Cell("Policy"), Cell("Kind"), *heads], rows, "Measured scores")
    shared.download(score_table(view), f"{view.root.name}-scores")


def show_planned(view: FamilyView) -> None:
    """What each policy was trained for, in data win rate."""
    st.header("What each policy was trained for", anchor=False)
    st.html(
        markup.note(
            "In data win rate, the unit of the plan: the floors it was trained for, the price λ that the solver put on "
            "each floor, and the values predicted before training, with robust lower values. "
            "Not to be compared with the measured scores."
        )
    )
    names = view.family.objectives
    rows = []
    for policy in view.family.policies:
        floors = ", ".join(f"{name} ≥ {floor:.2f}" for name, floor in policy.floors.items())
        prices = ", ".join(f"{name} {value:.2f}" for name, value in policy.multipliers.items())
        cells = [Cell(policy.id), Cell(policy.kind), Cell(floors or "no floor"), Cell(prices or "–")]
        for name in names:
            value, low = policy.predicted.get(name), policy.predicted_low.get(name)
            note = "" if low is None else f"low {low:.3f}"
            cells.append(Cell("–" if value is None else f"{value:.3f}", "number", note))
        cells.append(Cell("–" if policy.ess is None else f"{policy.ess:.2f}", "number"))
        rows.append(cells)
    heads = [Cell("Policy"), Cell("Kind"), Cell("Floors", note="data win rate"), Cell("Prices λ")]
    heads += [Cell(charts.title(name), "number", "predicted") for name in names]
    heads.append(Cell("Sample", "number", "effective share"))
    shared.table(heads, rows, "What each policy was trained for")
    shared.download(planned(view), f"{view.root.name}-training")


if __name__ == "__main__":
    opened = shared.opened("Policies compared")
    if opened is not None:
        show(opened)
