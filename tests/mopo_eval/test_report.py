import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mopo_eval.answers import Sampling
from mopo_eval.cli import main
from mopo_eval.endpoint import Patience
from mopo_eval.engine_choice import EngineChoice
from mopo_eval.evaluation import RunSummary
from mopo_eval.judges import load_judges
from mopo_eval.measure import Plan, measure
from mopo_eval.profiles import ProfileFile, write_profiles
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.report import make_report, pairs_that_matter
from mopo_train.family import read_family
from tests.families import OBJECTIVES, PROFILES, SCORES, write_measured_family
from tests.mopo_eval.measured_family import Scores, asked, drawn_scores, trained_family, write_run
from tests.mopo_eval.stub_engine import stub_engine

BEFORE = "2025-12-01T00:00:00+00:00"


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def changed(scores: Scores) -> Scores:
    """Policy-00 loses helpfulness, all else stays but for noise."""
    new: Scores = np.clip(scores + np.random.default_rng(3).normal(0, 0.03, scores.shape), 0, 1)
    new[1, 0] = np.clip(new[1, 0] - 0.1, 0, 1)
    return new


def measured(root: Path, judges: dict[str, str], prompts: list[EvaluationPrompt]) -> RunSummary:
    """What the real path leaves: a server's answers, scored by judges."""
    with stub_engine(list(SCORES)) as engine:
        choice = EngineChoice(engine.url, concurrency=4, patience=Patience(3, 0.001))
        plan = Plan(prompts=prompts, judges=load_judges(judges), sampling=Sampling(), engine=choice)
        return measure(root, read_family(root), plan).summary


@pytest.fixture
def root(tmp_path: Path) -> Path:
    trained_family(tmp_path)
    write_profiles(tmp_path / "profiles.yaml", PROFILES, "for tests")
    scores = drawn_scores(120)
    write_run(tmp_path, scores, asked(120), run="first", created_at=BEFORE)
    write_run(tmp_path, changed(scores), asked(120), run="second")
    return tmp_path


def test_the_terminal_shows_the_scorecards_numbers(root: Path) -> None:
    done = command(root)
    assert done.exit_code == 0, done.output
    for policy in SCORES:
        card = json.loads((root / "scorecards" / f"{policy}.json").read_text())
        line = next(line for line in done.stdout.splitlines() if f" {policy} " in line)
        for name in OBJECTIVES:
            for score in (card["objectives"][name], card["objectives"][name]["win_rate"]):
                assert f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]" in line
    assert "judge scores and win rates against the reference" in done.stdout


def test_json_holds_scorecards_profiles_categories_examples_and_changes(root: Path) -> None:
    found = json.loads(command(root, "--json").stdout)
    assert (found["run"], found["prompts"]) == ("second", 120)
    for policy in SCORES:
        assert (
            found["policies"][policy] == json.loads((root / "scorecards" / f"{policy}.json").read_text())["objectives"]
        )
    gate = json.loads(CliRunner().invoke(main, ["gate", str(root), "--all", "--json"]).stdout)
    assert found["profiles"] == gate["profiles"]
    assert set(found["worst"]) == set(OBJECTIVES)
    assert {each["category"] for each in found["categories"]} == {"plain", "risky", "looks risky"}
    assert found["changes"]["first"] == "first"
    clear = [(each["policy"], each["objective"]) for each in found["changes"]["comparisons"] if each["distinguishable"]]
    assert clear == [("policy-00", "helpfulness")]
    assert found["summary"][-1].startswith("Since run first, 1 of 15 scores changed: policy-00 helpfulness -0.")


def test_only_certified_wins_over_the_reference_are_called_wins(root: Path) -> None:
    found = json.loads(command(root, "--json").stdout)
    (wins,) = [sentence for sentence in found["summary"] if sentence.startswith("Certified to beat")]
    (losses,) = [sentence for sentence in found["summary"] if sentence.startswith("Losing to")]
    for name in OBJECTIVES:
        rates = {policy: scores[name]["win_rate"] for policy, scores in found["policies"].items()}
        (above,) = [part for part in re.split("[:;] ", wins) if part.startswith(f"on {name}")] or [""]
        (below,) = [part for part in re.split("[:;] ", losses) if part.startswith(f"on {name}")] or [""]
        assert set(re.findall(r"policy-\d+", above)) == {p for p, rate in rates.items() if rate["certified_low"] > 0.5}
        assert set(re.findall(r"policy-\d+", below)) == {p for p, rate in rates.items() if rate["high"] < 0.5}


def test_what_measuring_leaves_is_reported(tmp_path: Path) -> None:
    trained_family(tmp_path)
    judges = {
        name: f"tests.mopo_eval.scoring.{judge}" for name, judge in (("helpfulness", "digit"), ("safety", "is_even"))
    }
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    summary = measured(tmp_path, judges, [EvaluationPrompt("talk", conversation), *asked(40)])
    page = tmp_path / "report.html"
    found = json.loads(command(tmp_path, "--html", page, "--json").stdout)
    assert found["front_probability"] == pytest.approx(summary.front_probability)
    assert summary.hypervolume is not None
    assert found["hypervolume"] == summary.hypervolume.model_dump()
    assert f"[{summary.hypervolume.low:.4f}, {summary.hypervolume.high:.4f}]" in page.read_text()
    assert "No judge measured factuality" in found["warnings"][0]
    assert len(found["profiles"]) >= 2  # those that measuring proposed
    recorded = {(each.category, each.policy, each.objective): each for each in summary.categories}
    for each in found["categories"]:
        if each["category"] != "without a category":
            known = recorded[each["category"], each["policy"], each["objective"]]
            assert (each["mean"], each["n"]) == (pytest.approx(known.mean), known.n)
    texts = [example["prompt"] for examples in found["worst"].values() for example in examples]
    assert all(text.startswith(("Question", "system: Be brief.\n\nuser: Why?")) for text in texts)


def test_an_older_run_is_reported_as_it_was_and_has_no_run_before_it(root: Path) -> None:
    found = json.loads(command(root, "--run", "first", "--json").stdout)
    write_run(root, drawn_scores(120), asked(120), run="first", created_at=BEFORE)  # its scorecards again
    for policy in SCORES:
        assert (
            found["policies"][policy] == json.loads((root / "scorecards" / f"{policy}.json").read_text())["objectives"]
        )
    assert found["changes"] is None
    assert found["no_changes"] == "There is no earlier run to compare with."


def test_a_run_on_other_prompts_is_passed_over_for_an_older_one_on_the_same(root: Path) -> None:
    write_run(root, drawn_scores(50), asked(50, first=500), run="between", created_at="2025-12-15T00:00:00+00:00")
    write_run(root, changed(drawn_scores(120)), asked(120), run="second")
    assert json.loads(command(root, "--json").stdout)["changes"]["first"] == "first"
    alone = json.loads(command(root, "--run", "between", "--json").stdout)
    assert alone["changes"] is None
    assert "asked other prompts" in alone["no_changes"]


def test_a_run_of_another_judge_is_not_what_changed(root: Path) -> None:
    path = root / "evaluation" / "first" / "run.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps(summary | {"judges": summary["judges"] | {"safety": "another.judge"}}))
    found = json.loads(command(root, "--json").stdout)
    assert found["changes"] is None
    assert "first, cannot be compared: the runs were judged differently: safety was judged by" in found["no_changes"]


def test_a_family_without_profiles_or_categories_is_reported(root: Path) -> None:
    (root / "profiles.yaml").unlink()
    write_run(root, drawn_scores(30), [prompt._replace(category=None) for prompt in asked(30)], run="small")
    page = root / "report.html"
    done = command(root, "--html", page)
    assert done.exit_code == 0, done.output
    assert "have no categories" in page.read_text()
    assert "Only 30 prompts" in command(root).stderr


def test_pairs_with_the_primary_and_pairs_that_trade_are_drawn(root: Path) -> None:
    # Safety and factuality are both led by policy-02: nothing to trade. With one better at each there is.
    family = read_family(root)
    assert pairs_that_matter(make_report(root, family, ProfileFile())) == [
        ("helpfulness", "safety"),
        ("helpfulness", "factuality"),
    ]
    scores = drawn_scores(60)
    scores[4, 2] = 1.0
    write_run(root, scores, asked(60), run="third")
    assert ("safety", "factuality") in pairs_that_matter(make_report(root, family, ProfileFile()))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--run", "none"], "no finished run 'none'.*it has: .*second"),
        (["--html", "family.json/page.html"], "family.json"),
    ],
)
def test_bad_input_is_a_message(root: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str) -> None:
    monkeypatch.chdir(root)
    done = command(".", *arguments)
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert re.search(told, done.stderr), done.stderr


def test_a_family_that_was_not_measured_is_a_message(tmp_path: Path) -> None:
    trained_family(tmp_path)
    done = command(tmp_path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "mopo-eval run" in done.stderr


def test_a_single_objective_that_is_not_the_primary_is_reported(tmp_path: Path) -> None:
    trained_family(tmp_path)
    write_profiles(tmp_path / "profiles.yaml", PROFILES, "for tests")
    measured(tmp_path, {"safety": "tests.mopo_eval.scoring.is_even"}, asked(30))
    page = tmp_path / "report.html"
    done = command(tmp_path, "--html", page, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {profile["outcome"] for profile in found["profiles"]} == {"not measured"}
    assert "nothing to draw" in page.read_text() and "None" not in page.read_text()
    assert "No judge measured helpfulness and factuality" in found["warnings"][0]


def test_a_family_whose_scorecards_were_made_elsewhere_is_reported(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    found = json.loads(command(tmp_path, "--json").stdout)
    assert found["front"] == ["policy-00", "policy-01", "policy-02"]
