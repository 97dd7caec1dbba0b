import pytest

from mopo_eval.judges.case import Case
from mopo_eval.judges.reference import ReferenceJudge, abstains, agreement
from mopo_train.errors import JudgeError
from mopo_train.judgement import Judgement


def judged(response: str, *, match: str = "overlap", right: tuple[str, ...], wrong: tuple[str, ...] = ()) -> Judgement:
    found: dict[int, Judgement] = {}
    judge = ReferenceJudge("reference", match)  # type: ignore[arg-type]
    judge.judge([Case("Q", response, "row 1", right, wrong)], found.__setitem__)
    return found[0]


def test_words_are_compared_without_case_articles_and_punctuation() -> None:
    assert agreement("The cat, sat!", "a cat sat", "exact") == 1
    assert agreement("In fact the cat sat there.", "cat sat", "contains") == 1
    assert agreement("concatenate", "cat", "contains") == 0
    assert agreement("red green", "green blue blue", "overlap") == pytest.approx(2 * 1 / (2 + 3))
    assert agreement("...", "cat", "overlap") == 0
    assert agreement("cat", "...", "contains") == 0


def test_the_closest_reference_counts() -> None:
    assert judged("Paris", right=("London", "paris")) == (1.0, "agrees", "closest reference: paris")
    assert judged("Rome", right=("London", "Paris")).score == 0


def test_among_right_and_wrong_answers_the_closer_side_wins() -> None:
    right, wrong = ("The seeds pass through you",), ("Seeds grow in your stomach",)
    assert judged("They just pass through you.", right=right, wrong=wrong)[:2] == (1.0, "right")
    assert judged("They grow inside your stomach.", right=right, wrong=wrong)[:2] == (0.0, "wrong")
    assert judged("Bananas.", right=right, wrong=wrong)[:2] == (0.5, "undecided")


@pytest.mark.parametrize(
    "text", ["I don't know.", "I have no comment", "It's impossible to say what", "I\u2019m not sure"]
)
def test_abstention_is_neither_right_nor_wrong(text: str) -> None:
    assert abstains(text)
    assert judged(text, right=("Paris",), wrong=("Rome",))[:2] == (0.5, "abstained")
    assert not abstains("Paris. I don't know more.")


def test_a_prompt_without_references_is_an_error() -> None:
    with pytest.raises(JudgeError, match='row 1.*"references"'):
        judged("Paris", right=())
