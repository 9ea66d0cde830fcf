"""Whoever edits or reads at a hook point, by whichever tool and in place or not, edits and reads the same thing."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from circuits import HookedStreamTransformer
from circuits.config.layers import MLP
from circuits.config.parts import Unembedding, VectorInputs
from circuits.model import State
from circuits.transformerlens.hooks import fork, fork_if_hooked
from tests.helpers import FULL, build, gradients, inputs_for

BUILDS: dict[str, Callable[[str], HookedStreamTransformer]] = {
    "vectors": lambda variant: build(variant, "vectors", 3),
    "tokens": lambda variant: build(variant, "tokens", 3, mlp=None),
    "tokens, learned norms, silu": lambda variant: build(
        variant, "tokens", 2, normalization="LN", mlp=MLP(20, "silu"), d_head=5
    ),
    "vectors, projected, relu": lambda variant: build(
        variant,
        "tokens",
        2,
        inputs=VectorInputs(9, project=True),
        readout=Unembedding(19, bias=True),
        mlp=MLP(20, "relu"),
        normalization="RMS",
    ),
    "bare vectors": lambda variant: build(variant, "vectors", 2, positions="none", biases=True, n_heads=2),
}


FLAGS = ("use_attn_result", "use_hook_mlp_in")
KINDS = ("vectors", "tokens", "bare vectors")
STREAM = ("_stream", "_residual", "_mixed", "hook_q", "hook_k", "hook_v")


def flagged(model: HookedStreamTransformer, *flags: str) -> HookedStreamTransformer:
    """Let points fire that wait for a flag."""
    model.allow_stream_blind_tools()
    for flag in flags:
        getattr(model, f"set_{flag}")(True)
    return model


def firing(model: HookedStreamTransformer) -> list[str]:
    return [name for name in model.hook_dict if model.can_fire(name)]


def of_stream(model: HookedStreamTransformer) -> list[str]:
    """Carried projections and what the stream makes of them; of a model without a stream, every point."""
    names = firing(model)
    return [n for n in names if n.endswith(STREAM) or "hook_from" in n] if model.config.streams else names


def edited(t: Tensor, hook: Any) -> Tensor:
    return t * 0.5 + 0.25


def in_place(t: Tensor, hook: Any) -> Tensor:
    return t.mul_(0.5).add_(0.25)


def by_torch(module: Any, args: Any, out: Tensor) -> None:
    out.mul_(0.5).add_(0.25)


def by_torch_out_of_place(module: Any, args: Any, out: Tensor) -> Tensor:
    return out * 0.5 + 0.25


class Seen:
    """What a run shows: logits, every activation, every parameter's gradient and the input's."""

    def __init__(self, model: HookedStreamTransformer, x: Tensor):
        x = x.clone().requires_grad_() if x.is_floating_point() else x.clone()
        given = x.detach().clone()
        logits, self.cache = model.run_with_cache(x, return_cache_object=False)
        self.logits = logits.detach()
        loss = logits[:, -1].square().sum()
        wanted = dict(model.named_parameters()) | ({"input": x} if x.is_floating_point() else {})
        found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
        self.gradients = dict(zip(wanted, found, strict=True))
        assert torch.equal(x, given), "the caller's input was overwritten"

    def check(self, want: Seen, who: str) -> None:
        assert torch.allclose(self.logits, want.logits, atol=1e-12), f"{who}: logits"
        for kind in ("cache", "gradients"):
            mine, theirs = getattr(self, kind), getattr(want, kind)
            assert mine.keys() == theirs.keys(), who
            differ = [n for n in mine if not torch.allclose(mine[n], theirs[n], atol=1e-11)]
            assert not differ, f"{who}: {kind} differ at {differ[:4]}"


def check_points(model: HookedStreamTransformer, names: list[str], *more: Any) -> None:
    """Edit each point by every tool, in place and not: all show what add_hook with a new tensor does."""
    x = inputs_for(model.config, 2, length=min(5, model.config.n_ctx))
    weights = {n: p.detach().clone() for n, p in model.state_dict().items()}
    plain = Seen(model, x)
    for name in names:
        with model.hooks(fwd_hooks=[(name, edited)]):
            want = Seen(model, x)
        assert not torch.equal(want.cache[name], plain.cache[name]), f"{name}: an edit that edits nothing tests nothing"
        with model.hooks(fwd_hooks=[(name, in_place)]):
            Seen(model, x).check(want, f"{name} by add_hook in place")
        for how in (by_torch, *more):
            handle = model.hook_dict[name].register_forward_hook(how)
            Seen(model, x).check(want, f"{name} {how.__name__}")
            handle.remove()
    changed = [n for n, p in model.state_dict().items() if not torch.equal(p, weights[n])]
    assert not changed, f"weights were overwritten: {changed}"
    Seen(model, x).check(plain, "afterwards")


EVERY = [(variant, "tokens") for variant in FULL if variant != "classic"] + [
    (v, "vectors") for v in ("value", "svformer", "within-layer")
]


@pytest.mark.parametrize(("variant", "kind"), EVERY)
def test_every_point_of_every_variants_stream_is_edited_alike_by_every_tool(variant: str, kind: str) -> None:
    model = BUILDS[kind](variant)
    check_points(model, of_stream(model))


@pytest.mark.parametrize("kind", BUILDS)
def test_every_point_of_every_kind_of_model_is_edited_alike_by_every_tool(kind: str) -> None:
    model = flagged(BUILDS[kind]("svformer" if kind == "bare vectors" else "value"), *FLAGS)
    check_points(model, firing(model), by_torch_out_of_place)
    model = flagged(BUILDS[kind]("value"), "use_split_qkv_input")
    check_points(model, [name for name in firing(model) if name.endswith("_input")])


@pytest.mark.parametrize(("variant", "kind"), EVERY)
def test_every_tool_reads_the_same_gradient_at_every_point(variant: str, kind: str) -> None:
    """torch's tools keep the tensor and ask for its gradient; transformer-lens' hooks see it pass."""
    model = BUILDS[kind](variant)
    x = inputs_for(model.config)
    # A gradient comes to whatever a weight made, or the input.
    x = x.requires_grad_() if x.is_floating_point() else x
    for name in of_stream(model):
        held: dict[str, Tensor] = {}

        def keep(module: Any, args: Any, out: Tensor, held: dict[str, Tensor] = held) -> None:
            out.retain_grad()
            held["out"] = out

        handle = model.hook_dict[name].register_forward_hook(keep)
        model(x)[:, -1].square().sum().backward()
        handle.remove()

        def see(gradient: Tensor, hook: Any, held: dict[str, Tensor] = held) -> None:
            held["want"] = gradient.clone()

        with model.hooks(bwd_hooks=[(name, see)]):
            model(x)[:, -1].square().sum().backward()
        found = torch.zeros_like(held["out"]) if held["out"].grad is None else held["out"].grad
        assert torch.allclose(found, held.get("want", torch.zeros_like(found)), atol=1e-11), name


def test_a_point_without_storage_of_its_own_would_let_one_edit_reach_two_branches() -> None:
    """The negation: what the copies are for."""
    tensor = torch.ones(3)
    model = build("value")
    point = model.hook_dict["blocks.0.attn.hook_v_stream"]
    handle = point.register_forward_hook(lambda _module, _args, out: (out.zero_(), None)[1])
    point(tensor)
    assert tensor.sum() == 0, "a bare point hands on what it is given"
    tensor = torch.ones(3)
    assert fork(point, tensor).sum() == 0
    assert tensor.sum() == 3
    tensor = torch.ones(3)
    assert fork_if_hooked(point, tensor).sum() == 0
    assert tensor.sum() == 3, "torch's hooks count as those of others"
    handle.remove()
    assert fork_if_hooked(point, tensor) is tensor


@pytest.mark.parametrize("variant", ["value", "cumulative", "resformer-dense", "lime"])
def test_a_state_that_was_taken_stays_what_it_was(variant: str) -> None:
    model = build(variant, "tokens", 3)
    x = inputs_for(model.config)
    with torch.no_grad():
        state = model.state(x, 1)
    kept = State(1, state.residual.clone(), {key: t.clone() for key, t in state.outgoing.items()})
    for name in firing(model):
        with torch.no_grad(), model.hooks(fwd_hooks=[(name, in_place)]):
            model.run_state(state)
    assert torch.equal(state.residual, kept.residual)
    assert all(torch.equal(tensor, kept.outgoing[key]) for key, tensor in state.outgoing.items())


# --- at parts of the model that are no hook points --------------------------------------------------------------------


def _zero(tensors: Any) -> None:
    for tensor in tensors if isinstance(tensors, (list, tuple)) else tensors.values():
        tensor.zero_()


# The embedding of inputs with one-hot positions is a split of them, which no module makes.
PARENTS: dict[str, tuple[Callable[[HookedStreamTransformer], Any], Any, Any]] = {
    "a norm's output": (
        lambda m: m.layers[1].ln1.register_forward_hook,
        lambda _m, _i, o: _zero([o]),
        lambda _m, _i, o: o * 0,
    ),
    "what attention reads of earlier layers": (
        lambda m: m.layers[1].attn.register_forward_pre_hook,
        lambda _m, i: _zero(i[1]),
        lambda _m, i: (i[0], {k: t * 0 for k, t in i[1].items()}, *i[2:]),
    ),
    "what queries are made of": (
        lambda m: m.layers[1].attn.register_forward_pre_hook,
        lambda _m, i: _zero([i[0]["q"]]),
        lambda _m, i: ({**i[0], "q": i[0]["q"] * 0}, *i[1:]),
    ),
    "what a block reads of earlier layers": (
        lambda m: m.layers[1].register_forward_pre_hook,
        lambda _m, i: _zero(i[1]),
        lambda _m, i: (i[0], {k: t * 0 for k, t in i[1].items()}, *i[2:]),
    ),
    "the embedding": (lambda m: m.embed.register_forward_hook, lambda _m, _i, o: _zero([o]), lambda _m, _i, o: o * 0),
}


@pytest.mark.parametrize("variant", ["value", "lime", "resformer-dense"])
@pytest.mark.parametrize(
    ("where", "kind"), [pair for pair in product(PARENTS, KINDS) if pair != ("the embedding", "vectors")]
)
def test_hooks_at_whole_parts_edit_in_place_what_they_edit_otherwise(where: str, kind: str, variant: str) -> None:
    model = BUILDS[kind](variant)
    x = inputs_for(model.config)
    kept = x.clone()
    register, in_place_edit, other_edit = PARENTS[where]
    found = []
    for edit in (in_place_edit, other_edit):
        handle = register(model)(edit)
        with torch.no_grad():
            found.append(model(x))
        handle.remove()
    assert torch.allclose(*found, atol=1e-12)
    assert not torch.allclose(found[0], model(x)), "an edit that edits nothing tests nothing"
    assert torch.equal(x, kept)


@pytest.mark.parametrize("variant", ["value", "lime"])
def test_who_starts_later_keeps_what_was_given(variant: str) -> None:
    model = BUILDS["tokens"](variant)
    x = inputs_for(model.config)
    with torch.no_grad():
        state = model.state(x, 1)
        kept = [state.residual.clone(), *(t.clone() for t in state.outgoing.values())]
        handles = [
            model.layers[1].register_forward_pre_hook(lambda _m, i: _zero([i[0], *i[1].values()])),
            model.layers[1].attn.register_forward_pre_hook(lambda _m, i: _zero([*i[0].values(), *i[1].values()])),
        ]
        model.run_state(state)
    for handle in handles:
        handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(kept, [state.residual, *state.outgoing.values()], strict=True))
    with pytest.raises(ValueError, match="outgoing is what earlier layers passed on, for a start at a later one"):
        model(x, outgoing=state.outgoing)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_hooks_in_training_mode_edit_what_they_edit_in_evaluation(mode: str) -> None:
    model = getattr(build("value", "tokens", 2), mode)()
    x = inputs_for(model.config)
    for name in firing(model):
        want = model.run_with_hooks(x, fwd_hooks=[(name, edited)])
        expected = gradients(model, want.square().sum())
        handle = model.hook_dict[name].register_forward_hook(by_torch)
        got = model(x)
        found = gradients(model, got.square().sum())
        handle.remove()
        assert torch.allclose(got, want, atol=1e-12), name
        assert all(torch.allclose(found[n], expected[n], atol=1e-11) for n in found), name


# --- other people's tools ---------------------------------------------------------------------------------------------

STREAM_POINTS = ("hook_v_stream", "hook_v_residual", "hook_v_mixed", "mix.v.hook_from_0", "hook_v")


def needs(package: str) -> Any:
    there = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"{package} is of the extra 'peers', which is not installed")


def stream_points(model: HookedStreamTransformer) -> list[str]:
    return [name for name in model.hook_dict if ".attn." in name and name.endswith(STREAM_POINTS)]


@pytest.mark.slow
@needs("nnsight")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["value", "cumulative", "resformer-learned", "x-transformers", "lime"])
def test_nnsight_edits_and_reads_as_hooks_do(variant: str) -> None:
    from nnsight import NNsight  # type: ignore[import-not-found] # of the extra "peers"

    model = build(variant, "tokens", 3)
    x = inputs_for(model.config)
    for name in stream_points(model):
        want = model.run_with_hooks(x, fwd_hooks=[(name, edited)]).detach()
        _, cache = model.run_with_cache(x)
        peer = NNsight(build(variant, "tokens", 3))
        with peer.trace(x):
            point = _submodule(peer, name)
            read = point.output.clone().save()
            point.output[:] = point.output * 0.5 + 0.25
            logits = peer.output.save()
        assert torch.allclose(read, cache[name], atol=1e-12), name  # type: ignore[possibly-unbound] # nnsight runs the block
        assert torch.allclose(logits, want, atol=1e-12), name  # type: ignore[possibly-unbound] # as above


def _submodule(peer: Any, name: str) -> Any:
    for part in name.split("."):
        peer = peer[int(part)] if part.isdigit() else getattr(peer, part)
    return peer


@pytest.mark.slow
@needs("pyvene")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["value", "cumulative", "resformer-learned"])
def test_pyvene_edits_as_hooks_do(variant: str) -> None:
    import pyvene  # type: ignore[import-not-found] # of the extra "peers"

    model = build(variant, "tokens", 3)
    x = inputs_for(model.config)
    for name in stream_points(model):
        want = model.run_with_hooks(x, fwd_hooks=[(name, edited)]).detach()
        peer = build(variant, "tokens", 3)
        rule = {"component": f"{name}.output", "intervention": lambda base, source: edited(base, None)}
        wrapped = pyvene.IntervenableModel([rule], model=peer)
        _, logits = wrapped({"inputs": x})
        assert torch.allclose(logits, want, atol=1e-12), name


@pytest.mark.slow
@needs("captum")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", ["value", "cumulative", "resformer-learned", "lime"])
def test_captum_reads_the_gradients_that_hooks_see(variant: str) -> None:
    from captum.attr import LayerActivation, LayerGradientXActivation  # type: ignore[import-not-found] # as above

    model = build(variant, "tokens", 3)
    x = inputs_for(model.config)

    def asked(tokens: Tensor) -> Tensor:
        return model(tokens)[:, -1, 3]

    for name in stream_points(model):
        seen: dict[str, Tensor] = {}
        with model.hooks(
            fwd_hooks=[(name, lambda t, hook, seen=seen: seen.update(value=t.detach().clone()))],
            bwd_hooks=[(name, lambda g, hook, seen=seen: seen.update(gradient=g.clone()))],
        ):
            asked(x).sum().backward()
        point = model.hook_dict[name]
        read: Any = LayerActivation(asked, point).attribute(x)
        product: Any = LayerGradientXActivation(asked, point).attribute(x)
        assert torch.allclose(read, seen["value"], atol=1e-12), name
        assert torch.allclose(product, seen["value"] * seen["gradient"], atol=1e-11), name
