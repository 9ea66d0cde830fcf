"""Questions to a model: patching, head scores, ablation, gradients by route, and statistics over seeds."""

from analysis.ablation import Ablation, ablate, standard_ablations
from analysis.gradients import GradientSplit, split_gradient
from analysis.heads import AttentionScore, score_heads
from analysis.pairs import METRICS, Pair
from analysis.patching import PatchResult, patch
from analysis.sites import Site, sites
from analysis.statistics import mean_interval, paired_ratio, threshold_table, threshold_times

__all__ = [
    "METRICS",
    "Ablation",
    "AttentionScore",
    "GradientSplit",
    "Pair",
    "PatchResult",
    "Site",
    "ablate",
    "mean_interval",
    "paired_ratio",
    "patch",
    "score_heads",
    "sites",
    "split_gradient",
    "standard_ablations",
    "threshold_table",
    "threshold_times",
]
