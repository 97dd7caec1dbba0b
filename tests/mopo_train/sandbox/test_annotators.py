import math

import numpy as np
import pytest

from mopo_train.sandbox.annotators import PANEL, Annotator, Compared, chances, draw_labels, population_preference

NO_WORDS = np.zeros(1)


def compared(first: float, second: float, more_words: float = 0.0) -> Compared:
    return Compared(np.array([first]), np.array([second]), np.array([more_words]))


def test_chances_of_an_annotator_by_hand() -> None:
    somebody = Annotator("x", sharpness=10, lapse=0.1, length_bias=0.1, indifference=0.05)
    clear = 1 / (1 + math.exp(-10 * (0.9 - 0.5)))
    assert chances(somebody, compared(0.9, 0.5)).first[0] == pytest.approx(0.05 + 0.9 * clear)
    assert chances(somebody, compared(0.9, 0.5)).tie[0] == 0
    longer = 1 / (1 + math.exp(-10 * (0.4 + 0.2)))  # twenty words more are worth 0.2
    assert chances(somebody, compared(0.9, 0.5, 20)).first[0] == pytest.approx(0.05 + 0.9 * longer)
    assert chances(somebody, compared(0.5, 0.5)).first[0] == pytest.approx(0.05)
    assert chances(somebody, compared(0.5, 0.5)).tie[0] == pytest.approx(0.9)


@pytest.mark.parametrize(("first", "second", "words"), [(0.9, 0.1, 3), (0.5, 0.5, 0), (0.5, 0.48, -10), (0, 1, 5)])
def test_the_population_is_antisymmetric(first: float, second: float, words: float) -> None:
    there = population_preference(compared(first, second, words))
    back = population_preference(compared(second, first, -words))
    assert there + back == pytest.approx(1)
    assert 0 < there[0] < 1


def test_equals_are_preferred_half_of_the_time_and_better_answers_more_often() -> None:
    assert population_preference(compared(0.4, 0.4))[0] == pytest.approx(0.5)
    rising = [population_preference(compared(0.4 + step / 10, 0.4))[0] for step in range(7)]
    assert rising == sorted(rising) and rising[-1] > 0.9


def test_annotators_differ_on_the_same_pair() -> None:
    pair = compared(0.5, 0.4, 10)
    assert len({round(float(chances(annotator, pair).first[0]), 6) for annotator in PANEL}) == len(PANEL)


@pytest.mark.parametrize("annotator", PANEL, ids=lambda annotator: annotator.name)
def test_labels_come_as_often_as_their_chances_say(annotator: Annotator) -> None:
    many = 20_000
    for pair in (compared(0.65, 0.5, 4), compared(0.5, 0.5)):
        wide = Compared(*(np.repeat(part, many) for part in pair))
        labels = draw_labels(annotator, wide, np.random.default_rng(3))
        chance = chances(annotator, pair)
        error = 4 * math.sqrt(0.25 / many)
        assert set(np.unique(labels)) <= {0.0, 0.5, 1.0}
        assert (labels == 1).mean() == pytest.approx(chance.first[0], abs=error)
        assert (labels == 0.5).mean() == pytest.approx(chance.tie[0], abs=error)
