from pathlib import Path

import pytest

from mopo_eval.profiles import Organisation, ProfileFile, ThresholdProfile, read_profiles, write_profiles
from mopo_train.errors import ProfileError
from tests.families import PROFILES

OBJECTIVES = ["helpfulness", "safety", "factuality"]
POLICIES = ["reference", "policy-00"]


def read(tmp_path: Path, text: str) -> ProfileFile:
    path = tmp_path / "profiles.yaml"
    path.write_text(text, encoding="utf-8")
    return read_profiles(path, OBJECTIVES, POLICIES)


def test_the_designs_example_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
profiles:
  balanced:   {primary: helpfulness, floors: {safety: 0.90, factuality: 0.80}}
  careful:    {primary: safety, floors: {helpfulness.win_rate: 0.40}, on_infeasible: closest}
  fallback:   {primary: safety, on_infeasible: policy-00}
organisation: {floors: {safety: 0.80}}
""",
    )
    assert found.organisation.floors == {"safety": 0.80}
    assert found.profiles["balanced"] == ThresholdProfile(
        primary="helpfulness", floors={"safety": 0.90, "factuality": 0.80}, on_infeasible="reject"
    )
    assert found.profiles["careful"].floors == {"helpfulness.win_rate": 0.40}
    assert found.profiles["fallback"].on_infeasible == "policy-00"


def test_profiles_survive_writing_and_reading(tmp_path: Path) -> None:
    path = tmp_path / "profiles.yaml"
    write_profiles(path, PROFILES, "made by a test")
    assert path.read_text(encoding="utf-8").startswith("# made by a test\n")
    assert read_profiles(path, OBJECTIVES, POLICIES) == PROFILES


def test_a_file_says_that_it_has_no_profiles_and_no_floors(tmp_path: Path) -> None:
    assert read(tmp_path, "profiles: {}") == ProfileFile(profiles={}, organisation=Organisation(floors={}))


@pytest.mark.parametrize("text", ["", "# lost", "false", "0", "[]", "[1, 2]", "organisation"])
def test_a_file_that_lost_its_floors_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ProfileError, match=r"holds no mapping.*'profiles: \{\}'"):
        read(tmp_path, text)


@pytest.mark.parametrize("floor", ["no", "yes", "off", "true", '"0.9"', "0:0.5", "0:1", "null", "~", "1:30"])
def test_a_floor_is_a_number_and_nothing_that_yaml_or_python_takes_for_one(tmp_path: Path, floor: str) -> None:
    with pytest.raises(ProfileError, match="safety: Input should be a valid number|is no decimal number"):
        read(tmp_path, f"organisation: {{floors: {{safety: {floor}}}}}")


@pytest.mark.parametrize(("floor", "value"), [("0", 0.0), ("1", 1.0), ("0.85", 0.85), (".5", 0.5), ("9.0e-1", 0.9)])
def test_whole_and_decimal_numbers_are_floors(tmp_path: Path, floor: str, value: float) -> None:
    assert read(tmp_path, f"organisation: {{floors: {{safety: {floor}}}}}").organisation.floors == {"safety": value}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("profiles: {p: {primary: speed}}", "primary 'speed' is not an objective.*factuality, helpfulness, safety"),
        ("profiles: {p: {primary: safety, floors: {saftey: 0.9}}}", "'p': floor on 'saftey'"),
        ("profiles: {p: {primary: safety, floors: {saftey.win_rate: 0.9}}}", "floor on 'saftey.win_rate'"),
        ("profiles: {p: {primary: safety, floors: {safety.mean: 0.9}}}", "safety.mean"),
        ("organisation: {floors: {saftey: 0.9}}", "organisation: floor on 'saftey'"),
        ("profiles: {p: {primary: safety, floors: {safety: 1.2}}}", "less than or equal to 1"),
        ("profiles: {p: {primary: safety, floors: {safety: -0.1}}}", "greater than or equal to 0"),
        ("profiles: {p: {primary: safety, floors: {safety: .nan}}}", "safety"),
        ("profiles: {p: {primary: safety, floors: {safety: high}}}", "valid number"),
        ("profiles: {p: {primary: safety, floor: {safety: 0.9}}}", "p.floor: Extra inputs"),
        ("profiles: {p: {floors: {safety: 0.9}}}", "primary: Field required"),
        ("profiles: {p: {primary: safety, on_infeasible: policy-99}}", "on_infeasible 'policy-99' is neither"),
        ("profiles: {p: {primary: safety, selection: both}}", "must be 'single' or 'mixture'"),
        ("users: {alice: nobody}", "user 'alice' has profile 'nobody'.*there are none"),
        ("{profiles: {p: {primary: safety}}, users: {alice: q}}", "user 'alice' has profile 'q'.*: p"),
        ("{profiles: {p: {primary: safety}}, users: {alice: p, alice: p}}", "'alice' is given twice"),
        ("profiles: {p: {primary: safety, on_infeasible: A B}}", "'reject', 'closest' or the id of a policy"),
        ("profiles: {p: {primary: safety, on_infeasible: no}}", "'reject', 'closest' or the id of a policy"),
        ("profiles: {Not A Name: {primary: safety}}", "Not A Name"),
        ("profile: {p: {primary: safety}}", "profile: Extra inputs"),
        ("profiles: {p: [", "cannot read profiles"),
        ("profiles: {p: {primary: safety, floors: {safety: 0.9, safety: 0.1}}}", "'safety' is given twice"),
        ("profiles: {p: {primary: safety}, p: {primary: helpfulness}}", "'p' is given twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ProfileError, match=told):
        read(tmp_path, text)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="mopo-eval run"):
        read_profiles(tmp_path / "profiles.yaml", OBJECTIVES, POLICIES)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00p", b"\x00\x01"])
def test_a_binary_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "profiles.yaml"
    path.write_bytes(content)
    with pytest.raises(ProfileError, match="cannot read profiles"):
        read_profiles(path, OBJECTIVES, POLICIES)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot read profiles"):
        read_profiles(tmp_path, OBJECTIVES, POLICIES)


def test_merge_keys_and_anchors_still_work(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """
profiles:
  one: &one {primary: safety, floors: {safety: 0.9}}
  two: {<<: *one, primary: helpfulness}
""",
    )
    assert found.profiles["two"] == ThresholdProfile(primary="helpfulness", floors={"safety": 0.9})
