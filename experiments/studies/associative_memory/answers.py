"""The associative memory asked: which blanks it answers rightly, what it attends to, and which ``a`` is best by task.

Everything is drawn from seeds.

Source: arXiv 2412.15113 (associative memory model).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

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
from experiments.tasks.associative_memory import TASKS, AMICLTask, AMICLTaskConfig

Answers = Bool[np.ndarray, "a trial blank"]

_OF_ONE = ("pairs", "several queries", "noisy labels", "distractors", "conjunction", "lag")
CASES: tuple[tuple[str, int], ...] = (*((task, 1) for task in _OF_ONE), ("lag", 3))
"""Tasks and the reach of the memory that is asked."""
COMPARED = ("dot", "pearson", "euclidean")
_FLOATS = 1_000_000
"""Numbers in the tokens of one chunk of trials, which bounds memory to a few hundred megabytes."""


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
    task, chunk = AMICLTask(config, seed), max(1, min(250, _FLOATS // (config.n_tokens * config.d)))
    for number, start in enumerate(range(0, trials, chunk)):
        batch = task.sample(min(chunk, trials - start), seed=number)
        for name in names:
            right = batch.correct(nearest_over_a(batch.sequences, a, name, reach))
            found[name].append(right.numpy())
    return {name: np.concatenate(parts, 1) for name, parts in found.items()}


def share(correct: Bool[np.ndarray, "trial blank"]) -> dict[str, float | int]:
    """Return accuracy with Wilson's interval; trials are counted, since the blanks of one share its context."""
    n, accuracy = len(correct), float(correct.mean())
    ends = stats.binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
    return {"accuracy": accuracy, "low": float(ends.low), "high": float(ends.high), "n": n}


def octaves(steps: int) -> Float[Tensor, " a"]:
    """Return an even grid of ``a`` from 1/4 to 16, with so many steps to every doubling."""
    return 2 ** torch.linspace(-2, 4, 6 * steps + 1)


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
    places, n = [right.nonzero()[:, 0] for right in batch.right[:, 0]], batch.config.n_tokens
    early = next(trial for trial, at in enumerate(places) if at.min() > 1 and at.max() < batch.right.shape[-1] // 2)
    every = torch.ones(n, n, dtype=torch.bool)
    seen = every.tril(-1)
    seen[-1, -1] = True
    row, column = (index.ravel() for index in np.indices((n, n)))
    frames = []
    for similarity in SIMILARITIES:
        full = AMICL(2.0, similarity).similarities(batch.sequences)[early]
        sign = -1 if similarity in ("manhattan", "euclidean") else 1
        authors, corrected = (sign * full).T.tril(-1), full.masked_fill(~seen, -torch.inf)
        for name, scores, shown in (("authors", authors, every), ("corrected", corrected, seen)):
            largest = torch.nn.functional.one_hot(scores.argmax(-1), n).float()
            stages = {"scores": scores, "softmax": scores.softmax(-1), "argmax": largest}
            for stage, values in stages.items():
                cells = {"row": row, "column": column, "value": values.masked_fill(~shown, torch.nan).numpy().ravel()}
                frames.append(pd.DataFrame({"map": name, "stage": stage, "similarity": similarity, **cells}))
    frame = pd.concat(frames, ignore_index=True)
    right = np.flatnonzero(batch.right[early, 0].numpy())
    retrieval = (frame["map"] == "corrected") & (frame.row == n - 1)
    return frame.assign(answer=retrieval & frame.column.isin(right))


def accuracy_by_task(
    trials: int = 1000, a: Float[Tensor, " a"] | None = None, dimensions: tuple[int, ...] = (20, 100), seed: int = 0
) -> pd.DataFrame:
    """Return accuracy over ``a`` for every task, dimension and similarity, and how each ``a`` compares with the best.

    Columns: task, reach, d, similarity, a, accuracy, low, high, n (trials); ``best`` marks the smallest ``a`` of the
    largest accuracy; ``chosen`` is the share of 1000 bootstrap resamples of the trials in which that rule picks this
    ``a``; ``p`` is of a one-sided exact sign test, trial by trial, of the best against this ``a``, and ``not_worse``
    holds unless its Holm adjustment over all ``a`` is below 0.05. ``a`` is by default spaced evenly on a log scale
    from 1/4 to 16.
    """
    grid = octaves(8) if a is None else a
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
        case = of_case.sort_values("a", kind="stable")
        best, good, below = case[case.best].iloc[0], case[case.not_worse], case.chosen.cumsum()
        row = {"task": task, "reach": reach, "d": d, "similarity": similarity, "best_a": float(best.a)}
        row |= {"best_low": float(case.a[below >= 0.025].iloc[0])}
        row |= {"best_high": float(case.a[below >= 0.975 - 1e-9].iloc[0])}
        row |= {name: float(best[name]) for name in ("accuracy", "low", "high")}
        row |= {"as_good_from": float(good.a.min()), "as_good_to": float(good.a.max()), "as_good": len(good)}
        rows.append(row | {"open_above": bool(good.a.max() == case.a.max()), "n": int(best.n)})
    return pd.DataFrame(rows)


def _compared(correct: Answers, a: list[float], seed: int) -> pd.DataFrame:
    scores = correct.mean(-1)
    best = int(scores.mean(-1).argmax())
    # How likely so many trials in favour of the best are, if either side wins a differing trial by a fair coin.
    better, worse = (scores[best] > scores).sum(-1), (scores[best] < scores).sum(-1)
    p = stats.binom.sf(better - 1, better + worse, 0.5)
    judged = {"best": np.arange(len(a)) == best, "chosen": _chosen(scores, seed), "p": p}
    frame = pd.concat([pd.DataFrame({"a": a}), pd.DataFrame([share(of_a) for of_a in correct])], axis=1)
    return frame.assign(**judged, not_worse=adjust(p) >= 0.05)


def _chosen(scores: Float[np.ndarray, "a trial"], seed: int, resamples: int = 1000) -> Float[np.ndarray, " a"]:
    n_a, trials = scores.shape
    rng = np.random.default_rng(derive_seed("amicl bootstrap", seed))
    weights = rng.multinomial(trials, np.full(trials, 1 / trials), resamples).astype(np.float64)
    # Rounded, since sums of thirds in another order would break ties at random.
    best = (weights @ scores.T).round(6).argmax(-1)
    return np.bincount(best, minlength=n_a) / resamples
