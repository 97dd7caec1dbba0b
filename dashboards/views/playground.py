"""One prompt to the live gateway under two profiles, streamed side by side; votes go to its feedback route."""

from typing import Any, NamedTuple

import streamlit as st

from dashboards import markup
from dashboards.catalogue import Catalogue
from dashboards.errors import GatewayError
from dashboards.frames import FamilyView, measured_objectives
from dashboards.live import Gateway
from dashboards.views import shared

MOST_TOKENS = 1024


class Side(NamedTuple):
    """One answer as far as it came."""

    profile: str
    text: str = ""
    policy: str = ""
    request_id: str = ""
    error: str = ""
    why: str = ""


def show(view: FamilyView) -> None:
    """The page."""
    t, settings = shared.words(), shared.settings()
    if settings.gateway is None:
        start = f"mopo-dashboard {view.root} --gateway http://127.0.0.1:8000"
        commands = [serve_command(view), start + audit_option()]
        st.html(markup.help_page(t("playground.no_gateway"), t("playground.no_gateway_text"), commands))
        return
    gateway = Gateway(settings.gateway, settings.key)
    try:
        profiles = gateway.profiles()
    except GatewayError as error:
        st.html(markup.help_page(t("playground.unreachable"), str(error), [serve_command(view)]))
        return
    if not profiles:
        shared.note(t("playground.no_profiles"))
        return
    asked = ask(profiles, t)
    if asked is not None:
        st.session_state["playground"] = answer(view, gateway, asked, t)
        st.rerun()
    sides: list[Side] = st.session_state.get("playground", [])
    if sides:
        show_sides(sides, t)
        if not settings.read_only:
            vote(gateway, sides, measured_objectives(view) or view.family.objectives, t)


def serve_command(view: FamilyView) -> str:
    """What starts the gateway."""
    return f"mopo-serve run {view.root}{audit_option()}"


def audit_option() -> str:
    """The audit store that the monitor reads, as an option; nothing for the default one."""
    audit = shared.settings().audit
    return f" --audit {audit}" if audit else ""


class Asked(NamedTuple):
    """What was asked."""

    prompt: str
    profiles: list[str]
    options: dict[str, Any]


def ask(profiles: list[str], t: Catalogue) -> Asked | None:
    """The form; None until it is sent with a prompt."""
    with st.form("ask"):
        left, right = st.columns(2)
        first = left.selectbox(t("playground.left"), profiles, key="left-profile")
        second = right.selectbox(t("playground.right"), profiles, index=min(1, len(profiles) - 1), key="right-profile")
        prompt = st.text_area(t("word.prompt"), key="play-prompt", max_chars=20_000)
        more = st.columns([1, 1, 2])
        tokens = more[0].number_input(t("playground.tokens"), 1, MOST_TOKENS, 256, key="play-tokens")
        heat = more[1].number_input(t("playground.temperature"), 0.0, 2.0, 0.7, step=0.1, key="play-temperature")
        sent = st.form_submit_button(t("playground.send"), type="primary", icon=":material/send:")
    if not sent or not prompt.strip():
        return None
    return Asked(prompt, [first, second], {"max_tokens": int(tokens), "temperature": float(heat)})


def answer(view: FamilyView, gateway: Gateway, asked: Asked, t: Catalogue) -> list[Side]:
    """Both answers, drawn as they come."""
    sides = [Side(profile, why=why(view, gateway, profile, t)) for profile in asked.profiles]
    places = [column.empty() for column in st.columns(2)]
    for place, side in zip(places, sides, strict=True):
        place.html(card(side, t))
    for piece in gateway.answers(asked.profiles, asked.prompt, asked.options):
        side = sides[piece.side]
        side = side._replace(
            text=side.text + piece.text,
            policy=piece.policy or side.policy,
            request_id=piece.request_id or side.request_id,
            error=piece.error or side.error,
        )
        sides[piece.side] = side
        places[piece.side].html(card(side, t))
    return sides


def why(view: FamilyView, gateway: Gateway, profile: str, t: Catalogue) -> str:
    """Why a policy serves ``profile``, in the page's language; in the gateway's words where it knows better.

    It does of profiles that this family does not have, of mixtures, and of floors that nobody holds.
    """
    try:
        found = gateway.resolve(profile)
    except GatewayError as error:
        return str(error)
    asks = view.profiles.profiles.get(profile)
    mean = next((row.get("primary") for row in found["policies"] if row["id"] == found["policy"]), None)
    if asks is None or mean is None or not found["feasible"] or found.get("weights"):
        return str(found.get("reason", ""))
    facts = {"policy": found["policy"], "primary": t.objective(asks.primary), "mean": mean}
    floors = t.floors(found["floors"])
    if not floors:
        return t("playground.best_no_floor", **facts)
    held, count = sum(row["meets"] for row in found["policies"]), len(found["policies"])
    return t("playground.best", held=held, count=count, floors=floors, **facts)


def card(side: Side, t: Catalogue) -> str:
    """One answer with the policy that gave it, and why."""
    below = markup.note(t("playground.why", why=side.why)) if side.why else ""
    if side.error:
        below += markup.note(t("playground.broke_off", error=side.error))
    return markup.card(side.profile, side.policy, side.text, below, t)


def show_sides(sides: list[Side], t: Catalogue) -> None:
    """Both answers, whole."""
    for column, side in zip(st.columns(2), sides, strict=True):
        column.html(card(side, t))


def vote(gateway: Gateway, sides: list[Side], objectives: list[str], t: Catalogue) -> None:
    """A thumb per objective and answer."""
    able = [side for side in sides if side.request_id and not side.error]
    if not able:
        return
    st.header(t("playground.votes"), anchor=False)
    with st.form("vote", clear_on_submit=True):
        found: dict[str, dict[str, float]] = {}
        for column, side in zip(st.columns(2), sides, strict=True):
            if side not in able:
                continue
            for name in objectives:
                thumb = column.segmented_control(
                    t("playground.vote_on", name=t.title(name), profile=side.profile),
                    [1.0, 0.0],
                    format_func=lambda value: t("playground.good") if value else t("playground.poor"),
                    key=f"vote-{side.request_id}-{name}",
                )
                if thumb is not None:
                    found.setdefault(side.request_id, {})[name] = thumb
        if st.form_submit_button(t("playground.send_votes"), icon=":material/how_to_vote:"):
            _send(gateway, found, t)


def _send(gateway: Gateway, votes: dict[str, dict[str, float]], t: Catalogue) -> None:
    if not votes:
        st.error(t("playground.no_vote"))
        return
    try:
        for request_id, scores in votes.items():
            gateway.vote(request_id, scores)
    except GatewayError as error:
        st.error(t("playground.not_taken", error=error))
        return
    st.success(t("playground.thanks"))


if __name__ == "__main__":
    opened = shared.opened("playground.heading")
    if opened is not None:
        show(opened)
