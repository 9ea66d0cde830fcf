"""Gains, transforms and topologies of one's own, and what is asked of them when a model is built with one.

The graph, the fast path and the description of a model rely on what a part says of itself, so it is tried out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from circuits.common.errors import require
from circuits.config.gains import GAIN_KINDS, Gain
from circuits.config.model import ModelConfig
from circuits.config.streams import TRANSFORM_KINDS, Transform
from circuits.config.topologies import TOPOLOGY_KINDS, Topology
from circuits.streams.gains import GAINS, ComputedGain
from circuits.streams.mixing import Mix
from circuits.streams.transforms import TRANSFORMS, ComputedTransform

AGain = TypeVar("AGain", bound=Gain)
ATransform = TypeVar("ATransform", bound=Transform)
ATopology = TypeVar("ATopology", bound=Topology)
_POSITIONS = 3


def register_gain(kind: type[AGain], computed: type[ComputedGain[AGain]]) -> type[AGain]:
    """Return a kind of gain, registered: a frozen dataclass, and the class that computes it.

    Raises:
        ValueError: if its name is taken, it is no frozen dataclass made from :class:`Gain`, ``computed`` is no
            :class:`ComputedGain`, or its source cannot be read.
    """
    _require_computed("gain", kind, computed, ComputedGain)
    GAINS[GAIN_KINDS.register(kind, computed)] = computed
    return kind


def register_transform(kind: type[ATransform], computed: type[ComputedTransform[ATransform]]) -> type[ATransform]:
    """Return a kind of transform, registered: a frozen dataclass, and the class that computes it.

    Raises:
        ValueError: as :func:`register_gain`.
    """
    _require_computed("transform", kind, computed, ComputedTransform)
    TRANSFORMS[TRANSFORM_KINDS.register(kind, computed)] = computed
    return kind


def register_topology(kind: type[ATopology]) -> type[ATopology]:
    """Return a kind of topology, registered: a frozen dataclass that says which layers a layer reads.

    Raises:
        ValueError: as :func:`register_gain`.
    """
    return TOPOLOGY_KINDS.register(kind)


def _require_computed(what: str, kind: Any, computed: Any, base: type) -> None:
    require(
        isinstance(computed, type) and issubclass(computed, base),
        f"the {what} {getattr(kind, '__name__', kind)} comes with the class that computes it, made from "
        f"circuits.{base.__name__}; got {computed!r}",
    )


# --- what is asked of them ----------------------------------------------------------------------------------------


@torch.no_grad()
def check_parts(config: ModelConfig, mixes: Iterable[Mix]) -> None:
    """Try out the registered gains and transforms of a model with weights.

    Raises:
        ValueError: if one gives another shape, or is not what it says of itself.
    """
    for mix in mixes:
        heads = (config.heads_of(mix.carrier), config.d_head)
        gain, transform = mix.gain.gain, mix.transform.transform
        if type(gain).__name__ in GAIN_KINDS.origins:
            _check_gain(gain, mix, config.d_model, heads)
        if type(transform).__name__ in TRANSFORM_KINDS.origins:
            _check_transform(transform, mix, heads)


def _draw(*shape: int) -> Tensor:
    return torch.randn(1, _POSITIONS, *shape, generator=torch.Generator().manual_seed(0))


def _check_gain(gain: Gain, mix: Mix, d_model: int, heads: tuple[int, int]) -> None:
    x, whole = _draw(d_model), (1, _POSITIONS, heads[0], 1)
    found = mix.gains(x)
    require(
        isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], list),
        f"{gain} must give (gain of its own, [gain of every source]), got {found!r}",
    )
    own, stream = found
    require(
        len(stream) == len(mix.sources),
        f"{gain} must give one gain for each of the {len(mix.sources)} sources of layer {mix.layer}, got {len(stream)}",
    )
    for value in (own, *stream):
        shape = tuple(value.shape) if isinstance(value, Tensor) else ()
        require(
            isinstance(value, (Tensor, int, float)) and _broadcasts(shape, whole),
            f"{gain} must give numbers, or tensors of one number a head that fit (batch pos head 1), here {whole}; got "
            f"{shape or value!r}",
        )
    again = mix.gains(x + 1)
    values = [torch.as_tensor(value) for value in (own, *stream)]
    by_input = any(not torch.equal(a, torch.as_tensor(b)) for a, b in zip(values, (again[0], *again[1]), strict=True))
    by_place = any(not torch.equal(a, a[..., :1, :, :].expand_as(a)) for a in values if a.ndim >= 3)
    require(
        gain.depends_on_input or not (by_input or by_place),
        f"{gain} gives other gains for other inputs or positions and says that it does not: set depends_on_input = "
        f"True in its class",
    )


def _broadcasts(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(shape) <= len(whole) and all(a in (1, b) for a, b in zip(reversed(shape), reversed(whole), strict=False))


def _check_transform(transform: Transform, mix: Mix, heads: tuple[int, int]) -> None:
    a, b = _draw(*heads), _draw(*heads).flip(1)
    name = type(transform).__name__
    require(
        bool(mix.transform.weights()) == transform.learns,
        f"{name} says learns = {transform.learns} and has {len(mix.transform.weights())} weights; set learns in its "
        f"class as it is",
    )
    for i in range(len(mix.sources)):

        def applied(x: Tensor, i: int = i) -> Tensor:
            return mix.transform(mix, i, x)

        found: Any = applied(a)
        require(
            isinstance(found, Tensor) and found.shape == a.shape,
            f"{name} must give back the shape of what comes in (batch pos head d_head), here {tuple(a.shape)}; got "
            f"{tuple(found.shape) if isinstance(found, Tensor) else found!r}",
        )
        require(
            torch.allclose(applied(a - 2 * b), found - 2 * applied(b), atol=1e-4),
            f"{name} is not linear: what comes by several routes would not add up, and no edge of the graph be right",
        )
        first = torch.zeros_like(a)
        first[:, :1] = a[:, :1]
        require(
            not applied(first)[:, 1:].any(),
            f"{name} carries from one position to another, which only attention does in a graph of edges",
        )
        first = torch.zeros_like(a)
        first[:, :, :1] = a[:, :, :1]
        require(
            transform.mixes_heads or not applied(first)[:, :, 1:].any(),
            f"{name} carries from one head to another and says that it does not: set mixes_heads = True in its class",
        )
