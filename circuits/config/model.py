"""What a model is: a frozen, strict, serialisable value that is the one source of truth about an architecture."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from circuits.common.errors import require
from circuits.common.fields import Checked, positive
from circuits.common.plain_data import from_plain, register_union, to_plain
from circuits.config.streams import CARRIERS, Carrier, GateRule, Stream, Weights

Positions = Literal["one-hot", "learned", "none"]
Normalization = Literal["LN", "LNPre", "RMS", "RMSPre"]


@dataclass(frozen=True)
class VectorInputs(Checked):
    """Inputs are vectors (batch pos d_input); they go through a learned W_E if ``project``, else d_input = d_model."""

    ABOVE_ZERO = ("d_input",)
    are_tokens: ClassVar[bool] = False

    d_input: int
    project: bool = False

    @property
    def rows(self) -> int:
        """How many rows W_E has."""
        return self.d_input

    @property
    def says(self) -> str:
        """The inputs in words."""
        return f"vectors of {self.d_input}"


@dataclass(frozen=True)
class TokenInputs(Checked):
    """Inputs are token numbers (batch pos)."""

    ABOVE_ZERO = ("d_vocab",)
    are_tokens: ClassVar[bool] = True
    project: ClassVar[bool] = True

    d_vocab: int

    @property
    def rows(self) -> int:
        """How many rows W_E has."""
        return self.d_vocab

    @property
    def says(self) -> str:
        """The inputs in words."""
        return f"{self.d_vocab} tokens"


Inputs = VectorInputs | TokenInputs


@dataclass(frozen=True)
class MLP(Checked):
    """A two-matrix feed-forward part in every block."""

    ABOVE_ZERO = ("d_mlp",)

    d_mlp: int
    act_fn: Literal["gelu", "gelu_new", "relu", "silu"] = "gelu"


@dataclass(frozen=True)
class Unembedding(Checked):
    """Logits = final residual @ W_U (+ b_U)."""

    ABOVE_ZERO = ("d_vocab_out",)
    is_stack: ClassVar[bool] = False
    depth: ClassVar[int] = 0

    d_vocab_out: int
    bias: bool = False

    @property
    def says(self) -> str:
        """The readout in words."""
        return f"{self.d_vocab_out} logits"


@dataclass(frozen=True)
class ReluStack(Checked):
    """``depth`` layers z <- relu(z W + b), b one scalar a layer and no residual round them, then W_U without a bias."""

    ABOVE_ZERO = ("d_vocab_out",)
    is_stack: ClassVar[bool] = True
    bias: ClassVar[bool] = False

    d_vocab_out: int
    depth: int = 3
    """0 leaves W_U alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.depth >= 0, f"depth of ReluStack must be 0 or more, got {self.depth}")

    @property
    def says(self) -> str:
        """The readout in words."""
        return f"{self.depth} ReLU layers -> {self.d_vocab_out} logits"


Readout = Unembedding | ReluStack


Part = Literal["attention", "embed", "mlp", "stack", "stack-bias", "unembed"]
"""What starts with a width of its own."""


@dataclass(frozen=True)
class NormalInit(Checked):
    """Every weight N(0, std^2), every bias 0 (GPT-2)."""

    std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.std > 0,
            f"std must be above 0, got {self.std}: where all weights start at 0, no gradient reaches most of them",
        )

    def std_of(self, part: Part, d_model: int, d_content: int) -> float:
        """Return the standard deviation that the weights of a part start with."""
        return 0.0 if part == "stack-bias" else self.std


@dataclass(frozen=True)
class ToyInit(Checked):
    """The in-context classifier's: attention N(0, 1/d_content), stack N(0, 2/d_model) with biases N(0, 1/d_model),
    unembedding N(0, 1/d_model); d_content is the input's width without its one-hot positions."""

    def std_of(self, part: Part, d_model: int, d_content: int) -> float:
        """Return the standard deviation that the weights of a part start with."""
        wide, content = 1 / math.sqrt(d_model), 1 / math.sqrt(d_content)
        return {"attention": content, "stack": math.sqrt(2) * wide, "mlp": math.sqrt(2) * wide}.get(part, wide)


Init = NormalInit | ToyInit


@dataclass(frozen=True)
class Start(Checked):
    """A change to a weight before training: ``scale`` times itself, plus the weight named ``add`` as it started."""

    weight: str
    scale: float = 1.0
    add: str | None = None


for _union in (Inputs, Readout, Init):
    register_union(_union)


@dataclass(frozen=True)
class ModelConfig(Checked):
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
    attention_scale: bool = True
    """Divide attention scores by sqrt(d_head)."""
    normalization: Normalization | None = None
    """Layer norm before attention, MLP and readout; the ``Pre`` kinds have no parameters."""
    streams: tuple[Stream, ...] = ()
    dropout: float = 0.0
    """In training mode: on the embeddings' sum, on the pattern, and on what attention and MLP add to the residual."""
    tied_embedding: bool = False
    """W_U is the transpose of W_E, one matrix."""
    init: Init = NormalInit()
    starts: tuple[Start, ...] = ()
    """Changes to the weights that ``init`` makes."""
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
        centred = self.normalization in ("LN", "LNPre")
        require(
            not centred or self.d_model > 1,
            f"normalization {self.normalization!r} takes the mean away, which is all that d_model = 1 has; use a wider "
            f"model or an RMS kind",
        )

    def _check_streams(self) -> None:
        fed = [stream.carrier for stream in self.streams]
        require(len(fed) == len(set(fed)), f"two streams feed the same carrier ({fed}); a carrier takes one stream")
        for stream in self.streams:
            self._check_stream(stream)
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
        stream.topology.check_layers(self.n_layers)
        stream.topology.check_sources(self.n_layers)
        for layer in range(self.n_layers):
            for source in stream.topology.sources(layer):
                require(
                    stream.passes_on == "mixed" or self.has_own(source, stream.reads),
                    f"layer {layer} reads the own {stream.reads} of layer {source}, which has none (its gain has "
                    f"own = 0); use First() or Cumulative() there",
                )
        for rule in stream.gate_rules:
            require(
                (rule.reader or 0) < self.n_layers and (rule.source or 0) < self.n_layers,
                f"{rule} names a layer beyond the last one, {self.n_layers - 1}",
            )
            require((rule.head or 0) < self.n_heads, f"{rule} names a head beyond the last one, {self.n_heads - 1}")
            self._check_rule(stream, rule)

    def _check_rule(self, stream: Stream, rule: GateRule) -> None:
        connections = [(layer, source) for layer in range(self.n_layers) for source in stream.topology.sources(layer)]
        require(
            any(rule.matches(reader, source, rule.head or 0) for reader, source in connections),
            f"{rule} is of no connection of the {stream.carrier} stream; its (reader, source) pairs are {connections}",
        )

    def stream_into(self, carrier: Carrier) -> Stream | None:
        """Return the stream that feeds ``carrier``, if there is one."""
        return next((s for s in self.streams if s.carrier == carrier), None)

    def sources(self, layer: int, carrier: Carrier) -> tuple[int, ...]:
        """Return the layers whose outgoing tensors come in at ``layer`` for ``carrier``."""
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
