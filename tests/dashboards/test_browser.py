"""The dashboard as people see it: the real command, a real Chromium, a live gateway, and the paths that they take.

``scripts/screenshots.py`` makes pictures to look at, of every page and language.
"""

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from dashboards.catalogue import LANGUAGES, catalogue
from dashboards.navigation import PAGES
from mopo_eval.engine import Engine
from mopo_serve.audit import frames
from mopo_serve.audit.store import open_store
from mopo_train.preferences import read_preferences
from tests.dashboards.examples import write_example_family
from tests.dashboards.provider import provider, secrets_file
from tests.dashboards.served import free_port, served
from tests.mopo_serve.test_end_to_end import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
DESK, PHONE, HEIGHT = 1280, 390, 900
AGENT = "Mozilla/5.0 (Linux; Android 14) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0 Mobile Safari/537.36"
ON_PHONE: dict[str, Any] = {"is_mobile": True, "has_touch": True, "user_agent": AGENT}
PATIENCE = 60_000  # milliseconds; reached only when something is wrong
SERIOUS = {"serious", "critical"}
NAMELESS = """() => [...document.querySelectorAll('.stPlotlyChart')]
  .filter(chart => !chart.closest('[aria-label]') && !chart.querySelector('[aria-label]'))
  .map(chart => 'a chart without a name')"""
OVERRUN = """() => [...document.querySelectorAll('.m-table td')]
  .filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.innerText)"""
"""Cells whose text runs over their edge."""
expect.set_options(timeout=PATIENCE)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install the package 'chromium'"),
]


class Here(NamedTuple):
    """A dashboard with everything that it can be given."""

    url: str
    root: Path
    audit: Path


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, tiny_family: Path, embedded_engine: Engine) -> Iterator[Here]:
    place = tmp_path_factory.mktemp("browser")
    root, audit = place / "family", place / "audit.db"
    write_example_family(root, prompts=40)
    with (
        serving(tiny_family, "--engine", embedded_engine.url, "--audit", str(audit)) as gateway,
        served(root, "--gateway", gateway.url, "--audit", str(audit)) as dashboard,
    ):
        yield Here(dashboard.url, root, audit)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def width() -> int:
    return DESK


@pytest.fixture
def page(browser: Browser, width: int) -> Iterator[Page]:
    """A tab that must have raised nothing and asked nobody but the dashboard."""
    more = ON_PHONE if width == PHONE else {}
    tab = browser.new_page(viewport={"width": width, "height": HEIGHT}, **more)
    tab.set_default_timeout(PATIENCE)
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    hosts: set[str | None] = set()
    tab.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    yield tab
    icon = tab.locator("link[rel~=icon]").get_attribute("href")  # its request is not reported
    tab.close()
    assert errors == []
    hosts.add(urlsplit(icon or "").hostname)
    assert hosts - {None} == {"127.0.0.1"}  # None: pictures that are written in the page


def settle(page: Page) -> None:
    """Wait until no script runs and nothing on the page is being drawn."""
    page.wait_for_function(
        """() => document.querySelector('[data-test-script-state="running"]') === null
              && document.querySelector('.stApp [data-stale="true"], .stApp [data-testid="stSkeleton"]') === null
              && [...document.querySelectorAll('.stPlotlyChart')].every(chart => chart.querySelector('.main-svg'))"""
    )


def fits(page: Page) -> bool:
    """True if nothing runs over the width of the window once all is drawn."""
    settle(page)
    assert page.viewport_size is not None
    return bool(page.evaluate("() => document.documentElement.scrollWidth") <= page.viewport_size["width"])


def faults(page: Page) -> list[str]:
    """What axe-core, which the page has loaded, finds serious or critical: rule and first element."""
    found: list[dict[str, Any]] = page.evaluate("async () => (await axe.run({resultTypes: ['violations']})).violations")
    return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in SERIOUS]


def axe_file() -> Path:
    package = importlib.util.find_spec("axe_core_python")
    assert package is not None and package.origin is not None
    return Path(package.origin).with_name("axe.min.js")


def follow(page: Page, name: str) -> None:
    """Go to another page by its link; on a phone the list of pages is opened first, and closes by itself."""
    if page.viewport_size == {"width": PHONE, "height": HEIGHT}:
        page.get_by_test_id("stExpandSidebarButton").click()
    page.get_by_role("link", name=name, exact=True).click()


@pytest.mark.parametrize("width", [DESK, PHONE], ids=["desk", "phone"])
def test_a_floor_finds_its_policy(page: Page, here: Here) -> None:
    page.goto(here.url)
    verdict = page.get_by_role("status")
    # safety, certified: the mean less 2.9 * 0.35 / sqrt(40) = 0.160; the organisation asks for 0.60
    expect(verdict).to_contain_text("policy-03 is the best for helpfulness")
    expect(page.locator(".stPlotlyChart .annotation-text", has_text="policy-03").first).to_be_visible()
    profiles = page.get_by_role("table", name="Policy per profile")
    expect(profiles.get_by_role("row", name="assistant")).to_contain_text("policy-05")
    slider = page.get_by_role("slider", name="Safety at least")
    slider.press("PageUp")  # ten steps
    expect(slider).to_have_attribute("aria-valuetext", "0.70")
    expect(verdict).to_contain_text("policy-05 is the best for helpfulness")
    expect(verdict).to_contain_text("hold safety at least 0.70. Out: reference, policy-00")
    floor = page.locator(".stPlotlyChart .annotation-text", has_text="Safety ≥ 0.70").first
    expect(floor).to_be_visible()
    assert fits(page)


def test_policies_and_two_answers_are_compared(page: Page, here: Here) -> None:
    page.goto(f"{here.url}/policies")
    expect(page.get_by_role("table", name="Paired differences")).to_contain_text("worse")
    page.get_by_text("All policies", exact=True).click()
    expect(page.locator(".stPlotlyChart .main-svg .scatterlayer")).to_have_count(6)
    row = page.get_by_role("table", name="Measured scores").get_by_role("row", name="policy-07")
    expect(row).to_contain_text("0.930")  # safety: 0.56 + 0.37
    page.get_by_role("link", name="Answers").click()
    expect(page.get_by_role("article").first).to_contain_text("The river of velm-0")
    page.get_by_label("Search in prompts").fill("orchard velm-13")
    page.get_by_label("Search in prompts").press("Enter")
    articles = page.get_by_role("article")
    expect(page.locator(".m-prompt")).to_contain_text("the orchard of Velm-13")
    expect(articles.first).to_contain_text("The orchard of velm-13")
    expect(articles.first).to_contain_text("of 5 points that were expected")
    for name in ("policy-01", "policy-02", "policy-03", "policy-05", "policy-06", "reference"):
        page.get_by_role("button", name=name, exact=True).click()
    expect(articles).to_have_count(2)
    assert fits(page)


def test_a_profile_is_drafted_signed_put_in_force_and_a_new_score_ends_the_sign_off(page: Page, here: Here) -> None:
    changed = here.root / "profiles.yaml", here.root / "scorecards" / "policy-00.json"
    kept = [path.read_text(encoding="utf-8") for path in changed]
    page.goto(f"{here.url}/profiles")
    slider = page.get_by_role("slider", name="Safety at least")
    expect(slider).to_have_attribute("aria-valuetext", "0.65")  # of "assistant"
    slider.press("PageUp")
    expect(page.get_by_role("status").first).to_contain_text("policy-06 serves this profile")
    page.get_by_label("Your name").fill("Ben")
    page.get_by_label("Note").fill("次の会議で決める" * 20)
    page.get_by_role("button", name="Save as a new version").click()
    expect(page.get_by_text("Saved as version 1.")).to_be_visible()
    page.get_by_text("Sign and put in force", exact=True).click()
    expect(page.get_by_role("button", name="Sign assistant")).to_be_visible()  # the draft is gone
    settle(page)
    page.get_by_label("Your name").first.fill("Aiko")
    role = page.get_by_role("combobox", name="Role")
    role.fill("safety")
    expect(page.get_by_role("option")).to_have_text(["safety"])
    role.press("Enter")
    page.get_by_role("button", name="Sign assistant").click()
    expect(page.get_by_role("table", name="Profiles of this version")).to_contain_text("Aiko (safety)")
    assert fits(page)
    page.get_by_label("Your name").last.fill("Chika")
    page.get_by_role("button", name="Put version 1 in force").click()
    expect(page.get_by_text("This is what is in force.")).to_be_visible()
    assert "version 1" in (here.root / "profiles.yaml").read_text(encoding="utf-8")
    card = json.loads(kept[1])
    card["objectives"]["safety"]["mean"] += 0.001
    changed[1].write_text(json.dumps(card), encoding="utf-8")
    page.get_by_text("History", exact=True).click()
    expect(page.get_by_role("table", name="All sign-offs")).to_contain_text("Aiko")
    assert page.evaluate(OVERRUN) == []
    page.get_by_text("Sign and put in force", exact=True).click()
    expect(page.get_by_role("table", name="Sign-offs of assistant")).to_contain_text("changed since: the evaluation")
    for path, content in zip(changed, kept, strict=True):  # other tests ask the same family
        path.write_text(content, encoding="utf-8")


def test_one_prompt_is_answered_twice_and_voted_on(page: Page, here: Here) -> None:
    page.goto(f"{here.url}/playground")
    page.get_by_label("Prompt").fill("Where is the river?")
    page.get_by_label("Longest answer").fill("12")
    page.get_by_role("button", name="Ask both").click()
    articles = page.get_by_role("article")
    expect(articles).to_have_count(2)
    expect(articles.first).to_contain_text("policy-00")  # of "helpful"
    expect(articles.last).to_contain_text("Why: policy-02")  # of "careful"
    page.get_by_role("radiogroup", name="Safety of helpful").get_by_text("poor").click()
    page.get_by_role("radiogroup", name="Safety of careful").get_by_text("good").click()
    assert fits(page)
    page.get_by_role("button", name="Send votes").click()
    expect(page.get_by_text("The gateway has taken your votes.")).to_be_visible()
    store = open_store(str(here.audit), create=False)
    found = frames.judgements(store)
    store.close()
    assert dict(zip(found["policy"], found["value"], strict=True)) == {"policy-00": 0.0, "policy-02": 1.0}


def test_ten_pairs_are_labelled_with_the_keyboard(page: Page, here: Here) -> None:
    page.goto(f"{here.url}/labelling")
    page.get_by_role("button", name="Choose pairs").click()
    page.get_by_label("Your name").fill("Mei")
    page.get_by_label("Your name").press("Enter")
    question = page.get_by_role("status")
    expect(question).to_contain_text("helpfulness?")
    assert fits(page)
    page.get_by_role("heading", level=1).click()  # out of the text field, which takes letters for itself
    for pair in range(10):
        for objective, key in (("helpfulness", "a"), ("safety", "b"), ("factuality", "t")):
            question.filter(has_text=f"better for {objective}?").filter(has_text=f"; {pair} of ").wait_for()
            page.keyboard.press(key)
    expect(question).to_contain_text("10 of ")
    data = read_preferences([here.root / "labels.jsonl"])
    assert data.objectives == ("helpfulness", "safety", "factuality")
    assert data.labels.tolist() == [[1.0, 0.0, 0.5]] * 10


@pytest.mark.parametrize(("language", "width"), [("en", DESK), ("ja", PHONE)])
def test_every_page_is_reached_passes_axe_and_fits_a_phone(page: Page, here: Here, language: str, width: int) -> None:
    t = catalogue(language)
    page.add_init_script(path=axe_file())
    page.goto(f"{here.url}/{PAGES[-1][1]}?language={LANGUAGES[language]}")
    found: dict[str, list[str]] = {}
    for name, address, _ in PAGES:
        follow(page, t(f"app.page_{name}"))
        page.get_by_role("heading", name=t(f"{name}.heading"), level=1, exact=True).wait_for()
        settle(page)
        found[address] = faults(page) + page.evaluate(NAMELESS)
        page.set_viewport_size({"width": PHONE, "height": HEIGHT})
        assert fits(page), address
        page.set_viewport_size({"width": width, "height": HEIGHT})
    assert found == {address: [] for _, address, _ in PAGES}


def test_people_sign_in_at_their_provider(browser: Browser, tmp_path: Path) -> None:
    write_example_family(tmp_path / "family", policies=3, prompts=12)
    port = free_port()
    with provider("Aiko Tanaka") as url:
        (tmp_path / ".streamlit").mkdir()
        (tmp_path / ".streamlit" / "secrets.toml").write_text(secrets_file(url, port), encoding="utf-8")
        with served(tmp_path / "family", "--login", port=port, cwd=tmp_path) as dashboard:
            tab = browser.new_page(viewport={"width": DESK, "height": HEIGHT})
            tab.set_default_timeout(PATIENCE)
            tab.goto(dashboard.url)
            expect(tab.get_by_role("button", name="Sign in")).to_be_visible()
            assert "policy-00" not in tab.content()
            tab.get_by_role("button", name="Sign in").click()
            expect(tab.get_by_role("heading", name="The trade-off")).to_be_visible()
            expect(tab.get_by_text("Signed in as Aiko Tanaka")).to_be_visible()
            tab.get_by_role("button", name="Sign out").click()
            expect(tab.get_by_role("button", name="Sign in")).to_be_visible()
            tab.close()
