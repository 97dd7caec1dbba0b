"""Runs a gateway in this process: its socket, its event loop, signals and draining.

``serve`` returns after a clean stop and raises EngineDied when every engine that it was given is dead for good
(`revival`), so that a supervisor (systemd, Kubernetes) starts all of it again.
"""

import asyncio
import ipaddress
import logging
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from mopo_eval.engine.process import last_words
from mopo_serve.connections import GuardedProtocol
from mopo_serve.gateway import Gateway
from mopo_serve.revival import Engines, keep_alive
from mopo_serve.settings import Transport, connection_limit
from mopo_train.console import say
from mopo_train.errors import MopoError

DRAIN_SECONDS = 30.0
"""How long requests in flight may go on after SIGTERM."""
CUT_SECONDS = 2
"""How long their tasks then have to end when they are cancelled."""


class AddressError(MopoError):
    """The gateway cannot or may not listen where it was told to."""


class EngineDied(MopoError):
    """Every engine ended while the gateway was serving, and could not be kept running."""


def bind(host: str, port: int, *, exposed: bool = False) -> socket.socket:
    """A socket bound to ``host`` and ``port`` (0: any), not listening yet.

    Loopback only, unless ``exposed``: keys exist. Raises AddressError.
    """
    try:
        family, _, _, _, address = min(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), key=lambda found: found[0] != socket.AF_INET
        )
    except (OSError, UnicodeError) as error:
        raise AddressError(f"cannot find the host '{host}': {error}; give an address of this machine") from error
    if not exposed and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise AddressError(
            f"--host {host} would open the gateway to the network, and no API keys exist that could protect it. "
            "Make one with 'mopo-serve key create NAME', or listen on 127.0.0.1 (the default)."
        )
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.set_inheritable(False)
    except (OSError, OverflowError) as error:
        bound.close()
        raise AddressError(_taken(host, port, error)) from error
    return bound


def url_of(bound: socket.socket, *, tls: bool = False) -> str:
    """The URL of a server on ``bound``."""
    host, port = bound.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    gateway: Gateway,
    bound: socket.socket,
    engines: Engines,
    *,
    ready: Callable[[], None],
    transport: Transport | None = None,
) -> None:
    """Serve on ``bound`` until SIGTERM or SIGINT, then drain. ``ready`` is called once connections are accepted.

    Raises EngineDied, AddressError.
    """
    transport = transport or Transport()
    config = _config(gateway, transport)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    server = DrainingServer(config, gateway)
    try:
        bound.listen(config.backlog)
    except OSError as error:  # somebody else began to listen while the engine started
        host, port = bound.getsockname()[:2]
        raise AddressError(_taken(host, port, error)) from error
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        died = runner.run(_serve(server, bound, keep_alive(engines), ready))
    if died:
        told = "".join(f" The last log lines of '{log}':\n{last_words(log)}" for log in engines.logs if log)
        raise EngineDied(
            "the engine died while the gateway was serving and cannot be kept running; find out why, and start both "
            f"again.{told}"
        )


def _config(gateway: Gateway, transport: Transport) -> uvicorn.Config:
    """Uvicorn's configuration. Raises AddressError for certificates that cannot be used."""
    app: ASGIApp = gateway
    if transport.origins:
        from starlette.middleware.cors import CORSMiddleware

        app = CORSMiddleware(
            gateway, allow_origins=transport.origins, allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["x-mopo-policy", "x-mopo-profile", "x-mopo-family", "x-request-id", "retry-after"],
        )  # fmt: skip
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here looks at where a client comes from
        limit_concurrency=connection_limit(transport.connections),
        timeout_graceful_shutdown=CUT_SECONDS,
        ssl_certfile=transport.certificate,
        ssl_keyfile=transport.private_key and str(transport.private_key),
        ssl_ca_certs=transport.client_authority and str(transport.client_authority),
        ssl_cert_reqs=ssl.CERT_REQUIRED if transport.client_authority else ssl.CERT_NONE,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise AddressError(
            f"cannot use the certificate '{transport.certificate}' (key '{transport.private_key}'): {error}. Give PEM "
            "files that belong together with --tls-cert and --tls-key."
        ) from error
    return config


class DrainingServer(uvicorn.Server):
    """Stops in two steps: on the first signal new requests get 503 and those in flight are finished; then it ends.

    A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._deadline: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by uvicorn on SIGINT and SIGTERM."""
        if self._deadline is not None:
            self.should_exit = self.force_exit = True
            return
        self._gateway.drain()
        self._deadline = time.monotonic() + DRAIN_SECONDS
        if self._gateway.in_flight:
            name = signal.Signals(sig).name
            say(f"{name}: finishing {self._gateway.in_flight} requests, at most {DRAIN_SECONDS:.0f} s")

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; True ends the server."""
        if self._deadline is not None and (not self._gateway.in_flight or time.monotonic() > self._deadline):
            self.should_exit = True
        return await super().on_tick(counter)


async def _serve(
    server: DrainingServer, bound: socket.socket, engines: Coroutine[Any, Any, None], ready: Callable[[], None]
) -> bool:
    """Run ``server`` to its end; True if that was because ``engines`` returned: they are dead for good."""
    serving = asyncio.create_task(server.serve([bound]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        ready()
    watching = asyncio.create_task(engines)
    await asyncio.wait({serving, watching}, return_when=asyncio.FIRST_COMPLETED)
    died = watching.done() and not serving.done()
    if died:
        server.should_exit = True
    watching.cancel()
    await serving
    return died


def _taken(host: str, port: int, error: Exception) -> str:
    return f"cannot listen on {host} port {port}: {error}. End the program that uses it, or give another --port."
