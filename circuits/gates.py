"""A model whose gates can be set, for good or for the length of a block; its configuration follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from circuits.block import Block
from circuits.config.streams import Carrier, Gate, Stream
from circuits.transformerlens.tools import ToolSurface

_OF_TABLES: dict[Gate, Gate] = {"stop": "full", "gradient-only": "off"}
"""Gates as a table of tokens has them, behind which is no gradient to cut or keep (behind projections of x0 is one)."""


class Gated(ToolSurface):
    """The gates of a model's streams."""

    @property
    def layers(self) -> list[Block]:
        """The blocks, as a list that knows its type."""
        return list(self.blocks)  # type: ignore[arg-type] # the ModuleList holds nothing else

    def set_gate(self, gate: Gate, carrier: Carrier | None = None) -> None:
        """Set the gate of one stream, or of all; ``model.config`` follows. Gate rules are dropped where it is set.

        Raises:
            ValueError: if no such stream exists, or for an unknown gate.
        """
        fed = [stream.carrier for stream in self.config.streams]
        if not fed or (carrier is not None and carrier not in fed):
            raise ValueError(f"there is no {carrier or ''} stream to set a gate on; this model's streams feed {fed}")
        self._set_streams(
            dataclasses.replace(s, gate=gate, gate_rules=()) if carrier in (None, s.carrier) else s
            for s in self.config.streams
        )

    def _set_streams(self, streams: Any) -> None:
        self.config = dataclasses.replace(self.config, streams=tuple(streams))
        for block in self.layers:
            block.attn.set_gates(self.config)

    @contextmanager
    def gated(self, gate: Gate, carrier: Carrier | None = None) -> Iterator[Self]:
        """Set a gate for the length of a ``with`` block."""
        before = self.config.streams
        self.set_gate(gate, carrier)
        try:
            yield self
        finally:
            self._set_streams(before)

    @contextmanager
    def regated(self, change: Mapping[Gate, Gate], gradient: float | None = None) -> Iterator[Self]:
        """Exchange gates, those of single connections included, for the length of a ``with`` block; and what streams
        multiply gradients by, where that is given. Of a table of tokens only the value is let through or not."""
        before = self.config.streams

        def after(gate: Gate, stream: Stream) -> Gate:
            changed = change.get(gate, gate)
            return _OF_TABLES.get(changed, changed) if stream.tables_of == "token" else changed

        self._set_streams(
            dataclasses.replace(
                stream,
                gradient=stream.gradient if gradient is None else gradient,
                gate=after(stream.gate, stream),
                gate_rules=tuple(
                    dataclasses.replace(rule, gate=after(rule.gate, stream)) for rule in stream.gate_rules
                ),
            )
            for stream in before
        )
        try:
            yield self
        finally:
            self._set_streams(before)
