import json
from pathlib import Path
from typing import Any

import pytest

from mopo_eval.judges import judges_path, load_judge, load_judges, named_judge, read_judges
from mopo_eval.judges.llm import LlmJudge
from mopo_eval.judges.reference import ReferenceJudge
from mopo_train.errors import JudgeError
from tests.families import OBJECTIVES, family

HERE = "tests.mopo_eval.scoring"
LLM = {"kind": "llm", "url": "http://localhost:1/v1/", "model": "m", "rubric": "Is it polite?"}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "judges.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_judges_come_in_the_order_of_the_objectives_and_some_may_be_missing(tmp_path: Path) -> None:
    names = read_judges(written(tmp_path, f"judges: {{safety: {HERE}.digit, helpfulness: {HERE}.length}}"), OBJECTIVES)
    assert list(names.items()) == [("helpfulness", f"{HERE}.length"), ("safety", f"{HERE}.digit")]
    assert load_judges(names)["safety"].name == f"{HERE}.digit"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names no judges"),
        ("judges: {}", "names no judges"),
        ("judges: [a]", "names no judges"),
        ("judges: {safety: 3}", "names no judges"),
        ("safety: a.b", "names no judges"),
        ("judges: {saftey: a.b}", "judge for 'saftey'.*helpfulness, safety, factuality"),
        ("judges: {", "cannot read judges"),
        ("judges: {safety: a.b, safety: a.c}", "'safety' is given twice"),
    ],
)
def test_a_judges_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(JudgeError, match=told):
        read_judges(written(tmp_path, text), OBJECTIVES)


def test_a_missing_judges_file_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match="cannot read judges"):
        read_judges(tmp_path / "none.yaml", OBJECTIVES)
    with pytest.raises(JudgeError, match=r"--judges.*--answers-only"):
        judges_path(family(), None)
    assert judges_path(family(), Path("given")) == Path("given")


def test_a_judge_with_settings_is_read_beside_a_callable(tmp_path: Path) -> None:
    text = f"judges: {{safety: safety, factuality: {{kind: reference, match: exact}}, helpfulness: {json.dumps(LLM)}}}"
    judges = load_judges(read_judges(written(tmp_path, text), OBJECTIVES))
    assert isinstance(judges["helpfulness"], LlmJudge)
    assert judges["helpfulness"].url == "http://localhost:1"
    assert judges["factuality"] == ReferenceJudge("reference:exact", "exact")
    assert judges["safety"].name == "safety"


def test_a_judge_is_named_after_what_decides_its_verdicts_and_not_after_where_it_runs() -> None:
    name = load_judge(LLM).name
    assert name.startswith("llm:m#")
    assert load_judge(LLM | {"url": "http://elsewhere", "concurrency": 3}).name == name
    assert load_judge(LLM | {"rubric": "Is it rude?"}).name != name
    assert load_judge(LLM | {"mode": "compare"}).name != name


def test_a_command_line_may_name_a_judge_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, "judges: {factuality: {kind: reference}}")
    assert named_judge(f"{path}:factuality").name == "reference:overlap"
    assert named_judge("refusal").name == "refusal"
    with pytest.raises(JudgeError, match="'factuality' does not name a judge; built in are safety, .*yaml:OBJECTIVE"):
        named_judge("factuality")
    with pytest.raises(JudgeError, match="no judge for 'safety'; it has: factuality"):
        named_judge(f"{path}:safety")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "oracle"}, "describes no judge.*classifier, preference-model, llm"),
        ({"model": "m"}, "describes no judge"),
        (LLM | {"rubrik": "x"}, "rubrik"),
        (LLM | {"url": "localhost:1"}, "url"),
        (LLM | {"scale": 1}, "scale"),
        (LLM | {"temperature": float("nan")}, "temperature"),
        ({"kind": "reference", "match": "meaning"}, "match"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(JudgeError, match=told):
        load_judge(given)
