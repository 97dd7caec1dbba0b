"""The price of a floor: what the primary objective loses when a floor is raised, and how sure that is."""

from operator import attrgetter

import pandas as pd
import streamlit as st

from dashboards import comparisons, markup
from dashboards.catalogue import Catalogue
from dashboards.floors import held
from dashboards.frames import FamilyView, measured_objectives
from dashboards.markup import Cell
from dashboards.matrix import ScoreMatrix
from dashboards.points import Span, padded
from dashboards.price import Step, dearest, price_steps, staircase, with_intervals
from dashboards.views import shared

SOURCE = attrgetter("source")
Corners = dict[str, list[float]]


def show(view: FamilyView) -> None:
    """The page."""
    if not view.measured:
        shared.ask_to_measure(view)
        return
    t, primary = shared.words(), view.family.primary
    priced = [name for name in measured_objectives(view) if name != primary]
    if not priced or primary not in measured_objectives(view):
        shared.note(t("price.one_objective"))
        return
    shared.note(t("price.intro", primary=t.objective(primary)))
    matrix = shared.judged(view)
    found = {name: _steps(view, matrix, name) for name in priced}
    intervals = {
        card.policy: (card.objectives[primary].low, card.objectives[primary].high)
        for card in view.measured
        if primary in card.objectives
    }
    stairs = {name: staircase(steps, intervals) for name, steps in found.items()}
    span = padded([value for corners in stairs.values() for end in ("low", "high") for value in corners[end]])
    for name, steps in found.items():
        show_objective(view, name, steps, (stairs[name], span), t)


def _steps(view: FamilyView, matrix: ScoreMatrix | None, objective: str) -> list[Step]:
    steps = price_steps(view.measured, view.family.primary, objective, view.profiles.organisation.floors)
    if matrix is None:
        return steps
    return _bootstrapped(matrix, tuple(steps), view.family.primary, view.measured[0].confidence)


@st.cache_data(max_entries=32, show_spinner=False, hash_funcs={ScoreMatrix: SOURCE})
def _bootstrapped(matrix: ScoreMatrix, steps: tuple[Step, ...], primary: str, confidence: float) -> list[Step]:
    """Once per state of the judgements."""
    return with_intervals(steps, matrix, primary, confidence)


def show_objective(view: FamilyView, name: str, steps: list[Step], drawn: tuple[Corners, Span], t: Catalogue) -> None:
    """The floors on one objective: a sentence, the chart of ``drawn`` (corners, range of the primary), the table."""
    st.header(t.title(name), anchor=False)
    if not steps:
        st.html(markup.verdict(t("price.nobody"), "", feasible=False))
        return
    floors, primary = view.profiles.organisation.floors, view.family.primary
    st.html(markup.verdict(told(steps, name, primary, t), t("price.ends", end=held(steps[-1].end)), feasible=True))
    left, right = st.columns([1, 1.35], gap="medium")
    with left:
        axes = t("price.floor_axis", name=t.objective(name)), t("price.primary_axis", primary=t.objective(primary))
        figure = comparisons.price_chart(drawn[0], axes, floors.get(name), t("price.infeasible"), drawn[1])
        alt = t("price.alt", primary=t.objective(primary), name=t.objective(name), count=len(steps))
        shared.chart(figure, f"price-{name}", alt)
        entries = [("dot-line", t("price.key_line", primary=t.objective(primary))), ("band", t("price.band"))]
        if floors.get(name):
            entries.append(("floor-line", t("price.key_floor")))
        st.html(markup.key(entries))
    with right:
        show_table(view, steps, name, drawn[0])


def told(steps: list[Step], name: str, primary: str, t: Catalogue) -> str:
    """Where the floor is free, and where it is dearest."""
    first, worst = steps[0], dearest(steps)
    if worst is None:
        facts = {"policy": steps[-1].policy, "primary": t.objective(primary)}
        return t("price.never_free", name=t.objective(name), end=held(steps[-1].end), **facts)
    parts = {
        "begin": held(worst.begin),
        "end": held(worst.end),
        "price": worst.price,
        "primary": t.objective(primary),
    }
    sentence = t("price.dearest", **parts)
    if worst.price_interval:
        low, high = worst.price_interval
        sentence = t("price.dearest_interval", interval=t.interval(low, high, ".4f"), **parts)
    return f"{t('price.free', name=t.objective(name), end=held(first.end))} {sentence}"


def show_table(view: FamilyView, steps: list[Step], name: str, corners: Corners) -> None:
    """Every step in numbers, with the download; ``corners``: two a step, as they are drawn."""
    t, primary, confidence = shared.words(), view.family.primary, view.measured[0].confidence
    heads = [Cell(t("price.floors")), Cell(t("price.serves"), note=t("price.with", primary=t.objective(primary)))]
    heads += [Cell(t("price.loses"), "number"), Cell(t("price.per_unit"), "number"), Cell(t("price.sure"))]
    ends = list(zip(corners["low"][::2], corners["high"][::2], strict=True))
    rows = [_row(step, each, confidence, t) for step, each in zip(steps, ends, strict=True)]
    shared.table(heads, rows, t("price.table", name=t.objective(name)))
    frame = pd.DataFrame(
        [
            {"above floor": step.begin, "up to floor": step.end, "policy": step.policy, "primary": step.primary}
            | {"primary low": low, "primary high": high}
            | {"lost": step.drop, "per 0.01": step.price}
            | dict(zip(("per 0.01 low", "per 0.01 high"), step.price_interval or (None, None), strict=True))
            for step, (low, high) in zip(steps, ends, strict=True)
        ]
    )
    shared.download(frame, f"price-{name}")


def _row(step: Step, ends: tuple[float, float], confidence: float, t: Catalogue) -> list[Cell]:
    floors = Cell(f"{held(step.begin):.2f} – {held(step.end):.2f}")
    serves = Cell(f"{step.policy} · {step.primary:.3f}", "name", t.interval(*ends))
    if step.drop <= 0:
        return [floors, serves, Cell(t("price.nothing"), "number"), Cell("–", "number"), Cell("")]
    lost, price, sure = Cell(f"{step.drop:.3f}", "number"), Cell(f"{step.price:.4f}", "number"), "price.unknown"
    if step.lost and step.price_interval:
        lost = lost._replace(note=t.interval(step.lost.low, step.lost.high))
        price = price._replace(note=t.interval(*step.price_interval, ".4f"))
        sure = "price.surely" if step.lost.low > 0 else "price.unsure"
    return [floors, serves, lost, price, Cell(t(sure, confidence=confidence), "name")]


if __name__ == "__main__":
    opened = shared.opened("price.heading")
    if opened is not None:
        show(opened)
