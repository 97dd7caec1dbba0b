"""What is served, from the gateway's audit store: sums, promises kept or not, what changed between periods. Pure.

The store itself is read by ``mopo_serve.audit.frames``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

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
    found = [
        Shift("", "", "requests", float(before["requests"].sum()), float(after["requests"].sum())),
        *(
            Shift("", "", name, _share(before, name), _share(after, name))
            for name in ("infeasible", "refused", "failed")
        ),
    ]
    old, new = _traffic_shares(before), _traffic_shares(after)
    moved = [
        Shift(profile, policy, "share", old.get((profile, policy), 0.0), new.get((profile, policy), 0.0))
        for profile, policy in sorted(set(old) | set(new))
    ]
    return found + sorted(moved, key=lambda shift: -abs(shift.after - shift.before))


def _share(traffic: pd.DataFrame, name: str) -> float:
    requests = float(traffic["requests"].sum())
    return float(traffic[name].sum()) / requests if requests else 0.0


def _traffic_shares(traffic: pd.DataFrame) -> dict[tuple[str, str], float]:
    requests = float(traffic["requests"].sum())
    grouped = traffic.groupby(["profile", "policy"])["requests"].sum()
    return {(str(names[0]), str(names[1])): float(n) / requests for names, n in grouped.items()}  # type: ignore[index]


def requests_over_time(over_time: pd.DataFrame, most: int = 4) -> pd.DataFrame:
    """``frames.over_time`` with a column per profile, those with most requests, and ``time``; 0 for no request."""
    if over_time.empty:
        return pd.DataFrame(columns=["time"])
    wide = over_time.pivot_table(index="time", columns="profile", values="requests", aggfunc="sum", fill_value=0)
    kept = wide.sum().sort_values(ascending=False).index[:most]
    return wide[list(kept)].reset_index()
