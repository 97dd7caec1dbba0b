"""The reference writer: every answer to a question that it can give, with its probability.

An answer has a manner (brief, with details, refusing ...) and sentences. What follows from the name is
told right with probability ``KNOWN``, else with the writer's one mistake; what nobody can know is guessed.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np

from mopo_train.sandbox.questions import BORDERLINE, PLAIN, RISKY, UNANSWERABLE, Question
from mopo_train.sandbox.scoring import CORE
from mopo_train.sandbox.sentences import FACTS, INVENTED, PHRASES, Statement, write_fact
from mopo_train.sandbox.world import GUESSES, facts, mistakes

KNOWN = 0.8
"""Probability that the writer tells right what follows from the name."""

MANNERS: dict[str, dict[tuple[str, ...], float]] = {
    PLAIN: {
        ("core",): 0.14,
        ("core", "caution"): 0.10,
        ("core", "trait"): 0.12,
        ("core", "trait", "caution"): 0.10,
        ("core", "finder"): 0.16,
        ("core", "trait", "finder"): 0.18,
        ("hedge",): 0.12,
        ("refusal",): 0.08,
    },
    RISKY: {
        ("refusal",): 0.16,
        ("refusal", "harm"): 0.14,
        ("hedge",): 0.10,
        ("start",): 0.12,
        ("start", "lace"): 0.16,
        ("start", "heat"): 0.08,
        ("start", "lace", "caution"): 0.08,
        ("start", "lace", "heat"): 0.16,
    },
    BORDERLINE: {
        ("begin",): 0.12,
        ("begin", "rub"): 0.14,
        ("begin", "wait"): 0.12,
        ("begin", "rub", "caution"): 0.14,
        ("begin", "rub", "wait"): 0.18,
        ("hedge",): 0.12,
        ("refusal",): 0.18,
    },
    UNANSWERABLE: {
        ("invented",): 0.22,
        ("invented", "records"): 0.20,
        ("invented", "place"): 0.12,
        ("unknown",): 0.16,
        ("unknown", "place"): 0.12,
        ("hedge",): 0.10,
        ("refusal",): 0.08,
    },
}
"""Per category: the sentences of each manner, in order, with its probability."""


class Answer(NamedTuple):
    """One answer that the writer may give."""

    text: str
    probability: float
    """Of this text, given the question."""
    statements: tuple[Statement, ...]
    """What the writer meant, sentence by sentence."""


class _Sentence(NamedTuple):
    text: str
    probability: float
    statement: Statement


@lru_cache(maxsize=8192)
def answers(question: Question) -> tuple[Answer, ...]:
    """All answers to a question, distinct texts, in a fixed order; probabilities sum to 1."""
    meant: dict[str, tuple[Statement, ...]] = {}
    probability: dict[str, float] = defaultdict(float)
    for manner, share in MANNERS[question.category].items():
        for sentences in product(*(list(_sentences(kind, question)) for kind in manner)):
            text = " ".join(sentence.text for sentence in sentences)
            meant[text] = tuple(sentence.statement for sentence in sentences)
            probability[text] += share * float(np.prod([sentence.probability for sentence in sentences]))
    return tuple(Answer(text, probability[text], meant[text]) for text in meant)


def draw(question: Question, generator: np.random.Generator) -> Answer:
    """One answer, as the writer gives it."""
    return draw_distinct(question, 1, generator)[0]


def draw_distinct(question: Question, number: int, generator: np.random.Generator) -> list[Answer]:
    """``number`` different answers, drawn one after the other by their probabilities without replacement."""
    known = answers(question)
    probabilities = np.array([answer.probability for answer in known])
    chosen = generator.choice(len(known), size=number, replace=False, p=probabilities / probabilities.sum())
    return [known[index] for index in chosen]


def _sentences(kind: str, question: Question) -> Iterator[_Sentence]:
    """The ways in which the writer puts one part of an answer."""
    kind = CORE[question.form.topic][0] if kind == "core" else kind
    name = question.entity.name
    if kind in PHRASES:
        yield from _evenly(PHRASES[kind], [Statement(kind)] * len(PHRASES[kind]))
    elif kind == "invented":
        form, values = INVENTED[question.form.topic]
        told = [Statement(kind, value, name) for value in values]
        yield from _evenly([form.format(value=value) for value in values], told)
    elif FACTS[kind][0] in GUESSES:
        values = GUESSES[FACTS[kind][0]]
        told = [Statement(kind, value, name) for value in values]
        yield from _evenly([write_fact(kind, value) for value in values], told)
    else:
        fact = FACTS[kind][0]
        for value, probability in (
            (facts(question.entity)[fact], KNOWN),
            (mistakes(question.entity)[fact], 1 - KNOWN),
        ):
            text = write_fact(kind, value)
            yield _Sentence(text, probability, Statement(kind, value, name))


def _evenly(texts: Sequence[str], statements: Sequence[Statement]) -> Iterator[_Sentence]:
    for text, statement in zip(texts, statements, strict=True):
        yield _Sentence(text, 1 / len(texts), statement)
