"""Optimizers by parameter name: made of their configurations, their rates over time, their state as plain tensors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from circuits.common.errors import known
from experiments.runs.training_config import SGD, AdamW, Optimizer, Rate


class NamedOptimizer:
    """An optimizer of torch's, with its state as plain tensors by parameter name."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: dict[str, Tensor]):
        self.optimizer, self.parameters = optimizer, parameters

    def set_rate(self, rate: float) -> None:
        """Set the rate of the next updates; parameters with a factor of their own get it times that."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def step(self) -> None:
        """Make one update; a parameter that no gradient reached (behind a gate, say) has the gradient zero."""
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """Return what the optimizer remembers, as ``<parameter>|<what>``."""
        held = {name: self.optimizer.state[p] for name, p in self.parameters.items()}
        return {
            f"{name}|{key}": value for name, state in held.items() for key, value in state.items() if value is not None
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` returned."""
        for full, value in state.items():
            name, key = full.split("|")
            self.optimizer.state[self.parameters[name]][key] = value.to(self.parameters[name].device)


def make_optimizer(config: Optimizer, parameters: dict[str, Tensor], rates: Sequence[Rate] = ()) -> NamedOptimizer:
    """Return the optimizer of a configuration, for parameters by name.

    SGD's decay hits every parameter. AdamW's hits weight matrices only, and no part of a mixing rule.

    Raises:
        UnknownNameError: for a rate whose beginning no parameter's name has (nearest suggested).
    """
    factors = _factors(parameters, rates)
    together: dict[Any, list[Tensor]] = defaultdict(list)
    for name, parameter in parameters.items():
        decay = config.decay if isinstance(config, AdamW) and _decays(name) else 0.0
        # Of one type each, as one fused update does not take parameters in parts together with whole ones.
        together[factors[name], decay, type(parameter)].append(parameter)
    groups = [
        {"params": group, "lr": config.rate * factor, "factor": factor, "weight_decay": decay}
        for (factor, decay, _), group in together.items()
    ]
    if isinstance(config, SGD):
        # torch multiplies the decay by the rate, the paper does not.
        for group in groups:
            group["weight_decay"] = config.decay / group["lr"] if group["lr"] else 0.0
        return NamedOptimizer(torch.optim.SGD(groups, config.rate, fused=True), parameters)
    kind = torch.optim.AdamW if isinstance(config, AdamW) else torch.optim.Adam
    return NamedOptimizer(kind(groups, lr=config.rate, betas=config.betas, fused=True), parameters)


def _factors(parameters: dict[str, Tensor], rates: Sequence[Rate]) -> dict[str, float]:
    factors = dict.fromkeys(parameters, 1.0)
    for special in rates:
        fitting = [name for name in parameters if name.startswith(special.begins)]
        if not fitting:
            known("parameter", special.begins, parameters)
        factors |= dict.fromkeys(fitting, special.factor)
    return factors


def _decays(name: str) -> bool:
    # By name, as biases of heads are matrices too; mixing rules start at the identity, not near nothing.
    return name.rsplit(".", 1)[-1].startswith("W_") and ".mix." not in name


def rate_at(config: Optimizer, step: int, steps: int) -> float:
    """Return the rate of the update that follows ``step`` updates, in a run of ``steps``."""
    if not isinstance(config, AdamW):
        return config.rate
    rising = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    done = min(1.0, max(0, step - config.warmup) / max(1, steps - config.warmup))
    falling = config.final + (1 - config.final) * (1 + math.cos(math.pi * done)) / 2
    return config.rate * rising * falling
