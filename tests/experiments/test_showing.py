"""Every value that a user holds shows itself: in a line, in a table, in a figure; and what users name is text."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from torch.nn import functional as F

import analysis
import experiments
from analysis import (
    Pair,
    ablate,
    ablate_edges,
    attention_view,
    attribute,
    attribute_edges,
    attribute_logits,
    compare,
    copy_score,
    find_circuit,
    find_sites,
    follow,
    head_composition,
    head_shares,
    judge,
    logit_lens,
    patch,
    patch_paths,
    route_map,
    score_heads,
    split_gradient,
)
from analysis.heads.attention_scores import previous_token
from analysis.switchboard.document import of_edges
from circuits.common.showing import Shown
from experiments.tasks.indirect_objects.config import IOIConfig
from experiments.tasks.registry import make_task
from tests.helpers import build, random_pair, run_named, small_task

HOSTILE = "<img src=x onerror=alert(1)>"
MODEL = build("value", "tokens", 2)
PAIR = random_pair(MODEL)
SEEDS = pd.DataFrame(
    [{"variant": v, "seed": s, "value": 1.0 + s * (v == HOSTILE)} for v in ("a", HOSTILE) for s in (1, 2, 4)]
)


def split() -> Any:
    return split_gradient(MODEL, lambda logits: F.cross_entropy(logits[:, -1], PAIR.answers), PAIR.clean, by="pair")


def quality() -> Any:
    return judge(MODEL, PAIR, find_circuit(attribute_edges(MODEL, PAIR, direction="noise"), "greedy", 12), subsets=0)


MADE: dict[str, Callable[[], Any]] = {
    "Pair": lambda: PAIR,
    "one side": lambda: Pair.one_sided(PAIR.clean, PAIR.answers),
    "vectors": lambda: small_task().pairs(3, "labels"),
    "Model": lambda: build("nanochat", "tokens", 2),
    "ModelConfig": lambda: MODEL.config,
    "classic": lambda: build("classic").config,
    "ICLTask": small_task,
    "IOITask": lambda: make_task(IOIConfig(), 0),
    "PatchResult": lambda: patch(MODEL, PAIR, find_sites(MODEL, ["state", "v"])),
    "PathResult": lambda: patch_paths(MODEL, PAIR),
    "RouteMap": lambda: route_map(MODEL, PAIR),
    "AttentionView": lambda: attention_view(MODEL, PAIR[0]),
    "EdgeScores": lambda: attribute_edges(MODEL, PAIR),
    "SiteScores": lambda: attribute(MODEL, PAIR, find_sites(MODEL, ["z"])),
    "Circuit": lambda: quality().circuit,
    "Quality": quality,
    "CircuitSteps": lambda: follow([(0, MODEL)], PAIR, quality().circuit, lambda s: find_circuit(s, "greedy", 12)),
    "GradientSplit": split,
    "Ablations": lambda: ablate(MODEL, PAIR),
    "edges": lambda: ablate_edges(MODEL, PAIR, ["L0H0 > logits (residual)"]),
    "HeadShares": lambda: head_shares(MODEL, PAIR),
    "HeadScores": lambda: score_heads(MODEL, PAIR, [previous_token(PAIR)]),
    "copying": lambda: copy_score(MODEL, torch.arange(9), top_k=3),
    "Composition": lambda: head_composition(MODEL),
    "LogitAttribution": lambda: attribute_logits(MODEL, PAIR),
    "LogitLens": lambda: logit_lens(MODEL, PAIR),
    "Comparison": lambda: compare(SEEDS, "a"),
    "Switchboard": lambda: of_edges(attribute_edges(MODEL, PAIR)),
}


@pytest.mark.parametrize("name", MADE)
def test_it_shows_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = MADE[name]()
    assert isinstance(made, Shown)
    said = repr(made)
    assert "\n" not in said
    assert len(said) < 900
    assert "tensor(" not in said
    frame = made.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame)
    assert 0 < len(made.largest(3)) <= max(3, len(frame))
    page = made._repr_html_()
    assert page.count("<table") == 1
    assert "<img" not in page
    assert isinstance(made.figure(), go.Figure)
    made.show()
    assert said in capsys.readouterr().out, "outside of a notebook it is printed"


def test_a_run_shows_how_far_it_is_and_what_was_measured(trained_runs: Path) -> None:
    run = run_named(trained_runs, "value")
    assert run.path.name in run.finding()
    assert "finished" in repr(run)
    assert isinstance(run.figure(), go.Figure)
    pd.testing.assert_frame_equal(run.to_frame(), run.metrics())


def test_what_users_name_is_text_and_what_must_be_known_is_said() -> None:
    named = build("value", "tokens", 2, name=HOSTILE)
    for made in (named, named.config, compare(SEEDS, "a")):
        assert "<img" not in made._repr_html_()
        assert "&lt;img" in made._repr_html_()
    pair = dataclasses.replace(PAIR, positions={HOSTILE: torch.zeros(len(PAIR), 1, dtype=torch.int64)})
    assert "<img" not in pair._repr_html_()
    drawn: Any = pair.figure()
    assert "<img" not in str(drawn.data[0].text)
    with pytest.warns(UserWarning, match="not told apart|does not do"):
        weak = patch(MODEL, PAIR[0:2], find_sites(MODEL, ["z"]))
    assert weak.notes()
    assert "&#9888;" in weak._repr_html_()


def test_effects_are_named_by_their_sizes_and_their_share() -> None:
    found = MADE["PatchResult"]()
    top = found.to_frame().effect.abs().max()
    assert abs(found.largest(1).effect.iloc[0]) == pytest.approx(top)
    assert f"{found.largest(1).effect.iloc[0]:.2f}" in repr(found)
    assert f"n = {len(PAIR)}" in repr(found)


@pytest.mark.parametrize("package", [analysis, experiments])
def test_all_that_has_a_frame_shows_itself(package: Any) -> None:
    public = [getattr(package, name) for name in package.__all__]
    framed = [kind for kind in public if isinstance(kind, type) and hasattr(kind, "to_frame")]
    assert framed
    assert [kind.__name__ for kind in framed if not issubclass(kind, Shown)] == []
    assert importlib.import_module("circuits").HookedStreamTransformer.__mro__.count(Shown) == 1
