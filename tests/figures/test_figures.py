"""Figures draw what their frames say, carry their runs, and are the same every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis import over_seeds
from experiments.questions.patch import Patch
from experiments.runs.pooling import all_metrics, labelled
from figures.files import rounded, write_figure
from figures.html_page import write_page
from figures.models.patching import patch_heat_map
from figures.theme import colours, faded
from figures.trainings.learning import learning_curves
from figures.trainings.progress import progress_measures
from tests.helpers import run_named


@pytest.fixture(scope="module")
def metrics(trained_runs: Path) -> pd.DataFrame:
    return over_seeds(all_metrics([run_named(trained_runs, v) for v in ("classic", "value")]))


def names(figure: Any) -> list[str]:
    return [trace.name for trace in figure.data if trace.name]


def test_learning_curves(metrics: pd.DataFrame) -> None:
    figure: Any = learning_curves(metrics)
    assert names(figure) == ["classic", "value"]
    value = next(trace for trace in figure.data if trace.name == "value")
    chosen = metrics[(metrics.variant == "value") & (metrics.split == "ic") & (metrics.measure == "accuracy")]
    assert list(value.y) == chosen.value.tolist()
    assert [a.text for a in figure.layout.annotations if a.text == "95%"] == ["95%"]
    assert set(figure.layout.meta["runs"]) == set(metrics.run)
    assert "One seed" in figure.layout.meta["caption"]


def test_bands_are_intervals_over_seeds(metrics: pd.DataFrame) -> None:
    second = metrics.assign(seed=1, value=metrics.value * 0.9, run=metrics.run + "-b")
    both = over_seeds(pd.concat([metrics, second]).drop(columns=["mean", "low", "high", "n"]))
    figure: Any = learning_curves(both)
    assert "Mean over 2 seeds; bands are 95 % t intervals over seeds." in figure.layout.meta["caption"]
    assert sum(trace.fill == "toself" for trace in figure.data) == 2
    chosen = both[(both.variant == "value") & (both.split == "ic") & (both.measure == "accuracy")]
    assert (chosen.n == 2).all()
    assert (chosen["low"] <= chosen["mean"]).all()


def test_progress_measures(metrics: pd.DataFrame) -> None:
    figure: Any = progress_measures(metrics)
    assert len(names(figure)) == 8
    titles = [a.text for a in figure.layout.annotations]
    assert all(any(name in title for title in titles) for name in ("(ILA)", "(TILA)", "(TLA)", "(CLA)"))


def test_patch_heat_maps_hold_the_effects(trained_runs: Path) -> None:
    runs = [run_named(trained_runs, v) for v in ("classic", "value")]
    frame = pd.concat([labelled(Patch(n=8).ask(run).to_frame(), run) for run in runs])
    figure: Any = patch_heat_map(frame)
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(heat) == 2
    value = frame[frame.variant == "value"]
    x, y = list(heat[1].x), list(heat[1].y)
    cell = heat[1].z[y.index("matching label")][x.index("L1 v mixed")]
    row = value[(value.layer == 1) & (value.route == "mixed") & (value.position == "matching label")]
    assert cell == pytest.approx(float(row.effect.iloc[0]))
    assert "L1 v residual" in x
    assert "L1 v residual" not in list(heat[0].x), "the classic model has no such site"
    assert "8 pairs" in figure.layout.meta["of"]


def test_colours_mean_the_same_variant_everywhere() -> None:
    a, b = colours(["classic", "value", "lime"]), colours(["value", "resformer-dense", "classic"])
    assert a["classic"] == b["classic"]
    assert a["value"] == b["value"]
    assert faded("#0072B2", 0.5) == "rgba(0,114,178,0.5)"


def test_written_figures_are_stable_and_open_offline(metrics: pd.DataFrame, tmp_path: Path) -> None:
    paths = [write_figure(learning_curves(metrics), tmp_path / folder / "figure", tmp_path) for folder in "ab"]
    assert paths[0][0].read_bytes() == paths[1][0].read_bytes()
    assert paths[0][1].read_bytes() == paths[1][1].read_bytes()
    html = paths[0][1].read_text()
    assert 'src="../plotly.min.js"' in html
    assert "https://cdn" not in html
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000
    assert json.loads(paths[0][0].read_text())["layout"]["meta"]["runs"]


def test_pages_are_self_contained_and_escape_their_text(tmp_path: Path) -> None:
    sections = [
        {"heading": "a <b>", "text": ["x & y"], "table": pd.DataFrame({"n": [1]}), "code": "1 < 2"},
        {"heading": "drawn", "figure": go.Figure(go.Scatter(y=[1, 2]))},
    ]
    text = write_page(tmp_path / "page.html", "T", "lead", sections, "end").read_text()
    assert "a &lt;b&gt;" in text
    assert "x &amp; y" in text
    assert "1 &lt; 2" in text
    assert "<script src=" not in text
    assert text.count("Plotly.newPlot(") >= 1


def test_the_last_bits_of_numbers_change_no_figure_and_digits_that_are_seen_do() -> None:
    x = np.array([0.1, 2 / 3, 12_345.678, np.nan, 0.0])
    named = np.array([["value", 1 / 3, None], ["classic", 2, 5e-9]], dtype=object)

    def figure(factor: float) -> str:
        many = np.where(x > 0, x * factor, x)
        marks = [["value", factor / 3, None], ["classic", 2, 5e-9]]
        trace = go.Scatter(x=many, y=list(many), customdata=np.array(marks, dtype=object), marker={"size": 7.5})
        layout = {"xaxis": {"range": [0.1 * factor, 1.0]}, "meta": {"n": 3, "at": (1 / 3 * factor,)}}
        return str(rounded(go.Figure(trace, layout)).to_json())

    assert figure(1.0) == figure(1 + 1e-15)
    assert go.Figure(go.Scatter(x=x)).to_json() != go.Figure(go.Scatter(x=x * (1 + 1e-15))).to_json()
    assert figure(1.0) != figure(1 + 1e-4)
    kept: Any = rounded(go.Figure(go.Scatter(x=[1, 75_000], y=["a", "b"], customdata=named))).data[0]
    assert list(kept.x) == [1, 75_000]
    assert kept.customdata[0][0] == "value"
    assert kept.customdata[1][1] == 2
    assert kept.customdata[0][2] is None
