"""Which connection helps, in how many layers? Every named rule, pairs of carriers, and values into keys or queries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from circuits.config.streams import Stream
from circuits.config.topologies import Previous, WithinLayer
from circuits.streams.variants import streams as streams_of
from experiments.studies.builders import IN_SMALL
from experiments.studies.pictures import ratios_picture
from experiments.studies.study import Arm, Experiment, Size, Study
from experiments.studies.wording import speed_block

RULES = (
    *("value", "key", "query", "cumulative", "resformer-constant", "resformer-learned", "resformer-sparse"),
    *("resformer-dense", "modded-nanogpt", "x-transformers", "svformer", "lime", "within-layer", "cross-carrier"),
    "transformed",
)
DEEP_RULES = (
    *("value", "key", "query", "cumulative", "resformer-learned", "resformer-dense", "svformer", "within-layer"),
)
"""Those that are trained in more than two layers too."""
COMBINED: dict[str, tuple[Stream, ...]] = {
    "value + key": (Stream("v"), Stream("k")),
    "value + query": (Stream("v"), Stream("q")),
    "key + query": (Stream("k"), Stream("q")),
    "value + key + query": (Stream("v"), Stream("k"), Stream("q")),
    "v into k": (Stream("k", source="v", topology=Previous()),),
    "v into q": (Stream("q", source="v", topology=Previous()),),
    "v into k, same layer": (Stream("k", source="v", topology=WithinLayer()),),
}
DEPTHS = {2: 5, 3: 5, 4: 4}
"""Layers, and with how many seeds. In two layers some rules are the same model under two names (value and cumulative,
say): their rows must agree."""


def _connections(size: Size) -> list[Arm]:
    """In miniature of two layers alone."""
    from experiments.studies.schedules import SMALL, named, seeds

    arms = []
    for n_layers, full in DEPTHS.items() if size == "full" else [(2, 5)]:
        rules: dict[str, Any] = {
            rule: streams_of(rule, n_layers) for rule in ("classic", *(RULES if n_layers == 2 else DEEP_RULES))
        }
        rules |= COMBINED if n_layers == 2 else {}
        for seed in seeds(size, full):
            runs = [named(rule, "classic", seed, SMALL, n_layers=n_layers, streams=of) for rule, of in rules.items()]
            arms += [replace(arm, condition=f"{n_layers} layers") for arm in runs]
    return arms


CONNECTIONS = Experiment("connections", _connections, "Which connection helps, in how many layers?", of=IN_SMALL)
STUDY = Study(
    name="connections",
    question=CONNECTIONS.asks,
    experiments=(CONNECTIONS,),
    pictures=(ratios_picture("connections", CONNECTIONS),),
    blocks=(speed_block(CONNECTIONS),),
)
