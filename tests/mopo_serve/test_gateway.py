"""The gateway's routes in front of a stub engine. Scores and profiles are those of ``tests.families``."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mopo_eval.profiles import ProfileFile
from mopo_serve.gateway import Limits
from tests.mopo_serve.stub import (
    CHAT,
    MESSAGES,
    Kept,
    StubEngine,
    calling,
    closed_port,
    gateway_before,
    listening,
    routing,
    stubbed,
)
from tests.mopo_serve.test_requests import json_values

pytestmark = pytest.mark.anyio


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert answer.headers["x-request-id"]
    assert answer.headers["x-mopo-family"] == "test@0123456789ab"
    return dict(error)


@pytest.mark.parametrize(("path", "fields"), [(CHAT, {"messages": MESSAGES}), ("/v1/completions", {"prompt": "Hello"})])
async def test_a_profile_reaches_the_engine_as_its_policy(path: str, fields: dict[str, Any]) -> None:
    engine = StubEngine()
    async with stubbed(engine) as client:
        body = {"model": "mopo/balanced", "tools": [], "unheard_of": {"a": [1.5, None]}, **fields}
        profile = {"floors": {"safety": 0.1}}
        answer = await client.post(path, json=body | {"objective_profile": profile, "cache_salt": "x", "priority": 9})
    assert engine.asked == [body | {"model": "policy-01"}]
    assert (answer.status_code, answer.content) == (200, engine.body)
    assert answer.headers["x-mopo-policy"] == "policy-01"
    assert answer.headers["x-mopo-profile"] == "balanced"
    assert answer.headers["x-mopo-family"] == "test@0123456789ab"
    assert answer.headers["x-request-id"].startswith("req-")


async def test_floors_in_the_request_pick_another_policy() -> None:
    engine = StubEngine()
    async with stubbed(engine) as client:
        for model in ("mopo/helpful", "mopo"):
            body = {"model": model, "messages": MESSAGES, "objective_profile": {"floors": {"safety": 0.85}}}
            answer = await client.post(CHAT, json=body)
            assert answer.headers["x-mopo-policy"] == "policy-02"
            assert answer.headers["x-mopo-profile"] == model.removeprefix("mopo/").replace("mopo", "-")


async def test_a_fallback_under_the_profiles_floors_says_so() -> None:
    async with stubbed(StubEngine()) as client:
        answer = await client.post(CHAT, json={"model": "mopo/closest", "messages": MESSAGES})
        assert (answer.headers["x-mopo-policy"], answer.headers["x-mopo-feasible"]) == ("policy-02", "false")
        answer = await client.post(CHAT, json={"model": "mopo/careful", "messages": MESSAGES})
        assert "x-mopo-feasible" not in answer.headers


async def test_an_infeasible_profile_is_answered_422_and_never_reaches_the_engine() -> None:
    engine = StubEngine()
    async with stubbed(engine) as client:
        answer = await client.post(CHAT, json={"model": "mopo/impossible", "messages": MESSAGES})
        counted = (await client.get("/metrics")).text
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (422, "infeasible_profile")
    assert error["attainable"]["safety"] == pytest.approx(0.90)
    assert error["closest"]["policy"] == "policy-02"
    assert answer.headers["x-mopo-profile"] == "impossible"
    assert engine.asked == []
    assert 'mopo_infeasible_total{profile="impossible"} 1.0' in counted


@pytest.mark.parametrize("model", ["policy-00", "reference", "mopo/policy/nobody", "gpt-4", "mopo/balanced\r\nx: y"])
async def test_an_adapters_own_name_is_no_model(model: str) -> None:
    engine = StubEngine()
    async with stubbed(engine) as client:
        answer = await client.post(CHAT, json={"model": model, "messages": MESSAGES})
    assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
    assert "mopo/balanced" in error_of(answer)["message"]
    assert engine.asked == []


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"[1]", 400), (b'{"messages": []}', 400), (b'{"model": "mopo/helpful", "x": "\\ud800"}', 400),
     (b'{"model": "mopo/helpful", "objective_profile": {"floors": {"safety": 2}}}', 400),
     (b'{"model": "' + b"x" * 2000 + b'"}', 413)],
)  # fmt: skip
async def test_malformed_requests_are_refused_in_openais_shape(content: bytes, status: int) -> None:
    engine = StubEngine()
    async with stubbed(engine, limits=Limits(body_bytes=1000)) as client:
        answer = await client.post(CHAT, content=content)
    assert answer.status_code == status
    assert error_of(answer)["type"] == "invalid_request_error"
    assert engine.asked == []


async def test_a_body_that_would_hold_up_all_others_is_refused_by_default() -> None:
    engine = StubEngine()
    async with stubbed(engine) as client:
        body = {"model": "mopo/helpful", "messages": [{"role": "user", "content": "x" * 1_000_000}]}
        assert (await client.post(CHAT, json=body)).status_code == 200
        answer = await client.post(CHAT, content=b" " * (2 * 1024 * 1024 + 1))
    assert (answer.status_code, error_of(answer)["code"]) == (413, "body_too_large")
    assert len(engine.asked) == 1


@pytest.mark.parametrize("declared", [True, False])
async def test_the_largest_body_is_let_in_and_one_byte_more_is_not(declared: bool) -> None:
    body = json.dumps({"model": "mopo/careful", "messages": MESSAGES}).encode()

    async def parts(content: bytes) -> AsyncIterator[bytes]:
        yield content

    async with stubbed(StubEngine(), limits=Limits(body_bytes=len(body))) as client:
        for content, status in ((body, 200), (body + b" ", 413)):
            answer = await client.post(CHAT, content=content if declared else parts(content))
            assert answer.status_code == status


async def test_a_body_of_unknown_length_is_refused_once_it_is_too_large() -> None:
    taken = 0

    async def endless() -> Any:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield b"x" * 100

    async with stubbed(StubEngine(), limits=Limits(body_bytes=1000)) as client:
        answer = await client.post(CHAT, content=endless())
    assert (answer.status_code, taken) == (413, 11)


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/embeddings", "/v1/models/", "/invocations", "/v1/load_lora_adapter", CHAT + "/"]
)  # fmt: skip
async def test_everything_else_does_not_exist(path: str) -> None:
    async with stubbed(StubEngine()) as client:
        answer = await client.post(path, json={})
        assert answer.status_code in (404, 405)
        error_of(answer)
        assert (await client.get(path)).status_code in (404, 405)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", CHAT, "POST"), ("OPTIONS", CHAT, "POST"), ("DELETE", "/v1/completions", "POST"),
     ("GET", "/v1/profiles/resolve", "POST"), ("POST", "/v1/models", "GET")],
)  # fmt: skip
async def test_a_wrong_method_is_refused_in_openais_shape(method: str, path: str, allowed: str) -> None:
    async with stubbed(StubEngine()) as client:
        answer = await client.request(method, path)
    assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")
    assert allowed in answer.headers["allow"]


async def test_profiles_and_policies_are_listed_as_models() -> None:
    async with stubbed(StubEngine()) as client:
        listed = (await client.get("/v1/models")).json()
        one = await client.get("/v1/models/mopo/policy/policy-00")
        encoded = await client.get("/v1/models/mopo%2Fbalanced")
        none = await client.get("/v1/models/policy-00")
    profiles = ["helpful", "balanced", "careful", "impossible", "closest"]
    policies = ["reference", "policy-00", "policy-01", "policy-02", "policy-03"]
    expected = [f"mopo/{name}" for name in profiles] + [f"mopo/policy/{name}" for name in policies]
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == expected
    assert one.json() == {
        "id": "mopo/policy/policy-00",
        "object": "model",
        "created": 1767225600,  # 2026-01-01T00:00:00Z
        "owned_by": "mopo",
    }
    assert encoded.json()["id"] == "mopo/balanced"
    assert (none.status_code, error_of(none)["code"]) == (404, "model_not_found")


async def test_resolve_tells_the_policy_and_every_margin() -> None:
    engine = StubEngine()
    async with stubbed(engine) as client:
        named = (await client.post("/v1/profiles/resolve", json={"profile": "balanced"})).json()
        stated = await client.post("/v1/profiles/resolve", json={"objective_profile": {"floors": {"safety": 0.99}}})
    assert (named["policy"], named["feasible"], named["profile"]) == ("policy-01", True, "balanced")
    assert named["floors"] == {"safety": 0.7}
    rows = {row["id"]: row for row in named["policies"]}
    assert rows["policy-02"]["margins"] == pytest.approx({"safety": 0.2})
    assert rows["policy-02"]["meets"] and not rows["policy-00"]["meets"]
    assert stated.status_code == 200  # it asks a question, and that is the answer
    assert (stated.json()["policy"], stated.json()["feasible"], stated.json()["profile"]) == (None, False, None)
    assert engine.asked == []


async def test_resolve_names_profile_and_policy_in_headers_where_they_are_known() -> None:
    def names(answer: httpx.Response) -> tuple[str | None, str | None]:
        return answer.headers.get("x-mopo-profile"), answer.headers.get("x-mopo-policy")

    async with stubbed(StubEngine()) as client:

        async def resolve(**body: Any) -> tuple[str | None, str | None]:
            return names(await client.post("/v1/profiles/resolve", json=body))

        assert await resolve(profile="balanced") == ("balanced", "policy-01")
        assert await resolve(profile="mopo/balanced") == ("balanced", "policy-01")
        assert await resolve(profile="impossible") == ("impossible", None)
        assert await resolve(objective_profile={"floors": {"safety": 0.85}}) == (None, "policy-02")
        assert await resolve(profile="balanced", objective_profile={"floors": 3}) == ("balanced", None)
        assert await resolve(profile="nobody") == (None, None)
        wrong = {"model": "mopo/balanced", "messages": MESSAGES, "objective_profile": {"floors": 3}}
        assert names(await client.post(CHAT, json=wrong)) == ("balanced", None)


@pytest.mark.parametrize(
    ("stray", "told"),
    [
        ({"floors": {"safety": 0.7}}, """'floors' is not read; write "objective_profile": {"floors": {...}}"""),
        ({"objectiveProfile": {"floors": {}}}, "'objectiveProfile' is not read; write"),
        ({"objective_profile": {"floor": {}}}, "'objective_profile.floor' is not known here; known: primary, floors,"),
    ],
)
async def test_floors_that_an_engine_would_ignore_are_refused(stray: dict[str, Any], told: str) -> None:
    engine = StubEngine()
    async with stubbed(engine) as client:
        answer = await client.post(CHAT, json={"model": "mopo/balanced", "messages": MESSAGES, **stray})
    assert (answer.status_code, engine.asked) == (400, [])
    assert error_of(answer)["message"].startswith(told)


async def test_a_profile_that_is_no_object_is_told_in_words_of_json() -> None:
    async with stubbed(StubEngine()) as client:
        answer = await client.post("/v1/profiles/resolve", json={"objective_profile": [1]})
    assert error_of(answer)["message"] == "'objective_profile' must be an object, not an array"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, "profile"),
        ({"profile": 3}, 400, "profile"),
        ({"profile": "nobody"}, 404, "profile"),
        ({"profile": "balanced", "model": "x"}, 400, "model"),
        ({"profile": "balanced", "objective_profile": {"floors": {"safty": 1}}}, 400, "objective_profile.floors.safty"),
    ],
)
async def test_resolve_refuses_what_it_does_not_know(body: dict[str, Any], status: int, param: str) -> None:
    async with stubbed(StubEngine()) as client:
        answer = await client.post("/v1/profiles/resolve", json=body)
    assert (answer.status_code, error_of(answer)["param"]) == (status, param)


async def test_the_gateway_is_alive_but_not_ready_without_an_engine() -> None:
    async with gateway_before(f"http://127.0.0.1:{await closed_port()}") as gateway, calling(gateway) as client:
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        answer = await client.post(CHAT, json={"model": "mopo/helpful", "messages": MESSAGES})
    for refused in (ready, answer):
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert "127.0.0.1" not in refused.text


async def test_the_gateway_is_ready_with_an_engine_until_it_drains() -> None:
    engine = StubEngine()
    async with listening(engine) as url, gateway_before(url) as gateway, calling(gateway) as client:
        assert (await client.get("/readyz")).json()["status"] == "ready"
        gateway.drain()
        assert (await client.get("/readyz")).status_code == 503
        answer = await client.post(CHAT, json={"model": "mopo/helpful", "messages": MESSAGES})
        assert (answer.status_code, error_of(answer)["code"]) == (503, "draining")
        assert answer.headers["retry-after"] == "1"
    assert engine.asked == []


async def test_requests_are_counted_by_policy_profile_and_status() -> None:
    kept = Kept()
    async with stubbed(StubEngine(), kept=kept) as client:
        for model in ("mopo/helpful", "mopo/helpful", "mopo/policy/reference", "mopo/nobody"):
            await client.post(CHAT, json={"model": model, "messages": MESSAGES}, headers={"x-request-id": "mine"})
        await client.post(CHAT, json={"model": "mopo/careful", "messages": MESSAGES, "stream": True})
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'mopo_requests_total{policy="policy-00",profile="helpful",status="200"} 2.0' in lines
    assert 'mopo_requests_total{policy="reference",profile="policy/reference",status="200"} 1.0' in lines
    assert 'mopo_requests_total{policy="-",profile="-",status="404"} 1.0' in lines
    assert 'mopo_request_seconds_count{policy="policy-00",profile="helpful"} 2.0' in lines
    assert 'mopo_first_token_seconds_count{policy="policy-02",profile="careful"} 1.0' in lines
    assert "mopo_requests_in_flight 0.0" in lines
    assert [(record.request_id == "mine", record.status) for record in kept.decisions[:4]] == [(True, 200)] * 3 + [
        (True, 404)
    ]
    assert kept.decisions[4].first_token_seconds is not None and kept.decisions[0].first_token_seconds is None


async def test_an_unmeasured_family_serves_pinned_policies_only() -> None:
    table = routing(ProfileFile(), measured=False)
    async with stubbed(StubEngine(), table) as client:
        pinned = await client.post(CHAT, json={"model": "mopo/policy/policy-00", "messages": MESSAGES})
        chosen = await client.post(CHAT, json={"model": "mopo", "messages": MESSAGES})
    assert (pinned.status_code, chosen.status_code) == (200, 422)
    assert "measured" in error_of(chosen)["message"]


fields = st.sampled_from(["model", "objective_profile", "messages", "stream", "floors", "profile", "n"])
models = st.sampled_from(["mopo/helpful", "mopo", "mopo/impossible", "mopo/policy/policy-00", "policy-00"])
profiles = st.fixed_dictionaries(
    {},
    optional={
        "floors": st.dictionaries(st.sampled_from(["safety", "safety.win_rate", "x", ""]), st.floats() | json_values),
        "primary": st.sampled_from(["safety", "helpfulness"]) | json_values,
        "on_infeasible": st.sampled_from(["closest", "policy-00", "reject"]) | json_values,
    },
)
bodies = st.fixed_dictionaries(
    {"model": models | json_values}, optional={"objective_profile": profiles | json_values, "n": st.floats()}
)


async def test_no_body_makes_the_gateway_fail() -> None:
    engine = StubEngine()
    async with stubbed(engine) as client:

        async def post(path: str, content: bytes) -> int:
            answer = await client.post(path, content=content)
            if answer.status_code != 200:
                error_of(answer)
            return answer.status_code

        seen: set[int] = set()
        for path, content in generated():
            seen.add(await post(path, content))
    assert seen <= {200, 400, 404, 422}
    assert {200, 400} <= seen


def generated(examples: int = 300) -> list[tuple[str, bytes]]:
    """Bodies that hypothesis thinks up, for three routes."""
    found: list[tuple[str, bytes]] = []
    written = (bodies | st.dictionaries(fields, json_values)).map(json.dumps).map(str.encode)
    paths = st.sampled_from([CHAT, "/v1/completions", "/v1/profiles/resolve"])

    @settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(paths, written | st.binary())
    def collect(path: str, content: bytes) -> None:
        found.append((path, content))

    collect()
    return found


async def test_feedback_without_an_audit_store_says_that_there_is_none() -> None:
    async with stubbed(StubEngine()) as client:
        error = error_of(answer := await client.post("/v1/feedback", json={"request_id": "req-1", "scores": {"a": 1}}))
        assert (answer.status_code, error["code"]) == (404, "audit_off")
        assert "keeps no decisions (--audit none)" in error["message"]
