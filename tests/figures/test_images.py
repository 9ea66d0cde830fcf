"""Images: the same bytes of the same data, printed sizes, and texts that fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest

from analysis import over_seeds
from circuits.common.palette import EARLIER_TO_LATER, GREY, ROUTES
from experiments.runs.pooling import all_metrics
from figures import images
from figures.images import write_images
from figures.theme import colours, laid_out, plain, themed
from figures.trainings.learning import learning_curves
from figures.trainings.progress import progress_measures
from tests.helpers import run_named


@pytest.fixture(scope="module")
def metrics(trained_runs: Path) -> pd.DataFrame:
    return over_seeds(all_metrics([run_named(trained_runs, name) for name in ("classic", "value")]))


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_images_are_drawn_where_there_is_a_browser(metrics: pd.DataFrame, tmp_path: Path) -> None:
    paths = write_images({"curves": learning_curves(metrics)}, tmp_path / "new")
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG", b"<svg"]


def test_without_a_browser_images_are_refused_at_once(
    metrics: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("choreographer.browsers.Chromium.find_browser", lambda **_: None)
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    with pytest.raises(RuntimeError, match="no browser was found; install one such as chromium"):
        write_images({"curves": learning_curves(metrics)}, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_the_same_data_make_the_same_svg_and_pdf_and_other_data_others(metrics: pd.DataFrame, tmp_path: Path) -> None:
    heat = themed(go.Figure(go.Heatmap(z=[[0.1, 0.2], [0.3, 0.4]])), "A map & more", "One model.")
    drawn = {"curves": learning_curves(metrics), "progress": progress_measures(metrics), "map": heat}
    first, second = (write_images(drawn, tmp_path / name, ("svg", "pdf")) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert 'aria-label="A map &amp; more"' in (tmp_path / "first" / "map.svg").read_text()
    drawn["map"].data[0].z = [[0.1, 0.2], [0.3, 0.5]]
    [other] = write_images({"map": drawn["map"]}, tmp_path / "other", ("svg",))
    assert other.read_bytes() != (tmp_path / "first" / "map.svg").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
@pytest.mark.parametrize(("size", "millimetres"), [("page", 183), ("column", 89)])
def test_printed_images_have_the_width_of_a_page_or_a_column(
    size: images.Size, millimetres: int, metrics: pd.DataFrame, tmp_path: Path
) -> None:
    own = learning_curves(metrics).update_layout(width=700)
    for path in write_images({"curves": learning_curves(metrics), "own": own}, tmp_path, ("png", "svg", "pdf"), size):
        data = path.read_bytes()
        match path.suffix:
            case ".png":
                inches = int.from_bytes(data[16:20], "big") / images.DOTS
            case ".svg":
                inches = float(re.search(rb'width="([\d.]+)"', data)[1]) / 96  # type: ignore[index] # every SVG has one
            case _:
                inches = float(re.search(rb"/MediaBox \[0 0 ([\d.]+)", data)[1]) / 72  # type: ignore[index] # every PDF
        assert inches * 25.4 == pytest.approx(millimetres, abs=0.3)


def test_texts_fit_into_the_width_that_a_figure_is_laid_out_for(metrics: pd.DataFrame) -> None:
    long = " ".join(["finding"] * 20)
    figure: Any = themed(go.Figure(go.Scatter(y=[1, 2])), long, long, of=long)
    wide, narrow = (laid_out(go.Figure(figure), width) for width in (1600, 400))
    plots = []
    for shown, width in ((wide, 1600), (narrow, 400)):
        texts = [shown.layout.title.text, next(a.text for a in shown.layout.annotations if a.name == "caption")]
        lines = [plain(line) for text in texts for line in text.split("<br>")]
        assert max(map(len, lines)) * 5 < width
        assert " ".join(lines).count("finding") == 60, "nothing is lost"
        plots.append(shown.layout.height - shown.layout.margin.t - shown.layout.margin.b)
    assert plots[0] == plots[1], "the plot keeps its height"
    assert narrow.layout.height > wide.layout.height
    assert figure.layout.meta["alt"] == f"{long}. {long}"


def test_colours_mean_one_thing() -> None:
    known = colours(["classic", "value", "value-stop", "value-gradient-only", "key", "query", "cumulative", "svformer"])
    assert len(set(known.values())) == len(known)
    assert known["value"] == ROUTES["stream"]
    assert known["classic"] == ROUTES["residual"]
    assert not {*known.values()} & {*EARLIER_TO_LATER, ROUTES["own"], GREY}
    assert colours(["mine", "value"])["value"] == known["value"]
    assert colours(["mine", "yours"])["mine"] not in known.values()
