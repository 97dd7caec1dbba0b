"""Drafting, signing, putting in force and rolling back, in Streamlit's own test runner."""

import json
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboards.agreed import Agreed, with_profile
from dashboards.catalogue import catalogue
from dashboards.drafts import certify_draft, read_measured
from dashboards.frames import open_family
from dashboards.settings import FAMILY_VARIABLE, READ_ONLY_VARIABLE
from dashboards.signoffs import Evidence, SignOff, profile_sha256, read_signoffs
from dashboards.versions import put_in_force, read_log, read_versions, save_version
from dashboards.views.signing import page_of
from mopo_eval.certification import Request, certify_family
from mopo_eval.profiles import ThresholdProfile, write_profiles
from tests.dashboards.running import healthy, opened, submit, text
from tests.families import PROFILES, write_measured_family

PAGE = "views/profiles.py"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "family"
    path.mkdir()
    write_measured_family(path)
    monkeypatch.setenv(FAMILY_VARIABLE, str(path))
    return path


def tab(app: AppTest, name: str) -> AppTest:
    app.button_group(key="profiles-tab").set_value(name).run()
    return healthy(app)


def force_button(app: AppTest) -> Any:
    return next(button for button in app.button if str(button.key).startswith("FormSubmitter:force-"))


def sign(app: AppTest, who: str, role: str = "legal") -> AppTest:
    """Sign the profile that is chosen."""
    app.text_input(key="sign-name").input(who)
    app.selectbox(key="sign-role").select(role)
    return submit(app, "sign")


def downloads(app: AppTest) -> list[str]:
    return [element.proto.label for element in app.get("download_button")]


def test_nobody_signs_what_changed_after_it_was_shown(root: Path) -> None:
    app = tab(opened(PAGE), "sign")
    app.selectbox(key="sign-profile-0").select("careful").run()
    card = root / "scorecards" / "policy-02.json"
    content = json.loads(card.read_text(encoding="utf-8"))
    content["objectives"]["safety"]["mean"] = 0.94
    card.write_text(json.dumps(content), encoding="utf-8")
    sign(app, "Aiko")
    assert "changed while the page was open" in app.error[0].value
    assert read_signoffs(root)[0] == []
    sign(app, "Aiko")
    assert [entry.name for entry in read_signoffs(root)[0]] == ["Aiko"]


def test_a_draft_shows_its_policy_margins_changes_and_certificate(root: Path) -> None:
    app = opened(PAGE)
    app.selectbox(key="draft-name-0").select("balanced").run()
    assert "policy-01 serves this profile: helpfulness 0.70" in text(healthy(app))
    assert "Nothing changes." in text(app)
    app.slider(key="draft-0-balanced-safety").set_value(0.80).run()
    page = text(healthy(app))
    assert "policy-02 serves this profile: helpfulness 0.55" in page
    assert "+0.100" in page  # certified 0.90
    assert "policy-02 serves instead of policy-01. helpfulness −0.150, safety +0.150, factuality +0.100" in page
    assert "hold safety ≥ 0.80" in page  # the certificate, of 12 equal scores each
    app.slider(key="draft-0-balanced-safety").set_value(0.95).run()
    assert "No policy holds every floor." in text(healthy(app))


def test_a_draft_is_saved_signed_put_in_force_and_rolled_back(root: Path) -> None:
    app = opened(PAGE)
    app.selectbox(key="draft-name-0").select("balanced").run()
    app.slider(key="draft-0-balanced-safety").set_value(0.80).run()
    submit(app, "save-version")
    assert app.error[0].value == "Say who you are."
    app.text_input(key="version-name").input("Ben")
    app.text_input(key="version-note").input("after the review")
    submit(app, "save-version")
    assert "Saved as version 1." in app.success[0].value
    assert open_family(root).profiles == PROFILES  # not in force yet
    tab(app, "sign")
    assert "somebody must sign: balanced." in text(app)
    assert force_button(app).disabled
    app.selectbox(key="sign-profile-1").select("balanced").run()
    app.text_input(key="sign-note").input("agreed on Monday")
    sign(app, "Aiko")
    assert "Aiko (legal)" in text(app)
    assert not force_button(app).disabled
    app.text_input(key="force-name").input("Chika")
    submit(app, "force")
    assert open_family(root).profiles.profiles["balanced"].floors == {"safety": 0.80}
    assert "This is what is in force." in text(healthy(app))
    app.selectbox(key="sign-version").select(2).run()  # what was found in force, saved before it was replaced
    submit(app, "force")
    assert app.error[0].value == "Say who you are."  # nobody answers for what another one named before them does
    app.text_input(key="force-name").input("Dan")
    submit(app, "force")
    assert [entry.name for entry in read_log(root)[0]] == ["Chika", "Dan"]
    assert open_family(root).profiles == PROFILES
    tab(app, "history")
    page = text(app)
    assert "after the review" in page
    assert "1 → 2" in page


def test_a_new_measurement_ends_the_sign_off_and_says_so(root: Path) -> None:
    app = opened(PAGE)
    tab(app, "sign")
    app.selectbox(key="sign-profile-0").select("careful").run()
    sign(app, "Aiko")
    assert "✓ holds" in text(app)
    card = root / "scorecards" / "policy-02.json"
    content = json.loads(card.read_text(encoding="utf-8"))
    content["objectives"]["safety"]["mean"] = 0.94
    card.write_text(json.dumps(content), encoding="utf-8")
    app.run()
    app.selectbox(key="sign-profile-0").select("careful").run()
    page = text(healthy(app))
    assert "✕ no longer holds" in page
    assert "changed since: the evaluation" in page


def test_the_organisations_floors_a_new_profile_and_a_removal_can_be_drafted(root: Path) -> None:
    app = opened(PAGE)
    app.selectbox(key="draft-name-0").select(" organisation").run()
    app.slider(key="draft-0-organisation-safety").set_value(0.80).run()
    assert "✓ policy-02" in text(healthy(app))  # what `helpful` gets then
    app.selectbox(key="draft-name-0").select(" new").run()
    app.text_input(key="draft-0-new-name").input("Kiosk!").run()
    assert "Give the new profile a name" in text(healthy(app))
    app.text_input(key="draft-0-new-name").input("kiosk").run()
    assert "This profile is not in force yet." in text(healthy(app))
    app.text_input(key="version-name").input("Ben")
    submit(app, "save-version")
    assert "kiosk" in read_versions(root)[0][0].profiles.profiles
    app.selectbox(key="draft-base").select(1).run()
    app.selectbox(key="draft-name-1").select("kiosk").run()
    app.checkbox(key="draft-1-kiosk-remove").check().run()
    submit(healthy(app), "save-version")
    assert "kiosk" not in read_versions(root)[0][1].profiles.profiles


def test_of_two_people_who_save_at_once_neither_loses_a_draft(root: Path) -> None:
    first, second = opened(PAGE), opened(PAGE)
    for app, who, floor in ((first, "Aiko", 0.71), (second, "Ben", 0.72)):
        app.selectbox(key="draft-name-0").select("balanced").run()
        app.slider(key="draft-0-balanced-safety").set_value(floor).run()
        app.text_input(key="version-name").input(who)
    for app in (first, second):
        submit(app, "save-version")
    saved = [(each.author, each.profiles.profiles["balanced"].floors["safety"]) for each in read_versions(root)[0]]
    assert saved == [("Aiko", 0.71), ("Ben", 0.72)]
    assert "Saved as version 2." in second.success[0].value


def test_a_draft_is_not_saved_from_other_profiles_than_it_was_made_from(root: Path) -> None:
    app = opened(PAGE)
    app.selectbox(key="draft-name-0").select("balanced").run()
    app.slider(key="draft-0-balanced-safety").set_value(0.80).run()
    app.text_input(key="version-name").input("Ben")
    version = save_version(root, with_profile(PROFILES, "balanced", None), "Aiko")
    view = open_family(root)
    put_in_force(root, version, "Aiko", view.profiles, shown_sha256=view.profiles_sha256)
    submit(app, "save-version")
    assert "changed while the page was open" in app.error[0].value
    assert len(read_versions(root)[0]) == 2  # hers, and what was found in force


def test_a_sign_off_bears_the_name_and_role_that_were_given_for_it_alone(root: Path) -> None:
    app = opened(PAGE)
    app.text_input(key="version-name").input("Ben")
    submit(app, "save-version")
    tab(app, "sign")
    sign(app, "Aiko")
    submit(app, "sign")
    assert app.error[0].value == "Say who you are."
    app.text_input(key="sign-name").input("Chika")
    submit(app, "sign")
    assert app.error[0].value == "Choose the role that you sign in."
    assert [(entry.name, entry.role) for entry in read_signoffs(root)[0]] == [("Aiko", "legal")]


def test_a_removal_is_signed_before_it_goes_into_force(root: Path) -> None:
    save_version(root, with_profile(PROFILES, "careful", None), "Ben")
    app = tab(opened(PAGE), "sign")
    assert "somebody must sign: careful." in text(app)
    assert "✕ removed" in text(app)
    app.selectbox(key="sign-profile-1").select("careful").run()
    assert downloads(app) == ["Download as YAML"]
    assert [button.label for button in app.button if "removal" in button.label] == ["Sign the removal of careful"]
    sign(app, "Aiko")
    app.text_input(key="force-name").input("Aiko")
    submit(app, "force")
    assert "careful" not in open_family(root).profiles.profiles


def test_a_version_is_not_put_in_force_over_profiles_that_nobody_saw(root: Path) -> None:
    version = save_version(root, PROFILES, "Ben")
    write_profiles(
        root / "profiles.yaml", with_profile(PROFILES, "first", ThresholdProfile(primary="safety")), "by hand"
    )
    put_in_force(root, version, "Ben", open_family(root).profiles, shown_sha256=open_family(root).profiles_sha256)
    app = tab(opened(PAGE), "sign")
    app.selectbox(key="sign-version").select(2).run()
    by_hand = with_profile(PROFILES, "second", ThresholdProfile(primary="safety"))
    write_profiles(root / "profiles.yaml", by_hand, "by hand")
    app.text_input(key="force-name").input("Chika")
    submit(app, "force")
    assert "changed while the page was open" in app.error[0].value
    assert open_family(root).profiles == by_hand
    app.text_input(key="force-name").input("Chika")
    submit(app, "force")
    assert "first" in open_family(root).profiles.profiles


def test_a_version_whose_sign_off_ended_meanwhile_is_not_put_in_force(root: Path) -> None:
    save_version(root, with_profile(PROFILES, "careful", None), "Ben")
    app = tab(opened(PAGE), "sign")
    app.selectbox(key="sign-profile-1").select("careful").run()
    sign(app, "Aiko")
    assert not force_button(app).disabled
    (root / "family.json").write_bytes((root / "family.json").read_bytes() + b" ")
    app.text_input(key="force-name").input("Chika")
    submit(app, "force")
    assert open_family(root).profiles == PROFILES
    assert "somebody must sign: careful." in text(app)


def test_a_profile_that_users_have_is_not_removed_from_under_them(root: Path) -> None:
    write_profiles(root / "profiles.yaml", PROFILES.model_copy(update={"users": {"mei": "balanced"}}), "by hand")
    app = opened(PAGE)
    app.selectbox(key="draft-name-0").select("balanced").run()
    app.checkbox(key="draft-0-balanced-remove").check().run()
    app.text_input(key="version-name").input("Ben")
    submit(app, "save-version")
    assert "user 'mei' has profile 'balanced', which is not among the profiles" in app.error[0].value
    assert read_versions(root)[0] == []
    tab(app, "sign")
    assert "users: mei" in text(app)


def test_yaml_and_report_are_offered(root: Path) -> None:
    app = tab(opened(PAGE), "sign")
    assert downloads(app) == ["Download as YAML", "Report of this profile"]


def test_the_report_names_policy_floors_certificate_sign_offs_and_digests(root: Path) -> None:
    from dashboards.profile_report import Section, report

    evil = "<script>alert(1)</script>"
    page = report(evil, [evil], evil, [Section("Margins", [evil], [evil], [[evil, "0.90"]])], catalogue("ja"))
    assert '<html lang="ja">' in page
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 7  # title twice, facts, summary, sentence, column, cell
    assert "@media print" in page


def test_two_versions_are_compared(root: Path) -> None:
    save_version(root, PROFILES, "Ben")
    save_version(root, with_profile(PROFILES, "strict", ThresholdProfile(primary="safety")), "Ben")
    app = tab(opened(PAGE), "history")
    assert "Two versions compared" in [header.value for header in app.header]
    assert "strict" in text(app)


def test_read_only_shows_and_saves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(READ_ONLY_VARIABLE, "1")
    app = opened(PAGE)
    assert not [button for button in app.button if "Save" in button.label]
    tab(app, "sign")
    assert not [button for button in app.button if "Sign" in button.label]
    assert downloads(app) == ["Download as YAML", "Report of this profile"]


def test_broken_versions_and_lines_are_named(root: Path) -> None:
    save_version(root, PROFILES, "Ben")
    (root / "profiles" / "0002.json").write_text("{", encoding="utf-8")
    (root / "profiles" / "sign-offs.jsonl").write_text("{\n", encoding="utf-8")
    page = text(opened(PAGE))
    assert "0002.json" in page
    assert "sign-offs.jsonl" in page


def test_a_drafts_certificate_is_that_of_the_command_but_for_its_digests(root: Path) -> None:
    view = open_family(root)
    draft, organisation = PROFILES.profiles["careful"], PROFILES.organisation.floors
    quick = certify_draft(view.family, read_measured(root / "evaluation" / "test"), draft, organisation)
    whole = certify_family(root, view.family, Request(draft, None, organisation))
    assert quick.policies == whole.policies
    assert (quick.serves, quick.method, quick.level) == (whole.serves, whole.method, whole.level)


def test_the_page_of_a_profile_holds_what_a_reviewer_asks_for(root: Path) -> None:
    view = open_family(root)
    entry = SignOff(
        time="2026-01-01T00:00:00+00:00",
        name="Aiko",
        role="legal",
        note="agreed",
        profile="balanced",
        family_sha256="f" * 64,
        evaluation_sha256="0" * 64,
        profile_sha256=profile_sha256(PROFILES, "balanced"),
    )
    agreed = Agreed([], [entry], [], Evidence("f" * 64, "e" * 64, ""), view.profiles, None)
    page = page_of(view, agreed, 0, "balanced", catalogue("en"))
    assert "policy-01 serves this profile: helpfulness 0.70" in page
    assert "<td>Safety</td><td>0.70</td><td>0.750</td><td>+0.050</td>" in page
    assert "no longer holds (changed since: the evaluation)" in page
    assert "<td>If no policy holds every floor</td><td>refuse the request</td>" in page
    assert page.count("<table>") == 5
    assert page_of(view, agreed, 0, "helpful", catalogue("en")).count("<table>") == 4  # nobody signed
    assert profile_sha256(PROFILES, "balanced") in page
