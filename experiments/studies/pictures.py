"""Pictures that several studies have alike: ratios of times, and curves of what runs measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.statistics.curves import over_seeds
from experiments.studies.committed_results import Bundle
from experiments.studies.study import Experiment, Picture
from experiments.studies.times import compared
from figures.trainings.learning import learning_curves
from figures.trainings.ratios import time_ratios


def ratios_picture(
    name: str, experiment: Experiment, table: Callable[[Bundle], pd.DataFrame] | None = None, more: str = ""
) -> Picture:
    """Return the figure of a table as :func:`speed` returns it, by default an experiment's own; ``more`` is said of it.

    The figure's title is what the table says.
    """

    def arguments(bundle: Bundle) -> dict[str, Any]:
        shown = table(bundle) if table else compared(bundle, experiment)
        runs = list(bundle.experiment(experiment.name).name)
        return {
            "table": shown,
            "runs": runs,
            "of": "; ".join(part for part in (experiment.of, _learned(experiment), more) if part),
        }

    return Picture(name, time_ratios, arguments, (experiment,))


def _learned(experiment: Experiment) -> str:
    words = {"ic": "novel classes"}.get(experiment.split, experiment.split)
    return f"learned is {experiment.threshold:.0%} {experiment.measure} on {words}"


def drawn(metrics: pd.DataFrame, splits: Iterable[str], measures: Iterable[str]) -> pd.DataFrame:
    """Return what a figure draws of the metrics of runs."""
    return metrics[metrics.split.isin(list(splits)) & metrics.measure.isin(list(measures))]


def together(bundle: Bundle, experiment: Experiment, rows: pd.DataFrame) -> pd.DataFrame:
    """Return what an experiment's runs logged up to the last step that all of them were planned to go to."""
    return rows[rows.step <= bundle.experiment(experiment.name).steps.min()]


def on_novel_classes(bundle: Bundle, experiment: Experiment, measures: Iterable[str] = ("accuracy",)) -> pd.DataFrame:
    """Return curves over seeds of what an experiment's runs measured on novel classes, as far as all were to go."""
    return over_seeds(together(bundle, experiment, drawn(bundle.metrics(experiment.name), ("ic",), measures)))


def curves_picture(name: str, experiment: Experiment, variants: Sequence[str] = ()) -> Picture:
    """Return the figure of an experiment's learning curves, of all variants or of those named; its title is what the
    experiment's own contrasts say of them."""

    def arguments(bundle: Bundle) -> dict[str, Any]:
        metrics, ratios = on_novel_classes(bundle, experiment), compared(bundle, experiment)
        if variants:
            metrics = metrics[metrics.variant.isin(variants)]
            ratios = ratios[ratios.variant.isin(variants) & ratios.reference.isin(variants)]
        return {"metrics": metrics, "ratios": ratios, "of": experiment.of, "threshold": experiment.threshold}

    return Picture(name, learning_curves, arguments, (experiment,))


def picture_of(
    name: str,
    drawing: Callable[..., go.Figure],
    experiment: Experiment,
    read: Callable[[Bundle, Experiment], pd.DataFrame] = on_novel_classes,
    argument: str = "metrics",
) -> Picture:
    """Return a figure that is drawn of one frame, by default of what an experiment's runs measured on novel classes.

    Of an experiment that says of what it is, the drawing is told so too (``of``).
    """
    told = {"of": experiment.of} if experiment.of else {}
    return Picture(name, drawing, lambda bundle: {argument: read(bundle, experiment)} | told, (experiment,))
