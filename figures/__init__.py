"""Frames in, figures out; nothing is computed here that is not drawn."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

# Found by its place: an import of ``circuits`` may find another project's, which is what is checked here.
runpy.run_path(str(Path(__file__).parents[1] / "circuits" / "common" / "siblings.py"))

from circuits.common.lazy_imports import lazily  # noqa: E402

if TYPE_CHECKING:
    from figures.files import write_figure
    from figures.html_page import write_page
    from figures.images import write_images
    from figures.models.ablation import ablation_bars
    from figures.models.attention_view import attention_maps
    from figures.models.circuit_over_checkpoints import circuit_curves
    from figures.models.edges import circuit_drawing, edge_drawing
    from figures.models.gradients import gradient_pairs, gradient_shares
    from figures.models.head_score_maps import head_score_maps
    from figures.models.head_scores import head_scores
    from figures.models.logits import logit_attribution_bars, logit_lens_curves
    from figures.models.patching import patch_heat_map
    from figures.models.paths import path_heat_maps, share_bars
    from figures.models.route_map import route_heat_maps
    from figures.models.route_maps import route_maps
    from figures.trainings.against_classic import cost_against_gain, scaling
    from figures.trainings.associative_memory import accuracy_by_a, accuracy_by_size
    from figures.trainings.associative_memory_maps import heat_maps
    from figures.trainings.associative_memory_tasks import best_a
    from figures.trainings.indirect_objects import ioi_by_sentence
    from figures.trainings.language_models import gap_curves, ioi_curves, loss_curves, nested_curves
    from figures.trainings.learning import learning_curves, run_curves
    from figures.trainings.phases import phases
    from figures.trainings.progress import progress_measures
    from figures.trainings.ratios import time_ratios
    from figures.trainings.thresholds import sensitivity
    from figures.trainings.times import all_curves, gradient_share_curves, survival
    from figures.trainings.windows import windows

__getattr__ = lazily(
    "figures",
    {
        "files": ("write_figure",),
        "html_page": ("write_page",),
        "images": ("write_images",),
        "models.ablation": ("ablation_bars",),
        "models.attention_view": ("attention_maps",),
        "models.circuit_over_checkpoints": ("circuit_curves",),
        "models.edges": (
            "circuit_drawing",
            "edge_drawing",
        ),
        "models.logits": ("logit_attribution_bars", "logit_lens_curves"),
        "models.gradients": (
            "gradient_pairs",
            "gradient_shares",
        ),
        "models.patching": ("patch_heat_map",),
        "models.route_map": ("route_heat_maps",),
        "models.paths": (
            "path_heat_maps",
            "share_bars",
        ),
        "trainings.associative_memory": (
            "accuracy_by_a",
            "accuracy_by_size",
        ),
        "trainings.associative_memory_maps": ("heat_maps",),
        "trainings.associative_memory_tasks": ("best_a",),
        "trainings.against_classic": ("cost_against_gain", "scaling"),
        "models.head_score_maps": ("head_score_maps",),
        "trainings.indirect_objects": ("ioi_by_sentence",),
        "models.route_maps": ("route_maps",),
        "trainings.language_models": (
            "gap_curves",
            "ioi_curves",
            "loss_curves",
            "nested_curves",
        ),
        "models.head_scores": ("head_scores",),
        "trainings.learning": ("learning_curves", "run_curves"),
        "trainings.phases": ("phases",),
        "trainings.progress": ("progress_measures",),
        "trainings.ratios": ("time_ratios",),
        "trainings.thresholds": ("sensitivity",),
        "trainings.times": (
            "all_curves",
            "gradient_share_curves",
            "survival",
        ),
        "trainings.windows": ("windows",),
    },
)

__all__ = [
    "ablation_bars",
    "accuracy_by_a",
    "accuracy_by_size",
    "all_curves",
    "attention_maps",
    "best_a",
    "circuit_curves",
    "circuit_drawing",
    "cost_against_gain",
    "edge_drawing",
    "gap_curves",
    "gradient_pairs",
    "gradient_share_curves",
    "gradient_shares",
    "head_score_maps",
    "head_scores",
    "heat_maps",
    "ioi_by_sentence",
    "ioi_curves",
    "learning_curves",
    "logit_attribution_bars",
    "logit_lens_curves",
    "loss_curves",
    "nested_curves",
    "patch_heat_map",
    "path_heat_maps",
    "phases",
    "progress_measures",
    "route_heat_maps",
    "route_maps",
    "run_curves",
    "scaling",
    "sensitivity",
    "share_bars",
    "survival",
    "time_ratios",
    "windows",
    "write_figure",
    "write_images",
    "write_page",
]
