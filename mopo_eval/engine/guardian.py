"""Runs one command and ends with all of its descendants when the process that asked for it is gone.

Started by ``process.start_guarded`` as a file of its own (not imported): it uses the standard library only, so it
costs little memory beside the engine. Its stdin is a pipe that the asker holds open. When the asker closes it,
exits, or is killed, even with SIGKILL, the pipe ends and the guardian stops the command: SIGTERM first, SIGKILL for
every descendant that is left after ``--grace`` seconds. It leads a process group of its own, so Ctrl-C in the
asker's terminal does not reach it.

On Linux nothing escapes: orphaned descendants become the guardian's children (PR_SET_CHILD_SUBREAPER), and the
command itself is told to end if the guardian is killed (PR_SET_PDEATHSIG). Elsewhere the process group is killed;
a descendant that left the group is not found. Windows has no groups: only the command itself is ended.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_POLL = 0.05  # seconds between looks at the children


def main() -> int:
    """Parse the command line, run the command, and return its exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    asker = os.getppid()
    _prctl(_SET_CHILD_SUBREAPER, 1)
    child = _spawn(arguments.command)
    threading.Thread(target=_watch_pipe, args=(ending,), daemon=True).start()
    while child.poll() is None and not ending.wait(_POLL * 4):
        if os.getppid() != asker:  # a forked copy of the asker may still hold the pipe
            break
    return _end_all(child, arguments.grace)


def _spawn(command: list[str]) -> "subprocess.Popen[bytes]":
    guardian = os.getpid()

    def end_with_guardian() -> None:
        _prctl(_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guardian:  # it was killed before the request took effect
            os._exit(1)

    before: Callable[[], None] | None = end_with_guardian if sys.platform == "linux" else None
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=before)  # one thread so far: safe


def _watch_pipe(ending: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    ending.set()


def _end_all(child: "subprocess.Popen[bytes]", grace: float) -> int:
    """SIGTERM to the command, then SIGKILL to whatever is left after ``grace`` seconds; its exit status."""
    if child.poll() is None:
        child.terminate()
    limit = time.monotonic() + grace
    while child.poll() is None and time.monotonic() < limit:
        time.sleep(_POLL)
    for pid in _descendants():  # helpers of a command that has ended get two seconds
        _kill(pid, signal.SIGTERM)
    limit = min(limit, time.monotonic() + 2)
    while time.monotonic() < limit and _descendants():
        time.sleep(_POLL)
    if child.poll() is None:
        child.kill()
        child.wait()
    while left := _descendants():
        for pid in left:
            _kill(pid, signal.SIGKILL)
        time.sleep(_POLL)
    if sys.platform not in ("linux", "win32"):
        os.killpg(0, signal.SIGKILL)  # the guardian included; nobody else can find the rest of the group
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _descendants() -> list[int]:
    """Pids below this process on Linux, after burying the dead ones; elsewhere none."""
    if sys.platform != "linux":
        return []
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        pid = waiting.pop()
        try:
            text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
        except OSError:  # it has just ended
            continue
        below = [int(word) for word in text.split()]
        found += below
        waiting += below
    return [pid for pid in found if not _bury(pid)]


def _bury(pid: int) -> bool:
    """True if ``pid`` was a dead child of this process; it is gone afterwards."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:  # somebody else's child
        return False


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main())
