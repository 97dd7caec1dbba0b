"""Finite response sets whose preferences are known exactly, and noisy, partly labelled comparisons of them.

Every kind gives the probability that a response is preferred as a function of latent positions. Win rates are exact
sums over all other responses, which count alike.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mopo_train.winrates import WinRates, from_rates

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
SCALE = 1.5
"""Standard deviation of strengths, in logits: two responses at random are told apart with probability about .77."""
CORRELATED, OPPOSED = 0.8, 0.95
"""Correlation of strengths between objectives, and the part of the largest possible anticorrelation."""
CYCLE = 2.0
"""Size of the cyclic part, in logits."""
MAJORITY = 0.6
"""Share of the larger of two populations."""
LABELLED = 0.7
"""Chance that an objective of a comparison is labelled."""
FEATURES = 8
"""Noisy mixtures of the latent positions that a preference model may see."""
BLOCK = 2**22
"""Pairs of responses worked on at a time."""


class World(NamedTuple):
    """Y responses on K objectives."""

    rates: WinRates
    """One prompt, with exact win rates."""
    preference: Callable[[IntArray, IntArray], FloatArray]
    """(R, K) probabilities that the first of each pair is preferred."""
    features: FloatArray
    """(Y, FEATURES)"""


class Comparisons(NamedTuple):
    """As `winrates.Labelled` wants them."""

    objectives: tuple[str, ...]
    labels: FloatArray
    weight: FloatArray
    prompt: IntArray
    first: IntArray
    second: IntArray
    response_prompt: IntArray


def sigmoid(z: FloatArray) -> FloatArray:
    """The logistic function."""
    return np.asarray(1 / (1 + np.exp(-z)))


def strengths(responses: int, correlation: FloatArray, rng: np.random.Generator) -> FloatArray:
    """(Y, K) Gaussian strengths with the ``correlation`` (K, K)."""
    return SCALE * rng.multivariate_normal(np.zeros(len(correlation)), correlation, responses, method="eigh")


def equal(objectives: int, correlation: float) -> FloatArray:
    """(K, K) the same correlation between all."""
    return np.full((objectives, objectives), correlation) + (1 - correlation) * np.eye(objectives)


class Latent(NamedTuple):
    """Positions and how preferences follow from them."""

    positions: FloatArray
    """(Y, D)"""
    preference: Callable[[IntArray, IntArray], FloatArray]


def bradley_terry(strength: FloatArray) -> Latent:
    """P = sigmoid of the difference of strengths."""
    return Latent(strength, lambda a, b: sigmoid(strength[a] - strength[b]))


def cyclic(strength: FloatArray, angle: FloatArray) -> Latent:
    """As Bradley-Terry with half the strength; besides, a response beats those up to half a turn behind it."""
    positions = np.concatenate([strength, np.cos(angle), np.sin(angle)], axis=1)

    def preference(a: IntArray, b: IntArray) -> FloatArray:
        return sigmoid((strength[a] - strength[b]) / 2 + CYCLE * np.sin(angle[a] - angle[b]))

    return Latent(positions, preference)


def mixture(major: FloatArray, minor: FloatArray) -> Latent:
    """Two populations, each with sharp strengths of its own: transitive each, not together."""

    def preference(a: IntArray, b: IntArray) -> FloatArray:
        return MAJORITY * sigmoid(2 * (major[a] - major[b])) + (1 - MAJORITY) * sigmoid(2 * (minor[a] - minor[b]))

    return Latent(np.concatenate([major, minor], axis=1), preference)


def latent(kind: str, responses: int, objectives: int, rng: np.random.Generator) -> Latent:
    """Latent positions and preferences of a ``kind`` of `KINDS`."""
    opposed = -OPPOSED / (objectives - 1)
    correlation = {"correlated": CORRELATED, "opposed": opposed}.get(kind, 0.0)
    first = strengths(responses, equal(objectives, correlation), rng)
    if kind == "cyclic":
        return cyclic(first, rng.vonmises(0.0, 0.5, (responses, objectives)))
    if kind == "mixture":
        return mixture(first, strengths(responses, equal(objectives, 0.0), rng))
    return bradley_terry(first)


KINDS = ("independent", "correlated", "opposed", "cyclic", "mixture")
"""Bradley-Terry three times, then preferences that no strengths explain."""


def make_world(kind: str, responses: int, objectives: int, rng: np.random.Generator) -> World:
    """Responses of one prompt with exact win rates over all others."""
    made = latent(kind, responses, objectives, rng)
    rates = np.empty((responses, objectives))
    step = max(1, BLOCK // responses)
    everyone = np.arange(responses)
    for begin in range(0, responses, step):
        rows = everyone[begin : begin + step]
        won = made.preference(np.repeat(rows, responses), np.tile(everyone, len(rows)))
        sums = won.reshape(len(rows), responses, objectives).sum(axis=1)
        rates[rows] = (sums - 0.5) / (responses - 1)  # a response does not meet itself
    mixing = rng.normal(size=(made.positions.shape[1], FEATURES)) / np.sqrt(made.positions.shape[1])
    seen = made.positions @ mixing
    seen += 0.3 * seen.std() * rng.normal(size=seen.shape)
    return World(from_rates(tuple("abcde"[:objectives]), rates, [0, responses]), made.preference, seen)


def compare(world: World, pairs: int, rng: np.random.Generator) -> Comparisons:
    """Random pairs of different responses, labelled 0 or 1 by one annotator each, some objectives left out."""
    responses, objectives = world.rates.rates.shape
    first = rng.integers(0, responses, pairs)
    second = (first + rng.integers(1, responses, pairs)) % responses
    chance = world.preference(first, second)
    labels = (rng.random(chance.shape) < chance).astype(np.float64)
    labels[rng.random(labels.shape) >= LABELLED] = np.nan
    labels[0] = np.nan_to_num(labels[0], nan=0.5)  # every objective has a label
    names = tuple("abcde"[:objectives])
    alone = np.zeros(responses, dtype=np.int64)
    return Comparisons(names, labels, np.ones(pairs), np.zeros(pairs, dtype=np.int64), first, second, alone)
