"""Every figure of the study: what it is drawn from, what it is drawn by, and which experiments lie behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.statistics.curves import effects_over_runs, over_seeds, with_differences
from analysis.statistics.survival import survival_curves
from circuits.common.errors import known
from experiments.studies import lm_times as lm_answers
from experiments.studies import times as answers
from experiments.studies.committed_results import Bundle
from figures.models.edges import circuit_drawing
from figures.trainings import associative_memory as amicl
from figures.trainings.indirect_objects import head_score_maps, ioi_by_sentence, route_maps
from figures.trainings.language_models import (
    DEPTHS,
    IOI_SETS,
    cost_against_gain,
    ioi_curves,
    loss_curves,
    nested_curves,
    scaling,
)
from figures.trainings.learning import PROGRESS, head_scores, learning_curves, progress_measures
from figures.trainings.phases import phases
from figures.trainings.times import (
    SPLITS,
    all_curves,
    gradient_share_curves,
    sensitivity,
    survival,
    time_ratios,
    windows,
)

Drawing = Callable[..., go.Figure]


@dataclass(frozen=True)
class Picture:
    """One figure: ``arguments`` of the drawing, made from the bundle."""

    name: str
    drawing: Drawing
    arguments: Callable[[Bundle], dict[str, Any]]
    experiments: tuple[str, ...] = ()
    frames: tuple[str, ...] = ()
    """Frames of analyses that it needs."""

    def drawable(self, bundle: Bundle) -> bool:
        """Return whether the bundle holds what lies behind it."""
        there = set(bundle.arms.experiment)
        return set(self.experiments) <= there and all(bundle.has(frame) for frame in self.frames)

    def draw(self, bundle: Bundle) -> go.Figure:
        """Return the figure."""
        return self.drawing(**self.arguments(bundle))


def _metrics(
    name: str, bundle: Bundle, splits: Iterable[str] = ("ic",), measures: Iterable[str] = ("accuracy",)
) -> dict[str, Any]:
    return {"metrics": over_seeds(_drawn(bundle.metrics(name), splits, measures))}


def _drawn(metrics: pd.DataFrame, splits: Iterable[str], measures: Iterable[str]) -> pd.DataFrame:
    return metrics[metrics.split.isin(list(splits)) & metrics.measure.isin(list(measures))]


def _whole(name: str, bundle: Bundle) -> dict[str, Any]:
    """Of the runs that went to the paper's last step alone."""
    metrics = bundle.metrics(name)
    whole = metrics[metrics.groupby("run")["step"].transform("max") == answers.LAST_STEP]
    return {"metrics": over_seeds(_drawn(whole, SPLITS, ("accuracy", "loss")))}


def _ratios(name: str, bundle: Bundle) -> dict[str, Any]:
    table = answers.compared(bundle, name)
    return {"table": table, "runs": list(bundle.experiment(name).name), "title": answers.ASKS[name]}


def _tuned(bundle: Bundle) -> dict[str, Any]:
    table = answers.tuned(answers.times(bundle, "optimisers"))
    title = "Every variant at its own best rate"
    return {"table": table, "runs": list(bundle.experiment("optimisers").name), "title": title}


def _survival(name: str, bundle: Bundle) -> dict[str, Any]:
    curves = survival_curves(answers.times(bundle, name))
    return {
        "curves": curves,
        "runs": list(bundle.experiment(name).name),
        "title": "Runs below 95 %: " + answers.ASKS[name],
    }


def _shares(name: str, bundle: Bundle) -> dict[str, Any]:
    return {"shares": over_seeds(answers.shares(bundle, name).query("variant != 'classic'"), scale="logit")}


def _sensitivity(bundle: Bundle) -> dict[str, Any]:
    table = answers.sensitivity(bundle, ("streams-paper", "gradient-paper"))
    runs = [*bundle.experiment("streams-paper").name, *bundle.experiment("gradient-paper").name]
    return {"table": table, "runs": runs}


def _phases(bundle: Bundle) -> dict[str, Any]:
    runs = sorted(bundle.frame("mechanism_edges").run.unique())
    table = answers.mechanism(bundle)
    return {
        "table": table[table.variant.isin(["classic", "value"])],
        "broken": list(answers.WITHOUT),
        "restored": list(answers.PATCHED),
        "runs": runs,
    }


def _heads(bundle: Bundle) -> dict[str, Any]:
    """Of the first seed's classic and value runs of the largest preset that there is."""
    heads = bundle.frame("mechanism_heads")
    preset = "paper" if (heads.preset == "paper").any() else "small"
    shown = heads.variant.isin(["classic", "value"]) & heads.score.isin(HEAD_SCORES)
    return {"frame": heads[shown & (heads.preset == preset) & (heads.seed == 0)]}


HEAD_SCORES = ("previous token", "ila", "tila", "tla")


def _lm_curves(name: str, bundle: Bundle, splits: Iterable[str], measure: str) -> dict[str, Any]:
    return {"metrics": over_seeds(_drawn(lm_answers.curves(bundle, name), splits, (measure,)), "tokens")}


def _lm_losses(name: str, bundle: Bundle) -> dict[str, Any]:
    losses = _drawn(lm_answers.curves(bundle, name), ("validation",), ("loss",))
    return {"metrics": over_seeds(with_differences(losses, "loss"), "tokens")}


def _lm_gap(bundle: Bundle) -> dict[str, Any]:
    """Of matched models on the paper's prompts, beside what the paper reports of its two."""
    metrics = _lm_curves("lm", bundle, ("ioi paper",), "probability")["metrics"]
    return {
        "metrics": metrics[metrics.variant.isin(lm_answers.PAPER_SAYS)],
        "splits": ("ioi paper",),
        "title": "As they learn, matched models differ by as much as the paper's two",
        "levels": {f"the paper, {variant}: {p:.0%}": p for variant, p in lm_answers.PAPER_SAYS.items()},
    }


def _lm_ratios(name: str, bundle: Bundle) -> dict[str, Any]:
    table = lm_answers.compared(bundle, name)
    return {"table": table, "runs": list(bundle.experiment(name).name), "title": answers.ASKS[name]}


def _lm_sentences(bundle: Bundle) -> dict[str, Any]:
    held = bundle.frame("lm_ioi")
    table = lm_answers.paper_prompts(bundle)
    return {"table": table, "runs": sorted(held.run[held.variant.isin(table.variant)].unique())}


def _lm_table(make: Callable[[Bundle], Any], names: tuple[str, ...], bundle: Bundle) -> dict[str, Any]:
    return {"table": make(bundle), "runs": [run for name in names for run in bundle.experiment(name).name]}


def _lm_seed(frame: str, bundle: Bundle, last: bool = False) -> dict[str, Any]:
    """Of the first seed's runs (at their last checkpoint); of patched components those that tell the routes apart."""
    held = bundle.frame(frame)
    held = held[held.seed == 0]
    if "component" in held:
        held = held[held.component.isin(["state", "resid_pre", "v"])]
    return {"frame": held[held.step == held.step.max()] if last else held}


def _lm_patches(bundle: Bundle) -> dict[str, Any]:
    return {"frame": effects_over_runs(_lm_seed("lm_patches", bundle)["frame"])}


def _lm_circuit(variant: str, bundle: Bundle) -> dict[str, Any]:
    held = bundle.frame("lm_edges")
    return {"frame": held[(held.seed == 0) & (held.variant == variant)]}


def _frame(name: str, argument: str, bundle: Bundle, **more: Any) -> dict[str, Any]:
    return {argument: bundle.frame(name), **more}


def _of(
    make: Callable[..., dict[str, Any]], name: str, file: str, drawing: Callable[..., go.Figure], **more: Any
) -> Picture:
    return Picture(file, drawing, partial(make, name, **more), (name,))


PICTURES: dict[str, Picture] = {
    p.name: p
    for p in (
        _of(_metrics, "streams-paper", "streams_paper_curves", learning_curves),
        _of(_whole, "streams-paper", "streams_paper_all", all_curves),
        _of(_metrics, "streams-paper", "streams_paper_progress", progress_measures, measures=PROGRESS),
        _of(_survival, "streams-paper", "streams_paper_survival", survival),
        _of(_ratios, "streams-paper", "streams_paper_ratios", time_ratios),
        _of(_ratios, "streams", "streams_ratios", time_ratios),
        _of(_metrics, "gradient-paper", "gradient_paper_curves", learning_curves),
        _of(_metrics, "gradient-paper", "gradient_paper_progress", progress_measures, measures=PROGRESS),
        _of(_ratios, "gradient-paper", "gradient_paper_ratios", time_ratios),
        _of(_shares, "gradient-paper", "gradient_paper_shares", gradient_share_curves),
        _of(_metrics, "gradient", "gradient_curves", learning_curves),
        _of(_ratios, "gradient", "gradient_ratios", time_ratios),
        _of(_shares, "gradient", "gradient_shares", gradient_share_curves),
        _of(_metrics, "windows-paper", "windows_paper", windows),
        _of(_metrics, "windows", "windows", windows),
        _of(_ratios, "controls", "controls", time_ratios),
        _of(_ratios, "connections", "connections", time_ratios),
        _of(_ratios, "data", "data", time_ratios),
        _of(_ratios, "optimisers", "optimisers", time_ratios),
        Picture("optimisers_tuned", time_ratios, _tuned, ("optimisers",)),
        Picture("mechanism_phases", phases, _phases, (), ("mechanism_ablations", "mechanism_patches")),
        Picture("mechanism_heads", head_scores, _heads, (), ("mechanism_heads",)),
        *(
            Picture(f"amicl_{file}", drawing, partial(_frame, frame, argument, **more), (), (frame,))
            for file, drawing, frame, argument, more in (
                ("by_a", amicl.accuracy_by_a, "amicl_curves", "curves", {}),
                ("by_size", amicl.accuracy_by_size, "amicl_curves", "curves", {}),
                ("heat_maps", amicl.heat_maps, "amicl_heat_maps", "frame", {}),
                ("heat_maps_authors", amicl.heat_maps, "amicl_heat_maps", "frame", {"which": "authors"}),
                ("best_a", amicl.best_a, "amicl_tasks", "tasks", {}),
            )
        ),
        Picture("sensitivity", sensitivity, _sensitivity, ("streams-paper", "gradient-paper")),
        _of(_lm_losses, "lm", "lm_loss", loss_curves),
        _of(_lm_curves, "lm", "lm_ioi_curves", ioi_curves, splits=IOI_SETS, measure="probability"),
        Picture("lm_paper_gap", ioi_curves, _lm_gap, ("lm",)),
        _of(_lm_ratios, "lm", "lm_ratios", time_ratios),
        _of(_lm_curves, "lm-nested", "lm_nested", nested_curves, splits=DEPTHS, measure="accuracy"),
        Picture("lm_ioi_by_sentence", ioi_by_sentence, _lm_sentences, (), ("lm_ioi",)),
        Picture(
            "lm_scaling", scaling, partial(_lm_table, lm_answers.scaling, ("lm-sizes",)), ("lm-sizes",), ("lm_cost",)
        ),
        Picture(
            "lm_cost",
            cost_against_gain,
            partial(_lm_table, lm_answers.cost, ("lm", "lm-sizes")),
            ("lm", "lm-sizes"),
            ("lm_cost",),
        ),
        Picture("lm_patches", route_maps, _lm_patches, (), ("lm_patches",)),
        Picture("lm_heads", head_score_maps, partial(_lm_seed, "lm_heads", last=True), (), ("lm_heads",)),
        *(
            Picture(f"lm_circuit_{variant}", circuit_drawing, partial(_lm_circuit, variant), (), ("lm_edges",))
            for variant in ("classic", "value")
        ),
    )
}


def chosen(names: Iterable[str]) -> list[Picture]:
    """Return pictures by name, all of them where none is named.

    Raises:
        UnknownNameError: for an unknown figure (nearest suggested).
    """
    return [PICTURES[known("figure", name, PICTURES)] for name in names] or list(PICTURES.values())
