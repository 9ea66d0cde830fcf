"""AtP, AtP*, integrated gradients: right where they must be, with what they miss shown beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformer_lens.tools.analysis.attribution_patching import attribution_patch

from analysis import METRICS, Pair, Site, attribute, attribute_edges, find_sites, patch
from analysis.attribution.of_sites import METHODS
from analysis.attribution.site_gradients import Estimator, linearised
from analysis.edges.recorded_activations import between, record
from analysis.edges.steered_forward import flowing
from circuits import HookedStreamTransformer, Stream
from circuits.config.gains import FixedGain, LearnedGain, TokenGain
from circuits.config.streams import Weights
from circuits.config.topologies import Cumulative, Dense, Previous
from circuits.sites import BLOCK
from tests.analysis.test_edge_attribution import nearly_linear, small_step
from tests.analysis.test_patching import every_site, pair_for
from tests.handmade import induction_model, stream_model
from tests.helpers import FULL, build, model_of, random_pair, token_config


def small_pair(model: HookedStreamTransformer) -> Pair:
    pair = pair_for(model, 3)
    step = small_step(pair, 1e-4)
    return Pair(step.clean, step.corrupt, pair.answers, pair.wrong, pair.positions)


@pytest.mark.parametrize("method", ["AtP", "AtP+QK", "IG"])
@pytest.mark.parametrize("variant", FULL)
def test_to_first_order_every_site_is_right(variant: str, method: Any) -> None:
    model = build(variant, "vectors", 2)
    pair, wanted = small_pair(model), every_site(model)[::2]
    found = attribute(model, pair, wanted, method=method, check=0)
    exact = patch(model, pair, wanted)
    effects = exact.normalised_effect()
    assert torch.allclose(found.effects, effects, atol=2e-2 * float(effects.abs().max()))
    assert effects.abs().max() > 1e-3
    assert found.total == pytest.approx(1, abs=2e-2)


@pytest.mark.parametrize("variant", ["classic", "value", "key"])
def test_node_scores_are_transformer_lens(variant: str) -> None:
    """Every head and MLP at every position; on a stream model too, where nodes are right and its edges are not."""
    model = build(variant, "tokens", 2)
    pair = pair_for(model, 2)

    def first_logit(logits: Tensor, pair: Pair) -> Tensor:
        return logits[:, -1, 0]

    theirs = attribution_patch(model, pair.clean, pair.corrupt, lambda logits: logits[:, -1, 0].sum()).node_scores
    sites = find_sites(model, ["z", "mlp_out"], heads="each", positions=range(7))
    ours = attribute(model, pair, sites, first_logit, check=0).values.mean(1)
    named: dict[Any, float] = {
        (s.component, s.layer, s.head, s.position): float(x) for s, x in zip(sites, ours, strict=True)
    }
    kinds = {"attn_head_out": "z", "mlp_out": "mlp_out"}
    compared = [(x, named[kinds[n.kind], n.layer, n.head, n.position]) for n, x in theirs.items() if n.kind in kinds]
    assert len(compared) == len(sites)
    assert max(abs(a - b) for a, b in compared) < 1e-5
    assert max(abs(a) for a, _ in compared) > 1e-3


@pytest.mark.parametrize("variant", ["classic", "value", "cumulative", "key", "query", "lime"])
def test_on_a_linear_model_an_estimate_is_the_exact_patch(variant: str) -> None:
    model, _ = nearly_linear(variant)
    pair = pair_for(model, 3)
    components = ["state", "resid_pre", "v", "z", "resid_post", *(["stream"] if variant != "classic" else [])]
    sites = find_sites(model, components, positions=[1, "two", "mixed"])
    found = attribute(model, pair, sites, check=1_000)
    assert found.agreement.worst_error < 1e-6
    assert found.effects.abs().max() > 0.01


@pytest.mark.parametrize("variant", ["classic", "value", "key", "query", "cumulative", "cross-carrier"])
def test_the_query_key_fix_is_exact_where_only_the_pattern_is_not_linear(variant: str) -> None:
    """The last layer of a model without norms and MLPs, linear readout: all that bends is softmax."""
    model = model_of(token_config(variant, 3, mlp=None, normalization=None))
    with torch.no_grad():
        for name in ("W_Q", "W_K"):
            getattr(model.layers[2].attn, name).mul_(5)
    pair = pair_for(model, 3)
    sites = find_sites(model, ["q", "k"], layers=[2], heads="each", positions=[1, 6, "two"])
    exact = patch(model, pair, sites).normalised_effect()
    fixed = attribute(model, pair, sites, method="AtP+QK", check=0)
    plain = attribute(model, pair, sites, method="AtP", check=0)
    assert torch.allclose(fixed.effects, exact, atol=1e-10)
    assert (plain.effects - exact).abs().max() > 0.01 * exact.abs().max(), "the negation: without the fix it is wrong"


def test_the_fix_follows_queries_and_keys_through_the_stream() -> None:
    """Keys of layer 1 act in layer 2 as well, through the stream; the hooked model's exact patch is the oracle."""
    model = model_of(token_config("key", 3, mlp=None, normalization=None))
    with torch.no_grad():
        model.layers[1].attn.W_O.zero_()
        model.layers[1].attn.b_O.zero_()
    pair = pair_for(model, 3)
    sites = find_sites(model, ["k"], ["own", "outgoing"], layers=[1], heads="each", positions=[1, "two"])
    exact = patch(model, pair, sites).normalised_effect()
    fixed = attribute(model, pair, sites, method="AtP+QK", check=0)
    assert torch.allclose(fixed.effects, exact, atol=1e-10)
    assert exact.abs().max() > 1e-3


def apart(weights: Weights, **stream: Any) -> HookedStreamTransformer:
    """A model whose stream has those weights, and whose own projections have moved away from where they started."""
    streams = (Stream(weights=weights, **stream),)
    model = model_of(token_config("classic", 3, mlp=None, normalization=None, streams=streams))
    with torch.no_grad():
        for block in model.layers:
            for name in ("W_K", "W_V"):
                weight: Any = getattr(block.attn, name)
                weight.copy_(1.2 * weight.roll(1, 1))
    return model


@pytest.mark.parametrize("weights", ["own", "untied", "initial"])
@pytest.mark.parametrize("topology", [Previous(), Dense()])
def test_what_values_do_is_the_same_with_the_fix_whoever_makes_what_is_passed_on(weights: Any, topology: Any) -> None:
    """Attention is linear in the values, so that there is nothing to recompute where they alone change."""
    model = apart(weights, topology=topology)
    pair = pair_for(model, 3)
    sites = find_sites(model, ["v"], ["own", "mixed", "outgoing"], heads="each", positions=[1, "two"])
    plain, fixed = (attribute(model, pair, sites, method=m, check=0).effects for m in ("AtP", "AtP+QK"))
    assert torch.allclose(plain, fixed, atol=1e-10)
    assert plain.abs().max() > 0.01
    keys = find_sites(model, ["k"], heads="each")
    plain, fixed = (attribute(model, pair, keys, method=m, check=0).effects for m in ("AtP", "AtP+QK"))
    assert not torch.allclose(plain, fixed, atol=1e-3), "the negation: of keys there is"


@pytest.mark.parametrize("weights", ["own", "untied", "initial"])
def test_the_fix_takes_own_keys_down_a_stream_of_own_keys_alone(weights: Any) -> None:
    """Layer 1 acts through its keys in layer 2 alone, which are its own only where no others are made for the stream;
    the hooked model's exact patch is the oracle."""
    model = apart(weights, carrier="k")
    with torch.no_grad():
        model.layers[1].attn.W_O.zero_()
    pair = pair_for(model, 3)
    own, passed = (find_sites(model, ["k"], [route], layers=[1], heads="each") for route in ("own", "outgoing"))
    for sites, acts in ((own, weights == "own"), (passed, True)):
        exact = patch(model, pair, sites).normalised_effect()
        assert torch.allclose(attribute(model, pair, sites, method="AtP+QK", check=0).effects, exact, atol=1e-10)
        assert bool(exact.abs().max() > 1e-3) is acts


@pytest.mark.parametrize(
    ("carrier", "gain"), [("k", FixedGain(0.0, 0.7)), ("q", LearnedGain(0.8, 1.4)), ("k", TokenGain())]
)
def test_values_that_a_running_sum_takes_to_another_carrier_count_once(carrier: Any, gain: Any) -> None:
    """What values do in their own layer is linear and what they do to later patterns is not: where the one is silenced
    the fix is exact, and where nothing reads the other it is the gradient's."""
    streams = (Stream(carrier, source="v", topology=Cumulative(), gain=gain),)
    model = model_of(token_config("classic", 3, mlp=None, normalization=None, streams=streams))
    pair = pair_for(model, 3)
    last = find_sites(model, ["v"], layers=[2], heads="each")
    plain, fixed = (attribute(model, pair, last, method=m, check=0).effects for m in ("AtP", "AtP+QK"))
    assert torch.allclose(plain, fixed, atol=1e-10)
    with torch.no_grad():
        model.layers[1].attn.W_O.zero_()
    sites = find_sites(model, ["v"], ["own", "outgoing"], layers=[1], heads="each", positions=[1, 6])
    exact = patch(model, pair, sites).normalised_effect()
    assert torch.allclose(attribute(model, pair, sites, method="AtP+QK", check=0).effects, exact, atol=1e-10)
    assert (attribute(model, pair, sites, check=0).effects - exact).abs().max() > 1e-3, (
        "the negation: a gradient is not"
    )


def cancelling() -> tuple[HookedStreamTransformer, Pair, Site]:
    """A head whose direct effect is undone by the next layer's, as far as a gradient can see."""
    model = model_of(token_config("classic", 3, mlp=None, normalization=None))
    return model, pair_for(model, 3), Site(0, "z", head=0, position=2)


def test_dropping_layers_gives_sizes_that_cancellation_cannot_hide() -> None:
    model, pair, site = cancelling()
    starred = attribute(model, pair, [site], method="AtP*", check=0)
    dropped = []
    for layer in range(1, 3):
        cut = build("classic", "tokens", 3, mlp=None, normalization=None)
        cut.load_state_dict(model.state_dict())

        def detach(t: Tensor, hook: Any) -> Tensor:
            return t.detach()

        # By hand: the gradient of z with that layer's output cut off, times the change.
        kept: list[Tensor] = []

        def keep(t: Tensor, hook: Any, kept: list[Tensor] = kept) -> Tensor:
            kept.append(t)
            return t

        points: Any = [("blocks.0.attn.hook_z", keep), (f"blocks.{layer}.hook_attn_out", detach)]
        logits = cut.run_with_hooks(pair.corrupt, fwd_hooks=points)
        read = logits[:, -1]
        score = read.gather(1, pair.answers[:, None]) - read.gather(1, pair.wrong[:, None])
        (gradient,) = torch.autograd.grad(score.sum(), kept)
        _, clean = model.run_with_cache(pair.clean)
        change = clean["z", 0] - kept[0].detach()
        dropped.append((change * gradient)[:, 2, 0].sum(-1).abs())
    assert torch.allclose(starred.values[0], torch.stack(dropped).sum(0) / 2, atol=1e-10)
    assert (starred.values >= 0).all()


@pytest.mark.parametrize("variant", FULL)
def test_a_layer_that_leaves_a_site_something_counts_when_it_is_dropped(variant: str) -> None:
    """Values are used linearly, so that what is carried on of them exactly is what gradients with a layer dropped say;
    what a layer did not make itself outlives that layer's drop."""
    model = build(variant, "vectors", 3)
    pair = pair_for(model, 3)
    sites = [s for s in every_site(model) if s.component in ("v", "z", "attn_out") or s.component in BLOCK]
    starred = attribute(model, pair, sites, method="AtP*", check=0).values
    start, end = model.embedded(pair.corrupt), model.embedded(pair.clean)
    after, before = record(model, end), record(model, start)
    metric = ("logit_difference", METRICS["logit_difference"])
    by_drop = []
    with flowing(model):
        for layer in range(3):
            gradients = linearised(model, between(start, end, 0.0), pair, metric, layer)
            # Not fixed, and so by what autograd says alone.
            by_drop.append(Estimator(model, pair, after, before, gradients, fixed=False).scores(sites).abs())
    whole, made = (
        [i for i, s in enumerate(sites) if s.component in of] for of in (("resid_pre", "resid_post"), ("z",))
    )
    read = [i for i in whole if sites[i].position is None]
    assert all((by_drop[sites[i].layer][i] != 0).all() for i in read)
    assert all((by_drop[sites[i].layer][i] == 0).all() for i in made)
    for i, site in enumerate(sites):
        left = torch.stack([scores[i] for layer, scores in enumerate(by_drop) if layer != site.layer])
        own = by_drop[site.layer][i]
        expected = torch.where(own == 0, left.mean(0), (left.sum(0) + own) / 3)
        assert torch.allclose(starred[i], expected.double(), atol=1e-9), site


def test_sizes_have_no_sign_in_either_direction() -> None:
    model = build("value", "vectors", 3)
    pair = pair_for(model, 3)
    sites = find_sites(model, ["resid_pre", "v", "z"])
    for direction in ("denoise", "noise"):
        found = attribute(model, pair, sites, method="AtP*", direction=direction, check=3)
        assert (found.effects >= 0).all()
        assert (found.effects > 0).any()
        frame = found.to_frame()
        assert (frame.effect >= 0).all()
        assert frame[["low", "high", "p"]].isna().all(axis=None), "a mean of sizes is never 0 by chance"
        assert "(no interval) of the difference" in found.finding()
        drawn: Any = found.figure()
        assert "nan" not in found.finding() + drawn.layout.meta["title"]
        assert "no interval" in str(drawn.data[0].customdata)
        signed = attribute(model, pair, sites, direction=direction, check=0).to_frame()
        assert signed.p.notna().any()
        assert (signed.low <= signed.high).all()
        assert frame.effect.to_numpy() == pytest.approx(found.effects.numpy())


@pytest.mark.parametrize("variant", FULL)
def test_starred_scores_exist_for_every_route(variant: str) -> None:
    model = build(variant, "tokens", 3)
    pair = pair_for(model, 3)
    sites = every_site(model)[::7]
    found = attribute(model, pair, sites, method="AtP*", check=8)
    assert found.agreement.checked == 8
    assert (found.values >= 0).all()
    assert found.values.max() > 0


def test_gates_hide_nothing_from_the_estimate() -> None:
    open_, stopped = build("value", "vectors", 3), build("value-stop", "vectors", 3)
    closed = build("value-gradient-only", "vectors", 3)
    site = [Site(0, "v", "outgoing")]
    values = [attribute(m, pair_for(m, 3), site, check=0).values for m in (open_, stopped, closed)]
    assert torch.equal(values[0], values[1])
    assert values[0].abs().max() > 1e-9
    assert (values[2] == 0).all(), "what does not flow has no effect, though it has a gradient in training"


def test_hand_weighted_models() -> None:
    for made in (induction_model(), stream_model()):
        sites = find_sites(made.model, ["z"], heads="each")
        found = attribute(made.model, made.pairs["copied"], sites, method="IG", steps=30)
        large = {(s.layer, s.head) for s, e in zip(found.sites, found.effects, strict=True) if abs(e) > 0.05}
        assert large == {made.heads["induction"]}
    route = attribute(made.model, made.pairs["copied"], find_sites(made.model, ["v"], heads="each"), check=0)
    by_route = {(s.layer, s.route, s.head): float(e) for s, e in zip(route.sites, route.effects, strict=True)}
    values = made.heads["values"][1]
    assert by_route[0, "outgoing", values] == pytest.approx(1, abs=1e-3), "through the stream"
    assert by_route[0, "mixed", values] == pytest.approx(0, abs=1e-9), "and not through its own layer"


def test_frames_compare_with_patching() -> None:
    model = build("value", "vectors", 2)
    pair = pair_for(model, 4)
    found = attribute(model, pair, find_sites(model, ["v"], positions=["two"]), check=2)
    frame = found.to_frame()
    exact = patch(model, pair, found.sites).to_frame()
    where = ["layer", "component", "route", "head", "position"]
    assert frame[where].equals(exact[where])
    assert ((frame.low <= frame.effect + 1e-12) & (frame.effect - 1e-12 <= frame.high)).all()
    assert set(frame.method) == {"AtP"}
    assert set(frame.checked) == {2}
    assert [trace.type for trace in found.figure().data] == ["heatmap", "scatter"]
    assert "estimated (AtP)" in found.figure().layout.title.text
    assert "estimated" not in patch(model, pair, found.sites).figure().layout.title.text
    one = attribute(model, pair[:1], found.sites, check=0).to_frame()
    assert one[["low", "high", "p"]].isna().all().all()


def test_a_memory_bound_changes_nothing() -> None:
    model = build("value", "tokens", 3)
    pair = pair_for(model, 5)
    sites = every_site(model)[::5]
    with pytest.raises(ValueError, match="is less than one copy of the pair needs") as refused:
        attribute(model, pair, sites, check=0, max_memory=1)
    one = int(str(refused.value).split("about ")[1].split(";")[0].replace(",", ""))
    for method in METHODS:
        whole = attribute(model, pair, sites, method=method, check=0, steps=2)  # type: ignore[arg-type] # a key of METHODS
        tight = attribute(model, pair, sites, method=method, check=0, steps=2, max_memory=2 * one)  # type: ignore[arg - type]  # as above
        assert torch.allclose(whole.values, tight.values, atol=1e-12), method


def test_mistakes_are_explained() -> None:
    model, shallow = build("value"), build("classic", "tokens", 1)
    pair, sites = pair_for(model), find_sites(model, ["v"])
    cases: list[tuple[Any, str]] = [
        (lambda: attribute(model, pair, []), "there is no site to score"),
        (lambda: attribute(model, pair, sites, "accuracy"), "metric 'accuracy' has no gradient"),
        (lambda: attribute(model, pair, sites, "rank"), "use one of .*logit_difference"),
        (lambda: attribute(model, pair, [Site(0, "v", position="IO")]), "unknown position role 'IO'"),
        (lambda: attribute(model, pair, [Site(0, "v", "residual")]), "did you mean"),
        (lambda: attribute(shallow, pair_for(shallow), [Site(0, "v")], method="AtP*"), "needs at least two"),
        (lambda: attribute(model, pair, sites, method="IG", steps=0), "IG needs at least one input"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="evaluation mode"):
        attribute(model.train(), pair, sites)


@pytest.mark.parametrize("method", ["AtP", "AtP*", "IG"])
def test_gradients_are_taken_wherever_it_is_asked(method: Any) -> None:
    model = build("value", "tokens", 2)
    pair, sites = random_pair(model), find_sites(model, ["v", "z"])
    wanted = attribute(model, pair, sites, method=method).to_frame()
    edges = attribute_edges(model, pair).to_frame()
    model.requires_grad_(False)
    with torch.no_grad():
        pd.testing.assert_frame_equal(attribute(model, pair, sites, method=method).to_frame(), wanted)
        pd.testing.assert_frame_equal(attribute_edges(model, pair).to_frame(), edges)
    with torch.inference_mode():
        for ask in (lambda: attribute(model, pair, sites, method=method), lambda: attribute_edges(model, pair)):
            with pytest.raises(
                ValueError, match=r"attribution takes gradients, and torch.inference_mode\(\) keeps none"
            ):
                ask()
        patched = patch(model, pair, sites)
    assert np.allclose(patched.to_frame().effect, patch(model, pair, sites).to_frame().effect)
    with pytest.raises(ValueError, match="metric 'rank' has no gradient"):
        attribute(model, pair, sites, "rank", method=method)
