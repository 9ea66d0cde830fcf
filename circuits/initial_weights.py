"""How parameters start: from a seed and the parameter's name alone, so that variants share the weights they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from circuits.common.errors import known, require
from circuits.common.plain_data import derive_seed
from circuits.config.parts import Start


@dataclass(frozen=True)
class Constant:
    """Every entry the same number."""

    value: float

    def fill(self, parameter: Tensor, generator: torch.Generator | None) -> None:
        """Write the start into ``parameter``."""
        parameter.fill_(self.value)


@dataclass(frozen=True)
class Eye:
    """The identity in the last two dimensions."""

    def fill(self, parameter: Tensor, generator: torch.Generator | None) -> None:
        """Write the start into ``parameter``."""
        parameter.copy_(torch.eye(parameter.shape[-1]).expand_as(parameter))


@dataclass(frozen=True)
class EyeOfHeads:
    """The identity of (head d_head) to d_model, as a matrix per head."""

    def fill(self, parameter: Tensor, generator: torch.Generator | None) -> None:
        """Write the start into ``parameter`` (head d_head d_model)."""
        parameter.copy_(torch.eye(parameter.shape[-1]).view_as(parameter))


@dataclass(frozen=True)
class Normal:
    """Independent N(0, std^2)."""

    std: float

    def fill(self, parameter: Tensor, generator: torch.Generator | None) -> None:
        """Write the start into ``parameter``; drawn in single precision on the CPU, so alike on every device."""
        parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * self.std)


@dataclass(frozen=True)
class Uniform:
    """Independent, from ``low`` to ``high``."""

    low: float
    high: float

    def fill(self, parameter: Tensor, generator: torch.Generator | None) -> None:
        """Write the start into ``parameter``; drawn in single precision on the CPU, so alike on every device."""
        drawn = torch.rand(parameter.shape, generator=generator, dtype=torch.float32)
        parameter.copy_(self.low + (self.high - self.low) * drawn)


Initial = Constant | Eye | EyeOfHeads | Normal | Uniform
Weights = dict[str, tuple[tuple[int, ...], Initial]]
"""Shapes and starts of parameters, by name."""


@torch.no_grad()
def change_starts(parameters: Mapping[str, nn.Parameter], starts: Sequence[Start]) -> None:
    """Change parameters as ``starts`` say, in their order; a weight that is added is as it was before all changes.

    Raises:
        UnknownNameError, ValueError: for a weight that there is not, or one that is added to another of another shape.
    """
    added = {change.add: parameters[known("weight", change.add, parameters)].clone() for change in starts if change.add}
    for change in starts:
        weight = parameters[known("weight", change.weight, parameters)]
        weight.mul_(change.scale)
        if change.add:
            shape, other = tuple(weight.shape), tuple(added[change.add].shape)
            require(
                shape == other,
                f"{change} adds a weight of the shape {other} to one of the shape {shape}; name one of that shape",
            )
            weight.add_(added[change.add])


class Initialised(nn.Module):
    """A module that knows how each of its own parameters starts."""

    def __init__(self) -> None:
        super().__init__()
        self._starts: dict[str, Initial] = {}
        self._fixed: dict[str, Initial] = {}

    def learn(self, name: str, shape: tuple[int, ...], start: Initial, frozen: bool = False) -> None:
        """Give the module a parameter, which :meth:`reset_parameters` fills; ``frozen``: a buffer instead."""
        if frozen:
            self.register_buffer(name, torch.empty(shape))
        else:
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))
        self._starts[name] = start

    def fix(self, name: str, shape: tuple[int, ...], value: Initial) -> None:
        """Give the module a tensor that always is ``value``, and that no file holds."""
        self._fixed[name] = value
        self.register_buffer(name, torch.empty(shape), persistent=False)
        self.write_fixed()

    @torch.no_grad()
    def write_fixed(self) -> None:
        """Write what always is the same: again, where a model was made without memory and was given some since."""
        for name, value in self._fixed.items():
            held = self.get_buffer(name)
            if held.is_meta:
                self.register_buffer(name, torch.empty(held.shape), persistent=False)
            value.fill(self.get_buffer(name), None)

    @torch.no_grad()
    def reset_parameters(self, seed: int | None = None) -> None:
        """Start all own parameters afresh, each from (seed, full name); without a seed from torch's generator."""
        for name, start in self._starts.items():
            label = f"{getattr(self, 'name', '')}.{name}"
            generator = None if seed is None else torch.Generator().manual_seed(derive_seed("init", seed, label))
            start.fill(getattr(self, name), generator)
