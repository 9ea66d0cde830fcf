"""Ablations take away what they say, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from analysis import Ablation, Pair, ablate, standard_ablations
from circuits import HookedStreamTransformer, NothingChangedError, Site, Stream, intervened, save_checkpoint
from circuits.config.streams import CARRIERS, Carrier
from circuits.config.topologies import Cumulative, Dense, WithinLayer
from circuits.interventions.intervention import Clamp, FromRun
from figures.models.ablation import ablation_bars
from tests.helpers import ALL, FULL, build, gradients, inputs_for, model_of, token_config

KINDS = [("vectors", 2, "zero"), ("vectors", 2, "mean"), ("tokens", 3, "resample")]


def answers_for(model: HookedStreamTransformer, n: int) -> Tensor:
    return torch.arange(n) % model.config.readout.d_vocab_out


@pytest.mark.parametrize(("kind", "layers", "method"), KINDS)
@pytest.mark.parametrize("variant", FULL)
def test_every_standard_ablation_runs_and_says_how_much_it_changed(
    variant: str, kind: str, layers: int, method: str
) -> None:
    model = build(variant, kind, layers)
    x = inputs_for(model.config, 4)
    before = model(x)
    frame = ablate(model, Pair.one_sided(x, answers_for(model, 4)), standard_ablations(model, [method])).to_frame()
    hooked = frame[~frame.part.isin(["forward cut", "gradient cut"])]
    assert (hooked.changed > 0).all()
    assert set(hooked.method) == {method}
    parts = {"head", "z", "outgoing", "stream", "forward cut", "gradient cut"} if variant != "classic" else {"head"}
    assert set(frame.part) == parts
    assert torch.equal(model(x), before), "the model is as it was"
    assert not model.list_hooks()


@pytest.mark.parametrize("variant", [v for v in ALL if v not in FULL])
def test_a_stream_that_is_cut_already_is_cut_no_further(variant: str) -> None:
    model = build(variant, "vectors", 2)
    x = inputs_for(model.config, 4)
    frame = ablate(model, Pair.one_sided(x, answers_for(model, 4))).to_frame().set_index("part")
    if variant.endswith("-gradient-only"):
        assert (frame.loc["stream"].changed == 0).all()
        assert "forward cut" not in frame.index
        cut: Any = frame.loc["gradient cut"]
        assert cut.loss_ablated == cut.loss, "cutting its gradient must not open it forward"
    else:
        assert (frame.loc["stream"].changed > 0).all()
        assert "gradient cut" not in frame.index


@pytest.mark.parametrize("variant", [v for v in FULL if v != "classic"])
def test_the_gradient_cut_changes_the_gradient_alone_and_the_forward_cut_the_rest(variant: str) -> None:
    model = build(variant, "tokens", 3)
    x = inputs_for(model.config, 6)
    cuts = [Ablation.gradient_cut(model), Ablation.forward_cut(model)]
    frame = ablate(model, Pair.one_sided(x, answers_for(model, 6)), cuts).to_frame()
    gradient, forward = frame.iloc[0], frame.iloc[1]
    assert gradient.loss_ablated == gradient.loss
    assert gradient.accuracy_ablated == gradient.accuracy
    assert gradient.gradient_cosine < 1 - 1e-6
    assert abs(forward.loss_ablated - forward.loss) > 1e-6


def test_both_cuts_together_are_the_gate_off() -> None:
    model = build("value", "tokens", 3)
    x, y = inputs_for(model.config, 6), answers_for(model, 6)
    both = Ablation.forward_cut(model) + Ablation.gradient_cut(model)
    row = ablate(model, Pair.one_sided(x, y), [both]).to_frame().iloc[0]
    whole = gradients(model, F.cross_entropy(model(x)[:, -1], y))
    with model.gated("off"):
        loss = F.cross_entropy(model(x)[:, -1], y)
        off = gradients(model, loss)
    flat, flat_off = (torch.cat([g.flatten() for g in found.values()]) for found in (whole, off))
    assert row.part == "forward cut + gradient cut"
    assert row.loss_ablated == float(loss.detach())
    assert row.gradient_cosine == pytest.approx(float(F.cosine_similarity(flat, flat_off, dim=0)), abs=1e-12)


def test_zeroing_the_stream_is_the_forward_of_no_stream() -> None:
    model, classic = build("value", "tokens", 3), build("classic", "tokens", 3)
    classic.load_state_dict(model.state_dict())
    x = inputs_for(model.config, 6)
    y = answers_for(model, 6)
    frame = ablate(model, Pair.one_sided(x, y), [Ablation.stream(model), Ablation.forward_cut(model)]).to_frame()
    expected = float(F.cross_entropy(classic(x)[:, -1], y).detach())
    assert frame.loss_ablated.tolist() == pytest.approx([expected, expected], abs=1e-12)


def test_mean_ablation_is_the_mean_over_examples_position_by_position() -> None:
    model = build("value", "tokens", 3)
    x, y = inputs_for(model.config, 6), answers_for(model, 6)
    _, cache = model.run_with_cache(x)
    mean = cache["z", 1].mean(0, keepdim=True)

    def replace(t: Tensor, hook: Any) -> Tensor:
        t = t.clone()
        t[:, :, 2] = mean[:, :, 2]
        return t

    expected = F.cross_entropy(model.run_with_hooks(x, fwd_hooks=[("blocks.1.attn.hook_z", replace)])[:, -1], y)
    frame = ablate(model, Pair.one_sided(x, y), [Ablation.z(model, 1, 2, "mean")]).to_frame()
    assert frame.loss_ablated.iloc[0] == pytest.approx(float(expected.detach()), abs=1e-12)


@pytest.mark.parametrize("method", ["mean", "resample"])
def test_of_several_sites_together_each_is_that_of_the_whole_model(method: str) -> None:
    """A head's mean output is its mean output, and not that which it has once its values are replaced as well."""
    model = build("value", "tokens", 3)
    x, y = inputs_for(model.config, 6), answers_for(model, 6)
    _, cache = model.run_with_cache(x)
    whole = Ablation.head(model, 0, 1, method)
    with intervened(model, whole.interventions, baseline={name: cache[name] for name in cache}):
        given = float(F.cross_entropy(model(x)[:, -1], y).detach())
    with intervened(model, whole.interventions):  # of the batch as it runs
        running = float(F.cross_entropy(model(x)[:, -1], y).detach())
    assert ablate(model, Pair.one_sided(x, y), [whole]).to_frame().loss_ablated.iloc[0] == given
    if method == "mean":
        assert given != running


# --- heads --------------------------------------------------------------------------------------------------------


OWN_WEIGHTS: dict[str, Any] = {
    "untied values": (Stream("v", weights="untied"),),
    "untied keys into two": (
        Stream("k", topology=Dense(), weights="untied"),
        Stream("v", source="k", topology=WithinLayer(), weights="untied"),
    ),
    "initial queries and a running sum": (Stream("q", weights="initial"), Stream("v", topology=Cumulative())),
}
"""Streams that carry what other weights make than those of the layers' own projections."""


def any_model(streams: str) -> HookedStreamTransformer:
    if streams not in OWN_WEIGHTS:
        return build(streams, "tokens", 3)
    return model_of(token_config("classic", 3, streams=OWN_WEIGHTS[streams]))


def with_other_weights(model: HookedStreamTransformer, layer: int, head: int) -> HookedStreamTransformer:
    """The same model, with every weight of one head drawn anew."""
    other = HookedStreamTransformer(model.config).double().eval()
    other.load_state_dict(model.state_dict())
    attn, generator = other.layers[layer].attn, torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in (*attn.named_parameters(), *attn.named_buffers()):
            if name.removesuffix("_stream") in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V"):
                drawn = torch.randn(parameter[head].shape, generator=generator, dtype=torch.float64)
                parameter[head] = drawn
    return other


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("variant", [*FULL, *OWN_WEIGHTS])
def test_nothing_depends_on_a_head_that_is_removed(variant: str, layer: int) -> None:
    model = any_model(variant)
    other = with_other_weights(model, layer, 1)
    x = inputs_for(model.config, 4)

    def without(part: Ablation) -> tuple[Tensor, Tensor]:
        found: list[Tensor] = []
        for one in (model, other):
            with intervened(one, part.interventions, allow_nothing=True):
                found.append(one(x))
        return found[0], found[1]

    assert torch.equal(*without(Ablation.head(model, layer, 1)))
    assert not torch.allclose(model(x), other(x))
    config = model.config
    own: list[Carrier] = [c for c in CARRIERS if config.has_own(layer, c)]
    passes = any(reader > layer for c in own for reader, _ in config.readers(layer, c))
    same = torch.allclose(*without(Ablation.z(model, layer, 1)))
    assert same != passes, "the trap: without its output alone, its values still travel down the stream"


@pytest.mark.parametrize("streams", OWN_WEIGHTS)
def test_a_head_and_its_halves_are_the_same_whoever_makes_what_is_passed_on(streams: str) -> None:
    model = any_model(streams)
    pair = Pair.one_sided(inputs_for(model.config, 4), answers_for(model, 4))
    halves = Ablation.z(model, 1, 2) + Ablation.outgoing(model, 1, 2)
    frame = ablate(model, pair, [Ablation.head(model, 1, 2), halves, Ablation.z(model, 1, 2)]).to_frame()
    whole, both, output = frame.loss_ablated
    assert (whole == pytest.approx(both, abs=1e-12)) is ("running sum" not in streams)
    assert whole != pytest.approx(output, abs=1e-6)
    standard = [one for one in standard_ablations(model) if one.part == "head" and one.describe()["layer"] == "1"]
    assert Ablation.head(model, 1, 2) in standard


def test_a_head_is_its_output_and_what_it_passes_on_and_not_what_others_pass_through_it() -> None:
    """In a running sum, layer 1 passes on layer 0's values too; removing a head of layer 1 must leave those alone."""
    model = build("cumulative", "tokens", 3)
    x = inputs_for(model.config, 4)
    removed = Ablation.head(model, 1, 0).interventions
    assert {i.site.hook_name for i in removed} == {"blocks.1.attn.hook_v", "blocks.1.attn.hook_z"}
    with intervened(model, removed):
        _, cache = model.run_with_cache(x)
    assert torch.allclose(cache["v_stream", 1][:, :, 0], cache["v_stream", 0][:, :, 0], atol=1e-12)


def test_the_two_halves_of_a_head_are_the_head() -> None:
    model = build("value", "tokens", 3)
    x, y = inputs_for(model.config, 4), answers_for(model, 4)
    halves = Ablation.z(model, 0, 1) + Ablation.outgoing(model, 0, 1)
    frame = ablate(
        model, Pair.one_sided(x, y), [Ablation.head(model, 0, 1), halves, Ablation.z(model, 0, 1)]
    ).to_frame()
    assert frame.loss_ablated[0] == pytest.approx(frame.loss_ablated[1], abs=1e-12)
    assert frame.loss_ablated[0] != pytest.approx(frame.loss_ablated[2], abs=1e-6)
    assert frame.part.tolist() == ["head", "z + outgoing", "z"]
    assert frame["head"].tolist() == ["1", "1", "1"]


def test_the_last_layer_passes_nothing_on() -> None:
    model = build("value", "tokens", 3)
    described = [a.describe() for a in standard_ablations(model)]
    assert not any(a["part"] == "outgoing" and a["layer"] == "2" for a in described)
    assert any(a["part"] == "outgoing" and a["layer"] == "1" for a in described)


# --- any sites, any method ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", FULL)
def test_any_sites_together_by_any_method(variant: str, tmp_path: Path) -> None:
    model, other = build(variant, "tokens", 2), build(variant, "tokens", 2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    save_checkpoint(tmp_path / "other.safetensors", other)
    x, y = inputs_for(model.config, 4), answers_for(model, 4)
    sites = [Site(0, "resid_pre", position=-1), Site(1, "mlp_out"), Site(1, "pattern", head=2)]
    sites += [Site(0, c, "outgoing") for c in CARRIERS if model.config.readers(0, c)]
    methods = ["zero", "mean", "resample", FromRun("other"), FromRun(str(tmp_path / "other.safetensors"))]
    wanted = [Ablation.sites("set", sites, method) for method in methods]
    frame = ablate(model, Pair.one_sided(x, y), wanted, models={"other": other}).to_frame()
    assert frame.method.tolist() == ["zero", "mean", "resample", "from run", "from run"]
    assert set(frame.layer) == set(frame["head"]) == {"all"}
    assert (frame.changed > 0).all()
    assert frame.loss_ablated.nunique() == 4
    assert frame.loss_ablated[3] == frame.loss_ablated[4], "by name or by file"


def test_a_position_role_is_a_place_of_its_own_in_every_example() -> None:
    model = build("value")
    x, y = inputs_for(model.config, 3), answers_for(model, 3)
    places = torch.tensor([[1], [2], [6]])
    frame = ablate(
        model, Pair.one_sided(x, y, {"here": places}), [Ablation.sites("v", [Site(0, "v", position="here")])]
    ).to_frame()

    def at_places(t: Tensor, hook: Any) -> Tensor:
        t = t.clone()
        t[torch.arange(3), places[:, 0]] = 0
        return t

    expected = F.cross_entropy(model.run_with_hooks(x, fwd_hooks=[("blocks.0.attn.hook_v", at_places)])[:, -1], y)
    assert frame.loss_ablated.iloc[0] == float(expected.detach())


def test_ablations_of_every_kind_are_drawn() -> None:
    model = build("value")
    x, y = inputs_for(model.config, 3), answers_for(model, 3)
    several = Ablation.sites("both values", [Site(0, "v"), Site(1, "v")], "resample")
    frame = ablate(
        model, Pair.one_sided(x, y), [*standard_ablations(model, ["resample", Clamp(0.5)]), several]
    ).to_frame()
    figure: Any = ablation_bars(frame.assign(variant="value", run="a run"))
    labels: Any = figure.layout.yaxis.ticktext
    assert {"head L0H0 (resample)", "z L1H0 (clamp)", "forward cut", "both values (resample)"} <= set(labels)
    assert isinstance(frame, pd.DataFrame)
    ends = [
        (x - low, x + high)
        for dots in figure.data[:1]
        for x, low, high in zip(dots.x, dots.error_x.arrayminus, dots.error_x.array, strict=True)
    ]
    assert all(0 <= low <= high <= 1 for low, high in ends), "no interval leaves what is possible"
    same: Any = ablation_bars(frame.assign(accuracy=0.5, accuracy_ablated=0.5, n=50))
    assert same.layout.meta["title"].startswith("No ablation shows a loss of accuracy; the lowest is 0.50 [0.37, 0.63]")
    cut = frame.assign(
        accuracy=1.0, accuracy_ablated=frame.part.map(lambda part: 0.2 if part == "forward cut" else 1.0)
    )
    worse: Any = ablation_bars(cut.assign(n=100))
    said = "Without the stream's forward values accuracy is 0.20 [0.13, 0.29] instead of 1.00"
    assert worse.layout.meta["title"].startswith(said)
    two = pd.concat([cut.assign(variant="value"), cut[cut.part == "head"].assign(variant="classic")])
    crosses: Any = ablation_bars(two).data[3]
    assert "classic, forward cut: not measured" in crosses.hovertext


def test_mistakes_are_explained() -> None:
    model, classic = build("value"), build("classic")
    x, y = inputs_for(model.config), answers_for(model, 3)
    nothing = Ablation.sites("nothing", [Site(0, "v")], FromRun("same"))
    same = build("value")
    cases: list[tuple[Any, str]] = [
        (lambda: ablate(model.train(), Pair.one_sided(x, y)).to_frame(), "evaluation mode"),
        (lambda: Ablation.stream(classic), "takes nothing away: model 'classic' has no such part, a stream"),
        (lambda: Ablation.gradient_cut(classic), "takes nothing away: .* an open gate to cut"),
        (lambda: Ablation.forward_cut(build("value-gradient-only")), "takes nothing away: .* an open gate to cut"),
        (lambda: Ablation.outgoing(model, 1, 0), "takes nothing away: .* what layer 1 passes on"),
        (lambda: Ablation.z(model, 7, 0), "the model has 2 layers of 1 heads"),
        (lambda: Ablation.head(model, 0, 3), "the model has 2 layers of 1 heads"),
        (lambda: Ablation.sites("none", []), "ablation 'none' takes nothing away: it has no site"),
        (lambda: Ablation.z(model, 0, 0, "median"), "unknown method 'median'"),
        (lambda: ablate(model.eval(), Pair.one_sided(x, y), []).to_frame(), "ablations are a list of Ablation"),
        (lambda: ablate(model, Pair.one_sided(x, y[:2])).to_frame(), "3 inputs with 2 answers and 2 wrong ones"),
        (
            lambda: ablate(model, Pair.one_sided(x[:1], y[:1]), [Ablation.z(model, 0, 0, "resample")]).to_frame(),
            "resampled from another example, and only one input was given",
        ),
        (
            lambda: ablate(model, Pair.one_sided(x, y), [Ablation.sites("s", [Site(0, "v", "residual")])]).to_frame(),
            "unknown site 'blocks.0.attn.hook_v_residual': did you mean",
        ),
        (
            lambda: ablate(
                model, Pair.one_sided(x, y), [Ablation.sites("s", [Site(0, "v", position="traget")])]
            ).to_frame(),
            "unknown position role 'traget': there are none",
        ),
        (
            lambda: ablate(model, Pair.one_sided(x, y), [nothing], models={"same": same}).to_frame(),
            "fired 1 time.* and changed nothing",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(NothingChangedError):
        ablate(model, Pair.one_sided(x, y), [nothing], models={"same": same}).to_frame()
    frame = ablate(model, Pair.one_sided(x, y), [nothing], models={"same": same}, allow_nothing=True).to_frame()
    assert frame.changed.tolist() == [0.0]
    assert frame.loss.tolist() == frame.loss_ablated.tolist()
