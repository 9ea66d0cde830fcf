"""Direct paths through both routes, and heads' effects split by route, against brute force and transformer-lens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens import patching as tl

from analysis import Graph, Pair, Site, find_paths, head_shares, patch, patch_paths
from analysis.metrics import logit_difference
from circuits import HookedStreamTransformer
from circuits.common.palette import ROUTES
from circuits.config.streams import Stream
from figures.models.paths import path_heat_maps, share_bars
from tests.analysis.test_edges import pair_for
from tests.handmade import stream_model
from tests.helpers import FULL, build, made, model_of, token_config
from tests.random_streams import one_stream

STREAMED = ["value", "cumulative", "key", "query", "svformer", "resformer-dense", "x-transformers", "cross-carrier"]


def by_transformer_lens(model: HookedStreamTransformer, pair: Pair, head: tuple[int, int], carrier: Any) -> Tensor:
    with torch.no_grad():
        _, clean = model.run_with_cache(pair.clean)
        _, corrupt = model.run_with_cache(pair.corrupt)
        return tl.get_act_patch_direct_path(
            model, pair.corrupt, clean, corrupt, lambda x: logit_difference(x, pair).mean(), *head, carrier, False
        )


@pytest.mark.parametrize("variant", ["classic", "value", "lime"])
@pytest.mark.parametrize("carrier", ["q", "k", "v"])
def test_residual_paths_are_transformer_lens_where_it_is_right(variant: str, carrier: str) -> None:
    """Into the last layer always; into an earlier one unless the stream goes on from the receiver (there its numbers
    mix the path with all that the stream makes of it)."""
    model = build(variant, "tokens", 3)
    model.allow_stream_blind_tools()
    pair = pair_for(model)
    theirs = by_transformer_lens(model, pair, (0, 1), carrier)
    paths = find_paths(model, [(0, 1)], [f"L{layer}H{h}.{carrier}" for layer in (1, 2) for h in range(4)], ["residual"])
    found = patch_paths(model, pair, paths).to_frame().set_index("receiver").patched
    errors = {
        layer: max(abs(float(theirs[layer, h]) - found[f"L{layer}H{h}.{carrier}"]) for h in range(4))
        for layer in (1, 2)
    }
    assert errors[2] < 1e-5
    streamed = carrier in {stream.carrier for stream in model.config.streams}
    assert (errors[1] < 1e-5) is not streamed


@pytest.mark.parametrize("variant", STREAMED)
def test_stream_paths_are_one_hook_at_a_time(variant: str) -> None:
    """What a receiver uses, with the sender's part exchanged, and nothing else changed: a hook on the plain model that
    takes back what the receiver's layer passes on."""
    model = build(variant, "tokens", 3)
    pair = pair_for(model)
    paths = find_paths(model, routes=["stream"])
    found = patch_paths(model, pair, paths)
    _, clean = model.run_with_cache(pair.clean)
    _, corrupt = model.run_with_cache(pair.corrupt)
    for path, values in list(zip(paths, found.values, strict=True))[::3]:
        (layer, head), (to, receiver) = path.source.where, path.target.where
        own = f"blocks.{layer}.attn.hook_{path.source.carrier}"
        take: Any = (own, lambda t, hook, own=own, head=head: exchanged(t, clean[own], head))
        point = f"blocks.{to}.attn.hook_{path.target.carrier}"
        gains = [f"blocks.{i}.hook_resid_pre" for i in range(layer + 1, 3)]
        # The stream alone: the residual stream of every later layer is held, so only it can bring the change.
        hold: Any = [(name, lambda t, hook: corrupt[hook.name]) for name in gains]
        with torch.no_grad(), model.hooks(fwd_hooks=[take, *hold]):
            _, moved = model.run_with_cache(pair.corrupt, names_filter=[f"{point}_mixed"])
        into: Any = [(f"{point}_mixed", lambda t, hook, r=receiver, moved=moved: exchanged(t, moved[hook.name], r))]
        passes = f"{point}_stream"
        into += [(passes, lambda t, hook: corrupt[hook.name])] if passes in model.hook_dict else []
        with torch.no_grad():
            expected = logit_difference(model.run_with_hooks(pair.corrupt, fwd_hooks=into), pair)
        assert torch.allclose(values, expected, atol=1e-10), path.name
    assert found.effect().abs().max() > 1e-6


def exchanged(tensor: Tensor, source: Tensor, head: int) -> Tensor:
    tensor = tensor.clone()
    tensor[:, :, head] = source[:, :, head]
    return tensor


def test_paths_to_mlps_and_logits() -> None:
    model = build("value", "tokens", 2)
    pair = pair_for(model)
    found = patch_paths(model, pair, find_paths(model, [(0, 2)], ["MLP1", "logits"])).to_frame()
    assert found.receiver.tolist() == ["MLP1", "logits"]
    model.set_use_attn_result(True)
    model.set_use_hook_mlp_in(True)
    with torch.no_grad():
        _, a = model.run_with_cache(pair.corrupt)
        _, b = model.run_with_cache(pair.clean)
        change = (b["result", 0] - a["result", 0])[:, :, 2]
        for i, point in enumerate(("blocks.1.hook_mlp_in", "blocks.1.hook_resid_post")):
            add: Any = (point, lambda t, hook: t + change)
            expected = logit_difference(model.run_with_hooks(pair.corrupt, fwd_hooks=[add]), pair).mean()
            assert found.patched[i] == pytest.approx(float(expected), abs=1e-10)


def test_the_hand_weighted_stream_is_one_path() -> None:
    made = stream_model()
    frame = patch_paths(made.model, made.pairs["copied"]).to_frame()
    large = frame[frame.effect.abs() > 0.01]
    values, reader = made.heads["values"], made.heads["induction"]
    path = ("L{}H{}.v".format(*values), "L{}H{}.v".format(*reader), "stream")
    out = ("L{}H{}".format(*reader), "logits", "residual")
    assert set(large[["sender", "receiver", "route"]].itertuples(index=False, name=None)) == {path, out}
    assert large.effect.to_numpy() == pytest.approx(1)
    shares = head_shares(made.model, made.pairs["copied"]).to_frame().set_index(["layer", "head", "share"]).effect
    assert shares[values[0], str(values[1]), "stream"] == pytest.approx(1)
    assert shares[values[0], str(values[1]), "own"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
@pytest.mark.parametrize("variant", FULL)
def test_shares_add_up_and_their_total_is_the_patch(variant: str, kind: str) -> None:
    model = build(variant, kind, 3)
    pair = pair_for(model)
    frame = head_shares(model, pair).to_frame()
    wide = frame.pivot(index=["layer", "head", "carrier"], columns="share", values="effect")
    assert (wide.own + wide.stream + wide.interaction - wide.total).abs().max() < 1e-10
    index: list[Any] = list(wide.index)
    sites = [Site(layer, carrier, head=int(head)) for layer, head, carrier in index]
    assert patch(model, pair, sites).normalised_effect().numpy() == pytest.approx(wide.total.to_numpy(), abs=1e-10)
    # (In a running sum, what a layer passes on is not its own projection alone.)
    passed = [p for p in index if p[2] in model.layers[p[0]].attn.passes_own]
    read = [Site(layer, carrier, "outgoing", int(head)) for layer, head, carrier in passed]
    if read:
        streams = [wide.stream[s.layer, str(s.head), s.component] for s in read]
        assert patch(model, pair, read).normalised_effect().numpy() == pytest.approx(streams, abs=1e-10)
        assert wide.stream.abs().max() > 1e-6
    else:
        assert bool(wide.stream.abs().max() > 1e-6) is (variant == "cumulative")


@pytest.mark.parametrize("make", ["llama", "qwen"])
@pytest.mark.parametrize("variant", ["query", "value"])
def test_shares_are_there_where_carriers_have_unequal_numbers_of_heads(make: str, variant: str) -> None:
    model = made(make, variant)
    pair = pair_for(model)
    every = head_shares(model, pair, ["q", "k", "v"])
    frame = every.to_frame()
    heads = {carrier: part["head"].nunique() for carrier, part in frame.groupby("carrier")}
    assert heads["q"] > heads["k"] == heads["v"] == model.config.heads_of("v")
    wide = frame.pivot(index=["layer", "head", "carrier"], columns="share", values="effect")
    assert (wide.own + wide.stream + wide.interaction - wide.total).abs().max() < 1e-10
    sites = [Site(layer, carrier, head=int(head)) for layer, head, carrier in list(wide.index)]  # type: ignore[misc]
    assert patch(model, pair, sites).normalised_effect().numpy() == pytest.approx(wide.total.to_numpy(), abs=1e-10)
    carried = wide.stream[wide.stream.abs() > 1e-9].index.get_level_values("carrier").unique().tolist()
    assert carried == [{"query": "q", "value": "v"}[variant]]
    alone = head_shares(model, pair, ["k"]).to_frame()
    assert alone.effect.tolist() == pytest.approx(frame[frame.carrier == "k"].effect.tolist(), abs=1e-10)


@settings(max_examples=20, derandomize=True)
@given(parts=st.lists(one_stream, min_size=1, max_size=2), layers=st.integers(2, 4), seed=st.integers(0, 99))
def test_shares_add_up_for_random_architectures(parts: Any, layers: int, seed: int) -> None:
    try:
        config = token_config("classic", layers, streams=tuple(Stream(**part) for part in parts), n_heads=2)
    except ValueError:
        return  # contradictory; other tests see to the message
    model = model_of(config, seed)
    frame = head_shares(model, pair_for(model, 2)).to_frame()
    wide = frame.pivot(index=["layer", "head", "carrier"], columns="share", values="effect")
    assert (wide.own + wide.stream + wide.interaction - wide.total).abs().max() < 1e-9
    index: list[Any] = list(wide.index)
    sites = [Site(layer, carrier, head=int(head)) for layer, head, carrier in index]
    exact = patch(model, pair_for(model, 2), sites).normalised_effect().numpy()
    assert exact == pytest.approx(wide.total.to_numpy(), abs=1e-9)


def test_a_memory_bound_changes_nothing() -> None:
    model = build("value", "tokens", 3)
    pair = pair_for(model)
    with pytest.raises(ValueError, match="is less than one copy of the pair needs") as refused:
        patch_paths(model, pair, max_memory=1)
    one = int(str(refused.value).split("about ")[1].split(";")[0].replace(",", ""))
    whole, tight = patch_paths(model, pair), patch_paths(model, pair, max_memory=3 * one)
    assert torch.allclose(whole.values, tight.values, atol=1e-12)
    with pytest.raises(ValueError, match="is less than one copy of the pair needs"):
        head_shares(model, pair, max_memory=1).to_frame()


def test_drawings() -> None:
    model = build("value", "tokens", 2)
    pair = pair_for(model, 4)
    result = patch_paths(model, pair)
    panels = len(set(result.to_frame().into + result.to_frame().route))
    figure: Any = path_heat_maps(result.to_frame())
    assert len([trace for trace in figure.data if trace.type == "heatmap"]) == panels
    assert len(result.figure().data) == 2 * panels, "crosses stand where there is no path"
    top = result.to_frame().sort_values("effect", key=abs).iloc[-1]
    assert f"{top.sender.split('.')[0]} to {top.receiver} by the " in figure.layout.meta["title"]
    shares = head_shares(model, pair).to_frame()
    drawn: Any = share_bars(shares)
    assert [bar.name for bar in drawn.data] == [
        "in all",
        "by its own layer",
        "by the stream",
        "only by both together",
    ]
    assert [bar.marker.color for bar in drawn.data][1:3] == [ROUTES["own"], ROUTES["stream"]]
    assert "by the stream" in drawn.layout.meta["title"]
    still: Any = share_bars(shares.assign(effect=shares.effect.where(shares["share"] != "stream", 0.0)))
    assert still.layout.meta["title"].startswith("No head has an effect by the stream")


def test_mistakes_are_explained() -> None:
    model, classic = build("value", "tokens", 2), build("classic", "tokens", 2)
    pair = pair_for(model)
    cases: list[tuple[Any, str]] = [
        (lambda: find_paths(model, routes=["steam"]), "unknown route 'steam': did you mean 'stream'"),
        (lambda: find_paths(model, receivers=["L1H0.w"]), "unknown receiver 'L1H0.w': did you mean 'L1H0"),
        (
            lambda: find_paths(model, [(3, 0)]),
            r"senders are \(layer, head\) pairs of 2 layers of 4 heads, got \[\(3, 0\)\]",
        ),
        (lambda: find_paths(classic, routes=["stream"]), "no stream path leads from"),
        (lambda: find_paths(model, [(1, 0)], ["L1H0.v"]), "no residual or stream path leads from"),
        (lambda: patch_paths(model, pair, []), "paths are a list of Edge"),
        (
            lambda: patch_paths(model, pair, Graph(model).edges[:1]),
            r"input > L0H0.q \(residual\).*a path leaves a head",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    for ask in (patch_paths, head_shares):
        with pytest.raises(ValueError, match="evaluation mode"):
            ask(model.train(), pair)
