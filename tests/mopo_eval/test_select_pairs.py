import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mopo_eval.cli import main
from mopo_eval.results import RunResults, read_results
from mopo_eval.select_pairs import interest, read_pairs, select_pairs
from mopo_train.errors import DataError
from mopo_train.family import REFERENCE, read_family
from mopo_train.preferences import read_preferences
from tests.families import OBJECTIVES, SCORES
from tests.mopo_eval.measured_family import asked, drawn_scores, trained_family, write_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "family"
    trained_family(root)
    write_run(root, drawn_scores(150), asked(150))
    return root


def results(root: Path) -> RunResults:
    return read_results(root, read_family(root))


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pairs_are_drawn_where_a_floor_is_in_doubt(root: Path) -> None:
    run = results(root)
    values = run.table.values[:, OBJECTIVES.index("safety")].mean(axis=1)
    policy = run.table.policies[3]
    rows = list(select_pairs(run, {"safety": float(values[3])}, 120, 0))
    counts = {name: sum(name in (row["policy_a"], row["policy_b"]) for row in rows) for name in SCORES}
    assert max(counts, key=lambda name: counts[name] * (name != REFERENCE)) == policy
    assert 80 < len(rows) < 160
    assert {row["policy_a"] == REFERENCE for row in rows} == {True, False}
    assert rows == list(select_pairs(run, {"safety": float(values[3])}, 120, 0))


def test_without_floors_the_policies_whose_place_on_the_front_is_open_matter_most(root: Path) -> None:
    run = results(root)
    chances = dict(zip(run.table.policies, [1.0, 0.5, 0.9, 0.0, 1.0], strict=True))
    run = run._replace(summary=run.summary.model_copy(update={"front_probability": chances}))
    found = interest(run, run.table.policies[1:], {})
    assert found[:, 0] == pytest.approx([1.0, 0.36, 0.05, 0.05])


def test_labels_of_the_pairs_give_win_rates_and_preference_data(root: Path, tmp_path: Path) -> None:
    """People prefer what the judge scores higher, so their win rates are the judge's."""
    file = tmp_path / "pairs.jsonl"
    done = command("select-pairs", root, "--pairs", 300, "--floor", "safety=0.7", "--out", file)
    assert done.exit_code == 0, done.stderr
    run = results(root)
    scores = dict(zip(run.table.policies, run.table.scores[..., 0], strict=True))
    place = {prompt.id: n for n, prompt in enumerate(run.prompts)}
    rows = lines(file)
    for row in rows:
        a, b = (scores[row[name]][:, place[row["prompt_id"]]] for name in ("policy_a", "policy_b"))
        preferred = (0.5 + 0.5 * np.sign(a - b)).tolist()
        row["preferences"] = dict(zip(OBJECTIVES, preferred, strict=True))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = read_preferences([file])
    assert len(data.weight) == len(rows)
    done = command("calibrate", file, "--family", root, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["win_rates"]
    inside = [
        found[policy][objective]["low"] <= wins <= found[policy][objective]["high"]
        for policy, each in zip(run.table.policies, run.table.wins.mean(axis=2), strict=True)
        if policy != REFERENCE
        for objective, wins in zip(OBJECTIVES, each, strict=True)
    ]
    assert len(inside) == 12 and sum(inside) >= 10  # at 95 %: fewer in one of 50 draws; the seed is fixed
    assert "people's eyes" in command("calibrate", file, "--family", root).stdout


def test_equal_answers_are_not_asked_about(root: Path) -> None:
    write_run(root, drawn_scores(50), asked(50), response="The same to {prompt}.")
    with pytest.raises(DataError, match="only 0 pairs of different answers"):
        list(select_pairs(results(root), {}, 10, 0))
    assert not read_pairs(results(root)).different(0).any()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"policy_a": "policy-77"}, "not a pair of run run-1"),
        ({"prompt_id": "p999"}, "not a pair of run run-1"),
        ({"probability": 0}, "'probability' must be"),
        ({"probability": None}, "'probability' must be"),
        ({"preferences": {"wit": 1}}, "is no label on an objective"),
        ({"preferences": {"safety": 2}}, "is no label on an objective"),
    ],
)
def test_rows_that_were_not_drawn_are_refused(root: Path, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    file = tmp_path / "pairs.jsonl"
    row = {"policy_a": "policy-00", "policy_b": REFERENCE, "prompt_id": "p1", "probability": 0.5, "preferences": {}}
    file.write_text(json.dumps(row | change) + "\n", encoding="utf-8")
    done = command("calibrate", file, "--family", root)
    assert done.exit_code == 1
    assert "row 1" in done.stderr and told in done.stderr


def test_more_pairs_than_there_are_and_unknown_floors_are_errors(root: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "pairs.jsonl")
    done = command("select-pairs", root, "--pairs", 601, *out)
    assert (done.exit_code, "only 600 pairs" in done.stderr) == (1, True)
    assert command("select-pairs", root, "--floor", "wit=0.5", *out).exit_code == 1
    assert command("select-pairs", root, "--profile", "none", *out).exit_code == 1
    assert command("select-pairs", root, "--profile", "a", "--floor", "safety=1", *out).exit_code == 2
