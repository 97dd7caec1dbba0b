"""People who compare two answers: each with a sharpness, a lapse rate and a taste for length of their own.

The probability that the population prefers an answer is known exactly (``population_preference``); the data
holds one annotator's label per row (``draw_labels``).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


class Annotator(NamedTuple):
    """Habits of one person."""

    name: str
    sharpness: float
    """Slope of the logistic curve per unit of judge score; larger is more reliable."""
    lapse: float
    """Probability of answering at random."""
    length_bias: float
    """Judge score that ten more words are worth to this person, on helpfulness only."""
    indifference: float
    """Differences smaller than this are called a tie."""


PANEL: tuple[Annotator, ...] = (
    Annotator("ines", sharpness=14.0, lapse=0.02, length_bias=0.00, indifference=0.02),
    Annotator("juri", sharpness=9.0, lapse=0.05, length_bias=0.08, indifference=0.04),
    Annotator("kofi", sharpness=6.0, lapse=0.05, length_bias=0.15, indifference=0.06),
    Annotator("lotte", sharpness=10.0, lapse=0.12, length_bias=-0.05, indifference=0.02),
    Annotator("mina", sharpness=4.0, lapse=0.10, length_bias=0.20, indifference=0.08),
)
"""The population of the sandbox: its members count alike."""


class Compared(NamedTuple):
    """Two answers, or arrays of them that broadcast, on one objective."""

    first: FloatArray
    """Judge score of the first answer."""
    second: FloatArray
    more_words: FloatArray
    """Words of the first answer minus words of the second; zeros where length plays no part."""


class Chances(NamedTuple):
    """Probabilities of what one annotator says; the rest is that the second is better."""

    first: FloatArray
    tie: FloatArray


def chances(annotator: Annotator, compared: Compared) -> Chances:
    """How likely the annotator prefers the first answer, or calls a tie."""
    difference = compared.first - compared.second + annotator.length_bias * compared.more_words / 10
    equal = np.abs(difference) < annotator.indifference
    attentive, lapse = 1 - annotator.lapse, annotator.lapse
    clear = 1 / (1 + np.exp(-annotator.sharpness * difference))
    first: FloatArray = lapse / 2 + attentive * np.where(equal, 0.0, clear)
    tie: FloatArray = np.where(equal, attentive, 0.0)
    return Chances(first, tie)


def population_preference(compared: Compared) -> FloatArray:
    """P(first preferred): the mean over the panel, a tie counted half. Antisymmetric: P(a, b) + P(b, a) = 1."""
    each = [chances(annotator, compared) for annotator in PANEL]
    mean: FloatArray = np.mean([chance.first + chance.tie / 2 for chance in each], axis=0)
    return mean


def draw_labels(annotator: Annotator, compared: Compared, generator: np.random.Generator) -> FloatArray:
    """One label per comparison: 1 first, 0 second, 0.5 tie."""
    chance = chances(annotator, compared)
    drawn = generator.random(np.shape(chance.first))
    labels: FloatArray = np.where(drawn < chance.first, 1.0, np.where(drawn < chance.first + chance.tie, 0.5, 0.0))
    return labels
