import sys
from pathlib import Path

import pytest

from mopo_eval.judges import load_judge
from mopo_eval.judges.callables import load_callable

LLM = {"kind": "llm", "url": "http://127.0.0.1:1", "model": "judge", "rubric": "Is it right?"}


def test_a_callable_is_its_modules_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    found = []
    for line in ("LEAST = 1", "LEAST = 1", "LEAST = 2"):
        (tmp_path / "my_judge.py").write_text(f"{line}\ndef score(prompt, response):\n    return float(LEAST > 1)\n")
        sys.modules.pop("my_judge", None)
        __import__("linecache").clearcache()
        found.append(load_callable("my_judge.score").fingerprint)
    assert found[0] == found[1] != found[2]


def test_a_classifier_is_its_files(tmp_path: Path) -> None:
    judge = load_judge({"kind": "classifier", "model": str(tmp_path)})
    (tmp_path / "model.safetensors").write_bytes(b"before")
    before = judge.fingerprint
    assert judge.fingerprint == before
    (tmp_path / "model.safetensors").write_bytes(b"trained longer")
    assert judge.fingerprint != before


def test_a_preference_model_is_its_data(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    judge = load_judge({"kind": "preference-model", "data": [f"safety={path}"], "objective": "safety"})
    missing = judge.fingerprint
    path.write_text("one row")
    before = judge.fingerprint
    path.write_text("another row")
    assert len({missing, before, judge.fingerprint}) == 3


def test_settings_that_decide_make_another_judge_and_where_it_answers_does_not() -> None:
    own = load_judge(LLM).fingerprint
    assert load_judge(LLM | {"url": "http://127.0.0.1:2/v1", "concurrency": 3}).fingerprint == own
    assert load_judge(LLM | {"rubric": "Is it kind?"}).fingerprint != own
    assert load_judge("safety").fingerprint != load_judge("refusal").fingerprint
