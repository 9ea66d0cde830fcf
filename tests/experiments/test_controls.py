"""Controls of the study: streams of other weights, changed starts, rates by parameter, label noise, stable run ids."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from analysis import Graph, find_sites, patch, split_gradient
from analysis.pairs import Pair
from circuits import HookedStreamTransformer, ModelConfig, Stream, icl_config
from circuits.checkpoint import load_checkpoint, save_checkpoint
from circuits.common.errors import UnknownNameError
from circuits.config.parts import Start
from circuits.config.topologies import Cumulative, First, Previous
from experiments.runs.config import TRAINING, RunConfig, icl_run
from experiments.runs.training_config import SGD, Adam, Rate
from experiments.tasks.in_context.batches import PRESETS
from experiments.tasks.in_context.task import ICLTask
from experiments.training.optimizers import make_optimizer
from tests.circuits.test_fast import compare
from tests.helpers import gradients, inputs_for, model_of, token_config, vector_config

OTHER = ["initial", "untied"]


def with_weights(weights: Any, kind: Any = vector_config, **more: Any) -> ModelConfig:
    return kind("classic", n_layers=2, streams=(Stream("v", weights=weights, **more),))


def loss(model: HookedStreamTransformer) -> torch.Tensor:
    return model(inputs_for(model.config))[:, -1].logsumexp(-1).sum()


# --- streams of other weights -------------------------------------------------------------------------------------


def test_a_stream_of_initial_weights_starts_as_a_stream_of_values_and_never_moves() -> None:
    tied = HookedStreamTransformer(with_weights("own"), seed=3).double()
    frozen = HookedStreamTransformer(with_weights("initial"), seed=3).double()
    x = inputs_for(tied.config)
    assert torch.equal(frozen(x), tied(x))
    assert "blocks.0.attn.W_V_stream" not in dict(frozen.named_parameters())
    for model in (tied, frozen):
        before = model(x, return_type="logits")
        hidden = model.run_with_cache(x)[1]["blocks.1.attn.hook_v_residual"]
        with torch.no_grad():
            model.layers[0].attn.W_V.add_(1.0)
        moved = not torch.equal(model.run_with_cache(x)[1]["blocks.1.attn.hook_v_residual"], hidden)
        assert moved == (model is tied)
        assert not torch.equal(model(x), before)


@pytest.mark.parametrize("weights", ["own", *OTHER])
@pytest.mark.parametrize("kind", [vector_config, token_config])
def test_only_a_layers_own_values_get_gradient_through_the_stream(weights: str, kind: Any) -> None:
    model = model_of(with_weights(weights, kind))
    split = split_gradient(model, lambda logits: logits[:, -1].logsumexp(-1).sum(), inputs_for(model.config))
    shares = split.to_frame().groupby("tensor")["stream"].sum()
    assert (shares["blocks.0.attn.W_V"] > 0) == (weights == "own")
    if weights == "untied":
        assert shares["blocks.0.attn.W_V_stream"] > 0


def test_untied_weights_are_more_parameters_that_learn_and_start_elsewhere() -> None:
    untied, tied = (model_of(with_weights(w)) for w in ("untied", "own"))
    names = set(dict(untied.named_parameters())) - set(dict(tied.named_parameters()))
    assert names == {"blocks.0.attn.W_V_stream"}
    attn = untied.layers[0].attn
    assert not torch.allclose(attn.W_V, attn.passing_weight("v"))
    assert all(g.abs().max() > 0 for g in gradients(untied, loss(untied)).values())


@pytest.mark.parametrize("weights", OTHER)
@pytest.mark.parametrize("topology", [Previous(), First()])
def test_the_fast_path_knows_other_weights(weights: Any, topology: Any) -> None:
    streams = (Stream("v", weights=weights, topology=topology),)
    assert compare(icl_config("classic", "small", streams=streams), "small") < 1e-10


@pytest.mark.parametrize("weights", OTHER)
def test_other_weights_live_in_checkpoints(weights: Any, tmp_path: Path) -> None:
    model = HookedStreamTransformer(with_weights(weights), seed=5)
    save_checkpoint(tmp_path / "model.safetensors", model)
    with torch.no_grad():
        model.layers[0].attn.passing_weight("v").zero_()
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.layers[0].attn.passing_weight("v").abs().sum() > 0
    x = inputs_for(model.config).float()
    assert not torch.allclose(loaded(x), model(x))


@pytest.mark.parametrize("weights", ["own", *OTHER])
def test_patching_knows_what_such_a_stream_carries(weights: Any) -> None:
    model = model_of(with_weights(weights))
    clean, corrupt = inputs_for(model.config, seed=1), inputs_for(model.config, seed=2)
    answers = torch.zeros(len(clean), dtype=torch.int64)
    pair = Pair(clean, corrupt, answers, answers + 1, {"end": torch.full((len(clean), 1), clean.shape[1] - 1)})
    [site] = find_sites(model, ["v"], ["outgoing"], layers=[0], positions=["end"])
    found = patch(model, pair, [site], metric="probability", direction="denoise").to_frame().patched.iloc[0]
    source = model.run_with_cache(clean)[1]["blocks.0.attn.hook_v_stream"]

    def put(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        tensor[:, -1] = source[:, -1]
        return tensor

    by_hand = model.run_with_hooks(corrupt, fwd_hooks=[("blocks.0.attn.hook_v_stream", put)])
    assert found == pytest.approx(by_hand[:, -1].softmax(-1)[:, 0].mean().item(), abs=1e-10)


def test_graphs_refuse_a_stream_that_is_no_edge_between_heads() -> None:
    Graph(model_of(with_weights("own")))
    for weights in OTHER:
        with pytest.raises(ValueError, match="carries what no head computes"):
            Graph(model_of(with_weights(weights)))


def test_a_running_sum_has_no_other_weights() -> None:
    with pytest.raises(ValueError, match="running sum is of what layers used"):
        Stream("v", topology=Cumulative(), weights="untied")
    both = (Stream("v", weights="untied"), Stream("k", source="v"))
    with pytest.raises(ValueError, match="made by different weights"):
        vector_config("classic", streams=both)


def test_describe_says_whose_weights() -> None:
    text = str(HookedStreamTransformer(with_weights("initial")))
    assert "identity, of initial weights" in text


# --- changed starts -----------------------------------------------------------------------------------------------


def test_starts_change_the_named_weight_alone() -> None:
    plain = HookedStreamTransformer(vector_config("classic"), seed=2)
    starts = (Start("blocks.1.attn.W_V", scale=2.0, add="blocks.0.attn.W_V"), Start("blocks.0.attn.W_V", scale=3.0))
    changed = HookedStreamTransformer(vector_config("classic", starts=starts), seed=2)
    was, now = dict(plain.named_parameters()), dict(changed.named_parameters())
    # What is added is the other weight as it started, whatever else is changed.
    wanted = 2 * was["blocks.1.attn.W_V"] + was["blocks.0.attn.W_V"]
    assert torch.allclose(now["blocks.1.attn.W_V"], wanted)
    assert torch.allclose(now["blocks.0.attn.W_V"], 3 * was["blocks.0.attn.W_V"])
    assert all(torch.equal(now[n], was[n]) for n in was if not n.endswith("W_V"))


def test_starts_name_weights_that_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"blocks\.0\.attn\.W_V"):
        HookedStreamTransformer(vector_config("classic", starts=(Start("blocks.0.attn.W_v"),)))
    for weight, added in (("blocks.0.attn.W_V", "readout.0.b"), ("readout.0.b", "blocks.0.attn.W_V")):
        with pytest.raises(ValueError, match=r"adds a weight of the shape .* name one of that shape"):
            HookedStreamTransformer(vector_config("classic", starts=(Start(weight, add=added),)))


def test_a_model_that_started_otherwise_is_the_same_architecture(tmp_path: Path) -> None:
    changed = vector_config("classic", starts=(Start("blocks.1.attn.W_V", scale=2.0),))
    save_checkpoint(tmp_path / "model.safetensors", HookedStreamTransformer(changed))
    load_checkpoint(tmp_path / "model.safetensors", expect=vector_config("classic"))


# --- rates by parameter -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD(rate=0.1, decay=1e-3), Adam(rate=1e-3)])
def test_rates_scale_the_steps_of_the_named_parameters(optimizer: Any) -> None:
    def step(*rates: Rate) -> dict[str, torch.Tensor]:
        model = HookedStreamTransformer(vector_config("value"), seed=1)
        parameters: dict[str, torch.Tensor] = dict(model.named_parameters())
        before = {n: p.detach().clone() for n, p in parameters.items()}
        loss(model.double()).backward()
        make_optimizer(optimizer, parameters, rates).step()
        return {n: p.detach() - before[n] for n, p in parameters.items()}

    plain = step()
    named = step(Rate("blocks.0.attn.W_V", 2.0), Rate("readout", 0.0))
    decay = getattr(optimizer, "decay", 0.0)
    for name, moved in named.items():
        if name.startswith("readout"):
            assert moved.abs().max() == 0
        elif name == "blocks.0.attn.W_V" and not decay:
            assert torch.allclose(moved, 2 * plain[name], rtol=1e-4)
        elif name != "blocks.0.attn.W_V":
            assert torch.equal(moved, plain[name])
    assert not torch.allclose(named["blocks.0.attn.W_V"], plain["blocks.0.attn.W_V"])


def test_rates_must_name_something() -> None:
    parameters: dict[str, torch.Tensor] = dict(HookedStreamTransformer(vector_config("value")).named_parameters())
    with pytest.raises(UnknownNameError, match="unknown parameter"):
        make_optimizer(SGD(), parameters, [Rate("blocks.9.attn.W_V", 2.0)])
    with pytest.raises(ValueError, match="must be 0 or more"):
        Rate("blocks", -1.0)


# --- label noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "test", "ic"])
def test_label_noise_is_of_the_training_context_alone(split: Any) -> None:
    clean, noisy = (ICLTask(dataclasses.replace(PRESETS["small"], label_noise=p), seed=0) for p in (0.0, 0.3))
    a, b = clean.sample(2_000, split), noisy.sample(2_000, split)
    assert torch.equal(a.labels, b.labels)
    wrong = (a.context_labels != b.context_labels).double().mean()
    assert wrong == (pytest.approx(0.3, abs=0.015) if split == "train" else 0.0)


def test_a_probability_is_one() -> None:
    with pytest.raises(ValueError, match="label_noise is a probability"):
        dataclasses.replace(PRESETS["small"], label_noise=1.5)


# --- run ids ------------------------------------------------------------------------------------------------------


def test_fields_with_their_defaults_do_not_count_in_an_id() -> None:
    run = icl_run("value", "small", 0)
    assert "label_noise" not in json.dumps(run.essence())
    spelled = dataclasses.replace(run, task=dataclasses.replace(run.task, label_noise=0.0))
    assert spelled.id == run.id
    assert dataclasses.replace(run, task=dataclasses.replace(run.task, label_noise=0.1)).id != run.id


def test_a_number_is_the_same_run_however_it_was_read() -> None:
    run = icl_run("value", "small", 0)
    doubled = dataclasses.replace(run, training=dataclasses.replace(run.training, rates=(Rate("blocks", 2.0),)))
    # As JSON of other programs has it: 2 for 2.0.
    stored = json.loads(json.dumps(doubled.to_plain()).replace("2.0", "2"))
    assert stored["training"]["rates"][0]["factor"] == 2
    assert isinstance(stored["training"]["rates"][0]["factor"], int)
    assert RunConfig.from_plain(stored).id == doubled.id


def test_a_record_from_before_a_field_was_there_reads_as_its_default() -> None:
    run = icl_run("value", "small", 0)
    old = run.to_plain()
    del old["task"]["label_noise"], old["training"]["rates"], old["model"]["starts"]
    assert RunConfig.from_plain(old) == run
    assert RunConfig.from_plain(run.essence()) == run
    assert TRAINING["small"].rates == ()


def test_gradients_flow_to_the_loss_of_a_control_run() -> None:
    """Controls train: one update of each lowers the loss of its batch."""
    for streams, starts in (((Stream("v", weights="initial"),), ()), ((), (Start("blocks.1.attn.W_V", scale=2.0),))):
        config = icl_config("classic", "small", streams=streams, starts=starts)
        model, task = HookedStreamTransformer(config), ICLTask(PRESETS["small"], seed=0)
        batch = task.sample(256, "train")
        optimizer = make_optimizer(Adam(rate=1e-3), dict(model.named_parameters()))
        before = F.cross_entropy(model(batch.inputs)[:, -1], batch.labels)
        before.backward()
        optimizer.step()
        assert F.cross_entropy(model(batch.inputs)[:, -1], batch.labels) < before
