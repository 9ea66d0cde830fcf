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
from typing import ClassVar, Literal

from circuits.common.errors import require
from circuits.common.families import Family
from circuits.common.fields import Checked, counted_from_zero
from circuits.common.plain_data import store_family
from circuits.config.gains import FixedGain, Gain
from circuits.config.topologies import Previous, Tables, Topology

Carrier = Literal["q", "k", "v"]
CARRIERS: tuple[Carrier, ...] = ("q", "k", "v")
Source = Literal["q", "k", "v", "token"]
"""What a stream carries: a projection of a layer; or ("token") what is of the input alone, a row of a table of value
embeddings or a projection of the residual stream at the start."""

Gate = Literal["full", "stop", "gradient-only", "off"]
"""What a gate lets through: ``full`` everything; ``stop`` the forward value but no gradient into the source layer;
``gradient-only`` the gradient but a forward value of exactly zero; ``off`` nothing."""
GATES: tuple[Gate, ...] = ("full", "stop", "gradient-only", "off")


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
store_family(TRANSFORM_KINDS)


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
    topology: Topology = Previous()  # noqa: RUF009 # frozen
    gain: Gain = FixedGain()  # noqa: RUF009 # frozen
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
    def tables_of(self) -> Literal["token", "x0"] | None:
        """What its tables are of, if it reads any."""
        return self.topology.of if isinstance(self.topology, Tables) else None

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
        # Behind projections of x0 are the embeddings, to which a gradient goes that gates may cut or keep.
        require(
            self.tables_of == "x0" or kinds <= {"full", "off"},
            f"a table of tokens has the gates 'full' and 'off', got {sorted(kinds - {'full', 'off'})}: nothing but the "
            f"stream trains it, so without gradient it is weights='initial', and without value it is nothing",
        )
