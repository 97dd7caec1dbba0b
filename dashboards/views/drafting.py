"""Drafting a profile: sliders, the policy it gets, its certificate, what changes, and saving it as a version."""

import re
from typing import NamedTuple

import streamlit as st

from dashboards import markup
from dashboards.agreed import Agreed, with_organisation, with_profile
from dashboards.catalogue import Catalogue
from dashboards.floors import held
from dashboards.frames import FamilyView, measured_objectives
from dashboards.markup import Cell
from dashboards.signoffs import ROLES
from dashboards.versions import Change, changes, save_version
from dashboards.views import shared
from mopo_eval.certificate import Certificate
from mopo_eval.profiles import ProfileFile, ThresholdProfile, check_profiles
from mopo_eval.selection import Selection, best_attainable, select
from mopo_train.errors import MopoError

NAME = re.compile(r"[a-z][a-z0-9-]*")
SMALLEST = 0.0001
"""p-values below this one are shown as such."""
NEW, ORGANISATION = " new", " organisation"
"""Choices beside the profiles; a space begins no profile's name."""


class Draft(NamedTuple):
    """What is being drafted."""

    name: str | None
    """Of the profile, also of one that is to be removed; None for the organisation's floors."""
    profiles: ProfileFile
    """All profiles with the draft in its place."""
    start: tuple[int, ProfileFile]
    """The version that it starts from, and what that says."""


def show(view: FamilyView, agreed: Agreed, t: Catalogue) -> None:
    """The tab."""
    left, right = st.columns([1, 1.25], gap="large")
    with left:
        draft = ask(view, agreed, t)
    with right:
        if draft is None:
            shared.note(t("profiles.bad_name"))
        elif draft.name is not None and draft.name in draft.profiles.profiles:
            show_profile(view, agreed, draft.name, draft.profiles, t)
        else:
            show_all(view, agreed, draft, t)
    if draft is not None:
        save(view, draft, t)


def ask(view: FamilyView, agreed: Agreed, t: Catalogue) -> Draft | None:
    """What to draft, from sliders; None while a new profile has no usable name."""
    choices = agreed.choices
    number = list(choices)[0]
    shared.forget_stale("draft-base", choices)
    if len(choices) > 1:
        number = st.selectbox(
            t("profiles.start_from"), list(choices), format_func=lambda n: version_title(agreed, n, t), key="draft-base"
        )
    base = choices[number]
    start = (number, base)
    told = {NEW: t("profiles.new"), ORGANISATION: t("profiles.organisation")}
    names = [*base.profiles, NEW, ORGANISATION]
    chosen: str = st.selectbox(
        t("word.profile"), names, format_func=lambda name: told.get(name, name), key=f"draft-name-{number}"
    )
    place = f"draft-{number}-{chosen.strip()}"
    if chosen == ORGANISATION:
        floors = ask_floors(view, base.organisation.floors, place, t)
        return Draft(None, with_organisation(base, floors), start)
    name = chosen
    if chosen == NEW:
        name = st.text_input(t("profiles.name"), placeholder="careful", key=f"{place}-name").strip()
        if not NAME.fullmatch(name) or name in base.profiles:
            return None
    before = base.profiles.get(name) or ThresholdProfile(primary=view.family.primary)
    profile = ask_profile(view, before, place, t)
    if chosen != NEW and st.checkbox(t("profiles.remove"), key=f"{place}-remove"):
        return Draft(name, with_profile(base, name, None), start)
    return Draft(name, with_profile(base, name, profile), start)


def ask_profile(view: FamilyView, before: ThresholdProfile, place: str, t: Catalogue) -> ThresholdProfile:
    """Primary, floors and what to do where nobody holds them."""
    known = measured_objectives(view)
    primaries = known if before.primary in known else [before.primary, *known]
    index = primaries.index(before.primary)
    primary = st.selectbox(t("front.maximises"), primaries, index=index, format_func=t.title, key=f"{place}-primary")
    floors = ask_floors(view, before.floors, place, t)
    outcomes = ["reject", "closest", *(policy.id for policy in view.family.policies)]
    otherwise = st.selectbox(
        t("profiles.otherwise"),
        outcomes,
        index=outcomes.index(before.on_infeasible) if before.on_infeasible in outcomes else 0,
        format_func=lambda name: outcome(name, t),
        key=f"{place}-otherwise",
    )
    mixed = st.checkbox(t("profiles.mixture"), value=before.selection == "mixture", key=f"{place}-mixture")
    if mixed:
        st.caption(t("profiles.mixture_note"))
    selection = "mixture" if mixed else "single"
    update = {"primary": primary, "floors": floors, "on_infeasible": otherwise, "selection": selection}
    return ThresholdProfile.model_validate(before.model_dump() | update)


def outcome(name: str, t: Catalogue) -> str:
    """What happens where no policy holds every floor."""
    told = {"reject": t("profiles.reject"), "closest": t("profiles.closest")}
    return told.get(name) or t("profiles.serve", policy=name)


def ask_floors(view: FamilyView, before: dict[str, float], place: str, t: Catalogue) -> dict[str, float]:
    """One slider per measured objective in judge score, and per win rate where asked for or already set."""
    known = measured_objectives(view)
    rates = [name for name in before if name.endswith(".win_rate")]
    names = [*known, *(name for name in before if name not in known and name not in rates)]
    if st.checkbox(t("profiles.win_rates"), value=bool(rates), key=f"{place}-rates"):
        names += [f"{name}.win_rate" for name in known]
    best = best_attainable(view.measured, names)
    floors = {}
    for name in names:
        label = t("front.at_least", name=t.title(name))
        value = round(float(before.get(name, 0.0)), 2)
        floors[name] = st.slider(label, 0.0, 1.0, value, step=0.01, format="%.2f", key=f"{place}-{name}")
        reach = best[name]
        if reach is not None:
            st.caption(t("front.reach", best=held(reach)))
    return floors


def show_profile(view: FamilyView, agreed: Agreed, name: str, profiles: ProfileFile, t: Catalogue) -> None:
    """What the draft called ``name`` gets, with margins, its certificate and what changes."""
    profile, organisation = profiles.profiles[name], profiles.organisation.floors
    choice = select(profile, view.cards, organisation)
    st.html(verdict(view, profile, choice, t))
    show_margins(choice, t)
    before = agreed.current.profiles.get(name)
    show_changes(changes(before, profile), before is None, t)
    if before is not None:
        show_effect(view, select(before, view.cards, agreed.current.organisation.floors), choice, t)
    show_certificate(shared.certificate(view, profile, name if before == profile else None, organisation), t)


def verdict(view: FamilyView, profile: ThresholdProfile, choice: Selection, t: Catalogue) -> str:
    """Which policy serves the profile."""
    floors = t.floors(choice.floors) or t("front.no_floor")
    card = view.cards[choice.policy] if choice.policy else None
    score = card.objectives.get(profile.primary) if card else None
    if choice.feasible and score is not None:
        if choice.weights:
            return markup.verdict(t("profiles.gets_mixture", shares=choice.served), floors, feasible=True)
        facts = {"policy": choice.policy, "primary": t.objective(profile.primary), "mean": score.mean}
        return markup.verdict(t("profiles.gets", **facts), floors, feasible=True)
    cell = shared.gets(choice, t)
    return markup.verdict(t("front.nobody"), f"{cell.text} · {cell.note}", feasible=False)


def show_margins(choice: Selection, t: Catalogue) -> None:
    """Floor by floor, of the policy that serves or comes closest."""
    shown = choice.policy or choice.closest
    row = next((each for each in choice.policies if each.id == shown), None)
    floors = {name: floor for name, floor in choice.floors.items() if floor > 0}
    if row is None or not floors:
        return
    rows = []
    for name, floor in floors.items():
        bound = choice.expected[name] if choice.expected else row.certified[name]
        margin = None if bound is None else bound - floor
        state = Cell("–", "number bad") if margin is None else margin_cell(margin)
        certified = Cell(f"{bound:.3f}" if bound is not None else t("word.not_measured"), "number")
        rows.append([Cell(t.title(name)), Cell(f"{floor:.2f}", "number"), certified, state])
    heads = [Cell(t("front.floors_column")), Cell(t("profiles.asked"), "number")]
    heads += [Cell(t("profiles.certified_of", policy=choice.served or row.id), "number")]
    heads += [Cell(t("profiles.margin"), "number")]
    shared.table(heads, rows, t("profiles.margins"))


def margin_cell(margin: float) -> Cell:
    """What a bound has more than its floor."""
    return Cell(markup.signed(margin), "number good" if margin >= 0 else "number bad")


def show_changes(found: list[Change], new: bool, t: Catalogue) -> None:
    """Against the profile in force."""
    st.subheader(t("profiles.changes"), anchor=False)
    if new:
        shared.note(t("profiles.is_new"))
        return
    if not found:
        shared.note(t("profiles.same"))
        return
    heads = [Cell(""), Cell(t("profiles.in_force"), "number"), Cell(t("profiles.draft"), "number")]
    rows = [[Cell(change_title(each, t)), *(change_value(value, each, t) for value in each[1:])] for each in found]
    shared.table(heads, rows, t("profiles.changes"))


def change_title(change: Change, t: Catalogue) -> str:
    """What changed, for people."""
    told = {"primary": t("front.maximises"), "on_infeasible": t("profiles.otherwise")}
    told["selection"] = t("profiles.selection")
    return told.get(change.what) or t.title(change.what)


def change_value(value: str | float | None, change: Change, t: Catalogue) -> Cell:
    """One side of a change."""
    if value is None:
        return Cell("–", "number")
    if isinstance(value, float):
        return Cell(f"{value:.2f}", "number")
    if change.what == "primary":
        return Cell(t.title(value), "number")
    return Cell(t(f"profiles.selection_{value}") if change.what == "selection" else outcome(value, t), "number")


def show_effect(view: FamilyView, before: Selection, after: Selection, t: Catalogue) -> None:
    """Which policy gives way to which, and what that means for every objective."""
    if before.policy == after.policy:
        shared.note(t("profiles.same_policy", policy=after.policy or t("front.refused")))
        return
    old, new = (view.cards.get(each.policy) if each.policy else None for each in (before, after))
    names = {"before": before.policy or t("front.refused"), "after": after.policy or t("front.refused")}
    if old is None or new is None:
        shared.note(t("profiles.other_policy", **names))
        return
    shifts = [
        f"{t.objective(name)} {markup.signed(new.objectives[name].mean - old.objectives[name].mean)}"
        for name in measured_objectives(view)
        if name in old.objectives and name in new.objectives
    ]
    shared.note(f"{t('profiles.other_policy', **names)} {t.listed(shifts)}")


def show_certificate(certificate: Certificate | str, t: Catalogue) -> None:
    """Which policies are shown to hold the floors, and how surely."""
    st.subheader(t("profiles.certificate"), anchor=False)
    if isinstance(certificate, str):
        shared.note(certificate)
        return
    shared.note(certified(certificate, t))
    if not certificate.floors:
        return
    rows = [
        [
            Cell(test.policy),
            Cell(t("profiles.shown"), "good") if test.certified else Cell(t("profiles.not_shown"), "bad"),
            Cell(f"{test.p_value:.4f}" if test.p_value >= SMALLEST else f"< {SMALLEST}", "number"),
        ]
        for test in certificate.policies
    ]
    heads = [Cell(t("word.policy")), Cell(t("profiles.is_certified")), Cell(t("profiles.p_value"), "number")]
    shared.table(heads, rows, t("profiles.certificate"))
    shared.note(t(f"profiles.method_{certificate.method.replace('-', '_')}", level=certificate.level))


def certified(certificate: Certificate, t: Catalogue) -> str:
    """The certificate in a sentence."""
    names = [test.policy for test in certificate.policies if test.certified]
    facts = {
        "floors": t.floors(certificate.floors, "word.floor_short"),
        "confidence": certificate.confidence,
        "prompts": certificate.evidence.prompts,
        "run": certificate.evidence.run,
    }
    if not certificate.floors:
        return t("profiles.nothing_to_certify")
    if not names:
        return t("profiles.none_certified", **facts)
    return t("profiles.certified", names=t.listed(names), **facts)


def show_all(view: FamilyView, agreed: Agreed, draft: Draft, t: Catalogue) -> None:
    """What every profile gets, where a draft concerns more than one or removes one."""
    rows = []
    for name, profile in draft.profiles.profiles.items():
        after = select(profile, view.cards, draft.profiles.organisation.floors)
        old = agreed.current.profiles.get(name)
        before = select(old, view.cards, agreed.current.organisation.floors) if old else None
        was = shared.gets(before, t) if before else Cell("–")
        rows.append([Cell(name), was, shared.gets(after, t)])
    heads = [Cell(t("word.profile")), Cell(t("profiles.in_force")), Cell(t("profiles.draft"))]
    shared.table(heads, rows, t("front.profiles_table"))


def save(view: FamilyView, draft: Draft, t: Catalogue) -> None:
    """Save the draft as the next version. Where somebody changed what it starts from, it is shown first."""
    if shared.settings().read_only:
        return
    seen = st.session_state.get("draft-seen", draft.start)
    st.session_state["draft-seen"] = draft.start
    with st.form("save-version"):
        left, right = st.columns([1, 2])
        name = shared.ask_name(left, key="version-name")
        note = right.text_input(t("profiles.note"), max_chars=5000, key="version-note")
        # Its label has no number: another one, since somebody else saved, would be another button, and a click be lost.
        if st.form_submit_button(t("profiles.save"), type="primary", icon=":material/save:"):
            if not name.strip():
                st.error(t("answers.name_needed"))
                return
            if seen != draft.start:
                st.error(t("profiles.other_start"))
                return
            try:
                policies = [policy.id for policy in view.family.policies]
                where = t("profiles.draft")
                check_profiles(draft.profiles, view.family.objectives, policies, where=where)
                saved = save_version(view.root, draft.profiles, name.strip(), note.strip())
            except (MopoError, OSError) as error:
                st.error(t("shell.not_saved", error=error))
                return
            st.session_state["saved-version"] = saved.number
            st.rerun()
    if number := st.session_state.pop("saved-version", None):
        st.success(t("profiles.saved", number=number))


def version_title(agreed: Agreed, number: int, t: Catalogue) -> str:
    """A version for people: number, author and day, or what is in force."""
    version = agreed.version(number)
    if version is None:
        return t("profiles.in_force_unsaved")
    text = t("profiles.version", number=number, author=version.author, day=version.saved_at[:10])
    return f"{text} · {t('profiles.in_force')}" if number == agreed.in_force else text


def role(name: str, t: Catalogue) -> str:
    """The role of who signed."""
    return t(f"profiles.role_{name}") if name in ROLES else name
