"""Language models: sizes, tied embedding, dropout, fused attention and norms, the loss, and text in and out."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, jvp, stack_module_state, vmap  # type: ignore[attr-defined] # torch's stubs lag
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities.lm_utils import lm_cross_entropy_loss
from transformers import PreTrainedTokenizerFast

from circuits import (
    LM_SIZES,
    HookedStreamTransformer,
    UnknownNameError,
    icl_config,
    lm_config,
    load_checkpoint,
    parameter_count,
    save_checkpoint,
    variants,
)
from circuits.common.plain_data import content_hash, essence
from circuits.config.parts import ReluStack, TokenInputs, Unembedding, VectorInputs
from circuits.products import affine
from tests.helpers import FULL, build, gradients, inputs_for, model_of, small_task, token_config

SMALL: dict[str, Any] = {"n_layers": 3, "n_ctx": 16, "d_vocab": 19}


def small(variant: str = "value", **overrides: Any) -> HookedStreamTransformer:
    """A language model of few tokens in double precision and evaluation mode."""
    return model_of(lm_config("0.2m", variant, **(SMALL | overrides)))


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_the_8m_model_is_the_published_one() -> None:
    config = lm_config("8m")
    assert parameter_count(config) == 19_708_672
    with torch.device("meta"):
        model = HookedStreamTransformer(config)
    assert sum(p.numel() for p in model.blocks.parameters()) == 6_318_080
    assert (config.n_layers, config.n_heads, config.d_head, config.d_model) == (8, 16, 16, 256)
    assert (config.n_ctx, config.dropout, config.attention_scale, config.normalization) == (2048, 0.1, False, "LN")
    assert config.mlp is not None
    assert (config.mlp.d_mlp, config.mlp.act_fn, config.tied_embedding) == (1024, "gelu", True)


@pytest.mark.parametrize(("size", "millions"), [("0.2m", 0.2), ("1m", 1.0), ("3m", 3.0), ("1b", 1000.0)])
def test_a_size_is_about_as_large_as_its_name_says(size: str, millions: float) -> None:
    assert parameter_count(lm_config(size)) / 1e6 == pytest.approx(millions, rel=0.25)


def test_counting_parameters_of_the_largest_allocates_none_of_them() -> None:
    with torch.device("meta"):
        model = HookedStreamTransformer(lm_config("1b"))
    assert all(p.is_meta for p in model.parameters())


def test_the_count_is_that_of_the_model_that_is_built() -> None:
    for variant in ("classic", "resformer-learned", "transformed"):
        config = lm_config("0.2m", variant)
        assert parameter_count(config) == sum(p.numel() for p in HookedStreamTransformer(config).parameters())


@pytest.mark.parametrize("variant", variants.names())
def test_every_variant_makes_a_language_model_that_learns(variant: str) -> None:
    model = HookedStreamTransformer(lm_config("0.2m", variant, n_ctx=8, d_vocab=11))
    model(inputs_for(model.config), "loss").backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if ".W_" in name and "mix" not in name)


def test_overrides_replace_fields_and_what_depends_on_them_follows() -> None:
    config = lm_config("1m", "value", d_vocab=50, d_model=64, n_layers=2, dropout=0.2, tied_embedding=False)
    assert config.mlp is not None
    assert (config.mlp.d_mlp, config.d_head, config.dropout, config.tied_embedding) == (256, 8, 0.2, False)
    assert (config.inputs, config.readout) == (TokenInputs(50), Unembedding(50))
    assert lm_config("1m", streams=()).streams == ()
    assert parameter_count(config) == parameter_count(dataclasses.replace(config, tied_embedding=True)) + 50 * 64


def test_an_unknown_size_variant_or_field_is_refused_with_the_nearest() -> None:
    for call, said in [
        (lambda: lm_config("8b"), "unknown size '8b': did you mean '8m' or '1b'"),
        (lambda: lm_config("8m", "valeu"), "unknown variant 'valeu': did you mean 'value'"),
        (lambda: lm_config("8m", drop_out=0.1), "unknown field of ModelConfig 'drop_out': did you mean 'dropout'"),
    ]:
        with pytest.raises(UnknownNameError, match=said.replace("(", r"\(")):
            call()


def test_new_fields_leave_the_names_of_earlier_configurations_as_they_were() -> None:
    assert not {"dropout", "tied_embedding"} & set(essence(icl_config("value", "small")))
    assert {"dropout", "tied_embedding"} <= set(essence(lm_config("8m")))
    hashes = {content_hash(essence(lm_config(size))) for size in LM_SIZES}
    assert len(hashes) == len(LM_SIZES)


# --- tied embedding ---------------------------------------------------------------------------------------------------


def test_a_tied_unembedding_is_the_embedding_transposed_and_stored_once() -> None:
    model = small()
    assert torch.equal(model.W_U, model.W_E.T)
    assert torch.equal(attrgetter("unembed.W_U")(model), model.W_U)
    assert model.W_U.data_ptr() == model.W_E.data_ptr()
    names = [name for name in model.state_dict() if "W_E" in name or "W_U" in name]
    assert names == ["embed.W_E"]
    assert names == [name for name, _ in model.named_parameters() if "W_E" in name or "W_U" in name]
    assert {"embed.W_E", "unembed.W_U"} <= set(small(tied_embedding=False).state_dict())


def test_gradients_of_both_uses_add_up_in_a_tied_matrix() -> None:
    tied = small()
    free = small(tied_embedding=False)
    with torch.no_grad():
        free.load_state_dict(tied.state_dict() | {"unembed.W_U": tied.W_U})
    x = inputs_for(tied.config)
    assert torch.allclose(tied(x), free(x), atol=1e-12)
    both, apart = gradients(tied, tied(x, "loss")), gradients(free, free(x, "loss"))
    assert torch.allclose(both["embed.W_E"], apart["embed.W_E"] + apart["unembed.W_U"].T, atol=1e-12)
    assert float(apart["embed.W_E"].norm()) > 0
    assert float(apart["unembed.W_U"].norm()) > 0


def test_copies_of_a_tied_model_are_tied_to_themselves() -> None:
    model = small()
    twin = copy.deepcopy(model).float()
    assert twin.W_U.data_ptr() == twin.W_E.data_ptr() != model.W_E.data_ptr()
    assert (twin.W_U.dtype, twin.cfg.dtype) == (torch.float32, torch.float32)
    with torch.no_grad():
        twin.W_E.zero_()
    assert not twin.W_U.any()
    assert model.W_U.any()


def test_a_tied_model_goes_to_disk_and_back(tmp_path: Path) -> None:
    model = small("resformer-learned", dropout=0.1)
    save_checkpoint(tmp_path / "model", model)
    loaded = load_checkpoint(tmp_path / "model", expect=model.config)
    x = inputs_for(model.config)
    assert torch.equal(loaded(x), model(x))
    with pytest.raises(ValueError, match="tied_embedding: true / false"):
        load_checkpoint(tmp_path / "model", expect=dataclasses.replace(model.config, tied_embedding=False))


def test_exchanged_weights_reach_both_uses() -> None:
    model = small()
    x = inputs_for(model.config)
    moved = {"embed.W_E": model.W_E.detach() + 0.1}
    swapped = functional_call(model, moved, (x,))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.W_E.add_(0.1)
    assert torch.equal(swapped, other(x))


def test_a_tied_embedding_refuses_what_it_cannot_tie() -> None:
    for changes, said in [
        ({"inputs": VectorInputs(64)}, r"inputs must be TokenInputs, got VectorInputs\(d_input=64"),
        ({"readout": ReluStack(600)}, "an Unembedding without a bias, got ReluStack"),
        ({"readout": Unembedding(600, bias=True)}, "an Unembedding without a bias, got Unembedding"),
        ({"readout": Unembedding(601)}, "d_vocab_out = 601 must be d_vocab = 600"),
    ]:
        with pytest.raises(ValueError, match=said):
            lm_config("0.2m", **changes)
        lm_config("0.2m", tied_embedding=False, **changes)


# --- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_acts_in_training_mode_only() -> None:
    x = inputs_for(small().config)
    model = small(dropout=0.3)
    plain = model(x)
    assert torch.equal(plain, model(x))
    assert torch.equal(plain, small()(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    still = small().train()
    assert torch.equal(still(x), still(x))


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_share_that_cannot_be_dropped_is_refused(dropout: float) -> None:
    with pytest.raises(ValueError, match="dropout must be at least 0 and less than 1, got"):
        lm_config("0.2m", dropout=dropout)


def test_dropout_is_on_the_embeddings_and_on_what_attention_and_mlp_add() -> None:
    model = small(dropout=0.5).train()
    _, cache = model.run_with_cache(inputs_for(model.config, batch=8))
    for name in ("blocks.0.hook_resid_pre", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out"):
        assert float((cache[name] == 0).double().mean()) == pytest.approx(0.5, abs=0.05), name
    for name in ("hook_embed", "blocks.1.attn.hook_v", "blocks.1.attn.hook_v_mixed", "blocks.1.mlp.hook_post"):
        assert bool(cache[name].all()), name


@pytest.mark.parametrize("listened", [False, True])
def test_dropout_on_attention_keeps_its_mean_and_takes_a_share_of_the_pattern(listened: bool) -> None:
    attn = small(dropout=0.25).train().layers[0].attn
    torch.manual_seed(0)
    q, k = torch.zeros(1, 12, 4, 16).double(), torch.zeros(1, 12, 4, 16).double()
    v = torch.eye(12, 16).double()[None, :, None].expand(1, 12, 4, 16)
    with listening(attn.point("pattern")) if listened else nothing():
        z = torch.stack([attn.attend({"q": q, "k": k, "v": v}) for _ in range(400)])
    # The values are unit vectors, so an output is its row of the dropped pattern.
    last = z[:, 0, -1, :, :12]
    assert float((last == 0).double().mean()) == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(last.mean((0, 1)), torch.full((12,), 1 / 12).double(), atol=0.01)


# --- fused attention and norms ----------------------------------------------------------------------------------------


@contextmanager
def nothing() -> Iterator[None]:
    """A block in which nothing is done."""
    yield


@contextmanager
def listening(*points: HookPoint) -> Iterator[None]:
    """Have something listen at hook points, and change nothing."""
    handles = [point.register_forward_hook(lambda module, args, out: None) for point in points]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def spelled_out(model: HookedStreamTransformer) -> Any:
    """Have something listen wherever a fused call would leave a tensor out."""
    ends = ("hook_attn_scores", "hook_pattern", "hook_scale")
    return listening(*(point for name, point in model.hook_dict.items() if name.endswith(ends)))


def fused_calls(run: Callable[[], Any]) -> int:
    """How many times fused attention is called."""
    count, real = 0, F.scaled_dot_product_attention

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        nonlocal count
        count += 1
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(F, "scaled_dot_product_attention", counting)
        run()
    return count


def both_ways(model: HookedStreamTransformer, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients without and with listeners."""

    model.train()

    def found() -> list[Tensor]:
        out = model(x)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(out.dtype)
        return [out, *gradients(model, (out * weights).sum()).values()]

    fused = found()
    with spelled_out(model):
        return fused, found()


def furthest(model: HookedStreamTransformer, x: Tensor) -> float:
    """How far output and gradients are apart the two ways, over the largest entry of each where that is above 1."""
    found = zip(*both_ways(model, x), strict=True)
    return max(float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1)) for a, b in found)


@pytest.mark.parametrize(
    ("variant", "scale"), [*((variant, True) for variant in FULL), ("classic", False), ("value", False)]
)
def test_fused_calls_give_what_is_spelled_out_gives(variant: str, scale: bool) -> None:
    model = small(variant, attention_scale=scale)
    assert furthest(model, inputs_for(model.config)) < 1e-10
    assert 0 < furthest(model.float(), inputs_for(model.config)) < 1e-5


@pytest.mark.parametrize("normalization", ["LN", "LNPre", "RMS", "RMSPre", None])
@pytest.mark.parametrize(("n_heads", "d_head"), [(4, 16), (2, 5), (1, 24), (3, 40)])
def test_fused_calls_do_for_every_norm_and_width_of_heads(normalization: Any, n_heads: int, d_head: int) -> None:
    config = token_config("resformer-learned", normalization=normalization, n_heads=n_heads, d_head=d_head)
    assert furthest(model_of(config), inputs_for(config)) < 1e-10


@pytest.mark.parametrize("variant", ["classic", "value", "lime"])
def test_the_in_context_classifier_is_the_same_either_way(variant: str) -> None:
    model = build(variant)
    assert furthest(model, inputs_for(model.config)) < 1e-10
    real = HookedStreamTransformer(icl_config(variant, "small")).eval()
    out, wanted = (found[0] for found in both_ways(real, small_task().sample(16, seed=1).inputs))
    assert torch.allclose(out, wanted, atol=1e-6, rtol=0)


def test_scores_are_formed_only_where_something_listens() -> None:
    model = small().train()
    x = inputs_for(model.config)
    assert fused_calls(lambda: model(x)) == 3
    for name in ("attn_scores", "pattern"):
        for direction in ("fwd", "bwd"):
            hooks: Any = {f"{direction}_hooks": [(f"blocks.1.attn.hook_{name}", lambda t, hook: None)]}
            with model.hooks(**hooks):
                assert fused_calls(lambda: model(x)) == 2, (name, direction)
        with listening(model.layers[1].attn.point(name)):
            assert fused_calls(lambda: model(x)) == 2, f"torch's own hook at {name}"
    assert fused_calls(lambda: model.run_with_cache(x)) == 0
    assert fused_calls(lambda: model.run_with_cache(x, names_filter=lambda name: name.endswith("hook_z"))) == 3


def test_in_evaluation_a_watched_run_equals_an_unwatched_one_bit_by_bit_unless_asked_otherwise() -> None:
    model = small()
    x = inputs_for(model.config)
    assert fused_calls(lambda: model(x)) == 0
    assert torch.equal(model.run_with_cache(x)[0], model(x))
    model.set_use_fused_evaluation(True)
    assert fused_calls(lambda: model(x)) == 3
    assert torch.allclose(model.run_with_cache(x)[0], model(x), atol=1e-12)
    assert not torch.equal(model.run_with_cache(x)[0], model(x))
    model.set_use_fused_evaluation(False)
    assert fused_calls(lambda: model(x)) == 0


def test_a_pattern_that_is_replaced_is_used() -> None:
    model = small().train()
    x = inputs_for(model.config)

    def last_sees_only_itself(pattern: Tensor, hook: HookPoint) -> Tensor:
        pattern[:, :, -1] = 0
        pattern[:, :, -1, -1] = 1
        return pattern

    moved = model.run_with_hooks(x, fwd_hooks=[("blocks.1.attn.hook_pattern", last_sees_only_itself)])
    assert not torch.allclose(moved[:, -1], model(x)[:, -1], atol=1e-3)
    assert torch.allclose(moved[:, :-1], model(x)[:, :-1], atol=1e-10)


@pytest.mark.parametrize("listened", [False, True])
def test_z_fires_and_takes_writes_in_place_either_way(listened: bool) -> None:
    model = small().train()
    x = inputs_for(model.config)

    def silence(z: Tensor, hook: HookPoint) -> Tensor:
        z[:, :, 2] = 0
        return z

    hooks: Any = [("blocks.1.attn.hook_z", silence)]
    with spelled_out(model) if listened else nothing(), model.hooks(fwd_hooks=hooks):
        out = model(x)
        found = gradients(model, out.square().sum())
    assert not found["blocks.1.attn.W_O"][2].any()
    assert found["blocks.1.attn.W_O"][1].any()
    assert not torch.allclose(out, model(x), atol=1e-4)


def test_a_listener_at_the_scale_sees_what_the_fused_norm_divides_by() -> None:
    model = small()
    x = inputs_for(model.config)
    _, cache = model.run_with_cache(x)
    model.train()
    for layer in range(3):
        residual = cache["resid_pre", layer]
        centred = residual - residual.mean(-1, keepdim=True)
        ln = model.layers[layer].ln1
        assert torch.allclose(ln(residual), centred / cache["scale", layer, "ln1"] * ln.w + ln.b, atol=1e-12)
    seen: list[Tensor] = []
    normalized = "blocks.1.ln1.hook_normalized"
    model.run_with_hooks(x, fwd_hooks=[(normalized, lambda t, hook: seen.append(t))])
    assert torch.allclose(seen[0], cache[normalized], atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own use of it
def test_models_that_are_mapped_over_and_derived_forwards_are_served() -> None:
    model = small().train()
    x = inputs_for(model.config)
    parameters, buffers = stack_module_state([model, small().train()])
    body = copy.deepcopy(model)
    stacked = vmap(lambda p, b: functional_call(body, (p, b), (x,)))(parameters, buffers)
    assert torch.allclose(stacked[0], model(x), atol=1e-10)

    start = model.input_residual(x).detach()
    direction = torch.randn(start.shape, generator=torch.Generator().manual_seed(2)).double()

    def logits(residual: Tensor) -> Tensor:
        return model(residual, start_at_layer=0)

    step = 1e-5
    wanted = (logits(start + step * direction) - logits(start - step * direction)) / (2 * step)
    moved = jvp(logits, (start,), (direction,))[1]
    assert torch.allclose(moved, wanted, atol=1e-6)
    with forward_ad.dual_level():
        dual = logits(forward_ad.make_dual(start, direction))
        tangent = forward_ad.unpack_dual(dual).tangent
        assert tangent is not None
        assert torch.allclose(tangent, wanted, atol=1e-6)


def test_second_derivatives_exist_in_evaluation_mode_and_in_training_mode_with_the_math_backend() -> None:
    model = small("classic")
    x = inputs_for(model.config)

    def curvature() -> Tensor:
        (first,) = torch.autograd.grad(model(x, "loss"), model.layers[0].attn.W_Q, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), model.layers[0].attn.W_Q)
        return second

    wanted = curvature()
    model.train()
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.allclose(curvature(), wanted, atol=1e-10)
    with pytest.raises(RuntimeError, match=r"derivative for .*attention.* is not implemented"):
        curvature()


# --- products and the loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", [True, False])
def test_projections_and_outputs_are_the_sums_over_heads_that_they_stand_for(biases: bool) -> None:
    attn = small(biases=biases).layers[1].attn
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).double()
    per_head = x[:, :, None].expand(2, 5, 4, 64)
    for carrier in ("q", "k", "v"):
        weight, bias = getattr(attn, f"W_{carrier.upper()}"), getattr(attn, f"b_{carrier.upper()}")
        wanted = torch.stack([x @ weight[head] + bias[head] for head in range(4)], 2)
        assert torch.allclose(attn.project_one(x, carrier), wanted, atol=1e-12)
        assert torch.allclose(attn.project_one(per_head, carrier), wanted, atol=1e-12)
        assert bool(bias.any()) == biases
    z = torch.randn(2, 5, 4, 16, generator=torch.Generator().manual_seed(2)).double()
    wanted = attn.b_O + torch.stack([z[:, :, head] @ attn.W_O[head] for head in range(4)]).sum(0)
    assert torch.allclose(attn.output(z), wanted, atol=1e-12)
    assert torch.allclose(attn.output(z, use_attn_result=True), wanted, atol=1e-12)


def test_one_call_multiplies_and_adds_the_bias() -> None:
    x, weight, bias = (torch.randn(shape).double() for shape in [(2, 3, 4), (4, 5), (5,)])
    assert torch.allclose(affine(x, weight, bias), x @ weight + bias, atol=1e-12)
    assert torch.allclose(affine(x, weight), x @ weight, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_logits_have_the_bias_that_the_readout_has(bias: bool) -> None:
    model = model_of(lm_config("0.2m", **SMALL, tied_embedding=False, readout=Unembedding(19, bias=bias)))
    z = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(1)).double()
    assert torch.allclose(model.unembed(z), z @ model.W_U + model.b_U, atol=1e-12)
    assert bool(model.b_U.any()) == bias


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_the_loss_is_transformer_lens_loss(dtype: torch.dtype) -> None:
    model = small()
    x = inputs_for(model.config)
    logits, loss = model(x.to(dtype), "both")
    wanted = lm_cross_entropy_loss(logits, x)
    assert torch.allclose(loss, wanted, atol=1e-12)
    assert torch.equal(loss, model(x.to(dtype), "loss"))
    ours, theirs = gradients(model, model(x, "loss")), gradients(model, lm_cross_entropy_loss(model(x), x))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-12) for name in ours)


def test_what_no_later_layer_reads_is_let_go() -> None:
    model = small()
    inputs = inputs_for(model.config)
    assert model.state(inputs, 2).outgoing.keys() == {(1, "v")}
    assert model.state(inputs, 3).outgoing == {}
    first = small("resformer-constant")
    assert first.state(inputs, 2).outgoing.keys() == {(0, "v")}


# --- compiled ---------------------------------------------------------------------------------------------------------

COMPILED = """
import torch
from circuits import HookedStreamTransformer, lm_config
torch.set_num_threads(1)
for variant in ("classic", "value"):
    model = HookedStreamTransformer(lm_config("0.2m", variant, n_layers=2, n_ctx=16, d_vocab=19))
    x = torch.randint(19, (3, 16), generator=torch.Generator().manual_seed(0))

    def loss(tokens):
        return model(tokens, "loss")

    def found(function):
        model.zero_grad()
        value = function(x)
        value.backward()
        return [value.detach(), *(p.grad.clone() for p in model.parameters())]

    eager = found(loss)
    whole = torch.compile(loss, fullgraph=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(eager, found(whole), strict=True)), variant
    compiled = torch.compile(model)
    with torch.no_grad():
        assert torch.allclose(compiled(x), model(x), atol=1e-5)
        for name in ("attn.hook_pattern", "attn.hook_attn_scores", "ln1.hook_scale"):
            with model.hooks(fwd_hooks=[("blocks.1." + name, lambda t, hook: t * 0)]):
                try:
                    compiled(x)
                    print("ignored", name)
                except RuntimeError as error:
                    print("refused" if "called with hooks attached" in str(error) else error)
"""


@pytest.mark.slow
def test_a_compiled_language_model_is_the_eager_one_in_one_graph_and_ignores_no_hook() -> None:
    ran = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.split() == ["refused"] * 6


# --- text -------------------------------------------------------------------------------------------------------------

WORDS = ["<pad>", "<unk>", "<bos>", "John", "Mary", "gave", "a", "ball", "to", "the", "store"]


def tokenizer(words: list[str] = WORDS, **roles: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>"} | roles
    given = {role: token for role, token in named.items() if token is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **given)


def speaking(**roles: str | None) -> HookedStreamTransformer:
    """A small language model with a tokenizer."""
    model = small()
    model.set_tokenizer(tokenizer(WORDS, **roles))
    return model


def test_text_becomes_tokens_and_back() -> None:
    model = speaking(bos_token=None)
    assert model.to_tokens("Mary gave John").tolist() == [[4, 5, 3]]
    assert model.to_tokens(["Mary gave John", "Mary"]).tolist() == [[4, 5, 3], [4, 0, 0]]
    assert model.to_string(model.to_tokens("Mary gave John")[0]) == "Mary gave John"
    assert model.to_string(model.to_tokens(["Mary gave", "John gave"])) == ["Mary gave", "John gave"]
    assert model.to_string([4, 5]) == "Mary gave"
    assert model.to_single_token("store") == 10
    assert model.to_single_token(7) == 7
    assert model.to_single_str_token(4) == "Mary"
    assert model.to_str_tokens("Mary gave John") == ["Mary", "gave", "John"]
    assert model.to_str_tokens(torch.tensor([4, 5])) == ["Mary", "gave"]
    assert model.to_str_tokens(["Mary", "John gave"]) == [["Mary"], ["John", "gave"]]
    assert model.to_tokens(torch.tensor([1, 2])).tolist() == [[1, 2]]


def test_text_begins_with_the_beginning_token_where_there_is_one() -> None:
    model = speaking()
    assert model.cfg.default_prepend_bos is True
    assert small().cfg.default_prepend_bos is False
    assert model.to_tokens("Mary").tolist() == [[2, 4]]
    assert model.to_tokens("Mary", prepend_bos=False).tolist() == [[4]]
    assert model.to_str_tokens("Mary") == ["<bos>", "Mary"]
    assert model.to_single_token("Mary") == 4
    model.cfg.default_prepend_bos = False
    assert model.to_tokens("Mary").tolist() == [[4]]
    model.set_tokenizer(tokenizer(), prepend_bos=False)
    assert model.to_tokens("Mary").tolist() == [[4]]
    without = speaking(bos_token=None)
    assert without.cfg.default_prepend_bos is False
    with pytest.raises(ValueError, match="asks for a beginning token, which this tokenizer lacks"):
        without.to_tokens("Mary", prepend_bos=True)


def test_texts_are_padded_by_the_ending_token_where_there_is_no_padding() -> None:
    model = speaking(pad_token=None, bos_token=None, eos_token="store")
    assert model.to_tokens(["Mary gave", "John"]).tolist() == [[4, 5], [3, 10]]
    model = speaking(pad_token=None, bos_token=None)
    assert model.to_tokens(["Mary", "John"]).tolist() == [[4], [3]]
    with pytest.raises(ValueError, match=r"has no padding token; set tokenizer\.pad_token"):
        model.to_tokens(["Mary gave", "John"])


def test_texts_are_padded_on_the_side_that_is_asked_for_and_cut_there() -> None:
    model = speaking()
    texts = ["Mary gave a ball", "John gave", "store"]
    for side, rows in {
        None: [[2, 4, 5, 6, 7], [2, 3, 5, 0, 0], [2, 10, 0, 0, 0]],
        "right": [[2, 4, 5, 6, 7], [2, 3, 5, 0, 0], [2, 10, 0, 0, 0]],
        "left": [[2, 4, 5, 6, 7], [0, 0, 2, 3, 5], [0, 0, 0, 2, 10]],
    }.items():
        assert model.to_tokens(texts, padding_side=side).tolist() == rows
        assert model.to_tokens("John gave", padding_side=side).tolist() == [[2, 3, 5]], "one text has no padding"
    bare, padded = model("John gave"), model(model.to_tokens(texts, padding_side="left"))
    assert not torch.allclose(padded[1, -2:], bare[0, -2:]), "as the docstring says, padding is attended to"
    n_ctx = model.cfg.n_ctx
    long = " ".join(["Mary gave John"] * n_ctx)
    whole = model.to_tokens(long)
    assert whole.shape == (1, 3 * n_ctx + 1)
    assert model.to_tokens(long, truncate=True).equal(whole[:, :n_ctx])
    assert model.to_tokens(long, padding_side="left", truncate=True).equal(whole[:, -n_ctx:])
    assert model.to_tokens(whole, truncate=True).equal(whole[:, :n_ctx])
    assert model.to_tokens(whole, padding_side="left", truncate=True).equal(whole[:, -n_ctx:])
    short = model.to_tokens(texts[:2])
    assert model.to_tokens(texts[:2], truncate=True).equal(short), "what fits is not cut"


def test_tokens_may_stay_on_the_cpu() -> None:
    model = speaking()
    model.cfg.device = "meta"
    assert model.to_tokens("Mary").device.type == "meta"
    assert model.to_tokens("Mary", move_to_device=False).tolist() == [[2, 4]]


def test_unknown_arguments_and_what_are_no_token_numbers_are_refused() -> None:
    model: Any = speaking()
    for wrong in ({"prepend": True}, {"padding": "left"}, {"move": False}):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{next(iter(wrong))}'"):
            model.to_tokens("Mary", **wrong)
    for strange in (torch.zeros(2, 3), torch.ones(3).bool(), torch.zeros(1, 2, 3).long(), torch.tensor(3)):
        with pytest.raises(
            ValueError, match=r"token numbers are whole numbers of shape \(pos\) or \(batch, pos\), got"
        ):
            model.to_tokens(strange)


def test_texts_are_opened_by_the_tokens_that_are_given() -> None:
    model = small()
    model.set_tokenizer(tokenizer(bos_token=None), opening=[9, 0])
    assert model.cfg.default_prepend_bos is True
    assert model.to_tokens(["Mary", "John gave"]).tolist() == [[9, 0, 4, 0], [9, 0, 3, 5]]
    assert model.to_tokens("Mary", prepend_bos=False).tolist() == [[4]]
    assert model.to_str_tokens("Mary") == ["the", "<pad>", "Mary"]
    assert model.to_single_token("Mary") == 4, "a token is not opened"
    assert torch.equal(model("Mary gave"), model(torch.tensor([[9, 0, 4, 5]])))
    model.set_tokenizer(tokenizer(), opening=())
    assert (model.opening, model.cfg.default_prepend_bos) == ((), False)
    assert model.to_tokens("Mary").tolist() == [[4]]
    assert model.to_tokens("Mary", prepend_bos=True).tolist() == [[2, 4]], "the beginning token, if asked for"
    model.set_tokenizer(tokenizer(), prepend_bos=False, opening=(9,))
    assert model.to_tokens("Mary").tolist() == [[4]]
    assert model.to_tokens("Mary", prepend_bos=True).tolist() == [[9, 4]]
    model.set_tokenizer(tokenizer())
    assert model.to_tokens("Mary").tolist() == [[2, 4]], "nothing is left of the other opening"
    with pytest.raises(ValueError, match=r"opening must hold the tokenizer's token numbers, and it has no \[11, 18\]"):
        model.set_tokenizer(tokenizer(), opening=[2, 11, 18])
    with pytest.raises(ValueError, match="a token of opening must be a whole number of at least 0, got -1"):
        model.set_tokenizer(tokenizer(), opening=[-1])


def test_numbers_that_are_no_tokens_are_refused() -> None:
    model: Any = speaking()
    assert [model.to_single_token(n) for n in (0, 18, torch.tensor(5), torch.tensor([6]))] == [0, 18, 5, 6]
    assert type(model.to_single_token(torch.tensor([6]))) is int
    for n in (19, -1, 10**9, True, torch.tensor([1, 2]), torch.tensor([1.0]), torch.tensor(True)):
        with pytest.raises(
            ValueError, match="is no token of this model: its token numbers are whole numbers from 0 to"
        ):
            model.to_single_token(n)
    for n in (11, 18, -1, 10**6, 2**40):
        for ask in (model.to_single_str_token, model.to_string, lambda n: model.to_string([4, n])):
            with pytest.raises(ValueError, match="no token of the number|a token number must be a whole number"):
                ask(n)
        with pytest.raises(ValueError, match="no token of the number|a token number must be a whole number"):
            model.to_str_tokens(torch.tensor([4, n]))
    for strange in (torch.tensor([1.5]), torch.tensor([True]), torch.zeros(1, 2, 3).long()):
        with pytest.raises(ValueError, match="token numbers are whole numbers of shape"):
            model.to_string(strange)
    assert model.to_string([]) == "", "no tokens are no text"


def test_a_model_runs_on_text() -> None:
    model = speaking()
    text = "Mary gave a ball to John"
    tokens = model.to_tokens(text)
    assert torch.equal(model(text), model(tokens))
    assert torch.equal(model(text, "loss"), model(tokens, "loss"))
    logits, cache = model.run_with_cache(text)
    assert torch.equal(logits, model.run_with_cache(tokens)[0])
    assert cache["v", 0].shape == (1, 7, 4, 16)
    both = ["Mary gave", "John gave a ball"]
    assert torch.equal(model(both), model(model.to_tokens(both)))
    assert torch.allclose(model(both)[0, :3], model("Mary gave")[0], atol=1e-12), "padding is never looked at"


def test_the_loss_of_texts_is_that_of_their_tokens() -> None:
    model = speaking()
    both = ["Mary gave", "John gave a ball"]
    losses = [model(text, "loss", loss_per_token=True)[0] for text in both]
    assert torch.allclose(model(both, "loss"), torch.cat(losses).mean(), atol=1e-12)
    each = model(both, "loss", loss_per_token=True)
    assert torch.allclose(each[0, :2], losses[0], atol=1e-12)
    assert (each[0, 2:] == 0).all(), "padding has no loss"
    tokens = model.to_tokens(both)
    assert not torch.allclose(model(tokens, "loss"), model(both, "loss")), "without a mask it does"
    assert model("Mary gave", prepend_bos=False).shape[1] == 2
    with pytest.raises(ValueError, match=r"for every position, \(batch, pos\) = \(2, 5\); got \(2, 4\)"):
        model(tokens, attention_mask=torch.ones(2, 4, dtype=torch.long))


def test_a_loss_of_nothing_is_refused() -> None:
    model = build("value", "tokens", 2)
    x = inputs_for(model.config, batch=2)
    one, apart = torch.arange(7) == torch.tensor([[3], [0]]), torch.arange(7).expand(2, -1) % 2 == 0
    nothing: list[tuple[Tensor, Tensor | None]] = [(x[:, :1], None), (x, one), (x, apart), (x, ~one & False)]
    for tokens, mask in nothing:
        for asked in ("loss", "both"):
            with pytest.raises(ValueError, match=r"no token follows on another in \(batch, pos\) = \(2, [17]\)"):
                model(tokens, asked, attention_mask=mask)
        each = model(tokens, "loss", attention_mask=mask, loss_per_token=True)
        assert each.shape == (2, tokens.shape[1] - 1)
        assert (each == 0).all()
    follows = one | (torch.arange(7) == torch.tensor([[4], [5]]))
    found = model(x, "loss", attention_mask=follows)
    assert torch.allclose(found, model(x[:1, 3:5], "loss")), "one row has a next token, which is enough"


def test_tokens_are_found_and_embedded_and_models_say_where_they_are() -> None:
    model = speaking()
    text = "John gave John a ball"
    assert model.get_token_position("John", text) == 1
    assert model.get_token_position("John", text, mode="last", prepend_bos=False) == 2
    assert model.get_token_position(model.to_single_token("a"), model.to_tokens(text)) == 4
    with pytest.raises(ValueError, match="'Mary' .token .*. does not occur in"):
        model.get_token_position("Mary", text)
    residual, tokens = model.input_to_embed(text)
    assert torch.equal(residual, model.run_with_cache(text)[1]["resid_pre", 0])
    assert torch.equal(tokens, model.to_tokens(text))
    assert (model.device, model.dtype) == (torch.device("cpu"), model.cfg.dtype)


def test_texts_go_on_together_as_they_do_alone() -> None:
    model = model_of(token_config("value", 2, inputs=TokenInputs(11), readout=Unembedding(11)))
    model.set_tokenizer(tokenizer(WORDS))
    texts = ["Mary gave", "John gave a ball"]
    together = model.generate(texts, 3, do_sample=False, stop_at_eos=False)
    alone = [model.generate(text, 3, do_sample=False, stop_at_eos=False) for text in texts]
    assert together == alone, "padding is not in them"
    assert "Mary gave" in alone[0]


def test_a_text_of_several_tokens_is_not_one() -> None:
    model = speaking()
    with pytest.raises(ValueError, match=r"'Mary gave' is 2 tokens, not one: \['Mary', 'gave'\]"):
        model.to_single_token("Mary gave")
    with pytest.raises(ValueError, match="'' is 0 tokens, not one"):
        model.to_single_token("")
    with pytest.raises(ValueError, match="one sequence of token numbers, got 2"):
        model.to_str_tokens(torch.zeros(2, 3).long())


def test_a_tokenizer_that_does_not_fit_is_refused() -> None:
    model = small()
    with pytest.raises(ValueError, match="highest token number is 24, but the model has d_vocab = 19"):
        model.set_tokenizer(tokenizer(WORDS + [f"word{i}" for i in range(14)]))
    model.set_tokenizer(tokenizer(WORDS + [f"word{i}" for i in range(8)]))
    with pytest.raises(ValueError, match="prepend_bos asks for a beginning token"):
        model.set_tokenizer(tokenizer(bos_token=None), prepend_bos=True)
    with pytest.raises(ValueError, match="this model takes vectors"):
        build("value").set_tokenizer(tokenizer())


def test_without_a_tokenizer_the_errors_say_so() -> None:
    model = small()
    for call in (
        lambda: model("Mary"),
        lambda: model.to_tokens("Mary"),
        lambda: model.to_single_token("Mary"),
        lambda: model.to_string(torch.tensor([1])),
        lambda: model.to_str_tokens("Mary"),
    ):
        with pytest.raises(ValueError, match="has no tokenizer"):
            call()
    with pytest.raises(ValueError, match="takes text or a tensor of token numbers, got dict"):
        speaking().to_tokens({})
    with pytest.raises(ValueError, match="nothing to run"):
        speaking(bos_token=None)("")


def test_directions_are_found_by_a_token_s_text() -> None:
    model = small(normalization="LNPre")
    model.set_tokenizer(tokenizer())
    assert torch.equal(model.tokens_to_residual_directions("Mary"), model.W_U[:, 4])


def test_nothing_imports_transformers_for_text() -> None:
    for name in ("transformerlens/text", "transformerlens/tools", "common/text_coverage", "model"):
        assert "import transformers" not in Path(f"circuits/{name}.py").read_text()
        assert "from transformers" not in Path(f"circuits/{name}.py").read_text()
