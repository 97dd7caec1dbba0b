from pathlib import Path

import pandas as pd
import pytest

from dashboards.settings import FAMILY_VARIABLE
from dashboards.training import TrainingLog, activities, lowest_ess, read_logs
from mopo_train.family import Policy
from tests.dashboards.examples import write_example_family
from tests.dashboards.running import charts, healthy, opened, text

PAGE = "views/training.py"


def policy(multiplier: float) -> Policy:
    return Policy(
        id="p", kind="mopo", adapter=None, floors={"safety": 0.6}, multipliers={"safety": multiplier}, ess=0.5
    )


def log(*multipliers: float) -> TrainingLog:
    rows = pd.DataFrame({"step": range(len(multipliers)), "lambda.safety": multipliers, "ess": 0.4})
    return TrainingLog("p", rows.assign(**{"estimated.safety": [0.5 + 0.01 * i for i in range(len(multipliers))]}))


@pytest.mark.parametrize(
    ("end", "multipliers", "binds"),
    [(0.5, (0.5, 0.5), True), (0.0, (0.0, 0.0), False), (0.5, (0.0, 0.0, 0.0, 0.5), False), (0.0, (0.5, 0.5), False)],
)
def test_a_floor_binds_when_it_has_a_price_at_the_end_and_most_of_the_time(
    end: float, multipliers: tuple[float, ...], binds: bool
) -> None:
    (found,) = activities(policy(end), log(*multipliers))
    assert found.binds is binds


def test_the_log_says_what_was_reached_and_the_plan_where_there_is_none() -> None:
    (logged,) = activities(policy(0.5), log(0.5, 0.5, 0.5))
    assert logged.reached == pytest.approx(0.52)
    assert logged.missed
    planned = policy(0.5).model_copy(update={"predicted": {"safety": 0.61}})
    (unlogged,) = activities(planned, None)
    assert (unlogged.reached, unlogged.active, unlogged.missed) == (0.61, 1.0, False)
    assert lowest_ess(planned, None) == 0.5
    assert lowest_ess(planned, log(0.5)) == 0.4


def test_a_damaged_log_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    family = write_example_family(tmp_path / "family", policies=3, prompts=2)
    (tmp_path / "family" / "training" / "policy-01.parquet").write_bytes(b"PAR1 half")
    logs, problems = read_logs(tmp_path / "family", family.policies)
    assert list(logs) == ["policy-00", "policy-02"]
    assert len(problems) == 1
    assert "policy-01" in problems[0]


def test_the_page_says_which_floors_bind_and_draws_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "family"
    write_example_family(root, policies=4, prompts=4)
    late = pd.read_parquet(root / "training" / "policy-02.parquet").assign(**{"estimated.safety": 0.7})
    late.to_parquet(root / "training" / "policy-02.parquet")
    monkeypatch.setenv(FAMILY_VARIABLE, str(root))
    app = opened(PAGE)
    assert text(app).count("✓ as planned") == 3
    assert "▲ below its floors" in text(app)
    assert "safety reached 0.70" in text(app)  # the floor is 0.08 + 0.8 * 0.88 - 0.01
    assert "policy-00 has no floor: it is the unconstrained policy" in text(app)
    app.selectbox(key="trained").select("policy-03").run()
    page = text(healthy(app))
    assert "The floor on safety (0.81) binds, at a price λ of 1.05." in page  # 0.08 + 0.8 * 0.93 - 0.01; 0.35 * 3
    assert len(charts(app)) == 6  # λ, G, χ, KL, ESS, loss
    (root / "training" / "policy-03.parquet").unlink()
    page = text(healthy(app.run()))
    assert "There is no training log of policy-03." in page
    assert "binds" in page


def test_a_floor_without_a_price_is_called_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "family"
    family = write_example_family(root, policies=3, prompts=2)
    idle = family.policies[2].model_copy(update={"multipliers": {"safety": 0.0}})
    (root / "training" / f"{idle.id}.parquet").unlink()
    changed = family.model_copy(update={"policies": [*family.policies[:2], idle, *family.policies[3:]]})
    (root / "family.json").write_text(changed.model_dump_json(), encoding="utf-8")
    monkeypatch.setenv(FAMILY_VARIABLE, str(root))
    app = opened(PAGE)
    app.selectbox(key="trained").select(idle.id).run()
    assert f"No floor on safety ever binds: {idle.id} equals the unconstrained policy." in text(healthy(app))
