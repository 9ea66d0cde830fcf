"""What layers may have beside attention streams: norms, rotary positions, MLPs, and scalars on the residual stream."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from circuits.common.errors import require
from circuits.common.families import Family
from circuits.common.fields import Checked
from circuits.common.plain_data import store_family

Normalization = Literal["LN", "LNPre", "RMS", "RMSPre"]
"""Layer norm with and without weights, and division by the root mean square with and without weights."""


@dataclass(frozen=True)
class MLP(Checked):
    """A feed-forward part in every block: W_out act(W_in x + b_in) + b_out.

    ``gated``: W_out (act(W_gate x + b_gate) * (W_in x + b_in)) + b_out, as SwiGLU with ``act_fn="silu"``.
    """

    ABOVE_ZERO = ("d_mlp",)

    d_mlp: int
    act_fn: Literal["gelu", "gelu_new", "relu", "relu2", "silu"] = "gelu"
    """``gelu_new`` is GELU by tanh, ``relu2`` the square of ReLU."""
    gated: bool = False
    biases: bool = True

    @property
    def width_in(self) -> int:
        """How wide all is that is projected from the input."""
        return self.d_mlp * (2 if self.gated else 1)


# --- positions by rotation ----------------------------------------------------------------------------------------


class Rotation(Checked):
    """Pairs of components of queries and keys turned by their position. A kind is a frozen dataclass of this."""

    adjacent_pairs = False
    """Pair i is components 2i and 2i + 1; else i and n + i, of n pairs."""
    backwards = False
    """Turned the other way round."""

    @property
    def says(self) -> str:
        """The positions in words."""
        return str(self)

    def check_width(self, d_head: int) -> None:
        """Check that heads of this width can be turned."""

    def angles(self, d_head: int) -> tuple[float, ...]:
        """Return the angle of every pair, in radians a position."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rotary(Rotation):
    """Pairs of components of queries and keys turned by an angle a position: pair i of n by base^(-i / n).

    Source: Su et al., arXiv 2104.09864; ``fraction``: GPT-NeoX.
    """

    base: float = 10_000.0
    fraction: float = 1.0
    """Of d_head, the first components that are turned; the others stay."""
    adjacent_pairs: bool = False
    """Pair i is components 2i and 2i + 1; else i and n + i."""
    backwards: bool = False
    """Turned the other way round, as nanochat's: the same attention by the same weights where nothing else is done to
    queries and keys of different positions."""
    stretch: float = 1.0
    """Positions are divided by it (linear scaling)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.base > 1, f"base of Rotary must be above 1, got {self.base}")
        require(0 < self.fraction <= 1, f"fraction of Rotary must lie above 0 and up to 1, got {self.fraction}")
        require(self.stretch > 0, f"stretch of Rotary must be above 0, got {self.stretch}")

    def check_width(self, d_head: int) -> None:
        """Check that heads of this width can be turned."""
        turned = self.fraction * d_head
        require(
            self._pairs(d_head) > 0 and math.isclose(turned, 2 * self._pairs(d_head), rel_tol=1e-9),
            f"rotary positions turn pairs of components, and {self.fraction:g} of d_head = {d_head} is {turned:g}; "
            f"give another d_head or fraction",
        )

    def _pairs(self, d_head: int) -> int:
        # Rounded, as 14 / 25 of 25 is a little more than 14.
        return round(self.fraction * d_head) // 2

    def angles(self, d_head: int) -> tuple[float, ...]:
        """Return the angle of every pair, in radians a position."""
        pairs = self._pairs(d_head)
        return tuple(self.base ** (-i / pairs) / self.stretch for i in range(pairs))

    @property
    def says(self) -> str:
        """The positions in words."""
        part = "" if self.fraction == 1 else f" on {self.fraction:g} of each head"
        return f"rotary positions of base {self.base:g}{part}"


@dataclass(frozen=True)
class Llama3Rotary(Rotation):
    """As :class:`Rotary`, its slow pairs slower: waves longer than n_ctx / low turn at 1 / factor of their angle, those
    shorter than n_ctx / high as they would, and between the two the angle goes over linearly in n_ctx / wave.

    Source: Llama 3.1 (``rope_type = "llama3"``).
    """

    ABOVE_ZERO = ("factor", "low", "trained_n_ctx")

    base: float = 500_000.0
    factor: float = 8.0
    low: float = 1.0
    high: float = 4.0
    trained_n_ctx: float = 8192.0
    """The positions that the model was trained with before it was stretched."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.base > 1, f"base of Llama3Rotary must be above 1, got {self.base}")
        require(self.high > self.low, f"high of Llama3Rotary must be above low, got {self.high} and {self.low}")

    def check_width(self, d_head: int) -> None:
        """Check that heads of this width can be turned."""
        Rotary(self.base).check_width(d_head)

    def angles(self, d_head: int) -> tuple[float, ...]:
        """Return the angle of every pair, in radians a position."""
        return tuple(self._stretched(angle) for angle in Rotary(self.base).angles(d_head))

    def _stretched(self, angle: float) -> float:
        waves = self.trained_n_ctx * angle / (2 * math.pi)
        kept = min(1.0, max(0.0, (waves - self.low) / (self.high - self.low)))
        return (kept + (1 - kept) / self.factor) * angle

    @property
    def says(self) -> str:
        """The positions in words."""
        return f"rotary positions of base {self.base:g}, slow ones {self.factor:g} times slower"


@dataclass(frozen=True)
class HalfTruncatedRotary(Rotation):
    """Components i and d_head / 2 + i turned, for the first half of the i only: by angles from 1 to 1 / base.

    Source: K. Jordan et al., modded-nanogpt (since 2024-12).
    """

    backwards = True

    base: float = 1024.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.base > 1, f"base of HalfTruncatedRotary must be above 1, got {self.base}")

    def check_width(self, d_head: int) -> None:
        """Check that heads of this width can be turned."""
        require(d_head % 4 == 0 and d_head > 4, f"half-truncated rotary needs d_head = 8, 12, 16, ..., got {d_head}")

    def angles(self, d_head: int) -> tuple[float, ...]:
        """Return the angle of every pair, in radians a position."""
        turned = d_head // 4
        return tuple(self.base ** (-i / (turned - 1)) for i in range(turned)) + (0.0,) * turned

    @property
    def says(self) -> str:
        """The positions in words."""
        return f"half-truncated rotary positions of base {self.base:g}"


ROTATION_KINDS = Family("rotary", Rotation, Rotary, Llama3Rotary, HalfTruncatedRotary)
store_family(ROTATION_KINDS)


# --- queries and keys, normalised -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class QKNorm(Checked):
    """Queries and keys that attention uses, normalised head by head and multiplied by ``scale``.

    ``RMS`` divides by the root mean square (Qwen3, nanochat), ``L2`` by the length (Henry et al., arXiv 2010.04245).
    """

    kind: Literal["RMS", "L2"] = "RMS"
    after_rotary: bool = False
    scale: float = 1.0
    weights: Literal["none", "shared", "per head"] = "none"
    """Learned weights on the components, alike for all heads or not; each starts at 1."""
    eps: float | None = 1e-6
    """Under the root (RMS), or the least length (L2); ``None``: the smallest step of the number type at 1."""


# --- scalars on the residual stream ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ResidualScalars(Checked):
    """Before every block x becomes own x + x0 x_0, with x_0 the residual stream at the start: two learned numbers a
    layer. Each starts between the two given, for the first and the last layer.

    Source: modded-nanogpt and nanochat (``resid_lambdas`` and ``x0_lambdas``).
    """

    own: tuple[float, float] = (1.0, 1.0)
    x0: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Smear(Checked):
    """At the start every position but the first adds gain sigmoid(x[:channels] W) times the position before it.

    Source: nanochat (``smear_gate`` and ``smear_lambda``).
    """

    ABOVE_ZERO = ("channels",)

    channels: int = 24
    gain: float = 0.0
    """Where the learned gain starts."""


@dataclass(frozen=True)
class Backout(Checked):
    """Before the final norm a learned part of the residual stream after a middle layer is taken off.

    Source: nanochat (``backout_lambda``).
    """

    layer: int
    gain: float = 0.2
    """Where the learned part starts."""
