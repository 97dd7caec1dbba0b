"""Held-out prompts: whole split groups, chosen by digests of their texts.

A group is held out or trained on as one, so that no prompt, and no row of a ``group``, is on both sides. The choice
depends on the seed and on the texts alone: the order of the rows changes nothing. Prompts that nearly repeat each
other can be kept on one side too (``with_near_duplicates``).
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mopo_train.check.heldout import PromptTexts
from mopo_train.check.similar import clusters, near_duplicates
from mopo_train.errors import DataError
from mopo_train.preferences import PreferenceData
from mopo_train.rows import plain, to_json

FILES = ("train.jsonl", "heldout.jsonl", "prompts.jsonl")
CATEGORY = "held out"
"""Of every prompt: preference data has no categories."""


class Split(NamedTuple):
    """How many rows and prompts lie on each side."""

    train_rows: int
    heldout_rows: int
    train_prompts: int
    heldout_prompts: int


def with_near_duplicates(data: PreferenceData) -> PreferenceData:
    """``data`` whose split groups also hold together the prompts that nearly repeat each other."""
    pairs = near_duplicates(PromptTexts(data))
    order = np.argsort(data.group, kind="stable")
    same = data.group[order[1:]] == data.group[order[:-1]]
    chain = np.stack([order[:-1][same], order[1:][same]], axis=1)  # joins the prompts of each group
    return replace(data, group=clusters(len(data.group), np.concatenate([pairs, chain])))


def nearly_on_both_sides(data: PreferenceData, held: npt.NDArray[np.bool_]) -> int:
    """How many of the ``held`` prompts (P,) nearly repeat one that is trained on."""
    cluster = clusters(len(data.group), near_duplicates(PromptTexts(data)))
    return int(np.isin(cluster[held], cluster[~held]).sum())


def held_out(data: PreferenceData, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """(P,) True for the prompts to hold out: whole groups, in a random order, as many as fit in ``share``.

    Where none fits, the smallest group.

    Raises DataError where ``share`` is not inside (0, 1), or where all prompts are one group.
    """
    if not 0 < share < 1:
        raise DataError(
            f"share {share} of the prompts to hold out; expected a number between 0 and 1, for example 0.1."
        )
    prompts = len(data.group)
    drawn = [hashlib.sha256(f"{seed} ".encode() + key.tobytes()).digest() for key in data.prompt_key.astype("<u8")]
    members: dict[int, list[int]] = {}
    for prompt in sorted(range(prompts), key=drawn.__getitem__):  # a group is met at its first member
        members.setdefault(int(data.group[prompt]), []).append(prompt)
    room = min(max(1, round(share * prompts)), prompts - 1)
    chosen = np.zeros(prompts, dtype=bool)
    for group in members.values():
        if len(group) <= room:  # a group that is too large stays with the training rows
            chosen[group] = True
            room -= len(group)
    if not chosen.any():
        chosen[min(members.values(), key=len)] = True
    if chosen.all():
        raise DataError(
            f"all {prompts} prompts are in one split group: nothing would be left to train on. "
            "Give data with more prompts, or with more values of 'group'."
        )
    return chosen


def write_split(data: PreferenceData, out: Path, held: npt.NDArray[np.bool_], *, force: bool = False) -> Split:
    """Write the training rows, the held-out rows and the held-out prompts to ``out``, whole or not at all.

    ``held`` is (P,). Raises DataError if ``out`` holds one of the files, unless ``force``.
    """
    present = [name for name in FILES if (out / name).exists()]
    if present and not force:
        raise DataError(f"'{out}' already holds {', '.join(present)}; give another directory, or --force to overwrite.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="split-", suffix=".partial", dir=out))
        try:
            _write_files(data, partial, held)
            for name in FILES:
                (partial / name).replace(out / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"cannot write the split to '{out}': {error.strerror or error}; give another directory."
        ) from error
    rows, count = int(held[data.prompt].sum()), int(held.sum())
    return Split(len(data.prompt) - rows, rows, len(held) - count, count)


def _write_files(data: PreferenceData, out: Path, held: npt.NDArray[np.bool_]) -> None:
    train, heldout, prompts = ((out / name).open("w", encoding="utf-8", newline="\n") for name in FILES)
    with train, heldout, prompts:
        for prompt, row in zip(data.prompt, data.comparisons(), strict=True):
            (heldout if held[prompt] else train).write(to_json(row.canonical()) + "\n")
        prompts.writelines(to_json(row) + "\n" for row in prompt_rows(data, held))


def prompt_rows(data: PreferenceData, held: npt.NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """The held-out prompts in the form that ``mopo-eval`` reads; an id is a digest of the prompt's text."""
    for prompt in np.flatnonzero(held):
        digest = data.prompt_key[prompt].astype("<u8").tobytes().hex()
        yield {"id": f"p{digest[:16]}", "prompt": plain(data.messages(int(prompt))), "category": CATEGORY}
