"""The report in a real browser."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import Page, sync_playwright

from mopo_eval.cli import main
from mopo_eval.profiles import write_profiles
from mopo_eval.prompts import EvaluationPrompt
from tests.families import OBJECTIVES, PROFILES, SCORES
from tests.mopo_eval.measured_family import asked, drawn_scores, trained_family, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
MARK = "window.marked = true"
HOSTILE = (
    f"</div></main><script>{MARK}</script><img src=x onerror='{MARK}'><svg onload='{MARK}'><a href='javascript:{MARK}'>"
    f"<style>body {{ display: none }}</style><iframe srcdoc='<script>parent.{MARK}</script>'></iframe> \u202eevil\u2066"
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css><meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; install the package 'chromium'"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs; the first prompt and every answer are hostile and the prompt scores worst."""
    root = tmp_path_factory.mktemp("page") / "family"
    root.mkdir()
    trained_family(root)
    write_profiles(root / "profiles.yaml", PROFILES, "for tests")
    scores = drawn_scores(60)
    scores[:, :, 0] = 0
    prompts = [EvaluationPrompt("<b>id</b>", HOSTILE + "long " * 1000, "<i>kind</i>"), *asked(60)[1:]]
    write_run(root, scores, prompts, run="first", created_at="2025-12-01T00:00:00+00:00")
    answer = HOSTILE.replace("{", "{{").replace("}", "}}") + "{policy}"
    write_run(root, drawn_scores(60, seed=1) * (scores > 0), prompts, run="second", response=answer)
    done = CliRunner().invoke(main, ["report", str(root), "--html", str(root / "report.html")])
    assert done.exit_code == 0, done.output
    return root


@pytest.fixture(scope="module", params=[1280, 420], ids=["desk", "phone"])
def page(root: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": request.param, "height": 900})
        asked_for: list[str] = []
        tab.on("request", lambda request: asked_for.append(request.url))
        address = (root / "report.html").as_uri()
        tab.goto(address)
        yield tab
        assert asked_for == [address]  # nothing else was ever loaded
        browser.close()


def test_hostile_text_is_shown_and_does_nothing(page: Page) -> None:
    assert page.evaluate("window.marked") is None
    assert page.locator("script, iframe, img, a, link, main ~ *").count() == 0
    assert page.locator("main").is_visible()
    body = page.locator("main").inner_text()
    assert f"<script>{MARK}</script>" in body
    assert "<b>id</b>" in body and "<i>kind</i>" in body
    assert "<U+202E>evil<U+2066>" in body and "\u202e" not in page.content()
    assert "characters)" in body and "long " * 300 not in body


def test_the_page_fits_its_width_and_has_its_sections(page: Page) -> None:
    size = page.viewport_size
    assert size is not None
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    anchors = ["front", "scores", "profiles", "categories", "worst", "changes", "reading"]
    assert page.evaluate("[...document.querySelectorAll('section')].map(each => each.id)") == anchors
    assert page.locator("figure svg").count() >= 2
    assert page.locator("figure svg").first.bounding_box()["width"] > 300  # type: ignore[index]


def test_the_tables_hold_the_scorecards_numbers(page: Page, root: Path) -> None:
    for number, metric in enumerate(("score", "win_rate")):
        rows = page.locator("#scores table").nth(number).locator("tbody tr")
        assert rows.count() == len(SCORES)
        for row, policy in enumerate(SCORES):
            card = json.loads((root / "scorecards" / f"{policy}.json").read_text())
            for column, name in enumerate(OBJECTIVES):
                score = card["objectives"][name]
                score = score if metric == "score" else score["win_rate"]
                cell = rows.nth(row).locator("td").nth(column).inner_text()
                assert cell.startswith(f"{score['mean']:.3f}")
                if (policy, metric) == ("reference", "win_rate"):
                    assert "by definition" in cell
                    continue
                assert f"[{score['low']:.3f}, {score['high']:.3f}]" in cell
                assert f"certified {score['certified_low']:.3f}" in cell


def test_changes_and_profiles_are_those_of_the_commands(page: Page, root: Path) -> None:
    runs = ["--run", "first", "--run", "second", "--json"]
    compared = json.loads(CliRunner().invoke(main, ["compare", str(root), *runs]).stdout)
    rows = page.locator("#changes tbody tr")
    assert rows.count() == len(compared["comparisons"]) == len(SCORES) * len(OBJECTIVES)
    for row, each in enumerate(compared["comparisons"]):
        told = rows.nth(row).inner_text().replace("−", "-")
        assert f"{each['difference']:+.3f}" in told and f"[{each['low']:+.3f}, {each['high']:+.3f}]" in told
    profiles = page.locator("#profiles").inner_text()
    assert all(name in profiles for name in PROFILES.profiles)


def test_dark_and_printed_pages_are_legible(page: Page) -> None:
    def contrast() -> float:
        """WCAG's contrast of text on the page."""
        lights = []
        for what in ("color", "backgroundColor"):
            colour = page.evaluate(f"getComputedStyle(document.body).{what}")
            channels = [int(part) / 255 for part in colour[4:-1].split(",")]
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
            lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
        return (max(lights) + 0.05) / (min(lights) + 0.05)

    for media in ({"color_scheme": "dark"}, {"color_scheme": "light"}, {"media": "print", "color_scheme": "dark"}):
        page.emulate_media(**media)  # type: ignore[arg-type]
        assert contrast() > 7
    page.emulate_media(media="screen", color_scheme="light")
