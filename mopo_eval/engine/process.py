"""An engine's process: a loopback port that nobody else gets, a guarded start, waiting until healthy, stopping.

Knows nothing of vLLM or transformers: ``vllm`` and ``embedded`` give a ``Launch``, this module runs it.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

from mopo_eval.engine import guardian
from mopo_train.console import say
from mopo_train.errors import EngineError

GRACE = 15.0
"""Seconds that an engine gets to end by itself before it is killed."""
_TOLD_EVERY = 15.0  # seconds between signs of life while an engine starts
_PORT_ATTEMPTS = 5
_LAST_LINES = 15
_CAUSES = 3
_NAMES_EXCEPTION = re.compile(r"\b\w*(Error|Exception): \S")


class Launch(NamedTuple):
    """How to start one engine."""

    title: str
    """For messages, for example ``vLLM``."""
    models: frozenset[str]
    """Model names that it must list before it counts as healthy."""
    command: Callable[[int], list[str]]
    """The command line for a port on 127.0.0.1."""
    environment: Mapping[str, str]
    """Variables that are added to this process's own."""
    log: Path
    """Where its output goes."""


class RunningEngine(NamedTuple):
    """A process that answered ``/health``."""

    url: str
    pid: int
    """Its guardian at first, which leads a process group with every process of the engine in it."""
    restart: Callable[[], None]
    """Ends what is left of it and starts it again at the same address, from any thread; returns when it is healthy.
    Raises EngineError."""


class PortTaken(Exception):
    """Somebody else got the port between choosing it and using it."""


@contextmanager
def running(launch: Launch, *, timeout: float, ports: Iterator[int] | None = None) -> Iterator[RunningEngine]:
    """The engine, healthy; ended with all of its processes when the block ends, however that happens.

    ``timeout`` in seconds until it must be healthy. ``ports`` to try in turn; by default ports that are reserved
    for it. Raises EngineError with the engine's last words if it does not start.
    """
    for attempt in range(1, _PORT_ATTEMPTS + 1):
        with reserved_port(ports) as port, closing(_Life(launch, port, timeout)) as life:
            try:
                pid = life.begin()
            except PortTaken:
                say(f"{launch.title}: port {port} was taken by another program; trying another one")
                if attempt == _PORT_ATTEMPTS:
                    raise EngineError(
                        f"{launch.title} found {_PORT_ATTEMPTS} ports in use, the last one {port}; end the programs "
                        f"that take every port, or attach with --engine URL. Its log: '{launch.log}'."
                    ) from None
                continue
            yield RunningEngine(f"http://127.0.0.1:{port}", pid, life.restart)
            return


class _Life:
    """An engine's process, and those that take its place when it has died."""

    def __init__(self, launch: Launch, port: int, timeout: float) -> None:
        self._launch, self._port, self._timeout = launch, port, timeout
        self._process = ExitStack()
        self._changing = threading.Lock()
        self._over = False

    def begin(self, *, again: bool = False) -> int:
        """Start it and return its guardian's pid once it is healthy. Raises EngineError, PortTaken."""
        with self._changing:
            if self._over:
                raise EngineError(f"{self._launch.title} is not started again: the program is ending.")
            self._process.close()
            process = self._process.enter_context(guarded(self._launch, self._port, again=again))
        _wait_until_healthy(self._launch, process, self._port, self._timeout)
        return process.pid

    def restart(self) -> None:
        """As ``RunningEngine.restart``."""
        try:
            self.begin(again=True)
        except PortTaken:
            raise EngineError(f"{self._launch.title}: its port {self._port} was taken by another program.") from None

    def close(self) -> None:
        """End it for good."""
        with self._changing:
            self._over = True
            self._process.close()


@contextmanager
def reserved_port(ports: Iterator[int] | None = None) -> Iterator[int]:
    """A free loopback port. On Linux it stays reserved for a server that sets SO_REUSEADDR while the block runs."""
    if ports is not None:
        yield next(ports)
        return
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = int(holder.getsockname()[1])
        if sys.platform == "linux":
            # Bound but not listening: takes no connection and keeps the port from everyone who asks for any port.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        else:
            holder.close()
        yield port


@contextmanager
def guarded(launch: Launch, port: int, *, again: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    """The guardian of ``launch``'s command; it and everything below it is gone when the block ends.

    Its log is begun anew, or with ``again`` continued.
    """
    # Run by path and with -P, so that the modules beside guardian.py shadow nothing.
    command = [sys.executable, "-P", guardian.__file__, "--grace", str(GRACE), *launch.command(port)]
    launch.log.parent.mkdir(parents=True, exist_ok=True)
    with launch.log.open("ab" if again else "wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(launch.environment),
            start_new_session=True,  # Ctrl-C goes to this process alone, which then closes the pipe
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()  # whatever interrupts us from here on, the guardian has its order
    try:
        process.wait(GRACE + 10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.returncode < 0 and sys.platform != "win32":  # the guardian was killed: its group may still live
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _wait_until_healthy(launch: Launch, process: "subprocess.Popen[bytes]", port: int, timeout: float) -> None:
    started = told = time.monotonic()
    # trust_env: a proxy from the environment cannot reach our loopback.
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5, trust_env=False) as client:
        while True:
            healthy = _serves(client, launch.models)
            if process.poll() is not None:  # asked after the answer: it may have come from a stranger on the port
                _raise_dead(launch, process.returncode)
            if healthy:
                return
            now = time.monotonic()
            if now - started > timeout:
                raise EngineError(
                    f"{launch.title} was not healthy after {timeout:.0f} s and was ended; allow more time, or see its "
                    f"log '{launch.log}'. Its last lines:\n{last_words(launch.log)}"
                )
            if now - told > _TOLD_EVERY:
                told = now
                say(f"{launch.title} is still starting ({now - started:.0f} s)")
            time.sleep(0.1)


def _serves(client: httpx.Client, models: frozenset[str]) -> bool:
    """True if the server is healthy and lists ``models``; a stranger on the port does not."""
    try:
        return client.get("/health").status_code == 200 and models <= served_models(client).keys()
    except (httpx.HTTPError, ValueError):
        return False


def served_models(client: httpx.Client) -> dict[str, str]:
    """Model names that the server behind ``client`` lists, each with its ``root``: where vLLM has it from.

    Raises httpx.HTTPError, or ValueError for an answer that does not have OpenAI's form.
    """
    answer = client.get("/v1/models")
    answer.raise_for_status()
    try:
        return {str(model["id"]): str(model.get("root", "")) for model in answer.json()["data"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("the answer to /v1/models does not have OpenAI's form") from error


def _raise_dead(launch: Launch, status: int) -> None:
    words = last_words(launch.log)
    if "address already in use" in words.lower():
        raise PortTaken
    raise EngineError(
        f"{launch.title} ended while it was starting (exit status {status}). The last lines of its log "
        f"'{launch.log}':\n{words}"
    )


def last_words(log: Path, count: int = _LAST_LINES) -> str:
    """The last ``count`` lines of ``log``, indented, after the first exceptions that it names before them.

    vLLM's last lines say only that its engine process failed; the cause stands a hundred lines above.
    """
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"  (cannot be read: {error})"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    earlier, tail = lines[:-count], lines[-count:]
    named = (line for line in earlier if _NAMES_EXCEPTION.search(line) and " WARNING " not in line)
    causes = list(dict.fromkeys(named))[:_CAUSES]
    shown = [*causes, "...", *tail] if causes else tail
    return "\n".join(f"  {line}" for line in shown) or "  (it is empty)"
