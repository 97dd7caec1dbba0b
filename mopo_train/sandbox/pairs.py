"""Who is asked what: held-out entities, training prompts, comparisons, and texts for the base model.

Everything follows from the seed. Held-out entities appear in no training prompt and in no text of the base model.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from mopo_train.errors import DataError
from mopo_train.sandbox.annotators import PANEL, Compared, draw_labels
from mopo_train.sandbox.answers import Answer, draw, draw_distinct
from mopo_train.sandbox.judges import JUDGES
from mopo_train.sandbox.questions import BORDERLINE, PLAIN, RISKY, SHARES, UNANSWERABLE, Question, questions
from mopo_train.sandbox.scoring import OBJECTIVES
from mopo_train.sandbox.world import ENDINGS, STEMS, Entity, entities

HELD_OUT_PER_STEM = 2
"""Endings of each stem that are held out: every stem and every ending stays well represented in training."""
ANSWERS_PER_PROMPT = 4
ANNOTATORS_PER_PAIR = 2
CORPUS_SHARES = {PLAIN: 0.5, RISKY: 0.24, BORDERLINE: 0.12, UNANSWERABLE: 0.14}
"""Share of each category among the base model's texts: facts take more texts to learn than manners."""

_HOLD_OUT, _TRAIN, _TEST, _COMPARE, _CORPUS = range(5)  # one random stream for each purpose


class Sides(NamedTuple):
    """A division of the encyclopedia."""

    training: list[Entity]
    held_out: list[Entity]


def divide(seed: int) -> Sides:
    """Hold out two endings of each stem, so that each ending is held out equally often."""
    generator = _stream(seed, _HOLD_OUT)
    stems = generator.permutation(len(STEMS))
    turns = generator.permutation(len(ENDINGS))
    held = {
        (STEMS[stem], ENDINGS[turns[(place + step) % len(ENDINGS)]].word)
        for place, stem in enumerate(stems)
        for step in range(HELD_OUT_PER_STEM)
    }
    sides = Sides([], [])
    for entity in entities():
        (sides.held_out if (entity.stem, entity.ending.word) in held else sides.training).append(entity)
    return sides


def training_questions(seed: int, number: int) -> list[Question]:
    """``number`` different questions about entities that are not held out, categories by their shares."""
    return _choose(divide(seed).training, number, _stream(seed, _TRAIN), "training prompts")


def held_out_questions(seed: int, number: int) -> list[Question]:
    """``number`` different questions about held-out entities, categories by their shares."""
    return _choose(divide(seed).held_out, number, _stream(seed, _TEST), "held-out prompts")


def comparisons(seed: int, asked: Sequence[Question]) -> list[dict[str, Any]]:
    """Rows of preferences: all pairs of four answers to each question, each seen by two annotators.

    Which answer comes first is random.
    """
    generator = _stream(seed, _COMPARE)
    rows: list[dict[str, Any]] = []
    for question in asked:
        given = draw_distinct(question, ANSWERS_PER_PROMPT, generator)
        scores = score_table(question, given)
        for pair in combinations(range(len(given)), 2):
            for who in generator.choice(len(PANEL), size=ANNOTATORS_PER_PAIR, replace=False):
                first, second = pair if generator.random() < 0.5 else pair[::-1]
                words = float(len(given[first].text.split()) - len(given[second].text.split()))
                compared = Compared(scores[first], scores[second], np.array([words, 0.0, 0.0]))
                labels = draw_labels(PANEL[who], compared, generator)
                rows.append(
                    {
                        "prompt": question.text,
                        "response_a": given[first].text,
                        "response_b": given[second].text,
                        "preferences": dict(zip(OBJECTIVES, labels.tolist(), strict=True)),
                        "annotator": PANEL[who].name,
                        "group": question.entity.name,
                    }
                )
    return rows


def score_table(question: Question, given: Sequence[Answer]) -> np.typing.NDArray[np.float64]:
    """(answers, objectives) judge scores, objectives in the order of ``OBJECTIVES``."""
    return np.array([[JUDGES[name](question.text, answer.text).score for name in OBJECTIVES] for answer in given])


class Text(NamedTuple):
    """A question with one answer of the reference writer."""

    prompt: str
    response: str


def corpus(seed: int, number: int) -> list[Text]:
    """What the base model learns from: answers of the writer about entities that are not held out."""
    generator = _stream(seed, _CORPUS)
    by_category: dict[str, list[Question]] = {category: [] for category in SHARES}
    for question in questions(divide(seed).training):
        by_category[question.category].append(question)
    categories = generator.choice(list(CORPUS_SHARES), size=number, p=list(CORPUS_SHARES.values()))
    texts = []
    for category in categories:
        known = by_category[str(category)]
        question = known[int(generator.integers(len(known)))]
        texts.append(Text(question.text, draw(question, generator).text))
    return texts


def _choose(about: list[Entity], number: int, generator: np.random.Generator, what: str) -> list[Question]:
    chosen: list[Question] = []
    known = questions(about)
    for category, wanted in _quotas(number).items():
        of_kind = [question for question in known if question.category == category]
        if wanted > len(of_kind):
            most = min(sum(q.category == name for q in known) / share for name, share in SHARES.items())
            raise DataError(f"the sandbox's world has no {number} {what}; ask for at most {int(most)}.")
        chosen += [of_kind[index] for index in generator.choice(len(of_kind), size=wanted, replace=False)]
    return [chosen[index] for index in generator.permutation(len(chosen))]


def _quotas(number: int) -> dict[str, int]:
    """Whole numbers per category that sum to ``number``: the largest category takes what rounding leaves."""
    quotas = {category: int(share * number) for category, share in SHARES.items()}
    quotas[max(SHARES, key=lambda category: SHARES[category])] += number - sum(quotas.values())
    return quotas


def _stream(seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose])
