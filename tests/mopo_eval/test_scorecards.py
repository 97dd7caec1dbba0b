import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from mopo_eval.scorecards import Estimate, read_scorecards, write_scorecards
from mopo_train.errors import FamilyError
from tests.families import SCORES, family, scorecard


def test_cards_survive_writing_and_come_in_the_familys_order(tmp_path: Path) -> None:
    cards = {name: scorecard(name, scores) for name, scores in SCORES.items()}
    write_scorecards(tmp_path, list(reversed(cards.values())))
    found = read_scorecards(tmp_path, family())
    assert found == cards
    assert list(found) == list(SCORES)


def test_the_file_has_the_fields_of_the_contract(tmp_path: Path) -> None:
    write_scorecards(tmp_path, [scorecard("policy-02", SCORES["policy-02"])])
    content = json.loads((tmp_path / "scorecards" / "policy-02.json").read_text(encoding="utf-8"))
    assert set(content) == {"policy", "run", "confidence", "objectives"}
    five = {"mean", "low", "high", "certified_low", "n"}
    assert set(content["objectives"]["safety"]) == five | {"judge", "win_rate"}
    assert set(content["objectives"]["safety"]["win_rate"]) == five
    assert content["objectives"]["safety"]["mean"] == 0.95


def test_policies_that_were_not_measured_are_absent(tmp_path: Path) -> None:
    assert read_scorecards(tmp_path, family()) == {}
    write_scorecards(tmp_path, [scorecard("policy-01", SCORES["policy-01"])])
    assert list(read_scorecards(tmp_path, family())) == ["policy-01"]


def test_a_card_of_a_policy_that_is_gone_is_left_alone(tmp_path: Path) -> None:
    write_scorecards(tmp_path, [scorecard("policy-77", SCORES["policy-01"])])
    assert read_scorecards(tmp_path, family()) == {}


def test_writing_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_scorecards(tmp_path, [scorecard("policy-01", SCORES["policy-01"], run="old")])
    write_scorecards(tmp_path, [scorecard("policy-01", SCORES["policy-01"], run="new")])
    assert read_scorecards(tmp_path, family())["policy-01"].run == "new"
    assert [path.name for path in (tmp_path / "scorecards").iterdir()] == ["policy-01.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"\x00\xff", b"[]", b'{"policy": "policy-01"}'])
def test_a_damaged_card_says_to_measure_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scorecards" / "policy-01.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(FamilyError, match="is not a scorecard: .*mopo-eval run"):
        read_scorecards(tmp_path, family())


def test_a_card_of_another_policy_or_objective_is_refused(tmp_path: Path) -> None:
    for card in (scorecard("policy-02", SCORES["policy-02"]), scorecard("policy-01", {"helpfulness": 0.5})):
        path = tmp_path / "scorecards" / "policy-01.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(card.model_dump_json().replace("helpfulness", "brevity"), encoding="utf-8")
        with pytest.raises(FamilyError, match="another policy or family"):
            read_scorecards(tmp_path, family())


@pytest.mark.parametrize("field", ["mean", "low", "high", "certified_low"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_scores_lie_in_the_unit_interval(field: str, value: float) -> None:
    good = {"mean": 0.5, "low": 0.4, "high": 0.6, "certified_low": 0.3, "n": 10}
    with pytest.raises(ValidationError):
        Estimate.model_validate(good | {field: value})


def test_an_estimate_needs_a_prompt() -> None:
    with pytest.raises(ValidationError):
        Estimate(mean=0.5, low=0.4, high=0.6, certified_low=0.3, n=0)


@pytest.mark.parametrize("other", [{"run": "other"}, {"confidence": 0.9}])
def test_cards_of_different_runs_are_refused(tmp_path: Path, other: dict[str, object]) -> None:
    cards = [scorecard(name, SCORES[name]) for name in ("policy-00", "policy-01")]
    write_scorecards(tmp_path, [cards[0], cards[1].model_copy(update=other)])
    with pytest.raises(FamilyError, match=r"do not hold together; measure again with 'mopo-eval run"):
        read_scorecards(tmp_path, family())
