"""Adapters of versions that come and go on engines that may be started again, or serve other gateways, too."""

import asyncio
from pathlib import Path

import pytest

from mopo_serve.access import Access
from mopo_serve.gateway import Extras, create_gateway
from mopo_serve.keys import KeyRing
from mopo_serve.releases import Releases, adapter_fingerprint
from mopo_serve.routing import read_routing
from mopo_train.errors import EngineError
from tests.families import write_measured_family
from tests.mopo_serve.stub import StubEngine, calling, listening, until
from tests.mopo_serve.test_admin import APP, OPS, admin, chat, operated

pytestmark = pytest.mark.anyio


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_measured_family(tmp_path / "family")
    return tmp_path / "family"


def trained(root: Path, weights: bytes) -> str:
    """Leave ``weights`` as the adapter of policy-01; what engines call it when it is loaded at run time."""
    place = root / "policies" / "policy-01"
    (place / "adapter_model.safetensors").write_bytes(weights)
    return f"policy-01@{adapter_fingerprint(place)}"


async def test_an_adapter_that_is_live_again_stays_when_its_first_version_is_done(root: Path) -> None:
    engine = StubEngine()
    engine.hold = asyncio.Event()
    async with operated(root, engine) as (gateway, client):
        first = trained(root, b"A")
        await admin(client, "reload")
        asking = asyncio.create_task(chat(client, stream=True))
        await engine.reached.wait()
        second = trained(root, b"B")
        await admin(client, "reload")
        trained(root, b"A")
        await admin(client, "reload")
        await until(lambda: second not in engine.adapters)
        engine.hold.set()
        assert (await asking).status_code == 200
        assert gateway.admin is not None
        retiring = gateway.admin._retiring
        await until(lambda: not retiring)
        assert list(engine.adapters) == [first]
        assert (await chat(client)).status_code == 200


async def test_a_reload_after_a_promotion_reads_what_was_promoted(root: Path, tmp_path: Path) -> None:
    careful = tmp_path / "careful.yaml"
    careful.write_text("profiles: {balanced: {primary: helpfulness, floors: {safety: 0.85}}}")
    async with operated(root, StubEngine()) as (_, client):
        await admin(client, "rollout", profiles=str(careful), share=0.5)
        await admin(client, "reload")  # of what is stable
        assert (await admin(client, "rollout/promote")).status_code == 200
        assert (await chat(client)).headers["x-mopo-policy"] == "policy-02"
        assert (await admin(client, "reload")).status_code == 200
        assert (await chat(client)).headers["x-mopo-policy"] == "policy-02"


async def test_an_attached_engine_that_was_started_again_gets_what_was_loaded(root: Path) -> None:
    engine = StubEngine()
    async with operated(root, engine) as (gateway, client):
        name = trained(root, b"A")
        await admin(client, "reload")
        engine.adapters = {}
        assert (await chat(client)).status_code == 503
        assert (await admin(client, "reload")).status_code == 200
        assert (await chat(client)).status_code == 200
        engine.adapters, engine.sick = {}, True
        (replica,) = gateway.pool.replicas
        await replica.check()
        engine.sick = False
        await replica.check()
        assert list(engine.adapters) == [name]
        engine.adapters, engine.sick = {}, True
        await replica.check()
        trained(root, b"not what was scored")
        engine.sick = False
        await replica.check()
        assert engine.adapters == {}


async def test_gateways_that_share_an_engine_share_its_adapters(root: Path) -> None:
    engine = StubEngine()
    async with listening(engine) as url:
        gateways = []
        for _ in range(2):
            releases = Releases(root, None)
            extras = Extras(access=Access(KeyRing([APP, OPS])), releases=releases)
            gateways.append(create_gateway(releases.first(read_routing(root)), url, extras=extras))
        name = trained(root, b"A")
        for gateway in gateways:
            async with calling(gateway) as client:
                assert (await admin(client, "reload")).status_code == 200
                assert (await chat(client)).status_code == 200
            await gateway.close()
    assert [asked["model"] for asked in engine.asked] == [name] * 2


def test_a_gateway_that_starts_again_uses_what_was_loaded_while_the_engine_ran(root: Path) -> None:
    before, routing, place = {"policy-01": "/somewhere"}, read_routing(root), root / "policies" / "policy-01"
    assert Releases(root, None).first(routing, [before]).engine_name("policy-01") == "policy-01"
    name = trained(root, b"A")
    now = before | {name: str(place)}
    version = Releases(root, None).first(routing, [now, now])
    assert (version.engine_name("policy-01"), version.engine_name("policy-02")) == (name, "policy-02")
    elsewhere = before | {"policy-01@0123456789ab": "/candidate/policies/policy-01"}  # of a rollout that was cut short
    assert Releases(root, None).first(routing, [elsewhere]).engine_name("policy-01") == "policy-01"
    promoted = before | {name: "/candidate/policies/policy-01"}  # and then copied here
    assert Releases(root, None).first(routing, [promoted]).engine_name("policy-01") == name
    with pytest.raises(EngineError, match="not every engine serves the adapter"):
        Releases(root, None).first(routing, [now, before])
    trained(root, b"B")
    with pytest.raises(EngineError, match="not every engine serves the adapter"):
        Releases(root, None).first(routing, [now])


async def test_an_id_is_not_trusted_again_once_its_files_have_changed(root: Path) -> None:
    engine = StubEngine()
    async with operated(root, engine) as (_, client):
        name = trained(root, b"A")
        await admin(client, "reload")
        (root / "policies" / "policy-01" / "adapter_model.safetensors").unlink()  # as it was at the start
        await admin(client, "reload")
        await until(lambda: name not in engine.adapters)
        (back,) = engine.adapters
        assert back.startswith("policy-01@")
        assert (await chat(client)).status_code == 200 and engine.asked[-1]["model"] == back
