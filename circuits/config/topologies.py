"""Topologies: which layers a layer reads, and what those layers pass on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from circuits.common.errors import require
from circuits.common.families import Family
from circuits.common.fields import Checked, all_different
from circuits.common.plain_data import store_family


class Topology(Checked):
    """Which layers a layer reads. A kind is a frozen dataclass that inherits from this."""

    passes_on: ClassVar[Literal["own", "mixed"]] = "own"
    """What a layer passes on: its own projection as it is, or what it used."""
    within_layer: ClassVar[bool] = False
    """Whether a layer reads itself."""
    of_tokens: ClassVar[bool] = False
    """Whether what is read are tables of value embeddings, in the place of layers."""

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return (layer - 1,) if layer > 0 else ()

    def check_layers(self, n_layers: int) -> None:
        """Check that a model of ``n_layers`` has the layers that are named."""

    def check_sources(self, n_layers: int) -> None:
        """Check that every layer reads different earlier layers, or itself where the topology is within layers."""
        for layer in range(n_layers):
            found: Any = self.sources(layer)
            allowed = (layer,) if self.within_layer else tuple(range(layer))
            require(
                isinstance(found, tuple) and len({*found}) == len(found) and {*found} <= {*allowed},
                f"{self}.sources({layer}) must be a tuple of different layers out of {allowed}, got {found!r}",
            )


@dataclass(frozen=True)
class Previous(Topology):
    """Layer l reads the raw projection of layer l-1 (Burns et al., arXiv 2412.15113, as their code has it)."""


@dataclass(frozen=True)
class Cumulative(Topology):
    """Layer l reads what layer l-1 used, its own plus what had come in: the running sum."""

    passes_on = "mixed"


@dataclass(frozen=True)
class First(Topology):
    """Every later layer, or only those listed in ``readers``, reads the first layer (arXiv 2410.17897)."""

    readers: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        all_different("readers", self.readers or ())
        early = [reader for reader in self.readers or () if reader < 1]
        require(not early, f"readers come after the first layer, which is 0, and are counted from it; got {early}")

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return (0,) if layer > 0 and (self.readers is None or layer in self.readers) else ()

    def check_layers(self, n_layers: int) -> None:
        """Check that a model of ``n_layers`` has the layers that are named."""
        late = [reader for reader in self.readers or () if reader >= n_layers]
        require(not late, f"readers {late} are layers beyond the last one, {n_layers - 1}")


@dataclass(frozen=True)
class Dense(Topology):
    """Every layer reads all earlier layers."""

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return tuple(range(layer))


@dataclass(frozen=True)
class Listed(Topology):
    """Exactly the listed pairs (reader, source) are connected."""

    pairs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.pairs), "Listed(()) connects no layers; give (reader, source) pairs, or the model no stream")
        all_different("pairs", self.pairs)
        for reader, source in self.pairs:
            require(0 <= source < reader, f"pair ({reader}, {source}): a reader must come after its source")

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return tuple(source for reader, source in self.pairs if reader == layer)

    def check_layers(self, n_layers: int) -> None:
        """Check that a model of ``n_layers`` has the layers that are named."""
        late = [pair for pair in self.pairs if pair[0] >= n_layers]
        require(not late, f"pairs {late} name layers beyond the last one, {n_layers - 1}")


@dataclass(frozen=True)
class WithinLayer(Topology):
    """Every layer reads another carrier of its own (keys into values, say)."""

    within_layer = True

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the layers that ``layer`` reads."""
        return (layer,)


@dataclass(frozen=True)
class Tables(Topology):
    """Layers read the token's row of a table: exactly the listed (reader, table) pairs are connected.

    Tables are numbered from 0, with or without gaps; two readers may share one. With ``of="x0"`` they are projections
    instead, learned and tied to no layer, of the residual stream at the start. Source: value embeddings of
    modded-nanogpt and nanochat; Bank of Values, arXiv 2606.02780. Of x0: our own.
    """

    of_tokens = True

    pairs: tuple[tuple[int, int], ...]
    of: Literal["token", "x0"] = "token"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.pairs), "Tables(()) connects no layer; give (reader, table) pairs, or the model no stream")
        all_different("pairs", self.pairs)
        low = [pair for pair in self.pairs if min(pair) < 0]
        require(not low, f"pairs {low}: readers and tables are counted from 0")

    def sources(self, layer: int) -> tuple[int, ...]:
        """Return the tables that ``layer`` reads."""
        return tuple(table for reader, table in self.pairs if reader == layer)

    def check_layers(self, n_layers: int) -> None:
        """Check that a model of ``n_layers`` has the layers that are named."""
        late = [pair for pair in self.pairs if pair[0] >= n_layers]
        require(not late, f"pairs {late} name readers beyond the last layer, {n_layers - 1}")

    def check_sources(self, n_layers: int) -> None:
        """Check nothing: a table is no layer, so any may be read."""


TOPOLOGY_KINDS = Family("topology", Topology, Previous, Cumulative, First, Dense, Listed, WithinLayer, Tables)
store_family(TOPOLOGY_KINDS)
