"""Pages in a real browser, for the tests marked slow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from figures.explore import write_switchboard
from tests.figures.switchboard_documents import Json


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium: the one of BROWSER_PATH or of the system, or Playwright's own."""
    driver = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("BROWSER_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")
    with driver.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except driver.Error as error:
            pytest.skip(f"no browser: {error}")
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a document's page from the disk; whatever the browser complains of fails the test."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(data: Json | str | Path, width: int = 1400, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if isinstance(data, str):
            page.set_content(data)
            return page
        path = data if isinstance(data, Path) else write_switchboard(tmp_path / "page.html", data)
        page.on("request", lambda r: r.url.startswith(path.as_uri()) or complaints.append(r.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
