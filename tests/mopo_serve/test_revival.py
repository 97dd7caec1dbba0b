"""An engine that dies or hangs is started again: how often, after what pauses, and what may be wrong with it."""

import asyncio
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from mopo_eval.engine import Engine, process
from mopo_eval.engine.process import Launch, running
from mopo_serve import engines, revival, upstream
from mopo_serve.gateway import create_gateway
from mopo_serve.revival import PAUSES, STEADY_SECONDS, Budget, Care, Engines, keep_alive, keep_one
from mopo_serve.server import EngineDied, bind, serve
from mopo_train.errors import EngineError, FamilyError
from tests.mopo_serve.stub import closed_port, routing, until

FICKLE = """
import http.server, os, signal, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/hang":
            os.kill(os.getpid(), signal.SIGSTOP)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": []}' if self.path == "/v1/models" else str(os.getpid()).encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Mortal:
    """Something that listens like an engine while it lives, and fails to start ``failures`` times."""

    def __init__(self, failures: int = 0) -> None:
        self.port = asyncio.run(closed_port())
        self.failures, self.restarts = failures, 0
        self._sockets = ExitStack()

    @property
    def engine(self) -> Engine:
        return Engine(f"http://127.0.0.1:{self.port}", "mortal", 1, self.restart)

    def restart(self) -> None:
        self.restarts += 1
        if self.restarts <= self.failures:
            raise EngineError(f"no start number {self.restarts}")
        listener = self._sockets.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(1000)

    def die(self) -> None:
        self._sockets.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revival, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(revival, "WATCH_SECONDS", 0.01)


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    found = Mortal()
    yield found
    found.die()


def test_pauses_grow_and_end_and_old_restarts_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revival, "PAUSES", PAUSES)
    now = 0.0
    budget = Budget(lambda: now)
    assert [budget.draw() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 16.0, None]
    now = STEADY_SECONDS + 1
    assert budget.draw() == 1.0


@pytest.mark.anyio
async def test_it_is_started_again_each_time_and_then_given_up(
    mortal: Mortal, capsys: pytest.CaptureFixture[str]
) -> None:
    after: list[int] = []

    async def back(number: int) -> None:
        after.append(number)

    keeping = asyncio.create_task(keep_one(mortal.engine, 4, revival.NO_CARE._replace(after=back)))
    for restarts in (1, 2, 3):
        await until(lambda restarts=restarts: len(after) == restarts)  # type: ignore[misc]
        assert mortal.restarts == restarts
        mortal.die()
    await asyncio.wait_for(keeping, 10)
    assert after == [4, 4, 4]
    told = capsys.readouterr().err
    assert told.count("engine-4 runs again") == 3
    assert "engine-4 is given up after 3 restarts within 10 minutes" in told


@pytest.mark.anyio
async def test_a_start_that_fails_is_tried_again(mortal: Mortal, capsys: pytest.CaptureFixture[str]) -> None:
    mortal.failures = 2
    keeping = asyncio.create_task(keep_alive(Engines([mortal.engine])))
    await until(lambda: "engine-0 runs again" in capsys.readouterr().err)
    assert mortal.restarts == 3
    keeping.cancel()


@pytest.mark.skipif(sys.platform == "win32", reason="stops a process by a signal")
@pytest.mark.anyio
async def test_a_process_that_takes_connections_and_never_answers_is_ended_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module, name in ((process, "GRACE"), (engines, "HANG_SECONDS"), (upstream, "HEALTH_SECONDS")):
        monkeypatch.setattr(module, name, 0.3)
    monkeypatch.setattr(engines, "CHECK_SECONDS", 0.05)
    launch = Launch("fickle", frozenset(), lambda port: [sys.executable, "-c", FICKLE, str(port)], {}, tmp_path / "log")

    def ask(url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=5) as answer:
            content: bytes = answer.read()
        return content

    with running(launch, timeout=30) as fickle:
        gateway = create_gateway(routing(), fickle.url)
        (replica,) = gateway.pool.replicas
        engine = Engine(fickle.url, "fickle", fickle.pid, fickle.restart)

        async def back(_: int) -> None:
            replica.start_over()

        care = Care(lambda: None, back, lambda _: replica.hangs)
        tasks = [asyncio.create_task(gateway.pool.watch()), asyncio.create_task(keep_one(engine, 0, care))]
        first = await asyncio.to_thread(ask, fickle.url)
        hanging = asyncio.create_task(asyncio.to_thread(ask, f"{fickle.url}/hang"))
        await asyncio.wait_for(_told(capsys, "engine-0 hangs: starting it again"), 20)
        await asyncio.wait_for(_told(capsys, "engine-0 runs again"), 20)
        assert await asyncio.to_thread(ask, fickle.url) != first  # another process
        with suppress(OSError):  # answered or cut off: the signal to end may reach it before or after it goes on
            await hanging
        for task in tasks:
            task.cancel()
        await gateway.close()


async def _told(capsys: pytest.CaptureFixture[str], what: str) -> None:
    told = ""
    while what not in told:
        await asyncio.sleep(0.01)
        told += capsys.readouterr().err


@pytest.mark.anyio
async def test_other_adapters_than_those_that_were_measured_are_never_served(
    mortal: Mortal, capsys: pytest.CaptureFixture[str]
) -> None:
    def changed() -> None:
        raise FamilyError("the adapter in 'x' has changed")

    await asyncio.wait_for(keep_alive(Engines([mortal.engine], care=revival.NO_CARE._replace(before=changed))), 10)
    assert mortal.restarts == 0
    assert "engine-0 is given up: the adapter in 'x' has changed" in capsys.readouterr().err


def test_the_gateway_ends_when_no_engine_can_be_kept_running(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("starting\nout of memory: I die\n", encoding="utf-8")
    mortal = Mortal(failures=9)
    gateway = create_gateway(routing(), mortal.engine.url)
    with bind("127.0.0.1", 0) as bound, pytest.raises(EngineDied, match="cannot be kept running") as died:
        serve(gateway, bound, Engines([mortal.engine], [log]), ready=lambda: None)
    assert mortal.restarts == 3
    assert "out of memory: I die" in str(died.value)
