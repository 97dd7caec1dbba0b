import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mopo_eval.judges.callables import load_callable
from mopo_eval.judges.case import Case, OnJudgement
from mopo_eval.judges.scoring import read_cases, score_cases
from mopo_eval.judges.verdicts import VERDICTS, Kept
from mopo_eval.spool import read_spool
from mopo_train.errors import DataError, JudgeError
from mopo_train.judgement import Judgement

HERE = "tests.mopo_eval.scoring"


class Counting:
    """A costly judge that fails after so many judgements."""

    name, costly, compares = "counting", True, False
    fingerprint = "counting as it is"

    def __init__(self, lasts: int = 10**6) -> None:
        self.lasts, self.asked = lasts, 0

    def judge(self, cases: Sequence[Case], on_judgement: OnJudgement) -> None:
        for index, case in enumerate(cases):
            if self.asked == self.lasts:
                raise JudgeError("down")
            self.asked += 1
            on_judgement(index, Judgement(len(case.response) / 10, None, case.response))


def cases(*responses: str) -> list[Case]:
    return [Case("Why?", response, f"row {index}") for index, response in enumerate(responses)]


def test_rows_of_a_file_are_judged_in_order(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "a", "response": "x" * n}) + "\n" for n in (10, 50)), encoding="utf-8"
    )
    judged = score_cases(load_callable(f"{HERE}.length"), list(read_cases(path)))
    assert [found.score for found in judged] == [0.1, 0.5]


@pytest.mark.parametrize("row", [{"prompt": "a"}, {"response": "b"}, {"prompt": 1, "response": "b"}, {}])
def test_a_row_without_prompt_or_response_is_named(tmp_path: Path, row: dict[str, object]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(DataError, match="row 1: expected {prompt, response}"):
        list(read_cases(path))


@pytest.mark.parametrize(
    "field", [{"harmful": "yes"}, {"references": [1]}, {"incorrect": {}}, {"baseline": 3}, {"references": [" "]}]
)
def test_a_row_with_something_else_in_place_of_the_truth_is_refused(tmp_path: Path, field: dict[str, Any]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a", "response": "b"} | field), encoding="utf-8")
    with pytest.raises(DataError, match=f"row 1: '{next(iter(field))}' must be"):
        list(read_cases(path))


def test_a_costly_judge_is_asked_once_for_every_case_also_after_it_failed(tmp_path: Path) -> None:
    failing, whole = Counting(lasts=2), Counting()
    asked = cases("a", "bb", "a", "ccc", "dddd")
    with pytest.raises(JudgeError):
        score_cases(failing, asked, tmp_path / "first")
    judged = score_cases(whole, asked, tmp_path / "second")
    assert [found.score for found in judged] == [0.1, 0.2, 0.1, 0.3, 0.4]
    assert (failing.asked, whole.asked) == (2, 2)  # four different cases, two of them known from the first directory
    assert score_cases(Counting(lasts=0), asked, tmp_path / "third") == judged
    assert not (tmp_path / "third" / VERDICTS).exists()


@pytest.mark.parametrize("score", [math.nan, 1.5, -0.1])
@pytest.mark.parametrize("keep", [False, True])
def test_a_score_that_is_none_is_refused_whatever_kind_of_judge_gave_it(
    tmp_path: Path, score: float, *, keep: bool
) -> None:
    class Broken(Counting):
        def judge(self, cases: Sequence[Case], on_judgement: OnJudgement) -> None:
            on_judgement(0, Judgement(0.5, None, None))
            on_judgement(1, Judgement(score, None, None))

    with pytest.raises(JudgeError, match=f"'counting' on row 1: its score is {score}, not in"):
        score_cases(Broken(), cases("a", "b"), tmp_path / "run" if keep else None)
    assert len(read_spool(tmp_path / "run" / VERDICTS, Kept)) == keep  # the sound one is kept


def test_what_another_judge_said_does_not_count(tmp_path: Path) -> None:
    score_cases(Counting(), cases("a"), tmp_path / "run")
    other = Counting()
    other.fingerprint = "counting with other weights"
    score_cases(other, cases("a"), tmp_path / "run")
    assert other.asked == 1
