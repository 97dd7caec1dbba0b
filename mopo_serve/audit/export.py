"""An audit store's rows as JSON Lines or Parquet, for other tools.

Reads in batches: a store may be larger than memory.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from sqlalchemy import Float, Integer, Table, select

from mopo_serve.audit.frames import Period
from mopo_serve.audit.store import AuditStore

BATCH = 5000
PARSED = ("floors", "detail", "text")
"""Columns that hold JSON: objects in JSON Lines, text in Parquet, whose columns have one type."""


@contextmanager
def _rows(store: AuditStore, table: Table, period: Period) -> Iterator[Iterator[dict[str, Any]]]:
    with store.reading() as connection:
        query = select(table).where(period.of(table)).order_by(table.c.seq)
        yield map(dict, connection.execution_options(yield_per=BATCH).execute(query).mappings())


def write_json_lines(store: AuditStore, table: Table, period: Period, out: IO[bytes]) -> int:
    """Write a line per row to ``out``; gives their number. Raises StoreUnavailable."""
    count = 0
    with _rows(store, table, period) as rows:
        for row in rows:
            parsed = {name: _parsed(row[name]) for name in PARSED if row.get(name) is not None}
            out.write(json.dumps(row | parsed, allow_nan=False).encode("ascii") + b"\n")
            count += 1
    return count


def write_parquet(store: AuditStore, table: Table, period: Period, out: IO[bytes]) -> int:
    """Write a Parquet file to ``out``, which need not be seekable; gives the number of rows.

    Raises StoreUnavailable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(column: Any) -> Any:
        if isinstance(column.type, Float):
            return pa.float64()
        return pa.int64() if isinstance(column.type, Integer) else pa.string()

    schema = pa.schema([pa.field(column.name, kind(column), column.nullable) for column in table.columns])
    count = 0
    with _rows(store, table, period) as rows, pq.ParquetWriter(out, schema) as writer:
        for batch in _batched(rows):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _parsed(content: str) -> Any:
    """The value of a JSON column; what is no JSON as it stands: exporting is not verifying."""
    try:
        return json.loads(content)
    except ValueError:
        return content


def _batched(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """``itertools.batched``, which Python 3.11 lacks."""
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch
