"""The base model of the sandbox: a tiny Llama, trained from scratch on texts of the world's writer.

Beside ``mopo_train.reference`` it differs in two ways that a model this small and short in training needs: wider
initial weights, and a loss that weighs every token alike across batches.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from mopo_train.console import progress
from mopo_train.policy.loop import Batch, LoopSettings, Task, optimise
from mopo_train.policy.models import save_model
from mopo_train.policy.tokens import (
    TokenBatch,
    collate,
    encode_prompts,
    encode_responses,
    join,
    length_buckets,
    token_log_probabilities,
)
from mopo_train.reference import Example, ReferenceConfig, new_model, train_tokenizer
from mopo_train.sandbox.pairs import Text

BATCH = 16
"""Many small steps: names and facts are learned in fewer texts than with few large steps."""
LEARNING_RATE = 2e-3
LONGEST = 96
"""Tokens of prompt and answer; the world's own need at most 50."""
SHAPE = ReferenceConfig(hidden_size=128, layers=2, heads=4, vocab_size=1024, positions=512)


def train_base(out: Path, texts: Sequence[Text], seed: int) -> None:
    """Train model and tokenizer on ``texts``, each seen once; ``out`` is whole or absent."""
    work = out.with_name(f".{out.name}.partial")
    if work.exists():
        shutil.rmtree(work)
    conversations = [[{"role": "user", "content": text.prompt}] for text in texts]
    tokenizer = train_tokenizer(
        [Example(talk, text.response) for talk, text in zip(conversations, texts, strict=True)], SHAPE.vocab_size
    )
    prompts = encode_prompts(tokenizer, conversations, LONGEST)
    responses = encode_responses(tokenizer, [text.response for text in texts])
    rows = [join(prompt, response, LONGEST) for prompt, response in zip(prompts, responses, strict=True)]
    tokens_per_batch = BATCH * float(np.mean([len(response) for response in responses]))

    def loss(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        # Batches hold answers of similar length: divided by its own tokens, a batch of short ones would count as much
        # as one of long ones, and the model would learn to be brief.
        return -token_log_probabilities(model, TokenBatch(**batch)).sum() / tokens_per_batch

    torch.manual_seed(seed)
    network = new_model(tokenizer, SHAPE)
    widen(network, SHAPE.hidden_size**-0.5)
    plan = length_buckets([row.length for row in rows], BATCH, np.random.default_rng(seed))
    task = Task(plan=plan, build=lambda picked: collate([rows[index] for index in picked])._asdict(), loss=loss)
    settings = LoopSettings(LEARNING_RATE, warmup=max(1, len(plan) // 20), weight_decay=0.01, seed=seed)
    with progress("base model", len(plan)) as line:
        optimise(network, task, settings, work, line)
    save_model(network, tokenizer, work / "model")
    (work / "model").rename(out)
    shutil.rmtree(work)


def widen(network: PreTrainedModel, deviation: float) -> None:
    """Scale fresh matrices to a standard deviation of ``deviation``.

    The usual 0.02 suits wide models. In a narrow one attention then begins flat, and it takes several times the
    steps to find which word of a prompt decides which word of the answer; 1 / sqrt(width) does better.
    """
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim == 2:  # norms keep their ones
                weights.mul_(deviation / network.config.initializer_range)
