"""How much of the data fits into a context of so many tokens, under the tokenizer that will be trained with."""

import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mopo_train.winrates import IntArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mopo_train.preferences import PreferenceData

MOST_ROWS = 20_000
"""Of more comparisons than this so many are drawn at random: tokenising a million takes many minutes."""
TOGETHER = 256


class ContextUse(NamedTuple):
    """Comparisons against a limit of tokens for prompt and response together."""

    limit: int
    checked: int
    """Comparisons that were tokenised: all, or ``MOST_ROWS`` drawn at random."""
    no_room: int
    """Of these, comparisons whose prompt alone fills the context: training refuses them."""
    cut: int
    """Of these, comparisons with a response whose end is cut off."""
    prompt_tokens: list[int]
    """Median, 95 % quantile and maximum of the prompts, in the chat template."""
    response_tokens: list[int]
    """The same of the responses, their end-of-sequence token included."""
    examples: list[int]
    """Some of the rows that do not fit."""


def context_use(data: "PreferenceData", tokenizer: "PreTrainedTokenizerBase", limit: int, seed: int = 0) -> ContextUse:
    """Tokenise prompts and responses as training does and count what exceeds ``limit``.

    Raises ModelError, DataError.
    """
    rows = np.arange(len(data.prompt))
    if len(rows) > MOST_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))
    prompts, responses = np.unique(data.prompt[rows]), np.unique(np.r_[data.first[rows], data.second[rows]])
    asked, answered = np.zeros(len(data.group), dtype=np.int64), np.zeros(len(data.response_prompt), dtype=np.int64)
    asked[prompts] = _prompt_tokens(data, tokenizer, prompts)
    answered[responses] = _response_tokens(data, tokenizer, responses)
    longest = np.maximum(answered[data.first[rows]], answered[data.second[rows]])
    no_room = asked[data.prompt[rows]] >= limit
    cut = ~no_room & (asked[data.prompt[rows]] + longest > limit)
    return ContextUse(
        limit,
        len(rows),
        int(no_room.sum()),
        int(cut.sum()),
        _quantiles(asked[prompts]),
        _quantiles(answered[responses]),
        rows[no_room | cut][:5].tolist(),
    )


def _prompt_tokens(data: "PreferenceData", tokenizer: "PreTrainedTokenizerBase", prompts: IntArray) -> list[int]:
    from mopo_train.policy.tokens import encode_prompts

    found: list[int] = []
    for begin in range(0, len(prompts), TOGETHER):
        batch = [data.messages(int(prompt)) for prompt in prompts[begin : begin + TOGETHER]]
        found += [len(row) for row in encode_prompts(tokenizer, batch, sys.maxsize)]
    return found


def _response_tokens(data: "PreferenceData", tokenizer: "PreTrainedTokenizerBase", responses: IntArray) -> list[int]:
    from mopo_train.policy.tokens import encode_responses

    found: list[int] = []
    for begin in range(0, len(responses), TOGETHER):
        batch = [data.response(int(response)) for response in responses[begin : begin + TOGETHER]]
        found += [len(row) for row in encode_responses(tokenizer, batch)]
    return found


def _quantiles(tokens: IntArray) -> list[int]:
    found: list[int] = np.quantile(tokens, [0.5, 0.95, 1], method="higher").astype(int).tolist()
    return found
