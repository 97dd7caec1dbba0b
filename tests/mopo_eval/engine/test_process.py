"""Starting, watching and ending real processes; a small server stands for an engine where its kind does not matter."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from mopo_eval.engine.process import Launch, last_words, reserved_port, running
from mopo_train.errors import EngineError
from tests.mopo_eval.engine.process_group import assert_ended, assert_gone, descendants, members

SERVER = """
import http.server, json, signal, subprocess, sys
port, stubborn, models = int(sys.argv[1]), sys.argv[2] == "stubborn", sys.argv[3:]
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        if self.path == "/v1/models":
            self.wfile.write(json.dumps({"data": [{"id": name} for name in models]}).encode())
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", port), Handler)
# A helper that outlives its parent and left the group, and one that stays in it.
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("serving", flush=True)
server.serve_forever()
"""

PARENT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with Ctrl-C ignored
from mopo_eval.engine import open_engine
from mopo_train.family import read_family
kind, root, log, ending = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
with open_engine(kind, root, read_family(root), log=log) as engine:
    print(engine.pid, flush=True)
    if ending == "exception":
        raise RuntimeError("the block failed")
    if ending != "block":
        time.sleep(600)
"""


def server(log: Path, *models: str, mood: str = "willing") -> Launch:
    return Launch(
        title="the test server",
        models=frozenset(models),
        command=lambda port: [sys.executable, "-c", SERVER, str(port), mood, *models],
        environment={},
        log=log,
    )


def script(log: Path, code: str) -> Launch:
    return server(log)._replace(command=lambda port: [sys.executable, "-c", code, str(port)])


def kill_all(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_it_is_healthy_inside_the_block_and_gone_after_it(tmp_path: Path) -> None:
    with running(server(tmp_path / "log", "reference"), timeout=30) as engine:
        assert httpx.get(f"{engine.url}/health", trust_env=False).status_code == 200
        assert len(members(engine.pid)) == 3  # guardian, server and the helper that stayed in the group
        below = descendants(engine.pid)
        assert len(below) == 3  # server and both helpers
    assert members(engine.pid) == []
    if sys.platform == "linux":
        assert_ended(below)


def test_it_is_gone_after_an_exception_in_the_block(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="the block failed"),
        running(server(tmp_path / "log", "reference"), timeout=30) as engine,
    ):
        raise RuntimeError("the block failed")
    assert members(engine.pid) == []


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mopo_eval.engine.process.GRACE", 0.3)
    with running(server(tmp_path / "log", "reference", mood="stubborn"), timeout=30) as engine:
        below = descendants(engine.pid)
    assert members(engine.pid) == []
    if sys.platform == "linux":
        assert_ended(below)


def test_it_is_gone_when_its_guardian_was_killed(tmp_path: Path) -> None:
    with running(server(tmp_path / "log", "reference"), timeout=30) as engine:
        below = descendants(engine.pid)
        os.kill(engine.pid, signal.SIGKILL)
    assert_gone(engine.pid)
    kill_all(below)  # without its guardian, the helper that left the group cannot be found


def test_one_that_dies_at_start_shows_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "print('reading weights'); raise ValueError('weights are cut off')"
    with pytest.raises(EngineError) as caught, running(script(log, code), timeout=30):
        pass
    for part in ("ended while it was starting (exit status 1)", "weights are cut off", str(log)):
        assert part in str(caught.value)


def test_one_that_never_becomes_healthy_is_ended_at_the_deadline(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpgrp(), flush=True); time.sleep(600)"
    with (
        pytest.raises(EngineError, match=r"was not healthy after 3 s[\s\S]*\d+"),
        running(script(tmp_path / "log", code), timeout=3),
    ):
        pass
    assert members(int((tmp_path / "log").read_text())) == []


def test_a_server_that_lacks_a_model_does_not_count_as_healthy(tmp_path: Path) -> None:
    launch = server(tmp_path / "log", "reference")._replace(models=frozenset({"reference", "policy-00"}))
    with pytest.raises(EngineError, match="was not healthy"), running(launch, timeout=2):
        pass


@contextmanager
def stranger() -> Iterator[int]:
    """Another program's server that answers /health, on a port of its own."""
    with reserved_port() as port:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(port), "willing"], stdout=subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield port
        finally:
            process.stdout.close()
            kill_all([*descendants(process.pid), process.pid])
            process.wait()


def test_a_port_that_another_program_took_is_left_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stranger() as taken, reserved_port() as free:
        wanted = server(tmp_path / "log", "reference")
        with running(wanted, timeout=30, ports=iter([taken, free])) as engine:
            assert engine.url == f"http://127.0.0.1:{free}"
    assert f"port {taken} was taken by another program" in capsys.readouterr().err


def test_ports_that_are_all_taken_are_an_error(tmp_path: Path) -> None:
    with stranger() as taken:
        launch = server(tmp_path / "log", "reference")
        with (
            pytest.raises(EngineError, match="found 5 ports in use"),
            running(launch, timeout=30, ports=iter([taken] * 5)),
        ):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="ports are reserved on Linux only")
def test_a_reserved_port_is_refused_to_everyone_but_a_server_that_reuses_addresses() -> None:
    with reserved_port() as port, socket.socket() as other, socket.socket() as ours:
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ours.bind(("127.0.0.1", port))
        ours.listen()
        socket.create_connection(("127.0.0.1", port)).close()


def test_the_last_lines_of_a_log_are_the_last_that_are_not_empty(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\n\ntwo\nthree\n\n")
    assert last_words(log, 2) == "  two\n  three"
    assert "cannot be read" in last_words(tmp_path / "missing")
    log.write_text("")
    assert last_words(log) == "  (it is empty)"


def test_an_exception_far_above_the_last_lines_is_shown_before_them(tmp_path: Path) -> None:
    log = tmp_path / "log"
    cause = "(Worker) ERROR safetensors.SafetensorError: header too small"
    log.write_text("\n".join(["fine", cause, cause, *["  in between"] * 9, "RuntimeError: see above"]))
    assert last_words(log, 2) == f"  {cause}\n  ...\n  in between\n  RuntimeError: see above"


ENDINGS = ["block", "exception", "ctrl-c", "sigterm", "sigkill"]


def end_parent(kind: str, ending: str, root: Path, log: Path) -> None:
    """Open an engine in a process of its own, end that process by ``ending``, and see that nothing is left."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, kind, str(root), str(log), ending],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    first = process.stdout.readline()
    assert first, process.stderr.read()
    group = int(first)
    number = {"ctrl-c": signal.SIGINT, "sigterm": signal.SIGTERM, "sigkill": signal.SIGKILL}.get(ending)
    if number is not None:
        assert len(members(group)) >= 2
        process.send_signal(number)
    process.communicate(timeout=60)
    assert_gone(group)


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_process_of_the_embedded_engine_outlives_its_parent(ending: str, tiny_family: Path, tmp_path: Path) -> None:
    end_parent("embedded", ending, tiny_family, tmp_path / "log")


@pytest.mark.vllm
@pytest.mark.parametrize("ending", ["ctrl-c", "sigkill"])
def test_no_process_of_vllm_outlives_its_parent(ending: str, tiny_family: Path, tmp_path: Path) -> None:
    end_parent("vllm", ending, tiny_family, tmp_path / "log")


def test_a_dead_one_is_started_again_at_its_address_and_its_log_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running(server(log, "reference"), timeout=30) as engine:
        first = descendants(engine.pid)
        os.killpg(engine.pid, signal.SIGKILL)
        kill_all(first)
        engine.restart()
        assert httpx.get(f"{engine.url}/v1/models", trust_env=False).status_code == 200
        assert log.read_text(encoding="utf-8").count("serving") == 2
        restart = engine.restart
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{engine.url}/health", trust_env=False)
    with pytest.raises(EngineError, match="not started again: the program is ending"):
        restart()
