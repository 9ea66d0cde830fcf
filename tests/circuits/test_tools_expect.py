"""What transformer-lens' tools and torch's transforms expect of a model: names, caches, shapes, types, layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformer_lens import SVDInterpreter
from transformer_lens.utilities.components_utils import get_act_name

from analysis.heads.copying import eigenvalue_copying
from circuits import HookedStreamTransformer, load_checkpoint, save_checkpoint, transplant
from circuits.config.layers import MLP
from circuits.config.parts import Unembedding
from circuits.model import State
from circuits.streams.variants import streams
from tests.helpers import FULL, build, inputs_for, made, model_of, token_config

# --- names and caches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", ["LN", "RMS", "LNPre", None])
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_a_run_without_a_return_type_is_cached_to_the_end(kind: str, normalization: Any) -> None:
    model = build("value", kind, 2, normalization=normalization)
    x = inputs_for(model.config)
    out, cache = model.run_with_cache(x, return_type=None)
    assert out is None
    _, whole = model.run_with_cache(x)
    assert list(cache.keys()) == list(whole.keys()), "the final norm's and the readout's points too"
    assert all(torch.equal(cache[name], whole[name]) for name in whole.keys())  # noqa: SIM118 # not a mapping
    begins = {name.split(".")[0] for name in cache.keys()}  # noqa: SIM118 # not a mapping
    assert ("readout" in begins) == (kind == "vectors")
    assert ("ln_final" in begins) == (normalization is not None)


@pytest.mark.parametrize("short", ["q_input", "k_input", "v_input", "attn_in", "v_mixed", "v_stream"])
def test_points_have_the_short_names_that_transformer_lens_makes(short: str) -> None:
    model = build("value", "tokens", 3)
    model.allow_stream_blind_tools()
    (model.set_use_attn_in if short == "attn_in" else model.set_use_split_qkv_input)(True)
    x = inputs_for(model.config)
    name = get_act_name(short, 1)
    full = f"blocks.1.attn.hook_{short}"
    edited = [model.run_with_hooks(x, fwd_hooks=[(n, lambda t, hook: t * 0.5)]) for n in (name, full)]
    assert torch.equal(*edited)
    assert not torch.equal(edited[0], model(x))
    _, cache = model.run_with_cache(x)
    assert torch.equal(cache[short, 1], cache[full])
    assert torch.equal(cache[short, -2], cache[full])
    assert torch.equal(cache[name], cache[full])


@pytest.mark.parametrize("name", ["v_mixed", "pattern", "resid_pre"])
def test_layers_of_a_cache_count_from_either_end_and_no_further(name: str) -> None:
    model = build("value", n_layers=3)
    cache = model.run_with_cache(inputs_for(model.config))[1]
    assert all(torch.equal(cache[name, layer], cache[name, layer - 3]) for layer in range(3))
    for layer in (3, -4):
        with pytest.raises(KeyError, match=rf"cache\['{name}', {layer}\] is of no layer of this model: it has 3"):
            cache[name, layer]


def test_a_short_name_of_nothing_is_unknown() -> None:
    with pytest.raises(ValueError, match="unknown hook point 'blocks.0.hook_x_input'"):
        build("value", "tokens").add_hook("blocks.0.hook_x_input", lambda t, hook: t)


@pytest.mark.parametrize("tied", [True, False])
def test_all_weights_are_there_by_their_names_and_counted_once(tied: bool) -> None:
    model = build("cumulative", "tokens", 2, tied_embedding=tied, biases=False)
    weights = model.tl_parameters()
    assert torch.equal(weights["unembed.W_U"], model.W_U)
    assert torch.equal(weights["blocks.1.attn.b_V"], torch.zeros_like(model.b_V[1]))
    assert set(weights) >= set(model.state_dict())
    assert ("unembed.W_U" in dict(model.named_parameters())) != tied
    found = SVDInterpreter(model).get_singular_vectors("OV", layer_index=1, head_index=2, num_vectors=3)
    _, _, V = torch.linalg.svd(model.W_V[1, 2] @ model.W_O[1, 2])
    mine = (model.W_U.T @ V[:3].T)[:, None]
    assert torch.allclose(found.abs(), mine.abs(), atol=1e-8)


# --- the final norm folded --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["classic", "value", "cumulative", "x-transformers", "svformer"])
@pytest.mark.parametrize(
    ("normalization", "tied", "bias"), [("LN", True, False), ("RMS", False, True), ("LN", False, True)]
)
def test_parts_of_the_residual_stream_add_up_to_the_logits_of_a_folded_model(
    variant: str, normalization: Any, tied: bool, bias: bool
) -> None:
    readout = Unembedding(19, bias=bias)
    model = build(variant, "tokens", 3, normalization=normalization, tied_embedding=tied, readout=readout)
    x = inputs_for(model.config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = model.fold_layer_norm()
    assert torch.allclose(folded(x), model(x), atol=1e-12)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items()), "it stays as it is"
    assert not folded.config.tied_embedding
    logits, cache = folded.run_with_cache(x)
    direction = folded.tokens_to_residual_directions(torch.tensor(3)) - folded.tokens_to_residual_directions(4)
    parts = cache.apply_ln_to_stack(cache.decompose_resid(-1), layer=-1)
    total = (parts @ direction).sum(0) + folded.b_U[3] - folded.b_U[4]
    assert torch.allclose(total, logits[..., 3] - logits[..., 4], atol=1e-10)
    lens = cache.apply_ln_to_stack(cache.accumulated_resid(-1, incl_mid=False), layer=-1)[-1] @ folded.W_U + folded.b_U
    assert torch.allclose(lens, logits, atol=1e-10), "the last layer of the logit lens is the model"
    naive = cache.apply_ln_to_stack(cache.decompose_resid(-1), layer=-1) @ (model.W_U[:, 3] - model.W_U[:, 4])
    assert not torch.allclose(naive.sum(0), logits[..., 3] - logits[..., 4], atol=1e-2), "unfolded it is another number"
    assert eigenvalue_copying(folded, "own").to_frame().value.between(-1, 1).all()


def test_who_is_asked_unfolded_is_told_what_to_do() -> None:
    model = build("value", "tokens", normalization="LN")
    _, cache = model.run_with_cache(inputs_for(model.config))
    with pytest.raises(ValueError, match=r"a final norm with learned weights stands before W_U; ask model.fold_layer"):
        cache.logit_attrs(cache.decompose_resid(-1), tokens=torch.tensor([1, 2, 3]))
    with pytest.raises(ValueError, match=r"ask model.fold_layer_norm\(\), which has none; or use copy_score"):
        eigenvalue_copying(model)
    with pytest.raises(ValueError, match="a ReLU stack stands before W_U; patch or ablate instead"):
        build("value").tokens_to_residual_directions(torch.tensor(1))
    with pytest.raises(ValueError, match="stands before a ReLU stack, not before W_U"):
        build("value", normalization="LN").fold_layer_norm()
    with pytest.raises(ValueError, match=r"token numbers lie between 0 and 18, got \[19, -1\]"):
        build("value", "tokens").tokens_to_residual_directions(torch.tensor([19, -1]))


@pytest.mark.parametrize("eps", [None, 0.5])
def test_the_root_that_tools_see_is_that_of_the_number_type(eps: float | None) -> None:
    model = HookedStreamTransformer(token_config("value", normalization="RMS", norm_eps=eps))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        assert model.to(dtype).cfg.eps == (eps or torch.finfo(dtype).eps)


def test_a_direction_is_no_part_of_the_weights() -> None:
    for tied in (False, True):
        model = build("value", "tokens", 2, normalization="LNPre", tied_embedding=tied)
        before = model.W_U.detach().clone()
        for tokens in (3, torch.tensor(3), torch.tensor([3]), torch.tensor([3], dtype=torch.uint8)):
            direction = model.tokens_to_residual_directions(tokens)
            assert torch.equal(direction.view(24), before[:, 3])
            with torch.no_grad():
                direction /= direction.norm()
        assert torch.equal(model.W_U, before)
        for strange in (torch.tensor([True, False]), torch.tensor(3.0)):
            with pytest.raises(ValueError, match=r"whole numbers, got a tensor of torch.\w+; call .long\(\) on it"):
                model.tokens_to_residual_directions(strange)


def test_a_fold_keeps_what_a_model_is_besides() -> None:
    model = build("value", "tokens", normalization="LN", tied_embedding=True).to(torch.float32)
    model.set_use_attn_result(True)
    model.set_gate("stop")
    folded = model.fold_layer_norm()
    assert folded.cfg.use_attn_result
    assert folded.config.streams[0].gate == "stop"
    assert {p.dtype for p in folded.parameters()} == {torch.float32}
    assert not folded.training
    again = folded.fold_layer_norm()
    assert torch.allclose(again.W_U, folded.W_U)
    plain = build("value", "tokens", normalization="LNPre")
    x = inputs_for(plain.config)
    assert torch.equal(plain.fold_layer_norm()(x), plain(x)), "nothing to fold"


# --- shapes without values, and torch's transforms --------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
@pytest.mark.parametrize("variant", ["value", "lime", "x-transformers"])
def test_shapes_are_computed_without_values(kind: str, variant: str) -> None:
    model = build(variant, kind, 2)
    x = inputs_for(model.config)
    logits = model(x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(mode.from_tensor(x)).shape == logits.shape
    assert model.to("meta")(x.to("meta")).shape == logits.shape


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_runs_can_be_mapped_over_inputs_and_differentiated(kind: str) -> None:
    model = build("value", kind, 2)
    many = torch.stack([inputs_for(model.config, seed=i) for i in range(4)])
    logits = torch.func.vmap(model)(many)
    assert torch.allclose(logits, torch.stack([model(x) for x in many]), atol=1e-12)
    if kind == "tokens":
        return
    x = many[0]
    found = torch.func.grad(lambda x: model(x)[:, -1].square().sum())(x)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, -1].square().sum(), [leaf])
    assert torch.allclose(found, expected, atol=1e-12)


def test_values_are_checked_wherever_there_are_any() -> None:
    """The negation: the checks did not go."""
    vectors, tokens = build("value"), build("value", "tokens")
    x, t = inputs_for(vectors.config), inputs_for(tokens.config)
    x[1, 2, 3], t[0, 1] = torch.nan, 19
    for ask in (
        lambda: vectors(x),
        lambda: torch.func.vmap(vectors)(x[None]),
        lambda: torch.func.grad(_sum(vectors))(x),
    ):
        with pytest.raises(ValueError, match="the inputs hold NaN or infinity, first at"):
            ask()
    for ask in (lambda: tokens(t), lambda: torch.func.vmap(tokens)(t[None])):
        with pytest.raises(ValueError, match="token numbers from 0 to 19, but d_vocab = 19"):
            ask()


def _sum(model: HookedStreamTransformer) -> Any:
    return lambda x: model(x).sum()


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["classic", "value", "resformer-learned"])
def test_every_weight_keeps_its_type_on_disk(variant: str, tmp_path: Path) -> None:
    model = build(variant, "tokens", 2, biases=False, mlp=MLP(8)).float()
    model.blocks[1].to(torch.bfloat16)
    model.unembed.to(torch.float16)
    save_checkpoint(tmp_path / "mixed.safetensors", model)
    loaded = load_checkpoint(tmp_path / "mixed.safetensors")
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype, name
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.cfg.dtype == torch.float16
    assert loaded.layers[1].attn.b_V.dtype == torch.bfloat16, "what is not learned goes with what is"
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    moved = transplant(loaded, token_config("value", 2, biases=False, mlp=MLP(8)))
    shared = set(moved.state_dict()) & set(model.state_dict())
    assert all(moved.state_dict()[name].dtype == model.state_dict()[name].dtype for name in shared)
    with torch.no_grad():
        moved.layers[0].attn.W_V.zero_()
    assert loaded.layers[0].attn.W_V.abs().sum() > 0, "a transplant shares no storage with its donor"


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["classic", "value", "resformer-dense"])
def test_layers_count_from_either_end(variant: str) -> None:
    model = build(variant, "tokens", 3)
    x = inputs_for(model.config)
    whole = model(x)
    for layer in range(-3, 4):
        state = model.state(x, layer)
        assert state.layer == layer % 3 or (layer, state.layer) == (3, 3)
        assert torch.allclose(model.run_state(state), whole, atol=1e-12), layer
        assert torch.equal(model(x, stop_at_layer=layer), state.residual)
        assert model.reads_from(layer) == model.reads_from(state.layer)
    assert torch.equal(model(x, stop_at_layer=-1), model(x, stop_at_layer=2))


def test_layers_that_are_not_there_are_refused() -> None:
    model = build("value", "tokens", 3)
    x = inputs_for(model.config)
    residual = model(x, stop_at_layer=1)
    told = r"= -?\d+ is no layer of this model: it has 3, numbered from 0; 3 stands for the end, and -1 for the last"
    asks: list[Any] = [
        lambda: model(x, stop_at_layer=4),
        lambda: model(residual, start_at_layer=7, outgoing={}),
        lambda: model(x, stop_at_layer=-4),
        lambda: model.state(x, 4),
        lambda: model.reads_from(9),
        lambda: model.run_state(State(5, residual, {})),
    ]
    for ask in asks:
        with pytest.raises(ValueError, match=told):
            ask()
    with pytest.raises(ValueError, match="start_at_layer = 2 comes after stop_at_layer = 1"):
        model(residual, start_at_layer=2, stop_at_layer=1)
    with pytest.raises(ValueError, match=r"the input is the residual stream \(batch, pos, 24\) before that layer, got"):
        model(x, start_at_layer=0)
    state = model.state(x, 1)
    with pytest.raises(ValueError, match="outgoing v of layer 0 is of .batch, pos. = .2, 7., the residual stream of"):
        model(state.residual, start_at_layer=1, outgoing={key: t[:2] for key, t in state.outgoing.items()})
    for make, cut in (
        ("llama", lambda t: t[:, :, :1]),
        ("nanochat", lambda t: t[..., :1]),
        ("nanochat", lambda t: t[:, :, 0]),
    ):
        other = made(make, "nanochat" if make == "nanochat" else "value")
        state = other.state(inputs_for(other.config), 2)
        wanted = other.run_state(state)
        assert torch.equal(other(state.residual, start_at_layer=2, outgoing=state.outgoing), wanted)
        for key, tensor in state.outgoing.items():
            with pytest.raises(
                ValueError, match=r"outgoing .* at every position, and \([24, 6]+,?\) is read; take it from"
            ):
                other(state.residual, start_at_layer=2, outgoing={**state.outgoing, key: cut(tensor)})
    for layer in (-1, 4):
        with pytest.raises(ValueError, match="this model has 3, numbered from 0, and 3 stands for the end"):
            model.accumulated_bias(layer)


def test_heads_and_layers_of_sites_are_not_dropped() -> None:
    from analysis import find_sites

    model = build("value", "tokens", 2)
    for which, told in (
        ({"layers": [0, 5]}, r"layers \[5\]: the model has 2, numbered from 0 to 1"),
        ({"layers": [-1]}, r"layers \[-1\]: the model has 2"),
        ({"heads": [0, 4, 7]}, r"heads \[4, 7\]: the model has 4, numbered from 0 to 3"),
    ):
        with pytest.raises(ValueError, match=told):
            find_sites(model, ["z"], **which)  # type: ignore[arg-type] # of several kinds
    assert len(find_sites(model, ["z"], layers=[1], heads=[0, 3])) == 2


@pytest.mark.parametrize("variant", FULL)
def test_biases_without_an_output_matrix_are_added_by_both_ways_of_writing(variant: str) -> None:
    """What a head's own results add up to, with the bias, is what attention writes."""
    config = token_config(variant, 2, output_matrix=False, biases=True, d_head=6, n_heads=4)
    model = model_of(config)
    x = inputs_for(config)
    plain, cache = model.run_with_cache(x)
    model.set_use_attn_result(True)
    assert torch.allclose(model(x), plain, atol=1e-12)
    joined = cache["z", 1].flatten(2) + model.b_O[1]
    assert torch.allclose(cache["attn_out", 1], joined, atol=1e-12)
    assert model.b_O.abs().sum() > 0
    assert streams(variant, 2) == config.streams
