import json
import math
from typing import Any

import pytest

from mopo_eval.judges.verdict import read_verdict

GRADES = ["1", "2", "3"]


def choice(text: str | None, tokens: list[tuple[str, dict[str, float]]] | None = None) -> dict[str, Any]:
    """A chat completion's choice; each token with the probabilities of its alternatives."""
    made: dict[str, Any] = {"message": {"content": text}}
    if tokens is not None:
        content = [
            {"token": token, "top_logprobs": [{"token": name, "logprob": math.log(p)} for name, p in top.items()]}
            for token, top in tokens
        ]
        made["logprobs"] = {"content": content}
    return made


def test_a_verdict_without_probabilities_is_certain() -> None:
    found = read_verdict(choice('Well: {"reason": "short", "verdict": 2} indeed'), GRADES)
    assert found is not None
    assert (found.choice, found.reason, found.probabilities) == ("2", "short", {"1": 0, "2": 1, "3": 0})


def test_probabilities_are_those_of_the_verdicts_own_token() -> None:
    tokens = [
        ('{"reason": "', {}),
        ("2", {"2": 0.9}),  # a number in the reason is no verdict
        ('", "verdict": "', {}),
        ("3", {"3": 0.6, "2": 0.2, "x": 0.2}),
        ('"}', {}),
    ]
    found = read_verdict(choice("".join(token for token, _ in tokens), tokens), GRADES)
    assert found is not None
    assert found.choice == "3"
    assert found.probabilities == pytest.approx({"1": 0.0, "2": 0.25, "3": 0.75})


def test_a_model_whose_probabilities_are_not_numbers_gave_no_verdict() -> None:
    tokens = [('{"verdict": "', {}), ("3", {"3": math.nan}), ('"}', {})]
    assert read_verdict(choice('{"verdict": "3"}', tokens), GRADES) is None


def test_words_are_told_by_their_first_token() -> None:
    tokens = [('{"verdict": "', {}), ("t", {"t": 0.5, "A": 0.3, "B": 0.2}), ('ie"}', {})]
    found = read_verdict(choice('{"verdict": "tie"}', tokens), ["A", "B", "tie"])
    assert found is not None
    assert found.probabilities == pytest.approx({"A": 0.3, "B": 0.2, "tie": 0.5})


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "2",
        "{",
        '{"verdict": "4"}',
        '{"verdict": null}',
        '{"grade": 2}',
        "[2]",
        '{"verdict": [2]}',
        "{" * 9000,
    ],
)
def test_what_is_no_verdict_is_none(text: str | None) -> None:
    assert read_verdict(choice(text), GRADES) is None
    assert read_verdict({"message": None}, GRADES) is None


def test_broken_logprobs_do_not_spoil_a_verdict() -> None:
    text = json.dumps({"verdict": "1"})
    for logprobs in ({"content": None}, {"content": [{"token": "x"}]}, {}):
        found = read_verdict({"message": {"content": text}, "logprobs": logprobs}, GRADES)
        assert found is not None and found.probabilities["1"] == 1
