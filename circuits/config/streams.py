"""What a stream is: which carrier it feeds, from where, how much, through what, past which gate.

A *stream* adds the queries, keys or values of some layers to those of others, beside the residual stream. With ``c_l``
the own projection of layer ``l`` for a carrier (shape batch pos head d_head),

    incoming  s_l = sum over sources j of gate( gain[l, j] * transform( outgoing_j ) )
    mixed     m_l = own_gain * c_l + s_l

and attention uses ``m_l``. Every part of this rule is a small frozen dataclass that says what others may assume of it;
what the parts compute is in :mod:`circuits.streams.gains`, ``transforms`` and ``mixing``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from circuits.common.errors import require
from circuits.common.families import Family
from circuits.common.fields import Checked, all_different, counted_from_zero
from circuits.common.plain_data import store_family

Carrier = Literal["q", "k", "v"]
CARRIERS: tuple[Carrier, ...] = ("q", "k", "v")
Source = Literal["q", "k", "v", "token"]
"""What a stream carries: a projection of a layer, or a row of a table of value embeddings, one a token."""

Gate = Literal["full", "stop", "gradient-only", "off"]
"""What a gate lets through: ``full`` everything; ``stop`` the forward value but no gradient into the source layer;
``gradient-only`` the gradient but a forward value of exactly zero; ``off`` nothing."""
GATES: tuple[Gate, ...] = ("full", "stop", "gradient-only", "off")


# --- topologies: which layers a layer reads, and what those layers pass on -----------------------------------------


class Topology(Checked):
    """Which layers a layer reads. A kind is a frozen dataclass that inherits from this."""

    passes_on: ClassVar[Literal["own", "mixed"]] = "own"
    """What a layer passes on: its own projection as it is, or what it used."""
    within_layer: ClassVar[bool] = False
    """Whether a layer reads itself."""
    of_tokens: ClassVar[bool] = False
    """Whether what is read are tables of value embeddings, in the place of layers."""

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return (layer - 1,) if layer > 0 else ()

    def check_layers(self, n_layers: int) -> None:
        """Check that a model of ``n_layers`` has the layers that are named."""

    def check_sources(self, n_layers: int) -> None:
        """Check that every layer reads different earlier layers, or itself where the topology is within layers."""
        for layer in range(n_layers):
            found: Any = self.sources(layer)
            allowed = (layer,) if self.within_layer else tuple(range(layer))
            require(
                isinstance(found, tuple) and len({*found}) == len(found) and {*found} <= {*allowed},
                f"{self}.sources({layer}) must be a tuple of different layers out of {allowed}, got {found!r}",
            )


@dataclass(frozen=True)
class Previous(Topology):
    """Layer l reads the raw projection of layer l-1 (Burns et al., arXiv 2412.15113, as their code has it)."""


@dataclass(frozen=True)
class Cumulative(Topology):
    """Layer l reads what layer l-1 used, its own plus what had come in: the running sum."""

    passes_on = "mixed"


@dataclass(frozen=True)
class First(Topology):
    """Every later layer, or only those listed in ``readers``, reads the first layer (arXiv 2410.17897)."""

    readers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        all_different("readers", self.readers or ())
        early = [reader for reader in self.readers or () if reader < 1]
        require(not early, f"readers come after the first layer, which is 0, and are counted from it; got {early}")

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return (0,) if layer > 0 and (self.readers is None or layer in self.readers) else ()

    def check_layers(self, n_layers: int) -> None:
        """Check that a model of ``n_layers`` has the layers that are named."""
        late = [reader for reader in self.readers or () if reader >= n_layers]
        require(not late, f"readers {late} are layers beyond the last one, {n_layers - 1}")


@dataclass(frozen=True)
class Dense(Topology):
    """Every layer reads all earlier layers."""

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return tuple(range(layer))


@dataclass(frozen=True)
class Listed(Topology):
    """Exactly the listed pairs (reader, source) are connected."""

    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.pairs), "Listed(()) connects no layers; give (reader, source) pairs, or the model no stream")
        all_different("pairs", self.pairs)
        for reader, source in self.pairs:
            require(0 <= source < reader, f"pair ({reader}, {source}): a reader must come after its source")

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return tuple(source for reader, source in self.pairs if reader == layer)

    def check_layers(self, n_layers: int) -> None:
        """Check that a model of ``n_layers`` has the layers that are named."""
        late = [pair for pair in self.pairs if pair[0] >= n_layers]
        require(not late, f"pairs {late} name layers beyond the last one, {n_layers - 1}")


@dataclass(frozen=True)
class WithinLayer(Topology):
    """Every layer reads another carrier of its own (keys into values, say)."""

    within_layer = True

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return (layer,)


@dataclass(frozen=True)
class Tables(Topology):
    """Layers read the token's row of a table: exactly the listed (reader, table) pairs are connected.

    Tables are numbered from 0, with or without gaps; two readers may share one. Source: value embeddings of
    modded-nanogpt and nanochat; Bank of Values, arXiv 2606.02780.
    """

    of_tokens = True

    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.pairs), "Tables(()) connects no layer; give (reader, table) pairs, or the model no stream")
        all_different("pairs", self.pairs)
        low = [pair for pair in self.pairs if min(pair) < 0]
        require(not low, f"pairs {low}: readers and tables are counted from 0")

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the tables that ``layer`` reads."""
        return tuple(table for reader, table in self.pairs if reader == layer)

    def check_layers(self, n_layers: int) -> None:
        """Check that a model of ``n_layers`` has the layers that are named."""
        late = [pair for pair in self.pairs if pair[0] >= n_layers]
        require(not late, f"pairs {late} name readers beyond the last layer, {n_layers - 1}")

    def check_sources(self, n_layers: int) -> None:
        """Check nothing: a table is no layer, so any may be read."""


TOPOLOGY_KINDS = Family("topology", Topology, Previous, Cumulative, First, Dense, Listed, WithinLayer, Tables)


# --- gains: how much of its own and of what comes in a layer takes --------------------------------------------------


class Gain(Checked):
    """How much of its own and of what comes in a layer takes. A kind is a frozen dataclass that inherits from this."""

    depends_on_input: ClassVar[bool] = False
    """Whether it differs from token to token, so that the stream is no one linear map."""

    @property
    def replaces_own(self) -> bool:
        """Whether reading layers have no projection of their own."""
        return False

    @property
    def is_silent(self) -> bool:
        """Whether nothing comes in, and never will."""
        return False

    @property
    def is_of_channels(self) -> bool:
        """Whether it differs from channel to channel of a head."""
        return False

    @property
    def says(self) -> str:
        """The gain in words."""
        return str(self)


@dataclass(frozen=True)
class FixedGain(Gain):
    """Fixed numbers. ``own = 0`` means that reading layers have no projection of their own for this carrier."""

    own: float = 1.0
    stream: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.own != 0 or self.stream != 0,
            "FixedGain(0, 0) leaves reading layers nothing to attend to; give own or stream another number",
        )

    @property
    def replaces_own(self) -> bool:
        """Whether reading layers have no projection of their own."""
        return self.own == 0

    @property
    def is_silent(self) -> bool:
        """Whether nothing comes in, and never will."""
        return self.stream == 0

    @property
    def says(self) -> str:
        """The gain in words."""
        return f"{self.own:g} own + {self.stream:g} in"


@dataclass(frozen=True)
class LearnedGain(Gain):
    """Learned numbers per layer pair, or per layer pair and head, starting at ``own`` and ``stream``.

    ``tie="free"`` learns both; ``"own-fixed"`` keeps ``own`` as given; ``"convex"`` sets own = 1 - sum of the stream's.
    """

    own: float = 1.0
    stream: float = 1.0
    tie: Literal["free", "own-fixed", "convex"] = "free"
    per_head: bool = False
    per_channel: bool = False
    """Per channel of every head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.per_head and self.per_channel), "channels are of heads already: leave per_head out")
        require(
            self.own != 0 or self.tie != "own-fixed",
            "own = 0 that stays fixed leaves reading layers a projection that never learns; start own elsewhere, or "
            "use FixedGain(own=0), where they have none",
        )

    @property
    def is_of_channels(self) -> bool:
        """Whether it differs from channel to channel of a head."""
        return self.per_channel

    @property
    def says(self) -> str:
        """The gain in words."""
        per = " and head" if self.per_head else " and channel" if self.per_channel else ""
        return f"learned per layer pair{per}, {self.tie}, from {self.own:g} own + {self.stream:g} in"


@dataclass(frozen=True)
class TokenGain(Gain):
    """own = m and stream = 1 - m with m = sigmoid(x W + b) per token and head, x the reading layer's input."""

    depends_on_input = True

    @property
    def says(self) -> str:
        """The gain in words."""
        return "m own + (1 - m) in, m per token and head"


@dataclass(frozen=True)
class SigmoidGain(Gain):
    """own as given and stream = scale sigmoid(x[:channels] W) per token and head, x the reading layer's input.

    What comes in is added to the layer's own. Source: nanochat (``ve_gate``: scale 3 of 12 channels).
    """

    ABOVE_ZERO = ("channels",)
    depends_on_input = True

    scale: float = 3.0
    channels: int = 12
    own: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.scale != 0, "SigmoidGain(scale=0) lets nothing in; give another number, or the model no stream")

    @property
    def replaces_own(self) -> bool:
        """Whether reading layers have no projection of their own."""
        return self.own == 0

    @property
    def says(self) -> str:
        """The gain in words."""
        return f"{self.own:g} own + m in, m from 0 to {self.scale:g} per token and head"


@dataclass(frozen=True)
class ChannelGain(Gain):
    """own = 1 - m and stream = m with m = sigmoid((x W_down) W_up + b) per token, head and channel, of some rank.

    x is the reading layer's input. Source: RWKV-7 (Peng et al., arXiv 2503.14456), value residual learning.
    """

    ABOVE_ZERO = ("rank",)
    depends_on_input = True

    rank: int = 16

    @property
    def is_of_channels(self) -> bool:
        """Whether it differs from channel to channel of a head."""
        return True

    @property
    def says(self) -> str:
        """The gain in words."""
        return "(1 - m) own + m in, m per token, head and channel"


GAIN_KINDS = Family("gain", Gain, FixedGain, LearnedGain, TokenGain, SigmoidGain, ChannelGain)


# --- transforms: what happens to an outgoing tensor on its way ------------------------------------------------------


class Transform(Checked):
    """What happens to an outgoing tensor on its way. A kind is a frozen dataclass that inherits from this."""

    says: ClassVar[str] = "transformed"
    """The transform in words."""
    learns: ClassVar[bool] = True
    mixes_heads: ClassVar[bool] = False
    """Whether a head also reads other heads."""


@dataclass(frozen=True)
class Identity(Transform):
    """Head h reads head h."""

    says = "identity"
    learns = False


@dataclass(frozen=True)
class HeadMixing(Transform):
    """A learned matrix over heads per layer pair (reader head, source head), starting at the identity."""

    says = "learned mixing of heads"
    mixes_heads = True


@dataclass(frozen=True)
class LinearMap(Transform):
    """A learned d_head x d_head matrix per layer pair and head, starting at the identity."""

    says = "learned linear map"


TRANSFORM_KINDS = Family("transform", Transform, Identity, HeadMixing, LinearMap)


Weights = Literal["own", "initial", "untied"]
"""Whose weights make what a layer passes on: its own projection's; those as they were at the start, never trained; or
others, trained, that make nothing else. The last two add the path of a stream without tying it to a layer's values."""


@dataclass(frozen=True)
class GateRule(Checked):
    """A gate for some of a stream's connections; ``None`` means all. Of several that match, the last one holds."""

    gate: Gate
    reader: int | None = None
    source: int | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        counted_from_zero(self, "reader", "source", "head")

    def matches(self, reader: int, source: int, head: int) -> bool:
        """Return whether this rule speaks of the connection (reader layer, source layer, reader's head)."""
        wanted = ((self.reader, reader), (self.source, source), (self.head, head))
        return all(rule is None or rule == given for rule, given in wanted)


@dataclass(frozen=True)
class Stream(Checked):
    """One residual attention stream: which carrier it feeds, from where, how much, through what, past which gate."""

    carrier: Carrier = "v"
    source: Carrier | None = None
    """The carrier that is read; ``None`` means the carrier that is fed."""
    topology: Topology = Previous()
    gain: Gain = FixedGain()
    transform: Transform = Identity()
    gate: Gate = "full"
    gate_rules: tuple[GateRule, ...] = ()
    weights: Weights = "own"
    gradient: float = 1.0
    """What the gradient into what is read is multiplied by, where the gate lets one through; the value stays.

    Between the gates ``full`` (1) and ``stop`` (0). Source: V-scale, arXiv 2603.17771.
    """

    @property
    def reads(self) -> Source:
        """What is read: a carrier, or the tables of tokens."""
        return "token" if self.topology.of_tokens else self.source or self.carrier

    @property
    def passes_on(self) -> Literal["own", "mixed"]:
        """Whether a layer passes on its raw own projection or what it used."""
        return self.topology.passes_on

    @property
    def replaces_own(self) -> bool:
        """Whether reading layers have no projection of their own for the fed carrier."""
        return self.gain.replaces_own

    def head_gates(self, reader: int, source: int, n_heads: int) -> tuple[Gate, ...]:
        """Return the gate of every head of ``reader`` for what comes from ``source``."""
        gates: list[Gate] = [self.gate] * n_heads
        for rule in self.gate_rules:
            gates = [rule.gate if rule.matches(reader, source, head) else gate for head, gate in enumerate(gates)]
        return tuple(gates)

    def __post_init__(self) -> None:
        super().__post_init__()
        learns = "untied weights" if self.weights == "untied" else str(self.transform) if self.transform.learns else ""
        require(
            not (self.gain.is_silent and learns),
            f"with {self.gain} nothing comes in, so {learns} would never learn; give stream= a gain other than 0, or "
            f"leave it out",
        )
        if self.weights != "own":
            require(
                self.passes_on == "own",
                f"a running sum is of what layers used, and {self.weights} weights make what none uses: choose another "
                f"topology than Cumulative, or weights='own'",
            )
        if self.topology.of_tokens:
            self._check_tables()
        if self.topology.within_layer:
            require(
                self.reads != self.carrier,
                f"a within-layer stream needs another carrier to read: {self.carrier} of a layer cannot be added to "
                f"itself; set source to one of {[c for c in CARRIERS if c != self.carrier]}",
            )

    def _check_tables(self) -> None:
        kinds = {self.gate, *(rule.gate for rule in self.gate_rules)}
        require(self.source is None, f"tables of tokens are read, and no {self.source}: leave source out")
        require(
            self.weights != "untied",
            "tables are tied to no layer, so they cannot be untied; weights='initial' freezes them as they start",
        )
        require(
            kinds <= {"full", "off"},
            f"a table of tokens has the gates 'full' and 'off', got {sorted(kinds - {'full', 'off'})}: nothing but the "
            f"stream trains it, so without gradient it is weights='initial', and without value it is nothing",
        )


for _family in (TOPOLOGY_KINDS, GAIN_KINDS, TRANSFORM_KINDS):
    store_family(_family)
