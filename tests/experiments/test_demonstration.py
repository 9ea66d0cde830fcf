"""The demonstration: its verdict and its sentences say what the frames say, and its page opens anywhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.commands import study
from experiments.runs.run import Run
from experiments.studies.demonstration import asking
from experiments.studies.demonstration.asking import Findings, Size, find
from experiments.studies.demonstration.told import printable, sentences, verdict
from tests.experiments.test_training import TINY
from tests.figures.conftest import browser, opened  # noqa: F401 # fixtures
from tests.helpers import run_named


def ratios(**ends: tuple[float, float]) -> pd.DataFrame:
    """A table of steps to the threshold in which the ratio to classic has the ends given."""
    rows = [
        {"variant": name.replace("_", "-"), "ratio": (low + high) / 2, "ratio_low": low, "ratio_high": high, "pairs": 3}
        for name, (low, high) in ends.items()
    ]
    return pd.DataFrame([{"variant": "classic", "ratio": np.nan, "pairs": 3}, *rows])


@pytest.mark.parametrize(
    ("value", "stop", "alone", "said"),
    [
        ((0.5, 0.6), (0.5, 0.7), (0.9, 1.1), "It is the information: "),
        ((0.5, 0.6), (0.5, 0.7), (0.92, 0.98), "It is mostly the information: "),
        ((0.5, 0.6), (0.5, 0.7), (0.6, 0.8), "Either is enough: "),
        ((0.5, 0.6), (0.9, 1.1), (0.6, 0.8), "It is the gradient: "),
        ((0.5, 0.6), (0.9, 1.1), (0.9, 1.1), "It is neither alone, as far as these seeds show: "),
        ((0.5, 1.1), (0.5, 0.7), (0.9, 1.1), "Over 3 seeds it is not shown that the stream helps: "),
        ((0.5, 0.6), (0.5, np.nan), (0.9, 1.1), "Too few runs reached 95% to say"),
    ],
)
def test_the_verdict_is_what_the_intervals_tell(
    value: tuple[float, float], stop: tuple[float, float], alone: tuple[float, float], said: str
) -> None:
    found = verdict(ratios(value=value, value_stop=stop, value_gradient_only=alone))
    assert found.startswith(said)
    if "Too few" not in said:
        assert f"[{value[0]:.2f}, {value[1]:.2f}]" in found
        assert f"[{alone[0]:.2f}, {alone[1]:.2f}]" in found


@pytest.mark.slow
def test_the_demonstration_from_training_to_page(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    opened: Callable[..., Any],  # noqa: F811 # a fixture
) -> None:
    monkeypatch.setitem(asking.SIZES, "tiny", Size(seeds=2, training=TINY, pairs=4, sequences=16))
    study.demo("tiny", tmp_path / "out", root=tmp_path / "runs")
    page = tmp_path / "out" / "index.html"
    said = capsys.readouterr().out
    for variant in ("classic", "value", "value-stop", "value-gradient-only"):
        assert variant in said
    assert "Too few runs reached 95% to compare classic (0 of 2) with value (0 of 2)." in said
    text = page.read_text()
    figures = [
        "learning_curves",
        "progress_measures",
        "head_scores",
        "patching",
        "edges",
        "ablation",
        "gradient_shares",
    ]
    for name in figures:
        assert (page.parent / f"{name}.json").is_file()
        assert (page.parent / f"{name}.html").is_file()
    assert text.count("Plotly.newPlot(") >= len(figures)
    assert "HookedStreamTransformer &#x27;value-gradient-only&#x27;" in text
    assert "Too few runs reached 95% to say what the stream does." in text
    assert len(text) < 8_000_000
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", text.split("<body>")[1]), "it needs no network"
    for width in (1400, 390):
        shown = opened(page, width)
        assert shown.evaluate("document.documentElement.scrollWidth") == width, "nothing is wider than the window"
        shown.locator('[data-node="L1H0"]').first.click()
        assert shown.locator(".js-plotly-plot").count() == len(figures) + 1
    shown.pdf(path=tmp_path / "page.pdf")
    assert shown.locator("figure .plotly-graph-div").first.evaluate("plot => plot.layout.width") is None


def test_sentences_take_their_numbers_from_the_frames(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is asked is kept in a run's directory, where other tests would find it.
    theirs = [run_named(trained_runs, v).path for v in ("classic", "value")]
    trained = [Run.open(Path(shutil.copytree(path, tmp_path / path.name))) for path in theirs]
    by_name = {run.config.variant: run for run in trained}
    monkeypatch.setattr(asking, "sweep", lambda configs, root, progress: [by_name[v] for v in ("classic", "value")])
    monkeypatch.setattr(asking, "VARIANTS", ("classic", "value"))
    found = find(Size(1, TINY, pairs=16, sequences=64), tmp_path, progress=False)
    table = found.table.set_index("variant")
    said = " ".join(chain.from_iterable(_safe(found).values()))
    assert (
        f"comes after {table.loc['value', 'steps']:.0f} steps, without it after {table.loc['classic', 'steps']:.0f}"
        in said
    )
    patches = found.patches.set_index(["variant", "layer", "component", "route", "position"]).effect
    together = float(patches["value", 1, "state", "-", "matching label"])  # type: ignore[arg-type] # a number
    assert f"both together {together:.0%}" in said
    assert np.isfinite(together)
    assert printable(found.table).columns.tolist() == ["variant", "steps to 95%", "ratio to classic, paired", "seeds"]


def _safe(found: Findings) -> dict[str, list[str]]:
    """The sentences that need no variant which these runs lack."""
    missing = pd.DataFrame([{"variant": v, "ratio": np.nan} for v in ("value-stop", "value-gradient-only")])
    return sentences(replace(found, table=pd.concat([found.table, missing])))
