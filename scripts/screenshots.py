"""Pictures of the dashboard for the README: starts ``mopo-dashboard`` on a family and photographs its pages.

Drives the real dashboard in Chromium, at a desk's width or a phone's. Needs playwright and a Chromium on the path.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from dashboards.catalogue import LANGUAGES
from dashboards.navigation import PAGES as NAVIGATION

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PAGES = [address for _, address, _ in NAVIGATION]
"""Addresses; the front is at the root."""


def main() -> None:
    """Write one PNG per page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--pages", nargs="+", default=["front", "policies"], choices=PAGES)
    parser.add_argument("--language", default="en", choices=list(LANGUAGES))
    parser.add_argument("--option", nargs="*", default=[], help="more options of mopo-dashboard, without --")
    parser.add_argument("--floor", nargs="*", default=[], metavar="OBJECTIVE=VALUE", help="floors to set on the front")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with dashboard(options.family, [f"--{option}" for option in options.option]) as url, chromium() as browser:
        for name in options.pages:
            page = browser.new_page(viewport={"width": options.width, "height": 900}, device_scale_factor=1.5)
            visit(page, url, name, options.language)
            for floor in options.floor if name == "front" else []:
                set_floor(page, *floor.split("="))
            marks = [name, *([options.language] if options.language != "en" else [])]
            marks += ["phone"] if options.width < 1000 else []
            path = options.out / f"dashboard-{'-'.join(marks)}.png"
            photograph(page, path)
            page.close()
            print(path)


@contextmanager
def dashboard(family: Path, more: list[str]) -> Iterator[str]:
    """The URL of a dashboard on a free port, stopped when the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("mopo-dashboard")), str(family), "--port", str(port), *more]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def wait_until_healthy(url: str, process: "subprocess.Popen[bytes]", timeout: float = 60) -> None:
    """Return when the dashboard answers; exit if it ends or takes longer than ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    sys.exit("screenshots: the dashboard did not start; its message is above")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A Chromium of the system."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        sys.exit(f"screenshots: no Chromium found; install one of {', '.join(NAMES)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


def visit(page: Page, url: str, name: str, language: str) -> None:
    """Open a page and wait until everything on it is drawn."""
    page.goto(f"{url if name == 'front' else f'{url}/{name}'}?language={LANGUAGES[language]}")
    page.get_by_role("heading", level=1).wait_for()
    settle(page)


def settle(page: Page) -> None:
    """Wait until no script runs, no element is stale and every chart is drawn."""
    page.wait_for_function(
        """() => document.querySelector('[data-test-script-state="running"]') === null
              && document.querySelector('.stApp [data-stale="true"], .stApp [data-testid="stSkeleton"]') === null
              && [...document.querySelectorAll('.stPlotlyChart')].every(chart => chart.querySelector('.main-svg'))"""
    )
    page.evaluate("() => document.fonts.ready")


def set_floor(page: Page, objective: str, value: str) -> None:
    """Move a floor's slider with the keyboard, as the slider itself announces its value."""
    slider = page.get_by_role("slider", name=f"{objective.capitalize()} at least")
    slider.focus()
    steps = round((float(value) - float(slider.get_attribute("aria-valuetext") or 0)) / 0.01)
    for _ in range(abs(steps)):
        slider.press("ArrowRight" if steps > 0 else "ArrowLeft")
    shown = f"{float(value):.2f}"
    page.get_by_role("status").get_by_text(shown).first.wait_for()
    settle(page)


def photograph(page: Page, path: Path) -> None:
    """Save the whole page: the window is made as high as what Streamlit scrolls inside it."""
    height = page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": page.viewport_size["width"], "height": height + 10})  # type: ignore[index]
    settle(page)
    page.screenshot(path=path)


if __name__ == "__main__":
    main()
