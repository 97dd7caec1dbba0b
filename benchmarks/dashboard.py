"""How fast the dashboard answers on a large family: seconds of the server per page, and per move of a slider.

Writes a synthetic family (20 policies and the reference on 5,000 prompts, three objectives) and runs the application in
Streamlit's own test runner, which does everything but send the page. Exit status 1 if a target is missed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from streamlit.testing.v1 import AppTest

from dashboards.cli import APP
from dashboards.navigation import FILES, PAGES
from dashboards.settings import FAMILY_VARIABLE
from tests.dashboards.examples import write_example_family

OPENING, ANSWERING = 2.0, 0.3
"""Targets: seconds until a page is there for the first time, and until it answers again."""


def main() -> None:
    """Print a line per page and action."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=5000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "family"
        write_example_family(root, policies=options.policies, prompts=options.prompts)
        os.environ[FAMILY_VARIABLE] = str(root)
        met = measure()
    sys.exit(0 if all(met) else 1)


def measure() -> list[bool]:
    """Whether each target was met."""
    app = AppTest.from_file(APP, default_timeout=300)
    met = [timed("front, first time", app.run, OPENING)]
    for floor in (0.70, 0.72):
        met.append(timed(f"front, floor to {floor:.2f}", partial(move, app, "floor-safety", floor), ANSWERING))
    for name, _, _ in PAGES[1:]:
        met.append(timed(f"{name}, first time", partial(visit, app, f"views/{FILES.get(name, name)}.py"), OPENING))
        met.append(timed(f"{name}, again", app.run, ANSWERING))
    app.switch_page("views/profiles.py").run()
    slider = next(str(slider.key) for slider in app.slider if str(slider.key).endswith("safety"))
    for floor in (0.70, 0.80):
        met.append(timed(f"profile, floor to {floor:.2f}", partial(move, app, slider, floor), ANSWERING))
    return met


def visit(app: AppTest, page: str) -> None:
    """Open a page by the navigation."""
    app.switch_page(page).run()


def move(app: AppTest, slider: str, value: float) -> None:
    """Move a slider and let the page answer."""
    app.slider(key=slider).set_value(value).run()


def timed(name: str, action: Callable[[], object], target: float) -> bool:
    """Print what ``action`` takes; True if the processor's seconds are within ``target``."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:32} {cpu:6.2f} s CPU, {wall:6.2f} s wall   (target {target:.1f})", flush=True)
    return cpu <= target


if __name__ == "__main__":
    main()
