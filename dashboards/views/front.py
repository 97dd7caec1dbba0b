"""The front: the trade-off between two objectives, floors as sliders, and which policy each profile gets."""

import streamlit as st

from dashboards import charts, markup
from dashboards.floors import Outcome, Standing, binding_floors, choose, outcomes, standings
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
from dashboards.views import shared
from mopo_eval.profiles import Floors
from mopo_eval.selection import Selection, best_attainable

MEASURED, PLANNED = "Measured: judge score", "Planned: data win rate"
CHART_SETTINGS = {"displayModeBar": False}
REFERENCE_KEY = ("reference", "reference (before training)")
FRONT_KEY = [
    ("interval", "interval"),
    ("certified", "certified lower bound"),
    ("chosen", "best under the floors"),
    ("out", "misses a floor"),
    ("faded", "faded: dominated"),
]
RULE = (
    "A floor holds for a policy when its certified lower bound (the orange tick) reaches the floor, not merely its "
    "average. The bounds hold for all policies and objectives at once, so floors may be moved after seeing the scores. "
    "A policy is dominated when another one is better on some objective and worse on none."
)


def show(view: FamilyView) -> None:
    """The page, in one of two units that are never drawn together."""
    if not view.measured:
        shared.ask_to_measure(view)
        if has_plan(view):
            st.header("What was planned", anchor=False)
            show_planned(view)
        return
    unit = MEASURED
    if has_plan(view):
        unit = st.segmented_control("Unit", [MEASURED, PLANNED], default=MEASURED, required=True, key="unit")
    if unit == PLANNED:
        show_planned(view)
    else:
        show_measured(view)


@st.fragment
def show_measured(view: FamilyView) -> None:
    """Chart, floors, profiles and policies, in judge scores; a slider reruns only this."""
    known = measured_objectives(view)
    if len(known) < 2:
        text = (
            f"Only {known[0]} was measured; a trade-off needs two objectives. Give a judge for each and measure again:"
        )
        command = f"mopo-eval run {view.root} --judges JUDGES.yaml"
        st.html(markup.help_page("One objective is no trade-off", text, [command]))
        return
    answer = st.container()
    left, right = st.columns([2.5, 1], gap="large")
    with right:
        floors = ask_floors(view, known)
        axes = ask_axes(known, view.family.primary, key="measured")
    asked = binding_floors(view, floors)
    ranks = standings(view, floors)
    choice = choose(view, view.family.primary, floors)
    chosen = choice.policy if choice.feasible else None
    answer.html(verdict(view, choice, ranks))
    out = {row.policy for row in ranks if not row.holds}
    marks = Marks(out, {row.policy for row in ranks if row.dominated}, chosen, asked)
    line = exact_line(view, axes.x, axes.y, "scores")
    with left:
        frame = scores(view)
        st.plotly_chart(
            charts.front_chart(frame, axes, marks, line), theme=None, config=CHART_SETTINGS, key="front-chart"
        )
        third = frame.loc[frame["objective"] == axes.third, "mean"].tolist()
        show_key(axes, third, FRONT_KEY if line is None else [*FRONT_KEY, ("line", "exact front of the sandbox")])
        st.html(markup.note(RULE))
    show_profiles(outcomes(view, floors), moved=floors != starting_floors(view, known))
    show_standings(view, ranks, known, asked)


def starting_floors(view: FamilyView, known: list[str]) -> Floors:
    """Where the sliders start: at the organisation's floors."""
    return {name: view.profiles.organisation.floors.get(name, 0.0) for name in known}


def ask_floors(view: FamilyView, known: list[str]) -> Floors:
    """One slider per objective, in judge score; positions are kept when pages are changed."""
    st.subheader("Floors", anchor=False)
    start = starting_floors(view, known)
    kept: Floors = st.session_state.setdefault("floors", start)
    best = best_attainable(view.measured, known)
    if st.button("Reset", icon=":material/restart_alt:", type="tertiary", key="reset"):
        kept = start
        for name in known:
            st.session_state[f"floor-{name}"] = start[name]
    floors: Floors = {}
    for name in known:
        st.session_state.setdefault(f"floor-{name}", kept.get(name, start[name]))
        floors[name] = st.slider(
            f"{charts.title(name)} at least", 0.0, 1.0, step=0.01, format="%.2f", key=f"floor-{name}"
        )
        reach = f"Highest certified: {best[name]:.2f}"
        if start[name] > 0:
            reach += f". The organisation asks for {start[name]:.2f}; less changes nothing"
        st.caption(reach)
    st.session_state["floors"] = floors
    return floors


def ask_axes(known: list[str], primary: str, key: str) -> Axes:
    """The objectives on the axes and in the colour; the primary starts upright."""
    st.subheader("Axes", anchor=False)
    others = [name for name in known if name != primary]
    y = st.selectbox("Upward", [*[n for n in known if n == primary], *others], format_func=charts.title, key=f"{key}-y")
    x = st.selectbox("To the right", [n for n in known if n != y], format_func=charts.title, key=f"{key}-x")
    rest = [name for name in known if name not in (x, y)]
    third = None
    if rest:
        third = st.selectbox("Colour and symbol", rest, format_func=charts.title, key=f"{key}-third")
    return Axes(x, y, third)


def verdict(view: FamilyView, choice: Selection, ranks: list[Standing]) -> str:
    """Which policy these floors get, and which are out."""
    primary = view.family.primary
    out = [row.policy for row in ranks if not row.holds]
    floors = ", ".join(f"{name} at least {floor:.2f}" for name, floor in choice.floors.items() if floor > 0)
    count = f"{len(ranks) - len(out)} of {len(ranks)} policies hold {floors}." if floors else "No floor is set."
    detail = f"{count} Out: {', '.join(out)}." if out else count
    card = view.cards[choice.policy] if choice.policy else None
    if choice.feasible and card is not None:
        score = card.objectives[primary]
        text = (
            f"Under {'these floors' if floors else 'no floor'}, {choice.policy} is the best for {primary}: "
            f"judge score {score.mean:.2f}, certified at least {score.certified_low:.2f}."
        )
        return markup.verdict(text, detail, feasible=True)
    nearest = next((row for row in ranks if row.policy == choice.closest), None)
    text = "No policy holds every floor."
    if nearest is not None and nearest.why_out:
        text += f" Closest: {nearest.policy} ({nearest.why_out})."
    return markup.verdict(text, detail, feasible=False)


def show_key(axes: Axes, third: list[float], entries: list[tuple[str, str]]) -> None:
    """The chart's key: what colours and symbols tell of the third objective, then ``entries``."""
    if axes.third and third and min(third) < max(third):
        low, high = bands(third)
        symbols = [("low", f"below {low:.2f}"), ("middle", "between"), ("high", f"from {high:.2f}")]
        scale = charts.title(axes.third), min(third), max(third)
        st.html(markup.key([*symbols, REFERENCE_KEY, *entries], scale))
    else:
        st.html(markup.key([REFERENCE_KEY, *entries]))


def show_profiles(rows: list[Outcome], *, moved: bool) -> None:
    """The policy that each profile gets."""
    st.header("What each profile gets", anchor=False)
    if not rows:
        st.html(markup.note("This family has no profiles.yaml, or it names no profile; the floors above still apply."))
        return
    added = "with the floors above added to its own" if moved else "with its own floors and the organisation's"
    st.html(markup.note(f"Each profile {added}, in certified judge score unless named a win rate."))
    shared.table(
        [Cell("Profile"), Cell("Gets"), Cell("Smallest margin", "number"), Cell("Maximises"), Cell("Effective floors")],
        [profile_row(row) for row in rows],
        "Policy per profile",
    )


def profile_row(row: Outcome) -> list[Cell]:
    """One profile of the table."""
    floors = ", ".join(f"{name} ≥ {floor:.2f}" for name, floor in row.selection.floors.items() if floor > 0)
    worst = row.margins
    margins = {k: v for k, v in worst.margins.items() if v is not None and row.selection.floors[k] > 0} if worst else {}
    least = min(margins, key=lambda name: margins[name], default=None)
    margin = Cell(markup.signed(margins[least]), "number", least) if least else Cell("–", "number")
    if row.selection.feasible:
        gets = Cell(f"✓ {row.selection.policy}", "good")
    elif row.selection.policy:
        gets = Cell(f"▲ {row.selection.policy}", "bad", "a fallback: it misses a floor")
    else:
        gets = Cell("✕ refused", "bad", row.selection.reason)
    return [Cell(row.profile), gets, margin, Cell(row.asks.primary), Cell(floors or "none")]


def show_standings(view: FamilyView, ranks: list[Standing], known: list[str], asked: Floors) -> None:
    """Every policy under the floors, with its scores, and the download."""
    st.header("Policies under these floors", anchor=False)
    rows = []
    for rank in ranks:
        card = view.cards[rank.policy]
        state = Cell("✓ holds", "good") if rank.holds else Cell("✕ out", "bad", rank.why_out)
        cells = [Cell(rank.policy, note="dominated" if rank.dominated else ""), state]
        for name in known:
            score = card.objectives.get(name) if card else None
            text = Cell(f"{score.mean:.3f}", "number", f"≥ {score.certified_low:.3f}") if score else Cell("–", "number")
            cells.append(text)
        rows.append(cells)
    heads = [Cell(charts.title(name), "number", "mean, certified") for name in known]
    shared.table([Cell("Policy"), Cell("Floors"), *heads], rows, "Policies under the floors")
    shared.note_unmeasured(view)
    table = score_table(view)
    table.insert(1, "holds every floor", table["policy"].map({row.policy: row.holds for row in ranks}))
    for name, floor in asked.items():
        table[f"floor {name}"] = floor
    shared.download(table, f"{view.root.name}-front")


def show_planned(view: FamilyView) -> None:
    """What the policies were trained for, in data win rate."""
    left, right = st.columns([2.5, 1], gap="large")
    with right:
        axes = ask_axes(view.family.objectives, view.family.primary, key="planned")
    found = {
        "Predicted front (plan)": planned_line(view, axes.x, axes.y),
        "Exact front of the sandbox": exact_line(view, axes.x, axes.y, "win_rates"),
    }
    lines = {name: line for name, line in found.items() if line is not None}
    with left:
        frame = planned(view)
        figure = charts.planned_chart(frame, axes, lines)
        st.plotly_chart(figure, theme=None, config=CHART_SETTINGS, key="planned-chart")
        marks = [("interval", "from the robust lower value up to the prediction")]
        marks += [("line" if name.startswith("Exact") else "dotted", name) for name in lines]
        third = frame[f"{axes.third} predicted"].dropna().tolist() if axes.third else []
        show_key(axes, third, marks)
    st.html(
        markup.note(
            "Predicted from the preference data before training, in data win rate: the share of comparisons with an "
            "answer of the data that a policy's answer should win. This is another unit than the judge score, so no "
            "profile, floor or selection uses it. The measured view says what the policies really do."
        )
    )
    shared.download(frame, f"{view.root.name}-planned")


if __name__ == "__main__":
    opened = shared.opened("The trade-off")
    if opened is not None:
        show(opened)
