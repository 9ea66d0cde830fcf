"""Patching: equal to one patched run at a time and to transformer-lens, exact at the ends, clear about mistakes."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformer_lens import patching as tl

from analysis import Pair, Site, find_sites, patch
from analysis.metrics import METRICS, accuracy, logit_difference, loss, probability, rank, require_gradient
from circuits import HookedStreamTransformer, icl_config
from circuits.config.streams import Stream
from circuits.model import State
from circuits.sites import STATES
from tests.helpers import FULL, build, inputs_for, model_of, small_task, token_config
from tests.random_streams import one_stream

KINDS = [("vectors", 2), ("tokens", 3)]


def pair_for(model: HookedStreamTransformer, n: int = 4) -> Pair:
    clean, corrupt = inputs_for(model.config, n, seed=1), inputs_for(model.config, n, seed=2)
    vocabulary = model.config.readout.d_vocab_out
    answers = torch.arange(n) % vocabulary
    places = {"two": torch.tensor([[0, 2]] * n), "mixed": torch.arange(n)[:, None] % clean.shape[1]}
    return Pair(clean, corrupt, answers, (answers + 1) % vocabulary, places)


def every_site(model: HookedStreamTransformer) -> list[Site]:
    components = ["state", "resid_pre", "attn_out", "resid_post", "q", "k", "v", "z", "pattern", "attn_scores"]
    if model.config.mlp:
        components += ["resid_mid", "mlp_out"]
    if any(model.reads_from(layer) for layer in range(model.config.n_layers)):
        components.append("stream")
    return [
        *find_sites(model, components, positions=[1, "two", "mixed"]),
        *find_sites(model, components),
        *find_sites(model, ["v", "z", "pattern"], heads="each", positions=["mixed"]),
    ]


def one_at_a_time(model: HookedStreamTransformer, pair: Pair, site: Site, clean: Any) -> Tensor:
    """The corrupt run with one site taken from the clean run, by hooks on that site alone and nothing clever."""
    batch = torch.arange(len(pair))[:, None]
    place = site.position
    where = torch.arange(pair.n_pos).expand(len(pair), -1)
    if isinstance(place, str):
        where = pair.positions[place]
    elif place is not None:
        where = torch.full((len(pair), 1), place)

    def write(into: Tensor, source: Tensor) -> Tensor:
        into = into.clone()
        if site.component in ("pattern", "attn_scores"):
            into, source = into.transpose(1, 2), source.transpose(1, 2)
        if site.head is None:
            into[batch, where] = source[batch, where]
        else:
            into[batch, where, site.head] = source[batch, where, site.head]
        return into.transpose(1, 2) if site.component in ("pattern", "attn_scores") else into

    if site.component in STATES:
        a, b = model.state(pair.corrupt, site.layer), model.state(pair.clean, site.layer)
        outgoing = {key: write(a.outgoing[key], b.outgoing[key]) for key in a.outgoing}
        residual = write(a.residual, b.residual) if site.component == "state" else a.residual
        return model.run_state(State(site.layer, residual, outgoing))
    hook: Any = (site.hook_name, lambda t, hook: write(t, clean[hook.name]))
    return model.run_with_hooks(pair.corrupt, fwd_hooks=[hook])


@pytest.mark.parametrize(("kind", "layers"), KINDS)
@pytest.mark.parametrize("variant", FULL)
def test_batched_equals_one_at_a_time(variant: str, kind: str, layers: int) -> None:
    model = build(variant, kind, layers)
    pair = pair_for(model)
    wanted = every_site(model)[:: 1 if kind == "vectors" else 5]  # a fifth of them, at every kind of place
    found = patch(model, pair, wanted)
    with torch.no_grad():
        _, clean = model.run_with_cache(pair.clean)
        expected = torch.stack([logit_difference(one_at_a_time(model, pair, site, clean), pair) for site in wanted])
    assert torch.allclose(found.values, expected, atol=1e-10)
    assert found.effect().abs().max() > 1e-6


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_a_memory_bound_changes_nothing_but_the_chunks(kind: str) -> None:
    model = build("value", kind)
    pair = pair_for(model)
    wanted = every_site(model)
    with pytest.raises(ValueError, match=r"is less than one copy of the pair needs, about [\d,]+; allow more") as error:
        patch(model, pair, wanted, max_memory=10_000)
    one = int(str(error.value).split("about ")[1].split(";")[0].replace(",", ""))
    tight = patch(model, pair, wanted, max_memory=one)
    assert torch.allclose(tight.values, patch(model, pair, wanted).values, atol=1e-12)
    with pytest.raises(ValueError, match=f"max_memory = {one - 1:,} bytes is less than one copy"):
        patch(model, pair, wanted, max_memory=one - 1)


def test_equal_to_transformer_lens_on_the_classic_model() -> None:
    model = build("classic", "tokens", 3)
    pair = pair_for(model)
    _, cache = model.run_with_cache(pair.clean)

    def metric(logits: Tensor) -> Tensor:
        return logit_difference(logits, pair)

    with torch.no_grad():
        block = tl.get_act_patch_block_every(model, pair.corrupt, cache, metric, reduce="none")
        heads = tl.get_act_patch_attn_head_by_pos_every(model, pair.corrupt, cache, metric, reduce="none")
    assert not isinstance(block, Tensor)
    assert not isinstance(heads, Tensor)
    for i, component in enumerate(("resid_pre", "attn_out", "mlp_out")):
        found = patch(model, pair, find_sites(model, [component], positions=range(7)))
        assert torch.allclose(found.values.reshape(3, 7, -1), block.values[i].double(), atol=1e-5)
    for i, component in enumerate(("z", "q", "k", "v")):
        found = patch(model, pair, find_sites(model, [component], heads="each", positions=range(7)))
        by_position = found.values.reshape(3, 4, 7, -1).transpose(1, 2)
        assert torch.allclose(by_position, heads.values[i].double(), atol=1e-5)


@pytest.mark.parametrize("variant", FULL)
def test_self_patching_changes_nothing(variant: str) -> None:
    model = build(variant, "tokens", 3)
    pair = pair_for(model)
    half = Pair(
        torch.cat([pair.corrupt, pair.clean]),
        torch.cat([pair.corrupt, pair.corrupt]),
        torch.cat([pair.answers, pair.answers]),
        torch.cat([pair.wrong, pair.wrong]),
        {},
    )
    found = patch(model, half, [*find_sites(model, ["state", "resid_pre", "v", "z"])])
    assert found.baseline is not None
    assert torch.allclose(found.values[:, :4], found.baseline[:4].expand(len(found.sites), -1), atol=1e-12)
    assert not torch.allclose(found.values[:, 4:], found.baseline[4:].expand(len(found.sites), -1))


@pytest.mark.parametrize("variant", FULL)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_patching_the_whole_state_is_the_other_run(variant: str, direction: Any) -> None:
    model = build(variant, "vectors", 3)
    pair = pair_for(model)
    found = patch(model, pair, find_sites(model, ["state"]), direction=direction)
    assert torch.allclose(found.normalised_effect(), torch.ones(3).double())
    one = patch(model, pair, find_sites(model, ["v"], layers=[0], positions=[0]), direction=direction)
    assert not torch.allclose(one.normalised_effect(), torch.ones(1).double(), atol=1e-3)


def test_both_routes_together_are_the_whole_of_a_value() -> None:
    """Own values go to a layer's attention and down the stream: patching what attention uses and what is passed on
    together is patching the values, and neither alone is."""
    model = build("value", "vectors", 2)
    pair = pair_for(model)
    _, cache = model.run_with_cache(pair.clean)
    take: Any = lambda t, hook: cache[hook.name]  # noqa: E731 # as short as a hook can be

    def run(*names: str) -> Tensor:
        hooks: Any = [(f"blocks.0.attn.hook_{name}", take) for name in names]
        return model.run_with_hooks(pair.corrupt, fwd_hooks=hooks)

    assert torch.allclose(run("v"), run("v_mixed", "v_stream"), atol=1e-12)
    assert not torch.allclose(run("v"), run("v_mixed"))
    assert not torch.allclose(run("v"), run("v_stream"))


def test_frames_say_where_how_much_and_by_which_convention() -> None:
    model = build("value", "vectors", 2)
    pair = pair_for(model, 6)
    # What the clean inputs make more probable in every example, so that the two are told apart.
    answers = (model(pair.clean)[:, -1].softmax(-1) - model(pair.corrupt)[:, -1].softmax(-1)).argmax(-1)
    pair = Pair(pair.clean, pair.corrupt, answers, (answers + 1) % model.config.readout.d_vocab_out, pair.positions)
    result = patch(model, pair, find_sites(model, ["v", "resid_pre"], positions=["two"]), "probability", "noise")
    frame = result.to_frame()
    expected = ["layer", "component", "route", "head", "position", "effect", "low", "high", "p", "patched"]
    assert list(frame.columns) == [*expected, "clean", "corrupt", "accuracy", "n", "metric", "direction"]
    assert set(frame.route) == {"own", "residual", "mixed", "outgoing", "-"}
    assert list(result.axes) == ["layer", "component", "route"]
    assert result.axes["layer"] == [0, 1]
    assert (frame.n == 6).all()
    assert set(zip(frame.metric, frame.direction, strict=True)) == {("probability", "noise")}
    assert ((frame.low <= frame.effect + 1e-9) & (frame.effect - 1e-9 <= frame.high)).all()
    moved = (frame.patched - frame.clean) / (frame.corrupt - frame.clean)
    assert np.allclose(moved, frame.effect)
    assert [trace.type for trace in result.figure().data] == ["heatmap", "scatter"]


def test_metrics_are_what_they_say() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 1.0, 0.0]]]).double()
    inputs, other = torch.zeros(1, 2), torch.ones(1, 2)
    pair = Pair(inputs, other, torch.tensor([0]), torch.tensor([2]), {})
    e = np.exp([2.0, 1.0, 0.0])
    assert float(logit_difference(logits, pair)) == 2.0
    assert float(probability(logits, pair)) == pytest.approx(e[0] / e.sum())
    assert float(loss(logits, pair)) == pytest.approx(-np.log(e[0] / e.sum()))
    assert float(accuracy(logits, pair)) == 1.0
    assert float(rank(logits, pair)) == 0.0
    wrong = Pair(inputs, other, torch.tensor([1]), torch.tensor([2]), {}, read_at=0)
    assert float(logit_difference(logits, wrong)) == 0.0
    worst = Pair(inputs, other, torch.tensor([2]), torch.tensor([1]), {})
    assert float(rank(logits, worst)) == 2.0
    assert float(accuracy(logits, worst)) == 0.0
    assert set(METRICS) == {"logit_difference", "probability", "rank", "loss", "accuracy"}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_say_whether_they_have_a_gradient(name: str) -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    pair = Pair(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([0, 1]), torch.tensor([1, 2]), {})
    values = METRICS[name](logits, pair)
    if name in ("accuracy", "rank"):
        with pytest.raises(ValueError, match=f"metric '{name}' has no gradient.*use one of .'logit_difference'"):
            require_gradient(name, values)
    else:
        assert require_gradient(name, values) is values


def test_each_example_may_be_read_at_a_position_of_its_own() -> None:
    """As prompts of different lengths are: to pad them on the right changes nothing, since attention is causal."""
    model = build("value", "tokens", 3)
    pair = pair_for(model)
    ends = torch.tensor([3, -1, 5, 2])
    mixed = dataclasses.replace(pair, read_at=ends)
    sites = every_site(model)[::4]
    found = patch(model, mixed, sites)
    for row, end in enumerate(ends.tolist()):
        alone = patch(model, dataclasses.replace(pair, read_at=end), sites)
        assert torch.allclose(found.values[:, row], alone.values[:, row], atol=1e-12)
    at_end = patch(model, pair, sites)
    assert not torch.allclose(found.values, at_end.values)
    assert torch.equal(mixed[1:3].reads, torch.tensor([6, 5]))


@pytest.mark.parametrize("variant", ["classic", "value", "resformer-dense"])
def test_a_metric_of_ones_own_may_look_anywhere(variant: str) -> None:
    model = build(variant, "tokens", 3)
    pair = pair_for(model)

    def everywhere(logits: Tensor, p: Pair) -> Tensor:
        return logits[..., 0].square().mean(1)

    def touchy(logits: Tensor, p: Pair) -> Tensor:
        assert torch.isfinite(logits).all(), "a metric may refuse what is not a number"
        return logits[:, -1, 0]

    sites = every_site(model)[::3]
    with torch.no_grad():
        _, clean = model.run_with_cache(pair.clean)
        logits = [one_at_a_time(model, pair, site, clean) for site in sites]
    for metric in (everywhere, touchy):
        expected = torch.stack([metric(each, pair) for each in logits])
        assert torch.allclose(patch(model, pair, sites, metric).values, expected, atol=1e-10)


def test_what_cannot_matter_has_no_effect_and_what_can_has() -> None:
    model = build("value", "tokens", 3)
    pair = pair_for(model)
    found = patch(model, pair, find_sites(model, ["z"], layers=[2], positions=[5, 6]))
    assert found.baseline is not None
    assert torch.equal(found.values[0], found.baseline), "no one reads position 5 after the last attention"
    assert not torch.allclose(found.values[1], found.baseline)


# --- joint sites ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", FULL)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_residual_and_stream_together_are_the_other_run_and_the_residual_alone_is_not(
    variant: str, direction: Any
) -> None:
    model = build(variant, "tokens", 4)
    pair = pair_for(model)
    alone = [Site(layer, "resid_pre") for layer in (1, 2, 3)]
    streams = [s for s in find_sites(model, ["q", "k", "v"]) if s.route == "residual"]
    cuts = [(site, *(s for s in streams if s.layer >= site.layer)) for site in alone]
    found = patch(model, pair, cuts, direction=direction)
    assert torch.allclose(found.values, found.target.expand(3, -1), atol=1e-12)
    trapped = patch(model, pair, alone, direction=direction)
    for site, values in zip(alone, trapped.values, strict=True):
        exact = torch.allclose(values, trapped.target, atol=1e-9)
        assert exact is not bool(model.reads_from(site.layer)), "the stream goes round the cut"


@settings(max_examples=20, derandomize=True)
@given(parts=st.lists(one_stream, max_size=2), layers=st.integers(2, 4), seed=st.integers(0, 99))
def test_the_joint_cut_restores_the_other_run_for_random_architectures(parts: Any, layers: int, seed: int) -> None:
    try:
        config = token_config("classic", layers, streams=tuple(Stream(**part) for part in parts), n_heads=2)
    except ValueError:
        return  # contradictory; other tests see to the message
    model = model_of(config, seed)
    pair = pair_for(model)
    cut = patch(model, pair, find_sites(model, ["state"]))
    assert torch.allclose(cut.values, cut.target.expand(layers, -1), atol=1e-10)


def test_joint_sites_of_several_layers_equal_hooks_at_all_of_them() -> None:
    model = build("resformer-dense", "tokens", 4)
    pair = pair_for(model)
    together = (
        Site(2, "mlp_out", position="two"),
        Site(0, "v", head=1, position=3),
        Site(1, "pattern", head=2),
        Site(0, "v", "mixed", head=1),
    )
    _, cache = model.run_with_cache(pair.clean)

    def write(site: Site) -> Any:
        turn = site.component == "pattern"

        def setter(into: Tensor, hook: Any) -> Tensor:
            old, new = (t.transpose(1, 2) if turn else t for t in (into, cache[hook.name]))
            chosen = pair.where(site.position).view(4, -1, *[1] * (into.ndim - 2))
            if site.head is not None:
                chosen = chosen & (torch.arange(4) == site.head)[:, None]
            patched = torch.where(chosen, new, old)
            return patched.transpose(1, 2) if turn else patched

        return site.hook_name, setter

    found = patch(model, pair, [together, together[:2], together[1]])
    with torch.no_grad():
        for values, sites in zip(found.values, (together, together[:2], together[1:2]), strict=True):
            logits = model.run_with_hooks(pair.corrupt, fwd_hooks=[write(site) for site in sites])
            assert torch.allclose(values, logit_difference(logits, pair), atol=1e-10)
    assert not torch.allclose(found.values[0], found.values[1])
    frame = found.to_frame()
    assert list(frame.component) == ["L2 mlp_out + L0 v + L1 pattern + L0 v", "L2 mlp_out + L0 v", "v"]
    assert list(frame.route) == ["- + own + - + mixed", "- + own", "own"]
    assert list(frame["layer"]) == [0, 0, 0]
    assert list(frame.position) == ["two + 3 + all + all", "two + 3", "3"]
    assert [trace.type for trace in found.figure().data] == ["heatmap", "scatter"]


# --- bad input ------------------------------------------------------------------------------------------------------


def test_mistakes_are_explained_before_work_starts() -> None:
    model = build("value")
    pair = pair_for(model)
    one = find_sites(model, ["resid_pre"])
    pair_with: Any = partial(dataclasses.replace, pair)
    cases: list[tuple[Any, str]] = [
        (lambda: patch(model.train(), pair, one), r"evaluation mode; found training mode at .* Call model.eval\(\)"),
        (lambda: patch(model.eval(), pair, []), "there is no site to patch"),
        (lambda: patch(model, pair, [()]), "there is no site to patch"),
        (lambda: patch(model, pair, [(one[0], Site(9, "v"))]), "the model has 2 layers of 1 heads"),
        (lambda: patch(model, pair, one, lambda logits, p: 0 * logits[:, 0, 0]), "clean and corrupt .* equal on av"),
        (
            lambda: patch(model, pair, [Site(0, "v", "residual")]),
            "unknown site 'blocks.0.attn.hook_v_residual': did you mean",
        ),
        (lambda: patch(model, pair, [Site(9, "v")]), "the model has 2 layers of 1 heads"),
        (lambda: patch(model, pair, [Site(0, "v", head=3)]), "the model has 2 layers of 1 heads"),
        (lambda: patch(model, pair, [Site(0, "v", position="tow")]), "unknown position role 'tow': did you mean 'two'"),
        (lambda: patch(model, pair, [Site(0, "v", position=70)]), "the pair has 7 positions"),
        (lambda: patch(model, pair, one, "logit_diff"), "unknown metric 'logit_diff': did you mean 'logit_difference'"),
        (lambda: patch(model, pair, one, lambda logits, p: logits.sum()), r"must return one number an example, \(4,\)"),
        (lambda: patch(model, pair, one, lambda logits, p: logits[:, 0, 0] / 0), "returned NaN or infinity for 4"),
        (lambda: Site(0, "resid"), "unknown component 'resid': did you mean"),
        (lambda: Site(0, "z", "mixed"), "z has no routes; only q, k and v have"),
        (lambda: Site(0, "resid_pre", head=0), "resid_pre has no heads"),
        (lambda: find_sites(model, ["mlp_out"]), r"this model \(value\) has nowhere: mlp_out \(own\)"),
        (lambda: find_sites(model, ["k"], routes=["mixed"]), r"has nowhere: k \(mixed\); .* it has nothing"),
        (
            lambda: find_sites(build("classic"), ["v"], routes=["own", "residual"]),
            r"nowhere: v \(residual\).*it has v \(own\)",
        ),
        (
            lambda: Pair(pair.clean, pair.corrupt[:, :-1], pair.answers, pair.wrong, {}),
            "a pair needs equal batch sizes",
        ),
        (lambda: pair_with(corrupt=pair.corrupt.float()), "torch.float64 and corrupt ones torch.float32: make them"),
        (lambda: patch(model, pair_with(corrupt=pair.clean), one), "the same everywhere: nothing can be patched"),
        (lambda: pair_with(read_at=7), "read_at: 7 is not a position of inputs of 7 positions"),
        (lambda: pair_with(read_at=torch.tensor([0, 1, 2, -8])), "read_at: -8 is not a position"),
        (lambda: pair_with(positions={"END": torch.tensor([[9]] * 4)}), "positions of 'END': 9 is not a position"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_sites_are_left_out_only_where_an_architecture_cannot_have_them() -> None:
    found = {(s.layer, s.route) for s in find_sites(build("value", n_layers=3), ["v"])}
    assert (0, "residual") not in found
    assert (2, "outgoing") not in found
    assert {(0, "own"), (0, "mixed"), (0, "outgoing"), (1, "residual"), (2, "residual"), (2, "mixed")} <= found
    assert {s.route for s in find_sites(build("classic"), ["v"])} == {"own"}


def test_pairs_of_a_task_patch_where_they_differ() -> None:
    model = HookedStreamTransformer(icl_config("value", "small")).eval()
    pair = small_task().pairs(8, "labels")
    found = patch(model, pair, find_sites(model, ["state"], layers=[0], positions=["other item", "target item"]))
    assert found.baseline is not None
    assert torch.allclose(found.values, found.baseline.expand(2, -1), atol=1e-5), "nothing differs there"
