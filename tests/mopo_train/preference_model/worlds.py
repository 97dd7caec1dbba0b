"""Preference data of text with known win rates, small enough to fit in a test."""

from pathlib import Path

import numpy as np

from mopo_train.preferences import PreferenceData, read_preferences
from mopo_train.winrates import FloatArray
from tests.comparisons import Row, row, write_rows

WORDS = ("dull", "plain", "fair", "good", "superb")
"""Of rising worth, on the first objective; the second prefers the opposite."""


def worth(response: str) -> float:
    """Utility of a response on the first objective, in logits."""
    return 1.5 * (WORDS.index(response.split()[0]) - 2)


def word_rows(prompts: int, seed: int, per_prompt: int = 4, missing: float = 0.0) -> list[Row]:
    """Answers whose first word decides: one noisy pair after the other around a ring of ``per_prompt`` answers."""
    random = np.random.default_rng(seed)
    rows = []
    for index in range(prompts):
        words = random.permutation(len(WORDS))[:per_prompt]
        answers = [f"{WORDS[word]} answer number {random.integers(1000)}" for word in words]
        for a, b in zip(answers, answers[1:] + answers[: per_prompt > 2], strict=False):
            chance = 1 / (1 + np.exp(worth(b) - worth(a)))
            x, y = (float(random.random() < p) for p in (chance, 1 - chance))
            labels = {"x": x, "y": None if random.random() < missing else y}
            rows.append(row(f"Question {index}?", a, b, labels))
    return rows


def word_data(path: Path, prompts: int, seed: int, per_prompt: int = 4, missing: float = 0.0) -> PreferenceData:
    """`word_rows`, written to ``path`` and read."""
    return read_preferences([write_rows(path, word_rows(prompts, seed, per_prompt, missing))])


def true_rates(data: PreferenceData) -> FloatArray:
    """(Y, 2) win rate of each response against all responses of its prompt, itself included."""
    texts = [data.response(index) for index in range(len(data.response_prompt))]
    values = np.array([worth(text) for text in texts])
    rates = np.empty((len(texts), 2))
    for index, prompt in enumerate(data.response_prompt):
        others = values[data.response_prompt == prompt]
        rates[index, 0] = (1 / (1 + np.exp(others - values[index]))).mean()
        rates[index, 1] = 1 - rates[index, 0]
    return rates
