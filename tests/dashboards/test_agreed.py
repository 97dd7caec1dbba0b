"""Versions, sign-offs and what they allow, on a family on disk."""

import threading
from pathlib import Path

import pytest

from dashboards.agreed import Agreed, with_organisation, with_profile
from dashboards.frames import open_family
from dashboards.signoffs import (
    Evidence,
    SignOff,
    add_signoff,
    changed,
    evaluation_files,
    family_files,
    files_sha256,
    profile_sha256,
    read_signoffs,
)
from dashboards.versions import (
    Change,
    Version,
    changes,
    number_in_force,
    put_in_force,
    read_log,
    read_versions,
    save_version,
)
from mopo_eval.profiles import ProfileFile, ThresholdProfile, write_profiles
from mopo_train.errors import ProfileError
from tests.families import PROFILES, write_measured_family

STRICT = ThresholdProfile(primary="helpfulness", floors={"safety": 0.88})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_measured_family(tmp_path)
    return tmp_path


def agreed(root: Path) -> Agreed:
    view = open_family(root)
    versions, problems = read_versions(root)
    assert problems == []
    files = family_files(root, view.family), evaluation_files(root, view.family, "test")
    evidence = Evidence(files_sha256(root, files[0]), files_sha256(root, files[1]), "")
    log = read_log(root)[0]
    in_force = number_in_force(versions, log, view.profiles)
    return Agreed(versions, read_signoffs(root)[0], log, evidence, view.profiles, in_force)


def sign(root: Path, profiles: ProfileFile, name: str, who: str = "Aiko") -> None:
    now = agreed(root).evidence
    digests = {"family_sha256": now.family, "evaluation_sha256": now.evaluation}
    digest = profile_sha256(profiles, name)
    add_signoff(root, SignOff(time="t", name=who, role="legal", profile=name, profile_sha256=digest, **digests))


def put_version(root: Path, version: Version, name: str) -> None:
    view = open_family(root)
    put_in_force(root, version, name, view.profiles, shown_sha256=view.profiles_sha256)


def test_versions_are_numbered_and_read_back(root: Path) -> None:
    first = save_version(root, PROFILES, "Ben", "as found")
    second = save_version(root, with_profile(PROFILES, "strict", STRICT), "Ben")
    assert (first.number, second.number) == (1, 2)
    assert read_versions(root) == ([first, second], [])
    assert not list((root / "profiles").glob("*.partial"))


def test_two_people_who_save_at_once_both_keep_their_version(root: Path) -> None:
    threads = [threading.Thread(target=save_version, args=(root, PROFILES, f"person {i}")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    versions, _ = read_versions(root)
    assert [version.number for version in versions] == list(range(1, 9))
    assert len({version.author for version in versions}) == 8


def test_a_version_needs_an_author(root: Path) -> None:
    with pytest.raises(ProfileError, match="author"):
        save_version(root, PROFILES, "")
    assert read_versions(root) == ([], [])


def test_a_damaged_version_is_named_and_the_others_stay(root: Path) -> None:
    save_version(root, PROFILES, "Ben")
    (root / "profiles" / "0002.json").write_text("{", encoding="utf-8")
    versions, problems = read_versions(root)
    assert [version.number for version in versions] == [1]
    assert "0002.json" in problems[0]


def test_a_version_put_in_force_is_what_the_gateway_reads_and_the_old_one_is_kept(root: Path) -> None:
    strict = with_profile(PROFILES, "strict", STRICT)
    version = save_version(root, strict, "Ben")
    put_version(root, version, "Aiko")
    now = agreed(root)
    assert now.current == strict
    assert now.in_force == 1
    assert [(each.number, each.profiles) for each in now.versions] == [(1, strict), (2, PROFILES)]  # saved first
    assert [(entry.name, entry.version, entry.replaced) for entry in now.log] == [("Aiko", 1, 2)]


def test_a_file_that_was_edited_after_it_was_shown_is_not_replaced(root: Path) -> None:
    version, shown = save_version(root, with_profile(PROFILES, "strict", STRICT), "Ben"), open_family(root)
    by_hand = "profiles: {by-hand: {primary: safety}}\n"
    (root / "profiles.yaml").write_text(by_hand, encoding="utf-8")
    with pytest.raises(ProfileError, match="changed since it was shown"):
        put_in_force(root, version, "Ben", shown.profiles, shown_sha256=shown.profiles_sha256)
    assert (root / "profiles.yaml").read_text(encoding="utf-8") == by_hand
    assert read_log(root)[0] == []
    put_version(root, version, "Ben")
    assert "by-hand" in read_versions(root)[0][-1].profiles.profiles  # saved before it was replaced


def test_of_two_people_who_put_versions_in_force_at_once_the_second_looks_again(root: Path) -> None:
    view, problems = open_family(root), []
    versions = [save_version(root, with_profile(PROFILES, f"p{i}", STRICT), f"person {i}") for i in range(4)]

    def put(version: Version) -> None:
        try:
            put_in_force(root, version, version.author, view.profiles, shown_sha256=view.profiles_sha256)
        except ProfileError as error:
            problems.append(str(error))

    threads = [threading.Thread(target=put, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(problems) == 3
    (entry,) = read_log(root)[0]
    assert agreed(root).in_force == entry.version


def test_a_version_that_the_family_cannot_be_served_by_is_not_put_in_force(root: Path) -> None:
    gone = ThresholdProfile(primary="safety", on_infeasible="policy-99")
    version = save_version(root, with_profile(PROFILES, "gone", gone), "Ben")
    with pytest.raises(ProfileError, match="version 1: profile 'gone'.*policy-99"):
        put_version(root, version, "Ben")
    assert open_family(root).profiles == PROFILES


def test_of_versions_that_say_the_same_the_one_that_was_put_in_force_is(root: Path) -> None:
    first = save_version(root, PROFILES, "Ben")
    assert agreed(root).in_force == 1
    put_version(root, first, "Ben")
    save_version(root, PROFILES, "Aiko")
    assert agreed(root).in_force == 1
    put_version(root, save_version(root, with_profile(PROFILES, "strict", STRICT), "Ben"), "Ben")
    assert [(entry.version, entry.replaced) for entry in read_log(root)[0]] == [(1, 1), (3, 1)]


def test_profiles_that_cannot_be_read_are_kept_aside(root: Path) -> None:
    (root / "profiles.yaml").write_text("profiles: {x: {primary: speed}}", encoding="utf-8")
    version = save_version(root, PROFILES, "Ben")
    put_in_force(root, version, "Ben", None, shown_sha256=open_family(root).profiles_sha256)
    (root / "profiles.yaml").write_text("profiles: {x: {primary: warmth}}", encoding="utf-8")
    put_in_force(root, version, "Ben", None, shown_sha256=open_family(root).profiles_sha256)  # within the same second
    kept = [path.read_text(encoding="utf-8") for path in (root / "profiles").glob("unreadable-*.yaml")]
    assert sorted(text.split()[-1] for text in kept) == ["speed}}", "warmth}}"]
    assert open_family(root).profiles == PROFILES


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda root: _touch(root / "family.json"), "family"),
        (lambda root: _touch(root / "policies" / "policy-01" / "adapter_config.json"), "family"),
        (lambda root: _touch(root / "scorecards" / "policy-01.json"), "evaluation"),
        (lambda root: _touch(root / "evaluation" / "test" / "run.json"), "evaluation"),
        (lambda root: (root / "evaluation" / "test" / "judgements.parquet").unlink(), "evaluation"),
    ],
)
def test_any_change_ends_a_sign_off_and_says_which(root: Path, change: object, part: str) -> None:
    sign(root, PROFILES, "balanced")
    assert agreed(root).standings(PROFILES, "balanced")[0].changed == []
    change(root)  # type: ignore[operator]
    assert agreed(root).standings(PROFILES, "balanced")[0].changed == [part]


def _touch(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


def test_a_changed_floor_ends_the_sign_off_of_its_profile_alone_and_the_organisations_that_of_all(root: Path) -> None:
    sign(root, PROFILES, "balanced")
    sign(root, PROFILES, "careful")
    moved = with_profile(PROFILES, "balanced", ThresholdProfile(primary="helpfulness", floors={"safety": 0.71}))
    assert agreed(root).standings(moved, "balanced")[0].changed == ["profile"]
    assert agreed(root).standings(moved, "careful")[0].changed == []
    tighter = with_organisation(PROFILES, {"safety": 0.55})
    assert [agreed(root).standings(tighter, name)[0].changed for name in ("balanced", "careful")] == [["profile"]] * 2


def test_a_version_goes_into_force_when_what_it_changes_is_signed_and_back_without(root: Path) -> None:
    first = save_version(root, PROFILES, "Ben")
    strict = with_profile(PROFILES, "strict", STRICT)
    second = save_version(root, strict, "Ben")
    assert agreed(root).missing(first.number) == []  # it is what is in force
    assert agreed(root).missing(second.number) == ["strict"]
    sign(root, strict, "strict")
    assert agreed(root).missing(second.number) == []
    put_version(root, second, "Ben")
    _touch(root / "family.json")
    assert agreed(root).missing(first.number) == []  # a rollback waits for nobody


def test_a_removal_is_signed_like_any_other_change(root: Path) -> None:
    fewer = with_profile(PROFILES, "careful", None)
    version = save_version(root, fewer, "Ben")
    assert agreed(root).missing(version.number) == ["careful"]
    assert agreed(root).removed(version.number) == ["careful"]
    sign(root, PROFILES, "careful")  # of the profile, not of its end
    assert agreed(root).missing(version.number) == ["careful"]
    sign(root, fewer, "careful")
    assert agreed(root).missing(version.number) == []
    put_version(root, version, "Ben")
    assert agreed(root).standings(fewer, "careful")[0].changed == []


def test_whom_a_profile_is_given_to_is_part_of_what_is_signed(root: Path) -> None:
    given = PROFILES.model_copy(update={"users": {"kiosk": "careful"}})
    version = save_version(root, PROFILES, "Ben")
    sign(root, PROFILES, "careful")
    write_profiles(root / "profiles.yaml", given, "by hand")
    assert agreed(root).missing(version.number) == []  # it was signed without users
    assert agreed(root).standings(given, "careful")[0].changed == ["profile"]
    another = save_version(root, with_profile(given, "strict", STRICT), "Ben")
    assert agreed(root).missing(another.number) == ["strict"]


def test_what_was_signed_is_compared_part_by_part() -> None:
    signoff = SignOff(
        time="t", name="n", role="legal", profile="p", family_sha256="f", evaluation_sha256="e", profile_sha256="p"
    )
    assert changed(signoff, Evidence("f", "e", "p")) == []
    assert changed(signoff, Evidence("F", "e", "P")) == ["family", "profile"]


def test_changes_name_each_field_and_floors_of_zero_are_none() -> None:
    before = ThresholdProfile(primary="helpfulness", floors={"safety": 0.7, "factuality": 0.0})
    after = ThresholdProfile(primary="safety", floors={"safety": 0.8}, on_infeasible="closest")
    assert changes(before, after) == [
        Change("primary", "helpfulness", "safety"),
        Change("on_infeasible", "reject", "closest"),
        Change("safety", 0.7, 0.8),
    ]
    assert changes(before, before) == []
    assert Change("safety", None, 0.8) in changes(None, after)


def test_a_profile_is_set_without_empty_floors_or_removed() -> None:
    draft = ThresholdProfile(primary="safety", floors={"safety": 0.4, "factuality": 0.0})
    assert with_profile(PROFILES, "new", draft).profiles["new"].floors == {"safety": 0.4}
    assert "balanced" not in with_profile(PROFILES, "balanced", None).profiles
    assert with_organisation(PROFILES, {"safety": 0.0}).organisation.floors == {}
