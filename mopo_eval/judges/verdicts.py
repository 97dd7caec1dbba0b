"""Judgements that cost something, found again on disk: eighteen bytes of memory for each, whatever its evidence."""

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from mopo_eval.spool import read_row, scan_spool
from mopo_train.judgement import Judgement

VERDICTS = "verdicts.jsonl"


class Kept(NamedTuple):
    """A judgement on disk."""

    key: str
    """SHA-256, in hexadecimal, of what was judged and by which judge."""
    score: float
    label: str | None
    evidence: str | None


class Verdicts:
    """Finds the judgements in some files by their key; close it after use."""

    def __init__(self, paths: list[Path]) -> None:
        """Reads every file in ``paths`` once; of judgements with one key the last counts."""
        self._paths, self._files = list(paths), ExitStack()
        self._opened: dict[Path, BinaryIO] = {}
        self._new: list[tuple[int, int, int]] = []
        self._sorted = (np.empty(0, np.uint64), np.empty(0, np.int16), np.empty(0, np.int64))
        for source, path in enumerate(self._paths):
            for place, row in scan_spool(path, Kept):
                self._new.append((_short(row.key), source, place))
                if len(self._new) >= 100_000:
                    self._merge()
        self._merge()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def add(self, key: str, place: int, path: Path) -> None:
        """A new judgement, which begins at byte ``place`` of ``path``; found from the next ``find`` on."""
        if path not in self._paths:
            self._paths.append(path)
        self._new.append((_short(key), self._paths.index(path), place))

    def find(self, key: str) -> Judgement | None:
        """The judgement of ``key``; None if there is none."""
        if self._new:
            self._merge()
        keys, sources, places = self._sorted
        short = np.uint64(_short(key))
        first, last = np.searchsorted(keys, short, "left"), np.searchsorted(keys, short, "right")
        for at in range(int(last) - 1, int(first) - 1, -1):  # those that share the beginning of the key: usually one
            row = read_row(self._open(self._paths[sources[at]]), int(places[at]), Kept)
            if row.key == key:
                return Judgement(*row[1:])
        return None

    def _open(self, path: Path) -> BinaryIO:
        if path not in self._opened:
            self._opened[path] = self._files.enter_context(path.open("rb"))
        return self._opened[path]

    def _merge(self) -> None:
        """Put what is new in its place; equal keys stay in the order in which they came."""
        if not self._new:
            return
        shorts, sources, places = zip(*self._new, strict=True)
        self._new = []
        keys, known_sources, known_places = self._sorted
        order = np.argsort(np.array(shorts, np.uint64), kind="stable")
        new = np.array(shorts, np.uint64)[order]
        at = np.searchsorted(keys, new, "right")
        # One array after the other: all at once would need three times the memory.
        known_sources = np.insert(known_sources, at, np.array(sources, np.int16)[order])
        known_places = np.insert(known_places, at, np.array(places, np.int64)[order])
        self._sorted = (np.insert(keys, at, new), known_sources, known_places)


def _short(key: str) -> int:
    """The first eight bytes of a key, as a number."""
    return int(key[:16], 16)
