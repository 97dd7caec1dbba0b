"""Label pairs of candidates by a preference model: preference data that `plan` and `run` read like any other.

A prompt of the data that the model was fitted to is labelled by the network that did not see it, another prompt by the
mean of all networks. Labels are probabilities: every pair of a prompt's candidates has one on every objective, so no
noise of single labels is left, only the model's own error.
"""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mopo_train.cache import cache_root
from mopo_train.errors import DataError
from mopo_train.family import write_whole
from mopo_train.preference_model.crossfit import cross_fit, fold_networks
from mopo_train.preference_model.network import encode
from mopo_train.preference_model.settings import FOLDS, FitSettings
from mopo_train.preference_model.strengths import preferences
from mopo_train.preference_model.training import read_strengths
from mopo_train.preferences import PreferenceData
from mopo_train.rows import Message, RowError, answer_keys, plain, read_prompt, read_text, to_json
from mopo_train.sources import find
from mopo_train.winrates import FloatArray, IntArray


def label_candidates(
    data: PreferenceData, candidates: str, out: Path, settings: FitSettings, *, seed: int = 0
) -> tuple[int, int]:
    """Write ``out``: every pair of the distinct answers to a prompt in ``candidates``, labelled by a model of ``data``.

    Returns the pairs and the prompts. ``candidates`` are rows {prompt, response}. Raises DataError for rows that cannot
    be used, and where no prompt has two different answers.
    """
    talks, answers = read_candidates(candidates)
    starts = np.cumsum([0, *(len(each) for each in answers)])
    pairs = [
        (start + a, start + b)
        for start, each in zip(starts, answers, strict=False)
        for a, b in combinations(range(len(each)), 2)
    ]
    chance = compare_answers(data, settings, talks, answers, np.array(pairs, dtype=np.int64), seed=seed)
    write_whole(out, "".join(_rows(data.objectives, talks, answers, chance)))
    return len(pairs), len(talks)


def compare_answers(
    data: PreferenceData,
    settings: FitSettings,
    talks: list[list[Message]],
    answers: list[list[str]],
    pairs: IntArray,
    *,
    seed: int = 0,
) -> FloatArray:
    """(M, K) probability that the first answer of each of ``pairs`` (M, 2) is preferred, by a model of ``data``.

    ``answers`` are those to each of ``talks``; pairs number them one conversation after the other.
    """
    fitted = cross_fit(data, settings, cache_root(), folds=FOLDS, seed=seed, networks=True)
    networks = fold_networks(data, settings, cache_root(), folds=FOLDS, seed=seed)
    prompt_of = np.repeat(np.arange(len(talks)), [len(each) for each in answers]).tolist()
    texts = encode(
        networks.tokenizer, talks, [text for each in answers for text in each], prompt_of, settings.max_length
    )
    read = [
        read_strengths(network, texts).scaled(temperature)
        for network, temperature in zip(networks.networks, fitted.temperature, strict=True)
    ]
    first, second = pairs.T
    chances = np.stack([preferences(strengths, first, second) for strengths in read])  # (folds, M, K)
    own = _own_folds(data, fitted.fold, talks)[np.array(prompt_of)[first]]  # (M,) -1: a prompt that is not in data
    chance: FloatArray = np.where((own < 0)[:, None], chances.mean(axis=0), chances[own, np.arange(len(first))])
    return chance


def read_candidates(candidates: str) -> tuple[list[list[Message]], list[list[str]]]:
    """Conversations with at least two different answers, and the distinct answers of each. Raises DataError."""
    talks: dict[bytes, list[Message]] = {}
    answers: dict[bytes, dict[str, None]] = {}
    for raw in find(candidates):
        for place, row in raw.rows():
            try:
                talk, response = _candidate(row)
                key = answer_keys(talk, response)[:16]
            except RowError as error:
                raise DataError(f"'{raw.name}' {raw.unit} {place}: {error}.") from error
            talks.setdefault(key, talk)
            answers.setdefault(key, {})[response] = None
    kept = [key for key, found in answers.items() if len(found) > 1]
    if not kept:
        raise DataError(
            f"no prompt of '{candidates}' has two different answers, so there is nothing to compare; sample more with "
            "'mopo-train candidates --per-prompt 8'."
        )
    return [talks[key] for key in kept], [list(answers[key]) for key in kept]


def _candidate(row: Mapping[str, Any]) -> tuple[list[Message], str]:
    if missing := {"prompt", "response"} - row.keys():
        raise RowError(f"it lacks {', '.join(sorted(missing))}; a candidate is {{prompt, response}}")
    return read_prompt(row["prompt"]), read_text(row["response"], "response")


def _own_folds(data: PreferenceData, fold: np.ndarray[Any, Any], talks: list[list[Message]]) -> np.ndarray[Any, Any]:
    """(candidates' prompts,) the fold of each; -1 for prompts that ``data`` does not hold."""
    known = {key.tobytes(): int(part) for key, part in zip(data.prompt_key.astype("<u8"), fold, strict=True)}
    return np.array([known.get(answer_keys(talk, "")[:16], -1) for talk in talks], dtype=np.int64)


def _rows(
    objectives: tuple[str, ...], talks: list[list[Message]], answers: list[list[str]], chance: FloatArray
) -> list[str]:
    """Lines of preference data, pairs in the order of ``chance`` (M, K)."""
    lines: list[str] = []
    for talk, given in zip(talks, answers, strict=True):
        for a, b in combinations(given, 2):
            labels = dict(zip(objectives, chance[len(lines)].tolist(), strict=True))
            row = {"prompt": plain(talk), "response_a": a, "response_b": b, "preferences": labels}
            lines.append(to_json(row) + "\n")
    return lines
