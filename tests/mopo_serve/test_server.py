import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from mopo_eval.engine import Engine
from mopo_serve import server as module
from mopo_serve.gateway import create_gateway
from mopo_serve.revival import Engines, keep_alive
from mopo_serve.server import AddressError, DrainingServer, EngineDied, bind, serve, url_of
from tests.mopo_serve.stub import CHAT, MESSAGES, StubEngine, closed_port, gateway_before, listening, routing, until

ASK = {"model": "mopo/careful", "messages": MESSAGES}


def test_a_socket_is_bound_to_loopback() -> None:
    with bind("127.0.0.1", 0) as bound:
        host, port = bound.getsockname()
        assert host == "127.0.0.1"
        assert url_of(bound) == f"http://127.0.0.1:{port}"
    with bind("localhost", 0) as bound:
        assert bound.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", ""])
def test_no_other_address_is_served_while_keys_do_not_exist(host: str) -> None:
    with pytest.raises(AddressError, match="no API keys exist|cannot find"):
        bind(host, 0)


@pytest.mark.parametrize("host", ["nowhere.invalid", "127.0.0.1.5", "a" * 70, "x y"])
def test_a_host_that_does_not_exist_is_told(host: str) -> None:
    with pytest.raises(AddressError, match="cannot find the host"):
        bind(host, 8000)


def test_a_port_in_use_is_told() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(AddressError, match=rf"port {port}.*give another --port"):
            bind("127.0.0.1", port)


def test_a_port_that_somebody_took_while_the_engine_started_is_told() -> None:
    with bind("127.0.0.1", 0) as bound, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(bound.getsockname())
        other.listen()
        gateway = create_gateway(routing(), "http://127.0.0.1:1")
        with pytest.raises(AddressError, match="cannot listen"):
            serve(gateway, bound, Engines([Engine("http://127.0.0.1:1", "attached", None)]), ready=lambda: None)


def test_the_death_of_the_engine_ends_the_gateway_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("starting\nout of memory: I die\n", encoding="utf-8")
    url = f"http://127.0.0.1:{asyncio.run(closed_port())}"
    ready: list[bool] = []
    with bind("127.0.0.1", 0) as bound, pytest.raises(EngineDied, match="out of memory: I die"):
        serve(
            create_gateway(routing(), url),
            bound,
            Engines([Engine(url, "embedded", 1)], [log]),
            ready=lambda: ready.append(True),
        )
    assert ready == [True]


@asynccontextmanager
async def draining(engine: StubEngine) -> AsyncIterator[tuple[DrainingServer, asyncio.Task[bool], str]]:
    """A gateway run as the command runs it, before ``engine``."""
    async with listening(engine) as url, gateway_before(url) as gateway:
        with bind("127.0.0.1", 0) as bound:
            config = uvicorn.Config(gateway, log_config=None, log_level="critical", timeout_graceful_shutdown=1)
            server = DrainingServer(config, gateway)
            ready = asyncio.Event()
            own = url_of(bound)
            running = asyncio.create_task(
                module._serve(server, bound, keep_alive(Engines([Engine(url, "stub", os.getpid())])), ready.set)
            )
            await asyncio.wait_for(ready.wait(), 5)
            try:
                yield server, running, own
            finally:
                server.should_exit = server.force_exit = True
                await running


@pytest.mark.anyio
async def test_sigterm_finishes_what_is_in_flight_and_takes_nothing_new() -> None:
    engine = StubEngine()
    engine.hold = asyncio.Event()
    async with draining(engine) as (_, running, url), httpx.AsyncClient(base_url=url, timeout=5) as client:
        async with client.stream("POST", CHAT, json=ASK | {"stream": True}) as answer:
            chunks = answer.aiter_raw()
            first = await anext(chunks)
            os.kill(os.getpid(), signal.SIGTERM)
            refused = await client.post(CHAT, json=ASK)
            ready = await client.get("/readyz")
            assert (refused.status_code, ready.status_code) == (503, 503)
            assert refused.headers["retry-after"] == "1"
            assert not running.done()
            engine.hold.set()
            rest = b"".join([chunk async for chunk in chunks])
        assert first + rest == b"".join(engine.chunks)
        assert await asyncio.wait_for(running, 5) is False
        with pytest.raises(httpx.ConnectError):
            await client.get("/healthz")


@pytest.mark.anyio
async def test_a_second_signal_ends_it_at_once() -> None:
    engine = StubEngine()
    engine.endless = True
    async with draining(engine) as (_, running, url), httpx.AsyncClient(base_url=url, timeout=5) as client:
        async with client.stream("POST", CHAT, json=ASK | {"stream": True}) as answer:
            await anext(answer.aiter_raw())
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert await asyncio.wait_for(running, 5) is False


@pytest.mark.anyio
async def test_an_idle_server_ends_on_the_first_signal() -> None:
    async with draining(StubEngine()) as (_, running, _):
        os.kill(os.getpid(), signal.SIGINT)
        assert await asyncio.wait_for(running, 5) is False
        await until(running.done)
