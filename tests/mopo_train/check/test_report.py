"""``mopo-train check`` on small data whose every figure can be counted by hand, and on real data."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from click.testing import CliRunner

from mopo_train.cli import main
from tests.comparisons import row, write_rows


def checked(*paths: Path) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["check", *map(str, paths), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def problems(document: dict[str, Any]) -> dict[str, tuple[int, list[int]]]:
    return {problem["kind"]: (problem["rows"], problem["examples"]) for problem in document["problems"]}


def test_counts_are_those_of_the_rows(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "pairs.jsonl",
        [
            row("Q1", "a", "bbb", {"helpfulness": 1, "safety": 0}),
            row("Q2", "aa", "b", {"helpfulness": 0.5, "safety": 0.2}),
            row("Q3", "aaa", "b", {"helpfulness": 0.9, "safety": None}),
            row("Q4", "a", "bb", {"helpfulness": 0, "safety": 0.1}),
        ],
    )
    document = checked(path)
    assert (document["rows"], document["prompts"], document["responses"]) == (4, 4, 8)
    helpfulness, safety = document["objectives"]["helpfulness"], document["objectives"]["safety"]
    assert [helpfulness[key] for key in ("labelled", "ties", "a_preferred")] == [4, 1, 2]
    assert [safety[key] for key in ("labelled", "ties", "a_preferred", "prompts")] == [3, 0, 0, 3]
    assert document["conflict"] == {"helpfulness|safety": 0.5}
    longer = helpfulness["longer_preferred"]
    assert (longer["value"], longer["rows"]) == (pytest.approx(2 / 3), 3)
    interval = scipy.stats.binomtest(2, 3).proportion_ci(0.99, method="wilson")
    assert (longer["low"], longer["high"]) == pytest.approx((interval.low, interval.high))
    assert helpfulness["agreement"] is None


def test_repetitions_contradictions_and_cycles_are_found_with_their_rows(tmp_path: Path) -> None:
    path = write_rows(
        tmp_path / "pairs.jsonl",
        [
            row("Q", "a", "b", {"helpfulness": 1}),
            row("Q", "b", "c", {"helpfulness": 1}),
            row("Q", "c", "a", {"helpfulness": 1}),
            row("Q", "c", "d", {"helpfulness": 1}),
            row("R", "a", "b", {"safety": 1}),
            row("R", "b", "a", {"safety": 0}),  # the same, turned
            row("R", "b", "a", {"safety": 0}, annotator="x"),  # another's
            row("S", "a", "b", {"safety": 1}),
            row("S", "b", "a", {"safety": 1}),
        ],
    )
    found = problems(checked(path))
    assert found["duplicate"] == (1, [5])
    assert found["contradiction"] == (2, [7, 8])
    assert found["cycle"] == (3, [0, 1, 2])


def test_agreement_of_annotators_does_not_depend_on_which_response_comes_first(tmp_path: Path) -> None:
    rows = [
        row(f"Q{q}", "a", "b", {"safety": float((q + v) % 3 > 0)}, annotator=str(v)) for q in range(9) for v in (0, 1)
    ]
    turned = [
        item
        if index % 3
        else row(item["prompt"], "b", "a", {"safety": 1 - item["preferences"]["safety"]}, annotator=item["annotator"])
        for index, item in enumerate(rows)
    ]
    first = checked(write_rows(tmp_path / "first.jsonl", rows))["objectives"]["safety"]["agreement"]
    assert first == pytest.approx(
        checked(write_rows(tmp_path / "turned.jsonl", turned))["objectives"]["safety"]["agreement"]
    )
    assert -1 < first < 1


def test_little_data_do_not_tell_whether_objectives_pull_apart(tmp_path: Path) -> None:
    opposite = [row(f"Q{q}", "a", "b", {"helpfulness": 1, "safety": 0}) for q in range(40)]
    told = [checked(write_rows(tmp_path / f"{n}.jsonl", opposite[:n]))["verdict"] for n in (1, 40)]
    assert "too little data to say whether they pull apart: helpfulness and safety" in told[0]
    assert "objectives that pull apart: helpfulness and safety" in told[1]


def test_ties_on_one_objective_are_no_conflict(tmp_path: Path) -> None:
    rows = [row(f"Q{q}", "a", "b", {"helpfulness": 1, "safety": 1 if q % 3 == 0 else 0.5}) for q in range(400)]
    document = checked(write_rows(tmp_path / "rows.jsonl", rows))
    assert document["rank_correlation"]["helpfulness|safety"] < 0.8
    assert "that agree, so that floors will not bind: helpfulness and safety" in document["verdict"]


def test_objectives_whose_win_rates_oppose_do_not_agree_because_one_source_says_so(tmp_path: Path) -> None:
    """A joined source labels both on its rows, all alike; another compares each objective on rows of its own."""
    agreeing = [row(f"A{i}", "a", "b", {"helpfulness": 1, "safety": 1}) for i in range(120)]
    opposed = [
        row(f"B{i}", f"answer {one}", f"answer {other}", {name: float(sign)})
        for i in range(400)
        for one, other in itertools.combinations(range(4), 2)
        for name, sign in (("helpfulness", 1), ("safety", 0))
    ]
    document = checked(write_rows(tmp_path / "pairs.jsonl", agreeing + opposed))
    low, high = document["rank_correlation_interval"]["helpfulness|safety"]
    assert document["conflict"]["helpfulness|safety"] == 0 and high < 0
    assert "objectives-agree" not in problems(document)
    assert "pull apart: helpfulness and safety" in document["verdict"]


def test_labels_that_are_all_ties_are_named_for_what_they_are(tmp_path: Path) -> None:
    rows = [row(f"Q{i}", "a", "b", {"helpfulness": 0.5, "safety": 0.5}) for i in range(150)]
    document = checked(write_rows(tmp_path / "pairs.jsonl", rows))
    assert problems(document)["only-ties"][0] == 150
    assert "no-overlap" not in problems(document)
    assert "never seen" not in document["verdict"]


def test_an_average_does_not_hide_prompts_with_few_comparisons(tmp_path: Path) -> None:
    often = [row("A", f"a{i}", f"a{j}", {"safety": 1}) for i, j in itertools.combinations(range(40), 2)]
    once = [row(f"B{i}", "a", "b", {"safety": 1}) for i in range(9)]
    document = checked(write_rows(tmp_path / "pairs.jsonl", often + once))
    facts = document["objectives"]["safety"]
    assert facts["comparisons_per_response"] > 20 and facts["few_compared"] == 0.9
    (told,) = [each["message"] for each in document["problems"] if each["kind"] == "few-comparisons"]
    assert "fewer than 5 on 90% of its prompts" in told


def test_chosen_first_is_no_bias_of_annotators(tmp_path: Path) -> None:
    chosen = write_rows(
        tmp_path / "trl.jsonl", [{"prompt": f"Q{i}", "chosen": "x", "rejected": "y"} for i in range(99)]
    )
    own = write_rows(tmp_path / "own.jsonl", [row(f"Q{i}", "x", "z", {"safety": i % 2}) for i in range(40)])
    result = CliRunner().invoke(main, ["check", f"safety={chosen}", str(own), "--json"], catch_exceptions=False)
    first = json.loads(result.stdout)["objectives"]["safety"]["first_preferred"]
    assert (first["value"], first["rows"]) == (0.5, 40)


def test_an_annotator_who_repeats_himself_does_not_raise_the_agreement(tmp_path: Path) -> None:
    labels = [(q, who, (q * 7 + (who == "y") * (q % 3 == 0)) % 2) for q in range(30) for who in "xy"]
    rows = [row(f"Q{q}", "a", "b", {"safety": label}, annotator=who) for q, who, label in labels]
    once = checked(write_rows(tmp_path / "once.jsonl", rows))["objectives"]["safety"]
    twice = checked(write_rows(tmp_path / "twice.jsonl", rows + rows[::2] * 3))["objectives"]["safety"]
    assert once["agreement"] == pytest.approx(twice["agreement"])
    assert once["labelled_twice"] == twice["labelled_twice"] == 30


def test_near_duplicates_are_told_unless_a_group_keeps_them_together(tmp_path: Path) -> None:
    asked = "please say in a few plain words how a heat pump gets warmth out of cold air"
    rows = [row(asked), row(asked + " outside"), row("What else?")]
    found = problems(checked(write_rows(tmp_path / "apart.jsonl", rows)))
    assert found["near-duplicate"] == (2, [0, 1])
    marked = [each | {"group": "g"} for each in rows]
    assert "near-duplicate" not in problems(checked(write_rows(tmp_path / "marked.jsonl", marked)))


def test_objectives_that_agree_by_their_win_rates_alone_are_named(tmp_path: Path) -> None:
    rows = []
    for q in range(200):  # each pair is labelled on one objective only, the responses on both
        for name, pair in itertools.product(("helpfulness", "safety"), ("ab", "bc", "ac")):
            rows.append(row(f"Q{q}", pair[0], pair[1], {name: 1}))
    document = checked(write_rows(tmp_path / "rows.jsonl", rows))
    (told,) = [each["message"] for each in document["problems"] if each["kind"] == "objectives-agree"]
    assert "floors between them will not bind" in told
    assert "that agree, so that floors will not bind: helpfulness and safety" in document["verdict"]


def test_objectives_that_agree_and_biases_are_named(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = []
    for index in range(400):
        better = bool(random.random() < 0.8)
        answers = ("long and good", "bad") if better else ("bad", "long and good")
        rows.append(row(f"Q{index}", *answers, {"helpfulness": float(better), "safety": float(better)}))
    document = checked(write_rows(tmp_path / "pairs.jsonl", rows))
    kinds = {problem["kind"] for problem in document["problems"]}
    assert {"objectives-agree", "position-bias", "length-bias", "few-comparisons"} <= kinds
    assert "no two objectives were seen to pull apart" in document["verdict"]


def test_even_labels_raise_no_alarm(tmp_path: Path) -> None:
    rows = [
        row(f"Q{q}", *texts, {"helpfulness": first, "safety": 1 - first}, annotator=f"{who} {texts[0]}")
        for q in range(120)
        for first, texts in ((q % 2, ("one", "two")), ((q + 1) % 2, ("two", "one")))
        for who in range(3)
    ]
    document = checked(write_rows(tmp_path / "pairs.jsonl", rows))
    assert document["problems"] == []
    assert document["objectives"]["safety"]["agreement"] == 1
    assert document["verdict"].endswith("helpfulness and safety.")


def test_a_person_reads_tables_problems_and_a_verdict(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "pairs.jsonl", [row(), row("Other?")])
    result = CliRunner().invoke(main, ["check", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "few-prompts: helpfulness is labelled on 2 prompts only" in result.stdout
    assert result.stdout.strip().splitlines()[-1].startswith("2 comparisons on 2 prompts")


@pytest.mark.data
def test_real_data_show_the_known_position_bias(real_data: Path) -> None:
    document = checked(real_data / "pku_saferlhf_train.jsonl.gz")
    bias = {name: facts["first_preferred"]["value"] for name, facts in document["objectives"].items()}
    assert bias == {"helpfulness": pytest.approx(0.364, abs=1e-3), "safety": pytest.approx(0.296, abs=1e-3)}
    assert "position-bias" in {problem["kind"] for problem in document["problems"]}
    assert document["objectives"]["helpfulness"]["longer_preferred"]["value"] == pytest.approx(0.621, abs=1e-3)
