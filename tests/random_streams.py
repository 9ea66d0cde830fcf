"""Random streams of every kind, for statements about architectures that nobody named."""

from __future__ import annotations

from hypothesis import strategies as st

from circuits.config.streams import (
    Cumulative,
    Dense,
    First,
    FixedGain,
    HeadMixing,
    Identity,
    LearnedGain,
    LinearMap,
    Previous,
    TokenGain,
)

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
