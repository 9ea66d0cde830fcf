"""Cutting edges: of the hand-weighted circuits exactly those that matter; equal to ablating sites where both say it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from analysis import Ablation, Pair, ablate, ablate_edges
from analysis.edges.graph import Graph
from circuits import UnknownNameError
from circuits.interventions.intervention import Zero
from circuits.interventions.replacement import others
from tests.handmade import induction_model, stream_model
from tests.helpers import FULL, build, inputs_for

KINDS = [("vectors", 2), ("tokens", 3)]


@pytest.mark.parametrize("make", [induction_model, stream_model])
@pytest.mark.parametrize("method", ["zero", "mean", "resample"])
def test_cutting_an_edge_breaks_the_circuit_if_it_is_in_it(make: Any, method: Any) -> None:
    made = make()
    frame = ablate_edges(made.model, made.pair, method=method).to_frame().set_index("part")
    assert (frame.accuracy == 1).all()
    idle = frame[~frame.index.isin(made.edges)]
    assert idle.changed.max() < 1e-6
    needed = frame.loc[sorted(made.edges)]
    # Which token stands before is the same everywhere where the token itself does not say it: positions do.
    positions = needed.index.str.startswith("input > L0H1.") & ~needed.index.str.contains(".v ", regex=False)
    assert (needed[~positions].accuracy_ablated < 1).all()
    assert (needed[positions].accuracy_ablated < 1).all() or method != "zero"


@pytest.mark.parametrize("variant", FULL)
def test_all_edges_out_of_a_head_are_its_output(variant: str) -> None:
    model = build(variant, "tokens", 3)
    x = inputs_for(model.config, 6)
    y = torch.arange(6)
    graph = Graph(model)
    out = [edge.name for edge in graph.edges if edge.source.name == "L0H1"]
    cut = ablate_edges(model, Pair.one_sided(x, y), [out, out[:1]], "zero").to_frame()
    site = ablate(model, Pair.one_sided(x, y), [Ablation.z(model, 0, 1, Zero())]).to_frame()
    assert cut.loss_ablated[0] == pytest.approx(site.loss_ablated.iloc[0], abs=1e-10)
    assert abs(cut.loss_ablated[1] - cut.loss_ablated[0]) > 1e-9
    assert cut.part[0] == " + ".join(out)


@pytest.mark.parametrize("there", [{"d_model": 12}, {"n_heads": 2}, {"variant": "key"}, {"n_layers": 2}])
def test_what_edges_carry_is_taken_from_a_model_of_the_same_architecture(there: dict[str, Any]) -> None:
    model = build("value", "tokens", 3)
    pair = Pair.one_sided(inputs_for(model.config, 4), torch.arange(4))
    other = build(**({"variant": "value", "kind": "tokens", "n_layers": 3} | there))
    with pytest.raises(ValueError, match="has other (edges|sizes) than this one .*; take a model of the same"):
        ablate_edges(model, pair, None, "from run", other)
    alike = build("value", "tokens", 3)
    assert len(ablate_edges(model, pair, None, "from run", alike).to_frame()) == len(Graph(model))


@pytest.mark.parametrize("variant", ["value", "cumulative", "key", "lime", "cross-carrier"])
def test_all_stream_edges_are_the_stream(variant: str) -> None:
    """In two layers, where what is carried is used at once: the same as zeroing what comes in."""
    model = build(variant, "tokens", 2)
    x = inputs_for(model.config, 6)
    y = torch.arange(6)
    stream = [edge.name for edge in Graph(model).edges if edge.route == "stream"]
    cut = ablate_edges(model, Pair.one_sided(x, y), [stream], "zero").to_frame()
    site = ablate(model, Pair.one_sided(x, y), [Ablation.stream(model, "zero")]).to_frame()
    assert cut.loss_ablated[0] == pytest.approx(site.loss_ablated.iloc[0], abs=1e-10)


def test_resampling_takes_another_example_and_from_run_another_model() -> None:
    model, other = build("value", "tokens", 2), build("value", "tokens", 2)
    with torch.no_grad():
        other.layers[0].attn.W_V.mul_(2)  # type: ignore[union-attr] # a parameter
    x, y = inputs_for(model.config, 5), torch.arange(5)
    everything = [[edge.name for edge in Graph(model).edges]]
    swapped = ablate_edges(model, Pair.one_sided(x, y), everything, "resample", seed=3).to_frame()
    theirs = model(x[others(5, 3)])[:, -1]
    expected = torch.nn.functional.cross_entropy(theirs, y)
    assert swapped.loss_ablated[0] == pytest.approx(float(expected.detach()), abs=1e-10)
    taken = ablate_edges(model, Pair.one_sided(x, y), ["L0H0.v > L1H0.v (stream)"], "from run", other).to_frame()
    same = ablate_edges(model, Pair.one_sided(x, y), ["L0H0.v > L1H0.v (stream)"], "from run", model).to_frame()
    assert taken.changed[0] > 1e-6
    assert same.changed[0] < 1e-12


def test_mistakes_are_explained() -> None:
    model, classic = build("value", "tokens", 2), build("classic", "tokens", 2)
    x, y = inputs_for(model.config, 3), torch.arange(3)
    cases: list[tuple[Any, str]] = [
        (lambda: ablate_edges(model, Pair.one_sided(x, y), method="from run").to_frame(), "needs the other model"),
        (
            lambda: ablate_edges(model, Pair.one_sided(x, y), method="from run", other=classic).to_frame(),
            "has other edges than this one",
        ),
        (
            lambda: ablate_edges(model, Pair.one_sided(x[:1], y[:1]), method="resample").to_frame(),
            "this batch has only one",
        ),
        (lambda: ablate_edges(model, Pair.one_sided(x, y), max_memory=3).to_frame(), "is less than one copy"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(UnknownNameError, match=r"unknown edge 'L0H0 > L1H0' ?: did you mean"):
        ablate_edges(model, Pair.one_sided(x, y), ["L0H0 > L1H0"]).to_frame()
    with pytest.raises(ValueError, match="evaluation mode"):
        ablate_edges(model.train(), Pair.one_sided(x, y)).to_frame()
