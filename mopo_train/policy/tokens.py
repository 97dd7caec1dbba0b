"""Prompts and responses as token ids, batches of them, and the log-probability of a response."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mopo_train.errors import DataError, ModelError

Ids = np.ndarray[Any, np.dtype[np.int32]]


class Encoded(NamedTuple):
    """A prompt and one response to it as token ids; the response ends with the end-of-sequence token."""

    prompt: Ids
    response: Ids

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.response)


class TokenBatch(NamedTuple):
    """B sequences of at most T tokens, padded on the right: a causal model needs no mask for that."""

    tokens: Tensor
    """(B, T) prompt and response."""
    targets: Tensor
    """(B, S) the tokens to predict at positions ``start``..T-2, -100 where they are no response tokens."""
    start: int
    """First position whose next token belongs to a response in some row; S = T - 1 - start."""


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, conversations: Sequence[list[dict[str, str]]], limit: int
) -> list[Ids]:
    """Token ids of each conversation in the tokenizer's chat template, up to where the answer begins.

    Raises DataError if a prompt leaves no room for an answer within ``limit`` tokens, ModelError if the template fails.
    """
    if not conversations:
        return []
    try:
        rows: Any = tokenizer.apply_chat_template(
            list(conversations), add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except Exception as error:  # templates raise jinja's errors and their own
        raise ModelError(f"the tokenizer's chat template refuses a prompt of this data: {error}") from error
    long = [len(row) for row in rows if len(row) >= limit]
    if long:
        raise DataError(
            f"{len(long)} of {len(rows)} prompts leave no room for an answer: the longest has {max(long)} tokens and "
            f"the limit is {limit} for prompt and answer together. Take these prompts out of the data, raise "
            "--max-length, or use a model with a longer context."
        )
    return [np.asarray(row, dtype=np.int32) for row in rows]


def encode_responses(tokenizer: PreTrainedTokenizerBase, responses: Sequence[str]) -> list[Ids]:
    """Token ids of each response with the end-of-sequence token. Raises DataError for one without tokens."""
    if not responses:
        return []
    rows: Any = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    if empty := [index for index, row in enumerate(rows) if not row]:
        raise DataError(
            f"{len(empty)} of {len(rows)} responses have no tokens (the first: {responses[empty[0]]!r}); "
            "take these rows out of the data."
        )
    end = [tokenizer.eos_token_id]
    return [np.asarray(row + end, dtype=np.int32) for row in rows]


def join(prompt: Ids, response: Ids, limit: int) -> Encoded:
    """Both, with the end of the response cut off where the two have more than ``limit`` tokens."""
    return Encoded(prompt, response[: limit - len(prompt)])


def collate(rows: Sequence[Encoded]) -> TokenBatch:
    """``rows`` padded to the longest."""
    width = max(row.length for row in rows)
    start = min(len(row.prompt) for row in rows) - 1
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    targets = np.full((len(rows), width - 1 - start), -100, dtype=np.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row.prompt)] = row.prompt
        tokens[index, len(row.prompt) : row.length] = row.response
        targets[index, len(row.prompt) - 1 - start : row.length - 1 - start] = row.response
    return TokenBatch(torch.from_numpy(tokens), torch.from_numpy(targets), start)


def token_log_probabilities(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Log p(token | everything before it) of each response token, in nats, shape (B, S); 0 outside the responses.

    Logits are computed only from the first response position on: the vocabulary is the widest layer.
    """
    width = batch.tokens.shape[1]
    keep = torch.arange(batch.start, width - 1, device=batch.tokens.device)
    logits = model(input_ids=batch.tokens, logits_to_keep=keep, use_cache=False).logits  # (B, S, vocabulary)
    losses = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=-100, reduction="none"
    )
    return -losses.view_as(batch.targets)


def response_log_probabilities(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Log p(response | prompt) in nats, shape (B,): summed over the response's tokens, its end included."""
    return token_log_probabilities(model, batch).sum(dim=1)


def length_buckets(lengths: Sequence[int], size: int, generator: np.random.Generator) -> list[list[int]]:
    """One epoch of batches of ``size`` indices, similar lengths together, in random order.

    Sorted within random groups of 20 batches: little padding, and batches differ from epoch to epoch.
    """
    order = generator.permutation(len(lengths))
    batches: list[list[int]] = []
    for begin in range(0, len(order), size * 20):
        group = sorted(order[begin : begin + size * 20].tolist(), key=lambda index: lengths[index])
        batches += [group[at : at + size] for at in range(0, len(group), size)]
    return [batches[index] for index in generator.permutation(len(batches))]
