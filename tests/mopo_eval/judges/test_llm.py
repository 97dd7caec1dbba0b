import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from mopo_eval.endpoint import Patience
from mopo_eval.judges.case import Case
from mopo_eval.judges.llm import LlmJudge, LlmSettings
from mopo_train.errors import JudgeError
from mopo_train.judgement import Judgement
from tests.mopo_eval.stub_engine import Body, completion, error, stub_engine

QUICK = Patience(attempts=3, first_wait=0.001)
Says = Callable[[Body, int], Any]
"""From a request and how often it came before to the verdict of a model."""


def answers(says: Says) -> Callable[[Body, int], Response]:
    def fault(body: Body, before: int) -> Response:
        given = says(body, before)
        if isinstance(given, Response):
            return given
        return JSONResponse(completion(json.dumps({"reason": "because", "verdict": given})))

    return fault


def judged(says: Says, cases: list[Case], **settings: Any) -> tuple[list[Judgement], list[Body]]:
    found: dict[int, Judgement] = {}
    with stub_engine(["m"], answers(says)) as engine:
        judge = LlmJudge("llm:m", LlmSettings("m", "Is it polite?", **settings), engine.url, patience=QUICK)
        judge.judge(cases, found.__setitem__)
    return [found[index] for index in range(len(cases))], engine.asked


def told(body: Body) -> str:
    return str(body["messages"][1]["content"])


def test_a_grade_becomes_a_score_and_the_model_sees_rubric_prompt_and_answer() -> None:
    talk = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    found, asked = judged(lambda body, before: "4", [Case(talk, "Hello!", "p1", references=("Hey",))])
    assert found == [Judgement(0.75, "4", "because")]
    assert "Is it polite?" in asked[0]["messages"][0]["content"]
    assert all(part in told(asked[0]) for part in ("system: Be kind.", "user: Hi", "Hello!", "Hey"))
    assert asked[0]["response_format"]["json_schema"]["schema"]["properties"]["verdict"]["enum"] == list("12345")


def test_an_unreadable_verdict_is_asked_for_again_and_then_counted() -> None:
    second, asked = judged(lambda body, before: "5" if body["seed"] == 1 else "good", [Case("Q", "A", "p1")])
    assert second[0].score == 1
    assert [body["seed"] for body in asked] == [0, 1]
    never, asked = judged(lambda body, before: "good", [Case("Q", "A", "p1")])
    assert never[0][:2] == (0.0, "unparseable")
    assert len(asked) == 3


def test_two_answers_are_compared_in_both_orders() -> None:
    """A judge that knows the better answer, wherever it stands."""

    def says(body: Body, before: int) -> str:
        return "A" if told(body).index("good") < told(body).index("bad") else "B"

    cases = [Case("Q", "good", "p1", baseline="bad"), Case("Q", "bad", "p2", baseline="good")]
    found, asked = judged(says, cases, mode="compare")
    assert [one[:2] for one in found] == [(1.0, "win"), (0.0, "loss")]
    assert len(asked) == 4


def test_a_judge_that_follows_the_position_gives_ties() -> None:
    found, _ = judged(lambda body, before: "A", [Case("Q", "x", "p1", baseline="y")], mode="compare")
    assert found[0][:2] == (0.5, "flipped")
    same, asked = judged(lambda body, before: "A", [Case("Q", "x", "p1", baseline="x")], mode="compare")
    assert same[0].score == 0.5
    assert not asked


@pytest.mark.parametrize(
    ("ours_first", "ours_second", "label", "first"),
    [
        ("A", "B", "win", 0.5),
        ("B", "A", "loss", 0.5),
        ("tie", "tie", "tie", 0.5),
        ("A", "A", "flipped", 1.0),
        ("B", "B", "flipped", 0.0),
        ("A", "tie", "flipped", 0.75),
        ("tie", "B", "flipped", 0.25),
    ],
)
def test_a_favour_for_a_place_is_told_beside_the_score(
    ours_first: str, ours_second: str, label: str, first: float
) -> None:
    def says(body: Body, before: int) -> str:
        return ours_first if told(body).index("ours") < told(body).index("theirs") else ours_second

    case = Case("Q", "ours", "p1", baseline="theirs")
    found, _ = judged(says, [case], mode="compare")
    assert found[0].label == label
    judge = LlmJudge("llm:m", LlmSettings("m", "Is it polite?", mode="compare"), "http://nowhere")
    assert judge.figures(found[0]) == {"flipped": float(label == "flipped"), "first preferred": first}
    unread, _ = judged(lambda body, before: "C", [case], mode="compare")
    graded, _ = judged(lambda body, before: "3", [case])
    assert [judge.figures(unread[0]), judge._replace(settings=LlmSettings("m", "r")).figures(graded[0])] == [{}, {}]


def test_the_probability_of_the_verdict_is_the_score() -> None:
    """P(A) = .8 in one order and P(B) = .6 in the other: the answer wins with probability .7."""

    def says(body: Body, before: int) -> Response:
        first = told(body).index("ours") < told(body).index("theirs")
        verdict, probability = ("A", 0.8) if first else ("B", 0.6)
        other = "B" if first else "A"
        alternatives = [
            {"token": verdict, "logprob": math.log(probability)},
            {"token": other, "logprob": math.log(1 - probability)},
        ]
        made = completion(f'{{"reason": "r", "verdict": "{verdict}"}}')
        tokens = [{"token": '{"reason": "r", "verdict": "'}, {"token": verdict, "top_logprobs": alternatives}]
        made["choices"][0]["logprobs"] = {"content": [*tokens, {"token": '"}'}]}
        return JSONResponse(made)

    found, _ = judged(says, [Case("Q", "ours", "p1", baseline="theirs")], mode="compare")
    assert found[0].score == pytest.approx(0.7)
    assert found[0].label == "win"


def test_passing_failures_are_waited_for_and_lasting_ones_reported() -> None:
    found, asked = judged(lambda body, before: "1" if before else error(429, "slow down"), [Case("Q", "A", "p1")])
    assert (found[0].score, len(asked)) == (0.0, 2)
    with pytest.raises(JudgeError, match="llm:m.*failed 3 times.*overloaded"):
        judged(lambda body, before: error(503, "overloaded"), [Case("Q", "A", "p1")])
    with pytest.raises(JudgeError, match="p1.*answered 404: no such model"):
        judged(lambda body, before: error(404, "no such model"), [Case("Q", "A", "p1")])
    with pytest.raises(JudgeError, match="gave no chat completion"):
        judged(lambda body, before: JSONResponse({"choices": []}), [Case("Q", "A", "p1")])


def test_an_endpoint_that_refuses_probabilities_can_do_without() -> None:
    def says(body: Body, before: int) -> Any:
        return error(400, "logprobs are not supported.") if "logprobs" in body else "4"

    with pytest.raises(JudgeError, match=r"not supported; for an endpoint .*'logprobs: false'"):
        judged(says, [Case("Q", "A", "p1")])
    found, asked = judged(says, [Case("Q", "A", "p1")], logprobs=False, structured=False)
    assert found[0].score == 0.75
    assert not asked[0].keys() & {"logprobs", "top_logprobs", "response_format"}


def test_nothing_to_compare_with_is_an_error() -> None:
    with pytest.raises(JudgeError, match='p1.*"baseline"'):
        judged(lambda body, before: "A", [Case("Q", "A", "p1")], mode="compare")


def test_a_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = LlmJudge("llm:m", LlmSettings("m", "r"), "http://127.0.0.1:1", "TEST_JUDGE_KEY", patience=QUICK)
    monkeypatch.delenv("TEST_JUDGE_KEY", raising=False)
    with pytest.raises(JudgeError, match="TEST_JUDGE_KEY"):
        judge.judge([Case("Q", "A", "p1")], lambda index, judgement: None)
