from pathlib import Path

import pytest

from dashboards.floors import binding_floors, choose, held, outcomes, standings
from dashboards.frames import FamilyView, open_family
from tests.families import write_measured_family


@pytest.fixture
def view(tmp_path: Path) -> FamilyView:
    write_measured_family(tmp_path)
    return open_family(tmp_path)


def test_the_certified_bound_decides_and_not_the_mean(view: FamilyView) -> None:
    # safety: means .80 .60 .80 .95 .90, certified 0.05 lower
    rows = {row.policy: row for row in standings(view, {"safety": 0.80})}
    assert {name for name, row in rows.items() if row.holds} == {"policy-02", "policy-03"}
    assert rows["policy-01"].margins.margins == {"safety": pytest.approx(-0.05)}
    assert rows["policy-03"].dominated


def test_a_bound_is_told_as_a_floor_that_it_holds() -> None:
    assert [held(0.8057), held(0.6899), held(0.69), held(0.29), held(0.0)] == [0.8, 0.68, 0.69, 0.29, 0.0]
    assert held(0.68996, 3) == 0.689


def test_the_organisations_floor_holds_when_the_slider_is_lower(view: FamilyView) -> None:
    assert binding_floors(view, {"safety": 0.1, "helpfulness": 0.0}) == {"safety": 0.5}
    assert binding_floors(view, {"safety": 0.6, "helpfulness": 0.2}) == {"safety": 0.6, "helpfulness": 0.2}


@pytest.mark.parametrize(("floor", "policy"), [(0.0, "policy-00"), (0.6, "policy-01"), (0.76, "policy-02")])
def test_the_most_helpful_policy_that_holds_the_floor_is_chosen(view: FamilyView, floor: float, policy: str) -> None:
    assert choose(view, "helpfulness", {"safety": floor}).policy == policy


def test_every_profile_is_decided_under_the_added_floors(view: FamilyView) -> None:
    alone = {row.profile: row.selection.policy for row in outcomes(view, {"safety": 0.0})}
    assert alone == {
        "helpful": "policy-00",
        "balanced": "policy-01",
        "careful": "policy-02",
        "impossible": None,
        "closest": "policy-02",
    }
    added = {row.profile: row.selection.policy for row in outcomes(view, {"safety": 0.8})}
    assert added["helpful"] == added["balanced"] == added["careful"] == "policy-02"


def test_the_margins_shown_are_those_of_the_policy_that_serves(view: FamilyView) -> None:
    rows = {row.profile: row for row in outcomes(view, {})}
    balanced = rows["balanced"].margins
    assert balanced is not None
    assert balanced.margins == pytest.approx({"safety": 0.75 - 0.70})
    assert rows["impossible"].margins is None


def test_a_floor_on_something_not_measured_is_not_held(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    (tmp_path / "scorecards" / "policy-02.json").unlink()
    view = open_family(tmp_path)
    assert "policy-02" not in {row.policy for row in standings(view, {})}
    assert choose(view, "helpfulness", {"safety": 0.86}).policy is None
