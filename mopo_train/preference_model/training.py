"""Fit a preference network to labelled pairs of text, and read the strengths of all responses off it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mopo_train.console import ProgressLine
from mopo_train.policy.batches import Planned, Steps, make_units, plan_steps
from mopo_train.policy.loop import Batch, LoopSettings, Task, optimise
from mopo_train.preference_model.network import (
    PreferenceNetwork,
    TextBatch,
    Texts,
    collate_texts,
    make_encoder,
    pair_logits,
    pair_loss,
)
from mopo_train.preference_model.settings import FitSettings
from mopo_train.preference_model.strengths import Pairs, Strengths
from mopo_train.winrates import FloatArray, IntArray

READ_TOGETHER = 64
"""Responses in a batch of a pass without gradients."""


class Compared(NamedTuple):
    """M distinct compared pairs with the labels of all their rows: what the loss needs, with nothing lost."""

    pairs: IntArray
    """(M, 2), smaller response first, sorted."""
    labels: FloatArray
    """(M, K) weighted mean label; 0.5 where unlabelled."""
    weight: FloatArray
    """(M, K) total weight; 0 where unlabelled."""


class Lesson(NamedTuple):
    """What a network is trained on."""

    compared: Compared
    texts: Texts
    plan: Sequence[Planned]
    """The batches of its steps."""


def compare(pairs: Pairs) -> Compared:
    """Rows of the same two responses made one: the cross-entropy is linear in the label."""
    swapped = pairs.first > pairs.second
    ordered = np.where(
        swapped[:, None], np.stack([pairs.second, pairs.first], 1), np.stack([pairs.first, pairs.second], 1)
    )
    labels = np.where(swapped[:, None], 1 - pairs.labels, pairs.labels)
    found, place = np.unique(ordered, axis=0, return_inverse=True)
    seen = ~np.isnan(labels)
    weight = np.where(seen, pairs.weight[:, None], 0.0)
    total, won = (np.zeros((len(found), labels.shape[1])) for _ in range(2))
    np.add.at(total, place.ravel(), weight)
    np.add.at(won, place.ravel(), weight * np.where(seen, labels, 0.0))
    return Compared(found, np.where(total > 0, won / np.maximum(total, 1e-300), 0.5), total)


def new_network(
    settings: FitSettings, tokenizer: PreTrainedTokenizerBase, objectives: int, seed: int
) -> PreferenceNetwork:
    """An untrained network; its random parts follow from ``seed``. Raises ModelError."""
    torch.manual_seed(seed)
    encoder = make_encoder(settings.encoder, len(tokenizer), settings.size, settings.max_length)
    return PreferenceNetwork(encoder, objectives, settings.width, settings.dropout)


def planned_steps(
    compared: Compared, texts: Texts, settings: FitSettings, response_prompt: IntArray, seed: int
) -> Steps:
    """The batches of the whole training: responses of a prompt together, read once for all their pairs."""
    units = make_units(compared.pairs, response_prompt, settings.batch_size)
    epoch = len(units.responses) / settings.batch_size
    return plan_steps(
        units, texts.lengths, settings.batch_size, max(settings.least_steps, round(settings.epochs * epoch)), seed
    )


def train(
    network: PreferenceNetwork, lesson: Lesson, settings: FitSettings, *, seed: int, work: Path, line: ProgressLine
) -> None:
    """Train ``network`` in place; continues from the last checkpoint in ``work``."""
    compared, texts, plan = lesson
    place = {pair: index for index, pair in enumerate(map(tuple, compared.pairs.tolist()))}
    scale = compared.weight.sum(axis=0)  # objectives count alike, however few of the pairs carry their labels
    weight = compared.weight / np.where(scale > 0, scale, 1.0) * len(compared.pairs)

    def build(step: Planned) -> Batch:
        rows = [place[pair] for pair in map(tuple, np.sort(step.responses[step.pairs], axis=1).tolist())]
        pairs = np.sort(step.pairs, axis=1)  # responses of a unit are sorted, so order in the batch is order of number
        return collate_texts(texts, step.responses.tolist())._asdict() | {
            "pairs": torch.from_numpy(pairs),
            "labels": torch.from_numpy(compared.labels[rows]).float(),
            "weight": torch.from_numpy(weight[rows]).float(),
        }

    def loss(model: Any, batch: Batch) -> Tensor:
        reading = model(TextBatch(batch["tokens"], batch["mask"], batch["answer"]))
        return pair_loss(pair_logits(reading, batch["pairs"]), batch["labels"], batch["weight"])

    how = LoopSettings(
        learning_rate=settings.learning_rate or (2e-5 if settings.encoder else 2e-3),
        warmup=max(1, len(plan) // 10),
        weight_decay=settings.weight_decay,
        seed=seed,
    )
    optimise(network, Task(plan=plan, build=build, loss=loss), how, work, line)  # type: ignore[arg-type]


@torch.no_grad()
def read_strengths(network: PreferenceNetwork, texts: Texts) -> Strengths:
    """(Y, ...) strengths of every response of ``texts``, in order; variance 0."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network.to(device).eval()
    utility = np.empty((len(texts.rows), network.objectives))
    vectors = np.empty((len(texts.rows), network.objectives, network.width))
    order = np.argsort(texts.lengths)
    for begin in range(0, len(order), READ_TOGETHER):
        indices = order[begin : begin + READ_TOGETHER]
        reading = network(TextBatch(*(part.to(device) for part in collate_texts(texts, indices.tolist()))))
        utility[indices] = reading.utility.double().cpu().numpy()
        vectors[indices] = reading.vectors.double().cpu().numpy()
    return Strengths(utility, vectors, np.zeros_like(utility))
