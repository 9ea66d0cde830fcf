"""What flows where in a model, for people: a table and a few lines of text."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from circuits.common.screen import folded
from circuits.common.showing import Shown
from circuits.common.text_table import as_text
from circuits.config.model import ModelConfig
from circuits.config.streams import CARRIERS, Carrier, Stream
from circuits.transformerlens.tools import ToolSurface


class Described(Shown):
    """How a model shows itself: ``print(model)`` says what flows where; ``repr`` is its sizes alone."""

    config: ModelConfig

    def finding(self) -> str:
        """Return name, sizes and number of parameters."""
        return sizes(self)  # type: ignore[arg-type] # a model is all that inherits this

    def to_frame(self) -> pd.DataFrame:
        """Return :func:`flows`: a row a layer and carrier."""
        return flows(self)  # type: ignore[arg-type] # a model is all that inherits this

    describe = to_frame

    def largest(self, n: int = 60) -> pd.DataFrame:
        """Return what flows where, of the first ``n`` layers and carriers."""
        return self.to_frame().head(n)

    def figure(self) -> Any:
        """Return layers upwards, with what streams bring from where to where (a plotly figure)."""
        return self.config.figure()

    def __repr__(self) -> str:
        return self.finding()

    def __str__(self) -> str:
        return summary(self)  # type: ignore[arg-type] # a model is all that inherits this


_MADE = {"own": "", "initial": ", of initial weights", "untied": ", of weights of its own"}


def flows(model: ToolSurface) -> pd.DataFrame:
    """Return one row per layer and carrier: what attention uses there, where it comes from, and the hooks to see it.

    Columns: layer, carrier, own, sources, gain, transform, gate, hooks (short names, under ``blocks.<layer>.attn.``).
    ``sources`` lists what comes in, as carrier and layer: ``v0`` is what layer 0 passes on of its values. Each of them
    has a hook point of its own too, ``mix.<carrier>.hook_from_<layer>``; ``token2`` is a row of table 2, ``x02`` the
    projection 2 of the residual stream at the start.
    """
    rows = [_row(model, layer, carrier) for layer in range(model.config.n_layers) for carrier in CARRIERS]
    return pd.DataFrame(rows)


def _row(model: ToolSurface, layer: int, carrier: Carrier) -> dict[str, str | int]:
    config = model.config
    stream, sources = config.stream_into(carrier), config.sources(layer, carrier)
    reading = stream if sources else None
    read = (reading.tables_of or reading.reads) if reading else ""
    prefix = f"blocks.{layer}.attn."
    names = [f"hook_{carrier}{route}" for route in ("", "_residual", "_mixed", "_stream")]
    return {
        "layer": layer,
        "carrier": carrier,
        "own": "yes" if config.has_own(layer, carrier) else "none",
        "sources": " + ".join(f"{read}{source}" for source in sources) if reading else "-",
        "gain": reading.gain.says if reading else "-",
        "transform": reading.transform.says + _MADE[reading.weights] if reading else "-",
        "gate": _gates(config, reading, layer) + _gradient(reading) if reading else "-",
        "hooks": " ".join(name for name in names if prefix + name in model.hook_dict),
    }


def _gradient(stream: Stream) -> str:
    return "" if stream.gradient == 1 else f", gradient x {stream.gradient:g}"


def _gates(config: ModelConfig, stream: Stream, layer: int) -> str:
    n_heads, read = config.heads_of(stream.carrier), stream.tables_of or stream.reads
    gates = {source: stream.head_gates(layer, source, n_heads) for source in stream.topology.sources(layer)}
    kinds = {gate for heads in gates.values() for gate in heads}
    if len(kinds) == 1:
        return kinds.pop()
    counted = {
        source: [f"{kind} ({n} heads)" if len(heads) > 1 else kind for kind, n in Counter(heads).items()]
        for source, heads in gates.items()
    }
    return "; ".join(f"{read}{source}: {', '.join(parts)}" for source, parts in counted.items())


def sizes(model: ToolSurface) -> str:
    """Return in one line a model's name, layers, heads, width and number of parameters."""
    count = sum(p.numel() for p in model.parameters())
    return f"{type(model).__name__} {model.config.finding()}, {count:,} parameters"


def summary(model: ToolSurface) -> str:
    """Return a few lines of text: sizes, what stands around attention, and the table of flows."""
    config = model.config
    places = {"none": "no positions", "one-hot": f"one-hot positions in the first {config.n_ctx}"}
    positions = places.get(config.positions, f"learned positions up to {config.n_ctx}")
    if config.rotary:
        positions = config.rotary.says if config.positions == "none" else f"{positions} and {config.rotary.says}"
    mlp = ""
    if config.mlp:
        mlp = f" + {'gated ' if config.mlp.gated else ''}MLP"
        mlp += f" ({config.mlp.act_fn})" if config.mlp.act_fn != "gelu" else ""
    lines = [
        sizes(model),
        f"  {config.inputs.says}, {positions} -> attention ({_attention(config)}){mlp} -> {config.readout.says}",
    ]
    lines += _around(config)
    table = flows(model)
    shown = table if config.streams else table[["layer", "carrier", "hooks"]]
    if not config.streams:
        lines.append("  no residual attention stream: layers talk through the residual stream alone")
    return "\n".join([*map(folded, lines), as_text(shown)])


def _attention(config: ModelConfig) -> str:
    scale = "1/sqrt(d_head)" if isinstance(config.attention_scale, bool) else f"scores x {config.attention_scale:g}"
    parts = {
        "W_O": config.output_matrix,
        "biases": config.biases,
        scale: config.attention_scale is not False,
        str(config.normalization): config.normalization is not None,
    }
    told = [name if present else f"no {name}" for name, present in parts.items() if name != "None"]
    if config.qk_norm:
        told.append(f"queries and keys normalised ({config.qk_norm.kind})")
    if config.windows:
        told.append(f"windows of {', '.join(str(window or 'all') for window in config.windows)}")
    if config.score_softcap:
        told.append(f"scores capped at {config.score_softcap:g}")
    return ", ".join(told)


def _around(config: ModelConfig) -> list[str]:
    """What stands on the residual stream beside attention and MLPs, and at its end."""
    there = {
        f"{config.embedding_norm} of embeddings": config.embedding_norm,
        "a part of the embedding before (smear)": config.smear,
        "scalars on it and on its start, before every layer": config.residual_scalars,
        f"a part of it after layer {config.backout.layer if config.backout else ''} taken off": config.backout,
        f"logits capped at {config.logit_softcap}": config.logit_softcap,
    }
    told = [name for name, part in there.items() if part]
    return [f"  residual stream: {'; '.join(told)}"] if told else []
