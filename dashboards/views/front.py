"""The front: the trade-off between two objectives, floors as sliders, and which policy each profile gets."""

import pandas as pd
import streamlit as st

from dashboards import charts, markup
from dashboards.catalogue import Catalogue
from dashboards.floors import Outcome, Standing, binding_floors, choose, held, outcomes, standings
from dashboards.frames import (
    FamilyView,
    exact_line,
    has_plan,
    measured_objectives,
    planned,
    planned_line,
    score_table,
    scores,
)
from dashboards.markup import Cell
from dashboards.points import Axes, Marks, bands
from dashboards.views import overview, shared
from mopo_eval.profiles import Floors
from mopo_eval.selection import Selection, best_attainable

MEASURED, PLANNED = "measured", "planned"
FRONT_KEY = ["interval", "certified", "chosen", "out", "faded"]
"""Marks of the front chart, each explained in the catalogue."""


def show(view: FamilyView) -> None:
    """The page, in one of two units that are never drawn together."""
    if not view.measured:
        shared.ask_to_measure(view)
        if has_plan(view):
            st.header(shared.words()("front.was_planned"), anchor=False)
            show_planned(view)
        return
    t, unit = shared.words(), MEASURED
    if has_plan(view):
        unit = st.segmented_control(
            t("front.unit"),
            [MEASURED, PLANNED],
            format_func=lambda name: t(f"front.unit_{name}"),
            default=MEASURED,
            required=True,
            key="unit",
        )
    if unit == PLANNED:
        show_planned(view)
    else:
        show_measured(view)


@st.fragment
def show_measured(view: FamilyView) -> None:
    """Chart, floors, profiles and policies, in judge scores; a slider reruns only this."""
    t, known = shared.words(), measured_objectives(view)
    if len(known) < 2:
        text = t("front.one_objective_text", name=t.title(known[0]))
        command = f"mopo-eval run {view.root} --judges JUDGES.yaml"
        st.html(markup.help_page(t("front.one_objective"), text, [command]))
        return
    answer = st.container()
    left, right = st.columns([2.5, 1], gap="large")
    with right:
        floors = ask_floors(view, known, t)
        axes = ask_axes(known, view.family.primary, t, key="measured")
    asked = binding_floors(view, floors)
    ranks = standings(view, floors)
    choice = choose(view, view.family.primary, floors)
    chosen = choice.policy if choice.feasible else None
    answer.html(verdict(view, choice, ranks, t))
    out = {row.policy for row in ranks if not row.holds}
    marks = Marks(out, {row.policy for row in ranks if row.dominated}, chosen, asked)
    frame = scores(view)
    with left:
        show_chart(view, frame, axes, marks, t)
    show_profiles(outcomes(view, floors), t, moved=floors != starting_floors(view, known))
    if len(known) > 2:
        show_parallel(frame, known, marks, t)
    show_standings(view, ranks, known, asked)


def show_chart(view: FamilyView, frame: pd.DataFrame, axes: Axes, marks: Marks, t: Catalogue) -> None:
    """The trade-off and its key."""
    line = exact_line(view, axes.x, axes.y, "scores")
    alt = t("chart.front_alt", x=t.title(axes.x), y=t.title(axes.y), count=frame["policy"].nunique())
    figure = charts.front_chart(frame, axes, marks, t, line)
    shared.chart(figure, "front-chart", alt)
    third = frame.loc[frame["objective"] == axes.third, "mean"].tolist()
    entries = [(name, t(f"front.key_{name}")) for name in FRONT_KEY]
    show_key(axes, third, entries if line is None else [*entries, ("line", t("front.key_exact"))], t)
    shared.note(t("front.rule"))


def show_parallel(frame: pd.DataFrame, known: list[str], marks: Marks, t: Catalogue) -> None:
    """Parallel coordinates: more objectives than a plane has axes."""
    st.header(t("front.all_objectives"), anchor=False)
    shared.note(t("front.all_objectives_note"))
    alt = t("chart.parallel_alt", count=frame["policy"].nunique())
    figure = charts.parallel_chart(frame, known, marks, t)
    shared.chart(figure, "parallel-chart", alt)


def starting_floors(view: FamilyView, known: list[str]) -> Floors:
    """Where the sliders start: at the organisation's floors."""
    return {name: view.profiles.organisation.floors.get(name, 0.0) for name in known}


def ask_floors(view: FamilyView, known: list[str], t: Catalogue) -> Floors:
    """One slider per objective, in judge score; positions are kept when pages are changed."""
    st.subheader(t("front.floors"), anchor=False)
    start = starting_floors(view, known)
    kept: Floors = st.session_state.setdefault("floors", start)
    best = {name: held(bound) for name, bound in best_attainable(view.measured, known).items() if bound is not None}
    if st.button(t("front.reset"), icon=":material/restart_alt:", type="tertiary", key="reset"):
        kept = start
        for name in known:
            st.session_state[f"floor-{name}"] = start[name]
    floors: Floors = {}
    for name in known:
        st.session_state.setdefault(f"floor-{name}", kept.get(name, start[name]))
        label = t("front.at_least", name=t.title(name))
        floors[name] = st.slider(label, 0.0, 1.0, step=0.01, format="%.2f", key=f"floor-{name}")
        if start[name] > 0:
            st.caption(t("front.reach_organisation", best=best[name], floor=start[name]))
        else:
            st.caption(t("front.reach", best=best[name]))
    st.session_state["floors"] = floors
    return floors


def ask_axes(known: list[str], primary: str, t: Catalogue, key: str) -> Axes:
    """The objectives on the axes and in the colour; the primary starts upright."""
    st.subheader(t("front.axes"), anchor=False)
    others = [name for name in known if name != primary]
    upright = [*[name for name in known if name == primary], *others]
    y = st.selectbox(t("front.up"), upright, format_func=t.title, key=f"{key}-y")
    x = st.selectbox(t("front.right"), [name for name in known if name != y], format_func=t.title, key=f"{key}-x")
    rest = [name for name in known if name not in (x, y)]
    third = None
    if rest:
        third = st.selectbox(t("front.third"), rest, format_func=t.title, key=f"{key}-third")
    return Axes(x, y, third)


def verdict(view: FamilyView, choice: Selection, ranks: list[Standing], t: Catalogue) -> str:
    """Which policy these floors get, and which are out."""
    primary = view.family.primary
    out = [row.policy for row in ranks if not row.holds]
    floors = t.floors(choice.floors)
    count = t("front.no_floor")
    if floors:
        count = t("front.hold", held=len(ranks) - len(out), count=len(ranks), floors=floors)
    detail = t("front.out", count=count, names=t.listed(out)) if out else count
    card = view.cards[choice.policy] if choice.policy else None
    if choice.feasible and card is not None:
        score = card.objectives[primary]
        facts = {"primary": t.objective(primary), "mean": score.mean, "low": held(score.certified_low)}
        text = t("front.best" if floors else "front.best_no_floor", policy=choice.policy, **facts)
        return markup.verdict(text, detail, feasible=True)
    nearest = next((row for row in ranks if row.policy == choice.closest), None)
    text = t("front.nobody")
    if nearest is not None and nearest.margins.worst < 0:
        text = t("front.nobody_closest", policy=nearest.policy, why=shared.why_out(nearest.margins.margins, t))
    return markup.verdict(text, detail, feasible=False)


def show_key(axes: Axes, third: list[float], entries: list[tuple[str, str]], t: Catalogue) -> None:
    """The chart's key: what colours and symbols tell of the third objective, then ``entries``."""
    reference = ("reference", t("front.key_reference"))
    if axes.third and third and min(third) < max(third):
        low, high = bands(third)
        symbols = [
            ("low", t("front.low", value=low)),
            ("middle", t("front.middle")),
            ("high", t("front.high", value=high)),
        ]
        scale = t.title(axes.third), min(third), max(third)
        st.html(markup.key([*symbols, reference, *entries], scale))
    else:
        st.html(markup.key([reference, *entries]))


def show_profiles(rows: list[Outcome], t: Catalogue, *, moved: bool) -> None:
    """The policy that each profile gets."""
    st.header(t("front.profiles"), anchor=False)
    if not rows:
        shared.note(t("front.no_profiles"))
        return
    shared.note(t("front.profiles_moved" if moved else "front.profiles_own"))
    heads = [Cell(t("word.profile")), Cell(t("front.gets")), Cell(t("front.smallest_margin"), "number")]
    heads += [Cell(t("front.maximises")), Cell(t("front.effective"))]
    shared.table(heads, [profile_row(row, t) for row in rows], t("front.profiles_table"))


def profile_row(row: Outcome, t: Catalogue) -> list[Cell]:
    """One profile of the table."""
    floors = t.floors(row.selection.floors, "word.floor_short")
    worst = row.margins
    margins = {k: v for k, v in worst.margins.items() if v is not None and row.selection.floors[k] > 0} if worst else {}
    if row.selection.expected:  # of a mixture: its average
        margins = {k: v - row.selection.floors[k] for k, v in row.selection.expected.items()}
    least = min(margins, key=lambda name: margins[name], default=None)
    margin = Cell(markup.signed(margins[least]), "number", t.objective(least)) if least else Cell("–", "number")
    gets = shared.gets(row.selection, t)
    return [Cell(row.profile), gets, margin, Cell(t.objective(row.asks.primary)), Cell(floors or t("word.none"))]


def show_standings(view: FamilyView, ranks: list[Standing], known: list[str], asked: Floors) -> None:
    """Every policy under the floors, with its scores, and the download."""
    t = shared.words()
    st.header(t("front.standings"), anchor=False)
    rows = []
    for rank in ranks:
        card = view.cards[rank.policy]
        state = Cell(f"✓ {t('front.holds')}", "good")
        if not rank.holds:
            state = Cell(f"✕ {t('front.out_short')}", "bad", shared.why_out(rank.margins.margins, t))
        cells = [Cell(rank.policy, note=t("word.dominated") if rank.dominated else ""), state]
        for name in known:
            score = card.objectives.get(name) if card else None
            certified = t("word.certified", value=held(score.certified_low, 3)) if score else ""
            cells.append(Cell(f"{score.mean:.3f}", "number", certified) if score else Cell("–", "number"))
        rows.append(cells)
    heads = [Cell(t.title(name), "number", t("word.mean_certified")) for name in known]
    columns = [Cell(t("word.policy")), Cell(t("front.floors_column")), *heads]
    shared.table(columns, rows, t("front.standings_table"))
    shared.note_unmeasured(view)
    table = score_table(view)
    table.insert(1, "holds every floor", table["policy"].map({row.policy: row.holds for row in ranks}))
    for name, floor in asked.items():
        table[f"floor {name}"] = floor
    shared.download(table, f"{view.root.name}-front")


def show_planned(view: FamilyView) -> None:
    """What the policies were trained for, in data win rate."""
    t = shared.words()
    left, right = st.columns([2.5, 1], gap="large")
    with right:
        axes = ask_axes(view.family.objectives, view.family.primary, t, key="planned")
    found = {
        "planned": planned_line(view, axes.x, axes.y),
        "exact": exact_line(view, axes.x, axes.y, "win_rates"),
    }
    lines = {name: line for name, line in found.items() if line is not None}
    with left:
        frame = planned(view)
        figure = charts.planned_chart(frame, axes, lines, t)
        alt = t("chart.planned_alt", x=t.title(axes.x), y=t.title(axes.y), count=len(frame))
        shared.chart(figure, "planned-chart", alt)
        marks = [("interval", t("front.key_predicted"))]
        marks += [("line" if name == "exact" else "dotted", t(f"chart.line_{name}")) for name in lines]
        third = frame[f"{axes.third} predicted"].dropna().tolist() if axes.third else []
        show_key(axes, third, marks, t)
    shared.note(t("front.planned_note"))
    overview.show_planned(view)


if __name__ == "__main__":
    opened = shared.opened("front.heading")
    if opened is not None:
        show(opened)
