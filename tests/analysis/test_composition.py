"""Composition of heads: transformer-lens' numbers through the residual stream, brute force through the other one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformer_lens.utilities.matrix import composition_scores

from analysis.heads.composition import head_composition
from circuits import HookedStreamTransformer, Stream
from circuits.config.gains import FixedGain, LearnedGain
from circuits.config.layers import MLP
from circuits.config.streams import CARRIERS, Carrier, HeadMixing, Weights
from circuits.config.topologies import Cumulative, Dense, WithinLayer
from circuits.streams.mixing import Outgoing
from circuits.streams.transforms import HeadTensor
from tests.handmade import Handmade, induction_model, stream_model
from tests.helpers import LINEAR, build, model_of, token_config

STREAMS = [name for name in LINEAR if name != "classic"]


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def table(frame: pd.DataFrame, column: str = "score") -> pd.Series:
    return frame.set_index(["kind", "from_layer", "from_head", "to_layer", "to_head"])[column]


def stirred(model: HookedStreamTransformer) -> HookedStreamTransformer:
    """Mixing parameters away from their start, so that maps are not the identity."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if ".mix." in name:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).double())
    return model


# --- through the residual stream ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["classic", "value", "lime"])
def test_equal_to_transformer_lens_through_the_residual_stream(variant: str) -> None:
    model = build(variant, "tokens", 3)
    found = table(head_composition(model).to_frame())
    for kind, reads in (("Q", model.QK), ("K", model.QK.T), ("V", model.OV)):
        theirs = composition_scores(model.OV, reads, broadcast_dims=True)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            ours = torch.tensor(found.loc[kind, one, :, other, :].tolist()).view(4, 4)
            assert torch.allclose(ours, theirs[one, :, other].float(), atol=1e-6)
    assert set(found.loc["Q"].index.droplevel([1, 3])) == {(0, 1), (0, 2), (1, 2)}, "only later heads read"


def test_norms_are_those_of_the_products() -> None:
    model = build("value", "tokens", 2)
    frame = head_composition(model).to_frame()
    norms = table(frame, "norm")
    first, second = model.layers[0].attn, model.layers[1].attn
    for h, to in ((0, 1), (2, 2)):
        product = first.W_V[h] @ first.W_O[h] @ (second.W_Q[to] @ second.W_K[to].T).T
        assert norms["K", 0, h, 1, to] == pytest.approx(float(product.norm()))
    carried = first.W_V[2] @ second.W_O[2]
    assert norms["stream v", 0, 2, 1, 2] == pytest.approx(float(carried.norm()))
    assert norms["stream v", 0, 1, 1, 2] == 0


# --- through the stream ---------------------------------------------------------------------------------------------


def used(model: HookedStreamTransformer, own: dict[tuple[int, Carrier], HeadTensor]) -> dict[tuple[int, str], Tensor]:
    """What attention of every layer would use if these were all projections, by the model's own mixing."""
    blank = torch.zeros(1, 1, model.config.d_model).double()
    earlier: Outgoing = {}
    found: dict[tuple[int, str], Tensor] = {}
    for layer, block in enumerate(model.layers):
        here: dict[Carrier, HeadTensor] = {c: own[layer, c] for c in block.attn.own}
        mixed, passed = block.attn.mix_in(here, {c: blank for c in CARRIERS}, earlier)
        found |= {(layer, c): x for c, x in mixed.items()}
        earlier = {**earlier, **passed}
    return found


def brute_force(model: HookedStreamTransformer, row: pd.Series) -> tuple[float, float]:
    """One stream composition with its map found one component at a time."""
    words = row.kind.split()
    reads, feeds = words[1], words[-1]
    config = model.config
    zeros = torch.zeros(1, 1, config.n_heads, config.d_head).double()
    M = torch.zeros(config.d_head, config.d_head).double()
    for i in range(config.d_head):
        own: dict[tuple[int, Carrier], HeadTensor] = {(n, c): zeros for n in range(config.n_layers) for c in CARRIERS}
        one = zeros.clone()
        one[..., row.from_head, i] = 1
        own[row.from_layer, reads] = one
        M[i] = used(model, own)[row.to_layer, feeds][0, 0, row.to_head]
    attn = model.layers[row.to_layer].attn
    partner = {"v": attn.W_O, "k": attn.W_Q.mT, "q": attn.W_K.mT}[feeds][row.to_head]
    A = getattr(model.layers[row.from_layer].attn, f"W_{reads.upper()}")[row.from_head]
    norm, scale = float((A @ M @ partner).norm()), float(A.norm() * (M @ partner).norm())
    return (norm / scale if scale else 0.0), norm


@pytest.mark.parametrize("variant", STREAMS)
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_stream_composition_is_what_brute_force_finds(variant: str, kind: str) -> None:
    overrides = {"n_heads": 2, "d_head": 6} if kind == "tokens" else {"n_heads": 2}
    model = stirred(build(variant, kind, 3, **overrides))
    frame = head_composition(model).to_frame()
    rows = frame[frame.kind.str.startswith("stream")]
    assert len(rows) > 0
    assert rows.norm.max() > 0
    for _, row in rows.iterrows():
        score, norm = brute_force(model, row)
        assert row.score == pytest.approx(score, abs=1e-9)
        assert row.norm == pytest.approx(norm, abs=1e-9)


@pytest.mark.parametrize("weights", ["own", "untied", "initial"])
def test_what_composes_through_a_stream_are_the_weights_that_make_what_it_carries(weights: Weights) -> None:
    streams = (
        Stream("k", source="v", topology=Dense(), gain=FixedGain(0.7, 1.3), weights=weights),
        Stream("q", topology=WithinLayer(), source="v", gain=FixedGain(1.0, 0.4), weights=weights),
    )
    model = model_of(token_config("classic", 3, streams=streams))
    for block in model.layers:
        block.attn.W_V.copy_(block.attn.W_V.roll(1, 1))
    norms = table(head_composition(model).to_frame(), "norm")
    for one, other, head in ((0, 2, 1), (1, 2, 3), (1, 1, 0)):
        kind, gain, reads = ("stream v to k", 1.3, "W_Q") if one < other else ("stream v to q", 0.4, "W_K")
        source, reader = model.layers[one].attn, model.layers[other].attn
        made = source.state_dict()["W_V" if weights == "own" else "W_V_stream"]
        product = gain * made[head] @ getattr(reader, reads)[head].mT
        assert norms[kind, one, head, other, head] == pytest.approx(float(product.norm()))
    for block in model.layers:
        block.attn.W_V.zero_()
    scores = table(head_composition(model).to_frame())
    stream = scores[scores.index.get_level_values(0).str.startswith("stream")]
    assert bool(stream.max() > 0) is (weights != "own"), "without its own values a layer passes on what others make"


def test_heads_meet_only_where_the_map_connects_them() -> None:
    plain = table(head_composition(build("value", "tokens", 2)).to_frame())["stream v"]
    for (_, h, _, to), score in plain.items():  # type: ignore[misc] # the index holds fours
        assert (score > 0) == (h == to)
    mixed = table(head_composition(stirred(build("lime", "tokens", 2))).to_frame())["stream v"]
    assert (mixed > 0).all()


def test_a_running_sum_reaches_layers_that_adjacent_raw_values_do_not() -> None:
    for variant, pairs in (("cumulative", {(0, 1), (0, 2), (1, 2)}), ("value", {(0, 1), (1, 2)})):
        frame = head_composition(build(variant, "tokens", 3)).to_frame()
        rows = frame[frame.kind == "stream v"]
        assert set(zip(rows.from_layer, rows.to_layer, strict=True)) == pairs


@pytest.mark.parametrize("gate", ["off", "gradient-only"])
def test_a_shut_gate_carries_nothing_and_one_that_cuts_the_gradient_all(gate: str) -> None:
    model = build("value", "tokens", 3)
    whole = head_composition(model).to_frame()
    with model.gated(gate):  # type: ignore[arg-type] # one of the literals
        shut = head_composition(model).to_frame()
    stream = whole.kind == "stream v"
    assert (shut[stream][["score", "norm"]] == 0).all(axis=None)
    assert whole[stream].score.max() > 0
    assert shut[~stream].equals(whole[~stream])
    with model.gated("stop"):
        pd.testing.assert_frame_equal(head_composition(model).to_frame(), whole)


def test_a_gain_changes_the_norm_and_not_the_score() -> None:
    def at(gain: float) -> pd.DataFrame:
        return head_composition(
            model_of(token_config(n_layers=2, streams=(Stream("v", gain=FixedGain(1.0, gain)),)))
        ).to_frame()

    one, half = at(1.0), at(0.5)
    stream = one.kind == "stream v"
    assert torch.allclose(torch.tensor(one.score.to_numpy()), torch.tensor(half.score.to_numpy()))
    assert half[stream].norm.sum() == pytest.approx(one[stream].norm.sum() / 2)
    assert half[~stream].norm.sum() == pytest.approx(one[~stream].norm.sum())


def test_streams_between_carriers_and_within_a_layer_are_named() -> None:
    streams = (Stream("v", source="k", topology=WithinLayer()), Stream("q", transform=HeadMixing()))
    frame = head_composition(model_of(token_config(n_layers=2, streams=streams))).to_frame()
    assert set(frame.kind) == {"Q", "K", "V", "stream k to v", "stream q"}
    within = frame[frame.kind == "stream k to v"]
    assert (within.from_layer == within.to_layer).all()


@pytest.mark.parametrize("n_layers", [2, 6])
def test_any_depth_mlp_or_not(n_layers: int) -> None:
    streams = (Stream("v", topology=Cumulative(), gain=LearnedGain(per_head=True)), Stream("k"))
    for mlp in (None, MLP(32)):
        frame = head_composition(model_of(token_config(n_layers=n_layers, streams=streams, mlp=mlp))).to_frame()
        assert frame.score.between(0, 1 + 1e-9).all()
        pairs = n_layers * (n_layers - 1) // 2
        assert frame.kind.value_counts()["stream v"] == 16 * pairs
        assert frame.kind.value_counts()["stream k"] == 16 * (n_layers - 1)


# --- hand-weighted models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [induction_model, stream_model])
def test_the_built_in_pairs_compose_most(make: Callable[[], Handmade]) -> None:
    made = make()
    found = table(head_composition(made.model).to_frame())
    built = ("K", *made.heads["previous token"], *made.heads["induction"])
    assert found["K"].idxmax() == built[1:]
    assert found[built] > 1.5 * found.drop(built).loc[["Q", "K", "V"]].max()
    assert (found["V"] == 0).all(), "no head reads what another has moved"
    if "values" in made.heads:
        stream = found["stream v"]
        assert stream[stream > 0].index.tolist() == [(*made.heads["values"], *made.heads["induction"])]


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_stream_that_depends_on_the_input_is_refused_and_can_be_left_out() -> None:
    model = build("x-transformers", "tokens")
    with pytest.raises(ValueError, match=r"depend on the input \(TokenGain\).*use stream=False"):
        head_composition(model).to_frame()
    assert set(head_composition(model, stream=False).to_frame().kind) == {"Q", "K", "V"}


def test_one_layer_has_nothing_to_compose() -> None:
    with pytest.raises(ValueError, match="no head before another"):
        head_composition(build("classic", "tokens", 1)).to_frame()
