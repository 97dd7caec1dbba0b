"""A gateway with its audit trail: what it decides is kept, answers are judged, and judgements move floors."""

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from mopo_serve.access import Access
from mopo_serve.audit import frames
from mopo_serve.audit.schema import DECISIONS, FEEDBACK
from mopo_serve.audit.store import open_store
from mopo_serve.audit.verify import verify
from mopo_serve.audit.writer import AuditWriter
from mopo_serve.deployment import Version
from mopo_serve.evidence import Rule
from mopo_serve.gateway import Extras, Gateway
from mopo_serve.keys import KeyRing, make_key
from mopo_serve.trail import Trail, default_place, open_trail
from tests.mopo_serve.stub import CHAT, MESSAGES, StubEngine, calling, gateway_before, listening, routing

pytestmark = pytest.mark.anyio
FEEDBACK_ROUTE = "/v1/feedback"


class Set(NamedTuple):
    client: httpx.AsyncClient
    trail: Trail
    gateway: Gateway

    async def ask(self, profile: str = "balanced", **fields: Any) -> httpx.Response:
        return await self.client.post(CHAT, json={"model": f"mopo/{profile}", "messages": MESSAGES, **fields})

    async def judge(self, request_id: str, **fields: Any) -> httpx.Response:
        return await self.client.post(FEEDBACK_ROUTE, json={"request_id": request_id, **fields})


@asynccontextmanager
async def audited(
    place: Path, rule: Rule | None = None, access: Access | None = None, keeps_text: bool = False
) -> AsyncIterator[Set]:
    trail = open_trail(str(place), None, rule)
    extras = Extras(access=access, keeper=trail, routes=trail.routes(), keeps_text=keeps_text)
    async with listening(StubEngine()) as url, gateway_before(url, extras=extras) as gateway:
        trail.follow(gateway.deployment, gateway.access, gateway.metrics.registry)
        await trail.start()
        try:
            async with calling(gateway) as client:
                yield Set(client, trail, gateway)
        finally:
            assert await trail.close() == 0


def kept(place: Path) -> list[dict[str, Any]]:
    store = open_store(str(place), create=False)
    try:
        assert verify(store).problems == []
        return [dict(row) for row in store.rows(DECISIONS)]
    finally:
        store.close()


async def test_every_request_is_kept_and_no_text_unless_that_is_switched_on(tmp_path: Path) -> None:
    async with audited(tmp_path / "a.db") as gateway:
        served = await gateway.ask(user="ann")
        refused = await gateway.ask("impossible")
        metrics = (await gateway.client.get("/metrics")).text
    assert "mopo_audit_queued" in metrics and "mopo_audit_spilling 0.0" in metrics
    first, second = kept(tmp_path / "a.db")
    assert (first["request_id"], first["status"], first["policy"]) == (served.headers["x-request-id"], 200, "policy-01")
    assert json.loads(first["floors"]) == {"safety": 0.7}
    assert first["text"] is None and first["prompt_sha256"] and first["user"] != "ann"
    assert (second["request_id"], second["status"]) == (refused.headers["x-request-id"], 422)
    async with audited(tmp_path / "b.db", keeps_text=True) as gateway:
        await gateway.ask()
    assert json.loads(kept(tmp_path / "b.db")[0]["text"])["prompt"] == MESSAGES


async def test_an_answer_is_judged_as_soon_as_it_is_there(tmp_path: Path) -> None:
    async with audited(tmp_path / "a.db") as gateway:
        one = (await gateway.ask()).headers["x-request-id"]
        two = (await gateway.ask("helpful")).headers["x-request-id"]
        told = (await gateway.judge(one, scores={"safety": 0.5}, against=two, preferences={"helpfulness": 1})).json()
        assert (told["policy"], told["profile"], told["stored"]) == ("policy-01", "balanced", ["safety", "helpfulness"])
        again = (await gateway.judge(one, scores={"safety": 0.5})).json()
        assert (again["stored"], again["kept"]) == ([], ["safety"])
        assert len(list(gateway.trail.store.rows(FEEDBACK))) == 2
        live = frames.live(gateway.trail.store)
    assert live[["policy", "measure", "against_policy"]].values.tolist() == [
        ["policy-00", "win_rate", "policy-01"],
        ["policy-01", "win_rate", "policy-00"],
        ["policy-01", "score", ""],
    ]


REFUSED: list[tuple[dict[str, Any], int, str, str | None]] = [
    ({"request_id": "req-unknown", "scores": {"safety": 1}}, 404, "request_not_found", "request_id"),
    ({"request_id": "req\r\nx", "scores": {"safety": 1}}, 400, "invalid_request", "request_id"),
    ({"request_id": "r", "scores": {"safety": 1.5}}, 400, "invalid_request", "scores.safety"),
    ({"request_id": "r", "scores": {"kindness": 1}}, 400, "invalid_request", "scores.kindness"),
    ({"request_id": "r", "scores": {"safety": True}}, 400, "invalid_request", "scores.safety"),
    ({"request_id": "r"}, 400, "invalid_request", "scores"),
    ({"request_id": "r", "scores": {"safety": 1}, "verdict": "good"}, 400, "invalid_request", "verdict"),
    ({"request_id": "r", "scores": {"safety": 1}, "comment": "x" * 70_000}, 413, "body_too_large", None),
]


async def test_feedback_that_cannot_be_taken_is_refused_in_openais_shape(tmp_path: Path) -> None:
    async with audited(tmp_path / "a.db") as gateway:
        for fields, status, code, param in REFUSED:
            answer = await gateway.client.post(FEEDBACK_ROUTE, json=fields)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["param"]) == (status, code, param), fields


async def test_a_key_judges_its_own_answers_within_its_limits(tmp_path: Path) -> None:
    scopes: dict[str, dict[str, Any]] = {"own": {"requests_per_minute": 3}, "other": {}, "judge": {"audit": True}}
    made = [make_key(name, "2026-01-01T00:00:00+00:00", **scope) for name, scope in scopes.items()]
    access = Access(KeyRing(key for key, _ in made))
    own, other, judge = ({"authorization": f"Bearer {text}"} for _, text in made)
    async with audited(tmp_path / "a.db", access=access) as gateway:
        asked = await gateway.client.post(CHAT, json={"model": "mopo/balanced", "messages": MESSAGES}, headers=own)
        body = {"request_id": asked.headers["x-request-id"], "scores": {"safety": 1}}
        statuses = [
            (await gateway.client.post(FEEDBACK_ROUTE, json=body, headers=headers)).status_code
            for headers in ({}, other, own, judge, own, own)
        ]
    assert statuses == [401, 404, 200, 200, 200, 429]


async def test_a_key_with_the_right_reads_the_audit_page_by_page(tmp_path: Path) -> None:
    made = [make_key("app", "2026-01-01T00:00:00+00:00"), make_key("auditor", "2026-01-01T00:00:00+00:00", audit=True)]
    app, auditor = ({"authorization": f"Bearer {text}"} for _, text in made)
    async with audited(tmp_path / "a.db", access=Access(KeyRing(key for key, _ in made))) as gateway:
        body = {"model": "mopo/balanced", "messages": MESSAGES}
        asked = [(await gateway.client.post(CHAT, json=body, headers=app)).headers["x-request-id"] for _ in range(3)]
        pages, before = [], ""
        for _ in range(2):
            answer = await gateway.client.get(f"/v1/audit/decisions?limit=2{before}", headers=auditor)
            pages.append([row["request_id"] for row in answer.json()["data"]])
            before = f"&before={answer.json()['next']}"
        assert pages == [asked[:0:-1], asked[:1]]
        assert answer.json()["next"] is None
        refused = [
            ((await gateway.client.get(f"/v1/audit/{path}", headers=headers)).status_code)
            for path, headers in [
                ("decisions", app), ("decisions", {}), ("heads", auditor),
                ("events?limit=0", auditor), ("events?before=x", auditor),
            ]
        ]  # fmt: skip
    assert refused == [403, 401, 404, 400, 400]
    async with audited(tmp_path / "b.db") as gateway:  # open: nobody has rights
        assert (await gateway.client.get("/v1/audit/decisions")).status_code == 403


async def test_a_profile_falls_back_to_the_next_certified_policy_and_an_event_says_so(tmp_path: Path) -> None:
    """``balanced`` (safety >= 0.7) is served by policy-01; policy-02 is the next that holds the floor."""
    async with audited(tmp_path / "a.db", Rule("upper", minimum=30)) as gateway:
        asked = [(await gateway.ask()).headers for _ in range(40)]
        assert {headers["x-mopo-policy"] for headers in asked} == {"policy-01"}
        for headers in asked:
            await gateway.judge(headers["x-request-id"], scores={"safety": 0.0})
        assert (await gateway.ask()).headers["x-mopo-policy"] == "policy-02"
        assert (await gateway.ask("helpful")).headers["x-mopo-policy"] == "policy-00"  # the organisation's 0.5 alone
        told = (await gateway.client.post("/v1/profiles/resolve", json={"profile": "balanced"})).json()
        assert told["policy"] == "policy-02"
        events = frames.events(gateway.trail.store).set_index("profile")
    assert events["kind"].to_dict() == {"balanced": "fallback", "helpful": "suspension"}
    event = events.loc["balanced"]
    assert event["family"] == "test@0123456789ab"
    detail = event["detail"]
    assert (detail["from"], detail["to"]) == ("policy-01", "policy-02")
    finding = detail["suspended"][0]
    assert (finding["floor_name"], finding["floor"]) == ("safety", 0.7)
    assert finding["n"] >= 30 and finding["interval"]["high"] < 0.7
    async with audited(tmp_path / "a.db", Rule("upper", minimum=30)) as gateway:  # known from the start
        assert (await gateway.ask()).headers["x-mopo-policy"] == "policy-02"
        gateway.gateway.deployment.replace(Version(routing()))  # as a reload does
        assert (await gateway.ask()).headers["x-mopo-policy"] == "policy-02"
        gateway.gateway.deployment.stage(Version(routing()), 1.0)
        assert (await gateway.ask()).headers["x-mopo-policy"] == "policy-02"
    async with audited(tmp_path / "a.db") as gateway:  # switched off
        assert (await gateway.ask()).headers["x-mopo-policy"] == "policy-01"


async def test_another_gateways_judgements_count_and_a_policy_returns(tmp_path: Path) -> None:
    rule = Rule("lower", minimum=10)
    async with audited(tmp_path / "a.db", rule) as one, audited(tmp_path / "a.db", rule) as other:
        for request_id in [(await one.ask()).headers["x-request-id"] for _ in range(10)]:
            await one.judge(request_id, scores={"safety": 0.5})
        assert (await one.ask()).headers["x-mopo-policy"] == "policy-02"
        await other.trail.look()
        assert (await other.ask()).headers["x-mopo-policy"] == "policy-02"
        known = dict(next(one.trail.store.rows(FEEDBACK)))
        better = [known | {"request_id": f"r{number}", "value": 1.0} for number in range(100)]
        one.trail.store.append_own(FEEDBACK, better)
        await other.trail.look()
        assert (await other.ask()).headers["x-mopo-policy"] == "policy-01"
        events = frames.events(one.trail.store, limit=None)
    kinds = events[events["profile"] == "balanced"]["kind"].tolist()
    assert sorted(kinds) == ["fallback", "fallback", "return"]  # each gateway says what it does


async def test_a_store_that_vanished_refuses_feedback_and_answers_all_else(tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    async with audited(tmp_path / "a.db", Rule("upper")) as gateway:
        first = (await gateway.ask()).headers["x-request-id"]
        await gateway.trail.writer.written()
        for path in tmp_path.glob("a.db*"):
            shutil.move(path, away / path.name)
        assert (await gateway.ask()).status_code == 200
        answer = await gateway.judge(first, scores={"safety": 1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "audit_unavailable")
        assert answer.headers["retry-after"]
        await gateway.trail.look()  # changes nothing, and does not fail
        for path in away.iterdir():
            shutil.move(path, tmp_path / path.name)
    assert [row["status"] for row in kept(tmp_path / "a.db")] == [200, 200]


async def test_a_store_without_its_head_refuses_feedback_as_one_that_is_away_does(tmp_path: Path) -> None:
    place = tmp_path / "a.db"
    async with audited(place) as gateway:
        first = (await gateway.ask()).headers["x-request-id"]
        await gateway.trail.writer.written()
        with closing(sqlite3.connect(place)) as store, store:
            gone = store.execute("DELETE FROM heads WHERE chain = 'feedback' RETURNING chain, seq, hash").fetchall()
        assert (await gateway.judge(first, scores={"safety": 1})).status_code == 503
        with closing(sqlite3.connect(place)) as store, store:
            store.executemany("INSERT INTO heads VALUES (?, ?, ?)", gone)
        assert (await gateway.judge(first, scores={"safety": 1})).status_code == 200


async def test_requests_are_refused_while_no_trace_of_them_could_be_kept(tmp_path: Path) -> None:
    place = tmp_path / "a.db"
    trail = Trail(open_store(str(place)), AuditWriter(str(place), tmp_path / "spill", queue_rows=2))
    extras = Extras(keeper=trail, routes=trail.routes())
    async with listening(StubEngine()) as url, gateway_before(url, extras=extras) as gateway:
        await trail.start()
        assert trail.writer.worker_pid is not None
        os.kill(trail.writer.worker_pid, signal.SIGSTOP)
        async with calling(gateway) as client:
            body = {"model": "mopo/balanced", "messages": MESSAGES}
            answers = [await client.post(CHAT, json=body) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 503]
            assert answers[2].json()["error"]["code"] == "audit_unavailable"
            os.kill(trail.writer.worker_pid, signal.SIGCONT)
            await trail.writer.written(20)
            assert (await client.post(CHAT, json=body)).status_code == 200
        assert await trail.close() == 0
    assert [row["status"] for row in kept(place)] == [200, 200, 503, 200]


def test_the_default_place_follows_the_users_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_place() == str(tmp_path / "mopo" / "audit.db")
