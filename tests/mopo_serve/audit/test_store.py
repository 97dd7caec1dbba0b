"""The store in SQLite and PostgreSQL: what goes in comes out, once, in order, and never changes."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import delete, text, update

from mopo_serve.audit.chain import genesis
from mopo_serve.audit.schema import DECISIONS, MIGRATIONS, TABLES, AuditError, current_version, migrate
from mopo_serve.audit.store import AuditStore, StoreUnavailable, open_store
from mopo_serve.audit.verify import verify
from tests.mopo_serve.audit.records import append, decision


def test_what_goes_in_comes_out(store: AuditStore) -> None:
    append(
        store,
        [
            decision(0),
            decision(1, text='{"a": "\\u0000"}', reason="no\0 such \ud800 thing é", first_token_seconds=None),
        ],
    )
    first, second = store.rows(DECISIONS)
    assert first["floors"] == '{"factuality":0.30000000000000004,"safety":0.9}'
    assert (first["seconds"], second["seconds"]) == (0.1, 0.1 + 1 / 7)
    assert second["reason"] == "no\\0 such \\ud800 thing é"
    assert (second["first_token_seconds"], second["text"], second["status"]) == (None, '{"a": "\\u0000"}', 200)
    assert [first["seq"], second["seq"]] == [1, 2]
    assert verify(store).problems == []


def test_a_row_that_is_sent_again_is_stored_once(store: AuditStore) -> None:
    append(store, [decision(0), decision(1)])
    append(store, [decision(1), decision(2)], first=2)
    append(store, [decision(5)], writer="other")
    assert [row["request_id"] for row in store.rows(DECISIONS)] == ["req-0", "req-1", "req-2", "req-5"]
    assert verify(store).problems == []


def test_rows_are_never_changed(store: AuditStore) -> None:
    append(store, [decision(0)])
    for statement in (update(DECISIONS).values(status=500), delete(DECISIONS)):
        with pytest.raises(Exception, match="never changed"), store.engine.begin() as connection:
            connection.execute(statement)


def test_order_does_not_depend_on_the_clock(store: AuditStore) -> None:
    append(store, [decision(0, time=2e9), decision(1, time=1.0), decision(2, time=1e9)])
    assert [row["request_id"] for row in store.rows(DECISIONS)] == ["req-0", "req-1", "req-2"]
    assert verify(store).problems == []


def test_writers_that_append_at_once_share_one_valid_chain(place: str) -> None:
    stores = [open_store(place) for _ in range(3)]

    def work(store: AuditStore) -> None:
        for batch in range(10):
            append(store, [decision(batch * 5 + index) for index in range(5)], store.writer, 1 + 5 * batch)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = verify(stores[0])
    assert found.problems == []
    assert found.heads["decisions"].seq == 150
    for store in stores:
        own = [row["ordinal"] for row in store.rows(DECISIONS) if row["writer"] == store.writer]
        assert own == list(range(1, 51))
        store.close()


def test_gateways_that_start_together_make_one_store(place: str) -> None:
    opened: list[AuditStore] = []
    threads = [threading.Thread(target=lambda: opened.append(open_store(place))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 4
    assert opened[0].heads() == {name: genesis(name) for name in TABLES}
    for store in opened:
        store.close()


def test_an_older_store_is_migrated_and_a_newer_one_refused(place: str) -> None:
    open_store(place).close()
    store = open_store(place)
    later = (*MIGRATIONS, lambda connection: connection.execute(text("CREATE TABLE later (a INTEGER)")))
    with store.engine.begin() as connection:
        assert migrate(connection, later) == len(MIGRATIONS) + 1
    with store.engine.begin() as connection:
        assert migrate(connection, later) == len(MIGRATIONS) + 1  # nothing is done twice
        assert current_version(connection) == len(MIGRATIONS) + 1
    store.close()
    for create in (True, False):
        with pytest.raises(AuditError, match=f"has version {len(MIGRATIONS) + 1}"):
            open_store(place, create=create)


def test_a_migration_that_fails_leaves_the_store_as_it_was(store: AuditStore) -> None:
    def broken(connection: object) -> None:
        raise RuntimeError("half way")

    def adds(connection: object) -> None:
        with_table = connection.execute  # type: ignore[attr-defined]
        with_table(text("CREATE TABLE later (a INTEGER)"))

    with pytest.raises(RuntimeError), store.engine.begin() as connection:
        migrate(connection, (*MIGRATIONS, adds, broken))
    with store.engine.begin() as connection:
        assert current_version(connection) == len(MIGRATIONS)
        connection.execute(text("CREATE TABLE later (a INTEGER)"))  # it is not there


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("mysql://u:secret@h/d", "cannot be kept in 'mysql'"),
        ("sqlite://", "in memory"),
        ("postgresql://u:secret@127.0.0.1:1/d", "cannot be used"),
        ("nonsense://u:secret@h/d", "cannot be kept"),
        ("://", "cannot be read"),
    ],
)
def test_places_that_are_no_store_are_told_without_the_password(where: str, told: str) -> None:
    with pytest.raises(AuditError, match=told) as error:
        open_store(where)
    assert "secret" not in str(error.value)


def test_reading_does_not_make_a_store(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no audit store at"):
        open_store(str(tmp_path / "none.db"), create=False)
    (tmp_path / "empty.db").touch()
    with pytest.raises(AuditError, match="holds no audit store"):
        open_store(str(tmp_path / "empty.db"), create=False)
    (tmp_path / "noise.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        open_store(str(tmp_path / "noise.db"))


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), None])
def test_a_row_that_cannot_be_stored_is_refused_before_anything_is_written(store: AuditStore, seconds: float) -> None:
    with pytest.raises(ValueError, match="'seconds' is"):
        append(store, [decision(0), decision(1, seconds=seconds)])
    assert list(store.rows(DECISIONS)) == []
