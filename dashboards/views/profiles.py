"""Profiles: draft one and see what it gets, sign it, put it in force, look back and roll back."""

from pathlib import Path

import streamlit as st

from dashboards.agreed import Agreed
from dashboards.frames import FamilyView, file_state
from dashboards.signoffs import Evidence, evaluation_files, family_files, files_sha256, read_signoffs
from dashboards.versions import number_in_force, read_log, read_versions
from dashboards.views import drafting, history, shared, signing

TABS = {"draft": drafting.show, "sign": signing.show, "history": history.show}


def show(view: FamilyView) -> None:
    """The page."""
    if not view.measured:
        shared.ask_to_measure(view)
        return
    t = shared.words()
    versions, problems = read_versions(view.root)
    signoffs, unsigned_lines = read_signoffs(view.root)
    log, log_lines = read_log(view.root)
    for problem in [*problems, *unsigned_lines, *log_lines]:
        shared.note(t("shell.left_out", problem=problem))
    in_force = number_in_force(versions, log, view.profiles)
    agreed = Agreed(versions, signoffs, log, evidence(view), view.profiles, in_force)
    tab = st.segmented_control(
        t("profiles.tab"),
        list(TABS),
        format_func=lambda name: t(f"profiles.tab_{name}"),
        default="draft",
        required=True,
        key="profiles-tab",
    )
    TABS[tab](view, agreed, t)


def evidence(view: FamilyView) -> Evidence:
    """Digests of the family and of the evaluation that its scorecards are of; read again when a file changes."""
    run = view.measured[0].run
    lists = family_files(view.root, view.family), evaluation_files(view.root, view.family, run)
    found = [_digest(str(view.root), tuple((str(path), file_state(path)) for path in files)) for files in lists]
    return Evidence(found[0], found[1], "")


@st.cache_data(max_entries=8, show_spinner=False)
def _digest(root: str, files: tuple[tuple[str, tuple[str, int, int] | None], ...]) -> str:
    """``files`` with their states: a changed file is read again."""
    return files_sha256(Path(root), [Path(name) for name, _ in files])


if __name__ == "__main__":
    opened = shared.opened("profiles.heading")
    if opened is not None:
        show(opened)
