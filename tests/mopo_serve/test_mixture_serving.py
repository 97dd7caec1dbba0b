"""Mixtures through the gateway: drawn per conversation, sticky, on average, and told. Scores: ``tests.families``."""

from typing import Any

import httpx
import pytest

from mopo_eval.profiles import ProfileFile, ThresholdProfile
from tests.mopo_serve.stub import CHAT, MESSAGES, Kept, StubEngine, routing, stubbed

pytestmark = pytest.mark.anyio
N = 64
# certified safety: policy-00 .55, policy-01 .75, policy-02 .90; a floor of .825 takes half of each of the last two
PROFILES = ProfileFile(
    profiles={
        "mixed": ThresholdProfile(primary="helpfulness", floors={"safety": 0.825}, selection="mixture"),
        "single": ThresholdProfile(primary="helpfulness", floors={"safety": 0.825}),
    }
)


async def policies(client: httpx.AsyncClient, model: str = "mopo/mixed", **fields: Any) -> list[str]:
    answers = [await ask(client, model, number, **fields) for number in range(N)]
    return [answer.headers["x-mopo-policy"] for answer in answers]


async def ask(client: httpx.AsyncClient, model: str, number: int, **fields: Any) -> httpx.Response:
    given = {name: value(number) if callable(value) else value for name, value in fields.items()}
    headers: dict[str, str] = given.pop("headers", {})
    return await client.post(CHAT, json={"model": model, "messages": MESSAGES, **given}, headers=headers)


def half(drawn: list[str]) -> bool:
    """True if either policy has half of the draws, within 4 standard errors."""
    return set(drawn) == {"policy-01", "policy-02"} and abs(drawn.count("policy-01") / N - 0.5) < 4 * (0.25 / N) ** 0.5


@pytest.mark.parametrize(
    "fields",
    [
        {"user": lambda number: f"user-{number}"},
        {"safety_identifier": lambda number: f"user-{number}"},
        {"metadata": lambda number: {"conversation_id": f"c-{number}"}, "user": "one"},
        {"headers": lambda number: {"x-mopo-conversation": f"c-{number}"}, "user": "one"},
    ],
)
async def test_conversations_and_users_follow_the_shares_and_each_keeps_its_policy(fields: dict[str, Any]) -> None:
    async with stubbed(StubEngine(), routing(PROFILES)) as client:
        first = await policies(client, **fields)
        assert half(first)
        again = [await ask(client, "mopo/mixed", number, **fields) for number in range(16)]
        assert [answer.headers["x-mopo-policy"] for answer in again] == first[:16]


async def test_requests_without_a_name_are_conversations_of_their_own() -> None:
    async with stubbed(StubEngine(), routing(PROFILES)) as client:
        assert half(await policies(client))


async def test_one_user_meets_one_policy_alone() -> None:
    async with stubbed(StubEngine(), routing(PROFILES)) as client:
        answers = [await ask(client, "mopo/mixed", number, user="ann") for number in range(16)]
        assert len({answer.headers["x-mopo-policy"] for answer in answers}) == 1


async def test_answer_and_decision_say_that_the_floor_holds_on_average() -> None:
    kept = Kept()
    async with stubbed(StubEngine(), routing(PROFILES), kept=kept) as client:
        answer = await ask(client, "mopo/mixed", 0)
        assert (answer.headers["x-mopo-promise"], answer.headers["x-mopo-share"]) == ("average", "0.5000")
        single = await ask(client, "mopo/single", 0)
        assert "x-mopo-promise" not in single.headers and single.headers["x-mopo-policy"] == "policy-02"
        told = (await client.post("/v1/profiles/resolve", json={"profile": "mixed"})).json()
    assert told["weights"] == pytest.approx({"policy-01": 0.5, "policy-02": 0.5})
    assert "on average over conversations, not in each" in told["promise"]
    assert told["expected"] == pytest.approx({"safety": 0.825})
    assert (
        "by itself it misses safety 0.750 < 0.825" in {row["id"]: row["why"] for row in told["policies"]}["policy-01"]
    )
    assert kept.decisions[0].share == pytest.approx(0.5) and "on average" in kept.decisions[0].reason
    assert kept.decisions[1].share == 1.0


async def test_a_request_may_tighten_a_mixture_or_ask_for_one() -> None:
    async with stubbed(StubEngine(), routing(PROFILES)) as client:
        tight = await ask(client, "mopo/mixed", 0, objective_profile={"floors": {"safety": 0.90}})
        assert tight.headers["x-mopo-policy"] == "policy-02"
        asked = await policies(client, "mopo/single", objective_profile={"selection": "mixture"})
        assert half(asked)
        never = await ask(client, "mopo/mixed", 0, objective_profile={"floors": {"safety": 0.95}})
        assert never.status_code == 422
