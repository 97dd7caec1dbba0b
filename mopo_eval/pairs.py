"""How well each policy ranks labelled pairs: an offline measurement that needs neither answers nor judges.

A policy ranks response a over b when log [pi / pi_ref](a) exceeds that of b, as in the implicit reward of DPO (Rafailov
et al., arXiv 2305.18290). It shows what training moved, not how good the policy's own answers are.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mopo_eval.intervals import clustered_rate
from mopo_train.family import REFERENCE, PolicyFamily, base_model_path

if TYPE_CHECKING:
    from mopo_train.preferences import PreferenceData
    from mopo_train.winrates import FloatArray

MAX_LENGTH = 512
"""Tokens of prompt and response; the end of a longer response is cut off, as in training."""


class PairAccuracy(NamedTuple):
    """Share of strictly labelled pairs that a policy ranks as the label does; equal log-ratios count half."""

    accuracy: float
    low: float
    high: float
    n: int
    """Pairs; the interval is clustered by prompt."""


def pair_accuracies(
    data: "PreferenceData", log_ratio: "FloatArray", confidence: float = 0.95
) -> dict[str, PairAccuracy]:
    """Per objective with a strict label, for log [pi / pi_ref] (Y,) of the distinct responses, in nats."""
    margin = log_ratio[data.first] - log_ratio[data.second]  # (R,)
    found = {}
    for k, name in enumerate(data.objectives):
        sign = np.nan_to_num(data.labels[:, k] - 0.5)
        strict = sign != 0
        if strict.any():
            right = (1 + np.sign(margin * sign)[strict]) / 2
            low, high = clustered_rate(right, data.prompt[strict], confidence)
            found[name] = PairAccuracy(float(right.mean()), low, high, int(strict.sum()))
    return found


def measure_pairs(
    root: Path, family: PolicyFamily, data: "PreferenceData", confidence: float = 0.95
) -> dict[str, dict[str, PairAccuracy]]:
    """Of every trained policy. The log-probabilities are kept in the family's working directory.

    The reference is left out: its log-ratio is 0 everywhere. Raises ModelError, DataError.
    """
    from peft import PeftModel

    from mopo_train.policy.adapter import unwrap
    from mopo_train.policy.corpus import corpus_log_probabilities, encode_corpus
    from mopo_train.policy.models import context_length, directory_digest, fingerprint, load_model, load_tokenizer
    from mopo_train.policy.workspace import WORK

    base = base_model_path(root, family)
    length = min(int(family.config.get("max_length", MAX_LENGTH)), context_length(base))
    corpus = encode_corpus(data, load_tokenizer(base), length)
    every, kept, key = list(range(len(corpus.rows))), root / WORK, fingerprint(base)
    network = load_model(base)
    reference = corpus_log_probabilities(network, corpus, every, kept, key, title=REFERENCE)
    found = {}
    for policy in family.policies:
        if policy.adapter is not None:
            adapter = root / policy.adapter
            wrapped: Any = PeftModel.from_pretrained(network, str(adapter))
            name = f"{key} {directory_digest(adapter)}"
            scores = corpus_log_probabilities(wrapped, corpus, every, kept, name, title=policy.id)
            network = unwrap(wrapped)
            found[policy.id] = pair_accuracies(data, scores - reference, confidence)
    return found
