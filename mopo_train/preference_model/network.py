"""A preference model of text: K heads on one encoder, which reads the prompt and one response.

Encoders are transformers models: a directory, a hub name, or a small one from scratch with a byte-level BPE tokenizer.
What the heads read of a response is the mean over its tokens of the first and of the last hidden states, the former's
product with the mean over the prompt's tokens (so that a small encoder sees at once which words suit which prompts),
and the logarithm of its length. Every response is read alone, so r responses need r passes for their r (r - 1) / 2
pairs, and the model is antisymmetric whatever it has learnt (`strengths`).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase

from mopo_train.errors import ModelError
from mopo_train.policy.models import cannot_load, find_model, hide_file_progress
from mopo_train.policy.tokens import Ids
from mopo_train.preference_model.settings import Size
from mopo_train.preferences import PreferenceData
from mopo_train.reference import Example, train_tokenizer

VOCABULARY = 2048
"""Of the small tokenizer."""


class Texts(NamedTuple):
    """Y responses with their prompts as tokens."""

    rows: list[Ids]
    """(Y) prompt and response."""
    begins: np.ndarray[Any, np.dtype[np.int64]]
    """(Y,) where the response begins."""
    lengths: np.ndarray[Any, np.dtype[np.int64]]
    """(Y,) tokens of both."""


class TextBatch(NamedTuple):
    """B responses with their prompts, padded on the right to T tokens."""

    tokens: Tensor
    """(B, T)"""
    mask: Tensor
    """(B, T) 1 for tokens, 0 for padding."""
    answer: Tensor
    """(B, T) 1 for tokens of the response."""


class Reading(NamedTuple):
    """What the heads say of B responses."""

    utility: Tensor
    """(B, K)"""
    vectors: Tensor
    """(B, K, 2 r)"""


class PreferenceNetwork(nn.Module):
    """Encoder and heads."""

    def __init__(self, encoder: nn.Module, objectives: int, width: int, dropout: float) -> None:
        super().__init__()
        config: Any = encoder.config
        features = 3 * int(config.get_text_config().hidden_size) + 1
        self.encoder = encoder
        self.norm = nn.LayerNorm(features - 1)
        self.dropout = nn.Dropout(dropout)
        self.utility = nn.Linear(features, objectives, bias=False)  # a constant would cancel
        self.vectors = nn.Linear(features, objectives * width) if width else None
        self.objectives, self.width = objectives, width
        nn.init.zeros_(self.utility.weight)
        if self.vectors is not None:
            nn.init.normal_(self.vectors.weight, std=0.1 / features**0.5)
            nn.init.zeros_(self.vectors.bias)

    def forward(self, batch: TextBatch) -> Reading:
        """Strengths of each response; utilities start at 0, which is parity."""
        read = self.encoder(input_ids=batch.tokens, attention_mask=batch.mask, output_hidden_states=True)
        first, last = read.hidden_states[0], read.last_hidden_state
        answer = batch.answer[:, :, None].to(last.dtype)  # (B, T, 1)
        length = answer.sum(dim=1).clamp(min=1)  # (B, 1)
        asked = _mean(first, batch.mask[:, :, None] - answer)
        words = _mean(first, answer)
        pooled = self.dropout(self.norm(torch.cat([words, words * asked, _mean(last, answer)], dim=-1)))
        features = torch.cat([pooled, length.log() - 3], dim=-1)  # (B, F); exp(3) = 20 tokens is middling
        vectors = features.new_zeros(len(features), 0) if self.vectors is None else self.vectors(features)
        return Reading(self.utility(features).float(), vectors.view(len(features), self.objectives, self.width).float())


def _mean(states: Tensor, inside: Tensor) -> Tensor:
    """(B, D) means of ``states`` (B, T, D) over the positions where ``inside`` (B, T, 1) is 1."""
    return (states * inside).sum(dim=1) / inside.sum(dim=1).clamp(min=1)


def pair_logits(reading: Reading, pairs: Tensor) -> Tensor:
    """(M, K) z of `strengths`, for ``pairs`` (M, 2) of the batch."""
    first, second = pairs[:, 0], pairs[:, 1]
    one, other = reading.vectors[first], reading.vectors[second]
    skew = one[..., 0::2] * other[..., 1::2] - one[..., 1::2] * other[..., 0::2]
    return reading.utility[first] - reading.utility[second] + skew.sum(dim=-1)


def pair_loss(z: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy in nats of logits ``z`` (M, K), a scalar: the mean by ``weight`` (M, K), 0 where unlabelled."""
    losses = nn.functional.binary_cross_entropy_with_logits(z, labels, reduction="none")
    return (losses * weight).sum() / weight.sum().clamp(min=1e-9)


def read_texts(data: PreferenceData, tokenizer: PreTrainedTokenizerBase, limit: int) -> Texts:
    """Every response of ``data`` with its prompt, at most ``limit`` tokens.

    Of a long prompt the end is kept, at least half the room; of a long response the beginning.
    """
    talks: Any = [data.messages(prompt) for prompt in range(len(data.group))]
    texts = [data.response(index) for index in range(len(data.response_prompt))]
    return encode(tokenizer, talks, texts, data.response_prompt.tolist(), limit)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[dict[str, str]]],
    responses: Sequence[str],
    prompt_of: Sequence[int],
    limit: int,
) -> Texts:
    """As `read_texts`, for ``responses`` to the conversations ``prompt_of`` them."""
    call: Any = tokenizer
    written = ["\n".join(f"{part['role']}: {part['content']}" for part in talk) + "\n" for talk in conversations]
    prompts = call(written, add_special_tokens=False)["input_ids"]
    answers = call(list(responses), add_special_tokens=False)["input_ids"]
    start = [mark for mark in (_first(tokenizer.cls_token_id, tokenizer.bos_token_id),) if mark is not None]
    end = [mark for mark in (_first(tokenizer.sep_token_id, tokenizer.eos_token_id),) if mark is not None]
    rows, begins = [], []
    for prompt, answer in zip(prompt_of, answers, strict=True):
        room = limit - len(start) - 2 * len(end)
        kept = answer[: max(room - len(prompts[prompt]), room // 2)]
        asked = prompts[prompt][max(0, len(prompts[prompt]) - (room - len(kept))) :]
        begins.append(len(start) + len(asked) + len(end))
        rows.append(np.array([*start, *asked, *end, *kept, *end], dtype=np.int32))
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    return Texts(rows, np.array(begins, dtype=np.int64), lengths)


def collate_texts(texts: Texts, indices: Sequence[int]) -> TextBatch:
    """Some of ``texts``, padded to the longest."""
    width = int(texts.lengths[list(indices)].max())
    tokens = np.zeros((len(indices), width), dtype=np.int64)
    mask, answer = np.zeros_like(tokens), np.zeros_like(tokens)
    for place, index in enumerate(indices):
        size = int(texts.lengths[index])
        tokens[place, :size] = texts.rows[index]
        mask[place, :size] = 1
        answer[place, texts.begins[index] : size] = 1
    return TextBatch(*(torch.from_numpy(part) for part in (tokens, mask, answer)))


def make_tokenizer(encoder: str | None, data: PreferenceData) -> PreTrainedTokenizerBase:
    """The tokenizer of ``encoder``, or a small one trained on the texts of ``data``. Raises ModelError."""
    if encoder is None:
        talks: Any = [data.messages(prompt) for prompt in range(len(data.group))]
        prompts = data.response_prompt.tolist()
        return train_tokenizer([Example(talks[x], data.response(y)) for y, x in enumerate(prompts)], VOCABULARY)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(find_model(encoder) or encoder)
    except ModelError:
        raise
    except Exception as error:  # the hub, its cache and every format raise their own kinds
        raise cannot_load("tokenizer", encoder, error) from error
    return tokenizer


def make_encoder(encoder: str | None, vocabulary: int, size: Size, limit: int) -> nn.Module:
    """The encoder ``encoder``, or a small bidirectional one from torch's generator. Raises ModelError."""
    hide_file_progress()
    if encoder is None:
        build: Any = BertModel
        config = BertConfig(
            vocab_size=vocabulary,
            hidden_size=size.hidden,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            intermediate_size=4 * size.hidden,
            max_position_embeddings=limit,
            initializer_range=size.hidden**-0.5,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.0,
        )
        network: nn.Module = build(config, add_pooling_layer=False)
        return network
    load: Any = AutoModel.from_pretrained
    try:
        network = load(find_model(encoder) or encoder, dtype=torch.float32)
    except ModelError:
        raise
    except Exception as error:  # see make_tokenizer
        raise cannot_load("encoder", encoder, error) from error
    return network


def _first(*marks: int | None) -> int | None:
    return next((mark for mark in marks if mark is not None), None)
