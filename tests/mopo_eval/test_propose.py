import pytest
import yaml

from mopo_eval.profiles import ProfileFile
from mopo_eval.propose import most_name, propose_profiles, round_down
from mopo_eval.scorecards import Scorecard
from mopo_eval.selection import select
from tests.families import SCORES, scorecard

FRONT = ["policy-00", "policy-01", "policy-02"]


def cards(scores: dict[str, dict[str, float]]) -> dict[str, Scorecard]:
    return {name: scorecard(name, values) for name, values in scores.items()}


def selected(profiles: ProfileFile, measured: dict[str, Scorecard]) -> dict[str, str | None]:
    return {name: select(profile, measured).policy for name, profile in profiles.profiles.items()}


def test_each_profile_gets_a_policy_and_different_ones_where_the_family_allows() -> None:
    """Bounds are 0.05 below the means of (helpfulness, safety, factuality):

    policy-00 (.80, .55, .65), policy-01 (.65, .75, .70), policy-02 (.50, .90, .80). Strict on safety selects policy-02;
    on factuality policy-02 is strictest but taken, then policy-01 with .70; and no third one is left for balanced,
    which is policy-01 anyway: scaled to worst 0 and best 1 it has (.5, .57, .33), the others a 0.
    """
    measured = cards(SCORES)
    profiles = propose_profiles(measured, FRONT, "helpfulness")
    assert list(profiles.profiles) == ["most-helpful", "balanced", "strict-safety", "strict-factuality"]
    assert profiles.profiles["most-helpful"].floors == {}
    assert profiles.profiles["balanced"].floors == {"safety": 0.75, "factuality": 0.70}
    assert profiles.profiles["strict-safety"].floors == {"safety": 0.89}  # 0.95 - 0.05 is just below 0.90
    assert profiles.profiles["strict-factuality"].floors == {"factuality": 0.70}
    assert selected(profiles, measured) == {
        "most-helpful": "policy-00",
        "balanced": "policy-01",
        "strict-safety": "policy-02",
        "strict-factuality": "policy-01",
    }
    assert profiles.organisation.floors == {}


def test_three_profiles_of_two_objectives_select_three_policies() -> None:
    measured = cards({name: {k: v for k, v in score.items() if k != "factuality"} for name, score in SCORES.items()})
    assert set(selected(propose_profiles(measured, FRONT, "helpfulness"), measured).values()) == set(FRONT)


def test_a_family_of_one_policy_gets_feasible_profiles_all_the_same() -> None:
    measured = cards({"reference": SCORES["reference"]})
    profiles = propose_profiles(measured, ["reference"], "helpfulness")
    assert set(selected(profiles, measured).values()) == {"reference"}
    assert profiles.profiles["balanced"].floors == {"safety": 0.75, "factuality": 0.75}


def test_a_bound_of_zero_makes_no_floor() -> None:
    measured = cards({"reference": SCORES["reference"] | {"safety": 0.02}})
    assert propose_profiles(measured, ["reference"], "helpfulness").profiles["strict-safety"].floors == {}


def test_one_measured_objective_has_nothing_to_hold() -> None:
    measured = cards({name: {"helpfulness": score["helpfulness"]} for name, score in SCORES.items()})
    profiles = propose_profiles(measured, ["policy-00"], "helpfulness").profiles
    assert {name: profile.floors for name, profile in profiles.items()} == {"most-helpful": {}}


def test_an_unmeasured_primary_is_refused() -> None:
    with pytest.raises(ValueError, match="no measured 'helpfulness'"):
        propose_profiles(cards({"reference": {"safety": 0.5}}), ["reference"], "helpfulness")


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ("helpfulness", "most-helpful"),
        ("safety", "most-safe"),
        ("factuality", "most-factual"),
        ("honesty", "best-honesty"),
        ("code_quality", "best-code-quality"),
    ],
)
def test_the_first_profile_is_named_after_its_objective(objective: str, name: str) -> None:
    assert most_name(objective) == name


@pytest.mark.parametrize(
    ("bound", "floor"),
    [
        (0.8999, 0.89),
        (0.9, 0.9),
        (0.29, 0.29),
        (0.57, 0.57),
        (0.0049, 0.0),
        (0.0, 0.0),
        (1.0, 1.0),
        (0.8999999999, 0.89),
    ],
)
def test_floors_are_rounded_down_to_hundredths(bound: float, floor: float) -> None:
    assert round_down(bound) == floor <= bound


def test_names_with_underscores_make_valid_profiles() -> None:
    measured = cards({"reference": {"helpfulness": 0.5}})
    card = measured["reference"]
    renamed = card.model_copy(update={"objectives": {"a_b": card.objectives["helpfulness"]}})
    profiles = propose_profiles({"reference": renamed}, ["reference"], "a_b")
    text = yaml.safe_dump(profiles.model_dump())
    assert ProfileFile.model_validate(yaml.safe_load(text)) == profiles
