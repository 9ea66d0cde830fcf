"""Every figure of the study is drawn from the committed results, by the drawings alone, and says what it is of."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import over_seeds
from circuits.common.errors import UnknownNameError
from circuits.common.palette import EARLIER_TO_LATER
from experiments.commands import study
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.registry import PICTURES, STUDIES
from figures.theme import colours
from figures.trainings.ratios import time_ratios
from figures.trainings.times import all_curves
from figures.trainings.windows import WHENS, windows
from figures.words import MOST

HELD = Bundle.open(COMMITTED)
RENDERED = COMMITTED.parent / "rendered"
IN_CONTEXT = (
    *(
        "carriers",
        "gradient",
        "information",
        "sources",
        "interference",
        "gains_in_training",
        "gate_windows",
        "controls",
        "connections",
        "training_data",
        "optimisers",
    ),
    *("thresholds", "heads_and_routes"),
)
SAID = [picture.name for study in IN_CONTEXT for picture in STUDIES[study].pictures if picture.drawable(HELD)]
"""Figures of in-context classification."""


@cache
def drawn(name: str) -> Any:
    return PICTURES[name].draw(HELD)


def test_what_is_not_drawn_was_declared_and_is_not_trained_yet() -> None:
    for name, picture in PICTURES.items():
        waits = any(e.declared and not e.trained(HELD) for e in picture.experiments)
        assert picture.drawable(HELD) != waits, name


@pytest.mark.parametrize("name", [name for name, picture in PICTURES.items() if picture.drawable(HELD)])
def test_every_figure_is_drawn_from_the_committed_results(name: str) -> None:
    picture = PICTURES[name]
    figure = drawn(name)
    assert len(figure.data) > 0
    assert figure.layout.meta["caption"]
    if picture.experiments:
        assert figure.layout.meta["runs"], "it names its runs"
    assert (RENDERED / f"{name}.json").read_text() == figure.to_json(), "what is committed is what the results give"
    assert (RENDERED / f"{name}.png").stat().st_size > 5_000


@pytest.mark.parametrize("name", SAID)
def test_every_figure_says_what_was_found_of_whom(name: str) -> None:
    figure = drawn(name)
    meta = figure.layout.meta
    asked = {study.question for study in STUDIES.values()} | {e.asks for s in STUDIES.values() for e in s.experiments}
    assert meta["title"] not in asked
    assert not meta["title"].endswith("?")
    assert any(character.isdigit() for character in meta["title"]), "a finding has numbers"
    assert len(meta["title"]) <= MOST
    assert "in-context classification" in meta["of"]
    assert any(word in meta["of"] for word in ("seed", "run", "pair"))
    assert meta["alt"].startswith(meta["title"])
    assert "<br>" not in meta["caption"]


@pytest.mark.parametrize("name", SAID)
def test_every_trace_says_something_under_the_pointer(name: str) -> None:
    for trace in drawn(name).data:
        band_or_legend = trace.hoverinfo == "skip"
        assert band_or_legend or trace.hovertemplate or trace.hovertext, trace.name


@pytest.mark.parametrize("name", [name for name in SAID if name.endswith(("curves", "progress", "all"))])
def test_bands_lie_in_the_possible_range(name: str) -> None:
    figure = drawn(name)
    losses = (
        {axis.plotly_name.replace("yaxis", "y") for axis in figure.select_yaxes(row=2)} if name.endswith("all") else ()
    )
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert bands
    for trace in bands:
        y = np.asarray(trace.y, dtype=float)
        assert y.min() >= 0
        assert y.max() <= 1 or trace.yaxis in losses


def test_every_curve_of_the_main_figure_reaches_the_line_that_it_is_about() -> None:
    lines = [trace for trace in drawn("gradient_paper_curves").data if trace.line.width == 2.2]
    assert len(lines) == 4
    assert all(np.max(trace.y) >= 0.95 for trace in lines)
    assert sum("seed" in trace.name for trace in drawn("gradient_paper_curves").data if trace.name) == 20


def test_the_command_draws_without_knowing_any_model(tmp_path: Path) -> None:
    program = (
        "import sys; from experiments.cli import main; "
        f"code = main(['figures', '--only', 'gradient_curves', '--images', 'no', '--out', {str(tmp_path)!r}]); "
        # Of the pages, the one block that reads configurations.
        "from experiments.studies.committed_results import Bundle; from experiments.studies.pages import BLOCKS; "
        "BLOCKS['presets'].text(Bundle.open()); "
        "print(code, [m for m in ('transformer_lens', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []", done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {
        "gradient_curves.json",
        "gradient_curves.html",
        "plotly.min.js",
    }
    assert "plotly.min.js" in (tmp_path / "gradient_curves.html").read_text()[:2_000]


def test_unknown_figures_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'controls'"):
        study.figures(("control",), tmp_path, "no", root=tmp_path)
    assert not list(tmp_path.iterdir())


def metrics_of(variants: dict[str, list[int]], splits: tuple[str, ...] = ("test", "ic", "ic2", "iw")) -> pd.DataFrame:
    """Metrics of seeds that end at the steps given."""
    rows = [
        {"variant": v, "seed": seed, "run": f"{v}-{seed}", "step": step, "split": split, "measure": m, "value": x}
        for v, ends in variants.items()
        for seed, end in enumerate(ends)
        for step in range(0, end + 1, 100)
        for split in splits
        for m, x in (("accuracy", step / 2_000), ("loss", 3.0 - step / 1_000))
    ]
    return over_seeds(pd.DataFrame(rows))


def test_all_curves_has_a_panel_a_set_and_measure() -> None:
    figure: Any = all_curves(metrics_of({"classic": [900, 900], "value": [900, 900]}))
    assert len({trace.xaxis for trace in figure.data}) == 8
    assert "intervals overlap" in figure.layout.meta["title"]
    assert {trace.name for trace in figure.data if trace.name} >= {"classic", "value"}


def ratios(**more: Any) -> pd.DataFrame:
    row = {"condition": "a", "variant": "value", "reference": "classic", "ratio": 0.5, "low": 0.4, "high": 0.6}
    row |= {"p_adjusted": 0.01, "p_equivalent": 1.0, "margin": 1.05, "pairs": 5}
    return pd.DataFrame([row, row | more])


def test_ratios_tell_what_can_be_told_from_one() -> None:
    figure: Any = time_ratios(ratios(variant="key", ratio=1.1, low=0.9, high=1.3, p_adjusted=0.4))
    value, key = (dots(figure, name) for name in ("value", "key"))
    assert (value.marker.symbol, key.marker.symbol) == (("circle",), ("circle-open",)), "a verdict is a symbol"
    assert [value.marker.color, key.marker.color] == list(colours(["value", "key"]).values()), "a colour is a variant"
    assert value.error_x.array[0] == pytest.approx(0.1)
    alike = ratios(variant="key", reference="value", p_adjusted=0.4, p_equivalent=0.01)
    figure = time_ratios(alike)
    assert dots(figure, "key").marker.symbol == ("diamond",)
    assert {trace.name for trace in figure.data if trace.x[0] is None} == {
        "told apart (p < 0.05, adjusted)",
        "the same within 5%",
    }
    assert [axis.title.text for axis in figure.select_xaxes()] == ["times classic's steps", "times value's steps"]


def dots(figure: Any, name: str) -> Any:
    return next(trace for trace in figure.data if trace.name == name and trace.x[0] is not None)


def test_a_row_without_a_ratio_says_why() -> None:
    figure: Any = time_ratios(ratios(variant="key", ratio=float("nan")))
    [words] = [trace for trace in figure.data if trace.mode == "text"]
    assert (list(words.y), words.text[0].strip()) == (["key"], "too few got there")
    figure = time_ratios(ratios(variant="key", ratio=float("nan"), same_as="value"))
    assert next(t.text[0].strip() for t in figure.data if t.mode == "text") == "the same runs as value"


def test_an_interval_that_leaves_the_frame_has_an_arrow() -> None:
    def arrows(low: float) -> list[Any]:
        figure: Any = time_ratios(ratios(variant="key", ratio=0.9, low=low, p_adjusted=0.4))
        assert ("Arrows" in figure.layout.meta["caption"]) == (low < 0.15)
        return [trace for trace in figure.data if trace.marker.symbol == "triangle-left"]

    [arrow] = arrows(0.01)
    assert list(arrow.y) == ["key"]
    assert not arrows(0.3)


def test_windows_say_when_a_reference_gets_there_beyond_what_is_drawn_of_it() -> None:
    """classic gets there at 1,500, and is drawn up to 1.25 times the last step of what was changed."""

    def told(classic: int) -> str:
        there = {"classic": classic, "value": 300, "a": 600, "b": 9_000}
        rows = [
            {"variant": v, "seed": seed, "run": f"{v}-{seed}", "step": step, "value": min(1.0, step / at)}
            for v, at in there.items()
            for seed in range(2)
            for step in range(0, (800 if v in "ab" else 1_600) + 1, 100)
        ]
        metrics = over_seeds(pd.DataFrame(rows).assign(split="ic", measure="accuracy"))
        made = pd.DataFrame({"variant": ["a", "b"], "change": ["opened", "closed"], "when": "within", "at": [200, 400]})
        figure: Any = windows(metrics.merge(made, on="variant", how="left"), threshold=1.0)
        assert max(max(trace.x) for trace in figure.data if trace.name == "classic") == 1_000
        return figure.layout.meta["title"]

    assert told(1_500) == "Step of 100%: value 300, classic 1,500; opened at 200: 600; closed at 400: none"
    assert "classic none;" in told(1_700)


def test_windows_show_the_step_of_the_change() -> None:
    changes = [("opened", "within", 400), ("closed", "before", 150), ("gradient cut", "after", 800)]
    made = pd.DataFrame(changes, columns=["change", "when", "at"]).assign(variant=["a", "b", "c"])
    metrics = metrics_of({name: [900, 900] for name in ("classic", "value", "a", "b", "c")})
    figure: Any = windows(metrics.merge(made, on="variant", how="left"))
    upright = [shape for shape in figure.layout.shapes if shape.x0 == shape.x1]
    assert sorted(shape.x0 for shape in upright) == [150, 400, 800]
    assert {shape.line.color for shape in upright} == set(WHENS.values()) == set(EARLIER_TO_LATER[:3])
    assert "opened at 400: none" in figure.layout.meta["title"]
    with pytest.raises(ValueError, match="there is no classic"):
        windows(metrics[metrics.variant != "classic"].merge(made, on="variant", how="left"))
