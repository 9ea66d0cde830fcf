"""What stands at both ends of a model and how it starts: inputs, readouts, initial weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from circuits.common.errors import require
from circuits.common.fields import Checked
from circuits.common.plain_data import register_union


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
