"""Runs explored in a real browser, a page and notebook 2 in JupyterLab: what is seen is what questions say."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from analysis import ablate_edges, patch
from circuits import Site
from experiments import explore
from experiments.commands.notebooks import SHIPPED, set_parameters
from experiments.runs.run import Run
from tests.figures.conftest import browser, opened  # noqa: F401 # fixtures
from tests.figures.switchboard_pages import click_edge, value
from tests.helpers import run_named

pytestmark = pytest.mark.slow

STREAM, OWN = "L0H0.v > L1H0.v (stream)", "input > L1H0.v (residual)"
N = 32
"""Pairs that the notebook's switchboard is asked."""


def cut(run: Run, step: int, edges: list[str]) -> tuple[float, float]:
    """What ablation says of edges cut at once: the metric, and the share of the difference that is lost."""
    model, pair = run.load_model(step), run.task().pairs(N)
    row = ablate_edges(model, pair, [edges], "other run", metric="logit_difference").to_frame().iloc[0]
    return float(row.metric_whole), float(row.metric_ablated)


def share(run: Run, step: int, head: tuple[int, int]) -> float:
    """What patching says of a head's own values."""
    pair = run.task().pairs(N)
    found = patch(run.load_model(step), pair, [Site(head[0], "v", head=head[1])], direction="noise")
    return float(found.to_frame().effect.iloc[0])


def test_the_page_of_a_run_says_what_patch_and_ablate_say(
    trained_runs: Path,
    tmp_path: Path,
    opened: Callable[..., Any],  # noqa: F811 # a fixture
) -> None:
    theirs = run_named(trained_runs, "value").path
    run = Run.open(Path(shutil.copytree(theirs, tmp_path / theirs.name)))
    steps = run.checkpoints()
    page = opened(explore(run, n=N, progress=False).document)
    page.locator('[data-node="L1H0"]').first.click()
    own = float(page.locator('[data-share="L1H0.v:own"]').get_attribute("data-value"))
    assert own == pytest.approx(share(run, steps[-1], (1, 0)), abs=1e-6)
    page.locator('[data-control="hide"]').fill("0")
    for step in (steps[-1], steps[-2]):
        click_edge(page, STREAM)
        whole, ablated = cut(run, step, [STREAM])
        assert value(page, "whole") == pytest.approx(whole, abs=1e-6)
        assert value(page, "metric") == pytest.approx(ablated, abs=1e-6)
        assert value(page, "step") == step
        page.locator('[data-change="clear-all"]').click()
        page.locator('[data-control="step"]').press("ArrowLeft")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """JupyterLab in a folder with notebook 2, at a small size; returns the server's address."""
    notebook = nbformat.read(SHIPPED / "2_which_route.ipynb", 4)
    set_parameters(notebook, {"steps": 700, "seeds": [0, 1], "n_pairs": 16})
    nbformat.write(notebook, tmp_path / "2_which_route.ipynb")
    # Every cell is in the page then, wherever it has been scrolled to.
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--LabApp.news_url=None"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    environment |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    server = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}api", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(20)


def test_notebook_2_in_jupyterlab_is_live(lab: str, tmp_path: Path, browser: Any) -> None:  # noqa: F811 # a fixture
    pytest.importorskip("jupyterlab")
    page = browser.new_page(viewport={"width": 1500, "height": 1000})
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "switchboard" in said.text.lower() else None)
    page.goto(f"{lab}lab/tree/2_which_route.ipynb")
    page.locator(".jp-NotebookPanel").wait_for(timeout=60_000)
    # Cells that are run before their kernel has started are not run at all.
    for _ in range(240):
        with urllib.request.urlopen(f"{lab}api/kernels", timeout=10) as answer:
            if any(kernel["execution_state"] == "idle" for kernel in json.load(answer)):
                break
        page.wait_for_timeout(250)
    page.locator("[data-status=idle]").first.wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    board = page.locator(".switchboard").last
    failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    board.or_(failed).first.wait_for(state="attached", timeout=400_000)
    assert failed.all_inner_texts() == []
    board.scroll_into_view_if_needed()
    assert "Live" in board.inner_text()
    [path] = sorted((tmp_path / "runs").glob("icl-value-small-s0*"))
    run = Run.open(path)
    steps = run.checkpoints()
    page.locator('[data-node="L1H0"]').first.click()
    own = float(page.locator('[data-share="L1H0.v:own"]').get_attribute("data-value"))
    assert own == pytest.approx(share(run, steps[-1], (1, 0)), abs=1e-6)
    page.locator('[data-control="hide"]').fill("0")
    for step in (steps[-1], steps[-2]):
        for changed in ([STREAM], [STREAM, OWN]):
            started = time.monotonic()
            click_edge(page, changed[-1])
            whole, ablated = cut(run, step, changed)
            page.wait_for_function(
                "([seen, wanted]) => Math.abs(document.querySelector(seen).dataset.value - wanted) < 1e-6",
                arg=['[data-readout="metric"]', ablated],
                timeout=15_000,
            )
            assert value(page, "whole") == pytest.approx(whole, abs=1e-6)
            print(f"{changed} at step {step}: {time.monotonic() - started:.2f} s")
        page.locator('[data-change="clear-all"]').click()
        page.locator('[data-control="step"]').press("ArrowLeft")
    assert complaints == []
