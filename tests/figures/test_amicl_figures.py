"""The associative memory's figures draw what their frames say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.studies.associative_memory.study import ask as study
from figures.trainings import associative_memory as figures


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return study("miniature")


def named(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name and trace.mode != "none")


def test_accuracy_by_a_has_the_curves_and_the_papers_points(frames: dict[str, pd.DataFrame]) -> None:
    curves = frames["amicl_curves"]
    figure: Any = figures.accuracy_by_a(curves)
    ours = curves[(curves.curve == "pearson by a") & (curves.source == "here")]
    assert list(named(figure, "Pearson correlation").y) == ours.accuracy.tolist()
    assert list(named(figure, "paper, printed").y) == pytest.approx([1.0, 1.0, 0.994, 0.907, 0.325])
    assert len(named(figure, "paper (dot)").x) == 13
    assert "100 sequences a point" in figure.layout.meta["caption"]
    assert sum(trace.fill == "toself" for trace in figure.data) == 2, "every curve has its interval"


def test_accuracy_by_size_has_two_panels(frames: dict[str, pd.DataFrame]) -> None:
    curves = frames["amicl_curves"]
    figure: Any = figures.accuracy_by_size(curves)
    lines = [trace for trace in figure.data if trace.name == "dot product"]
    for line, curve in zip(lines, ("length", "dimension"), strict=True):
        ours = curves[(curves.curve == curve) & (curves.source == "here")]
        assert (list(line.x), list(line.y)) == (ours.x.tolist(), ours.accuracy.tolist())
    assert (figure.layout.xaxis.type, figure.layout.xaxis2.type) == ("log", "log")


@pytest.mark.parametrize("which", ["authors", "corrected"])
def test_heat_maps_hold_the_cells(frames: dict[str, pd.DataFrame], which: str) -> None:
    cells = frames["amicl_heat_maps"]
    figure: Any = figures.heat_maps(cells, which)
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(heat) == 12
    here = (cells["map"] == which) & (cells.similarity == "pearson") & (cells.stage == "softmax")
    expected = cells[here].pivot(index="row", columns="column", values="value").to_numpy()
    np.testing.assert_array_equal(np.array(heat[5].customdata, dtype=float), expected)
    marked = [trace for trace in figure.data if trace.type == "scatter" and len(trace.x)]
    assert len(marked) == (12 if which == "corrected" else 0), "the answer is marked where it is retrieved"


def test_best_a_marks_it(frames: dict[str, pd.DataFrame]) -> None:
    tasks, best = frames["amicl_tasks"], frames["amicl_best_a"]
    figure: Any = figures.best_a(tasks)
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(marks) == len(best)
    assert sorted(float(mark.x[0]) for mark in marks) == pytest.approx(sorted(best.best_a))
    names = {trace.name for trace in figure.data if trace.showlegend}
    assert {"pairs", "several queries", "lag, reach 1", "lag, reach 3"} <= names
