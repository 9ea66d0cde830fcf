"""Does the associative memory answer as the paper's did, and which of its scales is best, task by task?

Source: arXiv 2412.15113 (associative memory model).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from circuits.common.errors import known
from circuits.common.text_table import interval, markdown, rows_of
from experiments.studies.committed_results import Bundle
from experiments.studies.study import SIZES, Asking, Block, Picture, Size, Study
from figures.trainings.associative_memory import accuracy_by_a, accuracy_by_size
from figures.trainings.associative_memory_maps import heat_maps
from figures.trainings.associative_memory_tasks import best_a


def ask(size: str = "full", seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return every frame by name; "miniature" is a tenth of the trials on fewer and smaller points.

    Raises:
        UnknownNameError: for an unknown size.
    """
    from experiments.studies.associative_memory import against_paper, answers

    full = known("size", size, SIZES) == "full"
    trials, dimensions = (1000, against_paper.SIZES) if full else (100, against_paper.SIZES[:4])
    tasks = answers.accuracy_by_task(trials if full else 200, answers.octaves(8 if full else 2), seed=seed)
    lines = against_paper.curves(trials, seed, n_a=100 if full else 21, sizes=dimensions)
    return {
        "amicl_counts": against_paper.counts(trials, seed, 5 * trials),
        "amicl_curves": lines,
        "amicl_agreement": against_paper.against_paper(lines),
        "amicl_heat_maps": answers.heat_maps(seed),
        "amicl_tasks": tasks,
        "amicl_best_a": answers.best_a(tasks),
    }


def _compute(roots: Sequence[Path], size: Size) -> dict[str, pd.DataFrame]:
    return ask(size)


def _counts(bundle: Bundle) -> str:
    names = {"d": "D", "n_classes": "K", "length": "s", "a": "a", "paper": "paper", "correct": "here", "z": "z"}
    names |= {"expected": "of 1,000, from more trials", "z_expected": "z of that"}
    kept = bundle.frame("amicl_counts").rename(columns=names)[list(names.values())]
    return markdown(kept.map(lambda x: f"{x:.4g}" if isinstance(x, float) else x))


def _curves(bundle: Bundle) -> str:
    """How well each curve agrees with the points read off the paper's plots."""
    rows = [
        {
            "curve": curve,
            "points": len(points),
            "agree": int(points.agrees.sum()),
            "largest difference": f"{(points.accuracy - points.paper).abs().max():.3f}",
            "mean difference": f"{(points.accuracy - points.paper).mean():+.3f}",
        }
        for curve, points in bundle.frame("amicl_agreement").groupby("curve", sort=False)
    ]
    return markdown(pd.DataFrame(rows))


def _best(bundle: Bundle) -> str:
    """The best ``a`` of every task, and all that are as good."""
    rows = [
        {
            "task": row.task + (f" (reach {row.reach})" if row.reach != 1 else ""),
            "D": row.d,
            "similarity": row.similarity,
            "best a": interval(row.best_a, row.best_low, row.best_high, ".2f"),
            "accuracy there": interval(row.accuracy, row.low, row.high, ".3f"),
            "as good": f"{row.as_good_from:.2f} to {row.as_good_to:.2f}" + (" (and up)" if row.open_above else ""),
        }
        for row in rows_of(bundle.frame("amicl_best_a"))
    ]
    return markdown(pd.DataFrame(rows))


def _paper_says(bundle: Bundle) -> list[tuple[str, str, str, str]]:
    counts, points = bundle.frame("amicl_counts"), bundle.frame("amicl_agreement")
    fits = f"{counts.within_three.sum()} of {len(counts)} within three standard errors"
    reads = f"{points.agrees.sum()} of {len(points)} agree"
    says = {True: "agrees", False: "differs in part"}
    return [
        ("AMICL, counts of 1,000", "printed", fits, says[bool(counts.within_three.all())]),
        ("AMICL, curves", "read off the plots", reads, says[bool(points.agrees.all())]),
    ]


def _picture(name: str, drawing: Callable[..., go.Figure], frame: str, argument: str, **more: Any) -> Picture:
    return Picture(name, drawing, lambda bundle: {argument: bundle.frame(frame), **more}, (), (frame,))


_OF_PAIRS = "a = 2, pairs of an object and its label"
STUDY = Study(
    name="associative_memory",
    question="Does the associative memory answer as the paper's did, and which a is best?",
    asking=Asking(
        tuple(f"amicl_{kind}" for kind in ("counts", "curves", "agreement", "heat_maps", "tasks", "best_a")), _compute
    ),
    pictures=(
        _picture("amicl_by_a", accuracy_by_a, "amicl_curves", "curves", of="50 classes, 20 tokens, 100 dimensions"),
        _picture("amicl_by_size", accuracy_by_size, "amicl_curves", "curves", of="50 classes, a = 2"),
        _picture("amicl_heat_maps", heat_maps, "amicl_heat_maps", "frame", of=_OF_PAIRS),
        _picture("amicl_heat_maps_authors", heat_maps, "amicl_heat_maps", "frame", which="authors", of=_OF_PAIRS),
        _picture("amicl_best_a", best_a, "amicl_tasks", "tasks"),
    ),
    blocks=(
        Block("amicl-counts", _counts, "The associative memory: printed counts"),
        Block("amicl-curves", _curves, "The associative memory: curves"),
        Block("amicl-best", _best, "The associative memory: which a is best"),
    ),
    verdict=_paper_says,
)
