"""What the gateway costs: the same client straight to a stub engine, through the gateway, and through its peers.

In every round each is asked in turn on loopback; medians over the rounds. The gateway does all that it does in
production: key, limits, selection, disconnect watching, metrics, audit into SQLite. Peers: bare proxies on Starlette +
httpx and on ASGI + aiohttp, nginx where it is installed, LiteLLM's proxy where ``--litellm`` names an environment that
has it. The server under test has a core of its own; client and stub share another, and what both of them spend per
request is shown: where that is less than the server's, they do not hold it up. CPU per request is the server's own
(Linux), with all of its processes but the audit's writer, and holds under load where requests/s do not.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.ends import KEY, PATH, Load, Result, Stub, measure

HEADS = ("per second", "p50 ms", "CPU us each", "client+stub us", "reads")
SERVERS = ("direct", "gateway", "asgi+aiohttp", "starlette+httpx", "nginx", "litellm")
LOADS = (
    Load("answers, 16 connections", 16, False),
    Load("answers, 1 connection", 1, False),
    Load("streams of 32, 16 connections", 16, True),
    Load("the same in one piece", 16, True, whole=True),
    Load("64 slow streams: first token", 64, True, slow=True),
    Load("begun one after another", 64, True, slow=True, apart=True),
    Load("64 new connections at once: first token", 64, True, slow=True, crowd=True),
)


def run_gateway(port: int, engine: str) -> None:
    """The gateway with everything on."""
    import hashlib

    import uvicorn

    from mopo_serve.access import Access
    from mopo_serve.connections import GuardedProtocol
    from mopo_serve.gateway import Extras, create_gateway
    from mopo_serve.keys import ApiKey, KeyRing
    from mopo_serve.trail import open_trail
    from tests.mopo_serve.stub import routing

    digest = hashlib.sha256(KEY.encode()).hexdigest()
    limits = {"requests_per_minute": 10**9, "tokens_per_minute": 10**9, "concurrency": 10**6}
    key = ApiKey(id="0123456789ab", name="benchmark", sha256=digest, created_at="now", **limits)
    with tempfile.TemporaryDirectory() as directory:
        trail = open_trail(str(Path(directory) / "audit.db"), None, None)
        extras = Extras(access=Access(KeyRing([key])), keeper=trail, routes=trail.routes())
        gateway = create_gateway(routing(), engine, extras=extras)
        uvicorn.run(
            gateway, port=port, http=GuardedProtocol, log_level="error", access_log=False, server_header=False,
            proxy_headers=False,
        )  # fmt: skip


def run_starlette(port: int, engine: str) -> None:
    """A peer: Starlette + httpx, forwards and nothing else."""
    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    client = httpx.AsyncClient(base_url=engine, limits=httpx.Limits(max_connections=None), timeout=None)

    async def forward(request: Request) -> StreamingResponse:
        asked = client.build_request("POST", PATH, content=await request.body())
        answer = await client.send(asked, stream=True)
        return StreamingResponse(answer.aiter_raw(), headers=answer.headers)

    app = Starlette(routes=[Route(PATH, forward, methods=["POST"])])
    uvicorn.run(app, port=port, log_level="error", access_log=False)


def run_aiohttp(port: int, engine: str) -> None:
    """A peer: bare ASGI + aiohttp, forwards and nothing else."""
    import aiohttp
    import uvicorn

    session: list[aiohttp.ClientSession] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if not session:
            connector = aiohttp.TCPConnector(limit=0)
            session.append(aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()))
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        async with session[0].post(engine + PATH, data=body) as answer:
            kind = (b"content-type", answer.headers["content-type"].encode())
            await send({"type": "http.response.start", "status": answer.status, "headers": [kind]})
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    uvicorn.run(app, port=port, log_level="error", access_log=False, lifespan="off")


def nginx_command(port: int, engine: str, directory: Path) -> list[str]:
    """A peer: nginx with one worker, which checks nothing."""
    places = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    text = f"""
        daemon off; worker_processes 1; pid {directory}/pid; error_log {directory}/error.log;
        events {{ worker_connections 1024; }}
        http {{
            access_log off; keepalive_requests 100000000; client_body_temp_path {directory}/body; {places}
            upstream engine {{ server {engine.removeprefix("http://")}; keepalive 128; keepalive_requests 100000000; }}
            server {{ listen 127.0.0.1:{port}; location / {{
                proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
            }} }}
        }}"""
    (directory / "nginx.conf").write_text(text)
    return ["nginx", "-c", str(directory / "nginx.conf"), "-p", str(directory)]


def litellm_command(port: int, engine: str, directory: Path, environment: str) -> list[str]:
    """A peer: LiteLLM's proxy with one model and no database."""
    model = {"model_name": "mopo/careful", "litellm_params": {"model": "openai/x", "api_base": f"{engine}/v1"}}
    model["litellm_params"]["api_key"] = "none"  # type: ignore[index]
    open_to_all = {"dangerously_permit_weak_or_unset_master_key": True}  # it checks no key, which is in its favour
    (directory / "config.yaml").write_text(json.dumps({"model_list": [model], "general_settings": open_to_all}))
    return [f"{environment}/bin/litellm", "--config", str(directory / "config.yaml"), "--port", str(port)]


def ask(port: int, server: int, stub: int, load: Load, seconds: float) -> Result:
    """Measure the server with process ``server`` on ``port``, in front of the stub with process ``stub``."""
    return measure(port, load, seconds, lambda: cpu_seconds(server), lambda: cpu_seconds(stub))


def cpu_seconds(pid: int) -> float:
    """Processor time so far of ``pid`` and, for nginx and LiteLLM, of its children; NaN where no system tells."""
    if not Path(f"/proc/{pid}/schedstat").exists():
        return float("nan")
    every = [pid, *(children(pid) if (name_of(pid) != "python") else [])]
    threads = [path for each in every for path in Path(f"/proc/{each}/task").glob("*/schedstat")]
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9


def children(pid: int) -> list[int]:
    """Processes right below ``pid``."""
    return [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]


def name_of(pid: int) -> str:
    """``python`` or what else runs as ``pid``."""
    name = Path(f"/proc/{pid}/comm").read_text().strip()
    return "python" if name.startswith("python") else name


def resident_mib(pid: int) -> float:
    """Memory of ``pid`` that is not swapped out."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def pin(pid: int, core: int) -> None:
    """Keep ``pid`` on one core, where the system can and has two."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        for each in (pid, *(children(pid) if pid else [])):
            os.sched_setaffinity(each, {core})


def start(command: Callable[[int], list[str]], core: int) -> tuple[subprocess.Popen[bytes], int]:
    """A server in a process of its own on ``core``; returns when it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    path = {} if command(port)[0] != sys.executable else {"PYTHONPATH": os.getcwd()}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | offline | path
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, env=environment)
    while True:
        with socket.socket() as trial:
            if not trial.connect_ex(("127.0.0.1", port)):
                break
        if process.poll() is not None:
            raise RuntimeError(f"{command(port)} ended")
        time.sleep(0.05)
    if name_of(process.pid) != "python":
        pin(process.pid, core)
    else:
        os.sched_setaffinity(process.pid, {core}) if hasattr(os, "sched_setaffinity") else None
    return process, port


def own(role: str, engine: str = "") -> Callable[[int], list[str]]:
    """The command of a server in this file."""
    return lambda port: [
        sys.executable, "-m", "benchmarks.gateway", "--role", role, "--port", str(port), "--engine", engine,
    ]  # fmt: skip


def run(names: list[str], rounds: int, seconds: float, litellm: str) -> dict[str, dict[str, Result]]:
    """Medians per server and load."""
    pin(0, 1)
    stub, stub_port = start(own("stub"), core=1)
    url = f"http://127.0.0.1:{stub_port}"
    running = {"direct": (stub, stub_port)}
    found: dict[str, dict[str, list[Result]]] = {name: {load.title: [] for load in LOADS} for name in names}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        try:
            for name in names[1:]:
                command = own(name, url)
                if name == "nginx":
                    command = lambda port: nginx_command(port, url, place)  # noqa: E731
                elif name == "litellm":
                    command = lambda port: litellm_command(port, url, place, litellm)  # noqa: E731
                running[name] = start(command, core=0)
            for turn in range(-1, rounds):  # the first one warms up: the next replaces it
                for name, (process, port) in running.items():
                    for load in LOADS:
                        found[name][load.title][max(turn, 0) :] = [ask(port, process.pid, stub.pid, load, seconds)]
        finally:
            for process, _ in reversed(running.values()):
                process.terminate()
                process.wait()
    return {
        name: {load: Result(*map(statistics.median, zip(*results, strict=True))) for load, results in loads.items()}
        for name, loads in found.items()
    }


def soak(requests: int) -> None:
    """Memory of the gateway and of its audit's writer after ever more requests, a tenth of the time streams."""
    pin(0, 1)
    stub, stub_port = start(own("stub"), core=1)
    gateway, port = start(own("gateway", f"http://127.0.0.1:{stub_port}"), core=0)
    done = 0
    try:
        while done < requests:
            for load, seconds in ((LOADS[0], 9.0), (LOADS[2], 1.0)):
                result = ask(port, gateway.pid, stub.pid, load, seconds)
                done += int(result.per_second * seconds)
            shown = "  ".join(f"{resident_mib(pid):8.1f} MiB" for pid in (gateway.pid, *children(gateway.pid)))
            print(f"{done:>10,} requests  {shown}", flush=True)
    finally:
        gateway.terminate()
        gateway.wait()
        stub.terminate()
        stub.wait()


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--servers", nargs="*", choices=SERVERS[1:], default=SERVERS[1:], help="beside the stub")
    parser.add_argument("--litellm", default="", help="virtual environment with litellm[proxy]")
    parser.add_argument("--soak", type=int, help="watch the gateway's memory over so many requests instead")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--engine", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    roles = {"gateway": run_gateway, "starlette+httpx": run_starlette, "asgi+aiohttp": run_aiohttp}
    if given.role == "stub":
        return Stub(given.port).serve()
    if given.role:
        return roles[given.role](given.port, given.engine)
    if given.soak:
        return soak(given.soak)
    absent = {"nginx": shutil.which("nginx") is None, "litellm": not given.litellm}
    names = [name for name in SERVERS if name in ("direct", *given.servers) and not absent.get(name)]
    found = run(names, given.rounds, given.seconds, given.litellm)
    for load in LOADS:
        print("\n{:<40}{:>12}{:>10}{:>13}{:>16}{:>8}".format(load.title, *HEADS))
        for name in names:
            print("  {:<38}{:>12,.0f}{:>10.2f}{:>13.0f}{:>16.0f}{:>8.1f}".format(name, *found[name][load.title]))
    return None


if __name__ == "__main__":
    main()
