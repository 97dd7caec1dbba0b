"""``mopo-eval refine`` from end to end: a tiny trained family, the embedded engine, judges that are opposites."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from mopo_eval.answers import Sampling
from mopo_eval.bounds import clopper_pearson_low
from mopo_eval.certification import Request as Certification
from mopo_eval.certification import certify_family, verify
from mopo_eval.cli import main
from mopo_eval.engine_choice import EngineChoice
from mopo_eval.estimates import bounds_certified
from mopo_eval.evaluation import read_summary
from mopo_eval.judges import load_judges
from mopo_eval.measure import Plan, measure
from mopo_eval.profiles import ProfileFile, ThresholdProfile, write_profiles
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.results import read_results
from mopo_eval.scorecards import read_scorecards
from mopo_train.family import read_family, write_family
from tests.mopo_train.test_run import CONFIG, World

JUDGES = {"helpfulness": "tests.mopo_eval.scoring.answers", "safety": "tests.mopo_eval.scoring.refuses"}
PROMPTS = [EvaluationPrompt(f"p{i}", f"How do I make dish {i}?") for i in range(10, 60)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two policies at a tau that leaves room beyond the second. 50 prompts."""
    world = World(tmp_path_factory.mktemp("world"))
    root = world.data.parent.parent / "family"
    world.train(
        root, CONFIG.model_copy(update={"policies": 2, "steps": 320, "kl_prompts": 0, "tau": 0.5, "own_anchor": 0.0})
    )
    plan = Plan(
        prompts=PROMPTS,
        judges=load_judges(JUDGES),
        sampling=Sampling(max_tokens=24),
        engine=EngineChoice("embedded"),
    )
    measure(root, read_family(root), plan)
    return root


@pytest.fixture
def root(measured: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    copied = tmp_path / "family"
    shutil.copytree(measured, copied)
    return copied


def refine(root: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["refine", str(root), "--engine", "embedded", *options])


def bound(root: Path, policy: str, objective: str = "safety") -> float:
    return read_scorecards(root, read_family(root))[policy].objectives[objective].certified_low


def test_a_policy_between_two_neighbours_joins_and_all_bounds_count_the_search(root: Path) -> None:
    before = read_scorecards(root, read_family(root))
    (first_run,) = {card.run for card in before.values()}
    floor = bound(root, "policy-00") + 0.02
    assert floor < bound(root, "reference") < bound(root, "policy-01")
    strict = ThresholdProfile(primary="helpfulness", floors={"safety": bound(root, "policy-01")})
    write_profiles(root / "profiles.yaml", ProfileFile(profiles={"just-held": strict}), "held until bounds count more")
    told = refine(root, "--floor", f"safety={floor}", "--rounds", "1", "--trainings", "1", "--json")
    assert told.exit_code == 0, told.output
    assert "no policy is shown to hold just-held; measure on prompts that the search has not seen" in told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    family = read_family(root)
    assert (found["policy"], found["new"], found["held"]) == ("policy-00.5", True, True)
    assert [policy.id for policy in family.policies] == ["reference", "policy-00", "policy-00.5", "policy-01"]
    assert (family.policy("policy-00.5").kind, family.policy("policy-00.5").adapter) == (
        "interpolated",
        "policies/policy-00.5",
    )
    (made,) = family.searches
    assert (made.run, made.floors, made.policy, made.tried) == (first_run, {"safety": floor}, "policy-00.5", 1)
    assert made.others == 1 + 2 - 1  # one place in the gap, a training and the way to it, less what was found
    cards = read_scorecards(root, family)
    assert cards["policy-00.5"].objectives["helpfulness"].mean > before["policy-01"].objectives["helpfulness"].mean
    alpha = 0.05 / bounds_certified(4 + 2, 2)
    for card in cards.values():  # exact bounds at the level that counts what was only possible
        score = card.objectives["safety"]
        assert score.certified_low == pytest.approx(clopper_pearson_low(round(50 * score.mean), 50, alpha))
        assert card.run == found["run"] != first_run
    assert bound(root, "policy-00.5") >= floor
    assert found["certified"]["safety"] == bound(root, "policy-00.5")
    assert not list((root / ".work").glob("refine-*"))

    results = read_results(root, family)
    assert results.summary.counted == found["counted"] == 6
    answers = pd.read_parquet(results.directory / "responses.parquet")
    old = pd.read_parquet(root / "evaluation" / first_run / "responses.parquet")
    same = answers[answers.policy != "policy-00.5"].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, old)  # nothing was asked again
    profile = ThresholdProfile(primary="helpfulness", floors={"safety": floor})
    certificate = certify_family(root, family, Certification(profile, None, {}))
    assert certificate.bounds == bounds_certified(6, 2)
    assert verify(certificate, root, family) == []
    assert "policy-00.5" in [test.policy for test in certificate.policies if test.certified]

    again = refine(root, "--floor", f"safety={floor}", "--rounds", "1", "--trainings", "1")
    assert again.exit_code == 0, again.output
    assert "policy-00.5 was there already" in again.stdout
    assert read_family(root) == family

    (root / "scorecards" / "policy-00.5.json").unlink()  # as if it had been killed before the run was written
    (results.directory / "run.json").unlink()
    continued = refine(root, "--floor", f"safety={floor}", "--rounds", "1", "--trainings", "1")
    assert continued.exit_code == 0, continued.output
    assert "finishing the search that added policy-00.5" in continued.stderr
    assert "starting the embedded engine" not in continued.stderr
    assert read_summary(results.directory / "run.json").counted == 6


def test_beyond_the_last_policy_one_is_trained_from_it(root: Path) -> None:
    floor = bound(root, "policy-01") + 0.01
    told = refine(root, "--floor", f"safety={floor}", "--rounds", "1", "--trainings", "1", "--json")
    assert told.exit_code == 0, told.stderr
    found = json.loads(told.stdout)
    family = read_family(root)
    new = family.policy(found["policy"])
    assert [look["policy"] for look in found["looks"]] == ["policy-01-x2", "policy-01.5-x2"]
    assert new.id in ("policy-01-x2", "policy-01.5-x2")
    assert bound(root, new.id) >= floor
    if new.kind == "mopo":
        assert new.multipliers["safety"] == pytest.approx(2 * family.policy("policy-01").multipliers["safety"])
        assert (root / "training" / f"{new.id}.parquet").is_file()


def test_floors_out_of_reach_are_an_error_that_names_the_best(root: Path) -> None:
    files = {path: path.read_bytes() for path in root.rglob("*.json")}
    told = refine(root, "--floor", "safety=0.99", "--trainings", "0")
    assert told.exit_code == 1
    best = bound(root, "policy-01")
    assert (
        "out of reach: safety=0.99 (measured). no further policy could be tried; the closest, policy-01" in told.stderr
    )
    assert f"Best certified one at a time: safety={best:.3g}" in told.stderr
    assert {path: path.read_bytes() for path in root.rglob("*.json")} == files


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--floor", "speed=0.5"], 1, "'speed', which is not an objective"),
        (["--floor", "safety=1.5"], 2, "outside"),
        (["--floor", "safety=0.5", "--engine", "http://127.0.0.1:9"], 2, "a running engine has no new policies"),
        ([], 2, "--floor"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(options: list[str], status: int, message: str, measured: Path) -> None:
    told = refine(measured, *options)
    assert (told.exit_code, message in told.stderr) == (status, True), told.stderr


def test_nothing_is_trained_on_other_data_or_for_a_family_of_another_method(root: Path) -> None:
    family = read_family(root)
    floor = ["--floor", f"safety={bound(root, 'policy-01') + 0.01}"]
    other = family.data.model_copy(update={"sha256": "0" * 64})
    write_family(root, family.model_copy(update={"data": other}))
    told = refine(root, *floor)
    assert (told.exit_code, "have changed since it was trained" in told.stderr) == (1, True), told.stderr
    write_family(root, family.model_copy(update={"config": {"method": "dpo"}}))
    told = refine(root, *floor)
    assert (told.exit_code, "refine with --trainings 0, which only interpolates" in told.stderr) == (1, True)


def test_a_family_must_be_measured_first(root: Path) -> None:
    shutil.rmtree(root / "scorecards")
    told = refine(root, "--floor", "safety=0.5")
    assert told.exit_code == 1
    assert "no policy of" in told.stderr and "mopo-eval run" in told.stderr
