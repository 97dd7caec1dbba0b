"""What dashboards read from an audit store, as pandas frames. Needs neither torch nor streamlit.

Open the store once and pass it on; every call reads one state of the database, and times are ``datetime`` or seconds
since 1970 (None: open end)::

    from mopo_serve.audit import frames
    from mopo_serve.audit.store import open_store

    store = open_store("runs/try/audit.db", create=False)        # or postgresql://...; AuditError if there is none
    hour = frames.Period(start=time.time() - 3600)               # frames.Period() is everything
    frames.traffic(store, hour)          # family, profile, policy, requests, refused, infeasible, failed, tokens ...
    frames.latency(store, hour)          # family, profile, policy, metric (seconds, first_token_seconds), p50, p95, p99
    frames.decisions(store, hour, profile="balanced", limit=200) # newest first, one row per request
    frames.over_time(store, hour, bins=60)                       # bin start, profile, policy, requests
    frames.judgements(store, hour)       # one row per judgement of an answer on an objective
    frames.live(store, cards, hour)      # per policy, objective and measure: n, mean, low, high beside the scorecard's
    frames.events(store, hour)           # fallbacks and other changes, newest first
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sqlalchemy import ColumnElement, Integer, Select, Table, and_, case, cast, func, select

from mopo_eval.scorecards import Scorecard
from mopo_serve.audit.schema import DECISIONS, EVENTS, FEEDBACK
from mopo_serve.audit.store import AuditStore
from mopo_serve.confidence import bounds

Moment = datetime.datetime | float | None
QUANTILES = (0.5, 0.95, 0.99)
GROUP = ("family", "profile", "policy")


class Period(NamedTuple):
    """Times from ``start`` (included) to ``end`` (not included)."""

    start: Moment = None
    end: Moment = None

    def of(self, table: Table) -> ColumnElement[bool]:
        """The condition that a row of ``table`` was made within."""
        limits = [table.c.time >= _seconds(self.start)] if self.start is not None else []
        limits += [table.c.time < _seconds(self.end)] if self.end is not None else []
        return and_(True, *limits)


def decisions(
    store: AuditStore,
    period: Period = Period(),  # noqa: B008 - immutable
    *,
    profile: str | None = None,
    policy: str | None = None,
    limit: int | None = 1000,
) -> pd.DataFrame:
    """Requests, newest first: every column of the store, ``time`` as UTC, ``floors`` as a dict."""
    query = select(DECISIONS).where(period.of(DECISIONS)).order_by(DECISIONS.c.seq.desc()).limit(limit)
    for column, wanted in ((DECISIONS.c.profile, profile), (DECISIONS.c.policy, policy)):
        query = query if wanted is None else query.where(column == wanted)
    found = _frame(store, query)
    return found.assign(time=_utc(found["time"]), floors=[json.loads(floors) for floors in found["floors"]])


def traffic(store: AuditStore, period: Period = Period()) -> pd.DataFrame:  # noqa: B008
    """Per family, profile and policy (``-``: none): requests and what became of them, and tokens.

    ``infeasible`` (422), ``refused`` (other 4xx but 499), ``left`` (499: the client hung up) and ``failed`` (5xx).
    """
    status = DECISIONS.c.status
    counts = {
        "requests": func.count(),
        "answered": func.sum(case((status < 400, 1), else_=0)),
        "infeasible": func.sum(case((status == 422, 1), else_=0)),
        "refused": func.sum(case((and_(status >= 400, status < 500, status.not_in((422, 499))), 1), else_=0)),
        "left": func.sum(case((status == 499, 1), else_=0)),
        "failed": func.sum(case((status >= 500, 1), else_=0)),
        "prompt_tokens": func.coalesce(func.sum(DECISIONS.c.prompt_tokens), 0),
        "completion_tokens": func.coalesce(func.sum(DECISIONS.c.completion_tokens), 0),
    }
    group = [DECISIONS.c[name] for name in GROUP]
    query = select(*group, *(count.label(name) for name, count in counts.items())).where(period.of(DECISIONS))
    return _frame(store, query.group_by(*group).order_by(*group)).astype(dict.fromkeys(counts, "int64"))


def latency(
    store: AuditStore,
    period: Period = Period(),  # noqa: B008
    *,
    quantiles: Sequence[float] = QUANTILES,
) -> pd.DataFrame:
    """Quantiles of ``seconds`` and ``first_token_seconds`` of answered requests, per family, profile and policy."""
    metrics = ["seconds", "first_token_seconds"]
    columns = [DECISIONS.c[name] for name in (*GROUP, *metrics)]
    query = select(*columns).where(period.of(DECISIONS), DECISIONS.c.status < 400)
    long = _frame(store, query).melt(list(GROUP), metrics, "metric").dropna(subset="value").astype({"value": float})
    groups = long.groupby([*GROUP, "metric"], sort=True)["value"]
    table = groups.quantile(np.asarray(quantiles)).unstack() if len(long) else pd.DataFrame(columns=list(quantiles))
    table.columns = [f"p{100 * quantile:g}" for quantile in quantiles]
    return table.assign(n=groups.size()).reset_index() if len(long) else table


def answered(store: AuditStore, period: Period = Period()) -> pd.DataFrame:  # noqa: B008
    """Whole answers whose tokens the engine counted: engine, time (seconds since 1970), seconds, completion_tokens."""
    columns = [DECISIONS.c[name] for name in ("engine", "time", "seconds", "completion_tokens")]
    query = select(*columns).where(period.of(DECISIONS), DECISIONS.c.status == 200, DECISIONS.c.completion_tokens > 0)
    return _frame(store, query.order_by(DECISIONS.c.time))


def over_time(store: AuditStore, period: Period = Period(), *, bins: int = 60) -> pd.DataFrame:  # noqa: B008
    """Requests per stretch of time (``time`` is its start in UTC), profile and policy; empty ones are left out."""
    with store.reading() as connection:
        limits = select(func.min(DECISIONS.c.time), func.max(DECISIONS.c.time)).where(period.of(DECISIONS))
        first, last = connection.execute(limits).one()
    if first is None:
        return pd.DataFrame(columns=["time", "profile", "policy", "requests"])
    start = first if period.start is None else _seconds(period.start)
    width = max((last if period.end is None else _seconds(period.end)) - start, 1e-3) / bins
    steps = (DECISIONS.c.time - start) / width
    # SQLite may come without floor, and PostgreSQL's cast rounds
    place = cast(steps, Integer) if store.engine.dialect.name == "sqlite" else func.floor(steps)
    group = [place.label("bin"), DECISIONS.c.profile, DECISIONS.c.policy]
    query = select(*group, func.count().label("requests")).where(period.of(DECISIONS)).group_by(*group).order_by(*group)
    found = _frame(store, query)
    return found.assign(time=_utc(start + width * found["bin"].astype(float))).drop(columns="bin")


def judgements(store: AuditStore, period: Period = Period()) -> pd.DataFrame:  # noqa: B008
    """Judgements in the order in which they came; ``time`` as UTC, ``against`` empty for scores."""
    found = _frame(store, select(FEEDBACK).where(period.of(FEEDBACK)).order_by(FEEDBACK.c.seq))
    return found.assign(time=_utc(found["time"]))


def live(
    store: AuditStore,
    cards: Mapping[str, Scorecard | None] | None = None,
    period: Period = Period(),  # noqa: B008
    *,
    family: str | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """What people think, per policy, objective and measure, against what was measured before.

    ``measure`` is ``score``, or ``win_rate`` against the answers of ``against_policy``; a pair counts for both of its
    policies. ``family`` is the beginning of the families' names that count. ``low`` and ``high`` are anytime-valid
    (``confidence``): they may be looked at after every judgement of ``period``, if that was not chosen for what it
    shows. ``offline`` and ``certified_low`` are the scorecard's, missing where there is none. A person's score and a
    judge's are in one unit only if both use the same scale.
    """
    columns = ["family", "policy", "objective", "measure", "against_policy"]
    found = judgements(store, period)
    found = found if family is None else found[found["family"].str.startswith(family)]
    pairs = found[(found["against_policy"] != "") & (found["against_policy"] != found["policy"])]
    turned = pairs.rename(columns={"policy": "against_policy", "against_policy": "policy"})
    scores = found[found["against_policy"] == ""].assign(measure="score")
    pairs, turned = pairs.assign(measure="win_rate"), turned.assign(measure="win_rate", value=1 - turned["value"])
    found = pd.concat([scores, pairs, turned]).sort_values("seq")
    rows = []
    for names, group in found.groupby(columns, sort=True):
        interval = bounds(group["value"].to_numpy(float), confidence)
        row = dict(zip(columns, names, strict=True)) | {"n": len(group), **interval._asdict()}
        rows.append(row | _offline(row, cards or {}))
    return pd.DataFrame(rows, columns=[*columns, "n", "mean", "low", "high", "offline", "certified_low"])


def events(store: AuditStore, period: Period = Period(), *, limit: int | None = 200) -> pd.DataFrame:  # noqa: B008
    """What changed (fallbacks and returns), newest first; ``detail`` as a dict, ``time`` as UTC."""
    found = _frame(store, select(EVENTS).where(period.of(EVENTS)).order_by(EVENTS.c.seq.desc()).limit(limit))
    return found.assign(time=_utc(found["time"]), detail=[json.loads(detail) for detail in found["detail"]])


def _offline(row: Mapping[str, Any], cards: Mapping[str, Scorecard | None]) -> dict[str, float | None]:
    card = cards.get(row["policy"])
    score = card.objectives.get(row["objective"]) if card else None
    if score is None or row["against_policy"] not in {"", "reference"}:
        return {"offline": None, "certified_low": None}
    estimate = score if row["measure"] == "score" else score.win_rate
    return {"offline": estimate.mean, "certified_low": estimate.certified_low}


def _frame(store: AuditStore, query: Select[Any]) -> pd.DataFrame:
    with store.reading() as connection:
        found = connection.execute(query)
        return pd.DataFrame(found.all(), columns=list(found.keys()))


def _seconds(moment: Moment) -> float:
    """``moment`` in seconds since 1970; a ``datetime`` without a zone is taken for UTC."""
    if isinstance(moment, datetime.datetime):
        aware = moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
        return aware.timestamp()
    return float(moment or 0.0)


def _utc(seconds: "pd.Series[float]") -> "pd.Series[pd.Timestamp]":
    return pd.to_datetime(seconds.astype(float), unit="s", utc=True)
