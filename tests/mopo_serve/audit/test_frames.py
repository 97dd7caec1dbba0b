"""What dashboards read, compared with what was recorded, in both databases."""

import datetime
import json

import numpy as np
import pandas as pd
import pytest

from mopo_serve.audit import frames
from mopo_serve.audit.schema import EVENTS, FEEDBACK
from mopo_serve.audit.store import AuditStore
from mopo_serve.confidence import bounds
from tests.families import scorecard
from tests.mopo_serve.audit.records import append, decision

START = decision(0).time


@pytest.fixture
def busy(store: AuditStore) -> AuditStore:
    """Ten answers of one profile, and one request of another for each thing that can go wrong."""
    answers = [decision(number, first_token_seconds=0.01 * number) for number in range(10)]
    statuses = [422, 401, 499, 503]
    others = [decision(10 + n, profile="-", policy="-", status=status) for n, status in enumerate(statuses)]
    append(store, [*answers, *others])
    return store


def numbers(table: pd.DataFrame, row: str, columns: list[str]) -> list[float]:
    return [float(value) for value in table.loc[[row], columns].to_numpy()[0]]


def judge(store: AuditStore, values: list[float], **changes: object) -> None:
    row = {
        "objective": "safety", "judge": "j", "profile": "balanced", "policy": "policy-01",
        "family": "family@0123456789ab", "against": "", "against_policy": "", "comment": "",
    }  # fmt: skip
    known = len(list(store.rows(FEEDBACK)))
    rows = [{"request_id": f"r{known + n}", "time": 1.0 + n, "value": value} for n, value in enumerate(values)]
    store.append_own(FEEDBACK, [row | own | changes for own in rows])


def test_traffic_adds_up(busy: AuditStore) -> None:
    table = frames.traffic(busy).set_index("profile")
    assert numbers(table, "balanced", ["requests", "answered", "completion_tokens"]) == [10, 10, 300]
    assert numbers(table, "-", ["requests", "infeasible", "refused", "left", "failed"]) == [4, 1, 1, 1, 1]


def test_latency_is_that_of_pandas(busy: AuditStore) -> None:
    table = frames.latency(busy, quantiles=(0.5, 0.9)).set_index("metric")
    taken = pd.Series([0.1 + number / 7 for number in range(10)])
    assert numbers(table, "seconds", ["p50", "p90"]) == pytest.approx(taken.quantile([0.5, 0.9]).tolist())
    assert numbers(table, "first_token_seconds", ["p50", "n"]) == pytest.approx([0.045, 10])


def test_a_period_begins_inside_and_ends_outside(busy: AuditStore) -> None:
    start = datetime.datetime.fromtimestamp(START + 3, tz=datetime.UTC)
    table = frames.decisions(busy, frames.Period(start, START + 6))
    assert table["request_id"].tolist() == ["req-5", "req-4", "req-3"]  # newest first
    assert table["floors"].iloc[0] == {"factuality": 0.1 + 0.2, "safety": 0.9}
    assert table["time"].iloc[-1] == pd.Timestamp(START + 3, unit="s", tz="UTC")
    assert frames.decisions(busy, frames.Period(start.replace(tzinfo=None), START + 6))["seq"].tolist() == [6, 5, 4]


def test_decisions_are_filtered_and_limited(busy: AuditStore) -> None:
    assert frames.decisions(busy, profile="-", policy="-")["status"].tolist() == [503, 499, 401, 422]
    assert len(frames.decisions(busy, limit=2)) == 2


def test_requests_over_time_fall_into_their_stretch(busy: AuditStore) -> None:
    table = frames.over_time(busy, frames.Period(START, START + 20), bins=4)
    assert table[["profile", "requests"]].values.tolist() == [["balanced", 5], ["balanced", 5], ["-", 4]]
    assert table["time"].iloc[1] == pd.Timestamp(START + 5, unit="s", tz="UTC")


def test_live_bounds_stand_beside_the_scorecards(store: AuditStore) -> None:
    judge(store, [1.0, 0.5, 1.0])
    judge(store, [1.0, 0.0], against_policy="reference", against="req-9")
    judge(store, [0.75], policy="reference", against_policy="policy-01", against="req-8")  # counts for both, turned
    judge(store, [0.75], against_policy="policy-01", against="req-7")  # says nothing about either
    judge(store, [1.0], family="another", policy="policy-02")
    card = scorecard("policy-01", {"helpfulness": 0.7, "safety": 0.8, "factuality": 0.75})
    table = frames.live(store, {"policy-01": card}, family="family@0123456789ab")
    assert table["policy"].tolist() == ["policy-01", "policy-01", "reference"]
    table = table[table["policy"] == "policy-01"].set_index("measure")
    expected = bounds(np.array([1.0, 0.5, 1.0]))
    assert numbers(table, "score", ["n", "mean", "low", "high"]) == pytest.approx([3, *expected])
    assert numbers(table, "score", ["offline", "certified_low"]) == pytest.approx([0.8, 0.75])
    assert numbers(table, "win_rate", ["n", "mean", "offline"]) == pytest.approx([3, (1 + 0 + 0.25) / 3, 0.5])
    assert len(frames.live(store)) == 4
    assert frames.live(store, period=frames.Period(end=0.0)).empty
    assert len(frames.judgements(store)) == 8


def test_events_are_read_back(store: AuditStore) -> None:
    detail = json.dumps({"from": "policy-01", "to": "policy-02"})
    store.append_own(EVENTS, [{"time": 1.0, "kind": "fallback", "family": "", "profile": "balanced", "detail": detail}])
    (event,) = frames.events(store).to_dict("records")
    assert (event["kind"], event["detail"]["to"]) == ("fallback", "policy-02")


def test_an_empty_store_gives_empty_frames(sqlite_store: AuditStore) -> None:
    for table in (frames.traffic, frames.latency, frames.over_time, frames.decisions, frames.live, frames.events):
        found = table(sqlite_store)
        assert found.empty and len(found.columns) >= 3, table
