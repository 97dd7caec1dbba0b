"""What the gateway costs: the same client straight to a stub engine, through the gateway, and through a bare proxy.

In every round each is asked in turn on loopback; medians over the rounds. The peer is Starlette + httpx without any of
the gateway's checks. The server under test has a core of its own, client and stub share another: "direct" is the most
that this client can measure. CPU per request is the server's own (Linux) and holds under load where requests/s do not.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

PATH = "/v1/chat/completions"
CHUNK = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'
CHUNKS = 32
ANSWER = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 64}}]}).encode()
SERVERS = ("direct", "gateway", "starlette+httpx")


class Result(NamedTuple):
    """One measurement; ``cpu_us`` is the server's own time per request, NaN where the system does not tell."""

    per_second: float
    p50_ms: float
    cpu_us: float


async def stub(scope: Scope, receive: Receive, send: Send) -> None:
    """An engine that answers at once; the small bodies here come in one message."""
    stream = b'"stream":true' in (await receive()).get("body", b"")
    kind = b"text/event-stream" if stream else b"application/json"
    length = [] if stream else [(b"content-length", str(len(ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), *length]})
    for _ in range(CHUNKS if stream else 0):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if stream else ANSWER})


def bare_proxy(engine: str) -> Starlette:
    """The peer: forwards, and nothing else."""
    client = httpx.AsyncClient(base_url=engine, limits=httpx.Limits(max_connections=None), timeout=None)

    async def forward(request: Request) -> StreamingResponse:
        asked = client.build_request("POST", PATH, content=await request.body())
        answer = await client.send(asked, stream=True)
        return StreamingResponse(answer.aiter_raw(), headers=answer.headers)

    return Starlette(routes=[Route(PATH, forward, methods=["POST"])])


def serve(role: str, port: int, engine: str) -> None:
    """Run one server in this process."""
    app: Any = stub
    if role == "gateway":
        from mopo_serve.gateway import create_gateway
        from tests.mopo_serve.stub import routing

        app = create_gateway(routing(), engine)
    elif role == "starlette+httpx":
        app = bare_proxy(engine)
    uvicorn.run(app, port=port, log_level="error", access_log=False, server_header=False, proxy_headers=False)


class Caller(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer."""

    def __init__(self, request: bytes, stream: bool) -> None:
        self._request = request
        self._end = b"0\r\n\r\n" if stream else ANSWER[-16:]
        self._tail = b""
        self._sent = 0.0
        self.seconds: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self.transport: Any = transport  # uvloop's are no asyncio.Transport
        self._ask()

    def _ask(self) -> None:
        self._sent = time.perf_counter()
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        self._tail = (self._tail + data)[-16:]
        if self._tail.endswith(self._end):
            self._tail = b""
            self.seconds.append(time.perf_counter() - self._sent)
            self._ask()


async def measure(port: int, pid: int, seconds: float, *, connections: int, stream: bool) -> Result:
    """Ask the server on ``port`` for ``seconds``."""
    body = {"model": "mopo/careful", "messages": [{"role": "user", "content": "Hello " * 20}], "stream": stream}
    content = json.dumps(body, separators=(",", ":")).encode()
    request = f"POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content
    connect = asyncio.get_running_loop().create_connection
    before, started = cpu_seconds(pid), time.perf_counter()
    callers = []
    for _ in range(connections):
        _, caller = await connect(lambda: Caller(request, stream), "127.0.0.1", port)
        callers.append(caller)
    while not any(caller.seconds for caller in callers):  # a busy machine may not answer in time
        await asyncio.sleep(seconds)
    spent, used = time.perf_counter() - started, cpu_seconds(pid) - before
    for caller in callers:
        caller.transport.close()
    times = [taken for caller in callers for taken in caller.seconds]
    return Result(len(times) / spent, 1000 * statistics.median(times), 1e6 * used / len(times))


def cpu_seconds(pid: int) -> float:
    """Processor time of ``pid`` so far; NaN where the system does not tell."""
    if not (stat := Path(f"/proc/{pid}/stat")).exists():
        return float("nan")
    words = stat.read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def pin(pid: int, core: int) -> None:
    """Keep ``pid`` on one core, where the system can and has two."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(pid, {core})


def start(role: str, engine: str, core: int) -> tuple[subprocess.Popen[bytes], int]:
    """A server in a process of its own on ``core``; returns when it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.gateway", "--role", role, "--port", str(port), "--engine", engine]
    process = subprocess.Popen(command)
    with socket.socket() as trial:
        while trial.connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
    pin(process.pid, core)
    return process, port


def run(rounds: int, seconds: float) -> dict[str, dict[str, Result]]:
    """Medians per server and load."""
    pin(0, 1)
    engine, engine_port = start("stub", "", core=1)
    url = f"http://127.0.0.1:{engine_port}"
    running = {"direct": (engine, engine_port)} | {role: start(role, url, core=0) for role in SERVERS[1:]}
    loads = {"answers, 16 connections": (16, False), "answers, 1 connection": (1, False), "streams, 16": (16, True)}
    found: dict[str, dict[str, list[Result]]] = {role: {load: [] for load in loads} for role in SERVERS}
    try:
        for turn in range(-1, rounds):  # the first one warms up: the next replaces it
            for role, (process, port) in running.items():
                for load, (connections, stream) in loads.items():
                    asking = measure(port, process.pid, seconds, connections=connections, stream=stream)
                    found[role][load][max(turn, 0) :] = [uvloop.run(asking)]
    finally:
        for process, _ in reversed(running.values()):
            process.terminate()
            process.wait()
    return {
        role: {load: Result(*map(statistics.median, zip(*results, strict=True))) for load, results in loads.items()}
        for role, loads in found.items()
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--engine", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.role:
        return serve(given.role, given.port, given.engine)
    found = run(given.rounds, given.seconds)
    for load in found["direct"]:
        print(f"\n{load:<26}{'per second':>12}{'p50 ms':>10}{'CPU us each':>13}")
        for role in SERVERS:
            print("  {:<24}{:>12,.0f}{:>10.2f}{:>13.0f}".format(role, *found[role][load]))


if __name__ == "__main__":
    main()
