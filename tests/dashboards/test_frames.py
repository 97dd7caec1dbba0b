import subprocess
import sys
from pathlib import Path

import pytest

from dashboards.frames import (
    best_pairs,
    dominated_policies,
    exact_line,
    has_plan,
    measured_objectives,
    open_family,
    planned,
    planned_line,
    score_table,
    scores,
    stamp,
)
from mopo_eval.scorecards import write_scorecards
from mopo_train.errors import FamilyError, FamilyNotFound
from tests.dashboards.examples import write_example_family
from tests.families import OBJECTIVES, scorecard, write_measured_family


def test_scores_are_those_of_the_scorecards_in_the_familys_order(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    frame = scores(open_family(tmp_path))
    assert frame["policy"].drop_duplicates().tolist() == [
        "reference",
        "policy-00",
        "policy-01",
        "policy-02",
        "policy-03",
    ]
    row = frame[(frame["policy"] == "policy-02") & (frame["objective"] == "safety")].iloc[0]
    assert [row["mean"], row["low"], row["high"], row["certified_low"]] == pytest.approx([0.95, 0.90, 1.00, 0.90])
    assert (row["n"], row["judge"], row["kind"]) == (200, "test.safety", "mopo")


def test_win_rates_are_another_unit_than_judge_scores(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    frame = scores(open_family(tmp_path), "win rate").set_index(["policy", "objective"])
    assert frame.loc[("reference", "safety"), "mean"] == pytest.approx(0.5)
    assert frame.loc[("policy-02", "safety"), "mean"] == pytest.approx(0.5 + (0.95 - 0.80) / 2)


def test_a_policy_that_another_one_beats_everywhere_is_dominated(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    # policy-02 (.55, .95, .85) beats policy-03 (.50, .90, .80) and the reference (.50, .80, .80)
    assert dominated_policies(open_family(tmp_path)) == {"reference", "policy-03"}


def test_a_policy_measured_on_fewer_objectives_is_neither_dominated_nor_dominating(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    write_scorecards(tmp_path, [scorecard("policy-03", {"safety": 0.1}), scorecard("policy-02", {"safety": 0.99})])
    assert dominated_policies(open_family(tmp_path)) == set()  # .50 .80 .80 is on the front without policy-02


def test_the_table_for_download_names_the_unit_in_every_column(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    table = score_table(open_family(tmp_path)).set_index("policy")
    assert table.loc["policy-01", "helpfulness mean (judge score)"] == pytest.approx(0.70)
    assert table.loc["policy-01", "helpfulness mean (win rate vs reference)"] == pytest.approx(0.60)
    assert all("(" in name for name in table.columns if name not in ("kind", "dominated"))


def test_an_unmeasured_policy_has_no_row(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    (tmp_path / "scorecards" / "policy-01.json").unlink()
    view = open_family(tmp_path)
    assert view.unmeasured == ["policy-01"]
    assert "policy-01" not in set(scores(view)["policy"]) | set(score_table(view)["policy"])


def test_a_family_without_scorecards_gives_empty_frames(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    for card in (tmp_path / "scorecards").glob("*"):
        card.unlink()
    view = open_family(tmp_path)
    assert (len(scores(view)), len(score_table(view)), measured_objectives(view)) == (0, 0, [])
    assert dominated_policies(view) == set()


def test_what_was_planned_is_in_data_win_rate_with_gaps_where_nothing_is_recorded(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    table = planned(open_family(tmp_path)).set_index("policy")
    assert table.loc["policy-01", "safety floor"] == pytest.approx(0.60)
    assert table.loc["policy-01", "safety multiplier"] == pytest.approx(0.8)
    assert table.loc["policy-01", "helpfulness predicted"] == pytest.approx(0.70)
    assert table.loc["policy-01", "helpfulness predicted_low"] == pytest.approx(0.69)
    assert table["helpfulness floor"].isna().all()
    assert has_plan(open_family(tmp_path))


def test_best_pairs_keep_what_nothing_beats_on_two_objectives_by_rising_x() -> None:
    points = [
        {"a": 0.9, "b": 0.1, "c": 0.5},
        {"a": 0.2, "b": 0.8, "c": 0.5},
        {"a": 0.2, "b": 0.7, "c": 0.9},  # best on c alone: not on the front of a and b
        {"b": 0.99},  # without a
    ]
    line = best_pairs(points, "a", "b")
    assert line is not None
    assert line.to_numpy().tolist() == [[0.2, 0.8], [0.9, 0.1]]
    assert best_pairs(points, "a", "d") is None


def test_the_exact_front_comes_from_the_data_directory_in_both_units(tmp_path: Path) -> None:
    write_example_family(tmp_path / "family", prompts=3)
    view = open_family(tmp_path / "family")
    measured, rates = (exact_line(view, "safety", "helpfulness", kind) for kind in ("scores", "win_rates"))
    assert measured is not None
    assert rates is not None
    assert measured.iloc[0].tolist() == pytest.approx([0.59, 0.89])  # 0.56 + 0.03, 0.42 + 0.44 + 0.03
    assert rates.iloc[0].tolist() == pytest.approx([0.1 + 0.8 * 0.59, 0.1 + 0.8 * 0.89])


def test_the_exact_front_is_found_after_family_and_data_moved_together(tmp_path: Path) -> None:
    write_example_family(tmp_path / "old" / "family", prompts=3)
    (tmp_path / "old").rename(tmp_path / "new")
    assert open_family(tmp_path / "new" / "family").exact is not None


def test_a_family_without_plan_or_sandbox_has_no_lines(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    view = open_family(tmp_path)
    assert exact_line(view, "safety", "helpfulness", "scores") is None
    assert planned_line(view, "safety", "helpfulness") is None
    assert view.problems == []


def test_the_planned_line_leaves_out_infeasible_points(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    points = (
        '{"predicted": {"safety": 0.7, "helpfulness": 0.6}}, '
        '{"predicted": {"safety": 0.9, "helpfulness": 0.9}, "feasible": false}'
    )
    names = '["safety", "helpfulness", "factuality"]'
    (tmp_path / "plan.json").write_text(
        f'{{"objectives": {names}, "tau": 0.1, "points": [{points}]}}', encoding="utf-8"
    )
    line = planned_line(open_family(tmp_path), "safety", "helpfulness")
    assert line is not None
    assert line.to_numpy().tolist() == [[0.7, 0.6]]


@pytest.mark.parametrize("name", ["plan.json", "profiles.yaml", "../data/front.json"])
def test_a_damaged_optional_file_is_named_and_the_rest_stays_readable(tmp_path: Path, name: str) -> None:
    root = tmp_path / "family"
    write_example_family(root, prompts=3)
    (root / name).write_text("{ not this", encoding="utf-8")
    view = open_family(root)
    assert len(view.problems) == 1
    assert Path(name).name in view.problems[0]
    assert len(scores(view)) == 9 * 3


def test_a_plan_or_front_of_other_objectives_is_not_drawn(tmp_path: Path) -> None:
    root = tmp_path / "family"
    write_example_family(root, prompts=3)
    (root / "plan.json").write_text('{"objectives": ["speed"], "points": []}', encoding="utf-8")
    (tmp_path / "data" / "front.json").write_text('{"points": [{"scores": {"speed": 1}}]}', encoding="utf-8")
    view = open_family(root)
    assert (view.plan, view.exact, len(view.problems)) == (None, None, 2)


def test_a_missing_or_damaged_family_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(FamilyNotFound, match="mopo-train run"):
        open_family(tmp_path)
    write_measured_family(tmp_path)
    (tmp_path / "scorecards" / "policy-00.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FamilyError, match="mopo-eval run"):
        open_family(tmp_path)


def test_the_stamp_changes_when_a_file_is_written_and_only_then(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    before = stamp(tmp_path)
    assert stamp(tmp_path) == before
    write_scorecards(tmp_path, [scorecard("policy-00", dict.fromkeys(OBJECTIVES, 0.123))])
    assert stamp(tmp_path) != before
    assert stamp(tmp_path / "nowhere") == ()


def test_frames_are_read_without_torch_or_streamlit() -> None:
    code = (
        "import sys, dashboards.frames, dashboards.answers, dashboards.floors; "
        "sys.exit(bool({'torch', 'streamlit', 'transformers', 'vllm', 'scipy', 'plotly'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
