"""Rewards for RLHF, one per objective, fitted on the same preference labels that the other methods see.

The suite's preference model without its skew part, a Bradley-Terry model: P_k(y over y' | x) = sigmoid(r_k(x, y)
- r_k(x, y')). No judge takes part. Not covered: preferences without a pointwise reward, such as cycles.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from mopo_train.console import progress
from mopo_train.preference_model.crossfit import labelled_pairs
from mopo_train.preference_model.network import PreferenceNetwork, encode, make_tokenizer, read_texts
from mopo_train.preference_model.settings import FitSettings
from mopo_train.preference_model.training import Lesson, compare, new_network, planned_steps, read_strengths, train
from mopo_train.preferences import PreferenceData
from mopo_train.winrates import FloatArray

SETTINGS = FitSettings(width=0)


class Rewards:
    """Fitted rewards of any answer."""

    def __init__(self, network: PreferenceNetwork, tokenizer: PreTrainedTokenizerBase) -> None:
        self.network, self.tokenizer = network, tokenizer

    def score(self, conversations: Sequence[list[dict[str, str]]], answers: Sequence[str]) -> FloatArray:
        """(answers, K) rewards of each answer to its conversation, in nats of preference."""
        texts = encode(self.tokenizer, conversations, answers, range(len(answers)), SETTINGS.max_length)
        return read_strengths(self.network, texts).utility


def fitted_rewards(data: PreferenceData, work: Path, seed: int) -> Rewards:
    """The rewards of ``data``, fitted once: kept in ``work``."""
    tokenizer = make_tokenizer(SETTINGS.encoder, data)
    network = new_network(SETTINGS, tokenizer, len(data.objectives), seed)
    kept = work / "rewards.safetensors"
    if kept.is_file():
        network.load_state_dict(load_file(kept))
        return Rewards(network, tokenizer)
    compared, texts = compare(labelled_pairs(data)), read_texts(data, tokenizer, SETTINGS.max_length)
    plan = planned_steps(compared, texts, SETTINGS, data.response_prompt, seed)
    with progress("rewards", len(plan)) as line:
        train(network, Lesson(compared, texts, plan), SETTINGS, seed=seed, work=work / "rewards", line=line)
    partial = kept.with_suffix(".partial")
    state: Any = network.to("cpu").state_dict()
    save_file(state, partial)
    partial.rename(kept)
    return Rewards(network, tokenizer)
