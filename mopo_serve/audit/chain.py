"""The hash chain: what a row's hash covers, and what a break in the chain means. Pure.

``hash_i = sha256(hash_(i-1) | seq | canonical(row))`` with the chain's name in place of the hash before the first row.
Whoever changes a row must recompute every hash after it and the head; whoever kept an earlier head (``verify --head``)
sees that too. The chain has no secret: it shows tampering to those who keep heads elsewhere, it does not prevent it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Float, Integer, Table

from mopo_serve.audit.schema import said, start_of

_ENCODER = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class Head(NamedTuple):
    """The end of a chain."""

    seq: int
    """Rows in the chain; 0 if there is none."""
    hash: str


class Problem(NamedTuple):
    """One thing that is wrong with a chain."""

    chain: str
    seq: int
    kind: str
    """``altered``, ``removed``, ``inserted``, ``rewritten`` or ``head``."""
    message: str


def genesis(chain: str) -> Head:
    """The head of a chain without rows."""
    return Head(0, start_of(chain))


def plain(column: "Column[Any]", value: Any) -> Any:
    """``value`` as both databases give it back: numbers of the column's type, text without NUL and surrogates.

    Raises ValueError for a number that is not finite and for a missing value that must be there.
    """
    if value is None:
        if not column.nullable:
            raise ValueError(f"'{column.name}' is missing")
        return None
    if isinstance(column.type, Float):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"'{column.name}' is {value}, which is not a finite number")
        return number
    if isinstance(column.type, Integer | BigInteger):
        return int(value)
    written = str(value)
    if not written.isascii() or "\0" in written:
        written = written.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")
    return written if column.type.length is None else written[: column.type.length]  # type: ignore[attr-defined]


def canonical(value: Sequence[Any] | Mapping[str, Any]) -> bytes:
    """``value`` as JSON in ASCII. Of a row, its ``said`` columns in order: the bytes that are hashed."""
    return _ENCODER.encode(value).encode("ascii")


def link(before: str, seq: int, content: bytes) -> str:
    """The hash of row ``seq`` whose canonical bytes are ``content``, after a row with hash ``before``."""
    return hashlib.sha256(b"%s|%d|%s" % (before.encode("ascii"), seq, content)).hexdigest()


def checked(
    table: Table, rows: Iterable[Mapping[str, Any]], head: Head, known: Head | None = None
) -> Iterator[Problem]:
    """What is wrong with ``rows`` of ``table``, in the order of ``seq``, that should end in ``head``.

    After a break the check goes on from what is stored, so that one altered row is one problem. ``known`` is a head
    that was kept elsewhere: a chain that was recomputed as a whole does not pass through it.
    """
    chain, columns = table.name, [column.name for column in said(table)]
    start = genesis(chain)
    last, before = 0, start.hash
    passed = known is None or known == start
    for row in rows:
        seq = int(row["seq"])
        if seq < 1:
            yield Problem(chain, seq, "inserted", f"row {seq} was inserted: rows begin at 1")
            continue
        expected = link(before, seq, canonical([row[name] for name in columns]))
        if seq > last + 1:
            gone = f"row {last + 1}" if seq == last + 2 else f"rows {last + 1} to {seq - 1}"
            yield Problem(chain, last + 1, "removed", f"{gone}: removed")
        elif seq > head.seq:
            yield Problem(chain, seq, "inserted", f"row {seq} was inserted behind the head, which is row {head.seq}")
        elif row["hash"] != expected:
            yield Problem(
                chain, seq, "altered", f"row {seq} was altered or put in place of another, or the row before it was"
            )
        if known is not None and seq == known.seq:
            passed = row["hash"] == known.hash
        last, before = seq, row["hash"]
    if last < head.seq:
        yield Problem(chain, last + 1, "removed", f"rows {last + 1} to {head.seq}: removed from the end")
    elif last == head.seq and before != head.hash:
        yield Problem(chain, last, "head", f"the head's hash is not that of row {last}: one of them was altered")
    if known is not None and not passed:
        what = f"has only {last} rows" if last < known.seq else f"has another row {known.seq}"
        yield Problem(
            chain, known.seq, "rewritten", f"the chain {what}: it was cut or written anew since that head was saved"
        )
