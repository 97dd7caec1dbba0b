import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from mopo_eval.cli import main
from mopo_eval.gate import decide
from mopo_eval.profiles import Organisation, ProfileFile, ThresholdProfile, write_profiles
from mopo_eval.scorecards import Scorecard
from tests.families import PROFILES, SCORES, scorecard, write_measured_family
from tests.mopo_eval.measured_family import trained_family

CARDS: dict[str, Scorecard | None] = {policy: scorecard(policy, scores) for policy, scores in SCORES.items()}


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["gate", *map(str, arguments)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_measured_family(tmp_path)
    return tmp_path


# ``certified_low`` is 0.05 below the scores of tests.families: safety is 0.90 at best (policy-02).
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--profile", "balanced"], 0),
        (["--profile", "balanced", "--profile", "careful"], 0),
        (["--profile", "impossible"], 3),
        (["--profile", "balanced", "--profile", "impossible"], 3),
        (["--profile", "closest"], 3),  # a fallback is served, but the floor is missed
        (["--all"], 3),
        (["--floor", "safety=0.89"], 0),
        (["--floor", "safety=0.91"], 3),
        (["--floor", "safety=0.74", "--floor", "helpfulness=0.64"], 0),  # policy-01
        (["--floor", "safety=0.89", "--floor", "helpfulness=0.64"], 3),  # each is held, but by other policies
        (["--floor", "safety.win_rate=0.52"], 0),  # 0.5 + (0.95 - 0.80) / 2 - 0.05 = 0.525
        (["--floor", "safety.win_rate=0.53"], 3),
        (["--profile", "none"], 1),
        (["--floor", "kindness=0.5"], 1),
        (["--floor", "safety=7", "--floor", "safety.win_rate=0.5"], 2),
        (["--floor", "safety"], 2),
        (["--profiles", "none.yaml", "--all"], 1),
        ([], 2),
        (["--all", "--floor", "safety=0.5"], 2),
    ],
)
def test_the_exit_status_says_whether_floors_are_held(root: Path, arguments: list[str], status: int) -> None:
    done = command(root, *arguments)
    assert done.exit_code == status, done.output
    assert (done.exit_code == 1) == done.stderr.startswith("main: ")


@pytest.mark.parametrize(("profile", "status"), [("balanced", 0), ("impossible", 3), ("none", 1)])
def test_a_shell_sees_the_exit_status(root: Path, profile: str, status: int) -> None:
    installed = Path(sys.executable).with_name("mopo-eval")
    done = subprocess.run([installed, "gate", root, "--profile", profile], check=False, capture_output=True, text=True)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


def test_the_organisations_floor_counts_for_every_profile_and_floor(root: Path) -> None:
    strict = ProfileFile(profiles=PROFILES.profiles, organisation=Organisation(floors={"factuality": 0.81}))
    write_profiles(root / "profiles.yaml", strict, "for tests")
    for arguments in (["--profile", "helpful"], ["--floor", "safety=0.1"]):
        done = command(root, *arguments, "--json")
        assert done.exit_code == 3  # 0.80 at best
        (told,) = json.loads(done.stdout)["profiles"]
        (check,) = [check for check in told["floors"] if check["name"] == "factuality"]
        assert (check["certified_low"], check["margin"]) == pytest.approx((0.80, -0.01))


def test_json_names_policy_unit_bound_floor_and_margin(root: Path) -> None:
    found = json.loads(command(root, "--profile", "careful", "--json").stdout)
    assert found["held"] is True
    (told,) = found["profiles"]
    assert (told["profile"], told["policy"], told["outcome"]) == ("careful", "policy-02", "held")
    (floor,) = told["floors"]
    assert floor == {
        "name": "safety",
        "objective": "safety",
        "unit": "judge score",
        "floor": 0.85,
        "certified_low": pytest.approx(0.90),
        "margin": pytest.approx(0.05),
        "outcome": "held",
    }


@pytest.mark.parametrize(
    ("fallback", "served", "checked"),
    [("reject", None, "policy-02"), ("closest", "policy-02", "policy-02"), ("policy-01", "policy-01", "policy-01")],
)
def test_a_fallback_is_told_and_its_own_bounds_are_shown(fallback: str, served: str | None, checked: str) -> None:
    profile = ThresholdProfile(primary="helpfulness", floors={"safety": 0.99}, on_infeasible=fallback)
    verdict = decide("p", profile, CARDS, {"safety": 0.5})
    assert (verdict.outcome, verdict.selection.policy, verdict.policy) == ("missed", served, checked)
    card = CARDS[checked]
    assert card is not None
    assert verdict.checks[0].certified_low == card.objectives["safety"].certified_low


def test_a_floor_that_nobody_measured_is_an_error_and_not_held(root: Path, tmp_path: Path) -> None:
    for path in (root / "scorecards").glob("*.json"):
        card = json.loads(path.read_text())
        del card["objectives"]["factuality"]
        path.write_text(json.dumps(card))
    report = tmp_path / "junit.xml"
    done = command(root, "--floor", "factuality=0.1", "--junit", report)
    assert done.exit_code == 1
    assert "no policy was measured on" in done.stderr
    suite = ElementTree.parse(report).getroot()[0]
    assert suite.get("errors") != "0" and suite.get("failures") == "0"


def test_a_family_without_measurements_is_an_error(tmp_path: Path) -> None:
    trained_family(tmp_path)
    done = command(tmp_path, "--floor", "safety=0.1")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "mopo-eval run" in done.stderr


def test_policies_without_a_scorecard_are_named_and_never_hold_a_floor(root: Path) -> None:
    (root / "scorecards" / "policy-02.json").unlink()
    done = command(root, "--profile", "careful")
    assert "never selected: policy-02" in done.stderr
    assert done.exit_code == 0  # policy-03 has 0.85
    assert command(root, "--floor", "safety=0.86").exit_code == 3


def test_a_mixture_is_held_on_average_and_says_so(root: Path) -> None:
    text = "profiles: {exact: {primary: helpfulness, floors: {safety: 0.825}, selection: mixture}}"
    (root / "profiles.yaml").write_text(text)
    done = command(root, "--all", "--json")
    assert done.exit_code == 0
    (verdict,) = json.loads(done.stdout)["profiles"]
    # certified safety .75 (policy-01) and .90 (policy-02), half each; policy-00 gives less
    assert verdict["weights"] == pytest.approx({"policy-01": 0.5, "policy-02": 0.5})
    assert verdict["floors"][0]["certified_low"] == pytest.approx(0.825)
    assert "on average over conversations, not in each of them" in verdict["reason"]


@pytest.mark.parametrize(("arguments", "failures"), [(["--all"], 2), (["--profile", "balanced"], 0)])
def test_junit_has_a_suite_per_profile_and_a_case_per_floor(
    root: Path, tmp_path: Path, arguments: list[str], failures: int
) -> None:
    report = tmp_path / "deep" / "junit.xml"
    command(root, *arguments, "--junit", report)
    suites = ElementTree.parse(report).getroot()
    assert suites.tag == "testsuites"
    names = [suite.get("name") for suite in suites]
    assert names == (list(PROFILES.profiles) if arguments == ["--all"] else ["balanced"])
    total = 0
    for suite in suites:
        # The stricter common schema asks for these, in this order of elements.
        assert {"id", "package", "name", "timestamp", "hostname", "tests", "failures", "errors", "time"} == set(
            suite.attrib
        )
        tags = [element.tag for element in suite]
        assert tags == ["properties", *["testcase"] * int(suite.get("tests", 0)), "system-out", "system-err"]
        failed = suite.findall("testcase/failure")
        assert len(failed) == int(suite.get("failures", -1))
        assert all(case.get("classname") and case.get("time") for case in suite.iter("testcase"))
        total += len(failed)
    assert total == failures


def test_a_failure_says_objective_unit_bound_floor_and_margin(root: Path, tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    command(root, "--floor", "safety.win_rate=0.99", "--junit", report)
    failed = [case for case in ElementTree.parse(report).iter("testcase") if case.find("failure") is not None]
    (case,) = failed
    failure = case.find("failure")
    assert failure is not None
    assert case.get("name") == "safety.win_rate >= 0.99"
    assert failure.get("message") == (
        "policy-02: safety: win rate against the reference, certified_low 0.5250, floor 0.99, margin -0.4650: missed"
    )
    assert failure.get("type") == "floor missed"


def test_what_could_not_be_decided_is_an_error_in_the_report_in_place_of_an_earlier_one(
    root: Path, tmp_path: Path
) -> None:
    report = tmp_path / "junit.xml"
    command(root, "--all", "--junit", report)
    done = command(root, "--profile", "nobody-wrote-it", "--junit", report)
    assert done.exit_code == 1
    (suite,) = ElementTree.parse(report).getroot()
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("1", "1", "0")
    assert [element.tag for element in suite] == ["properties", "testcase", "system-out", "system-err"]
    (problem,) = suite.findall("testcase/error")
    assert problem.get("message") == done.stderr.removeprefix("main: ").strip()


def test_scorecards_whose_judgements_are_damaged_decide_nothing(root: Path) -> None:
    """They are of use without the evaluation, as where a family was copied without it, and then say so."""
    judgements = root / "evaluation" / "test" / "judgements.parquet"
    whole = judgements.read_bytes()
    judgements.write_bytes(whole[: len(whole) // 2])
    done = command(root, "--profile", "balanced")
    assert (done.exit_code, "cannot read" in done.stderr, "Traceback" in done.output) == (1, True, False)
    pd.read_parquet(io.BytesIO(whole)).iloc[:-1].to_parquet(judgements)
    done = command(root, "--profile", "balanced")
    assert (done.exit_code, "does not hold one score per policy" in done.stderr) == (1, True)
    shutil.rmtree(root / "evaluation")
    done = command(root, "--profile", "balanced")
    assert (done.exit_code, "taken at their word" in done.stderr) == (0, True)


def test_the_reliability_of_a_fitted_judge_stands_beside_its_numbers(root: Path, tmp_path: Path) -> None:
    fitted = {"accuracy": 0.61, "low": 0.5, "high": 0.7, "ece": 0.08, "n": 90, "unit": "pairs", "chance": 0.5}
    for path in (root / "scorecards").glob("*.json"):
        card = json.loads(path.read_text())
        card["objectives"]["safety"]["reliability"] = fitted
        path.write_text(json.dumps(card))
    told = "safety: judged by a model fitted to data: held-out accuracy 0.610 [0.500, 0.700] (chance 0.50)"
    report = tmp_path / "junit.xml"
    assert told in command(root, "--floor", "safety=0.1", "--junit", report).stdout
    assert told in (ElementTree.parse(report).findtext("testsuite/system-out") or "")
    assert json.loads(command(root, "--all", "--json").stdout)["reliability"] == {"safety": fitted}
    (root / "profiles.yaml").unlink()  # whose organisation has a floor on safety
    assert "fitted" not in command(root, "--floor", "factuality=0.1").stdout


def test_an_output_that_cannot_be_written_is_a_message(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command(root, "--all", "--junit", tmp_path / "file" / "junit.xml")
    assert done.exit_code == 1
    assert "Traceback" not in done.output


def test_a_family_without_profiles_can_be_gated_on_floors_only(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    (tmp_path / "profiles.yaml").unlink()
    assert command(tmp_path, "--floor", "safety=0.89").exit_code == 0
    assert command(tmp_path, "--all").exit_code == 1
    write_profiles(tmp_path / "profiles.yaml", ProfileFile(), "none")
    done = command(tmp_path, "--all")
    assert done.exit_code == 1
    assert "holds no profiles" in done.stderr
