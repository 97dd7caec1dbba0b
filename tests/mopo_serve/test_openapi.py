"""The OpenAPI document is a document, says what the routes do, and schemathesis finds nothing that it does not say."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from starlette.routing import Route

from mopo_serve.access import Access
from mopo_serve.connections import GuardedProtocol
from mopo_serve.gateway import Extras, Gateway, create_gateway
from mopo_serve.keys import KeyRing, make_key
from mopo_serve.openapi import document
from mopo_serve.releases import Releases
from mopo_serve.routing import read_routing
from mopo_serve.trail import open_trail
from tests.families import write_measured_family
from tests.mopo_serve.stub import StubEngine, listening

schemathesis = pytest.importorskip("schemathesis")
EVERYTHING, TEXT = make_key("all", "now", admin=True, audit=True, pin=True)
AUTHORISED = {"authorization": f"Bearer {TEXT}"}


@asynccontextmanager
async def gateway(root: Path) -> AsyncIterator[tuple[Gateway, str]]:
    """A gateway with every route, served as the command serves it."""
    releases, trail = Releases(root / "family", None), open_trail(str(root / "audit.db"), None, None)
    async with listening(StubEngine()) as engine:
        extras = Extras(access=Access(KeyRing([EVERYTHING])), releases=releases, keeper=trail, routes=trail.routes())
        made = create_gateway(releases.first(read_routing(root / "family")), engine, extras=extras)
        trail.follow(made.deployment, made.access, made.metrics.registry)
        async with listening(made, http=GuardedProtocol, lifespan="on") as url:
            yield made, url
    trail.store.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address, while it is served by a thread."""
    root = tmp_path_factory.mktemp("gateway")
    write_measured_family(root / "family")
    ready, stop, found = threading.Event(), asyncio.Event(), []

    async def serve() -> None:
        async with gateway(root) as (_, address):
            found.append((address, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(30)
    address, loop = found[0]
    yield address
    loop.call_soon_threadsafe(stop.set)
    thread.join()


api = schemathesis.openapi.from_dict(document())
STRICTER = schemathesis.checks.CHECKS.get_by_names(["positive_data_acceptance"])
"""Not held: what a schema allows may still name no policy of this family, or say nothing (400)."""


@api.parametrize()  # type: ignore[untyped-decorator]
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_answer_is_one_that_the_document_does_not_know(case: Any, url: str) -> None:
    case.call_and_validate(base_url=url, headers=AUTHORISED, excluded_checks=STRICTER)


def test_every_route_is_described(tmp_path: Path) -> None:
    write_measured_family(tmp_path / "family")

    async def routes() -> set[str]:
        async with gateway(tmp_path) as (made, _):
            return {route.path.replace(":path", "") for route in made._small.routes if isinstance(route, Route)}

    described = set(document()["paths"])
    assert asyncio.run(routes()) == described - {"/v1/chat/completions", "/v1/completions"}


def test_the_document_wants_a_key_like_everything_else(url: str) -> None:
    assert httpx.get(f"{url}/openapi.json").status_code == 401
    assert httpx.get(f"{url}/openapi.json", headers=AUTHORISED).json() == document()
