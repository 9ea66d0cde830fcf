"""One update of a model: the loss and its gradient, eager or compiled, and the optimizer's step."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from circuits.common.errors import known
from circuits.last_position import SplitTokens, run_last, why_not
from circuits.model import HookedStreamTransformer
from experiments.runs.config import Adam, Optimizer, Rate
from experiments.tasks.in_context.measures import RunLast
from experiments.tasks.in_context.task import ICLBatch


class NamedOptimizer:
    """An optimizer of torch's, with its state as plain tensors by parameter name."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameters: dict[str, Tensor]):
        self.optimizer, self.parameters = optimizer, parameters

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

    Raises:
        UnknownNameError: for a rate whose beginning no parameter's name has (nearest suggested).
    """
    groups = _groups(config.rate, parameters, rates)
    if isinstance(config, Adam):
        adam = torch.optim.Adam(groups, lr=config.rate, betas=config.betas, fused=True)
        return NamedOptimizer(adam, parameters)
    # torch multiplies the decay by the rate, the paper does not.
    for group in groups:
        group["weight_decay"] = config.decay / group["lr"] if group["lr"] else 0.0
    return NamedOptimizer(torch.optim.SGD(groups, config.rate, fused=True), parameters)


def _groups(rate: float, parameters: dict[str, Tensor], rates: Sequence[Rate]) -> list[dict[str, Any]]:
    factors = dict.fromkeys(parameters, 1.0)
    for special in rates:
        fitting = [name for name in parameters if name.startswith(special.begins)]
        if not fitting:
            known("parameter", special.begins, parameters)
        factors |= dict.fromkeys(fitting, special.factor)
    return [
        {"params": [p for n, p in parameters.items() if factors[n] == factor], "lr": rate * factor}
        for factor in dict.fromkeys(factors.values())
    ]


def compiles() -> bool:
    """Return whether there is a compiler here for ``torch.compile`` to use."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def training_loss(model: HookedStreamTransformer, hooked: bool = False) -> Callable[[ICLBatch], Tensor]:
    """Return, as a function of a batch, the mean negative log-probability (nats) of the labels asked for.

    By the fast path where it applies, unless ``hooked``: it cannot see hooks.
    """
    if why_not(model.config) is None and not hooked:
        return lambda batch: F.cross_entropy(run_last(model, batch.tokens).logits, batch.labels)
    return lambda batch: F.cross_entropy(model(batch.inputs)[:, -1], batch.labels)


Backward = Callable[[ICLBatch], Tensor]
"""Gives every parameter its gradient of a batch's loss, and returns that loss."""


def eager_backward(model: HookedStreamTransformer, hooked: bool = False) -> Backward:
    """Return the backward pass of :func:`training_loss`."""
    loss_of = training_loss(model, hooked)

    def backward(batch: ICLBatch) -> Tensor:
        model.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        return loss.detach()

    return backward


def compiled_backward(model: HookedStreamTransformer) -> Backward:
    """Return :func:`eager_backward` by the fast path, both ways compiled as one graph; first calls take some 20 s."""
    parameters = list(model.parameters())

    def loss_and_gradients(tokens: SplitTokens, labels: Tensor) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        loss = F.cross_entropy(run_last(model, tokens).logits, labels)
        return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

    compiled = _compiled(loss_and_gradients)

    def backward(batch: ICLBatch) -> Tensor:
        loss, gradients = compiled(_whole(batch.tokens), batch.labels)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss

    return backward


def compiled_run_last() -> RunLast:
    """Return :func:`circuits.last_position.run_last`, compiled."""
    compiled = _compiled(run_last)
    return lambda model, tokens: compiled(model, _whole(tokens))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # One entry for every model of the group and every gate that it is given.
    torch._dynamo.config.recompile_limit = 256
    torch._dynamo.config.trace_autograd_ops = True
    # A step is some hundred short calls, so who calls them matters: C++ rather than Python.
    return torch.compile(function, fullgraph=True, options={"cpp_wrapper": True})


def _whole(tokens: SplitTokens) -> SplitTokens:
    # What is made when it is first asked for is made here: compiled code cannot write to its arguments.
    _ = tokens.mask, tokens.x_columns
    return tokens
