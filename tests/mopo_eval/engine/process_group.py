"""Looks at the processes of a group, for tests that none is left."""

import os
import time

import psutil  # type: ignore[import-untyped]


def members(group: int) -> list[str]:
    """Command lines of the living processes in process group ``group``."""
    found = []
    for process in psutil.process_iter(["pid", "status", "cmdline"]):
        try:
            if os.getpgid(process.info["pid"]) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.info["cmdline"] or ["?"]))
        except ProcessLookupError:
            continue
    return found


def assert_gone(group: int, seconds: float = 30) -> None:
    """Wait until no process of ``group`` is left; fail with those that are."""
    limit = time.monotonic() + seconds
    while left := members(group):
        assert time.monotonic() < limit, f"left in process group {group}: {left}"
        time.sleep(0.05)


def descendants(pid: int) -> list[int]:
    """Pids of everything below ``pid``, in whatever group."""
    return [process.pid for process in psutil.Process(pid).children(recursive=True)]


def assert_ended(pids: list[int]) -> None:
    """Fail if one of ``pids`` still runs."""
    left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert left == []
