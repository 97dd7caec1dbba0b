"""Held-out prompts, and which of them are in the data that is to be trained on, word for word or nearly."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mopo_train.check.similar import clusters
from mopo_train.errors import DataError
from mopo_train.formats import recognise
from mopo_train.indices import KeyArray
from mopo_train.rows import RowError, answer_keys, read_prompt
from mopo_train.sources import RawRows, find
from mopo_train.winrates import BoolArray, IntArray

if TYPE_CHECKING:
    from mopo_train.preferences import PreferenceData


class HeldOut(NamedTuple):
    """H distinct held-out prompts."""

    texts: Sequence[str]
    keys: KeyArray
    """(H, 2) digests, as ``PreferenceData.prompt_key``."""


class Leak(NamedTuple):
    """Held-out prompts that training would see."""

    same: IntArray
    """Indices of those that are in the data."""
    near: IntArray
    """Indices of the others that nearly repeat a prompt of the data."""
    rows: BoolArray
    """(R,) comparisons on prompts that are held out too, or nearly."""


class PromptTexts:
    """The prompts of data, then those of ``more``; the data's are read from the memory map when asked for."""

    def __init__(self, data: "PreferenceData", more: Sequence[str] = ()) -> None:
        self.data, self.more, self.own = data, more, len(data.group)

    def __len__(self) -> int:
        return self.own + len(self.more)

    def __getitem__(self, index: int) -> str:
        return self.data.prompt_text(index) if index < self.own else self.more[index - self.own]

    def __iter__(self) -> Iterator[str]:
        yield from self.data.prompt_texts()
        yield from self.more


def read_held_out(sources: Sequence[str]) -> HeldOut:
    """The prompts in ``sources``: preference data in any format, or rows with a ``prompt``. Raises DataError."""
    texts: dict[bytes, str] = {}
    for source in sources:
        for conversation in _conversations(source):
            key = answer_keys(conversation, "")[:16]
            texts.setdefault(key, "\n".join(message["content"] for message in conversation))
    if not texts:
        raise DataError("the held-out files hold no prompts; give the file that mopo-train split wrote.")
    keys = np.frombuffer(b"".join(texts), dtype="<u8").reshape(-1, 2).astype(np.uint64)
    return HeldOut(list(texts.values()), keys)


def leaked(data: "PreferenceData", held: HeldOut, pairs: IntArray) -> Leak:
    """``pairs`` (M, 2): near duplicates among the prompts of ``data``, then those of ``held``."""
    prompts, count = len(data.group), len(held.texts)
    keys = np.concatenate([data.prompt_key, held.keys])
    _, number = np.unique(keys, axis=0, return_inverse=True)
    known, same = set(number[:prompts].tolist()), np.zeros(count, dtype=bool)
    same[[index for index, one in enumerate(number[prompts:].tolist()) if one in known]] = True
    cluster = clusters(prompts + count, pairs)
    near = np.isin(cluster[prompts:], cluster[:prompts]) & ~same
    seen = np.isin(number[:prompts], number[prompts:]) | np.isin(cluster[:prompts], cluster[prompts:])
    return Leak(np.flatnonzero(same), np.flatnonzero(near), seen[data.prompt])


def _conversations(source: str) -> Iterator[list[dict[str, str]]]:
    path = source.partition("=")[2] if not Path(source).exists() and "=" in source else source
    for raw in find(path):
        _, first = next(iter(raw.rows()), (0, None))
        if first is None:
            raise DataError(f"'{raw.name}' holds no rows; expected one prompt or comparison per {raw.unit}.")
        known = recognise(first)
        if known is not None:
            from mopo_train.preferences import read_preferences

            data = read_preferences([path], objectives=["held-out"] if known.unnamed else None, at_least=1)
            yield from (data.messages(prompt) for prompt in range(len(data.group)))
            return
        yield from _prompts(raw)


def _prompts(raw: RawRows) -> Iterator[list[dict[str, str]]]:
    for place, row in raw.rows():
        try:
            yield read_prompt(row.get("prompt"))
        except RowError as error:
            raise DataError(f"'{raw.name}' {raw.unit} {place}: {error}.") from error
