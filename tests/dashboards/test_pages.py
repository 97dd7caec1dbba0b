"""Every page in Streamlit's own test runner, on whole and on degenerate families."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from dashboards.flags import read_flags
from dashboards.settings import FAMILY_VARIABLE, LOGIN_VARIABLE, READ_ONLY_VARIABLE
from mopo_eval.reliability import Reliability
from mopo_eval.scorecards import with_reliability, write_scorecards
from mopo_train.family import REFERENCE, write_family
from tests.dashboards.examples import write_example_family
from tests.dashboards.running import bodies, charts, healthy, opened, text
from tests.families import SCORES, family, scorecard, write_evaluation, write_measured_family

COMPARE, ANSWERS, PRICE = "views/compare.py", "views/prompts.py", "views/price.py"
PROFILES, TRAINING = "views/profiles.py", "views/training.py"
DATA, LABELLING = "views/data.py", "views/labelling.py"
PAGES = [None, PRICE, COMPARE, ANSWERS, PROFILES, TRAINING, DATA, LABELLING]
MEASURED = [page for page in PAGES if page not in (TRAINING, DATA)]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the application looks for its family."""
    path = tmp_path / "family"
    path.mkdir()
    monkeypatch.setenv(FAMILY_VARIABLE, str(path))
    return path


def gets(app: AppTest) -> dict[str, str]:
    """Policy (or refusal) per profile, read from the page's table."""
    table = next(body for body in bodies(app) if 'aria-label="Policy per profile"' in body)
    return dict(
        re.findall(r'<td class="">([a-z]+)</td><td class=""><span class="m-[a-z]+">. ([a-z0-9-]+)</span>', table)
    )


def test_the_front_names_the_policy_under_the_organisations_floors(root: Path) -> None:
    write_measured_family(root)
    app = opened()
    assert app.title[0].value == "The trade-off"
    assert [slider.value for slider in app.slider] == [0.0, 0.5, 0.0]  # helpfulness, safety, factuality
    assert "policy-00 is the best for helpfulness: judge score 0.85, certified at least 0.80" in text(app)
    assert "5 of 5 policies hold safety at least 0.50" in text(app)
    assert len(charts(app)) == 2  # the plane, and all objectives at once


@pytest.mark.parametrize("page", [None, PRICE, COMPARE, ANSWERS, PROFILES])
def test_a_judge_that_was_fitted_is_told_on_every_page_with_its_numbers(page: str | None, root: Path) -> None:
    write_measured_family(root)
    known = Reliability(accuracy=0.613, low=0.58, high=0.65, ece=0.042, n=1200, unit="pairs", chance=0.5)
    cards = [with_reliability(scorecard(name, scores), {"safety": known}) for name, scores in SCORES.items()]
    write_scorecards(root, cards)
    shown = text(opened(page))
    assert "fitted where it was measured: it decided 0.61 [0.58, 0.65] of 1,200 held-out cases right" in shown
    assert "(chance 0.50), with a calibration error of 0.04" in shown


def test_moving_a_floor_changes_the_policy_the_profiles_and_who_is_out(root: Path) -> None:
    write_measured_family(root)
    app = opened()
    assert gets(app) == {
        "helpful": "policy-00",
        "balanced": "policy-01",
        "careful": "policy-02",
        "impossible": "refused",
        "closest": "policy-02",
    }
    app.slider(key="floor-safety").set_value(0.80).run()
    assert gets(app)["helpful"] == gets(app)["balanced"] == "policy-02"
    page = text(healthy(app))
    assert "policy-02 is the best for helpfulness: judge score 0.55" in page
    assert "2 of 5 policies hold safety at least 0.80. Out: reference, policy-00, policy-01." in page
    assert "safety 0.250 below" in page  # policy-00: 0.55 certified
    app.slider(key="floor-safety").set_value(0.99).run()
    page = text(healthy(app))
    assert "No policy holds every floor. Closest: policy-02 (safety 0.090 below)" in page
    app.button(key="reset").click().run()
    assert app.slider(key="floor-safety").value == 0.5
    assert "policy-00 is the best" in text(healthy(app))


def test_a_floor_on_an_objective_outside_the_axes_counts_too(root: Path) -> None:
    write_measured_family(root)
    app = opened()
    app.slider(key="floor-factuality").set_value(0.72).run()  # certified .75 .65 .70 .80 .75
    assert "policy-02 is the best for helpfulness" in text(healthy(app))


def test_floors_are_kept_when_another_page_was_visited(root: Path) -> None:
    write_measured_family(root)
    app = opened()
    app.slider(key="floor-safety").set_value(0.80).run()
    app.switch_page(COMPARE).run()
    app.switch_page("views/front.py").run()
    assert healthy(app).slider(key="floor-safety").value == 0.80


def test_the_plan_is_another_view_with_its_own_unit(root: Path) -> None:
    write_example_family(root, prompts=4)
    app = opened()
    assert "exact front of the sandbox" in text(app)
    assert "Predicted front" not in text(app)
    app.button_group(key="unit").set_value("planned").run()
    page = text(healthy(app))
    assert "Predicted front (plan)" in page
    assert "another unit than the judge score" in page
    assert not app.slider  # floors are judge scores: none here


def test_other_axes_can_be_chosen(root: Path) -> None:
    write_example_family(root, prompts=4, objectives=5)
    app = opened()
    app.selectbox(key="measured-y").select("factuality").run()
    assert "factuality" not in healthy(app).selectbox(key="measured-x").options
    app.selectbox(key="measured-x").select("brevity").run()
    assert len(charts(healthy(app))) == 2


def test_all_policies_are_shown_in_judge_score_win_rate_and_plan(root: Path) -> None:
    write_measured_family(root)
    app = opened(COMPARE)
    app.button_group(key="mode").set_value("every").run()
    healthy(app)
    assert app.title[0].value == "Policies compared"
    assert len(charts(app)) == 6  # three objectives, two units
    page = text(app)
    assert "0.650 to 0.750, ≥ 0.650" in page  # policy-01, helpfulness
    assert "safety ≥ 0.60" in page  # what policy-01 was trained for


def test_two_to_four_policies_are_compared_closely(root: Path) -> None:
    write_example_family(root, prompts=40)
    app = opened(COMPARE)
    assert app.multiselect(key="compared").value == ["reference", "policy-00", "policy-07"]
    page = text(app)
    assert "Differences to reference" in [header.value for header in app.header]
    assert "▲ better" in page
    assert "▼ worse" in page
    assert "policy-07 dominates" in page
    assert "risky request" in page
    assert len(charts(app)) == 4  # scores, differences, categories, radar
    app.multiselect(key="compared").set_value(["policy-04"]).run()
    assert "Choose at least two policies" in text(healthy(app))


def test_policies_without_judgements_are_compared_by_their_scorecards_alone(root: Path) -> None:
    write_example_family(root, prompts=4, objectives=2)
    (root / "evaluation" / "first" / "judgements.parquet").unlink()
    app = opened(COMPARE)
    assert "cannot be compared prompt by prompt" in text(app)
    assert len(charts(app)) == 1  # two objectives have no radar


def test_the_price_of_a_floor_is_a_sentence_a_staircase_and_a_table(root: Path) -> None:
    write_measured_family(root)
    app = opened(PRICE)
    page = text(app)
    assert "The floor on safety costs nothing up to 0.55." in page
    assert "The dearest stretch is 0.75 to 0.90: each further 0.01 costs 0.0100 helpfulness" in page
    assert "Above 0.90 no policy holds it." in page
    assert len(charts(app)) == 2
    (root / "evaluation" / "test" / "judgements.parquet").unlink()
    assert "unknown" in text(opened(PRICE))


def test_the_pages_speak_japanese(root: Path) -> None:
    write_measured_family(root)
    app = opened()
    app.button_group(key="language").set_value("ja").run()
    assert healthy(app).title[0].value == "トレードオフ"
    assert "下限なしで" not in text(app)
    assert "この下限のもとで有用性が最も高いのは policy-00 です" in text(app)
    app.switch_page(PRICE).run()
    assert healthy(app).title[0].value == "下限の代償"


def test_answers_of_the_chosen_prompt_are_side_by_side(root: Path) -> None:
    write_measured_family(root)
    app = opened(ANSWERS)
    assert "Answer 0 of policy-02." in text(app)
    app.selectbox(key="prompt").select("Question 7?").run()
    page = text(healthy(app))
    assert all(f"Answer 7 of {policy}." in page for policy in SCORES)
    assert "helpfulness of policy-01" in page  # the judge's evidence
    app.button(key="next").click().run()
    assert "Answer 8 of policy-00." in text(healthy(app))
    app.selectbox(key="category").select("risky").run()
    assert app.selectbox(key="prompt").options[:2] == ["Question 0?", "Question 2?"]
    app.text_input(key="words").input("10").run()
    assert "Answer 10 of policy-00." in text(healthy(app))
    app.text_input(key="words").input("nothing like it").run()
    assert "No prompt matches" in text(healthy(app))


def test_prompts_where_policies_differ_or_miss_a_floor_come_first(root: Path) -> None:
    write_measured_family(root)
    path = root / "evaluation" / "test" / "judgements.parquet"
    rows = pd.read_parquet(path)
    one = (rows["prompt_id"] == "p0005") & (rows["policy"] == "policy-01") & (rows["objective"] == "safety")
    rows.loc[one, "score"] = 0.0  # 0.95 below policy-02, and 0.50 below the organisation's floor
    rows.to_parquet(path)
    app = opened(ANSWERS)
    app.selectbox(key="order").select("differ").run()
    assert app.selectbox(key="prompt").options[0] == "0.95 · Question 5?"
    app.selectbox(key="order").select("missed").run()
    assert app.selectbox(key="prompt").options == ["0.50 · Question 5?"]
    assert "Floors in force and on the trade-off page: safety at least 0.50." in text(healthy(app))


def test_words_are_found_in_answers_too(root: Path) -> None:
    write_measured_family(root)
    app = opened(ANSWERS)
    app.text_input(key="words").input("answer 7 policy-02").run()
    assert "No prompt matches" in text(app)
    app.checkbox(key="in-answers").check().run()
    assert app.selectbox(key="prompt").options == ["Question 7?"]


def test_an_answer_is_flagged_with_a_comment_and_found_again(root: Path) -> None:
    write_measured_family(root)
    app = opened(ANSWERS)
    app.button_group(key="policies").set_value(["policy-01"]).run()
    app.selectbox(key="prompt").select("p0003").run()
    app.text_area(key="flag-comment").input("wrong <b>year</b>")
    app.selectbox(key="flag-policy").select("policy-01")
    app.button(key="FormSubmitter:flag-Flag this answer").click().run()
    assert app.error[0].value == "Say who you are."
    assert not (root / "flags.jsonl").exists()
    app.text_area(key="flag-comment").input("wrong <b>year</b>")
    app.selectbox(key="flag-policy").select("policy-01")
    app.text_input(key="flag-name").input("Mei")
    app.button(key="FormSubmitter:flag-Flag this answer").click().run()
    assert any("wrong &lt;b&gt;year&lt;/b&gt;" in body for body in bodies(healthy(app)))
    (flag,), problems = read_flags(root)
    assert (flag.policy, flag.prompt_id, flag.name, flag.run) == ("policy-01", "p0003", "Mei", "test")
    assert problems == []
    app.selectbox(key="order").select("flagged").run()
    assert app.selectbox(key="prompt").options == ["Question 3?"]


def test_nothing_can_be_flagged_in_read_only_mode(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(READ_ONLY_VARIABLE, "1")
    write_measured_family(root)
    app = opened(ANSWERS)
    assert not app.text_area
    assert any("Read-only" in caption.value for caption in app.sidebar.caption)


def test_of_many_policies_the_reference_and_some_of_the_whole_front_are_shown_first(root: Path) -> None:
    write_example_family(root, policies=20, prompts=4)
    shown = re.findall(r'aria-label="Answer of ([a-z0-9-]+)"', text(opened(ANSWERS)))
    assert (shown[0], shown[1], shown[-1], len(shown)) == ("reference", "policy-00", "policy-19", 8)


def test_markup_in_an_answer_stays_text(root: Path) -> None:
    write_measured_family(root)
    path = root / "evaluation" / "test" / "responses.parquet"
    answers = pd.read_parquet(path)
    answers["response"] = "<b>bold</b><script>alert(1)</script> **x**"
    answers.to_parquet(path)
    app = opened(ANSWERS)
    assert any("&lt;script&gt;alert(1)&lt;/script&gt; **x**" in body for body in bodies(app))
    assert [body for body in bodies(app) if "<script" in body] == [
        '<script>document.documentElement.lang = "en"</script>'
    ]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("objectives", [2, 5])
def test_two_and_five_objectives_show_on_every_page(root: Path, page: str | None, objectives: int) -> None:
    write_example_family(root, policies=3, prompts=4, objectives=objectives)
    opened(page)


@pytest.mark.parametrize("page", PAGES)
def test_a_half_written_family_says_how_to_finish_it(root: Path, page: str | None) -> None:
    (root / "policies").mkdir()
    assert "not completed" in text(opened(page))
    assert f"mopo-train run DATA --model MODEL --out {root}" in text(opened(page))


@pytest.mark.parametrize("page", MEASURED)
def test_an_unmeasured_family_says_which_command_measures_it(root: Path, page: str | None) -> None:
    write_measured_family(root)
    shutil.rmtree(root / "scorecards")
    shutil.rmtree(root / "evaluation")
    assert f"mopo-eval run {root}" in text(opened(page))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("damaged", ["family.json", "scorecards/policy-00.json"])
def test_a_broken_family_is_a_page_and_not_a_traceback(root: Path, page: str | None, damaged: str) -> None:
    write_measured_family(root)
    (root / damaged).write_text('{"half', encoding="utf-8")
    page_text = text(opened(page))
    assert "This family cannot be read" in page_text
    assert Path(damaged).name in page_text


def test_a_broken_evaluation_is_a_page_and_not_a_traceback(root: Path) -> None:
    write_measured_family(root)
    (root / "evaluation" / "test" / "responses.parquet").write_bytes(b"PAR1 half")
    assert "The answers cannot be read" in text(opened(ANSWERS))
    assert "responses.parquet" in text(opened(COMPARE))


def test_one_measured_objective_is_explained(root: Path) -> None:
    write_measured_family(root)
    write_scorecards(root, [scorecard(name, {"safety": values["safety"]}) for name, values in SCORES.items()])
    assert "One objective is no trade-off" in text(opened())
    opened(COMPARE)


def test_broken_profiles_are_named_and_the_front_stays(root: Path) -> None:
    write_measured_family(root)
    (root / "profiles.yaml").write_text("profiles: {x: {primary: speed}}", encoding="utf-8")
    app = opened()
    assert "primary 'speed' is not an objective" in text(app)
    assert len(charts(app)) == 2


def test_a_page_shows_new_scores_after_a_new_measurement(root: Path) -> None:
    write_measured_family(root)
    app = opened()
    assert "judge score 0.85" in text(app)
    write_scorecards(root, [scorecard("policy-00", SCORES["policy-00"] | {"helpfulness": 0.91})])
    assert "judge score 0.91" in text(healthy(app.run()))


@pytest.mark.parametrize("page", [None])
def test_policies_that_were_not_measured_are_named_and_the_others_shown(root: Path, page: str | None) -> None:
    write_measured_family(root)
    (root / "scorecards" / "policy-01.json").unlink()
    write_scorecards(root, [scorecard("policy-02", {"safety": 0.95, "helpfulness": 0.55})])  # without factuality
    app = opened(page)
    assert "Not measured, so not shown: policy-01." in text(app)
    assert charts(app)


def test_a_sample_and_an_evaluation_can_be_chosen(root: Path) -> None:
    write_measured_family(root)
    write_evaluation(root, prompts=1, run="newer")
    path = root / "evaluation" / "test" / "responses.parquet"
    answers = pd.read_parquet(path)
    second = answers.assign(sample=1, response="Second answer of " + answers["policy"] + ".")
    pd.concat([answers, second]).to_parquet(path)
    app = opened(ANSWERS)
    assert app.selectbox(key="run").value == "test"  # the one that the scorecards come from
    assert "Second answer" not in text(app)
    app.button_group(key="sample").set_value(1).run()
    assert "Second answer of policy-02." in text(healthy(app))
    app.selectbox(key="run").select("newer").run()
    assert len(healthy(app).selectbox(key="prompt").options) == 1


def test_answers_that_are_not_judged_yet_are_shown_with_the_command_that_judges_them(root: Path) -> None:
    write_measured_family(root)
    (root / "evaluation" / "test" / "judgements.parquet").unlink()
    page = text(opened(ANSWERS))
    assert "has no judgements yet" in page
    assert "Answer 0 of policy-00." in page


def test_nothing_is_shown_to_people_who_have_not_signed_in(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOGIN_VARIABLE, "1")
    write_measured_family(root)
    app = opened()
    assert [button.label for button in app.button] == ["Sign in"]
    assert "policy-00" not in text(app)
    assert not app.title
    with pytest.raises(ValueError, match="Could not find a navigation page"):  # no page is there to go to
        app.switch_page(ANSWERS)


@pytest.mark.parametrize("page", PAGES)
def test_a_family_of_the_reference_alone_shows_on_every_page(root: Path, page: str | None) -> None:
    write_family(root, family({REFERENCE: SCORES[REFERENCE]}))
    write_scorecards(root, [scorecard(REFERENCE, SCORES[REFERENCE])])
    app = opened(page)
    assert app.title
    assert "Traceback" not in text(app)
