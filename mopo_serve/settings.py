"""Bounds on what the gateway accepts and waits for."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MAX_CONNECTIONS = 10_000
_OWN_FILES = 200
"""Files and sockets that a gateway needs beside those of requests."""


class Limits(NamedTuple):
    """Bounds on what the gateway accepts and waits for."""

    body_bytes: int = 2 * 1024 * 1024
    """Largest request body; longer ones are answered 413. While one is parsed, every other request waits, and a thread
    would not help: ``json`` holds the interpreter's lock."""
    silence_seconds: float = 600.0
    """How long an engine may say nothing before the request is answered 504."""
    connect_seconds: float = 5.0
    """How long a connection to the engine may take."""


class Transport(NamedTuple):
    """How clients reach the gateway."""

    certificate: Path | None = None
    """PEM file of the certificate chain; None: no TLS."""
    private_key: Path | None = None
    client_authority: Path | None = None
    """PEM file of the authority whose certificates clients must have; None: clients need none."""
    connections: int = MAX_CONNECTIONS
    """More are answered 503."""
    origins: Sequence[str] = ()
    """Of web pages that may call the gateway (CORS); none by default."""


def connection_limit(wanted: int) -> int:
    """``wanted`` connections, or as many as there are files for: each request needs a second one to an engine."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + _OWN_FILES
    if hard == resource.RLIM_INFINITY or hard > soft:
        raised = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        if raised > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    return max(1, min(wanted, (soft - _OWN_FILES) // 2))
