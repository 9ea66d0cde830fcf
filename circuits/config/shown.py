"""How an architecture shows itself: its sizes in a line, its fields in a table, its streams in a drawing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from circuits.common.showing import Shown
from circuits.config.streams import Carrier, Stream

if TYPE_CHECKING:
    from pandas import DataFrame as Frame
else:
    Frame = Any


class ShownConfig(Shown):
    """What is shown of a configuration of a model."""

    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    n_key_value_heads: int | None
    streams: tuple[Stream, ...]
    mlp: Any
    name: str
    heads_of: Callable[[Carrier], int]

    def finding(self) -> str:
        """Return in one line name, layers, heads and width."""
        heads = f"{self.n_heads} head{'s' if self.n_heads > 1 else ''} of {self.d_head}"
        if (self.n_key_value_heads or self.n_heads) < self.n_heads:
            heads += f" ({self.n_key_value_heads} of keys and values)"
        return f"'{self.name}': {self.n_layers} layers, {heads}, d_model {self.d_model}"

    def to_frame(self) -> Frame:
        """Return one row a field: field, value, and whether it is the default."""
        import pandas as pd

        fields: Any = dataclasses.fields(self)  # type: ignore[arg-type] # a frozen dataclass is all that inherits this
        rows = [(f.name, getattr(self, f.name), _is_default(f, getattr(self, f.name))) for f in fields]
        told = [{"field": name, "value": repr(value), "default": default} for name, value, default in rows]
        return pd.DataFrame(told)

    def largest(self, n: int = 60) -> Frame:
        """Return the first ``n`` fields that are no defaults."""
        frame = self.to_frame()
        return frame.loc[~frame.default, ["field", "value"]].head(n)

    def figure(self) -> Any:
        """Return layers upwards, with what streams bring from where to where (a plotly figure)."""
        import pandas as pd

        from circuits.common.model_drawing import model_drawing

        rows = [
            self._connection(stream, reader, source)
            for stream in self.streams
            for reader in range(self.n_layers)
            for source in stream.topology.sources(reader)
        ]
        frame = pd.DataFrame(rows, columns=["reader", "source", "fed", "read", "gate", "says"])
        return model_drawing(frame, self.n_layers, self.mlp is not None, self.finding())

    def _connection(self, stream: Stream, reader: int, source: int) -> dict[str, Any]:
        gates = set(stream.head_gates(reader, source, self.heads_of(stream.carrier)))
        gate = gates.pop() if len(gates) == 1 else "mixed"
        read = stream.tables_of or stream.reads
        says = f"{read}{source} into {stream.carrier}{reader}: {stream.gain.says}, {stream.transform.says}, gate {gate}"
        return {"reader": reader, "source": source, "fed": stream.carrier, "read": read, "gate": gate, "says": says}

    def __repr__(self) -> str:
        frame = self.largest()
        given = ", ".join(f"{row.field}={row.value}" for row in frame.itertuples())
        return f"{type(self).__name__}({given})"


def _is_default(field: Any, value: Any) -> bool:
    return field.default is not dataclasses.MISSING and field.default == value
