"""A real browser for tests, and what is wanted of every page in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pixelfit.types import Json


@contextmanager
def chrome(chromium: str) -> Iterator[Json]:
    from playwright.sync_api import sync_playwright

    switches = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=switches)
        yield browser
        browser.close()


def opened(browser: Json, address: str, width: int, *, script: str = "") -> tuple[Json, list[str], list[str]]:
    """A page at the address, what it complains of, and what it asks of other places; the script runs before all others."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.add_init_script(script)
    complaints: list[str] = []
    strange: list[str] = []
    page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith((address, "data:")) else strange.append(request.url))
    page.goto(address)
    return page, complaints, strange


def until(page: Json, expression: str, *, seconds: float = 20) -> None:
    """Wait until the expression holds; the page's policy does not let Playwright's own waiting evaluate one inside the page."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(50)
