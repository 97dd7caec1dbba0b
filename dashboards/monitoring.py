"""What is served, from the gateway's audit store: sums, promises kept or not, what changed between periods. Pure.

The store itself is read by ``mopo_serve.audit.frames``.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mopo_serve.audit.frames import Period
from mopo_train.rates import wilson_interval

FEW = 20
"""Judgements below which nothing is concluded from what people say."""
COUNTS = ["requests", "answered", "infeasible", "refused", "left", "failed", "prompt_tokens", "completion_tokens"]
BELOW, DIFFERS, AGREES, TOO_FEW, UNPROMISED = "below", "differs", "agrees", "few", "unpromised"


class Shift(NamedTuple):
    """One figure in two periods, of one profile and policy (or of all: ``""``)."""

    profile: str
    policy: str
    figure: str
    before: float
    after: float
    change: tuple[float, float] | None = None
    """The interval of the difference of two shares, at 95 %; None for counts and where a period had no requests."""


def totals(traffic: pd.DataFrame) -> dict[str, int]:
    """Sums of ``frames.traffic`` over everything."""
    return {name: int(traffic[name].sum()) for name in COUNTS}


def by_profile(traffic: pd.DataFrame) -> pd.DataFrame:
    """``frames.traffic`` per profile and policy, whatever the version of the family; most requests first."""
    summed = traffic.groupby(["profile", "policy"], as_index=False)[COUNTS].sum()
    return summed.sort_values(["requests", "profile", "policy"], ascending=[False, True, True], ignore_index=True)


def judged(live: pd.DataFrame) -> pd.DataFrame:
    """``frames.live`` with a column ``state``: what people say against what was measured.

    ``below``: the whole live interval lies under the certified bound, so the promise is broken. ``differs``: it does
    not hold the measured mean. ``few``: fewer than ``FEW`` judgements. ``unpromised``: nothing was measured.
    """
    return live.assign(state=[_state(row) for row in live.to_dict("records")])


def _state(row: Mapping[Any, Any]) -> str:
    if pd.isna(row["offline"]):
        return UNPROMISED
    if row["n"] < FEW:
        return TOO_FEW
    if row["high"] < row["certified_low"]:
        return BELOW
    return AGREES if row["low"] <= row["offline"] <= row["high"] else DIFFERS


def shifts(before: pd.DataFrame, after: pd.DataFrame) -> list[Shift]:
    """What changed between two periods of ``frames.traffic``: shares of traffic, and of requests that failed to answer.

    All of it first, then per profile and policy, the largest change of its share of traffic first.
    """
    n, m = int(before["requests"].sum()), int(after["requests"].sum())

    def shift(profile: str, policy: str, figure: str, old: int, new: int) -> Shift:
        shares = old / n if n else 0.0, new / m if m else 0.0
        change = share_change((old, n), (new, m)) if n and m else None
        return Shift(profile, policy, figure, *shares, change)

    found = [Shift("", "", "requests", n, m)]
    for name in ("infeasible", "refused", "failed"):
        found.append(shift("", "", name, int(before[name].sum()), int(after[name].sum())))
    old, new = _counts(before), _counts(after)
    moved = [shift(*names, "share", old.get(names, 0), new.get(names, 0)) for names in sorted(set(old) | set(new))]
    return found + sorted(moved, key=lambda each: -abs(each.after - each.before))


def share_change(before: tuple[int, int], after: tuple[int, int], confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the difference of two independent shares, each (count, of how many): Newcombe 1998, method 10."""
    (old, old_low, old_high), (new, new_low, new_high) = (
        (count / n, *wilson_interval(count / n, n, confidence)) for count, n in (before, after)
    )
    down = math.hypot(new - new_low, old_high - old)
    up = math.hypot(new_high - new, old - old_low)
    return new - old - down, new - old + up


def _counts(traffic: pd.DataFrame) -> dict[tuple[str, str], int]:
    grouped = traffic.groupby(["profile", "policy"])["requests"].sum()
    return {(str(names[0]), str(names[1])): int(n) for names, n in grouped.items()}  # type: ignore[index]


def requests_over_time(
    over_time: pd.DataFrame,
    period: Period = Period(),  # noqa: B008 - immutable
    *,
    bins: int,
    most: int = 4,
) -> pd.DataFrame:
    """``frames.over_time`` of ``period`` in ``bins`` with a column per profile, those with most requests, and ``time``.

    Every stretch of time has a row, with 0 for no request: a line over the others would say that there were some.
    """
    if over_time.empty:
        return pd.DataFrame(columns=["time"])
    wide = over_time.pivot_table(index="time", columns="profile", values="requests", aggfunc="sum", fill_value=0)
    wide = wide[list(wide.sum().sort_values(ascending=False).index[:most])]
    start = wide.index.min() if period.start is None else pd.Timestamp(period.start)
    end = wide.index.max() if period.end is None else pd.Timestamp(period.end)
    if start < end:
        every = pd.date_range(start, end, periods=bins + 1, name="time")
        every = every if period.end is None else every[:-1]  # without an end, the last request begins a stretch
        places = np.rint((pd.DatetimeIndex(wide.index) - start) / ((end - start) / bins)).astype(int)
        wide = wide.set_axis(every[places]).reindex(every, fill_value=0)
    return wide.reset_index()
