"""Canonical rows as memory-mapped Arrow: converted once per content, then found again.

The cache lies with that of `datasets` (HF_DATASETS_CACHE) and is keyed on the content of the data and of the code that
converts it, so that a changed file or a corrected conversion is never answered from an old result. An entry is whole or
absent; processes that convert the same file at the same time write the same entry and do not wait for each other.
"""

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from mopo_train import dialogues, formats, ratings, rows
from mopo_train.cache import cache_limit, cache_root, stored, tidy, used
from mopo_train.errors import DataError
from mopo_train.formats import Converted, Rated, Skipped, SourceFormat
from mopo_train.rows import Comparison, RowError
from mopo_train.sources import RawRows, Row

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

BATCH = 1000
SAME = Skipped("identical responses")


class CanonicalRows(NamedTuple):
    """What one file holds, in canonical form."""

    dataset: "datasets.Dataset"
    """Memory-mapped; the columns of ``schema``."""
    skipped: dict[str, int]
    """Rows left out, by reason."""


def schema() -> "pa.Schema":
    """Columns of the canonical table: the fields of ``Comparison``, lengths in characters, place and keys of a row."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("prompt", pa.list_(message)),
            ("response_a", pa.string()),
            ("response_b", pa.string()),
            ("length_a", pa.int64()),
            ("length_b", pa.int64()),
            ("objectives", pa.list_(pa.string())),
            ("labels", pa.list_(pa.float64())),
            ("weight", pa.float64()),
            ("annotator", pa.string()),
            ("group", pa.string()),
            ("chosen_first", pa.bool_()),
            ("place", pa.int64()),
            ("keys", pa.list_(pa.uint64(), rows.KEY_WORDS)),
        ]
    )


def convert(raw: RawRows, source_format: SourceFormat, objective: str) -> CanonicalRows:
    """The rows of ``raw`` in canonical form, from the cache where they were converted before. Raises DataError."""
    import datasets

    cache_limit()  # nonsense there is told before work is spent
    root = cache_root()
    entry = root / _entry_name(raw.key(), source_format.name, objective)
    if not _is_whole(entry):
        try:
            stored(entry, _is_whole, lambda partial: _write_entry(partial, raw, source_format, objective))
        except OSError as error:
            raise DataError(
                f"cannot write the converted rows of '{raw.name}' to '{root}': {error.strerror or error}; "
                "make room there, or name another directory in the environment variable HF_DATASETS_CACHE."
            ) from error
        tidy(root)
    used(entry)
    dataset = datasets.Dataset.from_file(str(entry / "rows.arrow"))
    return CanonicalRows(dataset, json.loads((entry / "skipped.json").read_text(encoding="utf-8")))


def _entry_name(content: str, source_format: str, objective: str) -> str:
    digest = hashlib.sha256(json.dumps([content, source_format, objective]).encode())
    for module in (dialogues.__file__, formats.__file__, ratings.__file__, rows.__file__, __file__):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()[:32]


def _is_whole(entry: Path) -> bool:
    """False also where something that tidies up has removed a file."""
    return (entry / "rows.arrow").is_file() and (entry / "skipped.json").is_file()


def _write_entry(entry: Path, raw: RawRows, source_format: SourceFormat, objective: str) -> None:
    skipped: Counter[str] = Counter()
    found = _comparisons(raw, source_format, objective, skipped, entry)
    _write_rows(entry / "rows.arrow", found, chosen_first=source_format.chosen_first)
    (entry / "skipped.json").write_text(json.dumps(skipped), encoding="utf-8")


def _comparisons(
    raw: RawRows, source_format: SourceFormat, objective: str, skipped: Counter[str], work: Path
) -> Iterator[tuple[int, Comparison, bytes]]:
    """Comparisons with the place of their row and their keys; what is left out is counted in ``skipped``."""
    if source_format.rated:
        scratch = work / "rated.arrow"
        yield from ratings.pairs(_items(raw, source_format, objective, skipped, Rated), scratch, skipped)
        scratch.unlink()
    else:
        yield from _items(raw, source_format, objective, skipped, Comparison)


Item = TypeVar("Item", Comparison, Rated)


def _items(
    raw: RawRows, source_format: SourceFormat, objective: str, skipped: Counter[str], kind: type[Item]
) -> Iterator[tuple[int, Item, bytes]]:
    """What each row holds, with its place and its keys. Raises DataError that names the row."""
    for place, row in raw.rows():
        try:
            found = _convert_row(row, source_format, objective)
            for item in found if isinstance(found, list) else [found]:
                if isinstance(item, Comparison) and item.response_a == item.response_b:
                    item = SAME
                if isinstance(item, Skipped):
                    skipped[item.reason] += 1
                else:
                    yield place, cast(Item, item), _keys(item)
        except RowError as error:
            raise DataError(f"'{raw.name}' {raw.unit} {place}: {error}.") from error


def _keys(item: Comparison | Rated) -> bytes:
    return rows.row_keys(item) if isinstance(item, Comparison) else rows.answer_keys(item.prompt, item.response)


def _convert_row(row: Row, source_format: SourceFormat, objective: str) -> Converted:
    if missing := source_format.required - row.keys():
        other = formats.recognise(row)
        found = f"it has the columns of {other.name}" if other else f"its columns are {', '.join(row) or 'none'}"
        raise RowError(
            f"the file began in the format {source_format.name}, but this row lacks {', '.join(sorted(missing))} "
            f"({found}). Keep one format in a file; files of different formats are joined by naming each"
        )
    return source_format.convert(row, objective)


def _write_rows(path: Path, found: Iterable[tuple[int, Comparison, bytes]], *, chosen_first: bool) -> None:
    import pyarrow as pa

    columns = schema()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, columns) as writer:
        batch: list[dict[str, Any]] = []
        for place, row, keys in found:
            batch.append(_record(place, row, keys) | {"chosen_first": chosen_first})
            if len(batch) == BATCH:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=columns))
                batch = []
        writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=columns))


def _record(place: int, row: Comparison, keys: bytes) -> dict[str, Any]:
    return {
        "prompt": row.prompt,
        "response_a": row.response_a,
        "response_b": row.response_b,
        "length_a": len(row.response_a),
        "length_b": len(row.response_b),
        "objectives": list(row.preferences),
        "labels": list(row.preferences.values()),
        "weight": row.weight,
        "annotator": row.annotator,
        "group": row.group,
        "place": place,
        "keys": struct.unpack(f"<{rows.KEY_WORDS}Q", keys),
    }
