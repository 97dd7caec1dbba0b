"""Floating-point operations: how many training takes at least, and how many a chip does a second.

A token's pass through a weight of a matrix is a product and a sum, 2 operations. Training takes three of them: forward,
the slope on the input, the slope on the weight; hence the usual 6 N operations per token for N weights (J. Kaplan et
al., "Scaling laws for neural language models", arXiv 2001.08361, section 2.1). LoRA saves the third on the frozen
weights: 4 N. Left out, as usual: attention's products of positions, norms, the adapter, the optimiser, and what is
computed twice to save memory.
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.dpo_runs import Pair
from mopo_train.policy.models import choose_products

PER_WEIGHT = 4
"""Operations per token and frozen weight."""
TRIALS = 7


class MatrixWeights:
    """Weights of a causal model's matrices."""

    def __init__(self, network: Any) -> None:
        head = network.get_output_embeddings()
        self.head: int = head.weight.numel()
        """Of the output layer, which only response tokens need."""
        self.layers: int = sum(
            part.weight.numel() for part in network.modules() if isinstance(part, nn.Linear) and part is not head
        )
        """Of all others."""

    def operations(self, pairs: Sequence[Pair]) -> int:
        """Operations that DPO on ``pairs`` takes at least: each prompt passes once for both of its answers."""
        answers = sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
        prompts = sum(len(pair.prompt) for pair in pairs)
        return PER_WEIGHT * (self.layers * (prompts + answers) + self.head * answers)


def matrix_rate(size: int, device: str, clock: Callable[[], float]) -> float:
    """Operations per second of products of two square matrices: bfloat16 on ``cuda``, else float32 as we train in.

    By ``clock``, in seconds: the one that training is measured by. The median of some trials, after one that warms up.
    """
    choose_products("auto")
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    first, second = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))
    taken = [_seconds(first, second, clock) for _ in range(TRIALS + 1)][1:]
    return 2 * size**3 / median(taken)


def _seconds(first: Tensor, second: Tensor, clock: Callable[[], float]) -> float:
    began = clock()
    first @ second
    return clock() - began
