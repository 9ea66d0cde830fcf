"""What does a training step of every variant cost, and does what the stream brings pay for it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from circuits.common.text_table import interval, markdown, rows_of
from experiments.studies.committed_results import Bundle
from experiments.studies.language_models import BY_SIZE, PAIR, SIZES, SMALLEST, STORIES, THRESHOLD, VARIANTS
from experiments.studies.study import REFERENCE, Asking, Block, Picture, Size, Study
from experiments.studies.times import compared
from figures.trainings.against_classic import cost_against_gain

TOGETHER = (STORIES, BY_SIZE)


def measure(rounds: int = 40, device: str = "cpu") -> dict[str, pd.DataFrame]:
    """Return the frame "lm_cost": :func:`experiments.studies.step_cost.measured.step_costs` of every size."""
    from experiments.studies.step_cost.measured import step_costs

    asked = {size: VARIANTS if size == SMALLEST else PAIR for size in SIZES}
    frames = [step_costs(size, variants, rounds, device) for size, variants in asked.items()]
    return {"lm_cost": pd.concat(frames, ignore_index=True)}


def _compute(roots: Sequence[Path], size: Size) -> dict[str, pd.DataFrame]:
    return measure(40 if size == "full" else 10)


def _cost(bundle: Bundle) -> pd.DataFrame:
    """What a step of every variant costs and what it gains, as ratios to classic of the same size.

    Columns: variant, size, time with time_low and time_high (of a training step), memory (held for the backward pass),
    tokens with tokens_low and tokens_high (to the threshold of the experiment), reached, pairs.
    """
    costs = bundle.frame("lm_cost")
    both = pd.concat([compared(bundle, experiment) for experiment in TOGETHER])
    named = {"condition": "size", "ratio": "tokens", "low": "tokens_low", "high": "tokens_high"}
    gains = both[both.reference == REFERENCE].rename(columns=named).drop_duplicates(["size", "variant"])
    gains = gains[["size", "variant", "tokens", "tokens_low", "tokens_high", "reached", "pairs"]]
    return costs[costs.variant != REFERENCE].merge(gains, on=["size", "variant"])


def _cost_table(bundle: Bundle) -> str:
    rows = [
        {
            "size": r.size,
            "variant": r.variant,
            "time a step": interval(r.time, r.time_low, r.time_high, ".3f"),
            "memory": f"{r.memory:.3f}",
            "tokens to threshold": interval(r.tokens, r.tokens_low, r.tokens_high, ".2f"),
            "time to threshold": "-" if np.isnan(r.tokens) else f"{r.time * r.tokens:.2f}",
            "got there": f"{r.reached:.0f} of {r.pairs}",
        }
        for r in rows_of(_cost(bundle))
    ]
    return markdown(pd.DataFrame(rows))


def _against_gain(bundle: Bundle) -> dict[str, Any]:
    runs = [run for experiment in TOGETHER for run in bundle.experiment(experiment.name).name]
    return {"table": _cost(bundle), "runs": runs, "of": f"{BY_SIZE.of}, {THRESHOLD}"}


STUDY = Study(
    name="step_cost",
    question="What does a step cost, and what does it bring?",
    asking=Asking(("lm_cost",), _compute),
    pictures=(Picture("lm_cost", cost_against_gain, _against_gain, TOGETHER, ("lm_cost",)),),
    blocks=(Block("lm-cost", _cost_table, "What it costs, and what it brings", TOGETHER),),
)
