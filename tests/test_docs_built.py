"""The documentation as it is built: no warning, no broken link, nothing from elsewhere; and seen in a browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from experiments import sweep
from tests.figures.conftest import browser as browser
from tests.test_docs import DOCS, MEASURED, ROOT, agree

pytestmark = pytest.mark.slow

LOADED = (("img", "src"), ("script", "src"), ("link", "href"))
SEEN = (
    *("index", "traps", "coming_from_transformer_lens", "reference/analysis/patching", "reference/circuits/the-model"),
    *("figures/heads_and_routes", "experiments/README", "experiments/notebooks/2_which_route"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, as ``make docs`` makes them."""
    for package in ("sphinx", "furo", "myst_nb"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("docs")
    options = ["--quiet", "--fail-on-warning", "--keep-going", "-b", "html", "-c", str(DOCS)]
    for command in (
        [str(DOCS / "sources.py"), str(folder / "sources")],
        ["-m", "sphinx", *options, str(folder / "sources"), str(folder / "html")],
    ):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        ran = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Any]:
    """Every page, read."""
    soup = pytest.importorskip("bs4").BeautifulSoup
    return {path: soup(path.read_text(), "html.parser") for path in site.rglob("*.html")}


def test_no_link_leads_nowhere_and_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Any]) -> None:
    anchors = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    broken, elsewhere, followed = [], [], 0
    for path, page in pages.items():
        elsewhere += [tag[key] for name, key in LOADED for tag in page.find_all(name) if _foreign(tag.get(key, ""))]
        for target in (tag.get("href", "") for tag in page.find_all("a")):
            if re.match(r"\w+:", target):
                continue
            name, _, anchor = unquote(target).partition("#")
            there = Path(os.path.normpath(path.parent / name.partition("?")[0])) if name else path
            known = anchors.get(there, set())
            followed += 1
            if not there.exists() or (anchor and anchor not in known):
                broken.append(f"{path.relative_to(site)}: {target}")
    assert followed > 5_000
    assert broken == []
    assert elsewhere == []
    sheets = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?https?:[^)]*|@import[^;]*", sheets)


def _foreign(target: str) -> bool:
    return bool(re.match(r"(\w+:)?//", target))


def test_what_the_pages_name_is_in_the_reference(pages: dict[Path, Any], site: Path) -> None:
    for name in ("traps", "coming_from_transformer_lens", "adding"):
        named = pages[site / f"{name}.html"].select("code.xref")
        assert named
        assert [code.text for code in named if not code.find_parent("a")] == []
    shapes = pages[site / "reference" / "analysis" / "patching.html"].find(id="analysis.patch").text
    assert "Float[Tensor, 'batch pos d_vocab_out']" in shapes
    assert (site / "_modules" / "analysis" / "patching" / "patch.html").is_file()
    fields = pages[site / "reference" / "analysis" / "patching.html"].find(id="analysis.PatchResult.beside")
    assert "What stands beside every effect: the metric" in " ".join(fields.parent.text.split())


@pytest.fixture(params=[1400, 390])
def window(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A window of a desk and one of a telephone; whatever the browser complains of, or asks for, fails the test."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": request.param, "height": 844})
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or complaints.append(asked.url))
    yield page
    context.close()
    assert complaints == []


def test_pages_fit_the_window_and_can_be_searched_without_a_network(site: Path, window: Any) -> None:
    for name in SEEN:
        window.goto((site / f"{name}.html").as_uri())
        wide = window.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide == 0, f"{name} is wider than the window"
        assert window.locator("article h1").first.is_visible()
    window.goto((site / "search.html").as_uri() + "?q=resid_pre")
    window.locator("#search-results li").first.wait_for()
    assert "Traps" in window.locator("#search-results").inner_text()


def test_numbers_of_the_language_models_are_what_the_pages_say(tmp_path: Path) -> None:
    from measured_language_models import language_models, of_language_models

    classic, value = sweep(language_models(), tmp_path, workers=1, progress=False)
    found = of_language_models(classic, value)
    assert agree(found, near=0.1, share=0.1)
    assert {name for name in MEASURED if name.startswith("value_")} - {*found} == {"value_in_own", "value_in_classic"}
