"""A headless Chromium for the tests of pages; tests are skipped where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Open a browser for the tests of a file; skip them without Playwright or Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'pvae[test]'")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def open_offline(browser: Any, width: int = 1280) -> Any:
    """Return a page without a network, with everything that it requests or complains of in ``page.said``."""
    opened = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
    opened.said = []
    opened.on("console", lambda message: opened.said.append(message.text))
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda request: opened.said.append(request.url[:80]))
    return opened


def violations(page: Any, *levels: str) -> list[str]:
    """Return the rules of accessibility that axe-core finds violated in a page, of some impacts or of all."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    rules = ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]
    found = axe.Axe().run(page, options={"runOnly": rules}).response["violations"]
    return [violation["id"] for violation in found if not levels or violation["impact"] in levels]
