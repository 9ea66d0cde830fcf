"""Every figure of the study is drawn from the committed results, by the drawings alone, and says what it is of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import over_seeds
from circuits.common.errors import UnknownNameError
from experiments.commands import study
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.registry import PICTURES
from figures.curves import curve_of
from figures.trainings.times import all_curves, time_ratios, windows

HELD = Bundle.open(COMMITTED)
RENDERED = COMMITTED.parent / "rendered"


@pytest.mark.parametrize("name", list(PICTURES))
def test_every_figure_is_drawn_from_the_committed_results(name: str) -> None:
    picture = PICTURES[name]
    assert picture.drawable(HELD), "the bundle holds what lies behind it"
    figure: Any = picture.draw(HELD)
    assert len(figure.data) > 0
    assert figure.layout.meta["caption"]
    if picture.experiments:
        assert figure.layout.meta["runs"], "it names its runs"
    assert (RENDERED / f"{name}.json").read_text() == figure.to_json(), "what is committed is what the results give"
    assert (RENDERED / f"{name}.png").stat().st_size > 5_000


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


def test_curves_end_where_the_first_run_ends() -> None:
    curve = curve_of(metrics_of({"value": [500, 900]}, ("ic",)).query("measure == 'accuracy'"))
    assert curve.step.max() == 500
    assert (curve.n == 2).all()


def test_all_curves_has_a_panel_a_set_and_measure() -> None:
    figure: Any = all_curves(metrics_of({"classic": [900, 900], "value": [900, 900]}))
    assert len({trace.xaxis for trace in figure.data}) == 8
    assert {trace.name for trace in figure.data if trace.name} >= {"classic", "value"}


def ratios(**more: Any) -> pd.DataFrame:
    row = {"condition": "a", "variant": "value", "reference": "classic", "ratio": 0.5, "low": 0.4, "high": 0.6}
    row |= {"p_adjusted": 0.01, "p_equivalent": 1.0, "margin": 1.05, "pairs": 5}
    return pd.DataFrame([row, row | more])


def test_ratios_tell_what_can_be_told_from_one() -> None:
    figure: Any = time_ratios(ratios(variant="key", ratio=1.1, low=0.9, high=1.3, p_adjusted=0.4))
    clear, unclear = figure.data
    assert (list(clear.y), list(unclear.y)) == (["value"], ["key"])
    assert clear.marker.color != unclear.marker.color
    assert clear.error_x.array[0] == pytest.approx(0.1)
    alike: Any = time_ratios(ratios(variant="key", reference="value", p_adjusted=0.4, p_equivalent=0.01)).data[1]
    assert (alike.name, list(alike.y)) == ("the same within 5%", ["key / value"])
    assert alike.marker.color not in (clear.marker.color, unclear.marker.color)


def test_ratios_that_nothing_can_be_said_of_are_left_out() -> None:
    figure: Any = time_ratios(ratios(variant="key", ratio=float("nan")))
    assert [y for trace in figure.data for y in trace.y] == ["value"]


def test_windows_show_the_step_of_the_change() -> None:
    changes = [("opened", "within", 400), ("closed", "before", 150), ("gradient cut", "after", 800)]
    made = pd.DataFrame(changes, columns=["change", "when", "at"]).assign(variant=["a", "b", "c"])
    metrics = metrics_of({name: [900, 900] for name in ("classic", "value", "a", "b", "c")})
    figure: Any = windows(metrics.merge(made, on="variant", how="left"))
    assert sorted(shape.x0 for shape in figure.layout.shapes) == [150, 400, 800]
