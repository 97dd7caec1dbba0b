"""Responses packed into the rows of a batch; those of one prompt may share a row, so that it is computed once.

In a shared row each response sees the prompt and itself, and its positions go on from the prompt's end: the
log-probabilities are those of rows of their own.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mopo_train.policy.tokens import Encoded, Ids

WIDTHS = 16
"""Rows are as wide as a multiple of this: kernels are then prepared for few shapes, and kept."""


class TokenBatch(NamedTuple):
    """R responses in B rows of T tokens, padded on the right; N response tokens to predict."""

    tokens: Tensor
    """(B, T)"""
    positions: Tensor | None
    """(B, T) place in its own sequence of each token; None: rows hold one sequence each."""
    segments: Tensor | None
    """(B, T) 0 for a prompt, then 1, 2, ... for its responses, -1 for padding; None: as for ``positions``."""
    row: Tensor
    """(N,) and ``column`` (N,): where the hidden state is that predicts each token."""
    column: Tensor
    targets: Tensor
    """(N,) the response tokens, response by response."""
    owner: Tensor
    """(N,) index of the response that each belongs to."""
    responses: int
    """R"""

    def mask(self) -> Tensor | None:
        """(B, 1, T, T) True where a token sees another; None: it sees all before it."""
        if self.segments is None:
            return None
        here, there = self.segments[:, :, None], self.segments[:, None, :]
        earlier = torch.ones(self.tokens.shape[1], self.tokens.shape[1], dtype=torch.bool, device=here.device).tril()
        return (earlier & ((there == 0) | (there == here)))[:, None]


def collate(rows: Sequence[Encoded], worth: float = 0.0) -> TokenBatch:
    """``rows`` in one batch; neighbours with one prompt share a row if that pays at ``worth`` (`sharing_pays`)."""
    groups = _groups(rows)
    if not sharing_pays(groups, worth):
        groups = [[row] for row in rows]
    width = max(_width(group) for group in groups)
    width += -width % WIDTHS
    shape = len(groups), width
    tokens, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    segments = np.full(shape, -1, dtype=np.int64)
    column, sizes, places = [], [], []
    for place, group in enumerate(groups):
        size = len(group[0].prompt)
        parts = [group[0].prompt, *(row.response for row in group)]
        ends = np.cumsum([len(part) for part in parts])
        tokens[place, : ends[-1]] = np.concatenate(parts)
        for number, (begin, end) in enumerate(pairwise([0, *ends.tolist()])):
            segments[place, begin:end] = number
            positions[place, begin:end] = np.arange(end - begin) + (size if number else 0)
            if number:  # the prompt's last token predicts the first of every response
                column.append(np.concatenate([[size - 1], np.arange(begin, end - 1)]))
                sizes.append(end - begin)
                places.append(place)
    shared = len(groups) < len(rows)
    return TokenBatch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions) if shared else None,
        segments=torch.from_numpy(segments) if shared else None,
        row=torch.from_numpy(np.repeat(places, sizes)),
        column=torch.from_numpy(np.concatenate(column)),
        targets=torch.from_numpy(np.concatenate([row.response for row in rows]).astype(np.int64)),
        owner=torch.from_numpy(np.repeat(np.arange(len(rows)), sizes)),
        responses=len(rows),
    )


def sharing_pays(groups: Sequence[Sequence[Encoded]], worth: float) -> bool:
    """True where rows of ``groups`` of responses to one prompt cost less than a row for each response.

    A token costs its layers' weights and the attention to every position of its row: ``worth`` is the number of
    positions that cost as much as the weights. A row of one sequence is causal and pays for half of its positions.
    """
    apart = sum(worth * row.length + row.length**2 / 2 for group in groups for row in group)
    shared = sum(worth * _width(group) + (_width(group) ** 2 if len(group) > 1 else 0) for group in groups)
    return any(len(group) > 1 for group in groups) and shared < apart


def _width(group: Sequence[Encoded]) -> int:
    return len(group[0].prompt) + sum(len(row.response) for row in group)


def _groups(rows: Sequence[Encoded]) -> list[list[Encoded]]:
    groups: list[list[Encoded]] = []
    last: Ids | None = None
    for row in rows:
        if last is not None and np.array_equal(last, row.prompt):
            groups[-1].append(row)
        else:
            groups.append([row])
        last = row.prompt
    return groups
