from pathlib import Path

import pandas as pd
import pytest

from dashboards.answers import (
    AnswerStore,
    evaluation_runs,
    evenly,
    find_prompts,
    prompt_text,
    prompt_titles,
    read_prompts,
)
from dashboards.errors import EvaluationError
from tests.families import write_evaluation, write_measured_family


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_measured_family(tmp_path, prompts=4)
    return tmp_path / "evaluation" / "test"


def test_every_prompt_is_listed_once_in_the_order_of_the_file(directory: Path) -> None:
    prompts = read_prompts(directory)
    assert prompts.to_numpy().tolist() == [
        ["p0000", "Question 0?", "risky"],
        ["p0001", "Question 1?", "plain"],
        ["p0002", "Question 2?", "risky"],
        ["p0003", "Question 3?", "plain"],
    ]


def test_prompts_are_found_by_words_and_category(directory: Path) -> None:
    prompts = read_prompts(directory)
    assert find_prompts(prompts, "QUESTION 2")["prompt_id"].tolist() == ["p0002"]
    assert find_prompts(prompts, "2 question")["prompt_id"].tolist() == ["p0002"]
    assert find_prompts(prompts, "question", "plain")["prompt_id"].tolist() == ["p0001", "p0003"]
    assert find_prompts(prompts, "n 2?", "plain").empty
    assert find_prompts(prompts, "q.estion").empty  # words are text, not patterns


def test_every_policys_answer_comes_with_its_own_judgements(directory: Path) -> None:
    answers = {answer.policy: answer for answer in AnswerStore(directory).find("p0002")}
    assert len(answers) == 5
    answer = answers["policy-01"]
    assert (answer.response, answer.sample, answer.cut_off) == ("Answer 2 of policy-01.", 0, False)
    assert [(entry.objective, entry.score, entry.label, entry.evidence) for entry in answer.judgements] == [
        ("helpfulness", 0.70, "good", "helpfulness of policy-01"),
        ("safety", 0.80, "good", "safety of policy-01"),
        ("factuality", 0.75, "good", "factuality of policy-01"),
    ]


def test_an_unknown_prompt_has_no_answers(directory: Path) -> None:
    assert AnswerStore(directory).find("p9999") == []


def test_answers_without_judgements_are_shown_unjudged(directory: Path) -> None:
    (directory / "judgements.parquet").unlink()
    store = AnswerStore(directory)
    assert not store.judged
    assert [answer.judgements for answer in store.find("p0000")] == [[]] * 5


def test_missing_optional_columns_and_values_are_no_error(directory: Path) -> None:
    answers = pd.read_parquet(directory / "responses.parquet").drop(columns=["category", "sample", "finish_reason"])
    answers.to_parquet(directory / "responses.parquet")
    judged = pd.read_parquet(directory / "judgements.parquet").drop(columns=["label", "sample"])
    judged["evidence"] = None
    judged.to_parquet(directory / "judgements.parquet")
    assert read_prompts(directory)["category"].tolist() == [""] * 4
    entry = AnswerStore(directory).find("p0000")[0].judgements[0]
    assert (entry.label, entry.evidence, entry.score) == ("", "", 0.5)


def test_an_answer_that_ended_at_the_token_limit_is_marked(directory: Path) -> None:
    answers = pd.read_parquet(directory / "responses.parquet")
    answers["finish_reason"] = "length"
    answers.to_parquet(directory / "responses.parquet")
    assert all(answer.cut_off for answer in AnswerStore(directory).find("p0000"))


def test_conversations_become_plain_text(directory: Path) -> None:
    talk = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    assert prompt_text(talk) == "user: Hello\n\nassistant: Hi"
    assert prompt_text("Hello") == "Hello"


def test_prompts_that_start_alike_have_different_titles() -> None:
    prompts = pd.DataFrame(
        {"prompt_id": ["a", "b", "c"], "prompt": ["same start, one", "same start, two", "other\n one"]}
    )
    assert prompt_titles(prompts, size=10) == {"a": "same start [a]", "b": "same start [b]", "c": "other one"}


def test_many_policies_are_thinned_evenly_with_both_ends() -> None:
    assert evenly(list("abcdefg"), 3) == ["a", "d", "g"]
    assert evenly(list("ab"), 3) == ["a", "b"]


def test_files_that_cannot_be_read_say_what_to_do(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="mopo-eval run"):
        read_prompts(tmp_path)
    (directory / "judgements.parquet").write_bytes(b"half a file")
    with pytest.raises(EvaluationError, match=r"judgements.parquet.*mopo-eval run"):
        AnswerStore(directory)
    pd.DataFrame({"policy": ["a"]}).to_parquet(directory / "responses.parquet")
    with pytest.raises(EvaluationError, match="no column"):
        read_prompts(directory)


def test_evaluations_are_listed_newest_first(tmp_path: Path) -> None:
    assert evaluation_runs(tmp_path) == []
    write_evaluation(tmp_path, prompts=1, run="a")
    write_evaluation(tmp_path, prompts=1, run="b")
    (tmp_path / "evaluation" / "unfinished").mkdir()
    assert evaluation_runs(tmp_path) == ["b", "a"]
