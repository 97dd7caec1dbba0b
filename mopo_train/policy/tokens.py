"""Prompts and responses as token ids, and which of them are seen together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

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
