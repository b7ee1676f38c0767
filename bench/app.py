"""The app as a user meets it: server start to a usable first page, a click on the map to tokens.

A real server and a real Chromium on this machine; the browser runs before the clock starts. A page
counts as usable when its map is drawn and its script has finished. Seconds are printed with the
hardware beside their targets; the named reference is Streamlit's own empty page, served and loaded
the same way in the same run.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, Page

from bench import hardware
from tests.support.server import CELL_SCRIPT, chromium, find_chromium, serve

READY = '[data-testid="stApp"][data-test-script-state="notRunning"]'
TARGETS = {"first_page_seconds": 3.0, "click_seconds": 0.7}
EMPTY = "import streamlit as st\nst.title('empty')\n"


def first_page(browser: Browser, script: Path | None = None) -> float:
    """Seconds from starting the server to a usable first page (of `script`, else of the app)."""
    with TemporaryDirectory() as home:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        page = context.new_page()
        start = time.perf_counter()
        with serve(Path(home), script=script) as address:
            page.goto(address)
            page.wait_for_selector("h1")
            if script is None:
                page.wait_for_selector(".js-plotly-plot .scatterlayer path.point")
            page.wait_for_selector(READY)
            taken = time.perf_counter() - start
        context.close()
    return taken


def click_to_tokens(page: Page, cells: list[tuple[int, int]]) -> list[float]:
    """Seconds from a click on each (layer, expert) to the heading and tokens of that cell."""
    taken = []
    for layer, expert in cells:
        x, y = page.evaluate(CELL_SCRIPT, [expert, layer])
        start = time.perf_counter()
        page.mouse.click(x, y)
        page.wait_for_selector(f"text=The words behind layer {layer}, expert {expert}")
        page.wait_for_selector(READY)
        taken.append(time.perf_counter() - start)
    return taken


def measure(repetitions: int) -> dict[str, object]:
    """Run both measurements; medians and ranges in seconds."""
    with chromium() as browser, TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY, encoding="utf-8")
        first_page(browser)  # compiled files and disk cache, as on every start but the very first
        pages, empties = [], []
        for _ in range(repetitions):
            pages.append(first_page(browser))
            empties.append(first_page(browser, empty))
        with serve(Path(folder)) as address:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(address)
            page.wait_for_selector(".js-plotly-plot .scatterlayer path.point")
            page.wait_for_selector(READY)
            cells = [(n % 4, (7 * n + 3) % 32) for n in range(2 * repetitions + 1)]
            clicks = click_to_tokens(page, cells)[1:]
    return {
        "hardware": hardware(),
        "first_page_seconds": _spread(pages),
        "empty_page_seconds": _spread(empties),
        "first_page_ratio": statistics.median(pages) / statistics.median(empties),
        "click_seconds": _spread(clicks),
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    return {
        "median": statistics.median(seconds),
        "low": min(seconds),
        "high": max(seconds),
        "n": len(seconds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if find_chromium() is None:
        print("No Chromium on the path, so the app was not measured (apt-get install chromium).")
        return 1
    figures = measure(arguments.repetitions)
    if arguments.json:
        print(json.dumps(figures, indent=1))
        return 0
    print(figures["hardware"])
    for name, value in figures.items():
        if isinstance(value, dict):
            target = f"  (target {TARGETS[name]} s)" if name in TARGETS else ""
            print(
                f"{name}: median {value['median']:.2f} s, {value['low']:.2f} to "
                f"{value['high']:.2f}, n {value['n']}{target}"
            )
    print(f"first page over Streamlit's empty page: {figures['first_page_ratio']:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
