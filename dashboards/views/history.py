"""What was saved, signed and put in force, and how two versions differ."""

import pandas as pd
import streamlit as st

from dashboards.agreed import Agreed
from dashboards.catalogue import Catalogue
from dashboards.frames import FamilyView
from dashboards.markup import Cell
from dashboards.signoffs import users_of
from dashboards.versions import changes
from dashboards.views import shared
from dashboards.views.drafting import change_title, change_value, role, version_title


def show(view: FamilyView, agreed: Agreed, t: Catalogue) -> None:
    """The tab."""
    if not agreed.versions:
        shared.note(t("profiles.no_versions"))
        return
    show_versions(agreed, t)
    show_log(agreed, t)
    show_difference(agreed, t)
    show_signoffs(view, agreed, t)


def show_versions(agreed: Agreed, t: Catalogue) -> None:
    """Every version, newest first."""
    st.header(t("profiles.versions"), anchor=False)
    rows = []
    for version in reversed(agreed.versions):
        state = Cell(f"✓ {t('profiles.in_force')}", "good") if version.number == agreed.in_force else Cell("")
        when = version.saved_at[:16].replace("T", " ")
        rows.append([Cell(str(version.number)), Cell(version.author, note=when), Cell(version.note), state])
    heads = [Cell(t("profiles.number")), Cell(t("answers.who")), Cell(t("profiles.note")), Cell(t("profiles.state"))]
    shared.table(heads, rows, t("profiles.versions"))
    shared.note(t("profiles.roll_back"))


def show_log(agreed: Agreed, t: Catalogue) -> None:
    """When which version was in force."""
    if not agreed.log:
        return
    st.header(t("profiles.log"), anchor=False)
    rows = [
        [Cell(entry.time[:16].replace("T", " ")), Cell(entry.name), Cell(f"{entry.replaced or '–'} → {entry.version}")]
        for entry in reversed(agreed.log)
    ]
    heads = [Cell(t("profiles.when")), Cell(t("answers.who")), Cell(t("profiles.number"))]
    shared.table(heads, rows, t("profiles.log"))


def show_signoffs(view: FamilyView, agreed: Agreed, t: Catalogue) -> None:
    """Everything that was ever signed, newest first."""
    if not agreed.signoffs:
        return
    st.header(t("profiles.all_signoffs"), anchor=False)
    rows = [
        [Cell(entry.time[:16].replace("T", " ")), Cell(entry.name, note=role(entry.role, t)), Cell(entry.profile)]
        + [Cell(entry.note)]
        for entry in reversed(agreed.signoffs)
    ]
    heads = [Cell(t("profiles.when")), Cell(t("answers.who")), Cell(t("word.profile")), Cell(t("profiles.note"))]
    shared.table(heads, rows, t("profiles.all_signoffs"))
    shared.download(pd.DataFrame([entry.model_dump() for entry in agreed.signoffs]), f"{view.root.name}-sign-offs")


def show_difference(agreed: Agreed, t: Catalogue) -> None:
    """Two versions against each other."""
    choices = agreed.choices
    if len(choices) < 2:
        return
    st.header(t("profiles.difference"), anchor=False)
    left, right = st.columns(2)
    numbers = sorted(choices)
    shared.forget_stale("diff-first", numbers)
    shared.forget_stale("diff-second", numbers)

    def told(number: int) -> str:
        return version_title(agreed, number, t)

    first = left.selectbox(t("profiles.before"), numbers, index=len(numbers) - 2, format_func=told, key="diff-first")
    second = right.selectbox(t("profiles.after"), numbers, index=len(numbers) - 1, format_func=told, key="diff-second")
    before, after = choices[first], choices[second]
    rows = []
    for name in dict.fromkeys([*before.profiles, *after.profiles]):
        for change in changes(before.profiles.get(name), after.profiles.get(name)):
            values = [change_value(value, change, t) for value in change[1:]]
            rows.append([Cell(name), Cell(change_title(change, t)), *values])
        whose = [t.listed(users_of(each, name)) for each in (before, after)]
        if whose[0] != whose[1]:
            rows.append([Cell(name), Cell(t("profiles.users")), *(Cell(names or "–", "number") for names in whose)])
    for name in dict.fromkeys([*before.organisation.floors, *after.organisation.floors]):
        old, new = before.organisation.floors.get(name), after.organisation.floors.get(name)
        if old != new:
            values = [Cell("–" if value is None else f"{value:.2f}", "number") for value in (old, new)]
            rows.append([Cell(t("profiles.organisation")), Cell(t.title(name)), *values])
    if not rows:
        shared.note(t("profiles.same"))
        return
    heads = [
        Cell(t("word.profile")),
        Cell(t("profiles.changes")),
        Cell(t("profiles.before"), "number"),
        Cell(t("profiles.after"), "number"),
    ]
    shared.table(heads, rows, t("profiles.difference"))
