import json
from pathlib import Path
from typing import Any

import pytest

from mopo_eval.prompts import (
    EvaluationPrompt,
    beside_data,
    check_unseen,
    choose,
    prompt_hash,
    prompts_path,
    read_prompts,
    trained_prompts,
)
from mopo_train.errors import DataError
from mopo_train.family import PolicyFamily
from tests.families import family

TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Why?"},
]


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def trained_on(*source: str) -> PolicyFamily:
    made = family()
    return made.model_copy(update={"data": made.data.model_copy(update={"source": list(source)})})


def test_prompts_are_texts_or_conversations_and_other_fields_are_ignored(tmp_path: Path) -> None:
    rows = [{"prompt": "One?", "id": 7, "category": "plain", "focus": "x"}, {"prompt": TALK, "id": "talk"}]
    first, second = read_prompts(written(tmp_path / "p.jsonl", rows))
    assert first == EvaluationPrompt("7", "One?", "plain")
    assert second == EvaluationPrompt("talk", TALK, None)
    assert first.messages == [{"role": "user", "content": "One?"}]
    assert second.messages == TALK
    assert (first.text, json.loads(second.text)) == ("One?", TALK)


def test_ids_default_to_a_hash_that_does_not_depend_on_the_place(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    ids = {prompt.prompt: prompt.id for prompt in read_prompts(written(path, [{"prompt": "a"}, {"prompt": "b"}]))}
    again = {prompt.prompt: prompt.id for prompt in read_prompts(written(path, [{"prompt": "b"}, {"prompt": "a"}]))}
    assert ids == again
    assert len(set(ids.values())) == 2


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "no prompts in"),
        ([{"prompt": "a"}, {"prompt": "  "}], "row 2: 'prompt' is empty"),
        ([{"question": "a"}], "row 1: 'prompt' is missing"),
        ([{"prompt": 3}], "row 1"),
        ([{"prompt": []}], "empty list"),
        ([{"prompt": TALK[:2]}], "ends with a message of role 'assistant'"),
        ([{"prompt": [{"role": "user"}]}], "content"),
        ([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}], "row 3: the same prompt is also in row 1"),
        ([{"prompt": "a", "id": 1}, {"prompt": [{"role": "user", "content": "a"}], "id": 2}], "the same prompt"),
        ([{"prompt": "a", "id": 1}, {"prompt": "b", "id": "1"}], "the id '1' is also in row 1"),
    ],
)
def test_prompts_that_cannot_be_measured_on_are_refused(tmp_path: Path, rows: list[Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_prompts(written(tmp_path / "p.jsonl", rows))


def test_a_draw_keeps_the_files_order_and_a_smaller_one_is_part_of_a_larger() -> None:
    prompts = [EvaluationPrompt(str(i), f"Question {i}") for i in range(50)]
    ten, twenty = choose(prompts, 10, seed=3), choose(prompts, 20, seed=3)
    assert (len(ten), len(twenty)) == (10, 20)
    assert set(ten) < set(twenty)
    assert ten == sorted(ten, key=prompts.index)
    assert set(ten) != set(choose(prompts, 10, seed=4))
    assert choose(prompts, None, seed=3) == choose(prompts, 99, seed=3) == prompts


def test_one_prompt_is_not_enough() -> None:
    prompts = [EvaluationPrompt("a", "A"), EvaluationPrompt("b", "B")]
    with pytest.raises(DataError, match="1 prompt to measure on; an interval needs at least 2"):
        choose(prompts, 1, seed=0)


def test_files_beside_the_training_data_are_found(tmp_path: Path) -> None:
    data = written(tmp_path / "pairs.jsonl", [])
    assert beside_data(trained_on(str(data)), "prompts.jsonl") is None
    prompts = written(tmp_path / "prompts.jsonl", [{"prompt": "a"}])
    for source in (str(data), str(tmp_path), f"safety={data}"):
        assert beside_data(trained_on("org/hub-name", source), "prompts.jsonl") == prompts
    assert prompts_path(trained_on(str(data)), None) == prompts
    assert prompts_path(trained_on(str(data)), Path("given")) == Path("given")


def test_without_prompts_the_error_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone/pairs.jsonl.*--prompts"):
        prompts_path(trained_on("gone/pairs.jsonl"), None)


def test_training_prompts_are_found_however_they_are_written(tmp_path: Path) -> None:
    labels = {"preferences": {"helpfulness": 1, "safety": 0}}
    rows = [
        {"prompt": "Seen?", "response_a": "x", "response_b": "y"} | labels,
        {"prompt": TALK, "response_a": "x", "response_b": "y"} | labels,
    ]
    trained = trained_prompts(trained_on(str(written(tmp_path / "pairs.jsonl", rows))))
    assert trained == {prompt_hash("Seen?"), prompt_hash(TALK)}
    prompts = [
        EvaluationPrompt("new", "Unseen?"),
        EvaluationPrompt("old", [{"role": "user", "content": "Seen?"}]),
        EvaluationPrompt("talk", TALK),
    ]
    check_unseen(prompts[:1], trained)
    with pytest.raises(DataError, match=r"2 of the prompts are training prompts.*'old'.*--allow-trained"):
        check_unseen(prompts, trained)


def test_training_data_that_is_not_here_cannot_be_checked() -> None:
    assert trained_prompts(trained_on("org/hub-name")) is None
