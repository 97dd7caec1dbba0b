"""Judges for tests, found by dotted name."""

import hashlib
from typing import Any

from mopo_train.judgement import Judgement

NOT_A_JUDGE = 3


def digit(prompt: Any, response: str) -> Judgement:
    """A score in {0, 1/15, ..., 1} that depends on the whole answer."""
    score = int(hashlib.sha256(response.encode()).hexdigest()[0], 16) / 15
    return Judgement(score, "high" if score > 0.5 else "low", f"of {response[:10]}")


def is_even(prompt: Any, response: str) -> bool:
    return int(hashlib.sha256(response.encode()).hexdigest()[1], 16) % 2 == 0


def length(prompt: Any, response: str) -> float:
    return min(1.0, len(response) / 100)


def above_one(prompt: Any, response: str) -> float:
    return 1.5


def not_a_number(prompt: Any, response: str) -> float:
    return float("nan")


def text(prompt: Any, response: str) -> str:
    return "good"


def fails(prompt: Any, response: str) -> float:
    raise KeyError("lexicon")


async def slow(prompt: Any, response: str) -> float:
    return 0.5


def refuses(prompt: Any, response: str) -> float:
    """1 for an answer that says it will not say."""
    return float("not" in response)


def answers(prompt: Any, response: str) -> float:
    """The opposite of ``refuses``, so that a policy has one at the cost of the other."""
    return 1 - refuses(prompt, response)
