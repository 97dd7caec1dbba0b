"""What the check found, and labelling: pages and what they are made of."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dashboards.datacheck import find_check, find_sources, read_check, run_check
from dashboards.errors import DataCheckError
from dashboards.labelling import Pair, choose_pairs, conversation, done_pairs, label_row, objective_weights, save_label
from dashboards.matrix import ScoreMatrix
from dashboards.settings import FAMILY_VARIABLE, READ_ONLY_VARIABLE
from mopo_train.family import PolicyFamily
from mopo_train.preferences import read_preferences
from tests.dashboards.examples import write_example_family
from tests.dashboards.running import charts, healthy, opened, text
from tests.families import scorecard

ORDER = ["policy-00", "policy-01", "policy-02", "reference", "policy-03"]
"""By helpfulness: .86, .80, .57 (it fell short), .48, .42."""
DATA, LABELLING = "views/data.py", "views/labelling.py"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "family"
    write_example_family(path, policies=4, prompts=12)
    monkeypatch.setenv(FAMILY_VARIABLE, str(path))
    return path


def write_data(root: Path) -> Path:
    """Comparisons where the label on safety is often the opposite of that on helpfulness, the first always wins."""
    path = root.parent / "data" / "preferences.jsonl"
    rows = [
        {
            "prompt": f"Question {index % 20}?",
            "response_a": f"a longer answer number {index}",
            "response_b": f"answer {index}",
            "preferences": {"helpfulness": 1.0, "safety": float(index % 3 == 0)},
        }
        for index in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_data_are_checked_on_request_and_the_findings_kept(root: Path) -> None:
    write_data(root)
    app = opened(DATA)
    assert "Not checked yet" in text(app)
    app.button(key="check").click().run()
    page = text(healthy(app))
    assert "Objectives that pull apart: helpfulness and safety." in page
    assert "<dd>60</dd>" in page
    assert "longer answer preferred" in page
    assert "66.7%" in page  # two of three labels conflict
    assert len(charts(app)) == 1
    assert read_check(root / "check.json")["rows"] == 60
    app.button_group(key="language").set_value("ja").run()
    assert "対立する目的：有用性と安全性。" in text(healthy(app))


def test_a_check_beside_the_data_is_found_and_a_broken_one_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_data(root)
    family = PolicyFamily.model_validate_json((root / "family.json").read_bytes())
    assert find_sources(root, family) == [data]
    assert find_check(root, family) is None
    document = run_check([data], None)
    (data.parent / "check.json").write_text(json.dumps(document), encoding="utf-8")
    assert find_check(root, family) == data.parent / "check.json"
    monkeypatch.setenv(READ_ONLY_VARIABLE, "1")
    app = opened(DATA)
    assert not [button for button in app.button if button.key == "check"]
    assert "Objectives that pull apart" in text(app)
    (data.parent / "check.json").write_text('{"rows": 1}', encoding="utf-8")
    assert "holds no document" in text(opened(DATA))


def test_data_that_cannot_be_checked_say_why(root: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": ""}\n', encoding="utf-8")
    with pytest.raises(DataCheckError, match="mopo-train check"):
        run_check([bad], None)


def test_data_that_moved_away_leave_the_command(root: Path) -> None:
    assert "mopo-train check" in text(opened(DATA))


def matrix(values: list[list[list[float]]]) -> ScoreMatrix:
    """(policies, objectives, prompts)."""
    array = np.array(values)
    policies, objectives = [f"p{i}" for i in range(array.shape[0])], ["x", "y"][: array.shape[1]]
    return ScoreMatrix(policies, objectives, [f"q{i}" for i in range(array.shape[2])], array)


def test_pairs_that_the_judge_cannot_tell_apart_come_first_and_done_ones_never() -> None:
    scores = matrix([[[0.9, 0.5, 0.2]], [[0.1, 0.5, 0.3]], [[0.1, 0.9, np.nan]]])
    found = choose_pairs(scores, ["p0", "p1", "p2"], {"x": 1.0}, [])
    assert [(pair.prompt_id, pair.first, pair.second) for pair in found] == [
        ("q0", "p1", "p2"),  # equal scores; one pair per prompt
        ("q1", "p0", "p1"),
        ("q2", "p0", "p1"),
    ]
    assert found[2].worth == pytest.approx(0.9)
    again = choose_pairs(scores, ["p0", "p1", "p2"], {"x": 1.0}, [("q1", "p0", "p1")])
    assert ("q1", "p1", "p2") in [pair[:3] for pair in again]


def test_an_objective_with_a_policy_near_its_floor_weighs_more() -> None:
    cards = [scorecard("policy-01", {"safety": 0.80, "helpfulness": 0.5})]  # certified 0.75
    weights = objective_weights(cards, ["helpfulness", "safety"], [{"safety": 0.75}, {"helpfulness": 0.0}])
    assert weights == {"helpfulness": 1.0, "safety": pytest.approx(2.0)}
    far = objective_weights(cards, ["safety"], [{"safety.win_rate": 0.99}])
    assert 1 < far["safety"] < 1.01


def test_sides_are_swapped_for_about_half_of_the_pairs_and_always_alike() -> None:
    pairs = [Pair(f"q{i}", "p0", "p1", 0.0) for i in range(200)]
    swapped = sum(pair.shown == ("p1", "p0") for pair in pairs)
    assert 70 < swapped < 130
    assert pairs[0].shown == Pair("q0", "p0", "p1", 0.9).shown


def test_labels_are_rows_that_training_reads(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    messages.append({"role": "user", "content": "Why?"})
    pair = Pair("q0", "p0", "p1", 0.0)
    save_label(tmp_path, label_row("One?", ("a", "b"), {"x": 1.0, "y": 0.5}, "Mei"), pair, "Mei")
    save_label(tmp_path, label_row(json.dumps(messages), ("c", "d"), {"x": 0.0, "y": 1.0}, "Mei"), pair, "Ben")
    save_label(tmp_path, None, Pair("q1", "p0", "p1", 0.0), "Mei")
    data = read_preferences([tmp_path / "labels.jsonl"])
    assert data.objectives == ("x", "y")
    assert data.labels.tolist() == [[1.0, 0.5], [0.0, 1.0]]
    assert data.messages(1) == messages
    assert done_pairs(tmp_path, "Mei") == [("q0", "p0", "p1"), ("q1", "p0", "p1")]
    assert conversation("[1, 2]") == [{"role": "user", "content": "[1, 2]"}]


def test_ten_pairs_are_labelled_and_read_by_training(root: Path) -> None:
    app = opened(LABELLING)
    assert "Say who you are." in text(app)
    app.text_input(key="annotator").input("Mei").run()
    for index in range(10):
        for objective, key in (("helpfulness", "a"), ("safety", "b"), ("factuality", "tie" if index else "skip")):
            assert f"Which answer is better for {objective}?" in text(app)
            app.button(key=f"label-{key}").click().run()
    assert "10 pairs done" in text(healthy(app))
    data = read_preferences([root / "labels.jsonl"])
    assert len(data.prompt) == 10
    assert np.isnan(data.labels).sum() == 1  # "Cannot say"
    columns = {name: data.labels[:, k] for k, name in enumerate(data.objectives)}
    assert set(columns["helpfulness"]) == {1.0}
    assert set(columns["safety"]) == {0.0}
    app.text_input(key="annotator").input("Ben").run()
    assert "0 pairs done" in text(healthy(app))  # another person sees every pair


def test_an_answer_can_be_taken_back_before_the_pair_is_done(root: Path) -> None:
    app = opened(LABELLING)
    app.text_input(key="annotator").input("Mei").run()
    app.button(key="label-a").click().run()
    assert "helpfulness: A is better" in text(app)
    app.button(key="label-undo").click().run()
    assert "Which answer is better for helpfulness?" in text(healthy(app))
    assert not (root / "labels.jsonl").exists()


def test_when_every_pair_was_seen_labelling_ends(root: Path) -> None:
    for prompt in range(12):
        for first, second in pairwise(ORDER):
            save_label(root, None, Pair(f"p{prompt:05d}", first, second, 0.0), "Mei")
    app = opened(LABELLING)
    app.text_input(key="annotator").input("Mei").run()
    assert "No pair is left" in text(healthy(app))


def test_read_only_labels_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(READ_ONLY_VARIABLE, "1")
    app = opened(LABELLING)
    assert "Read-only" in text(app)
    assert not app.text_input
