"""The gateway's end of the audit: real processes, killed and stopped."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mopo_serve.audit.schema import DECISIONS
from mopo_serve.audit.store import AuditStore, open_store
from mopo_serve.audit.verify import verify
from mopo_serve.audit.writer import AuditWriter, NotWritten
from tests.mopo_serve.audit.records import decision
from tests.mopo_serve.stub import until

pytestmark = pytest.mark.anyio
GATEWAY = """
import asyncio, sys
from pathlib import Path
from mopo_serve.audit.writer import AuditWriter
from tests.mopo_serve.audit.records import decision

async def main():
    writer = AuditWriter(sys.argv[1], Path(sys.argv[2]))
    await writer.start()
    print("worker", writer.worker_pid, flush=True)
    for number in range(1, 1_000_000):
        writer.record(decision(number))
        if number % 50 == 0:
            await writer.written()
            print("acknowledged", number, flush=True)

asyncio.run(main())
"""
"""A gateway that records until it is killed."""


@asynccontextmanager
async def writing(place: str, spill: Path, *, rows: int = 50_000, size: int = 10**9) -> AsyncIterator[AuditWriter]:
    writer = AuditWriter(place, spill, queue_rows=rows, queue_bytes=size)
    await writer.start()
    try:
        yield writer
    finally:
        assert await writer.close() == 0


def stored(place: str) -> list[int]:
    """Numbers of the decisions in the store, which is whole."""
    store = open_store(place, create=False)
    try:
        assert verify(store).problems == []
        return [int(row["request_id"].removeprefix("req-")) for row in store.rows(DECISIONS)]
    finally:
        store.close()


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("victims", ["gateway", "gateway and worker"])
async def test_what_was_acknowledged_outlives_kill_9(place: str, tmp_path: Path, victims: str) -> None:
    open_store(place).close()
    command = [sys.executable, "-c", GATEWAY, place, str(tmp_path / "spill")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as gateway:
        assert gateway.stdout is not None and gateway.stderr is not None
        worker = int(gateway.stdout.readline().split()[1])
        acknowledged = [int(gateway.stdout.readline().split()[1]) for _ in range(3)]
        gateway.kill()
        if victims != "gateway":
            os.kill(worker, signal.SIGKILL)
        acknowledged += [int(line.split()[1]) for line in gateway.stdout]
        gateway.stderr.read()  # returns when the worker has ended too
    found = stored(place)
    assert found[: acknowledged[-1]] == list(range(1, acknowledged[-1] + 1))
    assert found == list(range(1, len(found) + 1))  # and what came after it is without gaps


async def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_doubled(place: str, tmp_path: Path) -> None:
    open_store(place).close()
    async with writing(place, tmp_path) as writer:
        for number in range(1, 401):
            writer.record(decision(number))
            if number == 200:
                await until(lambda: writer.queued < 200, 20)
                assert writer.worker_pid is not None
                os.kill(writer.worker_pid, signal.SIGKILL)
        await writer.written(20)
        assert writer.queued == 0
    assert stored(place) == list(range(1, 401))


async def test_a_worker_that_cannot_be_started_at_once_is_started_later(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mopo_serve.audit.writer.RESTART_SECONDS", (0.01,))
    open_store(place).close()
    async with writing(place, tmp_path) as writer:
        start, refused = asyncio.create_subprocess_exec, 2

        async def scarce(*command: str, **options: Any) -> asyncio.subprocess.Process:
            nonlocal refused
            refused -= 1
            if refused >= 0:
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            return await start(*command, **options)

        monkeypatch.setattr(asyncio, "create_subprocess_exec", scarce)
        assert writer.worker_pid is not None
        os.kill(writer.worker_pid, signal.SIGKILL)
        writer.record(decision(1))
        await writer.written(20)
        assert refused == -1
    assert stored(place) == [1]


async def test_two_gateways_on_one_store(place: str, tmp_path: Path) -> None:
    open_store(place).close()
    async with writing(place, tmp_path) as one, writing(place, tmp_path) as other:
        for number in range(1, 301):
            one.record(decision(number))
            other.record(decision(number + 1000))
        await one.written(20)
    found = stored(place)
    assert [number for number in found if number < 1000] == list(range(1, 301))
    assert [number for number in found if number > 1000] == list(range(1001, 1301))


async def test_a_worker_that_stands_still_makes_the_gateway_refuse_and_loses_nothing(
    sqlite_store: AuditStore, tmp_path: Path
) -> None:
    async with writing(str(tmp_path / "audit.db"), tmp_path / "spill", rows=100) as writer:
        assert writer.worker_pid is not None
        writer.record(decision(1))
        await writer.written(20)
        os.kill(writer.worker_pid, signal.SIGSTOP)
        for number in range(2, 102):
            assert writer.accepting
            writer.record(decision(number))
        assert not writer.accepting
        writer.record(decision(102))  # of a request in flight
        with pytest.raises(NotWritten, match="could not be written within"):
            await writer.written(0.01)
        os.kill(writer.worker_pid, signal.SIGCONT)
        await writer.written(20)
        assert writer.accepting
    assert stored(str(tmp_path / "audit.db")) == list(range(1, 103))


async def test_text_counts_by_its_size(sqlite_store: AuditStore, tmp_path: Path) -> None:
    async with writing(str(tmp_path / "audit.db"), tmp_path / "spill", size=10_000) as writer:
        writer.record(decision(1, text="x" * 20_000))
        assert not writer.accepting
        await writer.written(20)
        assert writer.accepting


async def test_an_outage_is_told_and_ends(sqlite_store: AuditStore, tmp_path: Path) -> None:
    async with writing(str(tmp_path / "audit.db"), tmp_path / "spill") as writer:
        with sqlite_store.engine.begin():
            writer.record(decision(1))
            await writer.written(20)  # durable in the spill file
            assert writer.spilling
            assert list((tmp_path / "spill").iterdir())
    assert stored(str(tmp_path / "audit.db")) == [1]
    assert list((tmp_path / "spill").iterdir()) == []


async def test_recording_before_the_start_and_closing_without_one(sqlite_store: AuditStore, tmp_path: Path) -> None:
    writer = AuditWriter(str(tmp_path / "audit.db"), tmp_path / "spill")
    writer.record(decision(1))
    assert await writer.close() == 1
    await AuditWriter(str(tmp_path / "audit.db"), tmp_path / "spill").written()
