"""How well each policy ranks labelled pairs: an offline measurement that needs neither answers nor judges.

A policy ranks response a over b when log [pi / pi_ref](a) exceeds that of b, as in the implicit reward of DPO (Rafailov
et al., arXiv 2305.18290). It shows what training moved, not how good the policy's own answers are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from mopo_eval.differences import Difference, holm
from mopo_eval.prompts import prompt_hash, trained_prompts
from mopo_train.console import say
from mopo_train.family import REFERENCE, PolicyFamily, base_model_path, check_adapters
from mopo_train.rates import clustered_rate

if TYPE_CHECKING:
    from mopo_train.preferences import PreferenceData
    from mopo_train.winrates import FloatArray, IntArray

MAX_LENGTH = 512
"""Tokens of prompt and response; the end of a longer response is cut off, as in training."""


LEAST_PROMPTS = 10
"""With fewer prompts on which two policies differ, a difference is not estimated."""


class PairAccuracy(NamedTuple):
    """Share of strictly labelled pairs that a policy ranks as the label does; equal log-ratios count half."""

    accuracy: float
    low: float
    high: float
    n: int
    """Pairs; the interval is clustered by prompt."""


class PairDifference(NamedTuple):
    """Accuracy of a policy minus that of another on the same pairs."""

    policy: str
    """The other policy: the first trained one, with the loosest floors."""
    mean: float
    low: float
    high: float
    p_value: float
    """Two-sided, of no difference, adjusted for all policies and objectives that are compared (Holm)."""


def ranked_right(data: "PreferenceData", log_ratio: "FloatArray") -> "FloatArray":
    """(R, K) 1 where log [pi / pi_ref] (Y,) ranks a pair as its strict label does, 0.5 where equal, NaN without one."""
    margin = log_ratio[data.first] - log_ratio[data.second]  # (R,)
    sign = np.sign(np.nan_to_num(data.labels - 0.5))  # (R, K)
    right: FloatArray = np.where(sign != 0, (1 + np.sign(margin)[:, None] * sign) / 2, np.nan)
    return right


def pair_accuracies(
    data: "PreferenceData", log_ratio: "FloatArray", confidence: float = 0.95
) -> dict[str, PairAccuracy]:
    """Per objective with a strict label, for log [pi / pi_ref] (Y,) of the distinct responses, in nats."""
    right, found = ranked_right(data, log_ratio), {}
    for k, name in enumerate(data.objectives):
        strict = ~np.isnan(right[:, k])
        if strict.any():
            low, high = clustered_rate(right[strict, k], data.prompt[strict], confidence)
            found[name] = PairAccuracy(float(right[strict, k].mean()), low, high, int(strict.sum()))
    return found


def clustered_difference(
    ours: "FloatArray", theirs: "FloatArray", cluster: "IntArray", confidence: float = 0.95
) -> Difference:
    """Mean of ``ours`` - ``theirs``, (N,) each in [0, 1], whose rows depend on each other within ``cluster`` (N,).

    Student's interval with the clusters' sandwich variance and as many degrees of freedom as clusters less one (Liang
    and Zeger, Biometrika 73, 1986). With fewer than 10 clusters that differ: everything is possible, and p is 1.
    """
    difference, (_, code) = ours - theirs, np.unique(cluster, return_inverse=True)
    mean, clusters = float(difference.mean()), int(code.max()) + 1
    if np.count_nonzero(np.bincount(code, difference != 0)) < LEAST_PROMPTS:
        return Difference(mean, -1.0, 1.0, 1.0, len(difference))
    residual = np.bincount(code, difference - mean)  # (clusters,)
    error = float(np.sqrt((residual**2).sum() * clusters / (clusters - 1))) / len(difference)
    reach = float(stats.t.ppf((1 + confidence) / 2, clusters - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, clusters - 1)) if error > 0 else 0.0
    return Difference(mean, max(-1.0, mean - reach), min(1.0, mean + reach), p_value, len(difference))


def compare_with_first(
    data: "PreferenceData", log_ratios: Mapping[str, "FloatArray"], confidence: float = 0.95
) -> dict[str, dict[str, PairDifference]]:
    """Per later policy and objective with strict labels, its accuracy minus that of the first of ``log_ratios``."""
    right = {policy: ranked_right(data, log_ratio) for policy, log_ratio in log_ratios.items()}
    first = next(iter(right), "")
    made = {}
    for policy in list(right)[1:]:
        for k, name in enumerate(data.objectives):
            strict = ~np.isnan(right[policy][:, k])
            if strict.any():
                ours, theirs = right[policy][strict, k], right[first][strict, k]
                made[policy, name] = clustered_difference(ours, theirs, data.prompt[strict], confidence)
    found: dict[str, dict[str, PairDifference]] = {}
    adjusted = holm([difference.p_value for difference in made.values()])
    for ((policy, name), (mean, low, high, _, _)), p_value in zip(made.items(), adjusted, strict=True):
        found.setdefault(policy, {})[name] = PairDifference(first, mean, low, high, p_value)
    return found


def say_trained(family: PolicyFamily, data: "PreferenceData") -> None:
    """Warn of prompts that ``family`` was trained on: it was moved to rank their pairs as they are labelled."""
    trained = trained_prompts(family)
    if trained is None:
        say(f"training data {', '.join(family.data.source)} is not here: not checked that the pairs are held out")
        return
    places = range(len(data.group))
    if seen := [place for place in places if prompt_hash(data.messages(place)) in trained]:
        begins = str(data.messages(seen[0])[-1]["content"])[:60]
        say(
            f"NOT HELD OUT: {len(seen)} of the {len(places)} prompts are training prompts of this family (the first: "
            f"{begins!r}), which was moved to rank their pairs. How it does on others, held-out pairs tell "
            "('mopo-train split')."
        )


def policy_log_ratios(root: Path, family: PolicyFamily, data: "PreferenceData") -> dict[str, "FloatArray"]:
    """By every trained policy, log [pi / pi_ref] (Y,) of the distinct responses of ``data``, in nats.

    The reference is left out: its log-ratio is 0 everywhere. Log-probabilities are kept in the family's working
    directory. Raises ModelError, DataError.
    """
    from peft import PeftModel

    from mopo_train.cache import cache_root
    from mopo_train.policy.adapter import unwrap
    from mopo_train.policy.corpus import corpus_log_probabilities, encode_corpus
    from mopo_train.policy.models import context_length, directory_digest, fingerprint, load_model, load_tokenizer
    from mopo_train.policy.workspace import WORK

    check_adapters(root, family)
    base = base_model_path(root, family)
    length = min(int(family.config.get("max_length", MAX_LENGTH)), context_length(base))
    corpus = encode_corpus(data, load_tokenizer(base), length)
    every, kept, key = list(range(len(corpus.rows))), root / WORK, fingerprint(base)
    network = load_model(base)
    reference = corpus_log_probabilities(network, corpus, every, cache_root(), key, title=REFERENCE)
    found = {}
    for policy in family.policies:
        if policy.adapter is not None:
            adapter = root / policy.adapter
            wrapped: Any = PeftModel.from_pretrained(network, str(adapter))
            name = f"{key} {directory_digest(adapter)}"
            scores = corpus_log_probabilities(wrapped, corpus, every, kept, name, title=policy.id)
            network = unwrap(wrapped)
            found[policy.id] = scores - reference
    return found
