"""A fake engine at transport level: a real HTTP server on loopback that does what its script says."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from starlette.types import Receive, Scope, Send

from mopo_eval.profiles import ProfileFile
from mopo_serve.decisions import Decision
from mopo_serve.gateway import Extras, Gateway, Limits, create_gateway
from mopo_serve.routing import Routing, build_routing
from tests import families

Application = Callable[[Scope, Receive, Send], Awaitable[None]]
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hello"}]


def event(number: int) -> bytes:
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": f"word{number} "}}]}).encode() + b"\n\n"
    )


class StubEngine:
    """Records what it was asked. ``status``, ``headers`` and ``body`` are its answer to what does not stream."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.status = 200
        self.headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/json")]
        self.body = b'{"choices": [], "model": "as the engine says"}'
        self.chunks = [event(0), event(1), b"data: [DONE]\n\n"]
        self.silent = False
        """Never answer; wait until the client leaves."""
        self.sick = False
        """Health checks fail."""
        self.loads = True
        """Adapters can be loaded."""
        self.adapters: dict[str, str] = {}
        """Path of each adapter that was loaded, by its name."""
        self.endless = False
        """After the chunks, wait until the client leaves."""
        self.hold: asyncio.Event | None = None
        """The stream's end waits for it."""
        self.dies_after: int | None = None
        """Chunks after which the connection is cut."""
        self.left = asyncio.Event()
        """Set when a client left before its answer was complete."""
        self.reached = asyncio.Event()
        """Set when a request came in."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/health":
            await self._answer(send, 500 if self.sick else 200, b"")
            return
        raw = b""
        while True:
            message = await receive()
            raw += message["body"]
            if not message["more_body"]:
                break
        if scope["path"] == "/v1/models":
            listed = [{"id": name, "root": path} for name, path in self.adapters.items()]
            await self._answer(send, 200, json.dumps({"data": listed}).encode())
            return
        body = json.loads(raw)
        if scope["path"].endswith("load_lora_adapter"):
            await self._answer(send, *self._adapter(scope["path"], body))
            return
        self.asked.append(body)
        self.headers_seen.append({name.decode(): value.decode() for name, value in scope["headers"]})
        self.reached.set()
        if "@" in str(body.get("model")) and body["model"] not in self.adapters:
            await self._answer(send, 404, b"does not exist")
        elif self.silent:
            await self._wait_until_left(receive)
        elif body.get("stream"):
            await self._stream(receive, send)
        else:
            await self._answer(send, self.status, self.body)

    def _adapter(self, path: str, body: dict[str, str]) -> tuple[int, bytes]:
        """Load or unload one as vLLM does; gives status and body."""
        name = body["lora_name"]
        if not self.loads:
            return 404, b"no such route"
        if path.startswith("/v1/unload"):
            return (200, b"unloaded") if self.adapters.pop(name, None) else (404, b"cannot be found")
        if name in self.adapters:
            return 400, b"has already been loaded"
        self.adapters[name] = body["lora_path"]
        return 200, b"loaded"

    async def _answer(self, send: Send, status: int, body: bytes) -> None:
        headers = [*self.headers, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in self.chunks[: self.dies_after]:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self.dies_after is not None:
            return  # uvicorn cuts the connection: the answer is not complete
        if self.endless:
            await self._wait_until_left(receive)
            return
        if self.hold is not None:
            await self.hold.wait()
        await send({"type": "http.response.body", "body": b""})

    async def _wait_until_left(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.left.set()


class Script:
    """A server that answers the n-th request with the n-th script: pieces that it says, one turn of the loop apart."""

    def __init__(self, *answers: Sequence[bytes], closes: bool = False) -> None:
        self._answers = list(answers)
        self._closes = closes
        self.requests: list[bytes] = []
        self.connections = 0
        self.left = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self._answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                for piece in self._answers.pop(0):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self._closes:
                    break
            else:
                await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.left.set()
            writer.close()


@asynccontextmanager
async def listening(app: Application, **options: Any) -> AsyncIterator[str]:
    """``app`` behind a real HTTP server (with uvicorn's ``options``) on a free loopback port; gives its URL."""
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    bound.listen(128)
    options = {"lifespan": "off", "log_config": None, "log_level": "critical", "timeout_graceful_shutdown": 1} | options
    config = uvicorn.Config(app, **options)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([bound]))  # serve() would take over the test's signals
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await serving
        bound.close()


def routing(profiles: ProfileFile = families.PROFILES, *, measured: bool = True) -> Routing:
    cards = {name: families.scorecard(name, scores) for name, scores in families.SCORES.items()} if measured else {}
    return build_routing(families.family(), cards, profiles, identity="test@0123456789ab")


class Kept:
    """A sink that keeps decisions in a list."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(self, decision: Decision) -> None:
        self.decisions.append(decision)


@asynccontextmanager
async def gateway_before(
    urls: str | Sequence[str],
    table: Routing | None = None,
    limits: Limits | None = None,
    kept: Kept | None = None,
    extras: Extras | None = None,
) -> AsyncIterator[Gateway]:
    """A gateway in front of the engines at ``urls``."""
    extras = extras or Extras()
    if kept is not None:
        extras = extras._replace(sinks=[kept])
    gateway = create_gateway(table or routing(), urls, limits=limits, extras=extras)
    try:
        yield gateway
    finally:
        await gateway.close()


@asynccontextmanager
async def calling(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    """A client of ``gateway`` without sockets in between."""
    transport = httpx.ASGITransport(gateway)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@asynccontextmanager
async def stubbed(
    engine: StubEngine,
    table: Routing | None = None,
    limits: Limits | None = None,
    kept: Kept | None = None,
    extras: Extras | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway in front of ``engine``."""
    async with listening(engine) as url, gateway_before(url, table, limits, kept, extras) as gateway:
        async with calling(gateway) as client:
            yield client


async def until(holds: Callable[[], bool], seconds: float = 5.0) -> None:
    """Let others run until ``holds()``. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0)


async def closed_port() -> int:
    """A loopback port on which nobody listens."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()
    return port
