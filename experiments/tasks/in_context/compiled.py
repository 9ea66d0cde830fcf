"""The fast path of the in-context classifier, compiled: one update's loss with its gradients, and the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from circuits.last_position import SplitTokens, run_last
from circuits.model import HookedStreamTransformer
from experiments.tasks.in_context.batches import ICLBatch
from experiments.tasks.in_context.measures import RunLast

Backward = Callable[[ICLBatch], Tensor]
"""Gives every parameter its gradient of a batch's loss, and returns that loss."""


def compiled_backward(model: HookedStreamTransformer) -> Backward:
    """Return the backward pass by the fast path, both ways compiled as one graph; first calls take some 20 s."""
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


@cache
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
