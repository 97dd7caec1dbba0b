"""The dashboard as people see it: the real command, a real Chromium, and pictures to look at in pytest's directory."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.dashboards.examples import write_example_family
from tests.dashboards.served import served

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
DESK, PHONE = 1280, 390
PATIENCE = 30_000  # milliseconds; reached only when something is wrong

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install the package 'chromium'"),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("browser") / "family"
    write_example_family(root, prompts=40)
    with served(root) as here:
        yield here.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def errors() -> list[str]:
    """What a page complained about."""
    return []


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def page(browser: Browser, request: pytest.FixtureRequest, errors: list[str]) -> Iterator[Page]:
    tab = browser.new_page(viewport={"width": request.param, "height": 900})
    tab.set_default_timeout(PATIENCE)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    hosts: set[str | None] = set()
    tab.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    yield tab
    icon = tab.locator("link[rel~=icon]").get_attribute("href")  # its request is not reported
    tab.close()
    assert errors == []
    hosts.add(urlsplit(icon or "").hostname)
    assert hosts - {None} == {"127.0.0.1"}  # None: pictures that are written in the page


def photograph(page: Page, path: Path) -> None:
    """Save the page at its full height and check that nothing runs over its width."""
    expect(page.locator('[data-testid="stSkeleton"]')).to_have_count(0, timeout=PATIENCE)
    size = page.viewport_size
    assert size is not None
    height = page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": size["width"], "height": height})
    page.screenshot(path=path)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= size["width"]


def test_moving_a_floor_changes_the_policy_on_the_front_page(page: Page, url: str, tmp_path: Path) -> None:
    page.goto(url)
    verdict = page.get_by_role("status")
    # safety, certified: the mean less 2.9 * 0.35 / sqrt(40) = 0.160; the organisation asks for 0.60
    expect(verdict).to_contain_text("policy-03 is the best for helpfulness", timeout=PATIENCE)
    expect(page.locator(".stPlotlyChart .annotation-text", has_text="policy-03").first).to_be_visible(timeout=PATIENCE)
    profiles = page.get_by_role("table", name="Policy per profile")
    expect(profiles.get_by_role("row", name="assistant")).to_contain_text("policy-05")
    slider = page.get_by_role("slider", name="Safety at least")
    slider.focus()
    for _ in range(10):
        slider.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "0.70")
    expect(verdict).to_contain_text("policy-05 is the best for helpfulness", timeout=PATIENCE)
    expect(verdict).to_contain_text("hold safety at least 0.70. Out: reference, policy-00")
    expect(page.locator(".stPlotlyChart .annotation-text", has_text="Safety ≥ 0.70").first).to_be_visible(
        timeout=PATIENCE
    )
    photograph(page, tmp_path / "front.png")


def test_policies_are_compared_in_panels(page: Page, url: str, tmp_path: Path) -> None:
    page.goto(f"{url}/policies")
    expect(page.get_by_role("heading", name="Policies compared")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("table", name="Paired differences")).to_contain_text("worse", timeout=PATIENCE)
    page.get_by_text("All policies", exact=True).click()
    expect(page.locator(".stPlotlyChart .main-svg .scatterlayer")).to_have_count(6, timeout=PATIENCE)
    expect(page.locator(".stPlotlyChart .shapelayer path")).to_have_count(4)  # parity three times, one floor
    row = page.get_by_role("table", name="Measured scores").get_by_role("row", name="policy-07")
    expect(row).to_contain_text("0.930")  # safety: 0.56 + 0.37
    photograph(page, tmp_path / "policies.png")


def test_a_prompt_is_chosen_and_its_answers_are_read(page: Page, url: str, tmp_path: Path) -> None:
    page.goto(f"{url}/answers")
    expect(page.get_by_role("article").first).to_contain_text("The river of velm-0", timeout=PATIENCE)
    page.get_by_label("Search in prompts").fill("orchard velm-13")
    page.get_by_label("Search in prompts").press("Enter")
    articles = page.get_by_role("article")
    expect(page.locator(".m-prompt")).to_contain_text("the orchard of Velm-13", timeout=PATIENCE)
    expect(articles.first).to_contain_text("The orchard of velm-13", timeout=PATIENCE)
    expect(articles.first).to_contain_text("of 5 points that were expected")
    expect(articles).to_have_count(8)  # all but the dominated policy-04
    photograph(page, tmp_path / "answers.png")


def test_the_pages_are_reached_by_the_navigation(browser: Browser, url: str) -> None:
    tab = browser.new_page(viewport={"width": DESK, "height": 900})
    tab.goto(url)
    for link, heading in (
        ("Policies", "Policies compared"),
        ("Answers", "Answers side by side"),
        ("Front", "The trade-off"),
    ):
        tab.get_by_role("link", name=link).click(timeout=PATIENCE)
        expect(tab.get_by_role("heading", name=heading)).to_be_visible(timeout=PATIENCE)
    tab.close()
