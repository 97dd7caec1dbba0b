"""Folds for cross-fitting: whole split groups, by digests of their texts, so that no prompt is on both sides."""

import hashlib

import numpy as np

from mopo_train.errors import DataError
from mopo_train.preferences import PreferenceData
from mopo_train.winrates import IntArray


def assign_folds(data: PreferenceData, folds: int, seed: int) -> IntArray:
    """(P,) fold of each prompt, 0..folds - 1, about equally many prompts in each.

    Depends on the seed and the texts alone, not on the order of rows. Raises DataError with fewer groups than folds.
    """
    groups = int(data.group.max()) + 1
    if not 2 <= folds <= groups:
        raise DataError(
            f"{folds} folds for {groups} split group{'' if groups == 1 else 's'} of prompts: cross-fitting needs at "
            "least 2 folds and a group for each. Give data with more prompts, or fewer folds."
        )
    drawn = [hashlib.sha256(f"fold {seed} ".encode() + key.tobytes()).digest() for key in data.prompt_key.astype("<u8")]
    members: dict[int, list[int]] = {}
    for prompt in sorted(range(len(drawn)), key=drawn.__getitem__):  # a group is met at its first member
        members.setdefault(int(data.group[prompt]), []).append(prompt)
    fold, filled = np.zeros(len(drawn), dtype=np.int64), [0] * folds
    for group in sorted(members.values(), key=len, reverse=True):  # stable: large groups first, then by digest
        least = filled.index(min(filled))
        fold[group] = least
        filled[least] += len(group)
    return fold
