"""The worker against databases that are full, locked and gone: nothing is lost, nothing is stored twice."""

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from mopo_serve.audit import worker as workers
from mopo_serve.audit.pipe import Settings, frame
from mopo_serve.audit.schema import DECISIONS
from mopo_serve.audit.spill import Spill, SpillFull, recover, whole_lines
from mopo_serve.audit.store import AuditStore, decision_row, open_store
from mopo_serve.audit.verify import verify
from mopo_serve.audit.worker import Worker
from tests.mopo_serve.audit.conftest import PostgresServer
from tests.mopo_serve.audit.records import decision


def numbered(first: int, last: int) -> list[tuple[int, tuple[Any, ...]]]:
    return [(number, tuple(decision(number))) for number in range(first, last + 1)]


def never() -> None:
    return None


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def worker(sqlite_store: AuditStore, tmp_path: Path, told: list[str]) -> Iterator[Worker]:
    made = Worker(Settings(str(tmp_path / "audit.db"), "w", str(tmp_path / "spill"), 100_000), told.append)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "RETRY_SECONDS", 0.0)


def stored(store: AuditStore) -> list[int]:
    assert verify(store).problems == []
    return [row["ordinal"] for row in store.rows(DECISIONS)]


def test_a_locked_database_is_waited_for_in_the_spill_file(
    worker: Worker, sqlite_store: AuditStore, told: list[str]
) -> None:
    assert worker.place(numbered(1, 2), give_up_at=never) == "stored"
    with sqlite_store.engine.begin():  # BEGIN IMMEDIATE: somebody else's long transaction
        assert worker.place(numbered(3, 4), give_up_at=never) == "spilled"
        assert stored(sqlite_store) == [1, 2]
    assert worker.waiting() == 0
    assert worker.place(numbered(5, 5), give_up_at=never) == "stored"
    assert stored(sqlite_store) == [1, 2, 3, 4, 5]
    assert worker.waiting() is None
    assert not worker.spill.path.exists()
    assert "locked" in told[0] and "nothing was lost" in told[-1] and len(told) == 2


def test_a_full_database_is_waited_for_in_the_spill_file(
    worker: Worker, sqlite_store: AuditStore, told: list[str]
) -> None:
    assert worker.reach()
    pages = [0]

    @event.listens_for(worker._opened().engine, "begin")
    def _limit(connection: Any) -> None:
        if pages[0]:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages[0]}")

    pages[0] = 1  # no less than the file has
    assert worker.place(numbered(1, 100), give_up_at=never) == "spilled"
    assert "full" in told[0]
    pages[0] = 1_000_000
    assert worker.reach()
    assert stored(sqlite_store) == list(range(1, 101))


def test_a_database_file_that_vanished_is_not_made_anew(
    worker: Worker, sqlite_store: AuditStore, tmp_path: Path, told: list[str]
) -> None:
    assert worker.place(numbered(1, 2), give_up_at=never) == "stored"
    sqlite_store.close()
    worker._opened().close()
    (tmp_path / "away").mkdir()
    for file in tmp_path.glob("audit.db*"):
        shutil.move(file, tmp_path / "away" / file.name)
    assert worker.place(numbered(3, 4), give_up_at=never) == "spilled"
    assert not (tmp_path / "audit.db").exists()
    for file in (tmp_path / "away").iterdir():
        shutil.move(file, tmp_path / file.name)
    assert worker.reach()
    assert stored(sqlite_store) == [1, 2, 3, 4]
    assert "removed" in told[0]


def test_a_postgresql_server_that_stops_is_waited_for(postgres: PostgresServer, tmp_path: Path) -> None:
    place = postgres.new_database()
    open_store(place).close()
    worker = Worker(Settings(place, "w", str(tmp_path), 100_000), lambda message: None)
    assert worker.place(numbered(1, 2), give_up_at=never) == "stored"
    postgres.stop()
    assert worker.place(numbered(3, 4), give_up_at=never) == "spilled"
    postgres.start()
    assert worker.reach()
    assert worker.place(numbered(5, 6), give_up_at=never) == "stored"
    worker.close()
    store = open_store(place, create=False)
    assert stored(store) == [1, 2, 3, 4, 5, 6]
    store.close()


def test_what_is_acknowledged_was_told_to_reach_the_disk(
    worker: Worker, sqlite_store: AuditStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite_store.engine.connect() as connection:
        pragmas = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]  # 2: FULL, which syncs at every commit
    synced: list[int] = []
    monkeypatch.setattr("mopo_serve.audit.spill.os.fsync", lambda file: synced.append(os.fstat(file).st_size))
    with sqlite_store.engine.begin():
        assert worker.place(numbered(1, 2), give_up_at=never) == "spilled"
    assert synced == [worker.spill.size] and worker.spill.path.stat().st_size == worker.spill.size > 0


def test_a_full_spill_file_keeps_what_it_has(worker: Worker, sqlite_store: AuditStore, tmp_path: Path) -> None:
    worker.spill.largest_bytes = 2000
    with sqlite_store.engine.begin():
        assert worker.place(numbered(1, 2), give_up_at=never) == "spilled"
        with pytest.raises(SpillFull, match="beyond 2000 bytes"):
            worker.place(numbered(3, 40), give_up_at=lambda: 0.0)
    assert worker.place(numbered(3, 40), give_up_at=never) == "stored"
    assert stored(sqlite_store) == list(range(1, 41))


def test_a_spill_file_that_cannot_be_written_is_full(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spill = Spill(tmp_path / "file" / "below", "w")
    with pytest.raises(SpillFull, match="cannot be written"):
        spill.append([decision_row(decision(1), "w", 1)])
    assert spill.size == 0


def test_what_another_gateway_left_is_stored_once(worker: Worker, sqlite_store: AuditStore, tmp_path: Path) -> None:
    """Its writer died while it wrote a line, and after its database had taken the first row, unknown to it."""
    left = Spill(tmp_path / "spill", "dead")
    left.append([decision_row(decision(number), "dead", number) for number in (1, 2, 2, 3)])
    left.close()
    with left.path.open("ab") as file:
        file.write(b'{"half a li')
    sqlite_store.append(DECISIONS, [decision_row(decision(1), "dead", 1)])
    assert worker.reach()
    assert stored(sqlite_store) == [1, 2, 3]
    assert list((tmp_path / "spill").iterdir()) == []


def test_the_spill_file_of_a_living_gateway_is_left_alone(sqlite_store: AuditStore, tmp_path: Path) -> None:
    alive = Spill(tmp_path, "alive")
    alive.append([decision_row(decision(1), "alive", 1)])
    assert recover(tmp_path, sqlite_store) == 0
    alive.close()
    assert recover(tmp_path, sqlite_store) == 1
    assert stored(sqlite_store) == [1]


def test_lines_that_nobody_can_read_are_kept_aside(
    sqlite_store: AuditStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.jsonl"
    good = json.dumps(decision_row(decision(1), "w", 1))
    path.write_text(f'{good}\nnoise\n{{"writer": "w"}}\n[]\n')
    assert recover(tmp_path, sqlite_store) == 1
    assert stored(sqlite_store) == [1]
    assert not path.exists() and path.with_name("w.jsonl.damaged").exists()
    assert "3 lines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "whole"), [(b"", 0), (b"half", 0), (b"a\nb\nhalf", 4), (b"a\n" + b"x" * 200_000, 2)]
)
def test_a_worker_that_comes_back_goes_on_after_the_last_whole_line(tmp_path: Path, content: bytes, whole: int) -> None:
    (tmp_path / "w.jsonl").write_bytes(content)
    assert whole_lines(tmp_path / "w.jsonl") == whole


def test_the_pipes_end_and_a_torn_frame_end_the_worker(
    sqlite_store: AuditStore, tmp_path: Path, told: list[str]
) -> None:
    acknowledged: list[str] = []
    settings = frame(Settings(str(tmp_path / "audit.db"), "w", str(tmp_path / "spill"), 100_000))
    torn = frame(numbered(4, 4))[:-1]
    stdin = io.BytesIO(settings + frame(numbered(1, 2)) + frame(numbered(3, 3)) + torn)
    assert workers.run(stdin, acknowledged.append, told.append) == 0
    assert acknowledged[-1] == "3 stored"
    assert stored(sqlite_store) == [1, 2, 3]
    assert workers.run(io.BytesIO(settings[:3]), acknowledged.append, told.append) == 0


def test_a_worker_whose_gateway_is_gone_says_what_nothing_takes(
    sqlite_store: AuditStore, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LAST_SECONDS", 0.0)
    acknowledged: list[str] = []
    settings = frame(Settings(str(tmp_path / "audit.db"), "w", str(tmp_path / "spill"), 10))
    with sqlite_store.engine.begin():
        status = workers.run(io.BytesIO(settings + frame(numbered(7, 9))), acknowledged.append, told.append)
    assert (status, acknowledged) == (1, [])
    assert "lost, beginning with number 7" in told[-1]
