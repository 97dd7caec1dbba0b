"""Signing a version's profiles, putting it in force, and taking it away as YAML or a one-page report."""

import streamlit as st
import yaml

from dashboards import markup
from dashboards.agreed import Agreed, Standing
from dashboards.catalogue import Catalogue
from dashboards.flags import now
from dashboards.floors import held
from dashboards.frames import FamilyView
from dashboards.markup import Cell
from dashboards.profile_report import Section, report
from dashboards.signoffs import ROLES, SignOff, add_signoff, profile_sha256, users_of
from dashboards.versions import put_in_force
from dashboards.views import shared
from dashboards.views.drafting import certified, outcome, role, version_title
from mopo_eval.certificate import Certificate
from mopo_eval.profiles import ProfileFile
from mopo_eval.selection import select
from mopo_train.errors import MopoError


def show(view: FamilyView, agreed: Agreed, t: Catalogue) -> None:
    """The tab."""
    choices = agreed.choices
    newest = max(choices)
    shared.forget_stale("sign-version", choices)
    number = st.selectbox(
        t("profiles.which"),
        list(choices),
        index=list(choices).index(newest),
        format_func=lambda n: version_title(agreed, n, t),
        key="sign-version",
    )
    profiles, version = choices[number], agreed.version(number)
    if version is not None and version.note:
        shared.note(version.note)
    removed = agreed.removed(number)
    if not profiles.profiles and not removed:
        shared.note(t("front.no_profiles"))
        return
    show_profiles(view, agreed, number, t)
    told = {name: t("profiles.removal_of", name=name) for name in removed}
    name = st.selectbox(
        t("word.profile"),
        [*profiles.profiles, *removed],
        format_func=lambda each: told.get(each, each),
        key=f"sign-profile-{number}",
    )
    show_signoffs(agreed.standings(profiles, name), name, t)
    if not shared.settings().read_only:
        sign(view, agreed, profiles, name, t)
        force(view, agreed, number, t)
    export(view, agreed, number, name, t)


def show_profiles(view: FamilyView, agreed: Agreed, number: int, t: Catalogue) -> None:
    """What each profile of the version gets and who signed it, and which ones it removes."""
    profiles, rows = agreed.choices[number], []
    for name, profile in profiles.profiles.items():
        choice = select(profile, view.cards, profiles.organisation.floors)
        floors = t.floors(choice.floors, "word.floor_short") or t("word.none")
        state = signed_state(agreed.standings(profiles, name), t)
        users = users_of(profiles, name)
        whose = t("profiles.users_are", names=t.listed(users)) if users else ""
        rows.append([Cell(name, note=whose), shared.gets(choice, t), Cell(floors), state])
    for name in agreed.removed(number):
        state = signed_state(agreed.standings(profiles, name), t)
        rows.append([Cell(name), Cell(f"✕ {t('profiles.removed')}", "bad"), Cell("–"), state])
    heads = [Cell(t("word.profile")), Cell(t("front.gets")), Cell(t("front.effective")), Cell(t("profiles.signoffs"))]
    shared.table(heads, rows, t("profiles.of_version"))


def signed_state(found: list[Standing], t: Catalogue) -> Cell:
    """Whether a sign-off holds, and whose."""
    signed = [each.signoff for each in found if not each.changed]
    who = t.listed(f"{entry.name} ({role(entry.role, t)})" for entry in signed)
    return Cell(f"✓ {t('profiles.signed')}", "good", who) if signed else Cell(t("profiles.not_signed"), "muted")


def show_signoffs(found: list[Standing], name: str, t: Catalogue) -> None:
    """Every sign-off of one profile, with what ended it."""
    st.header(t("profiles.signoffs_of", name=name), anchor=False)
    if not found:
        shared.note(t("profiles.nobody_signed"))
        return
    rows = []
    for entry, parts in found:
        state = Cell(f"✓ {t('profiles.holds')}", "good")
        if parts:
            state = Cell(f"✕ {t('profiles.ended')}", "bad", _because(parts, t))
        rows.append(
            [
                Cell(entry.name, note=role(entry.role, t)),
                Cell(entry.time[:16].replace("T", " ")),
                Cell(entry.note),
                state,
            ]
        )
    heads = [Cell(t("answers.who")), Cell(t("profiles.when")), Cell(t("profiles.note")), Cell(t("profiles.state"))]
    shared.table(heads, rows, t("profiles.signoffs_of", name=name))


def sign(view: FamilyView, agreed: Agreed, profiles: ProfileFile, name: str, t: Catalogue) -> None:
    """A form to sign one profile. What changed since the form was drawn is shown first, and signed next time."""
    now_shown = (name, agreed.evidence, profile_sha256(profiles, name))
    seen = st.session_state.get("sign-seen", now_shown)
    st.session_state["sign-seen"] = now_shown
    with st.form("sign", clear_on_submit=True):
        left, middle, right = st.columns([1, 1, 2])
        who = shared.ask_signature(left, key="sign-name")
        chosen = middle.selectbox(
            t("profiles.role"),
            ROLES,
            index=None,  # the first one would be signed as by whoever does not look
            placeholder=t("profiles.choose_role"),
            format_func=lambda each: t(f"profiles.role_{each}"),
            key="sign-role",
        )
        note = right.text_input(t("profiles.note"), max_chars=5000, key="sign-note")
        label = t("profiles.sign" if name in profiles.profiles else "profiles.sign_removal", name=name)
        if st.form_submit_button(label, icon=":material/draw:"):
            if not who.strip():
                st.error(t("answers.name_needed"))
                return
            if chosen is None:
                st.error(t("profiles.role_needed"))
                return
            if seen != now_shown:
                st.error(t("profiles.changed_meanwhile"))
                return
            entry = SignOff(
                time=now(),
                name=who.strip(),
                role=chosen,
                note=note.strip(),
                profile=name,
                family_sha256=agreed.evidence.family,
                evaluation_sha256=agreed.evidence.evaluation,
                profile_sha256=profile_sha256(profiles, name),
            )
            try:
                add_signoff(view.root, entry)
            except OSError as error:
                st.error(t("shell.not_saved", error=error))
                return
            st.rerun()


def force(view: FamilyView, agreed: Agreed, number: int, t: Catalogue) -> None:
    """A button that puts the version in force."""
    version, seen = agreed.version(number), st.session_state.get("force-seen", view.profiles_sha256)
    st.session_state["force-seen"] = view.profiles_sha256
    if version is None or number == agreed.in_force:
        shared.note(t("profiles.is_in_force"))
        return
    missing = agreed.missing(number)
    if missing:
        shared.note(t("profiles.must_sign", names=t.listed(missing)))
    with st.form("force", clear_on_submit=True):
        who = shared.ask_signature(st.container(), key="force-name").strip()
        label = t("profiles.put_in_force", number=number)
        if not st.form_submit_button(label, type="primary", disabled=bool(missing)):
            return
    if not who:
        st.error(t("answers.name_needed"))
        return
    if seen != view.profiles_sha256:
        st.error(t("profiles.other_in_force"))
        return
    broken = bool(view.problems) and not view.profiles.profiles
    try:
        current = None if broken else agreed.current
        put_in_force(view.root, version, who, current, shown_sha256=view.profiles_sha256)
    except (MopoError, OSError) as error:
        st.error(t("shell.not_saved", error=error))
        return
    st.rerun()


def export(view: FamilyView, agreed: Agreed, number: int, name: str, t: Catalogue) -> None:
    """Downloads: all profiles as YAML, one profile as a page to print."""
    profiles = agreed.choices[number]
    body = yaml.safe_dump(profiles.model_dump(exclude_defaults=True), sort_keys=False, allow_unicode=True)
    with st.container(horizontal=True):
        st.download_button(
            t("profiles.yaml"), body, file_name="profiles.yaml", mime="text/yaml", on_click="ignore", key="export-yaml"
        )
        if name not in profiles.profiles:
            return
        page = page_of(view, agreed, number, name, t)
        st.download_button(
            t("profiles.report"), page, file_name=f"{name}.html", mime="text/html", on_click="ignore", key="export-html"
        )
    shared.note(t("profiles.print"))


def page_of(view: FamilyView, agreed: Agreed, number: int, name: str, t: Catalogue) -> str:
    """The report of one profile."""
    profiles = agreed.choices[number]
    profile, organisation = profiles.profiles[name], profiles.organisation.floors
    choice = select(profile, view.cards, organisation)
    certificate = shared.certificate(view, profile, name if number == (agreed.in_force or 0) else None, organisation)
    told = certified(certificate, t) if isinstance(certificate, Certificate) else certificate
    shown = next((row for row in choice.policies if row.id == (choice.policy or choice.closest)), None)
    margins = [
        [t.title(floor), f"{choice.floors[floor]:.2f}", _number(shown.certified[floor]), _signed(shown.margins[floor])]
        for floor in choice.floors
        if shown is not None and choice.floors[floor] > 0
    ]
    card = view.cards.get(choice.policy) if choice.policy else None
    scores = [
        [t.title(k), f"{score.mean:.3f}", t.interval(score.low, score.high), f"{held(score.certified_low, 3):.3f}"]
        for k, score in (card.objectives.items() if card else [])
    ]
    signed = [
        [entry.name, role(entry.role, t), entry.time[:16].replace("T", " "), _state(parts, t), entry.note]
        for entry, parts in agreed.standings(profiles, name)
    ]
    gets = shared.gets(choice, t)
    evidence = agreed.evidence._replace(profile=profile_sha256(profiles, name))
    score_heads = [t("word.objective"), t("compare.mean"), t("front.key_interval"), t("front.key_certified")]
    sign_heads = [t("answers.who"), t("profiles.role"), t("profiles.when"), t("profiles.state"), t("profiles.note")]
    margin_heads = [t("word.objective"), t("profiles.asked"), t("front.key_certified"), t("profiles.margin")]
    asks = [
        [t("front.maximises"), t.objective(profile.primary)],
        [t("front.effective"), t.floors(choice.floors, "word.floor_short") or t("word.none")],
        [t("profiles.otherwise"), outcome(profile.on_infeasible, t)],
        [t("profiles.selection"), t(f"profiles.selection_{profile.selection}")],
        [t("profiles.users"), t.listed(users_of(profiles, name)) or t("word.none")],
    ]
    sections = [
        Section(t("profiles.asks"), [], [t("profiles.part"), t("monitor.detail")], asks),
        Section(t("profiles.margins"), [t("profiles.rule")] if margins else [t("word.none")], margin_heads, margins),
        Section(t("compare.scores"), [], score_heads, scores),
        Section(t("profiles.certificate"), [told]),
        Section(t("profiles.signoffs"), [] if signed else [t("profiles.nobody_signed")], sign_heads, signed),
        Section(
            t("profiles.rests_on"),
            [],
            [t("profiles.part"), "SHA-256"],
            [[t(f"profiles.part_{part}"), value] for part, value in evidence._asdict().items()],
        ),
    ]
    facts = [view.root.name, version_title(agreed, number, t), view.measured[0].run, now()[:10]]
    summary = f"{gets.text} · {gets.note}"
    if choice.feasible and choice.served and card is not None:
        mean = card.objectives[profile.primary].mean
        summary = t("profiles.gets", policy=choice.served, primary=t.objective(profile.primary), mean=mean)
    return report(t("profiles.report_title", name=name), facts, summary, sections, t)


def _because(parts: list[str], t: Catalogue) -> str:
    return t("profiles.because", parts=t.listed(t(f"profiles.part_{part}") for part in parts))


def _state(parts: list[str], t: Catalogue) -> str:
    return f"{t('profiles.ended')} ({_because(parts, t)})" if parts else t("profiles.holds")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else markup.signed(value)
