"""A small model that tells whether a claim is supported, contradicted, or not spoken of by statements.

For machines without a hub: multinomial logistic regression on how the claim resembles the nearest true and the nearest
false statement (shared words and character n-grams, negation, numbers). It knows no meaning beyond that, so its
held-out accuracy, which it always tells, is what to read first. It is fitted to rows of right and wrong answers: a
right one is supported by the others, a wrong one is contradicted, and one of another question is not spoken of.
Prompts that it was fitted to are judged by the model of a fold without them.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from mopo_eval.bounds import FloatArray
from mopo_eval.judges.reference import words
from mopo_eval.prompts import Conversation, EvaluationPrompt, prompt_hash, read_prompts
from mopo_eval.reliability import Reliability
from mopo_train.errors import JudgeError
from mopo_train.rates import clustered_rate

SUPPORTED, CONTRADICTED, UNSUPPORTED = "supported", "contradicted", "unsupported"
IntArray = NDArray[np.int64]
KINDS = (SUPPORTED, CONTRADICTED, UNSUPPORTED)
FOLDS = 5
LEAST_ROWS = 20
RIDGE = 1.0
"""Weight of the penalty, per row of data."""
BINS = 10
_NEGATION = re.compile(
    r"\b(?:no|not|never|none|nobody|nothing|neither|nor|cannot|without|false)\b|n't\b", re.IGNORECASE
)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


class Example(NamedTuple):
    """A claim with the statements it is held against."""

    claim: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    kind: int
    """Place in ``KINDS``."""
    row: int
    """Whose question it is."""


class ClaimModel(NamedTuple):
    """The models of all folds."""

    weights: FloatArray
    """(FOLDS, features, 3)"""
    fold: dict[str, int]
    """Of the prompts that it was fitted to, by their hash."""
    reliability: Reliability

    def probabilities(self, prompt: Conversation, claim: str, right: Sequence[str], wrong: Sequence[str]) -> FloatArray:
        """(3,) of ``KINDS``: by the fold without the prompt, or for a new prompt the mean of all."""
        chance: FloatArray = softmax(features(claim, right, wrong) @ self.weights, axis=-1)  # (FOLDS, 3)
        own = self.fold.get(prompt_hash(prompt))
        found: FloatArray = chance.mean(axis=0) if own is None else chance[own]
        return found


def features(claim: str, right: Sequence[str], wrong: Sequence[str]) -> FloatArray:
    """(features,) of ``claim`` against statements that are true and false; a constant last."""
    true, false = _nearest(claim, right), _nearest(claim, wrong)
    more = [np.log1p(len(words(claim))), float(bool(wrong)), true[0] - false[0], true[1] - false[1], 1.0]
    return np.array([*true, *false, *more])


def _nearest(claim: str, statements: Sequence[str]) -> list[float]:
    """How ``claim`` resembles the statement that is most like it, or zeros without any."""
    ours, grams = set(words(claim)), _grams(claim)
    best = [0.0] * 7
    for statement in statements:
        theirs = set(words(statement))
        shared = len(ours & theirs)
        overlap = 2 * shared / max(1, len(ours) + len(theirs))
        other = _grams(statement)
        alike = 2 * len(grams & other) / max(1, len(grams) + len(other))
        numbers, known = set(_NUMBER.findall(claim)), set(_NUMBER.findall(statement))
        found = [
            overlap,
            alike,
            shared / max(1, len(ours)),
            shared / max(1, len(theirs)),
            float(bool(_NEGATION.search(claim)) != bool(_NEGATION.search(statement))),
            float(bool(numbers) and not numbers & known),
            float(bool(numbers & known)),
        ]
        best = max(best, found, key=lambda each: each[0] + each[1])
    return best


def _grams(text: str) -> set[str]:
    """Four characters each, of the words."""
    joined = f" {' '.join(words(text))} "
    return {joined[at : at + 4] for at in range(max(1, len(joined) - 3))}


def examples(prompts: Sequence[EvaluationPrompt], seed: int) -> list[Example]:
    """Claims of known kinds made of right and wrong answers, with and without the wrong ones at hand."""
    rng, made = np.random.default_rng(seed), []
    for row, prompt in enumerate(prompts):
        others = int(rng.integers(1, len(prompts))) + row
        stranger = prompts[others % len(prompts)]
        told = [(claim, 0) for claim in prompt.references] if len(prompt.references) > 1 else []
        told += [(claim, 1) for claim in prompt.incorrect]
        told += [(claim, 2) for claim in (*stranger.references[:2], *stranger.incorrect[:2])]
        for claim, kind in told:
            right = tuple(each for each in prompt.references if each != claim)
            wrong = tuple(each for each in prompt.incorrect if each != claim)
            made += [Example(claim, right, wrong, kind, row), Example(claim, right, (), kind, row)]
    return made


@lru_cache(maxsize=4)
def fit_claim_model(sources: tuple[str, ...], seed: int) -> ClaimModel:
    """The model of the rows in ``sources``, with what folds say of rows that they did not see. Raises JudgeError."""
    prompts = [prompt for source in sources for prompt in read_prompts(Path(source))]
    prompts = list({prompt_hash(p.prompt): p for p in prompts if p.references and p.incorrect}.values())
    if len(prompts) < LEAST_ROWS:
        raise JudgeError(
            f'{len(prompts)} rows of {", ".join(sources)} have "references" and "incorrect"; a model of claims needs '
            f"{LEAST_ROWS}, better 500."
        )
    made = examples(prompts, seed)
    x = np.array([features(each.claim, each.right, each.wrong) for each in made])  # (R, features)
    y, row = np.array([each.kind for each in made]), np.array([each.row for each in made])
    of_row = np.random.default_rng(seed).permutation(len(prompts)) % FOLDS
    fold = of_row[row]
    weights = np.stack([_fit(x[fold != f], y[fold != f]) for f in range(FOLDS)])
    chance = softmax(np.einsum("rf,rfk->rk", x, weights[fold]), axis=-1)  # of rows that the fold's model did not see
    known = {prompt_hash(prompt.prompt): int(of_row[place]) for place, prompt in enumerate(prompts)}
    return ClaimModel(weights, known, _reliability(chance, y, row))


def _fit(x: FloatArray, y: IntArray) -> FloatArray:
    """(features, 3) weights with the least penalised cross-entropy, each kind counting alike."""
    weight = (1 / np.maximum(1, np.bincount(y, minlength=len(KINDS))))[y]
    weight = weight / weight.sum()
    target = np.eye(len(KINDS))[y]

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        w = flat.reshape(x.shape[1], len(KINDS))
        logs = log_softmax(x @ w, axis=1)
        penalty = RIDGE / len(y)
        slope = x.T @ (weight[:, None] * (np.exp(logs) - target)) + penalty * w
        return float(-(weight @ logs[np.arange(len(y)), y]) + penalty * (w**2).sum() / 2), slope.ravel()

    found: FloatArray = minimize(loss, np.zeros(x.shape[1] * len(KINDS)), jac=True, method="L-BFGS-B").x
    return found.reshape(x.shape[1], len(KINDS))


def _reliability(chance: FloatArray, y: IntArray, row: IntArray) -> Reliability:
    right = (chance.argmax(axis=1) == y).astype(float)
    sure, order = chance.max(axis=1), np.argsort(chance.max(axis=1), kind="stable")
    gaps = [abs(float((right[part] - sure[part]).sum())) for part in np.array_split(order, BINS)]
    low, high = clustered_rate(right, row, 0.95)
    commonest = float(np.bincount(y).max() / len(y))
    return Reliability(
        accuracy=float(right.mean()), low=low, high=high, ece=sum(gaps) / len(y), n=len(y), unit="claims",
        chance=commonest,
    )  # fmt: skip
