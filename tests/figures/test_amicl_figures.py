"""The associative memory's figures draw what their frames say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from circuits.common.palette import SIMILARITIES
from experiments.studies.associative_memory.study import ask as study
from figures.trainings import associative_memory as figures
from figures.trainings.associative_memory_maps import heat_maps
from figures.trainings.associative_memory_tasks import best_a


@pytest.fixture(scope="module")
def frames() -> dict[str, pd.DataFrame]:
    return study("miniature")


def title(figure: Any) -> str:
    return figure.layout.meta["title"]


def named(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name and trace.mode != "none")


def test_accuracy_by_a_has_the_curves_and_the_papers_points(frames: dict[str, pd.DataFrame]) -> None:
    curves = frames["amicl_curves"]
    figure: Any = figures.accuracy_by_a(curves)
    ours = curves[(curves.curve == "pearson by a") & (curves.source == "here")]
    assert list(named(figure, "Pearson correlation").y) == ours.accuracy.tolist()
    printed = named(figure, "printed by the paper (dot)")
    assert list(printed.y) == pytest.approx([1.0, 1.0, 0.994, 0.907, 0.325])
    assert len(named(figure, "the paper's plot (dot)").x) == 13
    assert figure.layout.meta["of"] == "100 sequences a point"
    last = [f"{ours.accuracy.iloc[-1]:.2f} by Pearson correlation"]
    assert f"With a = 2 the label is found at 1.00 by dot product and {last[0]}" in title(figure)
    half = figures.accuracy_by_a(curves.assign(accuracy=curves.accuracy / 2))
    assert "the label is found at 0.50 by dot product" in title(half)
    assert sum(trace.fill == "toself" for trace in figure.data) == 2, "every curve has its interval"


def test_accuracy_by_size_has_two_panels(frames: dict[str, pd.DataFrame]) -> None:
    curves = frames["amicl_curves"]
    figure: Any = figures.accuracy_by_size(curves)
    lines = [trace for trace in figure.data if trace.name == "dot product"]
    for line, curve in zip(lines, ("length", "dimension"), strict=True):
        ours = curves[(curves.curve == curve) & (curves.source == "here")]
        assert (list(line.x), list(line.y)) == (ours.x.tolist(), ours.accuracy.tolist())
    assert (figure.layout.xaxis.type, figure.layout.xaxis2.type) == ("log", "log")
    assert title(figure).startswith("No difference shown with length (")
    assert "; accuracy is 0." in title(figure), "of dimension there is one"
    shorter = curves.x.eq(10) & curves.curve.eq("length")
    worse = curves.assign(**{c: curves[c].mask(shorter, 0.5) for c in ("accuracy", "low", "high")})
    assert title(figures.accuracy_by_size(worse)).startswith("Accuracy is 0.50 at length 10, 1.00 at 20; ")


@pytest.mark.parametrize("which", ["authors", "corrected"])
def test_heat_maps_hold_the_cells(frames: dict[str, pd.DataFrame], which: str) -> None:
    cells = frames["amicl_heat_maps"]
    figure: Any = heat_maps(cells, which)
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(heat) == 12
    here = (cells["map"] == which) & (cells.similarity == "pearson") & (cells.stage == "softmax")
    expected = cells[here].pivot(index="row", columns="column", values="value").to_numpy()
    np.testing.assert_array_equal(np.array(heat[5].customdata, dtype=float), expected)
    marked = [trace for trace in figure.data if trace.type == "scatter" and len(trace.x)]
    assert len(marked) == (12 if which == "corrected" else 0), "the answer is marked where it is retrieved"
    if which == "corrected":
        assert title(figure) == "The blank attends most to the label that is asked for by 4 of 4 similarities"
        missed = cells.answer & (cells.similarity == "dot") & (cells.stage == "argmax")
        other = heat_maps(cells.assign(value=cells.value.mask(missed, 0.0)))
        assert title(other).endswith("by 3 of 4 similarities, not by dot product")
    else:
        assert "is empty, so that what the blank retrieves is not shown" in title(figure)
        there = heat_maps(cells.assign(value=cells.value.mask(cells.column == cells.column.max(), 0.3)), which)
        assert title(there).endswith("holds what the blank retrieves")


def test_best_a_marks_it(frames: dict[str, pd.DataFrame]) -> None:
    tasks, best = frames["amicl_tasks"], frames["amicl_best_a"]
    figure: Any = best_a(tasks)
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(marks) == len(best)
    assert sorted(float(mark.x[0]) for mark in marks) == pytest.approx(sorted(best.best_a))
    names = {trace.name for trace in figure.data if trace.showlegend}
    assert names == {"dot product", "Pearson correlation", "Euclidean distance"}
    panels = [note.text for note in figure.layout.annotations][:-1]
    assert {"pairs", "several<br>queries", "lag,<br>reach 1", "lag,<br>reach 3"} <= set(panels)
    assert {mark.marker.color for mark in marks} <= set(SIMILARITIES.values())
    good = tasks[tasks.not_worse].groupby("a").size()
    assert f"in {good.max()} of 42 cases" in title(figure)
    one = tasks.assign(not_worse=tasks.a == tasks.a.min())
    assert title(best_a(one)).startswith("a = 0.25 is not shown to be worse than the best in 42 of 42 cases")
