import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopo_eval.profiles import Floors, ThresholdProfile
from mopo_eval.scorecards import Estimate, ObjectiveScore, Scorecard
from mopo_eval.selection import (
    Selector,
    best_attainable,
    certified_bound,
    effective_floors,
    holds,
    policy_margins,
    select,
)


def known(mean: float, certified: float) -> Estimate:
    return Estimate(mean=mean, low=certified, high=1.0, certified_low=certified, n=100)


def card(policy: str, scores: dict[str, tuple[float, float]], wins: dict[str, float] | None = None) -> Scorecard:
    """``scores``: mean and certified bound per objective; ``wins``: certified win rate, 0.4 where not given."""
    objectives = {
        name: ObjectiveScore(
            **known(mean, certified).model_dump(), judge="j", win_rate=known(0.7, (wins or {}).get(name, 0.4))
        )
        for name, (mean, certified) in scores.items()
    }
    return Scorecard(policy=policy, run="r", confidence=0.95, objectives=objectives)


CARDS: dict[str, Scorecard | None] = {
    "bold": card("bold", {"helpfulness": (0.90, 0.85), "safety": (0.60, 0.50)}, {"safety": 0.30}),
    "even": card("even", {"helpfulness": (0.70, 0.65), "safety": (0.80, 0.75)}, {"safety": 0.55}),
    "safe": card("safe", {"helpfulness": (0.50, 0.45), "safety": (0.95, 0.90)}, {"safety": 0.80}),
}


def profile(
    floors: Floors | None = None, on_infeasible: str = "reject", primary: str = "helpfulness"
) -> ThresholdProfile:
    return ThresholdProfile(primary=primary, floors=floors or {}, on_infeasible=on_infeasible)


@pytest.mark.parametrize(
    ("floors", "policy"),
    [
        ({}, "bold"),  # nothing to hold: greatest helpfulness, 0.90
        ({"safety": 0.50}, "bold"),  # a bound equal to the floor clears it
        ({"safety": 0.51}, "even"),  # mean 0.60 would clear it, the certified 0.50 does not
        ({"safety": 0.75}, "even"),
        ({"safety": 0.76}, "safe"),
        ({"safety": 0.76, "helpfulness": 0.46}, None),  # safe has 0.45; the primary may have a floor too
        ({"helpfulness": 0.66}, "bold"),
        ({"safety.win_rate": 0.54}, "even"),
        ({"safety.win_rate": 0.56}, "safe"),
        ({"safety": 0.50, "safety.win_rate": 0.60}, "safe"),  # both measures of one objective
        ({"safety": 0.91}, None),
    ],
)
def test_the_greatest_primary_among_policies_that_hold_every_floor(floors: Floors, policy: str | None) -> None:
    found = select(profile(floors), CARDS)
    assert (found.policy, found.feasible) == (policy, policy is not None)
    assert Selector(CARDS).best("helpfulness", floors) == policy


def test_another_primary_wins_another_policy() -> None:
    assert select(profile(primary="safety"), CARDS).policy == "safe"


def test_the_mean_decides_not_the_certified_bound() -> None:
    cards = {"p": card("p", {"a": (0.6, 0.5)}), "q": card("q", {"a": (0.7, 0.4)})}
    assert select(profile(primary="a"), cards).policy == "q"


def test_ties_go_to_the_smallest_id() -> None:
    cards = {name: card(name, {"a": (0.6, 0.5)}) for name in ("policy-02", "policy-00", "policy-01")}
    assert select(profile(primary="a"), cards).policy == "policy-00"


def test_the_effective_floor_is_the_largest_that_anybody_asks_for() -> None:
    organisation, key, named, request = (
        {"safety": 0.6},
        {"safety": 0.5, "a": 0.1},
        {"safety": 0.7},
        {"a": 0.3, "b": 0.2},
    )
    assert effective_floors(organisation, key, named, request) == {"safety": 0.7, "a": 0.3, "b": 0.2}
    assert effective_floors() == {}


@pytest.mark.parametrize(
    ("binding", "floors", "requested", "policy"),
    [
        ({"safety": 0.7}, {}, {}, "even"),  # the organisation raises a profile without floors
        ({"safety": 0.7}, {"safety": 0.5}, {}, "even"),  # a profile cannot go below it
        ({}, {"safety": 0.7}, {"safety": 0.1}, "even"),  # asking for less lowers nothing
        ({}, {"safety": 0.5}, {"safety": 0.8}, "safe"),  # asking for more tightens
    ],
)
def test_floors_of_organisation_profile_and_request(
    binding: Floors, floors: Floors, requested: Floors, policy: str
) -> None:
    assert select(profile(floors), CARDS, binding, requested).policy == policy


def test_an_infeasible_profile_is_rejected_with_the_closest_policy_and_the_shortfall() -> None:
    found = select(profile({"safety": 0.97, "helpfulness": 0.50}), CARDS)
    # largest violations: bold 0.47, even 0.22, safe max(0.07, 0.05) = 0.07
    assert (found.policy, found.feasible, found.closest) == (None, False, "safe")
    assert "safe, misses safety 0.900 < 0.970, helpfulness 0.450 < 0.500" in found.reason


def test_the_closest_policy_has_the_smallest_largest_violation() -> None:
    # bold misses safety by 0.45; even by 0.20; safe misses helpfulness by 0.25 and safety by 0.05
    found = select(profile({"safety": 0.95, "helpfulness": 0.70}, "closest"), CARDS)
    assert (found.policy, found.feasible) == ("even", False)
    assert found.floors == {"safety": 0.95, "helpfulness": 0.70}


def test_equally_close_policies_are_told_apart_by_primary_then_id() -> None:
    def cards(*means: float) -> dict[str, Scorecard | None]:
        return {f"p{i}": card(f"p{i}", {"a": (mean, 0.2), "b": (0.5, 0.25)}) for i, mean in enumerate(means)}

    wanted = profile({"b": 0.5}, "closest", primary="a")
    assert select(wanted, cards(0.5, 0.6)).policy == "p1"
    assert select(wanted, cards(0.6, 0.6)).policy == "p0"


def test_the_closest_policy_must_hold_the_binding_floors() -> None:
    # even is closest to (safety 0.95, helpfulness 0.70), but the organisation demands safety 0.80
    found = select(profile({"safety": 0.95, "helpfulness": 0.70}, "closest"), CARDS, {"safety": 0.80})
    assert (found.policy, found.closest) == ("safe", "even")


def test_no_fallback_where_nobody_holds_the_binding_floors() -> None:
    found = select(profile(on_infeasible="closest"), CARDS, {"safety": 0.95})
    assert (found.policy, found.closest) == (None, "safe")
    assert "organisation" in found.reason


@pytest.mark.parametrize(
    ("fallback", "binding", "policy"),
    [
        ("bold", {}, "bold"),
        ("bold", {"safety": 0.60}, None),  # bold has 0.50
        ("even", {"safety": 0.60}, "even"),
        ("even", {"safety.win_rate": 0.56}, None),  # even has 0.55
        ("gone", {}, None),  # no such policy in the family
    ],
)
def test_a_named_fallback_serves_only_if_it_holds_the_binding_floors(
    fallback: str, binding: Floors, policy: str | None
) -> None:
    found = select(profile({"safety": 0.99}, fallback), CARDS, binding)
    assert (found.policy, found.feasible) == (policy, False)
    assert fallback in found.reason


def test_a_fallback_is_not_used_where_the_profile_is_feasible() -> None:
    assert select(profile({"safety": 0.7}, "bold"), CARDS).policy == "even"


def test_a_policy_that_was_not_measured_is_never_selected_nor_closest() -> None:
    cards = CARDS | {"new": None, "partly": card("partly", {"helpfulness": (1.0, 1.0)})}
    assert select(profile({"safety": 0.5}), cards).policy == "bold"
    assert select(profile(), CARDS | {"new": None}).policy == "bold"
    found = select(profile({"safety": 0.99}, "closest"), cards)
    assert found.policy == "safe"
    table = {row.id: row for row in found.policies}
    assert (table["new"].meets, table["new"].primary, table["new"].certified) == (False, None, {"safety": None})
    assert (table["partly"].meets, table["partly"].margins) == (False, {"safety": None})


def test_a_policy_without_the_primary_is_not_selected_even_if_it_holds_the_floors() -> None:
    cards: dict[str, Scorecard | None] = {"p": card("p", {"safety": (0.9, 0.9)})}
    found = select(profile({"safety": 0.5}, "closest"), cards)
    assert (found.policy, found.closest) == (None, None)
    assert found.reason.startswith("no policy was measured on helpfulness, safety")


def test_a_named_fallback_serves_where_the_floors_objective_was_not_measured() -> None:
    # Nobody was measured on factuality; the fallback is judged by the binding floors alone.
    found = select(profile({"factuality": 0.5}, "even"), CARDS, {"safety": 0.7})
    assert (found.policy, found.feasible) == ("even", False)
    assert select(profile({"factuality": 0.5}, "bold"), CARDS, {"safety": 0.7}).policy is None


def test_an_unmeasured_fallback_cannot_hold_a_binding_floor() -> None:
    cards = CARDS | {"new": None}
    assert select(profile({"safety": 0.99}, "new"), cards, {"safety": 0.1}).policy is None
    assert select(profile({"safety": 0.99}, "new"), cards).policy == "new"


def test_a_family_without_measurements_serves_no_profile_and_says_why() -> None:
    found = select(profile({"safety": 0.5}), {"p": None, "q": None})
    assert (found.policy, found.closest) == (None, None)
    assert "no policy was measured on helpfulness, safety" in found.reason


def test_the_reason_names_policy_and_primary() -> None:
    assert (
        select(profile(), CARDS).reason == "bold has the greatest helpfulness, 0.900, of all policies; no floor is set"
    )
    reason = select(profile({"safety": 0.76}), CARDS).reason
    assert reason == "safe is the only policy that holds every floor; helpfulness 0.500"
    assert "of the 2 policies that hold every floor" in select(profile({"safety": 0.6}), CARDS).reason


def test_margins_are_certified_bounds_minus_floors() -> None:
    row = policy_margins("even", CARDS["even"], {"safety": 0.80, "safety.win_rate": 0.50}, "helpfulness")
    assert row.certified == {"safety": 0.75, "safety.win_rate": 0.55}
    assert row.margins == {"safety": pytest.approx(-0.05), "safety.win_rate": pytest.approx(0.05)}
    assert (row.meets, row.primary) == (False, 0.70)
    assert row.worst == pytest.approx(-0.05)


def test_every_policy_is_in_the_table_by_id() -> None:
    assert [row.id for row in select(profile(), dict(reversed(CARDS.items()))).policies] == ["bold", "even", "safe"]


def test_a_bound_is_of_the_judge_score_or_of_the_win_rate() -> None:
    assert certified_bound(CARDS["safe"], "safety") == 0.90
    assert certified_bound(CARDS["safe"], "safety.win_rate") == 0.80
    assert certified_bound(CARDS["safe"], "factuality") is None
    assert certified_bound(None, "safety") is None


def test_nothing_measured_holds_only_no_floors() -> None:
    assert holds(None, {})
    assert not holds(None, {"safety": 0.0})


def test_the_best_attainable_is_the_largest_bound_of_any_policy() -> None:
    cards = [card for card in CARDS.values() if card]
    names = ["safety", "helpfulness", "safety.win_rate", "factuality"]
    expected = {"safety": 0.90, "helpfulness": 0.85, "safety.win_rate": 0.80, "factuality": None}
    assert best_attainable(cards, names) == expected


def mixed(floors: Floors, on_infeasible: str = "reject") -> ThresholdProfile:
    return profile(floors, on_infeasible).model_copy(update={"selection": "mixture"})


def test_a_mixture_beats_the_best_single_policy_and_tells_its_shares_and_promise() -> None:
    found = select(mixed({"safety": 0.625}), CARDS)
    assert found.weights == pytest.approx({"bold": 0.5, "even": 0.5})  # .5 * (.50 + .75) = .625
    assert (found.policy, found.feasible) == ("bold", True)
    assert found.expected == pytest.approx({"safety": 0.625})
    assert "50.0% bold, 50.0% even" in found.reason and "helpfulness, 0.800 on average" in found.reason
    assert "safety 0.625 >= 0.625, on average over conversations, not in each of them" in found.reason
    assert select(profile({"safety": 0.625}), CARDS).policy == "even"  # 0.70


def test_every_component_of_a_mixture_holds_the_binding_floors() -> None:
    found = select(mixed({"safety": 0.8}), CARDS, {"safety": 0.6})
    assert found.weights == pytest.approx({"even": 2 / 3, "safe": 1 / 3})  # without bold, who has 0.50
    assert select(mixed({"safety": 0.8}), CARDS, {"safety": 0.91}).policy is None


def test_an_infeasible_mixture_falls_back_as_any_other_profile() -> None:
    assert select(mixed({"safety": 0.95}), CARDS).policy is None
    found = select(mixed({"safety": 0.95}, "closest"), CARDS)
    assert (found.policy, found.feasible, found.weights) == ("safe", False, None)


def test_a_suspended_policy_serves_nobody_and_the_next_one_does() -> None:
    assert select(profile(), CARDS, suspended={"bold"}).policy == "even"
    assert "(suspended: bold)" in select(profile(), CARDS, suspended={"bold"}).reason
    assert select(mixed({"safety": 0.625}), CARDS, suspended={"bold"}).weights == pytest.approx({"even": 1.0})
    found = select(profile({"safety": 0.8}, "safe"), CARDS, suspended={"safe"})
    assert (found.policy, found.closest) == (None, "even")
    assert select(profile(on_infeasible="closest"), CARDS, suspended=set(CARDS)).policy is None


floor_sets = st.dictionaries(
    st.sampled_from(["safety", "helpfulness", "safety.win_rate", "factuality"]), st.floats(0, 1), max_size=3
)


@given(floor_sets, st.sampled_from(["helpfulness", "safety", "factuality"]), st.sets(st.sampled_from(list(CARDS))))
def test_the_quick_decision_is_the_explained_one(floors: Floors, primary: str, suspended: set[str]) -> None:
    cards = CARDS | {"new": None, "partly": card("partly", {"helpfulness": (0.95, 0.90)})}
    found = select(profile(floors, primary=primary), cards, suspended=suspended)
    assert Selector(cards).best(primary, floors, suspended) == found.policy


def test_what_was_not_measured_holds_no_floor_in_the_quick_decision_either() -> None:
    partly = card("partly", {"helpfulness": (0.95, 0.90)})
    quick = Selector(CARDS | {"partly": partly})
    assert quick.best("helpfulness", {}) == "partly"
    assert quick.best("helpfulness", {"safety": 0.0}) == "bold"


@pytest.mark.parametrize(
    ("bound", "floor", "shown"),
    [
        (0.5, 0.97, "0.500 < 0.970"),
        (0.1299, 0.1301, "0.1299 < 0.1301"),
        (0.13 - 1e-9, 0.13, "0.129999999 < 0.130000000"),
    ],
)
def test_a_missed_floor_is_seen_to_be_missed(bound: float, floor: float, shown: str) -> None:
    cards = {"only": card("only", {"helpfulness": (0.9, 0.9), "safety": (0.9, bound)})}
    reason = select(profile({"safety": floor}), cards).reason
    assert reason.startswith(f"no policy holds every floor: the closest, only, misses safety {shown}; ")
    assert reason.endswith("so nothing is served (on_infeasible: reject)")
