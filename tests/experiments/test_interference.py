"""Is it interference: the arms cut one edge in their windows, and the parts of values add up to what is used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from circuits import HookedStreamTransformer, Without, icl_config
from experiments.runs.run import Run
from experiments.studies.interference.asking import PARTS, signal_share, study, value_parts
from experiments.studies.interference.study import DECLARED, INTERFERENCE
from figures.trainings.value_parts import value_parts as drawn
from tests.helpers import small_task


def test_the_arms_cut_the_edge_that_their_names_say_in_their_windows() -> None:
    windows = {}
    for arm in INTERFERENCE.arms()[: len(DECLARED.plan.arms)]:
        cuts = arm.config.training.interventions
        assert all(cut.operation == Without(0) and str(cut.site.hook_name) == "blocks.1.attn.hook_v" for cut in cuts)
        windows[arm.label] = [(cut.first, cut.last) for cut in cuts]
        assert bool(arm.config.model.streams) == arm.label.startswith("value")
        assert bool(arm.config.training.checkpoint_at) == (arm.label in ("classic", "value"))
    whole, early, late = [(0, None)], [(0, 400)], [(400, None)]
    for variant in ("classic", "value"):
        assert windows[variant] == []
        assert windows[f"{variant}, cut"] == whole
        assert windows[f"{variant}, cut to 400"] == early
        assert windows[f"{variant}, cut from 400"] == late


@pytest.mark.parametrize("variant", ["classic", "value"])
def test_the_parts_of_values_add_up_to_what_is_used(variant: str) -> None:
    batch = small_task().sample(8, "ic", seed=0)
    model = HookedStreamTransformer(icl_config(variant, "small")).eval()
    parts = value_parts(model, batch)
    stream = parts.get("stream", torch.zeros_like(parts["own"]))
    assert torch.allclose(parts["input"] + parts["first layer"], parts["own"])
    assert torch.allclose(parts["own"] + stream, parts["used"], atol=1e-6)
    assert ("stream" in parts) == (variant == "value")
    assert {*parts} <= {*PARTS}
    assert len(parts["used"]) == batch.context_labels.numel()


def test_label_tokens_are_those_whose_content_is_the_label() -> None:
    batch = small_task().sample(8, "ic", seed=0)
    content = batch.inputs[:, 1:-1:2, 17:].flatten(0, 1)
    assert torch.equal(content, batch.label_vectors[batch.context_labels.flatten()])


def test_the_share_of_signal_is_one_where_the_label_fixes_a_value_and_none_where_it_says_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat(500)
    table = torch.randn(4, 6, generator=rng)
    assert signal_share(table[labels], labels) == pytest.approx(1, abs=1e-6)
    noise = torch.randn(2000, 6, generator=rng)
    assert abs(signal_share(noise, labels)) < 0.01
    centred = table - table.mean(0)
    scaled = noise * (centred.square().sum() / 4 / 6) ** 0.5
    assert signal_share(table[labels] + scaled, labels) == pytest.approx(0.5, abs=0.05)


def test_what_is_asked_of_runs_is_a_row_a_checkpoint_and_part_and_is_drawn(trained_runs: Path) -> None:
    run = Run.open(next(trained_runs.glob("icl-value-*")))
    frame = study([run], 32, progress=False)["interference"]
    assert {*zip(frame.step, frame.part, strict=True)} == {(s, p) for s in run.checkpoints() for p in PARTS}
    assert frame[frame.part == "input"].overlap.to_numpy() == pytest.approx(1)
    long = frame.melt(["variant", "seed", "step", "part"], ["size", "overlap", "signal"], "measure", "mean")
    figure = drawn(long.assign(low=np.nan, high=np.nan, n=1), [run.path.name])
    assert "At the end the label fixes" in figure.layout.title.text
