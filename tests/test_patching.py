"""Patching: equal to one patched run at a time and to transformer-lens, exact at the ends, clear about mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformer_lens import patching as tl

from analysis import Pair, Site, find_sites, patch
from analysis.pairs import METRICS, accuracy, logit_difference, negative_loss, probability
from circuits import HookedStreamTransformer, icl_config
from circuits.model import State
from tests.helpers import FULL, build, inputs_for, small_task

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

    if site.component == "state":
        a, b = model.state(pair.corrupt, site.layer), model.state(pair.clean, site.layer)
        outgoing = {key: write(a.outgoing[key], b.outgoing[key]) for key in a.outgoing}
        return model.run_state(State(site.layer, write(a.residual, b.residual), outgoing))
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
    _, cache = model.run_with_cache(pair.clean[:1])
    one = len(pair) * sum(t.numel() * t.element_size() for t in cache.values())
    tight = patch(model, pair, wanted, max_memory=one)
    assert torch.allclose(tight.values, patch(model, pair, wanted).values, atol=1e-12)
    with pytest.raises(ValueError, match=r"max_memory = .* is less than one copy of the pair needs"):
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
    same = Pair(pair.corrupt, pair.corrupt, pair.answers, pair.wrong, pair.positions)
    with pytest.raises(ValueError, match="clean and corrupt logit_difference are equal on average"):
        patch(model, same, find_sites(model, ["resid_pre"]))
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
    result = patch(model, pair, find_sites(model, ["v", "resid_pre"], positions=["two"]), "probability", "noise")
    frame = result.to_frame()
    expected = ["layer", "component", "route", "head", "position", "effect", "low", "high", "p", "patched"]
    assert list(frame.columns) == [*expected, "clean", "corrupt", "n", "metric", "direction"]
    assert set(frame.route) == {"own", "residual", "mixed", "outgoing", "-"}
    assert (frame.n == 6).all()
    assert set(zip(frame.metric, frame.direction, strict=True)) == {("probability", "noise")}
    assert ((frame.low <= frame.effect + 1e-9) & (frame.effect - 1e-9 <= frame.high)).all()
    moved = (frame.patched - frame.clean) / (frame.corrupt - frame.clean)
    assert np.allclose(moved, frame.effect)
    assert len(result.figure().data) == 1


def test_metrics_are_what_they_say() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 1.0, 0.0]]]).double()
    inputs = torch.zeros(1, 2)
    pair = Pair(inputs, inputs, torch.tensor([0]), torch.tensor([2]), {})
    e = np.exp([2.0, 1.0, 0.0])
    assert float(logit_difference(logits, pair)) == 2.0
    assert float(probability(logits, pair)) == pytest.approx(e[0] / e.sum())
    assert float(negative_loss(logits, pair)) == pytest.approx(np.log(e[0] / e.sum()))
    assert float(accuracy(logits, pair)) == 1.0
    wrong = Pair(inputs, inputs, torch.tensor([1]), torch.tensor([2]), {}, read_at=0)
    assert float(logit_difference(logits, wrong)) == 0.0
    assert set(METRICS) == {"logit_difference", "probability", "negative_loss", "accuracy"}


# --- bad input ------------------------------------------------------------------------------------------------------


def test_mistakes_are_explained_before_work_starts() -> None:
    model = build("value")
    pair = pair_for(model)
    one = find_sites(model, ["resid_pre"])
    cases: list[tuple[Any, str]] = [
        (lambda: patch(model.train(), pair, one), r"evaluation mode; found training mode at .* Call model.eval\(\)"),
        (lambda: patch(model.eval(), pair, []), "there is no site to patch"),
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
