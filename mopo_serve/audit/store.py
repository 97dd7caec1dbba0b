"""One audit store in SQLite or PostgreSQL: opened, migrated, appended to and read.

Appends are serialised by the database: SQLite by its write lock, PostgreSQL by a lock on the chain's head. So any
number of gateways on one store share one chain per table, with one head to keep, and order does not depend on clocks.
Canonical bytes are made before the lock is taken; under it only one hash per row and the insert remain.
"""

import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    func,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from mopo_serve.audit.chain import Head, canonical, link, plain
from mopo_serve.audit.schema import HEADS, MIGRATIONS, TABLES, AuditError, current_version, migrate, said
from mopo_serve.decisions import Decision

PATIENCE_SECONDS = 1
"""How long an append waits for a lock before the store counts as unavailable."""
CONNECT_SECONDS = 2
"""The same for a connection to PostgreSQL; its driver knows no less."""
MIGRATION_LOCK = 0x6D6F706F
"""Key of PostgreSQL's advisory lock ("mopo")."""
Row = Mapping[str, Any]


class StoreUnavailable(AuditError):
    """The database is full, locked or gone; trying again later makes sense."""


class AuditStore:
    """An open store. Thread-safe; ``close`` it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name = engine.url.render_as_string(hide_password=True)
        self.writer = new_writer()
        self._ordinal = 0
        self._numbering = threading.Lock()
        self._file: tuple[int, int] | None = None

    def append(self, table: Table, rows: Sequence[Row]) -> Head:
        """Append ``rows`` in one transaction, durably; gives the new head. Rows that are stored already are left out.

        Rows of one ``writer`` come in the order of ``ordinal``. Raises StoreUnavailable, and ValueError for a row that
        cannot be stored.
        """
        columns = said(table)
        plain_rows = [{column.name: plain(column, row.get(column.name)) for column in columns} for row in rows]
        contents = [canonical(list(row.values())) for row in plain_rows]
        with self._writing() as connection:
            head = self._head(connection, table)
            stored = self._stored(connection, table, {row["writer"] for row in plain_rows})
            linked: list[dict[str, Any]] = []
            for row, content in zip(plain_rows, contents, strict=True):
                if row["ordinal"] <= stored[row["writer"]]:
                    continue
                stored[row["writer"]] = row["ordinal"]
                head = Head(head.seq + 1, link(head.hash, head.seq + 1, content))
                linked.append(row | {"seq": head.seq, "hash": head.hash})
            if linked:
                connection.execute(insert(table), linked)
                moved = update(HEADS).where(HEADS.c.chain == table.name)
                connection.execute(moved.values(seq=head.seq, hash=head.hash))
        return head

    def append_own(self, table: Table, rows: Sequence[Row]) -> Head:
        """``append`` for rows that are made here, one after the other: numbers them."""
        with self._numbering:
            first = self._ordinal + 1
            numbered = [{**row, "writer": self.writer, "ordinal": first + index} for index, row in enumerate(rows)]
            head = self.append(table, numbered)
            self._ordinal += len(rows)
        return head

    def heads(self) -> dict[str, Head]:
        """The head of every chain. Raises StoreUnavailable."""
        with self.reading() as connection:
            return {name: self._head(connection, table, lock=False) for name, table in TABLES.items()}

    def rows(self, table: Table) -> Iterator[Row]:
        """Every row by ``seq``. Raises StoreUnavailable."""
        with self.snapshot(table) as (_, rows):
            yield from rows

    def page(self, table: Table, before: int, limit: int) -> list[Row]:
        """At most ``limit`` rows, newest first, with ``seq`` less than ``before``. Raises StoreUnavailable."""
        query = select(table).where(table.c.seq < before).order_by(table.c.seq.desc()).limit(limit)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    @contextmanager
    def snapshot(self, table: Table, *, batch: int = 5000) -> Iterator[tuple[Head, Iterator[Row]]]:
        """The head and the rows of ``table`` at one moment, by ``seq``, read in batches. Raises StoreUnavailable."""
        with self.reading() as connection:
            head = self._head(connection, table, lock=False)
            found = connection.execution_options(yield_per=batch).execute(select(table).order_by(table.c.seq))
            yield head, map(dict, found.mappings())

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the store. Raises StoreUnavailable."""
        with _reported(self.name), self.engine.connect().execution_options(mopo_read=True) as connection:
            if self.engine.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        self._check_file()
        with _reported(self.name), self.engine.begin() as connection:
            yield connection
        self._check_file()

    def _check_file(self) -> None:
        """Raise StoreUnavailable if SQLite's file is not the one that was opened: it would still take rows, unseen."""
        if self.engine.dialect.name != "sqlite":
            return
        try:
            found = os.stat(str(self.engine.url.database))
        except FileNotFoundError:
            found = None
        if self._file is None and found is not None:
            self._file = (found.st_dev, found.st_ino)
        elif self._file is not None and (found is None or self._file != (found.st_dev, found.st_ino)):
            self.engine.dispose()
            self._file = None
            raise StoreUnavailable(f"the audit store {self.name} was removed or replaced while it was open")

    def _head(self, connection: Connection, table: Table, *, lock: bool = True) -> Head:
        query = select(HEADS.c.seq, HEADS.c.hash).where(HEADS.c.chain == table.name)
        found = connection.execute(query.with_for_update() if lock else query).first()
        if found is None:
            raise AuditError(f"{self.name} has no head for the chain '{table.name}'; verify it, and restore a backup")
        return Head(int(found.seq), str(found.hash))

    def _stored(self, connection: Connection, table: Table, writers: Iterable[str]) -> dict[str, int]:
        """The largest ordinal that is stored of each of ``writers``; 0 where there is none."""
        last = {}
        for writer in writers:
            query = select(func.max(table.c.ordinal)).where(table.c.writer == writer)
            last[writer] = connection.execute(query).scalar() or 0
        return last

    def prepare(self) -> None:
        """Make the tables, or bring them to this package's version. Raises AuditError."""
        with self._writing() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
            migrate(connection)

    def check_version(self) -> None:
        """Raise AuditError unless the store has exactly this package's version."""
        with self.reading() as connection:
            found = current_version(connection)
        if found != len(MIGRATIONS):
            what = f"has version {found}" if found else "holds no audit store"
            raise AuditError(
                f"{self.name} {what}; this package reads version {len(MIGRATIONS)}. A gateway that is started with "
                "'--audit' makes and migrates it."
            )

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def open_store(place: str, *, create: bool = True) -> AuditStore:
    """The store at ``place``: a path (SQLite) or a URL of SQLAlchemy (sqlite:///..., postgresql://...).

    With ``create`` it is made or migrated; without, it must exist and have this package's version. Raises AuditError.
    """
    url = _url(place)
    if url.get_backend_name() == "sqlite" and url.database:
        path = Path(url.database)
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.exists():
            raise AuditError(f"no audit store at '{path}'; a gateway makes one: 'mopo-serve run FAMILY --audit {path}'")
    store = AuditStore(_engine(url))
    try:
        store.prepare() if create else store.check_version()
    except BaseException:
        store.close()
        raise
    return store


def decision_row(decision: Decision, writer: str, ordinal: int) -> dict[str, Any]:
    """``decision`` as a row of ``DECISIONS``. An engine's token counts are kept only if they are counts."""
    row = {**decision._asdict(), "writer": writer, "ordinal": ordinal}
    for name in ("prompt_tokens", "completion_tokens"):
        if not (type(row[name]) is int and 0 <= row[name] < 2**53):
            row[name] = None
    return row | {"floors": canonical_floors(decision.floors)}


def canonical_floors(floors: Mapping[str, float]) -> str:
    """``floors`` as JSON, by name."""
    return canonical({name: float(floors[name]) for name in sorted(floors)}).decode("ascii")


def new_writer() -> str:
    """A name for whoever numbers rows; never used twice."""
    return secrets.token_hex(8)


def _url(place: str) -> URL:
    """``place`` as a URL with the driver that we use. Raises AuditError."""
    if "://" not in place:
        return URL.create("sqlite", database=place)
    try:
        url = make_url(place)
    except ArgumentError as error:
        raise AuditError(
            "the audit store's URL cannot be read; give a path, sqlite:///PATH or postgresql://..."
        ) from error
    kind = url.get_backend_name()
    if kind not in {"sqlite", "postgresql"}:
        raise AuditError(f"an audit store cannot be kept in '{kind}'; give a path, sqlite:///PATH or postgresql://...")
    if kind == "sqlite" and url.database in {None, "", ":memory:"}:
        raise AuditError("an audit store in memory would be lost; give a path")
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def _engine(url: URL) -> Engine:
    """An engine with our timeouts and durability. Raises AuditError where the driver is missing."""
    try:
        if url.get_backend_name() == "sqlite":
            engine = create_engine(url, connect_args={"timeout": PATIENCE_SECONDS})
            event.listen(engine, "connect", _sqlite_connected)
            event.listen(engine, "begin", _sqlite_begins)
            return engine
        options = f"-c lock_timeout={PATIENCE_SECONDS}s -c statement_timeout=60s"
        return create_engine(url, connect_args={"connect_timeout": CONNECT_SECONDS, "options": options})
    except (ImportError, NoSuchModuleError) as error:
        raise AuditError("PostgreSQL needs its driver: pip install 'mopo-suite[postgresql]'") from error


def _sqlite_connected(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver would begin transactions itself, too late to lock
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}").close()


def _sqlite_begins(connection: Connection) -> None:
    reads = connection.get_execution_options().get("mopo_read")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Turn the database's errors into StoreUnavailable without the rows that were to be written."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()[0]
        raise StoreUnavailable(f"the audit store {name} cannot be used: {cause}") from error
