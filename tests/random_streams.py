"""Random streams and architectures of every kind, for statements about those that nobody named."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

from circuits import ModelConfig
from circuits.config.gains import ChannelGain, FixedGain, LearnedGain, SigmoidGain, TokenGain
from circuits.config.layers import MLP, Backout, QKNorm, ResidualScalars, Rotary, Smear
from circuits.config.streams import GateRule, HeadMixing, Identity, LinearMap, Stream
from circuits.config.topologies import Cumulative, Dense, First, Listed, Previous, Tables, WithinLayer
from tests.helpers import token_config

PARTS = {
    "carrier": ["q", "k", "v"],
    "source": ["q", "k", "v", None],
    "topology": [Previous(), Cumulative(), First(), Dense()],
    "gain": [FixedGain(0.8, 1.2), LearnedGain(0.6, 0.7, per_head=True), TokenGain()],
    "transform": [Identity(), HeadMixing(), LinearMap()],
    "gate": ["full", "stop", "gradient-only", "off"],
}
one_stream = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in PARTS.items()})  # type: ignore[arg - type]  # lists of several kinds
"""The fields of a :class:`circuits.config.streams.Stream`; some combinations contradict each other."""

# --- whole architectures ----------------------------------------------------------------------------------------------

MORE: dict[str, list[Any]] = {
    "topology": [
        *PARTS["topology"],
        Listed(((2, 0),)),
        Listed(((1, 0), (2, 1))),
        WithinLayer(),
        Tables(((0, 1), (2, 1))),
        Tables(((1, 0), (2, 2)), of="x0"),
    ],
    "gain": [*PARTS["gain"], FixedGain(0.0), LearnedGain(per_channel=True), SigmoidGain(2.0, 3), ChannelGain(2)],
    "gate_rules": [(), (GateRule("stop", head=0),), (GateRule("off", reader=2),)],
    "weights": ["own", "own", "initial", "untied"],
    "gradient": [1.0, 0.5],
}
any_stream = st.fixed_dictionaries({name: st.sampled_from(values) for name, values in (PARTS | MORE).items()})  # type: ignore[arg-type] # lists of several kinds
LAYERS: dict[str, list[Any]] = {
    "n_key_value_heads": [None, 2, 1],
    "normalization": [None, "LN", "LNPre", "RMS", "RMSPre"],
    "norm_eps": [1e-5, None],
    "embedding_norm": [None, "RMS"],
    "positions": ["learned", "none"],
    "rotary": [None, Rotary(), Rotary(fraction=1 / 3, adjacent_pairs=True)],
    "qk_norm": [None, QKNorm(weights="per head"), QKNorm("L2", after_rotary=True, scale=2.0)],
    "biases": [True, False],
    "output_bias": [True, False],
    "mlp": [None, MLP(16), MLP(16, "silu", gated=True, biases=False), MLP(16, "relu2")],
    "attention_scale": [True, False, 0.7],
    "windows": [(), (3, None, 2)],
    "score_softcap": [None, 2.0],
    "logit_softcap": [None, 3.0],
    "residual_scalars": [None, ResidualScalars((1.2, 0.8), (0.1, -0.2))],
    "smear": [None, Smear(4, 0.6)],
    "backout": [None, Backout(1, 0.3)],
}
"""Every field of a layer, and several of its values."""


@st.composite
def configs(draw: Any) -> ModelConfig:
    """A model of tokens with any parts and up to two streams that do not contradict each other."""
    parts = {name: draw(st.sampled_from(values)) for name, values in LAYERS.items()}
    streams: tuple[Stream, ...] = ()
    for fields in draw(st.lists(any_stream, max_size=2)):
        with suppress(ValueError):
            more = (*streams, Stream(**fields))
            token_config("classic", 3, **parts, streams=more)
            streams = more
    return token_config("classic", 3, **parts, streams=streams, name="drawn")
