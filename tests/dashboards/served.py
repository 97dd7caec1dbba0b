"""``mopo-dashboard`` as a user starts it: its own process, on a free port."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

COMMAND = str(Path(sys.executable).with_name("mopo-dashboard"))


class Served(NamedTuple):
    process: "subprocess.Popen[str]"
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def accepts(port: int) -> bool:
    """True if something listens on ``port``."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def served(root: Path, *options: str, port: int | None = None, cwd: Path | None = None) -> Iterator[Served]:
    """A healthy dashboard of ``root``, started in ``cwd``; ended with the block if it has not ended by itself."""
    port = port or free_port()
    command = [COMMAND, str(root), "--port", str(port), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd) as process:
        here = Served(process, port)
        try:
            _wait_until_healthy(here)
            yield here
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait_until_healthy(here: Served, timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and here.process.poll() is None:
        if accepts(here.port):
            with urllib.request.urlopen(f"{here.url}/_stcore/health", timeout=10) as answer:
                assert answer.read() == b"ok"
            return
        time.sleep(0.05)
    raise AssertionError(f"the dashboard did not start: {here.process.communicate()[0]}")
