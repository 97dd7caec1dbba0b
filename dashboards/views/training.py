"""How the policies were trained: multipliers, sample size, KL and values over the steps, and a verdict in words."""

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboards import comparisons, markup
from dashboards.catalogue import Catalogue
from dashboards.frames import FamilyView, file_state
from dashboards.markup import Cell
from dashboards.training import LOW_ESS, Activity, TrainingLog, activities, last_value, lowest_ess, read_logs
from dashboards.views import shared
from mopo_train.family import REFERENCE, Policy

PER_OBJECTIVE = ["lambda", "estimated", "chi"]
SINGLE = ["kl", "ess", "loss"]


def show(view: FamilyView) -> None:
    """The page."""
    t = shared.words()
    trained = [policy for policy in view.family.policies if policy.id != REFERENCE]
    if not trained:
        shared.note(t("training.nothing"))
        return
    states = tuple(file_state(view.root / "training" / f"{policy.id}.parquet") for policy in trained)
    logs, problems = _logs(view, states)
    for problem in problems:
        shared.note(t("shell.left_out", problem=problem))
    shared.note(t("training.intro"))
    show_summary(view, trained, logs, t)
    chosen = st.selectbox(t("word.policy"), [policy.id for policy in trained], key="trained")
    policy = view.family.policy(chosen)
    log = logs.get(chosen)
    st.html(markup.verdict(told(policy, log, view.family.primary, t), advice(policy, log, t), feasible=True))
    if log is None:
        shared.note(t("training.no_log", policy=chosen))
        return
    show_log(log, view.family.objectives, t)


@st.cache_data(max_entries=4, show_spinner=False, hash_funcs={FamilyView: lambda view: str(view.root)})
def _logs(view: FamilyView, states: tuple[object, ...]) -> tuple[dict[str, TrainingLog], list[str]]:
    """``states`` are part of the key only: changed files are read again."""
    return read_logs(view.root, view.family.policies)


def show_summary(view: FamilyView, trained: list[Policy], logs: dict[str, TrainingLog], t: Catalogue) -> None:
    """A row per policy: what its floors did."""
    rows = []
    for policy in trained:
        found = activities(policy, logs.get(policy.id))
        ess = lowest_ess(policy, logs.get(policy.id))
        kl = last_value(logs[policy.id].rows, "kl") if policy.id in logs else None
        rows.append(
            [
                Cell(policy.id),
                _state(found, ess, t),
                Cell(t.floors(policy.floors, "word.floor_short") or t("compare.no_floor")),
                _binding(found, t),
                Cell("–" if kl is None else f"{kl:.3f}", "number"),
                Cell("–" if ess is None else f"{ess:.2f}", "number"),
            ]
        )
    heads = [Cell(t("word.policy")), Cell(t("profiles.state"))]
    heads += [Cell(t("compare.floors"), note=t("compare.data_win_rate"))]
    heads += [Cell(t("training.binding")), Cell(t("training.title_kl"), "number", t("training.nats"))]
    heads += [Cell(t("training.title_ess"), "number", t("training.lowest"))]
    shared.table(heads, rows, t("training.summary"))


def _state(found: list[Activity], ess: float | None, t: Catalogue) -> Cell:
    """What ``advice`` says of one policy, in few words."""
    short = [
        t("training.reached", name=t.objective(each.objective), reached=each.reached)
        for each in found
        if each.reached is not None and each.missed
    ]
    if short:
        return Cell(f"▲ {t('training.below')}", "bad", t.listed(short))
    if ess is not None and ess < LOW_ESS:
        return Cell(f"▲ {t('training.few')}", "bad")
    return Cell(f"✓ {t('training.as_planned')}", "good")


def _binding(found: list[Activity], t: Catalogue) -> Cell:
    names = [t.objective(each.objective) for each in found if each.binds]
    if names:
        return Cell(t.listed(names))
    return Cell(t("training.none_binds"), "muted")


def told(policy: Policy, log: TrainingLog | None, primary: str, t: Catalogue) -> str:
    """What the floors did, in words."""
    found = activities(policy, log)
    name = t.objective(primary)
    if not found:
        return t("training.unconstrained", policy=policy.id, primary=name)
    idle = [each for each in found if not each.binds]
    binding = [each for each in found if each.binds]
    if not binding:
        names = t.listed(t.objective(each.objective) for each in idle)
        return t("training.never_binds", names=names, policy=policy.id)
    parts = [
        t("training.binds", name=t.objective(each.objective), floor=each.floor, multiplier=each.multiplier)
        for each in binding
    ]
    parts += [t("training.idle", name=t.objective(each.objective), floor=each.floor) for each in idle]
    return " ".join(parts)


def advice(policy: Policy, log: TrainingLog | None, t: Catalogue) -> str:
    """What else to look at."""
    parts = []
    for each in activities(policy, log):
        if each.missed:
            facts = {"reached": each.reached, "floor": each.floor}
            parts.append(t("training.missed", name=t.objective(each.objective), **facts))
    ess = lowest_ess(policy, log)
    if ess is not None and ess < LOW_ESS:
        parts.append(t("training.low_ess", ess=ess))
    return " ".join(parts) or t("training.sound")


def show_log(log: TrainingLog, objectives: list[str], t: Catalogue) -> None:
    """The charts over steps, and all rows as a table."""
    drawn = {kind: {c: t.title(name) for c, name in log.columns(kind, objectives).items()} for kind in PER_OBJECTIVE}
    known = [kind for kind in SINGLE if kind in log.rows and log.rows[kind].notna().any()]
    drawn |= {kind: {kind: t(f"training.title_{kind}")} for kind in known}
    kinds = [kind for kind, names in drawn.items() if names]
    for start in range(0, len(kinds), 2):
        for column, kind in zip(st.columns(2, gap="large"), kinds[start : start + 2], strict=False):
            _chart(column, log, kind, drawn[kind], t)
    with st.expander(t("training.rows")):
        heads = [Cell(name, "number") for name in log.rows.columns]
        rows = [[Cell(f"{value:.4g}", "number") for value in row] for row in log.rows.itertuples(index=False)]
        shared.table(heads, rows, t("training.rows"))
    shared.download(log.rows, f"training-{log.policy}")


def _chart(column: DeltaGenerator, log: TrainingLog, kind: str, names: dict[str, str], t: Catalogue) -> None:
    with column:
        st.subheader(t(f"training.title_{kind}"), anchor=False)
        st.caption(t(f"training.note_{kind}"))
        figure = comparisons.lines_chart(log.rows, "step", "", names, title=t("training.step"))
        if kind == "lambda":
            figure.update_yaxes(rangemode="nonnegative")
        alt = t("training.alt", what=t(f"training.title_{kind}"), policy=log.policy, names=t.listed(names.values()))
        shared.chart(figure, f"training-{kind}", alt)


if __name__ == "__main__":
    opened = shared.opened("training.heading")
    if opened is not None:
        show(opened)
