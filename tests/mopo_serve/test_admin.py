"""Reload and staged rollout: what is live changes at once, as a whole, and no request is lost."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from mopo_eval.scorecards import write_scorecards
from mopo_serve.access import Access
from mopo_serve.gateway import Extras, Gateway, create_gateway
from mopo_serve.keys import KeyRing, make_key
from mopo_serve.releases import Releases
from mopo_serve.routing import read_routing
from mopo_train.errors import FamilyError
from tests.families import SCORES, scorecard, write_measured_family
from tests.mopo_serve.stub import CHAT, MESSAGES, Kept, StubEngine, calling, listening, until

pytestmark = pytest.mark.anyio
APP, APP_TEXT = make_key("app", "now", pin=True)
OPS, OPS_TEXT = make_key("ops", "now", admin=True, profiles=[])
USERS = 50
AS_APP = {"authorization": f"Bearer {APP_TEXT}"}
AS_OPS = {"authorization": f"Bearer {OPS_TEXT}"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_measured_family(tmp_path / "family")
    return tmp_path / "family"


@asynccontextmanager
async def operated(
    root: Path, engine: StubEngine, kept: Kept | None = None
) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """A gateway with an administrator before ``engine``, and a client."""
    releases = Releases(root, None, [root.parent / "allowed"])
    access = Access(KeyRing([APP, OPS]))
    async with listening(engine) as url:
        sinks = [kept] if kept else []
        extras = Extras(access=access, releases=releases, sinks=sinks)
        gateway = create_gateway(releases.first(read_routing(root)), url, extras=extras)
        async with calling(gateway) as client:
            yield gateway, client
        await gateway.close()


async def chat(client: httpx.AsyncClient, model: str = "mopo/balanced", **fields: Any) -> httpx.Response:
    return await client.post(CHAT, json={"model": model, "messages": MESSAGES, **fields}, headers=AS_APP)


async def admin(client: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    return await client.post(f"/admin/{path}", json=body, headers=AS_OPS)


def rescore(root: Path, safety: float) -> None:
    """Measure policy-01 anew: its safety is another one."""
    scores = SCORES | {"policy-01": SCORES["policy-01"] | {"safety": safety}}
    write_scorecards(root, [scorecard(policy, each, "again") for policy, each in scores.items()])


@pytest.mark.parametrize("path", ["reload", "rollout", "rollout/promote", "rollout/rollback"])
async def test_only_an_admin_key_may(root: Path, path: str) -> None:
    async with operated(root, StubEngine()) as (_, client):
        assert (await client.post(f"/admin/{path}")).status_code == 401
        answer = await client.post(f"/admin/{path}", headers=AS_APP, json={"share": 0.5})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "out_of_scope")
        assert (await client.get("/admin/rollout", headers=AS_APP)).status_code == 403
        assert (await client.post(CHAT, json={"model": "mopo/balanced"}, headers=AS_OPS)).status_code == 403


async def test_a_key_with_the_right_and_with_profiles_administers_and_asks(root: Path) -> None:
    both, text = make_key("both", "now", admin=True, profiles=["balanced"])
    bearer = {"authorization": f"Bearer {text}"}
    async with operated(root, StubEngine()) as (gateway, client):
        gateway.access.ring = KeyRing([both])
        body = {"model": "mopo/balanced", "messages": MESSAGES}
        assert (await client.post(CHAT, json=body, headers=bearer)).status_code == 200
        assert (await client.post(CHAT, json=body | {"model": "mopo/helpful"}, headers=bearer)).status_code == 403
        assert (await client.post("/admin/reload", headers=bearer)).status_code == 200


async def test_a_gateway_without_keys_keeps_its_admin_routes_closed(root: Path) -> None:
    releases = Releases(root, None)
    gateway = create_gateway(releases.first(read_routing(root)), "http://127.0.0.1:9", extras=Extras(releases=releases))
    async with calling(gateway) as client:
        for path in ("reload", "rollout"):
            assert (await client.post(f"/admin/{path}", json={"share": 1.0})).status_code == 403
    await gateway.close()


async def test_reload_takes_a_new_evaluation_and_new_profiles(root: Path) -> None:
    async with operated(root, StubEngine()) as (_, client):
        assert (await chat(client)).headers["x-mopo-policy"] == "policy-01"
        rescore(root, safety=0.6)
        text = (root / "profiles.yaml").read_text().replace("profiles:", "profiles:\n  fresh: {primary: safety}")
        (root / "profiles.yaml").write_text(text)
        assert (await chat(client)).headers["x-mopo-policy"] == "policy-01"  # not before it is told to
        family = (await chat(client)).headers["x-mopo-family"]
        told = (await admin(client, "reload")).json()
        assert (await chat(client)).headers["x-mopo-family"] == family == told["family"]  # it is the same family
        assert told["reloaded"] and told["profiles"]["balanced"]["policy"] == "policy-02"
        assert told["before"] != told["version"]
        assert (await chat(client)).headers["x-mopo-policy"] == "policy-02"
        assert (await chat(client, "mopo/fresh")).headers["x-mopo-policy"] == "policy-02"


@pytest.mark.parametrize("content", ["profiles: {x", "profiles: {p: {primary: nothing}}", "- a", ""])
async def test_a_reload_that_fails_changes_nothing(root: Path, content: str) -> None:
    async with operated(root, StubEngine()) as (_, client):
        (root / "profiles.yaml").write_text(content)
        answer = await admin(client, "reload")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_released")
        assert "nothing was changed" in answer.json()["error"]["message"]
        assert (await chat(client)).headers["x-mopo-policy"] == "policy-01"


async def test_no_request_is_lost_or_mixed_up_while_versions_come_and_go(root: Path) -> None:
    engine, kept = StubEngine(), Kept()
    async with operated(root, engine, kept) as (_, client):
        stop = asyncio.Event()
        answers: list[httpx.Response] = []
        wanted: list[int] = []

        async def ask(stream: bool) -> None:
            while not stop.is_set():
                answers.append(await chat(client, stream=stream))

        askers = [asyncio.create_task(ask(number % 2 == 0)) for number in range(6)]
        for number in range(6):
            rescore(root, safety=0.6 if number % 2 == 0 else 0.8)
            assert (await admin(client, "reload")).status_code == 200
            wanted.append(len(answers) + 12)
            await until(lambda: len(answers) > wanted[-1], 20)
        stop.set()
        await asyncio.gather(*askers)
    assert {answer.status_code for answer in answers} == {200}
    assert len(kept.decisions) == len(answers)
    served = {(each.family, each.policy) for each in kept.decisions}
    assert len({family for family, _ in served}) >= 2
    assert len(served) == len({family for family, _ in served})  # each version served one policy, its own


async def test_a_request_ends_with_the_version_that_it_began_with(root: Path) -> None:
    engine = StubEngine()
    engine.hold = asyncio.Event()
    async with operated(root, engine) as (gateway, client):
        old = gateway.deployment.stable
        asking = asyncio.create_task(chat(client, stream=True))
        await engine.reached.wait()
        rescore(root, safety=0.6)
        await admin(client, "reload")
        assert old.retired and old.in_flight == 1
        engine.hold.set()
        assert (await asking).headers["x-mopo-policy"] == "policy-01"
        assert old.in_flight == 0


def refined(root: Path) -> None:
    """Another adapter for policy-01, as ``refine`` or another training run would leave it."""
    adapter = root / "policies" / "policy-01"
    (adapter / "adapter_model.safetensors").write_bytes(b"other weights")


async def test_a_changed_adapter_is_loaded_under_a_new_name_and_the_old_one_unloaded(root: Path) -> None:
    engine = StubEngine()
    async with operated(root, engine) as (gateway, client):
        refined(root)
        told = await admin(client, "reload")
        assert told.json()["version"] != told.json()["before"]
        (name,) = engine.adapters
        assert name.startswith("policy-01@")
        assert engine.adapters[name] == str((root / "policies" / "policy-01").resolve())
        assert (await chat(client)).headers["x-mopo-policy"] == "policy-01"  # its name for clients
        assert engine.asked[-1]["model"] == name
        (root / "policies" / "policy-01" / "adapter_model.safetensors").write_bytes(b"still others")
        await admin(client, "reload")
        await until(lambda: name not in engine.adapters)
        assert len(engine.adapters) == 1


async def test_an_engine_that_is_started_again_gets_the_adapters_that_were_live_and_no_others(root: Path) -> None:
    engine, releases = StubEngine(), Releases(root, None)
    async with listening(engine) as url:
        gateway = create_gateway(releases.first(read_routing(root)), url)
        refined(root)
        gateway.deployment.replace(await releases.make(gateway.pool, None, None))
        releases.check_unchanged(gateway.deployment.live)  # what policy-01 was at first serves nobody any more
        before, engine.adapters = engine.adapters, {}
        await releases.load_again(gateway.pool.replicas[0])
        assert engine.adapters == before != {}
        (root / "policies" / "policy-02" / "adapter_model.safetensors").write_bytes(b"not measured")
        with pytest.raises(FamilyError, match="policy-02' has changed since the gateway began to serve it"):
            releases.check_unchanged(gateway.deployment.live)
        await gateway.close()


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"])
@pytest.mark.parametrize("field", ["family", "profiles"])
async def test_names_that_no_file_can_have_change_nothing(root: Path, field: str, name: str) -> None:
    async with operated(root, StubEngine()) as (_, client):
        body = json.dumps({"share": 0.5, field: name})
        answer = await client.post("/admin/rollout", content=body, headers=AS_OPS)
        assert answer.status_code in (400, 409), answer.text
        assert (await chat(client)).headers["x-mopo-policy"] == "policy-01"


async def test_engines_that_load_nothing_keep_what_is_live(root: Path) -> None:
    engine = StubEngine()
    engine.loads = False
    async with operated(root, engine) as (_, client):
        refined(root)
        answer = await admin(client, "reload")
        assert answer.status_code == 409
        assert "--live-adapters" in answer.json()["error"]["message"]
        assert "127.0.0.1" not in answer.text
        assert (await chat(client)).headers["x-mopo-policy"] == "policy-01"


async def test_a_new_profile_version_takes_its_share_of_conversations_sticky_and_is_promoted(
    root: Path, tmp_path: Path
) -> None:
    kept = Kept()
    careful = tmp_path / "careful.yaml"
    careful.write_text("profiles: {balanced: {primary: helpfulness, floors: {safety: 0.85}}}")
    async with operated(root, StubEngine(), kept) as (_, client):
        told = await admin(client, "rollout", profiles=str(careful), share=0.3)
        assert (told.status_code, told.json()["share"]) == (200, 0.3)
        assert told.json()["stable"]["organisation"] == {"safety": 0.5}
        assert told.json()["candidate"]["organisation"] == {}  # the file says nothing of them

        async def policies() -> list[str]:
            return [(await chat(client, user=f"user-{number}")).headers["x-mopo-policy"] for number in range(USERS)]

        first = await policies()
        assert abs(first.count("policy-02") / USERS - 0.3) < 4 * (0.3 * 0.7 / USERS) ** 0.5  # 4 standard errors
        assert await policies() == first
        compared = (await client.get("/admin/rollout", headers=AS_OPS)).json()
        assert compared["candidate"]["requests"] == 2 * first.count("policy-02")
        assert compared["stable"]["requests"] + compared["candidate"]["requests"] == 2 * USERS
        assert compared["candidate"]["seconds"]["p95"] >= compared["candidate"]["seconds"]["p50"] > 0
        assert compared["candidate"]["failures"] == 0
        assert len({each.family for each in kept.decisions}) == 2
        assert (await admin(client, "rollout", share=0.6)).json()["share"] == 0.6
        more = await policies()
        assert all(now == "policy-02" for was, now in zip(first, more, strict=True) if was == "policy-02")
        assert more.count("policy-02") > first.count("policy-02")
        assert (await admin(client, "rollout/promote")).status_code == 200
        assert set(await policies()) == {"policy-02"}
        assert (await admin(client, "rollout/promote")).status_code == 409


async def test_a_new_family_is_rolled_back_by_one_call(root: Path, tmp_path: Path) -> None:
    engine = StubEngine()
    other = tmp_path / "allowed" / "next"
    shutil.copytree(root, other)
    for place in (root, other):
        (place / "base").mkdir()
        (place / "base" / "model.safetensors").write_bytes(b"the same weights")
    for adapter in (other / "policies").iterdir():
        (adapter / "adapter_model.safetensors").write_bytes(b"trained again")
    async with operated(root, engine) as (_, client):
        told = await admin(client, "rollout", family=str(other), share=1.0)
        assert told.status_code == 200, told.text
        answer = await chat(client)
        assert answer.headers["x-mopo-family"].startswith("next@")
        assert len(engine.adapters) == 4  # of the new family, under names of their own
        assert (await admin(client, "rollout/rollback")).status_code == 200
        assert (await chat(client)).headers["x-mopo-family"].startswith("family@")
        await until(lambda: not engine.adapters)
        assert (await admin(client, "rollout/rollback")).status_code == 409


async def test_a_family_of_another_base_model_wants_a_gateway_of_its_own(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "allowed" / "next"
    shutil.copytree(root, other)
    for place in (root, other):
        (place / "base").mkdir()
        (place / "base" / "model.safetensors").write_bytes(place.name.encode())
    async with operated(root, StubEngine()) as (_, client):
        answer = await admin(client, "rollout", family=str(other), share=1.0)
    assert answer.status_code == 409
    assert "another base model" in answer.json()["error"]["message"]


async def test_a_family_from_anywhere_else_is_not_loaded(root: Path, tmp_path: Path) -> None:
    engine = StubEngine()
    shutil.copytree(root, tmp_path / "elsewhere")
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed" / "link").symlink_to(tmp_path / "elsewhere")
    async with operated(root, engine) as (_, client):
        for place in (tmp_path / "elsewhere", tmp_path / "allowed" / ".." / "elsewhere", tmp_path / "allowed" / "link"):
            answer = await admin(client, "rollout", family=str(place), share=0.5)
            assert answer.status_code == 409
            assert "--allow-families" in answer.json()["error"]["message"]
    assert engine.adapters == {}


@pytest.mark.parametrize("body", [{}, {"share": 0}, {"share": 1.5}, {"share": "x"}, {"share": 0.5, "famly": "x"}])
async def test_a_rollout_that_cannot_be_meant_is_refused(root: Path, body: dict[str, Any]) -> None:
    async with operated(root, StubEngine()) as (_, client):
        assert (await admin(client, "rollout", **body)).status_code == 400
