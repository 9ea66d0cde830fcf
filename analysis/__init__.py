"""Questions to a model: patches, paths, attributions, circuits, ablations, heads, gradients; statistics over seeds."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

# Found by its place: an import of ``circuits`` may find another project's, which is what is checked here.
runpy.run_path(str(Path(__file__).parents[1] / "circuits" / "siblings.py"))

from circuits.lazy import lazily  # noqa: E402

if TYPE_CHECKING:
    from analysis.ablation import Ablation, ablate, standard_ablations
    from analysis.attribution import attribute
    from analysis.circuit import Circuit, find_circuit, judge
    from analysis.comparison import compare
    from analysis.composition import head_composition
    from analysis.copying import copy_score, eigenvalue_copying
    from analysis.edge_ablation import ablate_edges
    from analysis.edge_attribution import attribute_edges
    from analysis.following import follow
    from analysis.gap import NoGapError, WeakPairWarning
    from analysis.gradient_split import Connection, GradientSplit
    from analysis.gradients import split_gradient
    from analysis.graph import Graph
    from analysis.heads import AttentionScore, score_heads, score_retrieval
    from analysis.metrics import METRICS, ReadMetric
    from analysis.pairs import Pair
    from analysis.patching import PatchResult, patch
    from analysis.paths import find_paths, patch_paths
    from analysis.shares import head_shares
    from analysis.sites import Site, find_sites
    from analysis.statistics import adjust, mean_interval, paired_ratio
    from analysis.survival import survival_curves
    from analysis.thresholds import threshold_table, threshold_times

__getattr__ = lazily(
    "analysis",
    {
        **dict.fromkeys(("Ablation", "ablate", "standard_ablations"), "ablation"),
        **dict.fromkeys(("attribute",), "attribution"),
        **dict.fromkeys(("Circuit", "find_circuit", "judge"), "circuit"),
        **dict.fromkeys(("ablate_edges",), "edge_ablation"),
        **dict.fromkeys(("attribute_edges",), "edge_attribution"),
        **dict.fromkeys(("follow",), "following"),
        **dict.fromkeys(("Graph",), "graph"),
        **dict.fromkeys(("find_paths", "patch_paths"), "paths"),
        **dict.fromkeys(("head_shares",), "shares"),
        **dict.fromkeys(("compare",), "comparison"),
        **dict.fromkeys(("head_composition",), "composition"),
        **dict.fromkeys(("copy_score", "eigenvalue_copying"), "copying"),
        **dict.fromkeys(("Connection", "GradientSplit"), "gradient_split"),
        "split_gradient": "gradients",
        **dict.fromkeys(("AttentionScore", "score_heads", "score_retrieval"), "heads"),
        **dict.fromkeys(("NoGapError", "WeakPairWarning"), "gap"),
        **dict.fromkeys(("METRICS", "ReadMetric"), "metrics"),
        "Pair": "pairs",
        **dict.fromkeys(("PatchResult", "patch"), "patching"),
        **dict.fromkeys(("Site", "find_sites"), "sites"),
        **dict.fromkeys(("adjust", "mean_interval", "paired_ratio"), "statistics"),
        **dict.fromkeys(("survival_curves",), "survival"),
        **dict.fromkeys(("threshold_table", "threshold_times"), "thresholds"),
    },
)

__all__ = [
    "METRICS",
    "Ablation",
    "AttentionScore",
    "Circuit",
    "Connection",
    "GradientSplit",
    "Graph",
    "NoGapError",
    "Pair",
    "PatchResult",
    "ReadMetric",
    "Site",
    "WeakPairWarning",
    "ablate",
    "ablate_edges",
    "adjust",
    "attribute",
    "attribute_edges",
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
    "mean_interval",
    "paired_ratio",
    "patch",
    "patch_paths",
    "score_heads",
    "score_retrieval",
    "split_gradient",
    "standard_ablations",
    "survival_curves",
    "threshold_table",
    "threshold_times",
]
