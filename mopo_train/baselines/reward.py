"""Rewards for RLHF, one per objective, fitted on the same preference labels that the other methods see.

A Bradley-Terry model: P_k(y over y' | x) = sigmoid(r_k(x, y) - r_k(x, y')), with r_k linear in the last hidden state of
the reference model with a LoRA adapter of its own. No judge takes part. Not covered: preferences without a pointwise
reward, such as cycles.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mopo_train.console import progress
from mopo_train.policy.adapter import new_adapter
from mopo_train.policy.batches import Planned, make_units, plan_steps
from mopo_train.policy.corpus import Corpus
from mopo_train.policy.loop import Batch, LoopSettings, Task, optimise
from mopo_train.policy.models import load_model
from mopo_train.policy.tokens import Encoded, collate
from mopo_train.preferences import PreferenceData
from mopo_train.winrates import FloatArray

EPOCHS = 3
RESPONSES = 32
"""Per step."""
RANK = 8
LEARNING_RATE = 2e-3
SCORED_TOGETHER = 64


class RewardModel(nn.Module):
    """K rewards of a prompt with a response."""

    def __init__(self, model: str, objectives: int, seed: int) -> None:
        super().__init__()
        base = load_model(model)
        self.body: Any = new_adapter(base, rank=RANK, seed=seed, start=None)
        self.head = nn.Linear(base.config.get_text_config().hidden_size, objectives, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, tokens: Tensor, last: Tensor) -> Tensor:
        """(B, K) rewards; ``tokens`` (B, T) padded on the right, ``last`` (B,) the place of each row's last token."""
        states = self.body(input_ids=tokens, output_hidden_states=True, logits_to_keep=1, use_cache=False)
        final = states.hidden_states[-1][torch.arange(len(tokens), device=tokens.device), last]
        rewards: Tensor = self.head(final.to(self.head.weight.dtype))
        return rewards

    @torch.no_grad()
    def score(self, rows: Sequence[Encoded]) -> FloatArray:
        """(rows, K) rewards."""
        self.eval()
        device, found = self.head.weight.device, []
        for begin in range(0, len(rows), SCORED_TOGETHER):
            part = rows[begin : begin + SCORED_TOGETHER]
            last = torch.tensor([row.length - 1 for row in part], device=device)
            found.append(self(collate(part).tokens.to(device), last).double().cpu().numpy())
        return np.concatenate(found)


def bradley_terry_loss(rewards: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Mean cross-entropy of labelled comparisons, summed over objectives: a scalar.

    ``rewards`` (M, K) of the first response minus the second's; ``labels`` (M, K) the probability that the first is
    preferred, NaN where unlabelled; ``weight`` (M,).
    """
    known = ~labels.isnan()
    target = torch.where(known, labels, 0.5)
    loss = nn.functional.binary_cross_entropy_with_logits(rewards, target, reduction="none") * known * weight[:, None]
    return loss.sum() / (known * weight[:, None]).sum(dim=0).clamp(min=1e-9).max()


def fitted_rewards(data: PreferenceData, corpus: Corpus, model: str, work: Path, seed: int) -> RewardModel:
    """The rewards of ``data``, fitted once: kept in ``work``."""
    network = RewardModel(model, len(data.objectives), seed)
    network.to("cuda" if torch.cuda.is_available() else "cpu")
    kept = work / "rewards.safetensors"
    trained = {name for name, weight in network.named_parameters() if weight.requires_grad}
    if kept.is_file():
        network.load_state_dict(load_file(kept), strict=False)
        return network
    units = make_units(data.compared(), data.response_prompt, RESPONSES)
    every = sum(len(unit.responses) for unit in units)
    plan = plan_steps(units, corpus.lengths, RESPONSES, max(1, EPOCHS * every // RESPONSES), seed)
    comparisons = _by_pair(data)

    def build(step: Planned) -> Batch:
        rows = [corpus.rows[index] for index in step.responses]
        a, b = step.responses[step.pairs[:, 0]], step.responses[step.pairs[:, 1]]
        labels, weight = zip(*(comparisons[pair] for pair in zip(a.tolist(), b.tolist(), strict=True)), strict=True)
        return {
            "tokens": collate(rows).tokens,
            "last": torch.tensor([row.length - 1 for row in rows]),
            "pairs": torch.from_numpy(step.pairs),
            "labels": torch.tensor(np.array(labels)).float(),
            "weight": torch.tensor(np.array(weight)).float(),
        }

    def loss(trained_network: Any, batch: Batch) -> Tensor:
        rewards = trained_network(batch["tokens"], batch["last"])
        margin = rewards[batch["pairs"][:, 0]] - rewards[batch["pairs"][:, 1]]
        return bradley_terry_loss(margin, batch["labels"], batch["weight"])

    # No checkpoints: Trainer cannot write a module with tied weights, and a killed fit begins again.
    settings = LoopSettings(learning_rate=LEARNING_RATE, seed=seed, checkpoint_seconds=math.inf)
    with progress("rewards", len(plan)) as line:
        optimise(network, Task(plan=plan, build=build, loss=loss), settings, work / "rewards", line)  # type: ignore[arg-type]
    partial = kept.with_suffix(".partial")
    save_file({name: value.contiguous() for name, value in network.state_dict().items() if name in trained}, partial)
    partial.rename(kept)
    return network


def _by_pair(data: PreferenceData) -> dict[tuple[int, int], tuple[FloatArray, float]]:
    """Mean label (K,) of the smaller index over the larger, and the weight, of every compared pair of responses."""
    pairs = data.compared()
    place = {pair: index for index, pair in enumerate(map(tuple, pairs.tolist()))}
    low, high = np.minimum(data.first, data.second), np.maximum(data.first, data.second)
    at = np.array([place[pair] for pair in zip(low.tolist(), high.tolist(), strict=True)])
    labels = np.where((data.first < data.second)[:, None], data.labels, 1 - data.labels)  # (R, K)
    weight = data.weight[:, None] * ~np.isnan(labels)
    total = np.zeros((len(pairs), labels.shape[1]))
    counts = np.zeros_like(total)
    np.add.at(total, at, weight * np.nan_to_num(labels))
    np.add.at(counts, at, weight)
    means = np.where(counts > 0, total / np.maximum(counts, 1e-12), np.nan)
    return {pair: (means[index], float(counts[index].max())) for pair, index in place.items()}
