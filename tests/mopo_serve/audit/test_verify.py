"""Every kind of tampering is found and named; what a gateway writes is not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update

from mopo_serve.audit.chain import Head, canonical, link
from mopo_serve.audit.schema import DECISIONS, HEADS, AuditError, said
from mopo_serve.audit.store import AuditStore
from mopo_serve.audit.verify import heads_document, read_heads, verify
from tests.mopo_serve.audit.records import append, decision

Tampering = Callable[[Connection], None]


@pytest.fixture
def written(store: AuditStore) -> AuditStore:
    append(store, [decision(number) for number in range(10)])
    return store


def tamper(store: AuditStore, change: Tampering) -> None:
    """``change`` by somebody who owns the database, so that its triggers do not stop them."""
    table = " ON decisions" if store.engine.dialect.name == "postgresql" else ""
    with store.engine.begin() as connection:
        for action in ("update", "delete"):
            connection.execute(text(f"DROP TRIGGER decisions_no_{action}{table}"))
        change(connection)


def found_by(store: AuditStore, change: Tampering, known: dict[str, Head] | None = None) -> list[tuple[str, int]]:
    tamper(store, change)
    return [(problem.kind, problem.seq) for problem in verify(store, known).problems]


def set_status(connection: Connection) -> None:
    connection.execute(update(DECISIONS).where(DECISIONS.c.seq == 4).values(status=500))


def remove(*seqs: int) -> Tampering:
    return lambda connection: connection.execute(delete(DECISIONS).where(DECISIONS.c.seq.in_(seqs)))  # type: ignore[return-value]


def put(seq: int) -> Tampering:
    def change(connection: Connection) -> None:
        row = dict(connection.execute(select(DECISIONS).where(DECISIONS.c.seq == 3)).mappings().one())
        connection.execute(insert(DECISIONS), row | {"seq": seq, "writer": "forged"})

    return change


def swap(connection: Connection) -> None:
    for old, new in ((4, 100), (5, 4), (100, 5)):
        connection.execute(update(DECISIONS).where(DECISIONS.c.seq == old).values(seq=new))


def insert_in_the_middle(connection: Connection) -> None:
    for seq in range(10, 5, -1):
        connection.execute(update(DECISIONS).where(DECISIONS.c.seq == seq).values(seq=seq + 1))
    put(6)(connection)
    connection.execute(update(HEADS).where(HEADS.c.chain == "decisions").values(seq=11))


def write_anew(connection: Connection) -> None:
    """Alter row 4 and recompute every hash after it, and the head."""
    set_status(connection)
    before = connection.execute(select(DECISIONS.c.hash).where(DECISIONS.c.seq == 3)).scalar_one()
    rows = connection.execute(select(DECISIONS).where(DECISIONS.c.seq > 3).order_by(DECISIONS.c.seq)).mappings().all()
    for row in rows:
        before = link(before, row["seq"], canonical([row[column.name] for column in said(DECISIONS)]))
        connection.execute(update(DECISIONS).where(DECISIONS.c.seq == row["seq"]).values(hash=before))
    connection.execute(update(HEADS).where(HEADS.c.chain == "decisions").values(hash=before))


def cut_with_the_head(connection: Connection) -> None:
    remove(9, 10)(connection)
    last = connection.execute(select(DECISIONS.c.hash).where(DECISIONS.c.seq == 8)).scalar_one()
    connection.execute(update(HEADS).where(HEADS.c.chain == "decisions").values(seq=8, hash=last))


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (set_status, [("altered", 4)]),
        (remove(5), [("removed", 5)]),
        (remove(1), [("removed", 1)]),
        (remove(4, 5, 8), [("removed", 4), ("removed", 8)]),
        (remove(9, 10), [("removed", 9)]),
        (remove(*range(1, 11)), [("removed", 1)]),
        (put(11), [("inserted", 11)]),
        (put(0), [("inserted", 0)]),
        (swap, [("altered", 4), ("altered", 5), ("altered", 6)]),
        (insert_in_the_middle, [("altered", seq) for seq in range(6, 12)]),
    ],
    ids=["altered", "removed", "first", "several", "tail", "all", "behind", "before", "swapped", "middle"],
)
def test_tampering_is_found_where_it_was_done(
    written: AuditStore, change: Tampering, problems: list[tuple[str, int]]
) -> None:
    assert found_by(written, change) == problems


def test_every_column_is_covered(sqlite_store: AuditStore) -> None:
    columns = [column for column in said(DECISIONS) if column.name not in ("writer", "ordinal")]
    append(sqlite_store, [decision(number) for number in range(len(columns))])

    def change(connection: Connection) -> None:
        for seq, column in enumerate(columns, 1):
            value = 3 if column.type.python_type in (int, float) else "other"
            connection.execute(update(DECISIONS).where(DECISIONS.c.seq == seq).values({column.name: value}))

    assert found_by(sqlite_store, change) == [("altered", seq) for seq in range(1, len(columns) + 1)]


@pytest.mark.parametrize("change", [write_anew, cut_with_the_head])
def test_a_chain_that_was_written_anew_misses_a_head_that_was_kept(
    written: AuditStore, change: Tampering, tmp_path: Path
) -> None:
    kept = tmp_path / "heads.json"
    kept.write_text(json.dumps({"heads": heads_document(written.heads())}))
    append(written, [decision(11)], first=11)
    assert verify(written, read_heads(kept)).problems == []  # it has grown, and that is all
    assert found_by(written, remove(11)) == [("removed", 11)]
    with written.engine.begin() as connection:
        tenth = connection.execute(select(DECISIONS.c.hash).where(DECISIONS.c.seq == 10)).scalar_one()
        connection.execute(update(HEADS).where(HEADS.c.chain == "decisions").values(seq=10, hash=tenth))
        change(connection)
    assert verify(written).problems == []  # nothing inside the store tells
    assert [problem.kind for problem in verify(written, read_heads(kept)).problems] == ["rewritten"]


def test_a_head_that_was_altered_is_told(written: AuditStore) -> None:
    with written.engine.begin() as connection:
        connection.execute(update(HEADS).where(HEADS.c.chain == "decisions").values(hash="0" * 64))
    assert [(problem.kind, problem.seq) for problem in verify(written).problems] == [("head", 10)]


def test_many_problems_are_counted_and_the_first_told(sqlite_store: AuditStore) -> None:
    append(sqlite_store, [decision(number) for number in range(150)])
    tamper(sqlite_store, lambda connection: connection.execute(update(DECISIONS).values(policy="x")))  # type: ignore[arg-type]
    found = verify(sqlite_store)
    assert (len(found.problems), found.more) == (100, 50)


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"heads": {"decisions": {"seq": 1, "hash": "no"}}}', '{"heads": {"x": {"seq": 1}}}', "[]"]
)
def test_a_file_without_heads_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "heads.json").write_text(content)
    with pytest.raises(AuditError, match=r"heads\.json"):
        read_heads(tmp_path / "heads.json")
