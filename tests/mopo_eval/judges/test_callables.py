import sys
from pathlib import Path

import pytest

from mopo_eval.judges.callables import CallableJudge, load_callable
from mopo_train.errors import JudgeError
from mopo_train.judgement import Judgement

HERE = "tests.mopo_eval.scoring"


@pytest.mark.parametrize("name", [f"{HERE}.digit", f"{HERE}:digit"])
def test_a_judge_is_found_by_either_form_of_its_name(name: str) -> None:
    judge = load_callable(name)
    assert judge.name == name
    found = judge("prompt", "an answer", where="here")
    assert (found.label, found.evidence) == ("high" if found.score > 0.5 else "low", "of an answer")


def test_a_mapping_with_a_score_is_a_judgement() -> None:
    judge = CallableJudge("j", lambda prompt, response: {"score": 0.5, "label": "fair", "evidence": 3})
    assert judge("prompt", "x", where="here") == Judgement(0.5, "fair", "3")
    with pytest.raises(JudgeError, match="got {'label': 'fair'}"):
        CallableJudge("j", lambda prompt, response: {"label": "fair"})("prompt", "x", where="here")


def test_numbers_and_truth_values_are_scores() -> None:
    assert load_callable(f"{HERE}.length")("prompt", "x" * 25, where="here") == Judgement(0.25, None, None)
    assert load_callable(f"{HERE}.is_even")("prompt", "x", where="here").score in (0.0, 1.0)


def test_a_judge_sees_the_prompt_as_it_was_given() -> None:
    seen = []
    talk = [{"role": "user", "content": "Hi"}]
    judge = CallableJudge("j", lambda prompt, response: seen.append((prompt, response)) or 1)  # type: ignore[func-returns-value]
    judge(talk, "Hello", where="here")
    assert seen == [(talk, "Hello")]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("above_one", "got 1.5"),
        ("not_a_number", "got nan"),
        ("text", "got 'good'"),
        ("fails", "failed on prompt 'p7': KeyError: 'lexicon'"),
    ],
)
def test_what_is_no_score_is_refused_with_judge_prompt_and_value(name: str, told: str) -> None:
    with pytest.raises(JudgeError, match=f"{HERE}.{name}.*") as caught:
        load_callable(f"{HERE}.{name}")("prompt", "response", where="prompt 'p7'")
    assert told in str(caught.value) and "prompt 'p7'" in str(caught.value)


def test_a_coroutine_is_no_judge() -> None:
    judge = load_callable(f"{HERE}.slow")
    made = judge.score("prompt", "response")
    with pytest.raises(JudgeError, match="not coroutines"):
        CallableJudge("slow", lambda prompt, response: made)("prompt", "response", where="here")
    made.close()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("digit", "does not name a judge"),
        ("", "does not name a judge"),
        ("no_such_package.judge", "No module named 'no_such_package'"),
        (f"{HERE}.no_such_judge", "has: .*digit"),
        (f"{HERE}.NOT_A_JUDGE", "is no function"),
        (f"{HERE}:", "does not name a judge"),
    ],
)
def test_a_judge_that_cannot_be_loaded_says_why(name: str, told: str) -> None:
    with pytest.raises(JudgeError, match=told):
        load_callable(name)


def test_a_judges_module_that_fails_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_judges.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(JudgeError, match="broken_judges.good.*ZeroDivisionError"):
        load_callable("broken_judges.good")
    assert "broken_judges" not in sys.modules


def test_a_judge_that_exits_is_the_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exiting_judges.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(JudgeError, match="cannot import.*SystemExit: 3"):
        load_callable("exiting_judges.good")
    with pytest.raises(JudgeError, match="failed on here: SystemExit: 4"):
        CallableJudge("exits", lambda prompt, response: sys.exit(4))("prompt", "response", where="here")


def test_what_a_judge_prints_stays_off_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "print('loading')\ndef good(prompt, response):\n    print('thinking')\n    return 1.0\n"
    (tmp_path / "chatty_judges.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_callable("chatty_judges.good")("prompt", "response", where="here")
    assert capsys.readouterr() == ("", "loading\nthinking\n")
