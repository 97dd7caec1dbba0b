from collections import Counter
from pathlib import Path

from mopo_train.formats import Rated
from mopo_train.ratings import MANY, compare, pairs, partners
from mopo_train.rows import answer_keys, row_keys


def rated(prompt: str, response: str, **ratings: float) -> Rated:
    return Rated([{"role": "user", "content": prompt}], response, ratings)


def paired(tmp_path: Path, *answers: Rated) -> list[tuple[int, str, str, dict[str, float]]]:
    given = (
        (place, answer, answer_keys(answer.prompt, answer.response)) for place, answer in enumerate(answers, start=1)
    )
    found = list(pairs(given, tmp_path / "scratch", Counter()))
    assert all(keys == row_keys(row) for _, row, keys in found)
    return [(place, row.response_a, row.response_b, row.preferences) for place, row, _ in found]


def test_labels_are_the_order_of_the_ratings_both_have() -> None:
    assert compare({"a": 3, "b": 1, "c": 2, "d": 0}, {"a": 1, "b": 4, "c": 2}) == {"a": 1, "b": 0, "c": 0.5}


def test_answers_to_one_prompt_meet_wherever_they_lie(tmp_path: Path) -> None:
    found = paired(tmp_path, rated("q", "x", s=1), rated("r", "x", s=1), rated("q", "y", s=0), rated("r", "y", s=1))
    assert found == [(3, "x", "y", {"s": 1}), (4, "x", "y", {"s": 0.5})]


def test_answers_with_no_rating_in_common_do_not_meet(tmp_path: Path) -> None:
    assert paired(tmp_path, rated("q", "x", s=1), rated("q", "y", t=1), rated("q", "z")) == []


def test_no_answers_make_no_pairs(tmp_path: Path) -> None:
    assert paired(tmp_path) == []


def test_few_answers_all_meet_once() -> None:
    assert list(partners(3)) == [(0, 1), (0, 2), (1, 2)]
    assert len(set(partners(MANY + 1))) == (MANY + 1) * MANY // 2


def test_of_many_answers_each_meets_the_same_number_of_others_once() -> None:
    met = list(partners(300))
    assert len({frozenset(pair) for pair in met}) == len(met) == 300 * MANY // 2
    assert set(Counter(answer for pair in met for answer in pair).values()) == {MANY}


def test_who_meets_among_many_answers_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    answers = [rated("q", f"answer {index}", s=index % 5) for index in range(MANY + 8)]
    found = [paired(tmp_path, *rows) for rows in (answers, answers[::-1])]
    assert [row[1:] for row in found[0]] == [row[1:] for row in found[1]]
    assert len(found[0]) == (MANY + 8) * MANY // 2


def test_more_answers_than_one_batch(tmp_path: Path) -> None:
    found = paired(tmp_path, *(rated(f"q{index % 1250}", f"a{index}", s=index) for index in range(2500)))
    assert [row[1:3] for row in found] == [(f"a{index}", f"a{index + 1250}") for index in range(1250)]
