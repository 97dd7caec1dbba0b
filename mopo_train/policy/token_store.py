"""The tokens of many responses in two flat files, memory-mapped: what is in memory does not grow with the data."""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from mopo_train.cache import stored
from mopo_train.policy.tokens import Encoded, Ids
from mopo_train.winrates import IntArray

FILES = ("prompts.bin", "responses.bin", "prompt_ends.npy", "response_ends.npy", "digest")
DIGITS = 64
"""Of the digest."""


class TokenRows(Sequence[Encoded]):
    """Y responses with their prompts; each is read when it is asked for."""

    def __init__(self, entry: Path, prompt_of: IntArray) -> None:
        """``entry`` as `write_tokens` left it; ``prompt_of`` (Y,) the prompt of each response."""
        self._prompt_of = prompt_of
        self._prompts, self._responses = _mapped(entry / FILES[0]), _mapped(entry / FILES[1])
        self._prompt_ends, self._response_ends = (
            np.asarray(np.load(entry / name, mmap_mode="r")) for name in FILES[2:4]
        )

    def __len__(self) -> int:
        return len(self._prompt_of)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> list[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | list[Encoded]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        prompt = int(self._prompt_of[place])
        return Encoded(
            _part(self._prompts, self._prompt_ends, prompt), _part(self._responses, self._response_ends, place)
        )

    def lengths(self) -> IntArray:
        """(Y,) tokens of prompt and response."""
        return self.response_lengths() + np.diff(self._prompt_ends, prepend=0)[self._prompt_of]

    def response_lengths(self) -> IntArray:
        """(Y,) tokens of the response."""
        return np.diff(self._response_ends, prepend=0)


class Tokens(NamedTuple):
    """Token ids in their order."""

    prompts: Iterable[Ids]
    """(P)"""
    responses: Callable[[IntArray], Iterable[Ids]]
    """(Y), given the lengths of the prompts, (P,)."""


def stored_tokens(entry: Path, make: Callable[[], Tokens]) -> str:
    """The digest of what ``make`` gives, written to the directory ``entry`` now or before (`cache.stored`)."""
    stored(entry, is_stored, lambda partial: _write(partial, make()))
    return (entry / FILES[4]).read_text(encoding="ascii")


def is_stored(entry: Path) -> bool:
    """Whether ``entry`` is whole: False also where something has removed or cut off a file."""
    try:
        ends = [np.load(entry / name, mmap_mode="r") for name in FILES[2:4]]
        sizes = [(entry / name).stat().st_size for name in FILES[:2]]
        digest = (entry / FILES[4]).stat().st_size
    except (OSError, ValueError, EOFError):
        return False
    told = [4 * int(each[-1]) if len(each) else 0 for each in ends]
    return told == sizes and digest == DIGITS


def _write(entry: Path, tokens: Tokens) -> None:
    digest = hashlib.sha256()
    prompt_ends = _append(entry / FILES[0], tokens.prompts, digest.update)
    response_ends = _append(entry / FILES[1], tokens.responses(np.diff(prompt_ends, prepend=0)), digest.update)
    for name, ends in zip(FILES[2:4], (prompt_ends, response_ends), strict=True):
        digest.update(ends.tobytes())
        np.save(entry / name, ends)
    (entry / FILES[4]).write_text(digest.hexdigest(), encoding="ascii")


def _append(path: Path, rows: Iterable[Ids], seen: Callable[[bytes], None]) -> IntArray:
    sizes = array("q")
    with path.open("wb") as file:
        for row in rows:
            told = np.asarray(row, dtype=np.int32).tobytes()
            file.write(told)
            seen(told)
            sizes.append(len(row))
    return np.cumsum(np.array(sizes, dtype=np.int64))


def _mapped(path: Path) -> Ids:
    if not path.stat().st_size:
        return np.zeros(0, dtype=np.int32)
    return np.asarray(np.memmap(path, dtype=np.int32, mode="r"))


def _part(tokens: Ids, ends: IntArray, place: int) -> Ids:
    return np.asarray(tokens[int(ends[place - 1]) if place else 0 : int(ends[place])])
