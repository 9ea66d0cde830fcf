"""Gains: how much of its own and of what comes in a layer takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from circuits.common.errors import require
from circuits.common.families import Family
from circuits.common.fields import Checked
from circuits.common.plain_data import store_family


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

    ``tie="free"`` learns both; ``"own-fixed"`` keeps ``own`` as given; ``"convex"`` sets own = 1 - sum of the stream's,
    from the start: then ``own`` is not read.
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
        own = "(1 - what comes in)" if self.tie == "convex" else f"{self.own:g}"
        return f"learned per layer pair{per}, {self.tie}, from {own} own + {self.stream:g} in"


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
store_family(GAIN_KINDS)
