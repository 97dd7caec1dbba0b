"""Prompts that nearly repeat each other: candidates by MinHash of their word pairs, each verified exactly.

Two prompts are near duplicates where the Jaccard similarity of their sets of word pairs is at least ``SIMILAR``. Texts
are read one at a time; per text only one number per band is kept (Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, chapter 3). Does not find a short conversation inside a longer one, nor paraphrases.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import numpy as np

from mopo_train.indices import KeyArray
from mopo_train.winrates import IntArray

SIMILAR = 0.8
BANDS, ROWS = 20, 6
"""Of the signature. A pair of similarity s becomes a candidate with probability 1 - (1 - s^6)^20: 0.997 at 0.8."""
TOGETHER = 4096
"""Signatures in memory at a time."""
UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Scripts without spaces between words (or with long words): each character counts as a word."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


class Texts(Protocol):
    """A list of texts, or what reads one when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> str: ...

    def __iter__(self) -> Iterator[str]: ...


def shingles(text: str) -> set[str]:
    """Pairs of neighbouring words in lower case; the word where there is one, the text where there is none."""
    words = WORD.findall(text.lower())
    if len(words) < 2:
        return set(words) or {text.strip()}
    return {f"{first} {second}" for first, second in pairwise(words)}


def near_duplicates(texts: Texts) -> IntArray:
    """(M, 2) pairs of indices, the smaller first, that join every text to one that it nearly repeats, if there is one.

    Not every such pair is listed: a cluster of n near duplicates gives n - 1 of them or more.
    """
    found, leader = [], np.arange(len(texts))
    last, mine = -1, set[str]()
    for first, second in _candidates(_bands(texts)).tolist():
        if _root(leader, first) == _root(leader, second):
            continue
        if first != last:
            last, mine = first, shingles(texts[first])
        other = shingles(texts[second])
        if len(mine & other) >= SIMILAR * len(mine | other):
            found.append((first, second))
            leader[_root(leader, second)] = _root(leader, first)
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def clusters(texts: int, pairs: IntArray) -> IntArray:
    """(texts,) number of the cluster that ``pairs`` (M, 2) put each text in, alone or not."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(texts, texts))
    number: IntArray = connected_components(edges, directed=False)[1].astype(np.int64)
    return number


def _bands(texts: Texts) -> KeyArray:
    """(N, BANDS) digest of each band of each text's signature."""
    import rensa

    def signatures() -> Iterator[list[int]]:
        for text in texts:
            sketch = rensa.RMinHash(num_perm=BANDS * ROWS, seed=1)
            sketch.update(list(shingles(text)))
            yield sketch.digest()

    keys = np.empty((len(texts), BANDS), dtype=np.uint64)
    multipliers = np.random.default_rng(0).integers(2**63, 2**64, ROWS, dtype=np.uint64) | np.uint64(1)
    waiting: list[list[int]] = []
    done = 0
    for signature in signatures():
        waiting.append(signature)
        if len(waiting) == TOGETHER or done + len(waiting) == len(texts):
            rows = np.array(waiting, dtype=np.uint64).reshape(len(waiting), BANDS, ROWS)
            keys[done : done + len(waiting)] = ((rows + np.uint64(1)) * multipliers).sum(axis=2, dtype=np.uint64)
            done, waiting = done + len(waiting), []
    return keys


def _candidates(keys: KeyArray) -> IntArray:
    """(C, 2) sorted pairs that share a band: each text with the first and with the next one of its bucket."""
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for band in range(BANDS):
        order = np.argsort(keys[:, band], kind="stable")
        ordered = keys[order, band]
        same = np.flatnonzero(ordered[1:] == ordered[:-1])  # positions whose next one is in the same bucket
        if not len(same):
            continue
        start = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        begin = np.maximum.accumulate(np.where(start, np.arange(len(order)), 0))
        chain = np.stack([order[same], order[same + 1]], axis=1)
        star = np.stack([order[begin[same]], order[same + 1]], axis=1)
        pairs.append(np.unique(np.concatenate([chain, star]), axis=0))
    found: IntArray = np.unique(np.concatenate(pairs), axis=0)
    return found


def _root(leader: IntArray, index: int) -> int:
    """The representative of ``index``; shortens the way for the next one."""
    while leader[index] != index:
        leader[index] = leader[leader[index]]
        index = int(leader[index])
    return index
