"""The associative memory's experiments, as tidy frames: the paper's counts and curves, heat maps, and the best ``a``.

Everything is drawn from seeds; the numbers of the paper stand beside those found here.

Source: arXiv 2412.15113 (associative memory model).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from analysis.statistics.intervals import adjust
from circuits.associative_memory import AMICL, SIMILARITIES, nearest_over_a
from circuits.common.errors import known, require
from circuits.common.plain_data import derive_seed
from experiments.tasks.associative_memory import TASKS, AMICLBatch, AMICLTask, AMICLTaskConfig

Answers = Bool[np.ndarray, "a trial blank"]

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

CASES: tuple[tuple[str, int], ...] = (
    ("pairs", 1),
    ("several queries", 1),
    ("noisy labels", 1),
    ("distractors", 1),
    ("conjunction", 1),
    ("lag", 1),
    ("lag", 3),
)
"""Tasks and the reach of the memory that is asked."""
COMPARED = ("dot", "pearson", "euclidean")
_FLOATS = 1_000_000
"""Numbers in the tokens of one chunk of trials, which bounds memory to a few hundred megabytes."""


def study(size: Literal["full", "miniature"] = "full", seed: int = 0) -> dict[str, pd.DataFrame]:
    """Return every frame of this module by name; "miniature" is a tenth of the trials on fewer and smaller points.

    Raises:
        UnknownNameError: for an unknown size.
    """
    full = known("size", size, ["full", "miniature"]) == "full"
    trials, sizes = (1000, SIZES) if full else (100, SIZES[:4])
    tasks = accuracy_by_task(trials if full else 200, _octaves(8 if full else 2), seed=seed)
    lines = curves(trials, seed, n_a=100 if full else 21, sizes=sizes)
    return {
        "amicl_counts": counts(trials, seed, 5 * trials),
        "amicl_curves": lines,
        "amicl_agreement": against_paper(lines),
        "amicl_heat_maps": heat_maps(seed),
        "amicl_tasks": tasks,
        "amicl_best_a": best_a(tasks),
    }


# --- against the paper ----------------------------------------------------------------------------------------------


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
    return _agreement(pd.concat(frames).sort_index())


def _agreement(frame: pd.DataFrame) -> pd.DataFrame:
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
    for curve, task in _by_size(sizes):
        [correct] = answers(task, torch.tensor([2.0]), ["dot"], trials, seed).values()
        frames.append(_curve(curve, [float(task.d if curve == "dimension" else task.length)], correct))
    return pd.concat([*frames, _paper()], ignore_index=True)


def _by_size(sizes: tuple[int, ...]) -> Iterator[tuple[str, AMICLTaskConfig]]:
    for size in sizes:
        yield "length", replace(CURVES, length=size)
        yield "dimension", replace(CURVES, d=size)


def _curve(name: str, x: list[float], correct: Answers) -> pd.DataFrame:
    intervals = pd.DataFrame([_share(of_a) for of_a in correct])
    return pd.concat([pd.DataFrame({"curve": name, "source": "here", "x": x}), intervals], axis=1)


def _paper() -> pd.DataFrame:
    rows = []
    for curve, points in READ_OFF.items():
        for x, y in points:
            ends = {"low": max(0.0, y - READING_ERROR), "high": min(1.0, y + READING_ERROR)}
            rows.append({"curve": curve, "source": "paper, plot", "x": x, "accuracy": y, **ends, "n": PRINTED_TRIALS})
    for _, _, _, a, paper in PRINTED[:5]:
        of_printed = np.arange(PRINTED_TRIALS)[:, None] < paper
        rows.append({"curve": "dot by a", "source": "paper, printed", "x": a, **_share(of_printed)})
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


# --- heat maps ------------------------------------------------------------------------------------------------------


def heat_maps(seed: int = 0) -> pd.DataFrame:
    """Return one sequence's attention, cell by cell: map, stage, similarity, row, column, value, answer.

    Stages are "scores", "softmax" and "argmax". The map "authors" is M[i, j] = sim(key i, query j) for i > j and 0
    elsewhere, normalised along rows with the zeros counted, and with distances as they are (larger is farther); its
    last row is the blank's random key, not what is retrieved. The map "corrected" has queries as rows and keys as
    columns, distances negative. It leaves out later keys and each token's own (NaN), but for the blank, whose own key
    is random: its last row is the retrieval. ``answer`` marks there the label asked for. The
    sequence is the first whose answer stands in the first half but not in the first pair, so that it can be told from
    what is nearest anyway.
    """
    batch = AMICLTask("pairs", seed).sample(100)
    early = next(trial for trial in range(100) if _is_early(batch.right[trial, 0]))
    frames = []
    for similarity in SIMILARITIES:
        full = AMICL(2.0, similarity).similarities(batch.sequences)[early]
        frames += [_cells("authors", similarity, stage, m) for stage, m in _authors_maps(full, similarity).items()]
        frames += [_cells("corrected", similarity, stage, m) for stage, m in _corrected_maps(full).items()]
    frame = pd.concat(frames, ignore_index=True)
    right = np.flatnonzero(batch.right[early, 0].numpy())
    retrieval = (frame["map"] == "corrected") & (frame.row == batch.config.n_tokens - 1)
    return frame.assign(answer=retrieval & frame.column.isin(right))


def _is_early(right: Bool[Tensor, " pos"]) -> bool:
    places = right.nonzero()[:, 0]
    return int(places.min()) > 1 and int(places.max()) < len(right) // 2


def _authors_maps(full: Float[Tensor, "query key"], similarity: str) -> dict[str, Tensor]:
    sign = -1 if similarity in ("manhattan", "euclidean") else 1
    scores = (sign * full).T.tril(-1)
    return {"scores": scores, "softmax": scores.softmax(-1), "argmax": _one_hot(scores)}


def _corrected_maps(full: Float[Tensor, "query key"]) -> dict[str, Tensor]:
    seen = torch.ones_like(full, dtype=torch.bool).tril(-1)
    seen[-1, -1] = True
    scores = full.masked_fill(~seen, -torch.inf)
    maps = {"scores": scores, "softmax": scores.softmax(-1), "argmax": _one_hot(scores)}
    return {stage: values.masked_fill(~seen, torch.nan) for stage, values in maps.items()}


def _one_hot(scores: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    return torch.nn.functional.one_hot(scores.argmax(-1), scores.shape[-1]).float()


def _cells(name: str, similarity: str, stage: str, values: Float[Tensor, "row column"]) -> pd.DataFrame:
    row, column = np.indices(tuple(values.shape))
    cells = {"row": row.ravel(), "column": column.ravel(), "value": values.numpy().ravel()}
    return pd.DataFrame({"map": name, "stage": stage, "similarity": similarity, **cells})


# --- which a is best ------------------------------------------------------------------------------------------------


def accuracy_by_task(
    trials: int = 1000,
    a: Float[Tensor, " a"] | None = None,
    dimensions: tuple[int, ...] = (20, 100),
    seed: int = 0,
) -> pd.DataFrame:
    """Return accuracy over ``a`` for every task, dimension and similarity, and how each ``a`` compares with the best.

    Columns: task, reach, d, similarity, a, accuracy, low, high, n (trials); ``best`` marks the smallest ``a`` of the
    largest accuracy; ``chosen`` is the share of 1000 bootstrap resamples of the trials in which that rule picks this
    ``a``; ``p`` is of a one-sided exact sign test, trial by trial, of the best against this ``a``, and ``not_worse``
    holds unless its Holm adjustment over all ``a`` is below 0.05. ``a`` is by default spaced evenly on a log scale
    from 1/4 to 16.
    """
    grid = _octaves(8) if a is None else a
    frames = []
    for d in dimensions:
        for task, reach in CASES:
            config = replace(TASKS[task][1], d=d)
            for similarity, correct in answers(config, grid, COMPARED, trials, seed, reach).items():
                where = {"task": task, "reach": reach, "d": d, "similarity": similarity}
                frames.append(_compared(correct, grid.tolist(), seed).assign(**where))
    frame = pd.concat(frames, ignore_index=True)
    return frame[["task", "reach", "d", "similarity", *frame.columns[:-4]]]


def best_a(tasks: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return one row a task, dimension and similarity: its best ``a``, with an interval and all that are as good.

    ``tasks`` is :func:`accuracy_by_task`'s. ``best_low`` and ``best_high`` bound the middle 95 % of bootstrap choices;
    ``as_good_from`` to ``as_good_to`` are the ends of the set that is not significantly worse (``as_good`` of them),
    and ``open_above`` says that the set reaches the largest ``a`` tried, so that its upper end was not found.
    """
    tasks = accuracy_by_task() if tasks is None else tasks
    rows = []
    for (task, reach, d, similarity), of_case in tasks.groupby(["task", "reach", "d", "similarity"], sort=False):
        where = {"task": task, "reach": reach, "d": d, "similarity": similarity}
        rows.append(where | _summary(of_case.sort_values("a")))
    return pd.DataFrame(rows)


def _summary(case: pd.DataFrame) -> dict[str, float | int | bool]:
    best, good, below = case[case.best].iloc[0], case[case.not_worse], case.chosen.cumsum()
    return {
        "best_a": float(best.a),
        "best_low": float(case.a[below >= 0.025].iloc[0]),
        "best_high": float(case.a[below >= 0.975 - 1e-9].iloc[0]),
        "accuracy": float(best.accuracy),
        "low": float(best.low),
        "high": float(best.high),
        "as_good_from": float(good.a.min()),
        "as_good_to": float(good.a.max()),
        "as_good": len(good),
        "open_above": bool(good.a.max() == case.a.max()),
        "n": int(best.n),
    }


def _compared(correct: Answers, a: list[float], seed: int) -> pd.DataFrame:
    scores = correct.mean(-1)
    best = int(scores.mean(-1).argmax())
    p = _sign_tests(scores, scores[best])
    judged = {"best": np.arange(len(a)) == best, "chosen": _chosen(scores, seed), "p": p}
    frame = pd.concat([pd.DataFrame({"a": a}), pd.DataFrame([_share(of_a) for of_a in correct])], axis=1)
    return frame.assign(**judged, not_worse=adjust(p) >= 0.05)


def _sign_tests(scores: Float[np.ndarray, "a trial"], best: Float[np.ndarray, " trial"]) -> Float[np.ndarray, " a"]:
    """How likely so many trials in favour of the best are, if either side wins a differing trial by a fair coin."""
    better, worse = (best > scores).sum(-1), (best < scores).sum(-1)
    return stats.binom.sf(better - 1, better + worse, 0.5)


def _chosen(scores: Float[np.ndarray, "a trial"], seed: int, resamples: int = 1000) -> Float[np.ndarray, " a"]:
    n_a, trials = scores.shape
    rng = np.random.default_rng(derive_seed("amicl bootstrap", seed))
    weights = rng.multinomial(trials, np.full(trials, 1 / trials), resamples).astype(np.float64)
    # Rounded, since sums of thirds in another order would break ties at random.
    best = (weights @ scores.T).round(6).argmax(-1)
    return np.bincount(best, minlength=n_a) / resamples


# --- asking ---------------------------------------------------------------------------------------------------------


def answers(
    config: AMICLTaskConfig,
    a: Float[Tensor, " a"],
    similarities: Iterable[str],
    trials: int,
    seed: int = 0,
    reach: int = 1,
) -> dict[str, Answers]:
    """Return by similarity which blanks are answered rightly, for every ``a``, all on the same trials.

    Raises:
        UnknownNameError: for an unknown similarity (nearest suggested).
        ValueError: for no trials, or a negative ``a``.
    """
    require(trials >= 1, f"trials must be at least 1, got {trials}")
    names = [known("similarity", name, SIMILARITIES) for name in similarities]
    found: dict[str, list[Answers]] = {name: [] for name in names}
    for batch in _batches(AMICLTask(config, seed), trials):
        for name in names:
            right = batch.correct(nearest_over_a(batch.sequences, a, name, reach))
            found[name].append(right.numpy())
    return {name: np.concatenate(parts, 1) for name, parts in found.items()}


def _batches(task: AMICLTask, trials: int) -> Iterator[AMICLBatch]:
    chunk = max(1, min(250, _FLOATS // (task.config.n_tokens * task.config.d)))
    for number, start in enumerate(range(0, trials, chunk)):
        yield task.sample(min(chunk, trials - start), number)


def _share(correct: Bool[np.ndarray, "trial blank"]) -> dict[str, float | int]:
    """Accuracy with Wilson's interval; trials are counted, since the blanks of one share its context."""
    n, accuracy = len(correct), float(correct.mean())
    ends = stats.binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
    return {"accuracy": accuracy, "low": float(ends.low), "high": float(ends.high), "n": n}


def _octaves(steps: int) -> Float[Tensor, " a"]:
    """From 1/4 to 16, with so many steps to every doubling."""
    return 2 ** torch.linspace(-2, 4, 6 * steps + 1)
