"""Text that a policy writes itself: samples, and the divergence that only they can show.

Sampled at temperature 1 without truncation, so that averages over samples are expectations under the policy.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mopo_train.policy.corpus import log_probabilities
from mopo_train.policy.distributed import from_leader
from mopo_train.policy.tokens import Encoded, Ids

SAMPLED_TOGETHER = 64
"""Prompts answered in one batch."""


class Divergence(NamedTuple):
    """KL(policy || reference) in nats, of whole answers."""

    kl: float
    error: float
    """Standard error of the mean over prompts; NaN for one."""
    prompts: int


def sample(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Ids],
    limit: int,
    seed: int,
) -> list[Encoded]:
    """An answer to each of ``prompts``, drawn from ``model``, at most ``limit`` tokens long with its prompt.

    It ends with the end-of-sequence token unless the limit cut it. The same seed gives the same answers. Processes that
    train together call it alike, since a model may be spread over them; all get the leader's answers.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found: dict[int, Encoded] = {}
    model.eval()
    with torch.random.fork_rng(), torch.no_grad():  # a spread model may not meet inference mode first
        torch.manual_seed(seed)
        for begin in range(0, len(order), SAMPLED_TOGETHER):
            indices = order[begin : begin + SAMPLED_TOGETHER]
            answers = _answer(model, tokenizer, [prompts[index] for index in indices], limit)
            found |= {index: Encoded(prompts[index], answer) for index, answer in zip(indices, answers, strict=True)}
    return from_leader(lambda: [found[index] for index in range(len(prompts))])


def generated_divergence(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Ids], limit: int, seed: int
) -> Divergence:
    """How far the adapted ``model`` is from its base, on answers that it writes to ``prompts`` itself.

    Unlike an estimate from the data's responses this sees the mass that leaked to other text.
    """
    rows = sample(model, tokenizer, prompts, limit, seed)
    network: Any = model
    policy = log_probabilities(network, rows)
    with model.disable_adapter():
        reference = log_probabilities(network, rows)
    each = policy - reference
    error = float(each.std(ddof=1)) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return Divergence(float(each.mean()), error, len(each))


def _answer(model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Ids], limit: int) -> list[Ids]:
    device = next(model.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # padded on the left
        ids[row, longest - len(prompt) :] = torch.from_numpy(prompt.astype(np.int64))
        mask[row, longest - len(prompt) :] = 1
    end = tokenizer.eos_token_id
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "use_cache": True}
    out = model.generate(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        do_sample=True,
        max_new_tokens=max(1, limit - longest),
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )
    answers = []
    for row in out[:, longest:].cpu().numpy():
        stops = np.flatnonzero(row == end)
        answers.append(row[: stops[0] + 1 if len(stops) else len(row)].astype(np.int32))
    return answers
