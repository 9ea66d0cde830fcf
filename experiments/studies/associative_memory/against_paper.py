"""The associative memory's counts and curves, and the paper's beside them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from circuits.common.errors import require
from experiments.studies.associative_memory.answers import Answers, answers, share
from experiments.tasks.associative_memory import AMICLTaskConfig

PRINTED: tuple[tuple[int, int, int, float, int], ...] = (
    (100, 512, 20, 2.0, 1000),
    (100, 512, 20, 1.75, 1000),
    (100, 512, 20, 1.5, 994),
    (100, 512, 20, 1.25, 907),
    (100, 512, 20, 1.0, 325),
    (1000, 512, 20, 1.0, 315),
    (1000, 1024, 20, 1.0, 321),
    (100, 1024, 20, 1.0, 342),
    (100, 512, 100, 1.0, 315),
)
"""What the paper's notebook prints: d, classes, length, a, and the correct answers of 1000, by dot product."""
PRINTED_TRIALS = 1000

READ_OFF: dict[str, tuple[tuple[float, float], ...]] = {
    "dot by a": (
        *((0.0, 0.0), (0.5, 0.0), (0.7, 0.0), (0.8, 0.015), (0.9, 0.10), (1.0, 0.34), (1.1, 0.65), (1.2, 0.85)),
        *((1.3, 0.95), (1.4, 0.98), (1.55, 1.0), (1.75, 1.0), (2.0, 1.0)),
    ),
    "pearson by a": ((0.9, 0.03), (1.0, 0.3), (1.05, 0.54), (1.1, 0.68), (1.2, 0.84), (2.0, 0.87)),
    "length": ((10, 1.0), (20, 1.0), (40, 1.0), (100, 1.0), (500, 1.0), (1000, 1.0)),
    "dimension": ((10, 0.73), (20, 0.945), (40, 0.99), (100, 1.0), (500, 1.0), (1000, 1.0)),
}
"""Points of the paper's four curves, read off its plots."""
READING_ERROR = 0.01
CURVES = AMICLTaskConfig(d=100, n_classes=50, length=20)
"""The task of the curves, where nothing else is said."""
SIZES = (10, 20, 40, 100, 500, 1000)


def counts(trials: int = PRINTED_TRIALS, seed: int = 0, more: int = 5000) -> pd.DataFrame:
    """Return the paper's nine counts and ours: d, n_classes, length, a, trials, correct, paper, and how they agree.

    ``correct`` is of ``trials``, ``expected`` what ``more`` trials (the first ones among them) say of 1000;
    ``standard_error`` is binomial, of one count of 1000. ``z`` sets correct against the paper's count and
    ``z_expected`` expected against it, each over the standard error of the difference of the two shares, since both
    are samples; 0 where both are sure. ``within_three`` is of both. Rows of equal d, n_classes and length share their
    trials, so their errors go together.

    Raises:
        ValueError: for no trials, or fewer in ``more``.
    """
    require(more >= trials, f"more = {more} trials must hold the first {trials}")
    asked = pd.DataFrame(PRINTED, columns=["d", "n_classes", "length", "a", "paper"])
    frames = []
    for _, rows in asked.groupby(["d", "n_classes", "length"], sort=False):
        task = AMICLTaskConfig(*(int(rows[name].iloc[0]) for name in ("d", "n_classes", "length")))
        correct = answers(task, torch.tensor(rows.a.to_numpy(), dtype=torch.float32), ["dot"], more, seed)["dot"]
        few, expected = correct[:, :trials].sum((1, 2)), correct.mean((1, 2)) * PRINTED_TRIALS
        frames.append(rows.assign(trials=trials, correct=few, expected=expected, more=more))
    frame = pd.concat(frames).sort_index()
    paper, expected = frame.paper / PRINTED_TRIALS, frame.expected / PRINTED_TRIALS
    z = _z(frame.correct / frame.trials, frame.trials, paper)
    z_expected = _z(expected, frame.more, paper)
    error = (PRINTED_TRIALS * expected * (1 - expected)) ** 0.5
    within = (z.abs() <= 3) & (z_expected.abs() <= 3)
    return frame.assign(standard_error=error, z=z, z_expected=z_expected, within_three=within)


def _z(share: pd.Series, n: pd.Series, paper: pd.Series) -> pd.Series:
    pooled = (share * n + paper * PRINTED_TRIALS) / (n + PRINTED_TRIALS)
    error = (pooled * (1 - pooled) * (1 / n + 1 / PRINTED_TRIALS)) ** 0.5
    return ((share - paper) / error.where(error > 0, 1.0)).where(error > 0, 0.0)


def curves(trials: int = 1000, seed: int = 0, n_a: int = 100, sizes: tuple[int, ...] = SIZES) -> pd.DataFrame:
    """Return the paper's four curves and ours: curve, source, x, accuracy, low, high, n.

    Curves are "dot by a", "pearson by a" (on the same trials), "length" and "dimension" (both: dot, a = 2). The source
    is "here" (intervals: Wilson, 95 %), "paper, plot" (its reading error) or "paper, printed" (Wilson, and of 512
    classes).
    """
    grid = torch.linspace(0, 2, n_a)
    by_a = answers(CURVES, grid, ["dot", "pearson"], trials, seed)
    frames = [_curve(f"{name} by a", grid.tolist(), correct) for name, correct in by_a.items()]
    for size in sizes:
        for curve, task in (("length", replace(CURVES, length=size)), ("dimension", replace(CURVES, d=size))):
            [correct] = answers(task, torch.tensor([2.0]), ["dot"], trials, seed).values()
            frames.append(_curve(curve, [float(size)], correct))
    return pd.concat([*frames, _paper()], ignore_index=True)


def _curve(name: str, x: list[float], correct: Answers) -> pd.DataFrame:
    intervals = pd.DataFrame([share(of_a) for of_a in correct])
    return pd.concat([pd.DataFrame({"curve": name, "source": "here", "x": x}), intervals], axis=1)


def _paper() -> pd.DataFrame:
    rows = []
    for curve, points in READ_OFF.items():
        for x, y in points:
            ends = {"low": max(0.0, y - READING_ERROR), "high": min(1.0, y + READING_ERROR)}
            rows.append({"curve": curve, "source": "paper, plot", "x": x, "accuracy": y, **ends, "n": PRINTED_TRIALS})
    for _, _, _, a, paper in PRINTED[:5]:
        of_printed = np.arange(PRINTED_TRIALS)[:, None] < paper
        rows.append({"curve": "dot by a", "source": "paper, printed", "x": a, **share(of_printed)})
    return pd.DataFrame(rows)


def against_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """Return :func:`curves` at the points read off the paper's plots: curve, x, accuracy, paper, allowed, agrees.

    Accuracy is interpolated between ours. Allowed is three standard errors of the difference of two binomial shares
    and twice the reading error.
    """
    rows = []
    for curve, points in frame[frame.source == "paper, plot"].groupby("curve", sort=False):
        ours = frame[(frame.curve == curve) & (frame.source == "here")]
        points = points[points.x <= ours.x.max()]
        accuracy = np.interp(points.x, ours.x, ours.accuracy)
        pooled = (accuracy + points.accuracy) / 2
        error = np.sqrt(pooled * (1 - pooled) * (1 / ours.n.iloc[0] + 1 / PRINTED_TRIALS))
        row = points[["curve", "x"]].assign(accuracy=accuracy, paper=points.accuracy)
        rows.append(row.assign(allowed=3 * error + 2 * READING_ERROR))
    joined = pd.concat(rows, ignore_index=True)
    return joined.assign(agrees=(joined.accuracy - joined.paper).abs() <= joined.allowed)
