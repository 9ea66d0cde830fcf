"""Kinds and variants of one's own: stored by name and source, and refused where they are not what they say they are."""

from __future__ import annotations

import dataclasses
import linecache
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from einops import einsum
from torch import Tensor

import circuits
from analysis import Graph, find_sites, patch
from circuits import (
    ComputedGain,
    ComputedTransform,
    Dense,
    Eye,
    FixedGain,
    Gain,
    HookedStreamTransformer,
    KindError,
    ModelConfig,
    Stream,
    Topology,
    Transform,
    icl_config,
    register_gain,
    register_topology,
    register_transform,
    register_variant,
    variants,
)
from circuits.common import families
from circuits.common.plain_data import content_hash, essence, from_plain, to_plain
from circuits.config.gains import GAIN_KINDS
from circuits.last_position import why_not
from tests.helpers import inputs_for, random_pair, token_config

pytestmark = pytest.mark.usefixtures("forgotten")


@dataclass(frozen=True)
class Decaying(Gain):
    """What comes from d layers before is multiplied by rate ** d."""

    rate: float = 0.5


class ByDistance(ComputedGain[Decaying]):
    def __call__(self, mix: Any, x: Tensor) -> Any:
        return 1.0, [self.gain.rate ** (mix.layer - source) for source in mix.sources]


@dataclass(frozen=True)
class Halves(Topology):
    """Layers of the second half read the one that is half the model before them."""

    half: int = 2

    def sources(self, layer: int) -> tuple[int, ...]:
        return (layer - self.half,) if layer >= self.half else ()


@dataclass(frozen=True)
class Scaled(Transform):
    """A learned number for every entry of a head."""

    says = "scaled, entry by entry"


class Entries(ComputedTransform[Scaled]):
    def weights(self) -> Any:
        return {"W_entries": ((self.n_sources, self.config.d_head, self.config.d_head), Eye())}

    def __call__(self, mix: Any, i: int, outgoing: Tensor) -> Tensor:
        return einsum(mix.W_entries[i].diagonal(), outgoing, "d_head, batch pos head d_head -> batch pos head d_head")


def model_of(stream: Stream, **more: Any) -> HookedStreamTransformer:
    config = icl_config("classic", "small", **({"n_layers": 4, "n_heads": 2, "streams": (stream,)} | more))
    return HookedStreamTransformer(config).double().eval()


def test_a_gain_does_what_the_same_numbers_do() -> None:
    register_gain(Decaying, ByDistance)
    mine = model_of(Stream(topology=Dense(), gain=Decaying(0.25)), n_layers=3)
    x = torch.randn(2, 17, mine.config.d_model, dtype=torch.float64)
    # Of three layers, layer 2 reads 1 with rate and 0 with rate squared, layer 1 reads 0 with rate.
    by_hand = model_of(Stream(topology=Dense(), gain=circuits.LearnedGain(1.0, 0.25, tie="own-fixed")), n_layers=3)
    by_hand.load_state_dict(mine.state_dict(), strict=False)
    weight = by_hand.get_parameter("blocks.2.attn.mix.v.stream_gain")
    with torch.no_grad():
        weight.copy_(torch.tensor([0.25**2, 0.25]))
    assert torch.allclose(mine(x), by_hand(x), atol=1e-12)
    with torch.no_grad():
        weight.copy_(torch.tensor([0.25, 0.25**2]))
    assert not torch.allclose(mine(x), by_hand(x), atol=1e-6)


def test_topologies_and_transforms_are_described_patched_and_part_of_the_graph() -> None:
    register_topology(Halves)
    register_transform(Scaled, Entries)
    model = model_of(Stream(topology=Halves(), transform=Scaled()))
    assert "scaled, entry by entry" in str(model)
    assert "v0" in str(model)
    into_2 = [edge.name for edge in Graph(model).edges if edge.name.endswith("L2H0.v (stream)")]
    assert into_2 == ["L0H0.v > L2H0.v (stream)"]
    pair = random_pair(model)
    whole = patch(model, pair, find_sites(model, ["state", "resid_pre"])).to_frame()
    before_2 = whole[(whole.layer == 2) & (whole.position == "all")].set_index("component").effect
    assert before_2["state"] == pytest.approx(1.0)
    assert before_2["resid_pre"] != pytest.approx(1.0, abs=1e-6), "layer 2 reads layer 0 past the residual stream too"
    model(pair.clean).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "W_entries" in name)


def test_a_gain_that_is_no_number_per_source_keeps_the_fast_path_away() -> None:
    register_gain(Decaying, ByDistance)
    assert why_not(icl_config("classic", "small", streams=(Stream(gain=Decaying()),))) is None


def test_it_is_stored_by_name_source_and_module() -> None:
    register_gain(Decaying, ByDistance)
    config = icl_config("classic", "small", streams=(Stream(gain=Decaying(0.1)),))
    plain = to_plain(config)
    stored = plain["streams"][0]["gain"]
    assert set(stored) == {"rate", "type", "module", "source"}
    assert (stored["type"], stored["module"]) == ("Decaying", __name__)
    assert from_plain(ModelConfig, plain) == config
    assert "module" not in essence(config)["streams"][0]["gain"], "where code lies is no part of what it is"
    assert essence(config)["streams"][0]["gain"]["source"] == stored["source"]
    assert "source" not in to_plain(icl_config("value", "small"))["streams"][0]["gain"], "ours are as they were"


@pytest.mark.usefixtures("untyped")
def test_what_is_not_registered_or_was_changed_is_refused() -> None:
    register_gain(Decaying, ByDistance)
    plain = to_plain(icl_config("classic", "small", streams=(Stream(gain=Decaying()),)))
    gain = plain["streams"][0]["gain"]
    gain["source"] = "0" * 12
    with pytest.raises(KindError, match="'Decaying' of .* is not as it was: its source had the hash 000000000000"):
        from_plain(ModelConfig, plain)
    gain["type"] = "Decayed"
    with pytest.raises(KindError, match=f"'Decayed' is not registered here; {__name__} registered it: import"):
        from_plain(ModelConfig, plain)
    del gain["source"], gain["module"]
    with pytest.raises(ValueError, match="unknown gain 'Decayed': did you mean 'Decaying'"):
        from_plain(ModelConfig, plain)


@pytest.mark.usefixtures("untyped")
def test_what_is_not_registered_cannot_be_used() -> None:
    with pytest.raises(
        ValueError,
        match=r"the gain must be FixedGain, .*, SigmoidGain or ChannelGain, got Decaying",
    ):
        Stream(gain=Decaying())
    register_gain(Decaying, ByDistance)
    assert Stream(gain=Decaying()).gain == Decaying(0.5)
    with pytest.raises(ValueError, match=r"TokenGain, SigmoidGain, ChannelGain or Decaying, got 1"):
        Stream(gain=1)  # type: ignore[arg-type] # what is tested


def test_the_source_is_that_of_both_classes() -> None:
    class Other(ComputedGain[Decaying]):
        def __call__(self, mix: Any, x: Tensor) -> Any:
            return 1.0, [0.0 for _ in mix.sources]

    register_gain(Decaying, ByDistance)
    first = GAIN_KINDS.origins["Decaying"].source
    register_gain(Decaying, Other)
    assert GAIN_KINDS.origins["Decaying"].source != first, "the same module may register it again"
    register_gain(Decaying, ByDistance)
    assert GAIN_KINDS.origins["Decaying"].source == first


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untyped")
def test_a_name_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = dataclasses.make_dataclass("FixedGain", [], bases=(Gain,), frozen=True, namespace={"__module__": __name__})
    with pytest.raises(ValueError, match="the gain 'FixedGain' is there already, ours; give yours another name"):
        register_gain(mine, ByDistance)  # type: ignore[type-var] # what is tested
    register_gain(Decaying, ByDistance)
    monkeypatch.setattr(Decaying, "__module__", "another")
    with pytest.raises(ValueError, match=f"is there already, registered by {__name__}"):
        GAIN_KINDS.free("Decaying", "another")


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("wrong", [int, FixedGain(), "FixedGain", Scaled])
def test_what_is_no_kind_of_gain_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"a gain is registered as a frozen dataclass .* made from Gain"):
        register_gain(wrong, ByDistance)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("wrong", [None, FixedGain, ByDistance])
def test_what_computes_no_transform_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"the transform Scaled comes with the class that computes it"):
        register_transform(Scaled, wrong)


def test_a_class_whose_source_cannot_be_read_is_refused() -> None:
    names: dict[str, Any] = {"Gain": Gain, "dataclass": dataclass, "__name__": "nowhere"}
    exec("@dataclass(frozen=True)\nclass Unread(Gain):\n    pass", names)
    with pytest.raises(ValueError, match="the source of Unread cannot be read"):
        register_gain(names["Unread"], ByDistance)


def _in_a_cell(lines: str, remembered: bool = True) -> Any:
    """A class as a notebook's cell defines it: it has no file, and its functions have one that is only remembered."""
    file = f"<cell {content_hash([lines, remembered])}>"
    names: dict[str, Any] = {"Gain": Gain, "dataclass": dataclass, "__name__": "nowhere"}
    if remembered:
        linecache.cache[file] = (len(lines), None, lines.splitlines(True), file)
    exec(compile(lines, file, "exec", dont_inherit=True), names)
    return names["Mine"]


def test_a_notebooks_class_is_known_by_its_functions_and_its_fields() -> None:
    head = "@dataclass(frozen=True)\nclass Mine(Gain):\n    rate: float = 0.5\n"
    method = "    @property\n    def is_silent(self):\n        return self.rate == 0\n"
    hashes = [
        families.source_hash(_in_a_cell(lines))
        for lines in (head, head.replace("0.5", "0.6"), head + method, head + method.replace("== 0", "== 1"))
    ]
    assert len(set(hashes)) == 4, "what changes is seen: a default, a property, what it returns"
    assert families.source_hash(_in_a_cell(head)) == hashes[0]
    assert families.source_hash(_in_a_cell(head.replace("rate", "\n    rate"))) == hashes[0], "lines between are not"
    with pytest.raises(ValueError, match="the source of Mine cannot be read"):
        families.source_hash(_in_a_cell(head + method, remembered=False))


# --- what they say of themselves --------------------------------------------------------------------------------------


class TooFew(ComputedGain[Decaying]):
    def __call__(self, mix: Any, x: Tensor) -> Any:
        return 1.0, [0.5]


class WrongShape(ComputedGain[Decaying]):
    def __call__(self, mix: Any, x: Tensor) -> Any:
        return torch.ones(5), [0.5 for _ in mix.sources]


class NoPair(ComputedGain[Decaying]):
    def __call__(self, mix: Any, x: Tensor) -> Any:
        return torch.ones(1)


class ByEntry(ComputedGain[Decaying]):
    def __call__(self, mix: Any, x: Tensor) -> Any:
        return torch.ones(self.config.d_head), [0.5 for _ in mix.sources]


class ByPosition(ComputedGain[Decaying]):
    def __call__(self, mix: Any, x: Tensor) -> Any:
        return 1.0, [torch.arange(1.0, x.shape[1] + 1)[None, :, None, None] for _ in mix.sources]


class OfInput(ComputedGain[Decaying]):
    def __call__(self, mix: Any, x: Tensor) -> Any:
        return 1.0, [x.mean() for _ in mix.sources]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("computed", "says"),
    [
        (TooFew, "must give one gain for each of the 2 sources of layer 2, got 1"),
        (WrongShape, r"tensors of one number a head that fit \(batch pos head 1\), here .*; got \(5,\)"),
        (ByEntry, r"one number a head that fit .*; got \(32,\)"),
        (ByPosition, "gives other gains for other inputs or positions"),
        (NoPair, r"must give \(gain of its own, \[gain of every source\]\)"),
        (OfInput, "gives other gains for other inputs or positions and says that it does not"),
    ],
)
def test_a_gain_is_tried_out(computed: Any, says: str) -> None:
    register_gain(Decaying, computed)
    with pytest.raises(ValueError, match=says):
        model_of(Stream(topology=Dense(), gain=Decaying()))


class PerHead(ComputedGain[Decaying]):
    def __call__(self, mix: Any, x: Tensor) -> Any:
        return torch.linspace(1, 2, self.n_heads)[:, None], [torch.full((1, self.n_heads, 1), 0.5) for _ in mix.sources]


class PerQuery(ComputedGain[Decaying]):
    def __call__(self, mix: Any, x: Tensor) -> Any:
        return torch.ones(self.config.n_heads, 1), [0.5 for _ in mix.sources]


class HeadMaps(ComputedTransform[Scaled]):
    def weights(self) -> Any:
        return {"W_map": ((self.n_heads, self.config.d_head, self.config.d_head), Eye())}

    def __call__(self, mix: Any, i: int, outgoing: Tensor) -> Tensor:
        return einsum(mix.W_map, outgoing, "head a b, batch pos head b -> batch pos head a")


@pytest.mark.parametrize("carrier", ["q", "k", "v"])
@pytest.mark.parametrize("shared", [None, 1, 2])
def test_a_part_is_tried_out_on_the_heads_that_its_carrier_has(carrier: Any, shared: int | None) -> None:
    """Keys and values may have fewer than queries; who goes by those of queries is refused there."""
    register_gain(Decaying, PerHead)
    register_transform(Scaled, HeadMaps)
    stream = Stream(carrier, gain=Decaying(), transform=Scaled())
    model = HookedStreamTransformer(token_config("classic", streams=(stream,), n_key_value_heads=shared))
    x = inputs_for(model.config)
    heads = shared if shared and carrier != "q" else 4
    assert model.run_with_cache(x)[1][f"{carrier}_residual", 1].shape[2] == heads
    if heads == 2:
        register_gain(Decaying, PerQuery)
        with pytest.raises(ValueError, match=r"fit \(batch pos head 1\), here \(1, 3, 2, 1\); got \(4, 1\)"):
            HookedStreamTransformer(model.config)


class Squared(ComputedTransform[Scaled]):
    def weights(self) -> Any:
        return {"w": ((1, 1), Eye())}

    def __call__(self, mix: Any, i: int, outgoing: Tensor) -> Tensor:
        return outgoing.square()


class Shifted(Squared):
    def __call__(self, mix: Any, i: int, outgoing: Tensor) -> Tensor:
        return outgoing.roll(1, dims=1)


class Swapped(Squared):
    def __call__(self, mix: Any, i: int, outgoing: Tensor) -> Tensor:
        return outgoing.flip(2)


class Cut(Squared):
    def __call__(self, mix: Any, i: int, outgoing: Tensor) -> Tensor:
        return outgoing[..., :1]


class Nothing(ComputedTransform[Scaled]):
    def __call__(self, mix: Any, i: int, outgoing: Tensor) -> Tensor:
        return outgoing


@pytest.mark.parametrize(
    ("computed", "says"),
    [
        (Squared, "Scaled is not linear"),
        (Shifted, "carries from one position to another"),
        (Swapped, "carries from one head to another and says that it does not: set mixes_heads = True"),
        (Cut, "must give back the shape of what comes in"),
        (Nothing, "says learns = True and has 0 weights"),
    ],
)
def test_a_transform_is_tried_out(computed: Any, says: str) -> None:
    register_transform(Scaled, computed)
    with pytest.raises(ValueError, match=says):
        model_of(Stream(transform=Scaled()))


@pytest.mark.parametrize("sources", [(3,), [0], (0, 0), (-1,), ("0",)])
def test_a_topology_reads_different_earlier_layers(sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    register_topology(Halves)
    monkeypatch.setattr(Halves, "sources", lambda self, layer: sources if layer == 2 else ())
    with pytest.raises(ValueError, match=r"sources\(2\) must be a tuple of different layers out of \(0, 1\)"):
        model_of(Stream(topology=Halves()))


# --- variants ---------------------------------------------------------------------------------------------------------


def test_a_variant_is_known_by_its_name_and_those_of_its_gates() -> None:
    rule = register_variant(
        "every-other", lambda n: [Stream(topology=Dense(), gain=FixedGain(1.0, 0.5))], "half of all"
    )
    assert {"every-other", "every-other-stop", "every-other-gradient-only"} <= set(variants.names())
    assert rule in variants.rules()
    config = icl_config("every-other-stop", "small")
    assert config.name == "every-other-stop"
    assert config.streams[0].gate == "stop"
    register_variant("every-other", lambda n: [], "nothing now")
    assert "every-other-stop" not in variants.names()
    assert icl_config("every-other", "small").streams == ()


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("name", ["value", "value-stop", "", "Mine!", "-mine", None])
def test_a_variants_name_is_free_and_a_name(name: Any) -> None:
    with pytest.raises(ValueError, match=r"is there already \(ours\)|letters, digits and hyphens"):
        register_variant(name, lambda n: [Stream()])


def test_a_variant_of_projections_of_x0_is_of_vectors_too() -> None:
    rule = register_variant("of-x0", lambda n: (Stream("v", topology=circuits.Tables(((n - 1, 0),), of="x0")),))
    assert not rule.of_tokens
    config = icl_config("of-x0", "small")
    model = HookedStreamTransformer(config).eval()
    x = torch.randn(2, 17, config.d_model)
    assert not torch.equal(model(x), HookedStreamTransformer(icl_config("classic", "small")).eval()(x))
    with pytest.raises(ValueError, match="unknown variant 'of-x0-stop'"):
        icl_config("of-x0-stop", "small")


def test_a_variant_gives_streams() -> None:
    with pytest.raises(ValueError, match="must give the streams of a model of 2 layers as a tuple"):
        register_variant("mine", lambda n: Stream())  # type: ignore[arg-type] # what is tested
    assert "mine" not in variants.names()


@pytest.mark.parametrize("error", [ValueError("too few"), IndexError("too few")])
def test_a_rule_that_fails_at_a_depth_is_no_name_there_and_hides_no_other(error: Exception) -> None:
    def deep(n: int) -> tuple[Stream, ...]:
        if n == 1:
            raise error
        return (Stream("v", topology=circuits.Listed(((n - 1, 0),)), gain=FixedGain(0.5, 0.25)),)

    register_variant("deep", deep)
    within = variants.streams("within-layer", 1)
    assert variants.name_of((), 1, "deep") == "classic"
    assert variants.name_of(within, 1, "custom") == "within-layer"
    assert variants.name_of((dataclasses.replace(within[0], gate="off"),), 1, "deep").startswith("own-")
    assert [variants.name_of(deep(n), n, "custom") for n in (2, 3)] == ["deep", "deep"]
    with pytest.raises(type(error), match="too few"):
        icl_config("deep", "small", n_layers=1)


def test_an_unnamed_models_name_does_not_say_where_its_code_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    register_gain(Decaying, ByDistance)
    stream = Stream(gain=Decaying())
    before = variants.name_of((stream,), 2, "classic")
    monkeypatch.setitem(
        GAIN_KINDS.origins, "Decaying", dataclasses.replace(GAIN_KINDS.origins["Decaying"], module="elsewhere")
    )
    assert variants.name_of((stream,), 2, "classic") == before
    assert content_hash(to_plain(stream)) != content_hash(families.without_modules(to_plain(stream)))


def test_every_name_that_a_package_hands_on_is_there() -> None:
    import analysis
    import experiments
    import figures

    for package in (circuits, analysis, experiments, figures):
        assert len(set(package.__all__)) == len(package.__all__) > 20
        for name in package.__all__:
            assert getattr(package, name) is not None
        with pytest.raises(AttributeError, match="no attribute 'nothing_of_this_name'"):
            package.nothing_of_this_name  # noqa: B018 # what is tested
