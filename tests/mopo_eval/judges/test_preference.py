import json
from pathlib import Path

import pytest

from mopo_eval.judges import Judge, load_judge
from mopo_eval.judges.case import Case
from mopo_eval.judges.scoring import score_cases
from mopo_eval.reliability import Fitted
from mopo_train.errors import JudgeError
from tests.comparisons import row, write_rows


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """Fitted to data in which the polite answer is preferred, whichever side it stands on."""
    root = tmp_path_factory.mktemp("preference")
    polite, rude = "please and thank you kindly, friend", "go away, stop asking, nobody cares"
    rows = [
        row(f"How is item {i}?", *((polite, rude) if i % 2 else (rude, polite)), {"manners": float(i % 2)})
        for i in range(90)
    ]
    data = write_rows(root / "pairs.jsonl", rows)
    return load_judge({"kind": "preference-model", "data": [str(data)], "objective": "manners"})


def test_it_learns_what_people_prefer_and_says_how_well(judge: Judge) -> None:
    cases = [
        Case("How is the new one?", "thank you kindly, friend", "a", baseline="stop asking, nobody cares"),
        Case("How is the new one?", "stop asking, nobody cares", "b", baseline="thank you kindly, friend"),
        Case("How is the new one?", "same", "c", baseline="same"),
    ]
    won, lost, equal = score_cases(judge, cases)
    assert won.score > 0.6
    assert lost.score == pytest.approx(1 - won.score, abs=1e-6)  # antisymmetric
    assert equal.score == 0.5
    assert won.evidence is not None and "held-out accuracy" in won.evidence and "90 pairs" in won.evidence
    assert judge.compares
    assert isinstance(judge, Fitted)
    known = judge.reliability()
    assert known.sentence in won.evidence and (known.n, known.unit) == (90, "pairs")
    assert known.low <= known.accuracy <= known.high


def test_nothing_to_compare_with_and_other_objectives_are_errors(judge: Judge, tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match='a: nothing to compare with.*"baseline"'):
        score_cases(judge, [Case("Q", "A", "a")])
    data = write_rows(tmp_path / "pairs.jsonl", [row(f"Q{i}", "a", "b", {"wit": 1.0}) for i in range(9)])
    other = load_judge(json.loads(json.dumps({"kind": "preference-model", "data": [str(data)], "objective": "safety"})))
    with pytest.raises(JudgeError, match="label wit, not 'safety'"):
        score_cases(other, [Case("Q", "A", "a", baseline="B")])
