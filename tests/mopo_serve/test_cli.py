import json
import shutil
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mopo_serve.cli import main
from tests.families import write_measured_family


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_measured_family(tmp_path / "family")
    return tmp_path / "family"


def mopo_serve(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_resolve_prints_the_policy_the_reason_and_every_margin(root: Path) -> None:
    result = mopo_serve("resolve", root, "--profile", "balanced")
    assert result.exit_code == 0
    assert result.stdout.startswith("policy: policy-01\npolicy-01 has the greatest helpfulness, 0.700")
    (row,) = [line for line in result.stdout.splitlines() if "policy-00" in line]
    assert "0.550 (-0.150)" in row and "no" in row  # certified 0.60 - 0.05 against 0.70
    assert "safety >= 0.7" in result.stdout


def test_resolve_prints_the_contracts_json(root: Path) -> None:
    told = json.loads(mopo_serve("resolve", root, "--profile", "balanced", "--floor", "safety=0.8", "--json").stdout)
    assert {"policy", "feasible", "profile", "floors", "policies", "reason"} <= set(told)
    assert (told["policy"], told["feasible"], told["profile"]) == ("policy-02", True, "balanced")
    assert told["floors"] == {"safety": 0.8}
    margins = {row["id"]: row["margins"]["safety"] for row in told["policies"]}
    assert margins == pytest.approx(
        {"reference": -0.05, "policy-00": -0.25, "policy-01": -0.05, "policy-02": 0.1, "policy-03": 0.05}
    )


def test_resolve_tells_how_far_a_fitted_judge_is_to_be_trusted(root: Path) -> None:
    fitted = {"accuracy": 0.61, "low": 0.5, "high": 0.7, "ece": 0.08, "n": 90, "unit": "pairs", "chance": 0.5}
    for path in (root / "scorecards").glob("*.json"):
        card = json.loads(path.read_text(encoding="utf-8"))
        card["objectives"]["safety"]["reliability"] = fitted
        path.write_text(json.dumps(card), encoding="utf-8")
    asked = ("resolve", root, "--profile", "balanced")
    assert "safety: judged by a model fitted to data: held-out accuracy 0.610" in mopo_serve(*asked).stdout
    assert json.loads(mopo_serve(*asked, "--json").stdout)["reliability"] == {"safety": fitted}


def test_a_decision_over_scores_needs_no_adapters_and_minds_no_further_fields(root: Path) -> None:
    asked = ("resolve", root, "--profile", "balanced", "--json")
    before = json.loads(mopo_serve(*asked).stdout)
    shutil.rmtree(root / "policies")
    family = json.loads((root / "family.json").read_text(encoding="utf-8"))
    family |= {"note": "of a later version"}
    family["data"] |= {"source": "pairs.jsonl", "licence": "none"}
    (root / "family.json").write_text(json.dumps(family), encoding="utf-8")
    assert json.loads(mopo_serve(*asked).stdout) == before


def test_floors_without_a_profile_maximise_the_familys_primary_or_the_given_one(root: Path) -> None:
    told = json.loads(mopo_serve("resolve", root, "--floor", "safety=0.6", "--json").stdout)
    assert (told["policy"], told["profile"]) == ("policy-01", None)
    told = json.loads(mopo_serve("resolve", root, "--floor", "safety=0.6", "--primary", "factuality", "--json").stdout)
    assert told["policy"] == "policy-02"


def test_the_organisations_floors_are_held_for_floors_on_the_command_line(root: Path) -> None:
    told = json.loads(mopo_serve("resolve", root, "--floor", "safety=0.1", "--json").stdout)
    assert told["floors"] == {"safety": 0.5}


def test_an_infeasible_profile_is_an_answer_with_status_0(root: Path) -> None:
    result = mopo_serve("resolve", root, "--profile", "impossible", "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["policy"], told["feasible"]) == (0, None, False)
    assert told["closest"]["policy"] == "policy-02"
    assert "policy: none  (infeasible)" in mopo_serve("resolve", root, "--profile", "impossible").stdout


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--profile", "nobody"], 1, "no profile 'nobody'; known: helpful"),
        (["--floor", "safty=0.5"], 1, "safty"),
        (["--floor", "safety=1.5"], 2, "outside [0, 1]"),
        (["--floor", "safety"], 2, "objective=value"),
        (["--primary", "helpfull"], 1, "helpfull"),
        (["--profile", "balanced", "--profiles", "/nonexistent.yaml"], 1, "no profiles at"),
    ],
)
def test_resolve_refuses_what_it_does_not_know(root: Path, arguments: list[str], status: int, said: str) -> None:
    result = mopo_serve("resolve", root, *arguments)
    assert result.exit_code == status
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_resolve_wants_a_question(root: Path) -> None:
    assert mopo_serve("resolve", root).exit_code == 2


@pytest.mark.parametrize("command", [["resolve", "--profile", "x"], ["run"]])
def test_a_directory_without_a_family_is_told(tmp_path: Path, command: list[str]) -> None:
    result = mopo_serve(command[0], tmp_path, *command[1:])
    assert result.exit_code == 1
    assert "no finished policy family" in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profiles: {x: {primary: helpfulness, floors: {safty: 0.5}}}", "floor on 'safty'"),
        ("profiles: {x: {primary: helpfulness, floors: {safety: 1.2}}}", "profiles.x.floors.safety"),
        ("profiles: {x: {primary: helpfulness, floor: {safety: 0.2}}}", "profiles.x.floor"),
        ("profiles: {x: {primary: nothing}}", "primary 'nothing'"),
        ("organisation: {floors: {safty: 0.5}}", "floor on 'safty'"),
        ("profiles: {x", "cannot read profiles"),
    ],
)
@pytest.mark.parametrize("command", [["resolve", "--profile", "x"], ["run", "--engine", "embedded"]])
def test_wrong_profiles_stop_every_command(
    root: Path, tmp_path: Path, command: list[str], text: str, said: str
) -> None:
    profiles = tmp_path / "wrong.yaml"
    profiles.write_text(text, encoding="utf-8")
    result = mopo_serve(command[0], root, *command[1:], "--profiles", profiles)
    assert result.exit_code == 1
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_run_refuses_an_address_that_others_reach(root: Path) -> None:
    result = mopo_serve("run", root, "--host", "0.0.0.0")
    assert result.exit_code == 1
    assert "no API keys exist" in result.stderr


def test_run_tells_of_a_port_in_use_before_it_starts_an_engine(root: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = mopo_serve("run", root, "--port", str(port), "--engine", "embedded")
    assert result.exit_code == 1
    assert f"port {port}" in result.stderr
    assert "starting" not in result.stderr
