"""Columns in mapped files are the columns themselves."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from mopo_train.columns import LONG, mapped


def in_files() -> int:
    """Bytes of this process that lie in mapped files without a name."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    ends = [line.split()[0].split("-") for line in maps if line.endswith("(deleted)")]
    return sum(int(end, 16) - int(begin, 16) for begin, end in ends)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells what is mapped")
def test_a_long_column_lies_in_a_file_that_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    column = np.arange(LONG // 4, dtype=np.float64).reshape(-1, 2)[:, ::-1]  # twice the bytes, and not contiguous
    before = in_files()
    found = mapped(column)
    assert in_files() - before == column.nbytes
    assert (found == column).all() and found.dtype == column.dtype
    assert (pickle.loads(pickle.dumps(found)) == column).all()
    found[0] = 7.0  # stays here
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    del found
    assert in_files() == before


def test_a_short_column_stays_where_it_is() -> None:
    column = np.arange(5)
    assert mapped(column) is column
