"""What the check found, and labelling: pages and what they are made of."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from streamlit.testing.v1 import AppTest

from dashboards.datacheck import find_check, find_sources, read_check, run_check
from dashboards.errors import DataCheckError
from dashboards.labelling import Pair, done_pairs, label_row, read_queue, save_label
from dashboards.settings import FAMILY_VARIABLE, READ_ONLY_VARIABLE
from mopo_eval.cli import main as eval_main
from mopo_eval.results import read_results
from mopo_eval.select_pairs import people_win_rates
from mopo_train.family import PolicyFamily
from mopo_train.preferences import read_preferences
from tests.dashboards.examples import write_example_family
from tests.dashboards.running import charts, healthy, opened, submit, text

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


def pair(prompt_id: str = "q0", **changes: object) -> Pair:
    row = {"prompt": "One?", "response_a": "a", "response_b": "b", "prompt_id": prompt_id, "probability": 0.25}
    return Pair.model_validate(row | {"policy_a": "p0", "policy_b": "p1"} | changes)


def test_labels_are_rows_that_training_reads(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    messages.append({"role": "user", "content": "Why?"})
    first, second = pair(), pair("q1", prompt=messages, response_a="c")
    save_label(tmp_path, label_row(first, {"x": 1.0, "y": 0.5}, "Mei"), first, "Mei")
    save_label(tmp_path, label_row(second, {"x": 0.0, "y": None}, "Mei"), second, "Ben")
    save_label(tmp_path, None, pair("q2"), "Mei")
    data = read_preferences([tmp_path / "labels.jsonl"])
    assert data.objectives == ("x", "y")
    assert data.labels[0].tolist() == [1.0, 0.5]
    assert np.isnan(data.labels[1, 1])
    assert data.messages(1) == messages
    assert done_pairs(tmp_path, "Mei") == {("q0", "p0", "p1"), ("q2", "p0", "p1")}
    assert '"probability": 0.25' in (tmp_path / "labels.jsonl").read_text(encoding="utf-8")


def test_pairs_of_the_command_are_the_queue(root: Path) -> None:
    options = ["select-pairs", str(root), "--pairs", "5", "--out", str(root / "pairs.jsonl")]
    assert CliRunner().invoke(eval_main, options).exit_code == 0
    lines = (root / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    queue, problems = read_queue(root)
    assert [each.prompt_id for each in queue] == [json.loads(line)["prompt_id"] for line in lines]
    assert problems == []
    (root / "pairs.jsonl").write_text("{}", encoding="utf-8")
    queue, problems = read_queue(root)
    assert (queue, len(problems)) == ([], 1)


def labelling(root: Path, name: str = "Mei") -> AppTest:
    """The page with pairs drawn, and somebody to label them."""
    app = opened(LABELLING)
    app.selectbox(key="doubt").select("balanced")
    app.number_input(key="how-many").set_value(12)
    submit(app, "choose")
    app.text_input(key="annotator").input(name).run()
    return healthy(app)


def test_ten_pairs_are_labelled_and_read_by_training_and_by_the_calibration(root: Path) -> None:
    app = labelling(root)
    for index in range(10):
        for objective, key in (("helpfulness", "a"), ("safety", "b"), ("factuality", "tie" if index else "skip")):
            assert f"Which answer is better for {objective}?" in text(app)
            app.button(key=f"label-{key}").click().run()
    assert "10 of " in text(healthy(app))
    data = read_preferences([root / "labels.jsonl"])
    assert len(data.prompt) == 10
    assert np.isnan(data.labels).sum() == 1  # "Cannot say"
    columns = {name: data.labels[:, k] for k, name in enumerate(data.objectives)}
    assert set(columns["helpfulness"]) == {1.0}
    assert set(columns["safety"]) == {0.0}
    family = PolicyFamily.model_validate_json((root / "family.json").read_bytes())
    lines = (root / "labels.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [(str(number), json.loads(line)) for number, line in enumerate(lines)]
    rates = people_win_rates(read_results(root, family), rows, 0.95)
    assert set(rates) <= {policy.id for policy in family.policies}
    app.text_input(key="annotator").input("Ben").run()
    assert "0 of " in text(healthy(app))  # another person sees every pair


def test_what_was_said_of_a_pair_can_be_taken_back_before_it_is_done(root: Path) -> None:
    app = labelling(root)
    app.button(key="label-a").click().run()
    assert "helpfulness: A is better" in text(app)
    app.button(key="label-undo").click().run()
    assert "Which answer is better for helpfulness?" in text(healthy(app))
    assert not (root / "labels.jsonl").exists()


def test_two_keys_at_once_answer_one_question(root: Path) -> None:
    app = labelling(root)
    app.button(key="label-a").click()
    app.button(key="label-tie").click().run()
    assert "Which answer is better for safety?" in text(healthy(app))


def test_when_every_pair_was_seen_new_ones_can_be_drawn(root: Path) -> None:
    app = labelling(root)
    for each in read_queue(root)[0]:
        save_label(root, None, each, "Mei")
    page = text(healthy(app.run()))
    assert "No pair is left that you have not seen." in page
    assert app.number_input(key="how-many").value == 100


def test_more_pairs_than_there_are_is_said(root: Path) -> None:
    app = opened(LABELLING)
    app.number_input(key="how-many").set_value(1000)
    submit(app, "choose")
    assert app.error[0].value.startswith("No pairs were chosen:") or read_queue(root)[0]


def test_read_only_labels_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(READ_ONLY_VARIABLE, "1")
    app = opened(LABELLING)
    assert "Read-only" in text(app)
    assert not app.text_input


def test_read_only_neither_checks_data_nor_labels_pairs_that_are_drawn(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(root)
    app = labelling(root)
    before = sorted(root.rglob("*"))
    monkeypatch.setenv(READ_ONLY_VARIABLE, "1")
    for page in (DATA, LABELLING):
        app.switch_page(page).run()
        assert (list(healthy(app).button), list(app.text_input)) == ([], []), page
    assert sorted(root.rglob("*")) == before
