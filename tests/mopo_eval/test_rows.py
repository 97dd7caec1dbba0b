import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mopo_eval.rows import read_rows
from mopo_train.errors import DataError

ROWS = [{"prompt": "Où?", "id": 1}, {"prompt": [{"role": "user", "content": "a\nb"}], "id": 2}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def test_json_lines_count_from_one_and_blank_lines_count_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n" + LINES, encoding="utf-8")
    assert list(read_rows(tmp_path / "a.jsonl")) == [(2, ROWS[0]), (3, ROWS[1])]


def test_a_gzipped_file_is_recognised_by_its_content(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl"):
        (tmp_path / name).write_bytes(gzip.compress(LINES.encode()))
        assert [row for _, row in read_rows(tmp_path / name)] == ROWS


def test_parquet_gives_plain_values(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_pylist([{"prompt": "a", "id": None}, {"prompt": "b", "id": 2}]), tmp_path / "a.parquet"
    )
    assert list(read_rows(tmp_path / "a.parquet")) == [(1, {"prompt": "a", "id": None}), (2, {"prompt": "b", "id": 2})]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": ', "line 2: not JSON"),
        ("a.jsonl", b"[1]\n", "line 1: expected an object, found list"),
        ("a.jsonl", b"\x80\x81\n", "not UTF-8"),
        ("a.jsonl.gz", gzip.compress(LINES.encode() * 50, mtime=0)[:-20], "is the file complete"),
        ("a.jsonl.gz", b"\x1f\x8b\x00garbage", "cannot read"),
        ("a.parquet", b"PAR1 and then nothing", "not a Parquet file"),
        ("a.parquet", b"", "not a Parquet file"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_no_file_is_a_users_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no file at"):
        list(read_rows(tmp_path / name))


def test_a_row_nested_beyond_reading_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n' + "[" * 200_000)
    with pytest.raises(DataError, match=r"line 2: not JSON \(nested too deeply\); one object per line"):
        list(read_rows(path))
