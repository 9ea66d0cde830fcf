"""Learned gains through training: the arms are what they are called, and what is lost is what interventions lose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from circuits import FixedGain, Intervention, LearnedGain, Mean, SigmoidGain, Site, TokenGain, intervened
from experiments.runs.run import Run
from experiments.runs.training_config import Every
from experiments.studies.committed_results import Bundle
from experiments.studies.learned_gains import gains_in_training as study
from experiments.studies.learned_gains.asking import through_training
from experiments.sweeps.sweep import sweep
from figures.trainings.gains_in_training import gains_in_training as drawn

N = 64
KINDS = {
    "value": FixedGain,
    "resformer-learned": LearnedGain,
    "modded-nanogpt": LearnedGain,
    "x-transformers": TokenGain,
    "nanochat gate": SigmoidGain,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A run of every arm with a stream, a few updates long."""
    of_seed = [arm.config for arm in study.EXPERIMENT.arms() if arm.config.seed == 78 and arm.label != "classic"]
    short = [
        replace(c, training=replace(c.training, steps=20, stop_at=None, n_eval=50, checkpoint_at=(Every(20),)))
        for c in of_seed
    ]
    return list(sweep(short, tmp_path_factory.mktemp("gains"), workers=1, progress=False))


@pytest.fixture(scope="module")
def frame(runs: list[Run]) -> pd.DataFrame:
    return through_training(runs, N, progress=False)["gains_in_training"]


def test_the_gains_of_arms_are_of_the_kinds_that_they_are_called_after() -> None:
    arms = [arm for arm in study.EXPERIMENT.arms() if arm.config.seed == 78]
    assert [arm.label for arm in arms] == list(study.DECLARED.plan.arms)
    assert {a.label: type(s.gain) for a in arms for s in a.config.model.streams} == KINDS
    assert all(arm.config.training.checkpoint_at for arm in arms)


def test_every_checkpoint_of_every_run_is_asked(runs: list[Run], frame: pd.DataFrame) -> None:
    asked = frame[frame["head"] == "all"]
    assert [*zip(asked.variant, asked.step, strict=True)] == [(r.config.variant, s) for r in runs for s in (0, 20)]
    fixed, learned = (asked[asked.variant == v].gain for v in ("value", "resformer-learned"))
    assert list(fixed) == [1, 1]
    assert learned.iloc[0] == 0.5 != learned.iloc[1]


def test_what_is_lost_is_what_interventions_lose(runs: list[Run], frame: pd.DataFrame) -> None:
    for run in runs:
        batch = run.task().sample(N, "ic", seed=1)
        row = frame[(frame.run == run.path.name) & (frame.step == 20) & (frame["head"] == "all")]
        model = run.load_model(20)
        for route, column in (("residual", "lost"), ("own", "other_lost"), ("mixed", "both_lost")):
            site = Site(1, "v", route)  # type: ignore[arg-type] # literals
            _, baseline = model.run_with_cache(batch.inputs, names_filter=site.hook_name, return_cache_object=False)
            with intervened(model, [Intervention(site, Mean())], baseline=baseline), torch.no_grad():
                loss = cross_entropy(model(batch.inputs)[:, -1], batch.labels).item()
            assert row[column].item() == pytest.approx(loss - row.loss.item(), abs=1e-5)
        assert row.both_lost.abs().item() > 1e-4, "something is lost"


class Held(Bundle):
    """A bundle of one frame."""

    def __init__(self, frame: pd.DataFrame):
        super().__init__(Path(), {})
        object.__setattr__(self, "held", frame)

    def frame(self, name: str) -> pd.DataFrame:
        return {study.FRAME: vars(self)["held"]}[name]

    def holds(self, experiments: Any) -> bool:
        return True

    def experiment(self, name: str) -> pd.DataFrame:
        return pd.DataFrame(index=range(study.EXPERIMENT.declared))


def made(frame: pd.DataFrame, share: np.ndarray, causal: np.ndarray) -> Held:
    """Rows of a run of eight checkpoints, with these shares of the gains and of what is lost."""
    row = frame[(frame["head"] == "all")].iloc[[0]]
    rows = pd.concat([row] * len(share), ignore_index=True).assign(step=np.arange(len(share)) * 50)
    told = {"gain": share, "other_gain": 1 - share, "lost": causal, "other_lost": 1 - causal, "both_lost": 1.0}
    return Held(rows.assign(**told))


def test_a_gain_that_follows_is_told_from_one_that_stands_or_goes_the_other_way(frame: pd.DataFrame) -> None:
    causal = np.linspace(0.1, 0.9, 8)
    found = {
        name: study.agreement(made(frame, share, causal)).query("told_by == 'gain_share'").iloc[0]
        for name, share in {"with": causal, "against": 1 - causal, "stands": np.full(8, 0.5)}.items()
    }
    assert found["with"].off == pytest.approx(0, abs=1e-9)
    assert found["with"].order == pytest.approx(1)
    assert found["against"].order == pytest.approx(-1)
    assert np.isnan(found["stands"].order)
    assert found["stands"].off > 0.2


def test_where_nothing_is_lost_nothing_is_said_of_shares(frame: pd.DataFrame) -> None:
    causal = np.linspace(0.1, 0.9, 8)
    held = made(frame, causal, causal)
    less = Held(held.frame(study.FRAME).assign(both_lost=[0.01] * 5 + [1.0] * 3))
    assert list(study.shares(held).step) == [*range(0, 400, 50)]
    assert list(study.shares(less).step) == [250, 300, 350]


def test_what_is_asked_is_drawn_and_told(frame: pd.DataFrame) -> None:
    held = Held(frame.assign(both_lost=1.0))
    off = study.agreement(held).groupby("told_by").off.mean().reset_index(name="mean")
    table = study.shares(held).melt(["variant", "step"], list(study.SHARES), "share", "mean")
    figure = drawn(table.assign(low=np.nan, high=np.nan, n=1), off, list(frame.run.unique()))
    assert "causal share is told to within" in figure.layout.title.text
    two = Held(pd.concat([frame, frame.assign(run=frame.run + "-again", seed=79)]).assign(both_lost=1.0))
    assert study._agreement_table(two).count("does not change") >= 1
    assert study._ends_table(two).count("| last |") == len(KINDS)
