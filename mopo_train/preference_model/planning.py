"""When a plan fits a preference model, what that costs, and which of the two predictions to believe."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mopo_train.cache import cache_root
from mopo_train.console import say
from mopo_train.preference_model.settings import FOLDS, FitSettings
from mopo_train.preferences import PreferenceData

TRUSTED_COMPARISONS = 5
"""Labelled comparisons per response below which label noise makes predictions visibly optimistic."""
QUICK = 25.0
"""Seconds up to which a plan fits a model without being asked."""
TOKENS_PER_SECOND = 400_000
"""Trained on by one core with the encoder from scratch, as measured on texts of 30 and of 170 tokens."""
CHARACTERS_PER_TOKEN = 3.5
SAMPLED = 200
"""Responses whose length stands for that of all."""


def is_noisy(compared: Mapping[str, float]) -> bool:
    """True where some objective has labels, and few for a response."""
    return any(0 < mean < TRUSTED_COMPARISONS for mean in compared.values())


def fits_by_itself(data: PreferenceData, compared: Mapping[str, float], settings: FitSettings) -> bool:
    """Whether a plan fits a model without being asked: labels are few, and it takes seconds."""
    return is_noisy(compared) and int(data.group.max()) + 1 >= FOLDS and expected_seconds(data, settings) <= QUICK


def expected_seconds(data: PreferenceData, settings: FitSettings) -> float:
    """CPU seconds that cross-fitting takes at least: of the encoder from scratch; a given one is larger."""
    responses = len(data.response_prompt)
    sampled = np.unique(np.linspace(0, responses - 1, min(SAMPLED, responses)).astype(int)).tolist()
    lengths = []
    for index in sampled:
        talk = data.messages(int(data.response_prompt[index]))
        lengths.append(len(data.response(index)) + sum(len(part["content"]) for part in talk))
    tokens = float(np.mean(np.minimum(np.array(lengths) / CHARACTERS_PER_TOKEN, settings.max_length)))
    return (FOLDS - 1) * settings.epochs * responses * tokens / TOKENS_PER_SECOND


def fit_view(data: PreferenceData, settings: FitSettings, seed: int = 0) -> Any:
    """The `view.ModelView` of a model that is cross-fitted to ``data`` now, or was before."""
    from mopo_train.preference_model.crossfit import cross_fit
    from mopo_train.preference_model.view import model_view

    return model_view(data, cross_fit(data, settings, cache_root(), folds=FOLDS, seed=seed))


def advice(learnt: Mapping[str, bool], compared: Mapping[str, float]) -> str:
    """Which predictions to believe, in a sentence for each kind of objective."""
    few = [name for name, mean in compared.items() if 0 < mean < TRUSTED_COMPARISONS]
    believed = [name for name in few if learnt[name]]
    unknown = [name for name in few if not learnt[name]]
    enough = [name for name, mean in compared.items() if mean >= TRUSTED_COMPARISONS]
    sentences = []
    if believed:
        sentences.append(
            f"{', '.join(believed)}: believe the cross-fitted values, not the labels' own, which count noise as quality"
        )
    if unknown:
        sentences.append(
            f"{', '.join(unknown)}: the preference model learnt nothing that holds on other prompts, so believe "
            "neither: expect something between 0.5 and the labels' value"
        )
    if enough:
        sentences.append(f"{', '.join(enough)}: believe the labels, there are enough for each response")
    return "; ".join(sentences) + "."


def tell_cost(data: PreferenceData, settings: FitSettings) -> None:
    """Say what fitting will take, unless it is nothing to speak of."""
    seconds = expected_seconds(data, settings)
    if settings.encoder is None and seconds > QUICK:
        say(f"fitting the preference model takes about {max(1, round(seconds / 60))} min of one core")
