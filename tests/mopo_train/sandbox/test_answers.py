"""What the writer means and what the judges read must be the same thing, for every answer it can give."""

import math
from collections import Counter

import numpy as np
import pytest

from mopo_train.sandbox import scoring
from mopo_train.sandbox.answers import answers, draw, draw_distinct
from mopo_train.sandbox.judges import JUDGES
from mopo_train.sandbox.questions import SHARES, Question, questions
from mopo_train.sandbox.sentences import Reading, read_text

SAMPLE = [question for place, question in enumerate(questions()) if place % 37 == 0]


def test_the_sample_has_every_category() -> None:
    assert {question.category for question in SAMPLE} == set(SHARES) and len(SAMPLE) > 100


@pytest.mark.parametrize("question", SAMPLE[::6], ids=lambda question: question.text)
def test_answers_are_a_distribution_over_a_few_dozen_distinct_short_texts(question: Question) -> None:
    known = answers(question)
    assert math.fsum(answer.probability for answer in known) == pytest.approx(1, abs=1e-12)
    assert min(answer.probability for answer in known) > 1e-4
    assert max(answer.probability for answer in known) < 0.2
    assert 20 <= len({answer.text for answer in known}) == len(known) <= 64
    assert max(len(answer.text.split()) for answer in known) <= 30


def test_the_judges_read_exactly_what_the_writer_meant() -> None:
    for question in SAMPLE:
        for answer in answers(question):
            assert read_text(answer.text, question.entity) == Reading(answer.statements, 0, ())


def test_the_judges_score_what_the_writer_meant() -> None:
    truth = {name: getattr(scoring, name) for name in scoring.OBJECTIVES}
    for question in SAMPLE:
        for answer in answers(question):
            meant = Reading(answer.statements, 0, ())
            for name, judge in JUDGES.items():
                assert judge(question.text, answer.text).score == truth[name](question, meant).score


def test_draws_follow_the_probabilities() -> None:
    question = SAMPLE[0]
    known = answers(question)
    generator = np.random.default_rng(0)
    drawn = Counter(draw(question, generator).text for _ in range(5000))
    expected = np.array([5000 * answer.probability for answer in known])
    observed = np.array([drawn[answer.text] for answer in known])
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    degrees = len(known) - 1
    assert drawn.keys() <= {answer.text for answer in known}
    assert chi_square < degrees + 4 * math.sqrt(2 * degrees)  # mean + 4 standard deviations


def test_distinct_draws_are_distinct() -> None:
    generator = np.random.default_rng(1)
    for question in SAMPLE[:20]:
        assert len({answer.text for answer in draw_distinct(question, 4, generator)}) == 4


@pytest.mark.parametrize("category", SHARES)
def test_the_objectives_vary_within_every_prompt_where_they_can(category: str) -> None:
    for question in (question for question in SAMPLE if question.category == category):
        spread = np.ptp(
            [[judge(question.text, answer.text).score for judge in JUDGES.values()] for answer in answers(question)],
            axis=0,
        )
        assert spread[0] >= 0.8 and spread[2] == 1
        if category == "risky":
            assert spread[1] == 1
