import json
from collections import Counter

import numpy as np
import pytest

from mopo_train.errors import DataError
from mopo_train.sandbox.judges import JUDGES
from mopo_train.sandbox.pairs import comparisons, corpus, divide, held_out_questions, training_questions
from mopo_train.sandbox.questions import SHARES, read_question
from mopo_train.sandbox.scoring import OBJECTIVES
from mopo_train.sandbox.world import ENDINGS, STEMS, entities

SEED = 11
ROWS = comparisons(SEED, training_questions(SEED, 500))
LABELS = np.array([[row["preferences"][name] for name in OBJECTIVES] for row in ROWS]) - 0.5  # > 0: a preferred


@pytest.mark.parametrize("seed", [0, 1, 11])
def test_held_out_entities_appear_nowhere_in_training(seed: int) -> None:
    held_out = {question.entity.name for question in held_out_questions(seed, 200)}
    trained = {question.entity.name for question in training_questions(seed, 500)}
    texts = " ".join(f"{text.prompt} {text.response}" for text in corpus(seed, 3000))
    assert not held_out & trained
    assert not [name for name in held_out if name in texts]
    sides = divide(seed)
    assert sorted(entity.name for entity in sides.held_out + sides.training) == sorted(e.name for e in entities())


def test_every_stem_and_every_ending_is_known_from_training() -> None:
    sides = divide(SEED)
    assert Counter(entity.stem for entity in sides.held_out) == dict.fromkeys(STEMS, 2)
    assert Counter(entity.ending.word for entity in sides.held_out) == {
        ending.word: 2 * len(STEMS) // len(ENDINGS) for ending in ENDINGS
    }


def test_prompts_are_distinct_and_have_the_shares_of_their_categories() -> None:
    for asked in (training_questions(SEED, 500), held_out_questions(SEED, 200)):
        assert len({question.text for question in asked}) == len(asked)
        counts = Counter(question.category for question in asked)
        assert {name: counts[name] / len(asked) for name in SHARES} == pytest.approx(SHARES)
    assert len(training_questions(SEED, 7)) == 7


def test_more_prompts_than_the_world_has_are_refused_with_the_number_that_it_has() -> None:
    with pytest.raises(DataError, match=r"no 100000 held-out prompts; ask for at most \d+"):
        held_out_questions(SEED, 100_000)
    most = int(str(pytest.raises(DataError, held_out_questions, SEED, 100_000).value).rpartition(" ")[2].rstrip("."))
    assert len(held_out_questions(SEED, most)) == most


def test_rows_are_comparisons_of_different_answers_with_the_entity_as_group() -> None:
    for row in ROWS:
        assert set(row) == {"prompt", "response_a", "response_b", "preferences", "annotator", "group"}
        assert row["response_a"] != row["response_b"] and row["response_a"] and row["response_b"]
        assert set(row["preferences"]) == set(OBJECTIVES)
        assert set(row["preferences"].values()) <= {0.0, 0.5, 1.0}
        assert row["group"] == read_question(row["prompt"]).entity.name
    assert len({row["annotator"] for row in ROWS}) >= 3


def test_every_response_is_compared_at_least_five_times() -> None:
    times = Counter((row["prompt"], row[side]) for row in ROWS for side in ("response_a", "response_b"))
    assert set(times.values()) == {6}  # three others, two annotators each


def test_a_quarter_of_the_labels_disagree_between_helpfulness_and_each_other_objective() -> None:
    for other in (1, 2):
        assert (LABELS[:, 0] * LABELS[:, other] < 0).mean() >= 0.25


def test_the_disagreement_is_in_the_answers_and_not_only_in_the_noise() -> None:
    scores = np.array(
        [
            [JUDGES[name](row["prompt"], row["response_a"]).score - JUDGES[name](row["prompt"], row["response_b"]).score
             for name in OBJECTIVES]
            for row in ROWS
        ]
    )  # fmt: skip
    for other in (1, 2):
        assert (scores[:, 0] * scores[:, other] < 0).mean() >= 0.25
    for k in range(3):  # and the labels follow the scores
        clear = np.abs(scores[:, k]) > 0.25
        assert (np.sign(scores[clear, k]) == np.sign(LABELS[clear, k])).mean() > 0.8


def test_neither_position_is_favoured() -> None:
    for k in range(3):
        strict = LABELS[LABELS[:, k] != 0, k]
        assert abs((strict > 0).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(strict))


def test_a_seed_decides_everything() -> None:
    def texts(seed: int) -> str:
        rows = comparisons(seed, training_questions(seed, 20))
        return json.dumps([rows, [q.text for q in held_out_questions(seed, 20)], corpus(seed, 20)])

    assert texts(5) == texts(5)
    assert texts(5) != texts(6)
