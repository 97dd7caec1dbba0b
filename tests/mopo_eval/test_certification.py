import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from mopo_eval.answers import Sampling
from mopo_eval.cli import main
from mopo_eval.endpoint import Patience
from mopo_eval.engine_choice import EngineChoice
from mopo_eval.judges import load_judges
from mopo_eval.measure import Plan, measure
from mopo_eval.profiles import ProfileFile, ThresholdProfile, write_profiles
from mopo_eval.prompts import EvaluationPrompt
from mopo_eval.registration import read_registration
from mopo_train.family import read_family, write_family
from tests.families import SCORES, family
from tests.mopo_eval.stub_engine import stub_engine

JUDGES = {"helpfulness": "tests.mopo_eval.scoring.digit", "safety": "tests.mopo_eval.scoring.is_even"}
LENIENT = ThresholdProfile(primary="helpfulness", floors={"safety": 0.05})


def measured(root: Path, first: int = 0, seed: int = 0) -> str:
    """Name of a run on 40 prompts, numbered from ``first``, by a real server and judges."""
    with stub_engine(list(SCORES)) as engine:
        plan = Plan(
            prompts=[EvaluationPrompt(f"p{i}", f"Question {i}?", None) for i in range(first, first + 40)],
            judges=load_judges(JUDGES),
            sampling=Sampling(seed=seed),
            engine=EngineChoice(engine.url, concurrency=4, patience=Patience(3, 0.001)),
        )
        return measure(root, read_family(root), plan).summary.run


def profiles(root: Path, **given: ThresholdProfile) -> None:
    write_profiles(root / "profiles.yaml", ProfileFile(profiles=given), "for tests")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A family that was trained but not measured."""
    made = family()
    for policy in made.policies:
        if policy.adapter:
            (tmp_path / policy.adapter).mkdir(parents=True)
            (tmp_path / policy.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    write_family(tmp_path, made)
    return tmp_path


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["certify", *map(str, arguments)])


def made(root: Path, *arguments: object) -> dict[str, object]:
    result = command(root, *arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_floors_that_stood_before_the_run_are_tested_in_sequence(root: Path) -> None:
    profiles(root, lenient=LENIENT)
    run = measured(root)
    registration = read_registration(root / "evaluation" / run)
    assert registration is not None
    assert registration.profiles.profiles == {"lenient": LENIENT}
    assert registration.seen == []
    found = made(root, "--profile", "lenient")
    assert found["method"] == "fixed-sequence"
    assert "before the run began" in str(found["registration"])
    assert found["serves"] in SCORES
    assert json.loads((root / "certificates" / "lenient.json").read_text()) == found


def test_a_profile_that_was_written_or_changed_after_the_run_is_tested_as_a_choice_made_after_it(root: Path) -> None:
    profiles(root, lenient=LENIENT)
    measured(root)
    profiles(root, lenient=LENIENT.model_copy(update={"floors": {"safety": 0.06}}), late=LENIENT)
    for name, told in (("lenient", "another one when the run began"), ("late", "no profile 'late'")):
        found = made(root, "--profile", name)
        assert found["method"] == "simultaneous"
        assert told in str(found["registration"])
    assert made(root, "--floor", "safety=0.05")["method"] == "simultaneous"
    assert made(root, "--profile", "late", "--registered", "protocol 7")["method"] == "fixed-sequence"


def test_proposed_profiles_are_registered_for_new_prompts_but_not_for_those_that_they_came_from(root: Path) -> None:
    first = measured(root)
    assert made(root, "--profile", "most-helpful")["method"] == "simultaneous"
    again = measured(root, seed=1)
    assert first in str(made(root, "--profile", "most-helpful", "--run", again)["registration"])
    fresh = measured(root, first=100)
    assert made(root, "--profile", "most-helpful", "--run", fresh)["method"] == "fixed-sequence"


def test_judging_again_does_not_register_again(root: Path) -> None:
    run = measured(root)
    before = (root / "evaluation" / run / "registration.json").read_bytes()
    (root / "profiles.yaml").unlink()
    profiles(root, lenient=LENIENT)
    assert measured(root) == run
    assert (root / "evaluation" / run / "registration.json").read_bytes() == before


@pytest.fixture
def sealed(root: Path) -> Path:
    """A certificate in a measured family."""
    profiles(root, lenient=LENIENT)
    measured(root)
    made(root, "--profile", "lenient")
    return root / "certificates" / "lenient.json"


def test_a_certificate_is_checked_alone_and_against_its_family(root: Path, sealed: Path, tmp_path: Path) -> None:
    shutil.copy(sealed, tmp_path / "mailed.json")
    alone = command("--verify", tmp_path / "mailed.json", "--json")
    assert alone.exit_code == 0
    assert json.loads(alone.stdout) == {"valid": True, "problems": [], "against_family": False}
    assert "Not checked: the scores" in command("--verify", tmp_path / "mailed.json").stdout
    beside = command(root, "--verify", sealed)
    assert beside.exit_code == 0
    assert "the files of" in beside.stdout


def test_changed_scores_are_found_out_by_the_family(root: Path, sealed: Path) -> None:
    path = next((root / "evaluation").glob("*/judgements.parquet"))
    rows = pd.read_parquet(path)
    rows.loc[rows.objective == "safety", "score"] = 1.0
    rows.to_parquet(path)
    assert command("--verify", sealed).exit_code == 0
    result = command(root, "--verify", sealed)
    assert result.exit_code == 1
    assert "judgements_sha256" in result.output
    assert "other tests" in result.output


def test_floors_that_the_run_does_not_know_do_not_count_as_registered(root: Path, sealed: Path) -> None:
    record = next((root / "evaluation").glob("*/registration.json"))
    made(root, "--profile", "lenient", "--registered", "protocol 7", "--out", root / "word.json")
    record.write_text(record.read_text().replace('"lenient"', '"another"'))
    result = command(root, "--verify", sealed)
    assert result.exit_code == 1
    assert "do not count as registered: profiles.yaml had no profile 'lenient'" in result.output
    record.unlink()
    assert "has no registration.json" in command(root, "--verify", sealed).output
    assert command(root, "--verify", root / "word.json").exit_code == 0  # somebody's word, and said to be


def test_a_certificate_says_how_far_a_fitted_judge_is_to_be_trusted(root: Path, tmp_path: Path) -> None:
    profiles(root, lenient=LENIENT)
    summary = root / "evaluation" / measured(root) / "run.json"
    fitted = {"accuracy": 0.61, "low": 0.5, "high": 0.7, "ece": 0.08, "n": 90, "unit": "pairs", "chance": 0.5}
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"reliability": {"safety": fitted}}))
    path = tmp_path / "certificate.json"
    done = command(root, "--profile", "lenient", "--out", path)
    assert "safety: judged by a model fitted to data: held-out accuracy 0.610" in done.stdout
    assert json.loads(path.read_text())["evidence"]["reliability"] == {"safety": fitted}
    assert command("--verify", path, root).exit_code == 0
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"reliability": {}}))
    assert "evidence: reliability is {}" in command("--verify", path, root).stderr


def test_a_changed_certificate_is_refused(sealed: Path) -> None:
    sealed.write_text(sealed.read_text().replace('"floor": 0.05', '"floor": 0.5'))
    result = command("--verify", sealed, "--json")
    assert result.exit_code == 1
    assert not json.loads(result.stdout)["valid"]
    assert "does not hold" in result.stderr


def test_what_cannot_be_certified_is_a_clear_error(root: Path, tmp_path: Path) -> None:
    assert "was measured" in command(root, "--floor", "safety=0.5").output
    profiles(root, lenient=LENIENT)
    measured(root)
    for arguments, status, told in (
        ((root, "--profile", "strange"), 1, "no profile 'strange'"),
        ((root, "--floor", "kindness=0.5"), 1, "kindness"),
        ((root, "--floor", "safety=1.5"), 2, "outside [0, 1]"),
        ((root, "--floor", "factuality=0.5"), 1, "did not measure factuality"),
        ((root, "--profile", "lenient", "--run", "none"), 1, "no finished evaluation"),
        ((root,), 2, "either --profile or --floor"),
        ((), 2, "name a FAMILY"),
        (("--verify", tmp_path / "none.json"), 1, "no certificate at"),
        (("--verify", root / "family.json"), 1, "is not a certificate"),
    ):
        result = command(*arguments)
        assert (result.exit_code, told in result.output) == (status, True), result.output
