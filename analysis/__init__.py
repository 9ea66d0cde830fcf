"""Questions to a model: patches, paths, attributions, circuits, ablations, heads, gradients; statistics over seeds."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

# Found by its place: an import of ``circuits`` may find another project's, which is what is checked here.
runpy.run_path(str(Path(__file__).parents[1] / "circuits" / "common" / "siblings.py"))

from circuits.common.lazy_imports import lazily  # noqa: E402

if TYPE_CHECKING:
    from analysis.ablated import Ablations
    from analysis.ablation import Ablation, ablate, standard_ablations
    from analysis.attribution.of_edges import EdgeScores, attribute_edges
    from analysis.attribution.of_sites import SiteScores, attribute
    from analysis.circuit.discovery import Circuit, find_circuit
    from analysis.circuit.over_checkpoints import CircuitSteps, follow
    from analysis.circuit.quality import Quality, judge
    from analysis.edges.ablation import ablate_edges
    from analysis.edges.direct_paths import PathResult, find_paths, patch_paths
    from analysis.edges.graph import Graph
    from analysis.edges.head_shares import HeadShares, head_shares
    from analysis.edges.switched import EdgeSwitch
    from analysis.gap import NoGapError, WeakPairWarning
    from analysis.gradients.shares import split_gradient
    from analysis.gradients.split import Connection, GradientSplit
    from analysis.heads.attention_scores import AttentionScore, HeadScores, score_heads
    from analysis.heads.attention_view import AttentionView, attention_view
    from analysis.heads.composition import Composition, head_composition
    from analysis.heads.copying import copy_score, eigenvalue_copying
    from analysis.heads.retrieval import score_retrieval
    from analysis.logits.direct_attribution import LogitAttribution, attribute_logits
    from analysis.logits.lens import LogitLens, logit_lens
    from analysis.metrics import METRICS, ReadMetric
    from analysis.pair_files import PairsFile
    from analysis.pairs import Pair
    from analysis.patching.patch import PatchResult, patch
    from analysis.patching.route_map import RouteMap, route_map
    from analysis.patching.site_search import find_sites
    from analysis.resuming import KeptIn
    from analysis.statistics.comparison import Comparison, compare
    from analysis.statistics.curves import over_seeds
    from analysis.statistics.intervals import adjust, mean_interval, paired_ratio
    from analysis.statistics.survival import survival_curves
    from analysis.statistics.thresholds import threshold_table, threshold_times
    from circuits.sites import Site

__getattr__ = lazily(
    "analysis",
    {
        "ablated": ("Ablations",),
        "ablation": ("Ablation", "ablate", "standard_ablations"),
        "attribution.of_sites": ("SiteScores", "attribute"),
        "circuit.discovery": ("Circuit", "find_circuit"),
        "circuit.quality": ("Quality", "judge"),
        "statistics.comparison": ("Comparison", "compare"),
        "heads.composition": ("Composition", "head_composition"),
        "heads.copying": ("copy_score", "eigenvalue_copying"),
        "edges.ablation": ("ablate_edges",),
        "attribution.of_edges": ("EdgeScores", "attribute_edges"),
        "circuit.over_checkpoints": ("CircuitSteps", "follow"),
        "gap": ("NoGapError", "WeakPairWarning"),
        "gradients.split": ("Connection", "GradientSplit"),
        "gradients.shares": ("split_gradient",),
        "edges.graph": ("Graph",),
        "heads.attention_scores": ("AttentionScore", "HeadScores", "score_heads"),
        "heads.attention_view": ("AttentionView", "attention_view"),
        "heads.retrieval": ("score_retrieval",),
        "logits.direct_attribution": ("LogitAttribution", "attribute_logits"),
        "logits.lens": ("LogitLens", "logit_lens"),
        "metrics": ("METRICS", "ReadMetric"),
        "pair_files": ("PairsFile",),
        "pairs": ("Pair",),
        "patching.patch": ("PatchResult", "patch"),
        "patching.route_map": ("RouteMap", "route_map"),
        "edges.direct_paths": ("PathResult", "find_paths", "patch_paths"),
        "edges.head_shares": ("HeadShares", "head_shares"),
        "edges.switched": ("EdgeSwitch",),
        "patching.site_search": ("Site", "find_sites"),
        "resuming": ("KeptIn",),
        "statistics.curves": ("over_seeds",),
        "statistics.intervals": ("adjust", "mean_interval", "paired_ratio"),
        "statistics.survival": ("survival_curves",),
        "statistics.thresholds": ("threshold_table", "threshold_times"),
    },
)

__all__ = [
    "METRICS",
    "Ablation",
    "Ablations",
    "AttentionScore",
    "AttentionView",
    "Circuit",
    "CircuitSteps",
    "Comparison",
    "Composition",
    "Connection",
    "EdgeScores",
    "EdgeSwitch",
    "GradientSplit",
    "Graph",
    "HeadScores",
    "HeadShares",
    "KeptIn",
    "LogitAttribution",
    "LogitLens",
    "NoGapError",
    "Pair",
    "PairsFile",
    "PatchResult",
    "PathResult",
    "Quality",
    "ReadMetric",
    "RouteMap",
    "Site",
    "SiteScores",
    "WeakPairWarning",
    "ablate",
    "ablate_edges",
    "adjust",
    "attention_view",
    "attribute",
    "attribute_edges",
    "attribute_logits",
    "compare",
    "copy_score",
    "eigenvalue_copying",
    "find_circuit",
    "find_paths",
    "find_sites",
    "follow",
    "head_composition",
    "head_shares",
    "judge",
    "logit_lens",
    "mean_interval",
    "over_seeds",
    "paired_ratio",
    "patch",
    "patch_paths",
    "route_map",
    "score_heads",
    "score_retrieval",
    "split_gradient",
    "standard_ablations",
    "survival_curves",
    "threshold_table",
    "threshold_times",
]
