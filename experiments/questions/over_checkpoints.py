"""A question to the checkpoints of a run, one after the other: each that was asked is kept if it is interrupted."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import analysis
from experiments.questions.question import Frame, Model, Question, Run

if TYPE_CHECKING:
    from torch import Tensor

    from analysis.resuming import KeptRows
else:
    KeptRows = Tensor = Any


def over(
    question: Question,
    run: Run,
    checkpoints: Sequence[int],
    ask: Callable[[Model], Frame],
    progress: bool = False,
    kept: analysis.KeptIn | None = None,
    **about: Any,
) -> Frame:
    """Return what is found at checkpoints, all of them where none is named, with their step; -1 is the last.

    ``about`` (plain data) is what it depends on beside the run and the question's options, or what these come to.

    Raises:
        RunError: if there is no checkpoint at one of the steps (nearest suggested), before anything is asked.
    """
    import pandas as pd

    from analysis.resuming import measured
    from experiments.runs.record import checkpoint_step

    asked = [checkpoint_step(run.record, run.path.name, step) for step in checkpoints or run.checkpoints() or (-1,)]
    steps = list(dict.fromkeys(asked))
    names = [f"{step}, {run.record['checkpoints'][str(step)]}" for step in steps]

    def measure(numbers: list[int]) -> list[Tensor]:
        return [_as_bytes(ask(question.model(run, steps[i]))) for i in numbers]

    rows = None if kept is None else _kept(kept, question, run, about)
    found = measured(names, ([i] for i in range(len(steps))), measure, rows, "checkpoints", progress)
    frames = [pd.read_parquet(io.BytesIO(data.numpy().tobytes())) for data in found]
    return pd.concat([frame.assign(step=step) for frame, step in zip(frames, steps, strict=True)], ignore_index=True)


def _kept(kept: analysis.KeptIn, question: Question, run: Run, about: dict[str, Any]) -> KeptRows:
    from analysis.resuming import code_hash

    asked = {"options": question.plain() | about, "run": run.record["id"]}
    return kept.rows(
        "asking checkpoints",
        kind=type(question).__name__,
        code=code_hash("circuits", "analysis", "experiments"),
        **asked,
    )


def _as_bytes(frame: Frame) -> Tensor:
    import torch

    from experiments.runs.frames import parquet_bytes

    return torch.frombuffer(bytearray(parquet_bytes(frame)), dtype=torch.uint8)
