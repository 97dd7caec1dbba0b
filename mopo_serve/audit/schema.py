"""Tables of the audit store, and the migrations that made them.

``decisions``, ``feedback`` and ``events`` only ever grow: triggers refuse UPDATE and DELETE. Each is a hash chain over
``seq`` (1, 2, 3, ...) whose end is in ``heads``. ``writer`` and ``ordinal`` number a row where it was made, so that a
row that is sent twice is stored once.
"""

import hashlib
from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    inspect,
    select,
    text,
    update,
)

from mopo_train.errors import MopoError

METADATA = MetaData()
LINKED = ("seq", "hash")
"""Columns that the chain gives a row; all others are what the row says."""


class AuditError(MopoError):
    """An audit store that cannot be opened, read or written."""


def _chained(name: str, *columns: Column[object] | UniqueConstraint) -> Table:
    return Table(
        name,
        METADATA,
        Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
        Column("writer", String(32), nullable=False),
        Column("ordinal", BigInteger, nullable=False),
        Column("time", Float(53), nullable=False),
        *columns,
        Column("hash", String(64), nullable=False),
        UniqueConstraint("writer", "ordinal", name=f"{name}_once"),
        Index(f"{name}_time", "time"),
    )


DECISIONS = _chained(
    "decisions",
    Column("request_id", String(128), nullable=False, index=True),
    Column("key", String(64), nullable=False),
    Column("user", String(64), nullable=False),
    Column("conversation", String(64), nullable=False),
    Column("profile", String(200), nullable=False),
    Column("floors", Text, nullable=False),
    Column("policy", String(200), nullable=False),
    Column("share", Float(53), nullable=False),
    Column("family", String(200), nullable=False),
    Column("engine", String(200), nullable=False),
    Column("status", Integer, nullable=False),
    Column("seconds", Float(53), nullable=False),
    Column("first_token_seconds", Float(53)),
    Column("prompt_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("prompt_sha256", String(64), nullable=False),
    Column("reason", Text, nullable=False),
    Column("text", Text),
)
FEEDBACK = _chained(
    "feedback",
    Column("request_id", String(128), nullable=False, index=True),
    Column("against", String(128), nullable=False),
    Column("objective", String(200), nullable=False),
    Column("value", Float(53), nullable=False),
    Column("judge", String(64), nullable=False),
    Column("comment", Text, nullable=False),
    Column("profile", String(200), nullable=False),
    Column("policy", String(200), nullable=False),
    Column("against_policy", String(200), nullable=False),
    Column("family", String(200), nullable=False),
    UniqueConstraint("request_id", "judge", "objective", "against", name="feedback_first"),
)
EVENTS = _chained(
    "events",
    Column("kind", String(64), nullable=False),
    Column("family", String(200), nullable=False),
    Column("profile", String(200), nullable=False),
    Column("detail", Text, nullable=False),
)
TABLES = {table.name: table for table in (DECISIONS, FEEDBACK, EVENTS)}
HEADS = Table(
    "heads",
    METADATA,
    Column("chain", String(32), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
)
VERSION = Table("audit_version", MetaData(), Column("version", Integer, nullable=False))
Migration = Callable[[Connection], None]


def start_of(chain: str) -> str:
    """What stands in place of the hash before the first row of ``chain``."""
    return hashlib.sha256(f"mopo-audit:{chain}".encode()).hexdigest()


def said(table: Table) -> list[Column[object]]:
    """The columns that hold what a row of ``table`` says, in the order in which they are hashed."""
    return [column for column in table.columns if column.name not in LINKED]


def migrate(connection: Connection, migrations: "Sequence[Migration] | None" = None) -> int:
    """Bring the database to the newest version, within the caller's transaction; gives the version.

    The caller holds the store's lock, so that two gateways that start together do not both migrate. Raises AuditError
    if the database is newer than this package.
    """
    steps = MIGRATIONS if migrations is None else migrations
    VERSION.create(connection, checkfirst=True)
    found = connection.execute(select(VERSION.c.version)).scalar()
    if found is None:
        connection.execute(insert(VERSION).values(version=0))
    if (found or 0) > len(steps):
        raise AuditError(
            f"the audit store has version {found}, this package knows {len(steps)}; install the newer package again, "
            "or name another store"
        )
    for step in steps[found or 0 :]:
        step(connection)
    if (found or 0) < len(steps):
        connection.execute(update(VERSION).values(version=len(steps)))
    return len(steps)


def current_version(connection: Connection) -> int:
    """The version that the database has; 0 where it holds no audit store."""
    if not inspect(connection).has_table(VERSION.name):
        return 0
    return connection.execute(select(VERSION.c.version)).scalar() or 0


def _first(connection: Connection) -> None:
    """Version 1. Later versions must not depend on ``METADATA``, which moves on; they issue their own DDL."""
    METADATA.create_all(connection)
    for name in TABLES:
        connection.execute(insert(HEADS).values(chain=name, seq=0, hash=start_of(name)))
    sqlite = connection.dialect.name == "sqlite"
    if not sqlite:
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION mopo_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'audit rows are never changed'; END $$"
            )
        )
    for name in TABLES:
        for action in ("UPDATE", "DELETE"):
            trigger = f"CREATE TRIGGER {name}_no_{action.lower()} BEFORE {action} ON {name} "
            body = (
                "BEGIN SELECT RAISE(ABORT, 'audit rows are never changed'); END"
                if sqlite
                else "FOR EACH ROW EXECUTE FUNCTION mopo_audit_refuse()"
            )
            connection.execute(text(trigger + body))


MIGRATIONS: tuple[Migration, ...] = (_first,)
"""Step n brings a store from version n - 1 to n."""
