"""The prompts and responses of preference data as tokens, and a model's log-probability of each response."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mopo_train.console import ProgressLine, progress, say
from mopo_train.policy.distributed import from_leader, group, summed
from mopo_train.policy.tokens import (
    Encoded,
    TokenBatch,
    collate,
    encode_prompts,
    encode_responses,
    join,
    response_log_probabilities,
)
from mopo_train.preferences import PreferenceData
from mopo_train.winrates import FloatArray, IntArray

SCORED_TOGETHER = 32
"""Responses in a batch of a pass that keeps no gradients."""


class Corpus(NamedTuple):
    """Y responses with their prompts as tokens."""

    rows: list[Encoded]
    """(Y) prompt and response; the prompt's array is shared by its responses."""
    lengths: IntArray
    """(Y,) tokens of both."""
    digest: str
    """Of all tokens: what log-probabilities depend on besides the model."""


def encode_corpus(data: PreferenceData, tokenizer: PreTrainedTokenizerBase, limit: int) -> Corpus:
    """Tokenise ``data`` once, at most ``limit`` tokens per prompt and response together.

    Raises DataError for prompts without room for an answer and for responses without tokens.
    """
    conversations: Any = [data.messages(prompt) for prompt in range(len(data.group))]
    prompts = encode_prompts(tokenizer, conversations, limit)
    responses = encode_responses(tokenizer, [data.response(index) for index in range(len(data.response_prompt))])
    rows = [join(prompts[x], y, limit) for x, y in zip(data.response_prompt.tolist(), responses, strict=True)]
    if cut := sum(len(row.response) < len(full) for row, full in zip(rows, responses, strict=True)):
        say(f"{cut} of {len(rows)} responses exceed {limit} tokens with their prompt: their end is cut off")
    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.array([len(row.prompt), len(row.response)]).tobytes() + row.prompt.tobytes())
        digest.update(row.response.tobytes())
    return Corpus(rows, np.array([row.length for row in rows], dtype=np.int64), digest.hexdigest())


def log_probabilities(model: PreTrainedModel, rows: Sequence[Encoded], line: ProgressLine | None = None) -> FloatArray:
    """(len(rows),) log pi(response | prompt) in nats, without gradients; ``model`` is left in evaluation mode.

    Processes that train together call it alike: each takes its share of the batches, and all get the whole result.
    """
    device = next(model.parameters()).device
    model.eval()  # type: ignore[no-untyped-call]
    found = np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda index: rows[index].length)
    batches = [order[begin : begin + SCORED_TOGETHER] for begin in range(0, len(order), SCORED_TOGETHER)]
    us = group()
    with torch.no_grad():
        for begin in range(0, len(batches), us.size):
            # Where a model is spread over processes, all of them have to run it equally often.
            indices = batches[min(begin + us.rank, len(batches) - 1)]
            batch = collate([rows[index] for index in indices])
            moved = TokenBatch(batch.tokens.to(device), batch.targets.to(device), batch.start)
            scores = response_log_probabilities(model, moved).double().cpu().numpy()
            if begin + us.rank < len(batches):
                found[indices] = scores
            if line is not None:
                line.advance(sum(map(len, batches[begin : begin + us.size])))
    return summed(found)


def corpus_log_probabilities(
    model: PreTrainedModel, corpus: Corpus, needed: Sequence[int], directory: Path, key: str, *, title: str
) -> FloatArray:
    """(Y,) log pi(y | x) in nats of the responses ``needed``; NaN for those that nobody asked for yet.

    Kept in ``directory`` under the digest of the tokens and ``key`` (the model's fingerprint): computed once for all
    policies of a family, and again only for responses that are new.
    """
    name = hashlib.sha256(f"{key} {corpus.digest}".encode()).hexdigest()[:16]
    path = directory / f"log-probabilities-{name}.npy"
    known = from_leader(lambda: _known(path, len(corpus.rows)))
    missing = [index for index in needed if np.isnan(known[index])]
    if not missing:
        return known
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)  # type: ignore[arg-type]
    with progress(f"{title} log-probabilities", len(missing)) as line:
        found = log_probabilities(model, [corpus.rows[index] for index in missing], line)
    known[missing] = found
    from_leader(lambda: _keep(path, known))
    return known


def _known(path: Path, responses: int) -> FloatArray:
    known: FloatArray = np.load(path) if path.is_file() else np.full(responses, np.nan)
    return known


def _keep(path: Path, known: FloatArray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npy")
    np.save(partial, known)
    partial.replace(path)
