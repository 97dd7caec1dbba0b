"""The cache of converted rows."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mopo_train.cache import LIMIT
from mopo_train.canonical import CanonicalRows, convert
from mopo_train.errors import DataError, MopoError
from mopo_train.formats import recognise
from mopo_train.preferences import read_preferences
from mopo_train.sources import JsonLines, RawRows, Row
from tests.comparisons import row, write_rows


def converted(raw: RawRows) -> CanonicalRows:
    own = recognise(row())
    assert own is not None
    return convert(raw, own, "")


def cached(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))


def test_a_changed_file_is_converted_again_even_with_its_old_size_and_time(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [row("q", "x", "y")])
    before = read_preferences([path])
    status = path.stat()
    write_rows(path, [row("q", "v", "w")])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = read_preferences([path])
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert [after.response(0), after.response(1)] == ["v", "w"]
    assert [before.response(0), before.response(1)] == ["x", "y"]  # what was read stays as it was
    assert before.summary.sha256 != after.summary.sha256


def test_a_conversion_is_found_again_under_any_path(tmp_path: Path) -> None:
    for name in ("one.jsonl", "two.jsonl"):
        write_rows(tmp_path / name, [row("q0"), row("q1", "same", "same")])
    first = converted(JsonLines(tmp_path / "one.jsonl", compressed=False))
    files = {path: path.stat().st_mtime_ns for path in cached(tmp_path)}
    second = converted(JsonLines(tmp_path / "two.jsonl", compressed=False))
    assert {path: path.stat().st_mtime_ns for path in cached(tmp_path)} == files
    assert first.dataset.to_list() == second.dataset.to_list()
    assert first.skipped == second.skipped == {"identical responses": 1}
    assert [path.name for path in files] == ["rows.arrow", "skipped.json"]


def test_the_same_file_under_another_objective_is_another_conversion(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "q", "chosen": "x", "rejected": "y"}])
    for name in ("safety", "helpfulness"):
        assert read_preferences([path], objectives=[name], at_least=1).objectives == (name,)


@pytest.mark.parametrize("lost", ["rows.arrow", "skipped.json"])
def test_an_entry_that_lost_a_file_is_made_again(tmp_path: Path, lost: str) -> None:
    raw = JsonLines(write_rows(tmp_path / "pairs.jsonl", [row("q0")]), compressed=False)
    converted(raw)
    next(path for path in cached(tmp_path) if path.name == lost).unlink()
    assert converted(raw).dataset["response_a"][0] == "Because."
    assert len(cached(tmp_path)) == 2


@dataclass(frozen=True)
class Overtaken(JsonLines):
    """A file that another reader converts while it is being read."""

    def rows(self) -> Iterator[tuple[int, Row]]:
        yield from super().rows()
        converted(JsonLines(self.path, compressed=False))


def test_a_conversion_that_another_process_finished_first_is_used(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [row("q0"), row("q1")])
    assert len(converted(Overtaken(path, compressed=False)).dataset) == 2
    assert len(cached(tmp_path)) == 2


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_preferences([write_rows(tmp_path / "pairs.jsonl", [row("q0"), row("")])])
    assert not list((tmp_path / "cache" / "mopo").iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way", encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot write the converted rows of .* HF_DATASETS_CACHE"):
        read_preferences([write_rows(tmp_path / "pairs.jsonl", [row("q0")])])


def test_rows_know_their_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(["", json.dumps(row("q0")), "", json.dumps(row("q1", "s", "s")), json.dumps(row("q2"))]))
    assert converted(JsonLines(path, compressed=False)).dataset["place"][:] == [2, 5]


def test_a_limit_of_the_cache_that_is_no_size_is_told_before_anything_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [row("q", "x", "y")])
    monkeypatch.setenv(LIMIT, "many")
    with pytest.raises(MopoError, match="MOPO_CACHE_GB is 'many'"):
        read_preferences([path])
    assert cached(tmp_path) == []
