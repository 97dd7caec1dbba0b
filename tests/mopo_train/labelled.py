"""Labels drawn from known probabilities, as arrays."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mopo_train.winrates import FloatArray, IntArray


class Pairs(NamedTuple):
    """Comparisons as `winrates.Labelled` wants them."""

    objectives: tuple[str, ...]
    labels: FloatArray
    weight: FloatArray
    prompt: IntArray
    first: IntArray
    second: IntArray
    response_prompt: IntArray


def compared(labels: npt.ArrayLike, first: list[int], second: list[int], response_prompt: list[int]) -> Pairs:
    """One row per element of ``first``, all of weight 1; ``labels`` (R, K)."""
    given = np.asarray(labels, dtype=np.float64)
    prompts = np.array(response_prompt)
    one, two = np.array(first), np.array(second)
    return Pairs(tuple("abcde"[: given.shape[1]]), given, np.ones(len(given)), prompts[one], one, two, prompts)


def drawn(
    preference: FloatArray, rounds: int, random: np.random.Generator, *, halo: bool = False
) -> tuple[Pairs, Pairs]:
    """0 and 1 labels for every pair of a prompt's responses, ``rounds`` times over, and the probabilities themselves.

    ``preference`` (P, r, r, K) probability that the first is preferred. With ``halo`` one draw decides all labels of a
    row; otherwise each has its own.
    """
    prompts, r = preference.shape[:2]
    one, two = (np.tile(index, rounds) for index in np.triu_indices(r, 1))
    prompt = np.repeat(np.arange(prompts), len(one))
    chance = preference[:, one, two].reshape(len(prompt), -1)
    luck = random.random((len(chance), 1)) if halo else random.random(chance.shape)
    labels = (luck < chance).astype(np.float64)
    first, second = prompt * r + np.tile(one, prompts), prompt * r + np.tile(two, prompts)
    names = tuple("abcde"[: preference.shape[-1]])
    known = (np.ones(len(prompt)), prompt, first, second, np.repeat(np.arange(prompts), r))
    return Pairs(names, labels, *known), Pairs(names, chance, *known)


def bradley_terry(strength: FloatArray) -> FloatArray:
    """(P, r, r, K) preferences from strengths (P, r, K)."""
    chance: FloatArray = 1 / (1 + np.exp(strength[:, None] - strength[:, :, None]))
    return chance
