"""Who may do what through the gateway, and every way to get under a floor that we could think of.

Scores are those of ``tests.families``: certified safety .75 (reference), .55, .75, .90, .85; the organisation holds .5.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from mopo_eval.profiles import Organisation, ProfileFile, ThresholdProfile
from mopo_serve.access import Access
from mopo_serve.gateway import Extras
from mopo_serve.keys import KeyRing, make_key
from tests.mopo_serve.stub import CHAT, MESSAGES, Kept, StubEngine, routing, stubbed

pytestmark = pytest.mark.anyio
PROFILES = ProfileFile(
    profiles={
        "helpful": ThresholdProfile(primary="helpfulness"),
        "balanced": ThresholdProfile(primary="helpfulness", floors={"safety": 0.70}),
        "careful": ThresholdProfile(primary="helpfulness", floors={"safety": 0.85}),
        "mixed": ThresholdProfile(primary="helpfulness", floors={"safety": 0.80}, selection="mixture"),
        "near": ThresholdProfile(primary="helpfulness", floors={"safety": 0.99}, on_infeasible="closest"),
        "named": ThresholdProfile(primary="helpfulness", floors={"safety": 0.99}, on_infeasible="policy-00"),
        "soft": ThresholdProfile(primary="helpfulness", floors={"safety": 0.80}, on_infeasible="closest"),
        "back": ThresholdProfile(primary="helpfulness", floors={"safety": 0.80}, on_infeasible="policy-00"),
        "able": ThresholdProfile(primary="helpfulness", floors={"helpfulness": 0.75}),
    },
    organisation=Organisation(floors={"safety": 0.50}),
    users={"alice": "careful", "robot": "balanced", "able": "able"},
)


class Caller:
    """A client with one key."""

    def __init__(self, client: httpx.AsyncClient, text: str) -> None:
        self.client = client
        self.headers = {"authorization": f"Bearer {text}"}

    async def chat(self, model: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": MESSAGES, **fields}
        return await self.client.post(CHAT, json=body, headers=self.headers | (headers or {}))

    async def policy(self, model: str, **fields: Any) -> str:
        answer = await self.chat(model, **fields)
        return answer.headers.get("x-mopo-policy", "-") if answer.status_code == 200 else str(answer.status_code)


@asynccontextmanager
async def keyed(
    engine: StubEngine | None = None, kept: Kept | None = None, profiles: ProfileFile = PROFILES, **scope: Any
) -> AsyncIterator[Caller]:
    """A caller whose key has ``scope``; other keys exist too."""
    key, text = make_key(scope.pop("name", "app"), "now", **scope)
    other, _ = make_key("other", "now")
    extras = Extras(access=Access(KeyRing([key, other])))
    async with stubbed(engine or StubEngine(), routing(profiles), kept=kept, extras=extras) as client:
        yield Caller(client, text)


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/models", "/v1/profiles/resolve", "/admin/reload", "/x"])
async def test_without_a_key_nothing_is_told(path: str) -> None:
    engine = StubEngine()
    async with keyed(engine) as caller:
        for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic x"}):
            answer = await caller.client.post(path, json={"model": "mopo/helpful"}, headers=headers)
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "mopo/" not in answer.text
    assert engine.asked == []


async def test_health_and_metrics_need_no_key() -> None:
    async with keyed() as caller:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await caller.client.get(path)).status_code == 200


async def test_the_key_stays_here_and_its_id_is_in_the_decision() -> None:
    engine, kept = StubEngine(), Kept()
    async with keyed(engine, kept) as caller:
        assert await caller.policy("mopo/helpful", user="bob") == "policy-00"
    assert "authorization" not in engine.headers_seen[0]
    (decision,) = kept.decisions
    assert len(decision.key) == 12 and decision.key in caller.headers["authorization"]
    assert len(decision.user) == 32 and "bob" not in repr(decision)


async def test_a_key_reaches_its_profiles_alone() -> None:
    async with confined() as caller:
        assert await caller.policy("mopo/careful") == "policy-02"
        for model in ("mopo/helpful", "mopo/balanced", "mopo"):
            answer = await caller.chat(model)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "out_of_scope")
        assert await caller.policy("mopo/policy/policy-00") == "403"
        assert await caller.policy("mopo/nobody") == "404"
        listed = (await caller.client.get("/v1/models", headers=caller.headers)).json()["data"]
        assert [entry["id"] for entry in listed] == ["mopo/careful"]
        one = await caller.client.get("/v1/models/mopo/helpful", headers=caller.headers)
        assert one.status_code == 404
        for body in ({"profile": "helpful"}, {"objective_profile": {"floors": {"safety": 0.6}}}):
            answer = await caller.client.post("/v1/profiles/resolve", json=body, headers=caller.headers)
            assert answer.status_code == 403


@asynccontextmanager
async def confined(*names: str, **scope: Any) -> AsyncIterator[Caller]:
    """A caller whose key may ask for the profiles ``names`` only (default: careful)."""
    key, text = make_key("confined", "now", profiles=list(names) or ["careful"], **scope)
    extras = Extras(access=Access(KeyRing([key])))
    async with stubbed(StubEngine(), routing(PROFILES), extras=extras) as client:
        yield Caller(client, text)


@pytest.mark.parametrize(
    "asked",
    [
        {"on_infeasible": "closest", "floors": {"helpfulness": 0.79}},
        {"on_infeasible": "policy-00", "floors": {"factuality": 1.0}},
        {"on_infeasible": "closest", "primary": "helpfulness", "floors": {"safety": 0.0, "helpfulness": 1}},
        {"selection": "mixture", "floors": {"safety": 0.1}},
        {"selection": "mixture", "on_infeasible": "policy-00", "floors": {"helpfulness": 1.0}},
        {"primary": "helpfulness", "floors": {"safety": 0.0}},
        {"floors": {"safety.win_rate": 0.0}},
    ],
)
async def test_a_confined_key_cannot_leave_its_profiles_floor_by_asking_otherwise(asked: dict[str, Any]) -> None:
    async with confined() as caller:
        for user in ("anna", "bert", "carl", "dora"):
            policy = await caller.policy("mopo/careful", objective_profile=asked, user=user)
            if asked.get("on_infeasible") == "policy-00":  # names a policy, which this key may not
                assert policy == "403"
            else:
                assert policy in ("policy-02", "policy-03", "422")


@pytest.mark.parametrize("profile", ["soft", "back"])
@pytest.mark.parametrize("more", [{"objective_profile": {"floors": {"helpfulness": 0.79}}}, {"user": "able"}])
async def test_a_confined_key_cannot_leave_its_profiles_floor_by_asking_for_more(
    profile: str, more: dict[str, Any]
) -> None:
    async with confined(profile, "near") as caller:
        assert await caller.policy(f"mopo/{profile}") == "policy-02"
        assert await caller.policy(f"mopo/{profile}", **more) == ("policy-02" if profile == "soft" else "422")
        assert await caller.policy("mopo/near", objective_profile={"floors": {"safety": 0.9}}) == "policy-02"  # no more
    async with keyed() as caller:  # one that may ask without any profile may as well ask so
        assert await caller.policy(f"mopo/{profile}", **more) == ("policy-01" if profile == "soft" else "policy-00")


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("mopo/helpful", {}),
        ("mopo/balanced", {"objective_profile": {"floors": {"safety": 0.0}}}),
        ("mopo", {"objective_profile": {"floors": {"safety": 0.1}, "primary": "helpfulness"}}),
        ("mopo/near", {}),
        ("mopo/named", {}),
        ("mopo", {"objective_profile": {"floors": {"safety": 1.0}, "on_infeasible": "policy-00"}}),
        ("mopo/helpful", {"objective_profile": {"on_infeasible": "closest", "floors": {"helpfulness": 0.99}}}),
        ("mopo/policy/policy-00", {}),
        ("mopo/policy/policy-01", {"objective_profile": {"floors": {"safety": 0.0}}}),
        ("mopo/mixed", {}),
        ("mopo/helpful", {"objective_profile": {"selection": "mixture"}}),
        ("mopo/helpful", {"user": "robot"}),
        ("mopo/helpful", {"safety_identifier": "robot", "metadata": {"conversation_id": "1"}}),
        ("policy-00", {}),
        ("mopo/policy/../policy/policy-00", {}),
        ("mopo/HELPFUL", {}),
        (" mopo/helpful", {}),
    ],
)
@pytest.mark.parametrize("whose", ["key", "organisation"])
async def test_a_floor_of_key_or_organisation_holds_whatever_is_asked(
    model: str, fields: dict[str, Any], whose: str
) -> None:
    engine = StubEngine()
    floors = {"safety": 0.80}
    strict = PROFILES.model_copy(update={"organisation": Organisation(floors=floors)})
    scope = {"floors": floors} if whose == "key" else {}
    attempts = [{}, {"x-mopo-policy": "policy-00"}, {"x-mopo-profile": "helpful", "x-mopo-conversation": "7"}]
    async with keyed(engine, None, PROFILES if whose == "key" else strict, pin=True, **scope) as caller:
        for headers in attempts:
            await caller.chat(model, headers, **fields)
    assert {asked["model"] for asked in engine.asked} <= {"policy-02", "policy-03"}  # .90 and .85


async def test_a_floor_cannot_be_given_twice_to_get_the_lower_one() -> None:
    engine = StubEngine()
    async with keyed(engine) as caller:
        text = (
            '{"model": "mopo/helpful", "messages": [], "objective_profile": {"floors": {"safety": 0.85}}, '
            '"objective_profile": {"floors": {"safety": 0.1}}}'
        )
        answer = await caller.client.post(CHAT, content=text, headers=caller.headers)
    assert answer.status_code == 400
    assert engine.asked == []


async def test_a_misspelt_floor_of_a_key_lets_nothing_through() -> None:
    async with keyed(floors={"safty": 0.1}, pin=True) as caller:
        for model in ("mopo/helpful", "mopo", "mopo/near", "mopo/mixed", "mopo/policy/policy-02"):
            assert await caller.policy(model) == "422"


async def test_pinning_wants_the_right_to() -> None:
    async with keyed() as caller:
        assert await caller.policy("mopo/policy/policy-02") == "403"
        assert await caller.policy("mopo/policy/nobody") == "403"  # nor does it tell which exist
    async with keyed(pin=True) as caller:
        assert await caller.policy("mopo/policy/policy-02") == "policy-02"
        assert await caller.policy("mopo/policy/nobody") == "404"


async def test_users_and_keys_have_profiles_of_their_own() -> None:
    async with keyed() as caller:
        assert await caller.policy("mopo") == "policy-00"
        assert await caller.policy("mopo", user="alice") == "policy-02"  # careful
        assert await caller.policy("mopo", safety_identifier="alice") == "policy-02"
        assert await caller.policy("mopo/helpful", user="alice") == "policy-02"  # her floors come on top
        lower = {"floors": {"safety": 0.5}}
        assert await caller.policy("mopo/helpful", user="alice", objective_profile=lower) == "policy-02"
        asked = {"profile": "helpful", "user": "alice", "objective_profile": lower | {"selection": "mixture"}}
        told = await caller.client.post("/v1/profiles/resolve", json=asked, headers=caller.headers)
        assert told.json()["floors"] == {"safety": 0.85}
        assert await caller.policy("mopo/helpful", user="bob") == "policy-00"
        answer = await caller.chat("mopo", user="alice")
        assert answer.headers["x-mopo-profile"] == "careful"
        told = await caller.client.post("/v1/profiles/resolve", json={"user": "alice"}, headers=caller.headers)
        assert (told.json()["profile"], told.json()["policy"]) == ("careful", "policy-02")
    async with keyed(name="robot") as caller:
        assert await caller.policy("mopo") == "policy-01"  # balanced, by the key's name
        assert await caller.policy("mopo", user="alice") == "policy-02"


async def test_limits_are_answered_429_with_a_time() -> None:
    async with keyed(requests_per_minute=2) as caller:
        assert [(await caller.chat("mopo/helpful")).status_code for _ in range(3)] == [200, 200, 429]
        answer = await caller.chat("mopo/helpful")
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "requests_limit")
    assert int(answer.headers["retry-after"]) in range(20, 31)


async def test_asking_what_would_serve_counts_as_a_request() -> None:
    async with keyed(requests_per_minute=2) as caller:
        asked = {"profile": "mixed", "objective_profile": {"floors": {"safety": 0.81}}}
        answers = [
            await caller.client.post("/v1/profiles/resolve", json=asked, headers=caller.headers) for _ in range(3)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


async def test_tokens_of_answers_and_of_streams_count_against_the_limit() -> None:
    engine = StubEngine()
    engine.body = b'{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":100}}\n\n'
    engine.chunks.insert(-1, usage)
    kept = Kept()
    async with keyed(engine, kept, tokens_per_minute=60) as caller:
        await caller.chat("mopo/helpful")
        streamed = await caller.chat("mopo/helpful", stream=True)
        assert usage not in streamed.content  # the client did not ask for it
        assert (await caller.chat("mopo/helpful")).status_code == 429
    counted = [(each.prompt_tokens, each.completion_tokens) for each in kept.decisions]
    assert counted == [(5, 6), (7, 100), (None, None)]


async def test_what_cannot_be_reloaded_has_no_admin_routes() -> None:
    async with stubbed(StubEngine()) as client:
        assert (await client.post("/admin/reload")).status_code == 404
