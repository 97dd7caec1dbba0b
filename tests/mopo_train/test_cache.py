"""What is kept of earlier runs is bounded; what was used of late stays."""

import os
import time
from pathlib import Path

import pytest

from mopo_train.cache import LIMIT, YOUNG, replacing, stored, tidy, used
from mopo_train.errors import MopoError


def entry(root: Path, name: str, age: float, size: int = 1000) -> Path:
    """A directory with a file of so many bytes, last used so many seconds ago."""
    path = root / name
    path.mkdir()
    (path / "tokens").write_bytes(bytes(size))
    last = time.time() - age
    os.utime(path, (last, last))
    return path


def test_beyond_the_limit_what_was_not_used_for_longest_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, days in [("oldest", 9), ("older", 8), ("old", 7)]:
        entry(tmp_path, name, days * YOUNG)
    file = tmp_path / "log-probabilities.npy"
    file.write_bytes(bytes(1000))
    os.utime(file, (0, 0))  # the oldest of all
    monkeypatch.setenv(LIMIT, "4e-6")
    tidy(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setenv(LIMIT, "2e-6")
    tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "older"]


def test_what_was_used_within_a_day_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry(tmp_path, "young", YOUNG / 2)
    used(entry(tmp_path, "old but used", 9 * YOUNG))
    entry(tmp_path, "old", 9 * YOUNG)
    monkeypatch.setenv(LIMIT, "0")
    tidy(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old but used", "young"]


@pytest.mark.parametrize("told", ["many", "nan", "-3"])
def test_a_limit_that_is_no_size_is_told(told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = entry(tmp_path, "old", 9 * YOUNG)
    monkeypatch.setenv(LIMIT, told)
    with pytest.raises(MopoError, match=f"MOPO_CACHE_GB is '{told}', expected gigabytes"):
        tidy(tmp_path)
    assert old.is_dir()


def test_two_that_write_an_entry_at_once_do_not_take_each_others_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "entry.npy") as one:
        one.write_text("one")
        with replacing(tmp_path / "entry.npy") as other:
            other.write_text("other")
    assert (tmp_path / "entry.npy").read_text() == "one"
    with pytest.raises(OSError, match="full"), replacing(tmp_path / "entry.npy") as partial:
        partial.write_text("half")
        raise OSError("full")
    assert [path.name for path in tmp_path.iterdir()] == ["entry.npy"]


def test_what_cannot_be_measured_or_deleted_does_not_keep_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, elsewhere = tmp_path / "cache", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "nowhere").symlink_to(tmp_path / "nothing")
    (root / "linked").symlink_to(entry(elsewhere, "older", 9 * YOUNG))
    entry(root, "old", 8 * YOUNG)
    monkeypatch.setenv(LIMIT, "0")
    tidy(root)
    assert sorted(path.name for path in root.iterdir()) == ["linked", "nowhere"]


def test_a_stored_directory_is_as_open_to_others_as_any_other(tmp_path: Path) -> None:
    def make(directory: Path) -> None:
        (directory / "file").touch()

    stored(tmp_path / "cache" / "entry", Path.is_dir, make)
    (tmp_path / "usual").mkdir()
    modes = [path.stat().st_mode for path in (tmp_path / "cache" / "entry", tmp_path / "usual")]
    assert modes[0] == modes[1]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["entry"]
