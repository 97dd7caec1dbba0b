"""Scores and profiles are those of ``tests.families``; ``certified_low`` is 0.05 below each mean."""

import dataclasses
from pathlib import Path

import pytest

from mopo_eval.profiles import Organisation, ProfileFile, ThresholdProfile
from mopo_serve.caller import Caller
from mopo_serve.explanation import explain
from mopo_serve.keys import make_key
from mopo_serve.openai_errors import ApiError
from mopo_serve.requests import RequestedProfile
from mopo_serve.routing import read_routing, stated
from mopo_train.errors import FloorError, ProfileError
from tests.families import SCORES, scorecard, write_measured_family
from tests.mopo_serve.stub import routing


def refused(model: str, requested: RequestedProfile | None = None, profiles: ProfileFile | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        (routing(profiles) if profiles else routing()).decide(model, requested)
    return caught.value


@pytest.mark.parametrize(
    ("model", "policy"),
    [("mopo/helpful", "policy-00"), ("mopo/balanced", "policy-01"), ("mopo/careful", "policy-02")],
)
def test_a_profile_gets_the_most_helpful_policy_that_holds_its_floors(model: str, policy: str) -> None:
    assert routing().decide(model)[:3] == (policy, model.removeprefix("mopo/"), True)


def test_a_floor_in_the_request_tightens_the_profile() -> None:
    decision = routing().decide("mopo/helpful", RequestedProfile(floors={"safety": 0.84}))
    assert decision.policy == "policy-02"  # 0.90 certified; policy-01 has 0.75


def test_what_keeps_a_policy_from_a_profile_keeps_it_from_requests_with_floors_too() -> None:
    table = dataclasses.replace(routing(), suspended={"balanced": frozenset({"policy-01"})})
    tighter = RequestedProfile(floors={"safety": 0.71})
    for requested in (None, tighter, RequestedProfile(selection="mixture"), RequestedProfile(floors={"safety": 0.0})):
        assert table.decide("mopo/balanced", requested).policy in {"policy-00", "policy-02"}  # of a mixture, the first
    assert table.decide("mopo", tighter).policy == table.decide("mopo/policy/policy-01").policy == "policy-01"


@pytest.mark.parametrize("fallback", ["policy-00", "closest"])
def test_a_confined_key_gets_no_fallback_below_its_floor_by_a_primary_without_scores(fallback: str) -> None:
    profile = ThresholdProfile(primary="helpfulness", floors={"safety": 0.8}, on_infeasible=fallback)
    known = {name: {"helpfulness": each["helpfulness"], "safety": each["safety"]} for name, each in SCORES.items()}
    cards = {name: scorecard(name, scores) for name, scores in known.items()}
    table = dataclasses.replace(routing(ProfileFile(profiles={"kept": profile})), cards=cards)
    key, _ = make_key("confined", "now", profiles=["kept"])
    found = table.select("kept", RequestedProfile(primary="factuality"), Caller(key))
    assert (found.policy, found.feasible) == (None, False)


def test_a_lower_floor_in_the_request_lowers_nothing() -> None:
    assert routing().decide("mopo/careful", RequestedProfile(floors={"safety": 0.1})).policy == "policy-02"


def test_a_request_may_name_another_primary() -> None:
    assert routing().decide("mopo/helpful", RequestedProfile(primary="factuality")).policy == "policy-02"


def test_a_request_without_a_profile_gets_the_best_on_the_primary_above_the_organisations_floors() -> None:
    assert routing().decide("mopo")[:3] == ("policy-00", "-", True)
    strict = ProfileFile(organisation=Organisation(floors={"safety": 0.7}))
    assert routing(strict).decide("mopo").policy == "policy-01"


def test_a_request_may_ask_for_the_closest_policy_but_not_under_the_organisations_floor() -> None:
    closest = RequestedProfile(floors={"safety": 0.99}, on_infeasible="closest")
    assert routing().decide("mopo", closest)[:3] == ("policy-02", "-", False)
    strict = ProfileFile(organisation=Organisation(floors={"safety": 0.95}))
    assert refused("mopo", closest, strict).status == 422


def test_an_infeasible_profile_names_what_could_be_had() -> None:
    error = refused("mopo/impossible")
    assert (error.status, error.code) == (422, "infeasible_profile")
    assert error.details["floors"] == {"safety": 0.99}
    assert error.details["attainable"] == pytest.approx({"helpfulness": 0.80, "safety": 0.90, "factuality": 0.80})
    assert error.details["closest"]["policy"] == "policy-02"
    assert error.details["closest"]["margins"] == pytest.approx({"safety": -0.09})
    assert "policy-02" in error.message


def test_a_pinned_policy_answers_if_it_holds_the_organisations_floors() -> None:
    assert routing().decide("mopo/policy/policy-00")[:3] == ("policy-00", "policy/policy-00", True)
    strict = ProfileFile(organisation=Organisation(floors={"safety": 0.6}))
    error = refused("mopo/policy/policy-00", None, strict)  # 0.55 certified
    assert (error.status, error.details["closest"]["policy"]) == (422, "policy-02")
    assert "policy-00 does not hold the organisation's floors on safety" in error.message


def test_a_pinned_policy_must_hold_the_floors_of_the_request_too() -> None:
    assert refused("mopo/policy/policy-00", RequestedProfile(floors={"safety": 0.6})).status == 422
    assert routing().decide("mopo/policy/policy-02", RequestedProfile(floors={"safety": 0.6})).policy == "policy-02"


@pytest.mark.parametrize("field", ["primary", "on_infeasible"])
def test_a_pinned_policy_has_nothing_to_choose(field: str) -> None:
    value = {"primary": "safety", "on_infeasible": "closest"}[field]
    error = refused("mopo/policy/policy-00", RequestedProfile.model_validate({field: value}))
    assert (error.status, error.param) == (400, f"objective_profile.{field}")


@pytest.mark.parametrize("model", ["policy-00", "reference", "mopo/nothing", "mopo/", "", "mopo/policy/x", "balanced"])
def test_an_unknown_model_is_refused_with_what_exists(model: str) -> None:
    error = refused(model)
    assert (error.status, error.code, error.param) == (404, "model_not_found", "model")
    assert "mopo/balanced" in error.message and "mopo/policy/policy-00" in error.message


@pytest.mark.parametrize("model", ["mopo/helpful", "mopo", "mopo/policy/policy-02"])
@pytest.mark.parametrize(
    ("requested", "param"),
    [
        ({"primary": "helpfullness"}, "objective_profile.primary"),
        ({"floors": {"safty": 0.5}}, "objective_profile.floors.safty"),
        ({"floors": {"safty.win_rate": 0.5}}, "objective_profile.floors.safty.win_rate"),
        ({"on_infeasible": "policy-77"}, "objective_profile.on_infeasible"),
    ],
)
def test_a_misspelt_name_in_a_request_is_refused_by_field(model: str, requested: dict[str, object], param: str) -> None:
    error = refused(model, RequestedProfile.model_validate(requested))
    assert (error.status, error.param) == (400, param)


def test_an_unmeasured_family_answers_pinned_policies_unless_the_organisation_sets_a_floor() -> None:
    free = ProfileFile(profiles={"any": ThresholdProfile(primary="helpfulness")})
    table = routing(free, measured=False)
    assert not table.measured
    assert table.decide("mopo/policy/policy-00").policy == "policy-00"
    with pytest.raises(ApiError) as caught:
        table.decide("mopo/any")
    assert caught.value.status == 422
    assert caught.value.details["closest"] is None
    with pytest.raises(ApiError) as caught:
        routing(measured=False).decide("mopo/policy/policy-00")  # safety >= 0.5 for everybody
    assert caught.value.status == 422


def test_the_explanation_holds_every_policys_margin_to_every_effective_floor() -> None:
    table = routing()
    requested = RequestedProfile(floors={"factuality": 0.7})
    told = explain(table, "balanced", requested)
    assert (told["policy"], told["feasible"], told["profile"]) == ("policy-01", True, "balanced")
    assert told["floors"] == {"safety": 0.70, "factuality": 0.7}
    rows = {row["id"]: row for row in told["policies"]}
    assert rows["policy-00"]["margins"] == pytest.approx({"safety": 0.55 - 0.70, "factuality": 0.65 - 0.70})
    assert [name for name, row in rows.items() if row["meets"]] == ["policy-01", "policy-02", "policy-03", "reference"]
    assert "policy-01" in told["reason"]


def test_a_win_rate_floor_is_held_against_the_win_rate() -> None:
    selection = routing().select("helpful", RequestedProfile(floors={"safety.win_rate": 0.5}))
    assert selection.policy == "policy-02"  # safety .95 against .80: win rate .575, certified .525


def test_floors_of_a_command_line_are_checked_against_the_family() -> None:
    table = routing()
    assert stated(table, ("safety=0.5", "safety.win_rate=0.4"), "safety").floors == {
        "safety": 0.5,
        "safety.win_rate": 0.4,
    }
    with pytest.raises(FloorError, match="outside"):
        stated(table, ("safety=1.5", "safety.win_rate=0.4"), None)
    with pytest.raises(ProfileError, match="safty"):
        stated(table, ("safty=0.5",), None)
    with pytest.raises(ProfileError, match="helpfull"):
        stated(table, (), "helpfull")


def test_a_family_on_disk_is_identified_by_name_and_digest(tmp_path: Path) -> None:
    root = tmp_path / "my family\n"
    root.mkdir()
    write_measured_family(root)
    table = read_routing(root)
    name, digest = table.identity.split("@")
    assert (name, len(digest)) == ("my_family_", 12)
    assert table.selections["balanced"].policy == "policy-01"


def test_a_family_without_profiles_can_be_read_but_a_named_file_must_exist(tmp_path: Path) -> None:
    write_measured_family(tmp_path)
    (tmp_path / "profiles.yaml").unlink()
    assert read_routing(tmp_path).profiles == {}
    with pytest.raises(ProfileError, match="no profiles at"):
        read_routing(tmp_path, tmp_path / "elsewhere.yaml")
