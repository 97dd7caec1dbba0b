"""Cross-fitting: K preference networks, each fitted without one fold of the prompts, and what they say of that fold.

Predictions for a prompt come from the network that has seen neither it nor any prompt of its group. Results are kept
by the digest of data and settings: fitted once, then found again; a fit that is killed continues.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from mopo_train.cache import replacing
from mopo_train.console import progress, say
from mopo_train.policy.models import fingerprint
from mopo_train.preference_model.calibration import best_temperature
from mopo_train.preference_model.folds import assign_folds
from mopo_train.preference_model.network import PreferenceNetwork, make_tokenizer, read_texts
from mopo_train.preference_model.settings import FOLDS, FitSettings
from mopo_train.preference_model.strengths import Pairs, Strengths, logits
from mopo_train.preference_model.training import (
    Lesson,
    compare,
    new_network,
    planned_steps,
    read_strengths,
    train,
)
from mopo_train.preferences import PreferenceData
from mopo_train.winrates import FloatArray, IntArray

FORMAT = 1
"""Of the kept results; another number makes old ones strangers."""


class CrossFit(NamedTuple):
    """Out-of-fold knowledge of every response."""

    strengths: Strengths
    """(Y, ...) by the network that did not see the response's prompt, at its temperature."""
    fold: IntArray
    """(P,) of each prompt."""
    temperature: FloatArray
    """(folds, K) by which logits were divided: fitted on the out-of-fold pairs of the other folds."""


def cross_fit(
    data: PreferenceData,
    settings: FitSettings,
    keep: Path,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    networks: bool = False,
) -> CrossFit:
    """Fit ``folds`` networks on ``data``, or find in ``keep`` that it was done before.

    ``networks`` keeps the networks, too (`fold_networks`). The same data, settings, folds and seed give the same result
    up to the arithmetic of threads. Raises DataError with fewer groups of prompts than folds, ModelError for an encoder
    that cannot be loaded.
    """
    fold = assign_folds(data, folds, seed)
    entry = keep / f"preference-model-{_identity(data, settings, folds, seed)}"
    if not (entry / "raw.npz").is_file() or (networks and not _network(entry, folds - 1).is_file()):
        _fit_all(data, settings, fold, entry, seed=seed, networks=networks)
    with np.load(entry / "raw.npz") as kept:
        raw = Strengths(kept["utility"], kept["vectors"], np.zeros_like(kept["utility"]))
    return calibrate(raw, data, fold)


class FoldNetworks(NamedTuple):
    """The networks behind a `CrossFit`."""

    tokenizer: PreTrainedTokenizerBase
    networks: list[PreferenceNetwork]
    """(folds)"""


def fold_networks(
    data: PreferenceData, settings: FitSettings, keep: Path, *, folds: int = FOLDS, seed: int = 0
) -> FoldNetworks:
    """The networks that `cross_fit` kept with ``networks``."""
    entry = keep / f"preference-model-{_identity(data, settings, folds, seed)}"
    tokenizer = make_tokenizer(settings.encoder, data)
    found = []
    for index in range(folds):
        network = new_network(settings, tokenizer, len(data.objectives), seed)
        network.load_state_dict(load_file(_network(entry, index)))
        found.append(network)
    return FoldNetworks(tokenizer, found)


def calibrate(raw: Strengths, data: PreferenceData, fold: IntArray) -> CrossFit:
    """Divide the logits of each fold by the temperature that is best on the out-of-fold pairs of the others."""
    pairs = labelled_pairs(data)
    z = logits(raw, pairs.first, pairs.second)
    folds, objectives = int(fold.max()) + 1, len(data.objectives)
    temperature = np.ones((folds, objectives))
    for index in range(folds):
        others = fold[data.prompt] != index
        for k in range(objectives):
            temperature[index, k] = best_temperature(z[others, k], pairs.labels[others, k], pairs.weight[others])
    return CrossFit(raw.scaled(temperature[fold[data.response_prompt]]), fold, temperature)


def labelled_pairs(data: PreferenceData) -> Pairs:
    """The rows of ``data`` as numbered comparisons."""
    return Pairs(data.first, data.second, data.labels, data.weight)


def _fit_all(
    data: PreferenceData, settings: FitSettings, fold: IntArray, entry: Path, *, seed: int, networks: bool
) -> None:
    """Fit one network after the other; each leaves what it says of its fold, the last makes the entry whole."""
    tokenizer = make_tokenizer(settings.encoder, data)
    texts = read_texts(data, tokenizer, settings.max_length)
    pairs, objectives = labelled_pairs(data), len(data.objectives)
    folds = int(fold.max()) + 1
    compared = [compare(pairs.take(fold[data.prompt] != index)) for index in range(folds)]
    plans = [planned_steps(part, texts, settings, data.response_prompt, seed) for part in compared]
    work = entry / "work"
    work.mkdir(parents=True, exist_ok=True)
    done = [
        (entry / f"fold-{index}.npz").is_file() and (_network(entry, index).is_file() or not networks)
        for index in range(folds)
    ]
    start = sum(len(plan) for plan, whole in zip(plans, done, strict=True) if whole)
    say(f"preference model: {folds} fits on {len(pairs.first)} pairs, kept in '{entry}'")
    with progress("preference model", sum(map(len, plans)), start) as line:
        for index in np.flatnonzero(~np.array(done)):
            network = new_network(settings, tokenizer, objectives, seed)
            lesson = Lesson(compared[index], texts, plans[index])
            train(network, lesson, settings, seed=seed, work=work / str(index), line=line)
            _save(entry / f"fold-{index}.npz", read_strengths(network, texts))
            if networks:
                _save_network(_network(entry, index), network)
            shutil.rmtree(work / str(index), ignore_errors=True)
    parts = [_load(entry / f"fold-{index}.npz") for index in range(folds)]
    own = fold[data.response_prompt]  # (Y,)
    chosen = [np.stack([getattr(part, name) for part in parts])[own, np.arange(len(own))] for name in Strengths._fields]
    _save(entry / "raw.npz", Strengths(*chosen))
    shutil.rmtree(work, ignore_errors=True)


def _identity(data: PreferenceData, settings: FitSettings, folds: int, seed: int) -> str:
    """Digest of everything that decides the result, the order of rows included: it numbers responses."""
    encoder = fingerprint(settings.encoder) if settings.encoder else None
    told = [FORMAT, data.summary.sha256, list(data.objectives), settings._asdict(), encoder, folds, seed]
    digest = hashlib.sha256(json.dumps(told).encode())
    for array in (data.prompt_key, data.first, data.second, data.prompt, data.labels, data.weight):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:20]


def _network(entry: Path, index: int) -> Path:
    return entry / f"network-{index}.safetensors"


def _save_network(path: Path, network: PreferenceNetwork) -> None:
    with replacing(path) as partial:
        save_file({name: values.contiguous().cpu() for name, values in network.state_dict().items()}, partial)


def _save(path: Path, strengths: Strengths) -> None:
    with replacing(path) as partial:
        np.savez(partial, **strengths._asdict())


def _load(path: Path) -> Strengths:
    with np.load(path) as kept:
        return Strengths(**{name: kept[name] for name in Strengths._fields})
