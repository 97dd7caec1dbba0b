import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from starlette.responses import JSONResponse, Response

from mopo_eval.calibration import read_calibration
from mopo_eval.cli import main
from tests.comparisons import row, write_rows
from tests.families import OBJECTIVES, SCORES
from tests.mopo_eval.measured_family import asked, drawn_scores, trained_family, write_run
from tests.mopo_eval.stub_engine import Body, completion, stub_engine

LENGTH = "tests.mopo_eval.scoring.length"
"""Judges by the number of characters, 100 is best."""


def calibrate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, arguments)])


def succeeded(*arguments: object) -> Any:
    done = calibrate(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_judge_is_compared_with_labels_of_answers(tmp_path: Path) -> None:
    """The judge likes the long answers; people like those of even prompts, long or short."""
    rows = [
        {"prompt": f"Q{i}", "response": "x" * n, "human": 1 - i % 2, "annotator": "a"}
        for i in range(20)
        for n in (90, 10)
    ]
    found = succeeded(write_lines(tmp_path / "labels.jsonl", rows), "--judge", LENGTH, "--repeat")
    assert (found["judge"], found["unit"]) == (LENGTH, "answers")
    assert found["agreement"]["n"] == 40
    assert found["agreement"]["accuracy"]["value"] == pytest.approx(0.5)
    assert found["agreement"]["kappa"]["value"] == pytest.approx(0)
    assert found["agreement"]["length_bias"]["value"] == pytest.approx(0.8)
    assert found["repeatability"]["value"] == 1
    assert found["flipped"] is None


def test_a_judge_is_compared_with_preference_data(tmp_path: Path) -> None:
    """It prefers the longer answer; people do on three prompts of four."""
    rows = [row(f"Q{i}", "long answer", "short", {"helpfulness": float(i % 4 > 0), "safety": None}) for i in range(40)]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    found = succeeded(data, "--judge", LENGTH, "--objective", "helpfulness", "--repeat")
    assert (found["unit"], found["repeatability"]["value"], found["position_bias"]) == ("pairs", 1, None)
    assert found["agreement"]["accuracy"]["value"] == pytest.approx(0.75)
    assert found["agreement"]["bias"]["value"] == pytest.approx(0.25)
    assert found["agreement"]["accuracy"]["low"] < 0.75 < found["agreement"]["accuracy"]["high"]


def test_a_model_that_favours_a_place_is_told_by_how_much(tmp_path: Path) -> None:
    """It says A, but for one prompt in five where it gives no verdict, and one where it knows the better answer."""

    def says(body: Body, before: int) -> Response | None:
        text = str(body["messages"][1]["content"])
        number = int(text.partition("Question ")[2].partition("?")[0])
        known = "A" if text.index("good") < text.index("bad") else "B"
        verdict = "none" if number % 5 == 0 else known if number % 5 == 1 else "A"
        return JSONResponse(completion(json.dumps({"reason": "", "verdict": verdict})))

    rows = [row(f"Question {i}?", "good", "bad", {"helpfulness": 1.0}) for i in range(50)]
    data = write_rows(tmp_path / "pairs.jsonl", rows)
    with stub_engine(["j"], says) as engine:
        entry = {"kind": "llm", "url": engine.url, "model": "j", "rubric": "r", "mode": "compare"}
        (tmp_path / "judges.yaml").write_text(json.dumps({"judges": {"helpfulness": entry}}), encoding="utf-8")
        found = succeeded(data, "--judge", f"{tmp_path / 'judges.yaml'}:helpfulness", "--repeat")
    assert (found["flipped"], found["unparseable"]) == (pytest.approx(0.6), pytest.approx(0.2))
    assert found["position_bias"]["value"] == pytest.approx(0.5 * 0.6 / 0.8)
    assert 0 < found["position_bias"]["low"] < found["position_bias"]["high"] <= 0.5
    assert found["repeatability"]["value"] == 1


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "family"
    trained_family(root)
    write_run(root, drawn_scores(200), asked(200))
    return root


def test_people_correct_what_the_judges_of_a_run_measured(root: Path, tmp_path: Path) -> None:
    """People give .1 less than the judge, so every corrected mean is .1 below the judge's, and nearly as sharp."""
    assert calibrate("--family", root, "--ask", 40, "--out", tmp_path / "ask.jsonl").exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "ask.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 40 * len(SCORES) * len(OBJECTIVES)
    assert len({row["prompt_id"] for row in rows}) == 40
    assert [row["policy"] for row in rows] != sorted(row["policy"] for row in rows)
    judged = pd.read_parquet(root / "evaluation" / "run-1" / "judgements.parquet")
    scores = judged.set_index(["policy", "prompt_id", "objective"]).score
    for each in rows:
        each["human"] = max(0.0, scores[each["policy"], each["prompt_id"], each["objective"]] - 0.1)
    labels = write_lines(tmp_path / "labels.jsonl", rows)
    found = succeeded(labels, "--family", root)
    assert found["objectives"]["safety"]["agreement"]["bias"]["value"] == pytest.approx(0.1, abs=0.01)
    for policy in SCORES:
        for objective in OBJECTIVES:
            mean = float(scores[policy, :, objective].mean())
            corrected = found["corrected"][policy][objective]
            assert corrected["low"] <= np.clip(mean - 0.1, 0, 1) <= corrected["high"]
    kept = read_calibration(root / "evaluation" / "run-1")
    assert kept is not None and kept.model_dump(mode="json") == found
    done = CliRunner().invoke(main, ["card", str(root), "--out", str(tmp_path / "cards")])
    assert done.exit_code == 0, done.stderr
    card = (tmp_path / "cards" / "policy-00" / "README.md").read_text(encoding="utf-8")
    assert "kappa" in card and "(n = 200)" in card


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"human": None}, "found None; of rows in random order, as --ask writes them, the last may be left out"),
        ({"human": 1.5}, "found 1.5"),
        ({"policy": "policy-99"}, "'policy-99' is not of run run-1; known: reference"),
        ({"objective": "wit"}, "'wit' is not of run"),
        ({"prompt_id": 7}, "7 is not of run"),
        ({"sample": 1}, "no sample 1"),
    ],
)
def test_labels_that_fit_nothing_are_refused(root: Path, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    good = {"policy": "reference", "objective": "safety", "prompt_id": "p0", "human": 1}
    done = calibrate(write_lines(tmp_path / "labels.jsonl", [good, good | change]), "--family", root)
    assert done.exit_code == 1
    assert "row 2" in done.stderr and told in done.stderr


def test_too_little_is_said_to_be_too_little(root: Path, tmp_path: Path) -> None:
    few = write_lines(tmp_path / "few.jsonl", [{"prompt": "Q", "response": "A", "human": 1}])
    done = calibrate(few, "--judge", LENGTH)
    assert (done.exit_code, "1 labels on 1 prompts" in done.stderr) == (1, True)
    empty = write_lines(tmp_path / "empty.jsonl", [])
    assert "no labels" in calibrate(empty, "--family", root).stderr
    done = calibrate("--family", root, "--ask", 500, "--out", tmp_path / "ask.jsonl")
    assert (done.exit_code, "the run has 200" in done.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [[], ["labels.jsonl"], ["--ask", "3"], ["a", "b", "--family", "."]])
def test_what_makes_no_command_is_a_usage_error(arguments: list[str], root: Path) -> None:
    arguments = [str(root) if argument == "." else argument for argument in arguments]
    assert calibrate(*arguments).exit_code == 2
