import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mopo_eval.certificate import Certificate, Evidence, Question, alike, certify, digest, problems, sequence
from mopo_eval.estimates import ScoreTable, bounds_certified, make_scorecards
from mopo_eval.profiles import Floors, ThresholdProfile
from mopo_eval.selection import select

OBJECTIVES = ["helpfulness", "safety", "factuality"]
POLICIES = ["reference", *(f"policy-{index:02d}" for index in range(7))]
TRUTH = np.stack([np.linspace(0.45, 0.8, 8), np.linspace(0.92, 0.55, 8), np.linspace(0.85, 0.6, 8)], axis=1)
"""(P, K) true means along a front, from the strictest policy on."""
PLANNED = {name: dict(zip(OBJECTIVES, row.tolist(), strict=True)) for name, row in zip(POLICIES, TRUTH, strict=True)}
EVIDENCE = dict.fromkeys(["family_sha256", "run_sha256", "judgements_sha256"], "0" * 64)


def draw(rng: np.random.Generator, prompts: int) -> ScoreTable:
    """Right or wrong on every objective."""
    return ScoreTable(POLICIES, OBJECTIVES, (rng.random((8, 3, prompts, 1)) < TRUTH[:, :, None, None]).astype(float))


def certificate(
    table: ScoreTable,
    floors: Floors,
    registered: bool = True,
    confidence: float = 0.9,
    planned: Mapping[str, Mapping[str, float]] = PLANNED,
) -> Certificate:
    question = Question("strict", "helpfulness", floors, confidence, "for a test", registered)
    evidence = Evidence(run="r", prompts=table.scores.shape[2], judges=dict.fromkeys(OBJECTIVES, "j"), **EVIDENCE)
    return certify(question, table, planned, evidence, created_at="2026-01-01T00:00:00+00:00", package_version="0")


def certified(found: Certificate) -> list[str]:
    return [test.policy for test in found.policies if test.certified]


def holding(floors: Floors) -> set[str]:
    """Policies whose true means clear the floors."""
    return {
        name
        for name, row in zip(POLICIES, TRUTH, strict=True)
        if all(row[OBJECTIVES.index(objective)] >= floor for objective, floor in floors.items())
    }


def test_the_planned_order_goes_from_the_safest_policy_on_along_the_front() -> None:
    assert sequence(PLANNED, {"safety": 0.7}) == POLICIES
    assert sequence(PLANNED, {"helpfulness.win_rate": 0.7}) == POLICIES[::-1]


def test_the_worst_of_several_objectives_orders_and_policies_without_a_plan_come_last() -> None:
    planned = {
        "a": {"safety": 1.0, "factuality": 0.2},  # scaled 1, 0
        "b": {"safety": 0.8, "factuality": 0.6},  # 0.6, 0.5
        "c": {"safety": 0.5, "factuality": 1.0},  # 0, 1
        "d": {"safety": 0.9},
        "e": {},
    }
    assert sequence(planned, {"safety": 0.5, "factuality": 0.5}) == ["b", "a", "c", "d", "e"]


def test_p_values_are_the_binomial_tests_and_the_largest_counts() -> None:
    table = draw(np.random.default_rng(0), 60)
    found = certificate(table, {"safety": 0.7, "factuality": 0.6})
    for test in found.policies:
        values = table.values[POLICIES.index(test.policy)]
        peers = [
            stats.binomtest(int(values[k].sum()), 60, floor, alternative="greater").pvalue
            for k, floor in ((1, 0.7), (2, 0.6))
        ]
        assert [floor.p_value for floor in test.floors] == pytest.approx(peers)
        assert test.p_value == pytest.approx(max(peers))


def test_the_first_failure_stops_the_sequence() -> None:
    scores = np.ones((3, 2, 40, 1))
    scores[1, 1, ::2] = 0  # the second policy is unsafe half the time, the third never
    table = ScoreTable(["a", "reference", "c"], ["helpfulness", "safety"], scores)
    planned = {"a": {"safety": 0.9}, "reference": {"safety": 0.8}, "c": {"safety": 0.7}}
    found = certificate(table, {"safety": 0.8}, planned=planned)
    assert certified(found) == ["a"]
    assert found.policies[2].p_value < 0.001
    assert certified(certificate(table, {"safety": 0.8}, registered=False, planned=planned)) == ["a", "c"]


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("graded", [True, False])
def test_policies_below_a_floor_are_certified_no_more_often_than_stated(registered: bool, graded: bool) -> None:
    """Floors a hair above a policy's true means, the hardest case; 8 policies, 3 objectives."""
    rng, trials, confidence = np.random.default_rng(7), 250, 0.8
    floors = {"safety": float(TRUTH[4, 1]) + 1e-9, "factuality": float(TRUTH[4, 2]) + 1e-9}
    true, wrong = holding(floors), 0
    for _ in range(trials):
        table = draw(rng, 80)
        if graded:
            table = table._replace(scores=np.clip(table.scores * 0.5 + TRUTH[:, :, None, None] * 0.5, 0, 1))
        wrong += bool(set(certified(certificate(table, floors, registered, confidence))) - true)
    assert wrong <= stats.binom.ppf(0.999, trials, 1 - confidence)
    assert wrong > 0 or not registered or graded


def test_registered_floors_are_tested_with_more_power() -> None:
    rng, floors = np.random.default_rng(8), {"safety": 0.75, "factuality": 0.7}
    tables = [draw(rng, 150) for _ in range(60)]
    counts = [sum(len(certified(certificate(table, floors, kind))) for table in tables) for kind in (True, False)]
    assert counts[0] > 1.3 * counts[1] > 0


def test_floors_that_were_not_registered_are_held_as_certified_low_holds_them() -> None:
    rng = np.random.default_rng(9)
    for _ in range(10):
        table = draw(rng, 150)
        cards = {
            card.policy: card
            for card in make_scorecards(table, dict.fromkeys(OBJECTIVES, "j"), run="r", confidence=0.9)
        }
        floors = {"safety": round(rng.uniform(0.5, 0.8), 2), "factuality.win_rate": round(rng.uniform(0.2, 0.5), 2)}
        found = certificate(table, floors, registered=False)
        chosen = select(ThresholdProfile(primary="helpfulness", floors=floors), cards)
        assert set(certified(found)) == {row.id for row in chosen.policies if row.meets}
        assert found.serves == chosen.policy
        assert found.bounds == bounds_certified(8, 3)


def test_the_reference_against_itself_is_known() -> None:
    table = draw(np.random.default_rng(1), 30)
    assert "reference" in certified(certificate(table, {"safety.win_rate": 0.5}, registered=False))
    assert "reference" not in certified(certificate(table, {"safety.win_rate": 0.51}, registered=False))


def test_without_floors_every_policy_holds_and_the_best_serves() -> None:
    table = draw(np.random.default_rng(1), 30)
    found = certificate(table, {})
    assert len(certified(found)) == 8
    assert found.serves == POLICIES[int(table.values[:, 0].mean(axis=1).argmax())]


def test_a_floor_that_nobody_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="no judge measured 'kindness'"):
        certificate(draw(np.random.default_rng(1), 30), {"kindness": 0.5}, registered=False, planned=PLANNED)


def changed(found: Certificate, *path: Any, value: Any, resealed: bool = True) -> Certificate:
    """``found`` with one value replaced, and its checksum made to fit."""
    document: Any = found.model_dump(mode="json")
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    assert inner[path[-1]] != value
    inner[path[-1]] = value
    if resealed:
        document["sha256"] = digest(document)
    return Certificate.model_validate(document)


@pytest.mark.parametrize("registered", [True, False])
def test_a_sound_certificate_has_no_problems_also_after_a_round_trip(registered: bool) -> None:
    found = certificate(draw(np.random.default_rng(2), 90), {"safety": 0.7, "factuality.win_rate": 0.4}, registered)
    assert problems(found) == []
    assert problems(Certificate.model_validate_json(found.model_dump_json(indent=1))) == []


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("floors", "safety"), 0.6, "its floors are not the certificate's"),
        (("policies", 0, "floors", 0, "floor"), 0.5, "its floors are not the certificate's"),
        (("policies", 0, "floors", 0, "p_value"), 1e-12, "p-value"),
        (("policies", 7, "p_value"), 0.0, "not the largest"),
        (("policies", 0, "floors", 0, "mean"), 0.99, "its values give mean"),
        (("policies", 0, "floors", 0, "values"), [[1.0, 90]], "its values give mean"),
        (("policies", 0, "floors", 0, "values"), [[1.0, 80]], "not those of 90 prompts"),
        (("policies", 0, "floors", 0, "known"), True, "not those of 90 prompts"),
        (("policies", 7, "certified"), True, "decisions do not follow"),
        (("policies", 0, "planned", "safety"), 0.0, "another order"),
        (("method",), "simultaneous", "does not share the error"),
        (("bounds",), 2, "does not share the error"),
        (("schema_version",), 99, "schema_version is 99"),
        (("confidence",), 0.9999999, "decisions do not follow"),
        (("serves",), "policy-06", "the best certified policy"),
        (("statement",), "Every policy is perfect.", "its statement is not what its tests show"),
    ],
)
def test_whoever_changes_a_certificate_is_found_out(path: tuple[Any, ...], value: Any, told: str) -> None:
    found = certificate(draw(np.random.default_rng(2), 90), {"safety": 0.7})
    assert told in "; ".join(problems(changed(found, *path, value=value)))
    assert "sha256" in problems(changed(found, *path, value=value, resealed=False))[0]


def test_fewer_tests_than_are_shown_cannot_share_the_error() -> None:
    found = certificate(draw(np.random.default_rng(2), 90), {"safety": 0.7}, False)
    shown = len(found.policies)
    assert found.bounds >= shown
    told = "; ".join(problems(changed(found, "bounds", value=shown - 1)))
    assert f"shares the error among {shown - 1} tests and shows {shown}" in told


def test_what_is_known_of_the_reference_takes_no_share_of_the_error() -> None:
    """Every score and every win rate of two objectives has a floor: as many tests as there are bounds."""
    floors = {"helpfulness": 0.2, "helpfulness.win_rate": 0.1, "safety": 0.2, "safety.win_rate": 0.1}
    floors |= {"factuality": 0.2, "factuality.win_rate": 0.1}
    assert problems(certificate(draw(np.random.default_rng(2), 90), floors, False)) == []


def test_rounding_of_another_processor_is_no_change() -> None:
    found = certificate(draw(np.random.default_rng(2), 90), {"safety": 0.7}).policies[0].model_dump(mode="json")
    rounded = found | {"primary_mean": float(np.nextafter(found["primary_mean"], 1))}
    assert rounded != found and alike(found, rounded)
    assert not alike(found, found | {"primary_mean": found["primary_mean"] + 1e-6})
    assert not alike(found, {name: value for name, value in found.items() if name != "planned"})
    assert not alike(found, found | {"floors": []})


def test_what_no_number_shows_is_kept_by_the_checksum() -> None:
    found = certificate(draw(np.random.default_rng(2), 90), {"safety": 0.7})
    assert "sha256" in problems(changed(found, "evidence", "judges", "safety", value="other", resealed=False))[0]


def test_values_of_zero_and_one_may_be_tested_as_bets_but_grades_not_as_binary() -> None:
    table = draw(np.random.default_rng(2), 90)
    scores: NDArray[np.float64] = table.scores.copy()
    scores[3, 1, :9] = 0.5
    found = certificate(table._replace(scores=scores), {"safety": 0.7})
    assert not any(test.floors[0].binary for test in found.policies)
    index = [test.policy for test in found.policies].index("policy-02")
    assert any(
        "not those" in each for each in problems(changed(found, "policies", index, "floors", 0, "binary", value=True))
    )
    assert math.isclose(found.level, 0.1)
