"""Questions to a model: patching, head scores, ablation, gradients by route, and statistics over seeds."""

from typing import TYPE_CHECKING

from circuits.lazy import lazily

if TYPE_CHECKING:
    from analysis.ablation import Ablation, ablate, standard_ablations
    from analysis.gradients import GradientSplit, split_gradient
    from analysis.heads import AttentionScore, score_heads
    from analysis.pairs import METRICS, Pair
    from analysis.patching import PatchResult, patch
    from analysis.sites import Site, find_sites
    from analysis.statistics import mean_interval, paired_ratio, threshold_table, threshold_times

__getattr__ = lazily(
    "analysis",
    {
        **dict.fromkeys(("Ablation", "ablate", "standard_ablations"), "ablation"),
        **dict.fromkeys(("GradientSplit", "split_gradient"), "gradients"),
        **dict.fromkeys(("AttentionScore", "score_heads"), "heads"),
        **dict.fromkeys(("METRICS", "Pair"), "pairs"),
        **dict.fromkeys(("PatchResult", "patch"), "patching"),
        **dict.fromkeys(("Site", "find_sites"), "sites"),
        **dict.fromkeys(("mean_interval", "paired_ratio", "threshold_table", "threshold_times"), "statistics"),
    },
)

__all__ = [
    "METRICS",
    "Ablation",
    "AttentionScore",
    "GradientSplit",
    "Pair",
    "PatchResult",
    "Site",
    "ablate",
    "find_sites",
    "mean_interval",
    "paired_ratio",
    "patch",
    "score_heads",
    "split_gradient",
    "standard_ablations",
    "threshold_table",
    "threshold_times",
]
