"""What a model is: a frozen, strict, serialisable value that is the one source of truth about an architecture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from circuits.common.errors import require
from circuits.common.fields import Checked, positive
from circuits.common.plain_data import from_plain, to_plain
from circuits.config.layers import (
    MLP,
    Backout,
    Normalization,
    QKNorm,
    ResidualScalars,
    Rotation,
    Smear,
)
from circuits.config.parts import Init, Inputs, NormalInit, Part, Readout, Start
from circuits.config.shown import ShownConfig
from circuits.config.streams import CARRIERS, Carrier, GateRule, Stream, Weights

Positions = Literal["one-hot", "learned", "none"]


@dataclass(frozen=True, repr=False)
class ModelConfig(Checked, ShownConfig):
    """A whole architecture. Sizes carry TransformerLens' names; ``d_head = -1`` means d_model / n_heads.

    Raises:
        ValueError: for any contradiction, saying what was given, what was expected and what to do.
    """

    n_layers: int
    n_heads: int
    d_model: int
    n_ctx: int
    inputs: Inputs
    readout: Readout
    d_head: int = -1
    positions: Positions = "learned"
    """``one-hot``: the first n_ctx components of an input vector hold its one-hot position."""
    mlp: MLP | None = None
    output_matrix: bool = True
    biases: bool = True
    attention_scale: bool | float = True
    """Divide attention scores by sqrt(d_head), or multiply them by a number."""
    normalization: Normalization | None = None
    """Layer norm before attention, MLP and readout; the ``Pre`` kinds have no parameters."""
    streams: tuple[Stream, ...] = ()
    dropout: float = 0.0
    """In training mode: on the embeddings' sum, on the pattern, and on what attention and MLP add to the residual."""
    tied_embedding: bool = False
    """W_U is the transpose of W_E, one matrix."""
    init: Init = NormalInit()  # noqa: RUF009 # frozen
    starts: tuple[Start, ...] = ()
    """Changes to the weights that ``init`` makes."""
    n_key_value_heads: int | None = None
    """How many heads keys and values have, each used by as many heads of queries; ``None``: ``n_heads``."""
    output_bias: bool = True
    """Whether ``biases`` mean b_O, too."""
    norm_eps: float | None = 1e-5
    """What norms add under the root; ``None``: the smallest step of the number type at 1."""
    embedding_norm: Normalization | None = None
    """A norm of the token embeddings, before positions."""
    position_scale: float = 1.0
    """What learned positions are multiplied by."""
    rotary: Rotation | None = None
    qk_norm: QKNorm | None = None
    windows: tuple[int | None, ...] = ()
    """How many positions each layer's queries see, their own included; ``None``: all. Empty: all, in every layer."""
    score_softcap: float | None = None
    """Attention scores x become c tanh(x / c)."""
    logit_softcap: float | None = None
    """Logits x become c tanh(x / c)."""
    residual_scalars: ResidualScalars | None = None
    smear: Smear | None = None
    backout: Backout | None = None
    name: str = field(default="custom", compare=False)
    """A label for people; two architectures that differ in nothing else are the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_head == -1:
            require(
                self.n_heads > 0 and self.d_model % self.n_heads == 0,
                f"{self.n_heads} heads do not divide d_model = {self.d_model}; give d_head or change n_heads",
            )
            object.__setattr__(self, "d_head", self.d_model // self.n_heads)
        self._check_sizes()
        self._check_layers()
        self._check_inputs()
        self._check_tied()
        self._check_streams()

    def _check_sizes(self) -> None:
        positive(self, "n_layers", "n_heads", "d_model", "n_ctx", "d_head")
        require(
            self.output_matrix or self.n_heads * self.d_head == self.d_model,
            f"without an output matrix the heads' outputs are the residual's: {self.n_heads} heads x d_head "
            f"{self.d_head} must be d_model = {self.d_model}",
        )
        require(0 <= self.dropout < 1, f"dropout must be at least 0 and less than 1, got {self.dropout!r}")

    def _check_layers(self) -> None:
        if self.n_key_value_heads is not None:
            positive(self, "n_key_value_heads")
            require(
                self.n_heads % self.n_key_value_heads == 0,
                f"{self.n_key_value_heads} heads of keys and values are not shared evenly by {self.n_heads} heads of "
                f"queries",
            )
        if self.rotary:
            self.rotary.check_width(self.d_head)
        require(
            len(self.windows) in (0, self.n_layers) and all(window is None or window > 0 for window in self.windows),
            f"windows are one positive number (or None) a layer, of {self.n_layers}; got {self.windows}",
        )
        for name in ("score_softcap", "logit_softcap", "norm_eps"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be above 0, or None; got {value}")
        require(
            self.attention_scale is True or self.attention_scale is False or self.attention_scale > 0,
            f"attention_scale must be True, False or a number above 0, got {self.attention_scale}",
        )
        if self.smear:
            require(
                self.smear.channels <= self.d_model,
                f"{self.smear} reads more channels than d_model = {self.d_model}",
            )
        if self.backout:
            require(
                0 <= self.backout.layer < self.n_layers,
                f"{self.backout} names no layer of {self.n_layers}, which are counted from 0",
            )

    def _check_tied(self) -> None:
        if not self.tied_embedding:
            return
        remedy = "; change that or leave tied_embedding out"
        require(
            self.inputs.are_tokens,
            f"a tied embedding reads and writes the same tokens: inputs must be TokenInputs, got {self.inputs}{remedy}",
        )
        require(
            not self.readout.is_stack and not self.readout.bias,
            f"a tied embedding is the whole readout: an Unembedding without a bias, got {self.readout}{remedy}",
        )
        d_vocab, d_vocab_out = self.inputs.rows, self.readout.d_vocab_out
        require(
            d_vocab == d_vocab_out,
            f"a tied embedding has one row a token: d_vocab_out = {d_vocab_out} must be d_vocab = {d_vocab}{remedy}",
        )

    def _check_inputs(self) -> None:
        inputs = self.inputs
        require(
            inputs.project or inputs.rows == self.d_model,
            f"input vectors of width {inputs.rows} do not fit d_model = {self.d_model}; set "
            f"VectorInputs(project=True) or make them equal",
        )
        if self.positions == "one-hot":
            require(
                not inputs.are_tokens and self.n_ctx < self.d_model,
                "one-hot positions stand in the first n_ctx components of input vectors: inputs must be VectorInputs "
                f"and n_ctx ({self.n_ctx}) less than d_model ({self.d_model})",
            )
            require(
                not inputs.project,
                f"with one-hot positions, input vectors are the residual stream as they stand and {inputs} would "
                f"never be projected; use VectorInputs({self.d_model}), or positions='learned'",
            )
        for norm in (self.normalization, self.embedding_norm):
            require(
                norm not in ("LN", "LNPre") or self.d_model > 1,
                f"normalization {norm!r} takes the mean away, which is all that d_model = 1 has; use a wider model or "
                f"an RMS kind",
            )
        require(
            self.embedding_norm is None or inputs.project,
            f"embedding_norm is of what W_E makes, and {inputs} have none; leave it out",
        )

    def _check_streams(self) -> None:
        fed = [stream.carrier for stream in self.streams]
        require(len(fed) == len(set(fed)), f"two streams feed the same carrier ({fed}); a carrier takes one stream")
        for stream in self.streams:
            self._check_stream(stream)
        of_tokens = [s.carrier for s in self.streams if s.reads == "token"]
        require(len(of_tokens) < 2, f"one stream may read tables of tokens, and those into {of_tokens} do; choose one")
        for carrier in CARRIERS:
            reading = [s for s in self.streams if s.reads == carrier]
            kinds, weights = {s.passes_on for s in reading}, sorted({s.weights for s in reading})
            require(len(kinds) < 2, f"one stream reads raw {carrier} and another its running sum; choose one")
            require(
                len(weights) < 2,
                f"two streams read {carrier} made by different weights ({' and '.join(weights)}); choose one",
            )

    def _check_stream(self, stream: Stream) -> None:
        topology = type(stream.topology).__name__
        require(
            any(stream.topology.sources(layer) for layer in range(self.n_layers)),
            f"the {stream.carrier} stream ({topology}) has no layer to read in a model of {self.n_layers} layer(s); "
            f"use more layers or no stream",
        )
        if stream.reads == "token":
            require(
                self.inputs.are_tokens or stream.tables_of == "x0",
                f"tables have a row a token, and the inputs are {self.inputs.says}; use TokenInputs or other sources",
            )
        else:
            require(
                self.heads_of(stream.reads) == self.heads_of(stream.carrier),
                f"the {stream.carrier} stream reads {stream.reads} head by head, and they have "
                f"{self.heads_of(stream.carrier)} and {self.heads_of(stream.reads)} heads; read a carrier of as many",
            )
        gain: Any = stream.gain
        require(
            getattr(gain, "channels", 0) <= self.d_model,
            f"{gain} reads more channels than d_model = {self.d_model}",
        )
        stream.topology.check_layers(self.n_layers)
        stream.topology.check_sources(self.n_layers)
        for layer in range(self.n_layers):
            for source in stream.topology.sources(layer):
                require(
                    stream.reads == "token" or stream.passes_on == "mixed" or self.has_own(source, stream.reads),
                    f"layer {layer} reads the own {stream.reads} of layer {source}, which has none (its gain has "
                    f"own = 0); use First() or Cumulative() there",
                )
        for rule in stream.gate_rules:
            require(
                (rule.reader or 0) < self.n_layers and (stream.reads == "token" or (rule.source or 0) < self.n_layers),
                f"{rule} names a layer beyond the last one, {self.n_layers - 1}",
            )
            heads = self.heads_of(stream.carrier)
            require((rule.head or 0) < heads, f"{rule} names a head beyond the last one, {heads - 1}")
            self._check_rule(stream, rule)

    def _check_rule(self, stream: Stream, rule: GateRule) -> None:
        connections = [(layer, source) for layer in range(self.n_layers) for source in stream.topology.sources(layer)]
        require(
            any(rule.matches(reader, source, rule.head or 0) for reader, source in connections),
            f"{rule} is of no connection of the {stream.carrier} stream; its (reader, source) pairs are {connections}",
        )

    @property
    def token_stream(self) -> Stream | None:
        """The stream that carries rows of tables, or projections of x0, if there is one."""
        return next((s for s in self.streams if s.reads == "token"), None)

    @property
    def tables(self) -> tuple[int, ...]:
        """The numbers of the tables of value embeddings."""
        stream = self.token_stream
        read = [stream.topology.sources(layer) for layer in range(self.n_layers)] if stream else []
        return tuple(sorted({table for tables in read for table in tables}))

    def stream_into(self, carrier: Carrier) -> Stream | None:
        """Return the stream that feeds ``carrier``, if there is one."""
        return next((s for s in self.streams if s.carrier == carrier), None)

    def sources(self, layer: int, carrier: Carrier) -> tuple[int, ...]:
        """Return the layers (or tables) whose outgoing tensors come in at ``layer`` for ``carrier``."""
        stream = self.stream_into(carrier)
        return stream.topology.sources(layer) if stream else ()

    def extra_weights(self, carrier: Carrier) -> Weights:
        """Return whose weights make what layers pass on of ``carrier``."""
        for stream in self.streams:
            if stream.reads == carrier:
                return stream.weights
        return "own"

    def readers(self, layer: int, carrier: Carrier) -> tuple[tuple[int, Carrier], ...]:
        """Return the (layer, fed carrier) pairs that read what ``layer`` passes on of ``carrier``."""
        pairs = ((reader, s) for s in self.streams if s.reads == carrier for reader in range(self.n_layers))
        return tuple((reader, s.carrier) for reader, s in pairs if layer in s.topology.sources(reader))

    def has_own(self, layer: int, carrier: Carrier) -> bool:
        """Return whether ``layer`` has a projection of its own for ``carrier``."""
        stream = self.stream_into(carrier)
        return not (stream and stream.replaces_own and stream.topology.sources(layer))

    def heads_of(self, carrier: Carrier) -> int:
        """Return how many heads a carrier has: keys and values may have fewer than queries."""
        return self.n_heads if carrier == "q" else self.n_key_value_heads or self.n_heads

    def head_used(self, carrier: Carrier, head: int) -> int:
        """Return which head of a carrier a head of queries uses."""
        return head * self.heads_of(carrier) // self.n_heads

    @property
    def score_factor(self) -> float:
        """What the products of queries and keys are multiplied by."""
        if isinstance(self.attention_scale, bool):
            return 1 / math.sqrt(self.d_head) if self.attention_scale else 1.0
        return self.attention_scale

    def window(self, layer: int) -> int | None:
        """Return how many positions the queries of a layer see, their own included; ``None``: all."""
        return self.windows[layer] if self.windows else None

    @property
    def attn_only(self) -> bool:
        """Whether there is no MLP."""
        return self.mlp is None

    @property
    def d_content(self) -> int:
        """The width of an input without its one-hot positions."""
        d_input = self.d_model if self.inputs.are_tokens else self.inputs.rows
        return d_input - self.n_ctx if self.positions == "one-hot" else d_input

    def weight_std(self, part: Part) -> float:
        """Return the standard deviation that the weights of a part start with."""
        return self.init.std_of(part, self.d_model, self.d_content)

    def to_plain(self) -> dict[str, Any]:
        """Return the configuration as plain data (see :func:`circuits.common.plain_data.to_plain`)."""
        return to_plain(self)

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> ModelConfig:
        """Return the configuration that :meth:`to_plain` wrote; an unknown field is an error."""
        return from_plain(cls, data)
