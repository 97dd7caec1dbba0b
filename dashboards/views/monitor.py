"""What is served, from the gateway's audit store: traffic, latency, what people think, and what changed."""

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboards import comparisons, markup
from dashboards.catalogue import Catalogue
from dashboards.floors import held
from dashboards.frames import FamilyView
from dashboards.markup import Cell
from dashboards.monitoring import (
    AGREES,
    BELOW,
    DIFFERS,
    FEW,
    Shift,
    by_profile,
    judged,
    requests_over_time,
    shifts,
    totals,
)
from dashboards.versions import read_log
from dashboards.views import shared
from mopo_serve.audit import frames
from mopo_serve.audit.frames import Period
from mopo_serve.audit.store import AuditStore, open_store
from mopo_serve.routing import family_identity
from mopo_serve.trail import default_place
from mopo_train.errors import MopoError

PERIODS = {"hour": 3600, "day": 86_400, "week": 604_800, "all": None, "dates": None}
BINS = 40
"""Stretches of time in the chart of requests."""
MOST_NAMED = 5
"""Other families that are named."""
MINUTE, DAY = 60_000, 86_400_000  # milliseconds
DATES = [
    {"dtickrange": [None, MINUTE - 1], "value": "%H:%M:%S\n%Y-%m-%d"},
    {"dtickrange": [MINUTE, DAY - 1], "value": "%H:%M\n%Y-%m-%d"},
    {"dtickrange": [DAY, None], "value": "%m-%d\n%Y"},
]
"""Dates in figures, which every language reads."""
TONES = {"below": "bad", "differs": "bad", "agrees": "good", "few": "muted", "unpromised": "muted"}
MARKS = {"below": "✕", "differs": "▲", "agrees": "✓", "few": "", "unpromised": ""}


def show(view: FamilyView) -> None:
    """The page."""
    t, place = shared.words(), shared.settings().audit or default_place()
    if shared.settings().audit is None and not Path(place).exists():
        command = f"mopo-dashboard {view.root} --audit AUDIT.db"
        st.html(markup.help_page(t("monitor.no_store"), t("monitor.no_store_text"), [command]))
        return
    try:
        store = _store(place)
        show_store(view, store, t)
    except MopoError as error:
        st.html(markup.help_page(t("monitor.unreadable"), str(error)))


@st.cache_resource(max_entries=2, show_spinner=False)
def _store(place: str) -> AuditStore:
    return open_store(place, create=False)


def show_store(view: FamilyView, store: AuditStore, t: Catalogue) -> None:
    """Everything that the store tells of a period."""
    period = ask_period(t)
    traffic = frames.traffic(store, period)
    confidence, name = view.measured[0].confidence if view.measured else 0.95, family_identity(view.root)
    live = judged(frames.live(store, view.cards, period, family=name, confidence=confidence))
    show_alerts(live, t)
    if traffic.empty:
        shared.note(t("monitor.nothing"))
    else:
        show_totals(totals(traffic), t)
        show_time(requests_over_time(frames.over_time(store, period, bins=BINS), period, bins=BINS), t)
        show_traffic(by_profile(traffic), t)
        show_latency(frames.latency(store, period), t)
    show_feedback(live, t)
    if live.empty:
        show_others(frames.judgements(store, period), t)
    show_events(frames.events(store, period), t)
    show_changes(view, store, t)


def ask_period(t: Catalogue) -> Period:
    """Which requests are counted."""
    chosen = st.segmented_control(
        t("monitor.period"),
        list(PERIODS),
        format_func=lambda name: t(f"monitor.period_{name}"),
        default="all",
        required=True,
        key="period",
    )
    seconds = PERIODS[chosen]
    if seconds is not None:
        return Period(start=datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds))
    if chosen == "dates":
        return _days(st.container(), t("monitor.dates"), "dates", (6, 0))
    return Period()


def _days(place: DeltaGenerator, label: str, key: str, back: tuple[int, int]) -> Period:
    """A stretch of whole days (UTC), both ends included; at first from and to so many days ago."""
    today = datetime.datetime.now(datetime.UTC).date()
    begin, end = (today - datetime.timedelta(days=days) for days in back)
    chosen = place.date_input(label, (begin, end), key=key)
    days = list(chosen) if isinstance(chosen, tuple) else [chosen]
    if not days:
        return Period()
    first, last = days[0], days[-1]
    midnight = datetime.time()
    after = last + datetime.timedelta(days=1)
    return Period(*(datetime.datetime.combine(day, midnight, datetime.UTC) for day in (first, after)))


def show_alerts(live: pd.DataFrame, t: Catalogue) -> None:
    """Where what people say breaks what was measured."""
    told = []
    for row in live[live["state"].isin([BELOW, DIFFERS])].to_dict("records"):
        facts = {"policy": row["policy"], "name": t.objective(row["objective"]), "n": row["n"]}
        told.append(
            t(f"monitor.alert_{row['state']}", low=row["low"], high=row["high"], offline=row["offline"], **facts)
        )
    agree = int((live["state"] == AGREES).sum())
    if told:
        st.html(markup.verdict(" ".join(told), t("monitor.alert_advice"), feasible=False))
    elif agree:
        detail = t("monitor.calm_detail", agree=agree, count=len(live))
        st.html(markup.verdict(t("monitor.calm"), detail, feasible=True))
    else:
        st.html(markup.verdict(t("monitor.silent"), t("monitor.silent_detail", few=FEW), feasible=True))


def show_totals(sums: dict[str, int], t: Catalogue) -> None:
    """The figures of the period."""
    names = ["requests", "infeasible", "refused", "left", "failed", "completion_tokens"]
    st.html(markup.figures([(t(f"monitor.count_{name}"), f"{sums[name]:,}") for name in names]))
    shared.note(t("monitor.counts_note"))


def show_time(wide: pd.DataFrame, t: Catalogue) -> None:
    """Requests over time, a column per profile."""
    st.header(t("monitor.over_time"), anchor=False)
    names = {str(name): _named(str(name), t) for name in wide.columns if name != "time"}
    figure = comparisons.lines_chart(wide, "time", t("monitor.count_requests"), names)
    figure.update_yaxes(tickformat="", rangemode="tozero")
    figure.update_xaxes(tickformatstops=DATES)
    shared.chart(figure, "over-time", t("monitor.over_time_alt", names=t.listed(names.values())))
    with st.expander(t("monitor.over_time_rows")):
        heads = [Cell(t("profiles.when")), *(Cell(name, "number") for name in names.values())]
        rows = [
            [Cell(f"{row['time']:%Y-%m-%d %H:%M}"), *(Cell(f"{row[name]:,}", "number") for name in names)]
            for row in wide.to_dict("records")
        ]
        shared.table(heads, rows, t("monitor.over_time"))
    shared.download(wide, "over-time")


def show_traffic(frame: pd.DataFrame, t: Catalogue) -> None:
    """Requests by profile and policy."""
    st.header(t("monitor.traffic"), anchor=False)
    columns = ["requests", "infeasible", "refused", "left", "failed", "prompt_tokens", "completion_tokens"]
    heads = [Cell(t("word.profile")), Cell(t("word.policy"))]
    heads += [Cell(t(f"monitor.count_{name}"), "number") for name in columns]
    rows = [
        [Cell(_named(row["profile"], t)), Cell(_named(row["policy"], t), "name")]
        + [Cell(f"{row[name]:,}", "number") for name in columns]
        for row in frame.to_dict("records")
    ]
    shared.table(heads, rows, t("monitor.traffic"))
    shared.download(frame, "traffic")


def show_latency(frame: pd.DataFrame, t: Catalogue) -> None:
    """How long answers took."""
    if frame.empty:
        return
    st.header(t("monitor.latency"), anchor=False)
    quantiles = [name for name in frame.columns if name.startswith("p") and name[1:].isdigit()]
    heads = [Cell(t("word.profile")), Cell(t("word.policy")), Cell(t("monitor.what"))]
    heads += [Cell(t("monitor.quantile", share=name[1:]), "number", t("monitor.seconds")) for name in quantiles]
    rows = [
        [Cell(_named(row["profile"], t)), Cell(row["policy"], "name"), Cell(t(f"monitor.metric_{row['metric']}"))]
        + [Cell(f"{row[name]:.2f}", "number") for name in quantiles]
        for row in frame.to_dict("records")
    ]
    shared.table(heads, rows, t("monitor.latency"))
    shared.download(frame, "latency")


def show_feedback(live: pd.DataFrame, t: Catalogue) -> None:
    """What people say against what was measured."""
    st.header(t("monitor.feedback"), anchor=False)
    if live.empty:
        shared.note(t("monitor.no_feedback"))
        return
    shared.note(t("monitor.feedback_note"))
    shown = live.assign(label=[_label(row, t) for row in live.to_dict("records")])
    people = shown.assign(policy=t("monitor.people"))
    known = shown.dropna(subset=["offline"])
    offline = known.assign(policy=t("monitor.measured"), mean=known["offline"])
    offline = offline.assign(low=offline["certified_low"], high=offline["offline"])
    both = pd.concat([people, offline])
    order = [t("monitor.people"), t("monitor.measured")]
    figure = comparisons.grouped_chart(both, t("monitor.value"), order=order)
    shared.chart(figure, "feedback", t("monitor.feedback_alt", count=len(shown)))
    heads = [Cell(t("word.policy")), Cell(t("word.objective")), Cell(t("monitor.measure"))]
    heads += [Cell(t("monitor.people"), "number"), Cell(t("monitor.measured"), "number"), Cell(t("profiles.state"))]
    rows = []
    for row in live.to_dict("records"):
        measure = t(f"monitor.measure_{row['measure']}", against=row["against_policy"])
        interval = t.interval(row["low"], row["high"])
        people_cell = Cell(f"{row['mean']:.3f}", "number", f"{interval} · {t.number(row['n'], 'monitor.judgements')}")
        promise = Cell("–", "number")
        if not pd.isna(row["offline"]):
            promise = Cell(f"{row['offline']:.3f}", "number", t("word.certified", value=held(row["certified_low"], 3)))
        state = row["state"]
        told = f"{MARKS[state]} {t(f'monitor.state_{state}')}".strip()
        rows.append(
            [
                Cell(row["policy"]),
                Cell(t.title(row["objective"])),
                Cell(measure),
                people_cell,
                promise,
                Cell(told, TONES[state]),
            ]
        )
    shared.table(heads, rows, t("monitor.feedback"))
    shared.download(live, "feedback")


def show_others(found: pd.DataFrame, t: Catalogue) -> None:
    """That people judged, but not this family."""
    if not found.empty:
        names = found["family"].drop_duplicates().head(MOST_NAMED)
        shared.note(
            t("monitor.other_families", count=t.number(len(found), "monitor.judgements"), names=t.listed(names))
        )


def _label(row: Mapping[Any, Any], t: Catalogue) -> str:
    text = f"{row['policy']} · {t.objective(row['objective'])}"
    return f"{text} · {row['against_policy']}" if row["against_policy"] else text


def show_events(events: pd.DataFrame, t: Catalogue) -> None:
    """Fallbacks and other changes."""
    if events.empty:
        return
    st.header(t("monitor.events"), anchor=False)
    rows = [
        [
            Cell(f"{row['time']:%Y-%m-%d %H:%M}"),
            Cell(t(f"monitor.event_{row['kind']}") if f"monitor.event_{row['kind']}" in t else row["kind"]),
            Cell(_named(row["profile"], t)),
            _event(row["detail"], t),
        ]
        for row in events.to_dict("records")
    ]
    heads = [Cell(t("profiles.when")), Cell(t("monitor.kind")), Cell(t("word.profile")), Cell(t("monitor.detail"))]
    shared.table(heads, rows, t("monitor.events"))


def _event(detail: Mapping[str, Any], t: Catalogue) -> Cell:
    """Who gave way to whom, and what people saw of those that were suspended; an unknown event as it is written."""
    try:
        moved = [detail["from"]] if detail["from"] == detail["to"] else [detail["from"], detail["to"]]
        told = [
            t(
                "monitor.suspended",
                policy=each["policy"],
                name=t.objective(each["floor_name"]),
                floor=each["floor"],
                n=each["n"],
                interval=t.interval(each["interval"]["low"], each["interval"]["high"], ".2f"),
            )
            for each in detail["suspended"]
        ]
        told += [t("monitor.returned", names=t.listed(detail["returned"]))] if detail["returned"] else []
        return Cell(" → ".join(_named(str(name or ""), t) for name in moved), "", " ".join(told))
    except (KeyError, TypeError, ValueError):
        return Cell(t.listed(f"{name}: {value}" for name, value in detail.items()))


def show_changes(view: FamilyView, store: AuditStore, t: Catalogue) -> None:
    """Two periods side by side, and what was put in force between them."""
    st.header(t("monitor.changes"), anchor=False)
    left, right = st.columns(2)
    before, after = (
        _days(left, t("profiles.before"), "before", (13, 7)),
        _days(right, t("profiles.after"), "after", (6, 0)),
    )
    found = shifts(frames.traffic(store, before), frames.traffic(store, after))
    rows, silent = [], [not found[0].before, not found[0].after]
    for shift in found:
        form: Callable[[float], str] = "{:,.0f}".format if shift.figure == "requests" else "{:.1%}".format
        name = Cell(t(f"monitor.shift_{shift.figure}"))
        if shift.profile:
            name = Cell(f"{_named(shift.profile, t)} → {_named(shift.policy, t)}", "", name.text)
        values = [
            Cell("–" if none and shift.figure != "requests" else form(value), "number")
            for value, none in zip((shift.before, shift.after), silent, strict=True)
        ]
        moved = Cell("")
        if shift.change:
            ends = t.interval(*shift.change, "+.1%")
            moved = Cell(f"{shift.after - shift.before:+.1%}".replace("-", "−"), "number", ends)
        rows.append([name, *values, moved])
    heads = [Cell(""), Cell(t("profiles.before"), "number"), Cell(t("profiles.after"), "number")]
    shared.table([*heads, Cell(t("monitor.change"), "number")], rows, t("monitor.changes"))
    shared.note(t("monitor.change_note"))
    shared.download(pd.DataFrame(found, columns=Shift._fields), "changes")
    log, _ = read_log(view.root)
    told = [
        t("monitor.put_in_force", time=entry.time[:16].replace("T", " "), name=entry.name, version=entry.version)
        for entry in log
        if _since(entry.time, before.start) and not _since(entry.time, after.end)
    ]
    shared.note(" ".join(told) if told else t("monitor.nothing_put_in_force"))


def _since(time: str, moment: frames.Moment) -> bool:
    """True if an entry's ``time`` is that of ``moment`` or later; of no moment, never."""
    return isinstance(moment, datetime.datetime) and datetime.datetime.fromisoformat(time) >= moment


def _named(name: str, t: Catalogue) -> str:
    """A profile or policy, or that there was none."""
    return t("monitor.none") if name in ("-", "") else name


if __name__ == "__main__":
    opened = shared.opened("monitor.heading")
    if opened is not None:
        show(opened)
