"""Rows of a JSON Lines (plain or gzipped) or Parquet file, one dictionary each.

For prompts and answers, which fit into memory; preference data is read by ``mopo_train.preferences``.
"""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mopo_train.errors import DataError


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """``(position, row)`` of every row of ``path``, positions from 1; blank lines are left out.

    Raises DataError for a file that is missing, damaged, or has a row that is not an object.
    """
    if not path.is_file():
        raise DataError(f"no file at '{path}'; give a JSON Lines (also .gz) or Parquet file.")
    try:
        yield from _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read '{path}': {error}; is the file complete?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is not UTF-8 text ({error.reason} at byte {error.start}).") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if zipped else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                what = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
                raise DataError(f"'{path}', line {number}: not JSON ({what}); one object per line.") from error
            if not isinstance(row, dict):
                raise DataError(f"'{path}', line {number}: expected an object, found {type(row).__name__}.")
            yield number, row


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"'{path}' is not a Parquet file: {str(error).splitlines()[0]}") from error
    yield from enumerate(rows, start=1)
