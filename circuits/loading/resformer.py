"""ResFormer and SVFormer (Zhou et al., arXiv 2410.17897), whose code is Llama's with another rule of values.

Their config.json is Llama's to the letter. SVFormer's later layers have no values of their own, which tells it from
Llama; ResFormer's tensors are Llama's, too, so that it must be named.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from circuits.common.errors import require
from circuits.loading.family import Family
from circuits.loading.fields import Fields
from circuits.loading.huggingface import Parts, has_type, has_weights, llama, open_weights, opened
from circuits.streams import variants


def _beside(fields: Fields, given: Parts, rule: str) -> Parts:
    require(given["n_layers"] > 1, f"{rule} has two layers at least, and {fields.where} says one")
    return llama(fields, given) | {"streams": variants.streams(rule, given["n_layers"])}


def _is_svformer(folder: Path) -> bool:
    if not (has_type(folder, "llama") and has_weights(folder)):
        return False
    with ExitStack() as stack:
        held = [name for name in open_weights(folder, stack) if name.endswith("self_attn.v_proj.weight")]
        later = "model.layers.1.self_attn.q_proj.weight" in open_weights(folder, stack)
    return held == ["model.layers.0.self_attn.v_proj.weight"] and later


FAMILIES = (
    Family(
        "resformer",
        lambda folder: False,
        partial(opened, partial(_beside, rule="resformer-constant")),
    ),
    Family(
        "svformer",
        _is_svformer,
        partial(opened, partial(_beside, rule="svformer")),
    ),
)
