"""The exact split of a gradient into what came back directly and what came back through the stream.

One forward pass, in which a switch stands between the two ends of every connection of the stream; then the graph is
walked backwards with the switch open (the whole, and what arrives at every connection), with the switch cut (the direct
share), and with the switch cut from the connections' far ends (the stream's share, all at once or pair by pair).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from analysis.gradients.split import Connection, Gradients, GradientSplit, connections
from analysis.ready import NotFiniteError, require_eval_mode, require_gradients
from circuits.common.errors import known, require, several
from circuits.model import HookedStreamTransformer

Loss = Callable[[Tensor], Tensor]
By = Literal["total", "pair"]

TOLERANCE = 1e-5


def split_gradient(
    model: HookedStreamTransformer, loss: Loss, inputs: Tensor, activations: Sequence[str] = (), by: By = "total"
) -> GradientSplit:
    """Return the gradient of ``loss(model(inputs))``, split by route.

    It is that for every parameter that learns, and for the activations at the hook points named. What is read of a
    connection (``hook_from_<layer>``) counts as lying behind the connection. ``by="pair"`` splits the stream's share
    by the connection that a path uses first, at one backward pass more for each. Under ``torch.no_grad()`` it is the
    same.

    Raises:
        UnknownNameError: for a hook point that does not exist (nearest suggested).
        ValueError: for a model in training mode, a loss that is not one number with a gradient, a hook point whose
            flag is off, nothing to split the gradient of, or inference mode.
        NotFiniteError: for a loss or a gradient that is NaN or infinite.
        AssertionError: if the shares do not add to the whole within 1e-5 (in half precision, within its rounding).
    """
    require_eval_mode(model, "splitting a gradient")
    known("way to split", by, ("total", "pair"))
    require_gradients(model, "splitting a gradient", inputs)
    require(
        bool(activations) or any(parameter.requires_grad for parameter in model.parameters()),
        "no parameter learns (requires_grad is False for all), so there is no gradient to split; call "
        "model.requires_grad_(), or name activations",
    )
    named = several("activations", activations, str, least=0)
    switch, seen = _Switch(), _Seen()
    pairs = connections(model.config)
    # What is seen at a connection is what comes out of the switch, so the switch is attached first.
    hooks: Any = [(pair.hook_name, switch) for pair in pairs]
    hooks += [(model.check_hook_name(name), seen) for name in dict.fromkeys(named)]
    try:
        with torch.enable_grad(), model.hooks(fwd_hooks=hooks):
            value = _checked_loss(loss(model(inputs)))
        tensors = {n: p for n, p in model.named_parameters() if p.requires_grad} | seen.tensors
        split = _split(value, tensors, switch, pairs, by)
    finally:
        # The graph holds the switch and the ends hold the graph, a circle that no garbage collection sees.
        switch.ends.clear()
    rounding = max(torch.finfo(tensor.dtype).eps for tensor in tensors.values())
    allowed = max(TOLERANCE, 4 * rounding)
    assert split.error <= allowed, f"the shares miss the whole gradient by {split.error:.2e} of its norm"
    return split


def _split(
    value: Tensor, tensors: Mapping[str, Tensor], switch: _Switch, pairs: Sequence[Connection], by: By
) -> GradientSplit:
    root = torch.ones_like(value)
    whole = _backward([value], [root], tensors)
    _check_finite(whole)
    arrived, switch.cut = dict(switch.arrived), True
    direct = _backward([value], [root], tensors) if arrived else whole

    def crossed(names: Sequence[str]) -> Gradients:
        return _backward([switch.ends[n] for n in names], [arrived[n] for n in names], tensors)

    if by == "total":
        return GradientSplit(whole, direct, crossed(list(arrived)))
    crossings = {c: crossed([c.hook_name] if c.hook_name in arrived else []) for c in pairs}
    stream = {n: sum((c[n] for c in crossings.values()), torch.zeros_like(g)) for n, g in whole.items()}
    return GradientSplit(whole, direct, stream, crossings)


def _backward(roots: list[Tensor], arriving: list[Tensor], tensors: Mapping[str, Tensor]) -> Gradients:
    """The gradient of every tensor, zero where none arrives, from what arrives at the roots."""
    wanted = list(tensors.values())
    found: Sequence[Tensor | None] = [None] * len(wanted)
    if roots:
        found = torch.autograd.grad(roots, wanted, arriving, retain_graph=True, allow_unused=True)
    pairs = zip(tensors, wanted, found, strict=True)
    return {name: torch.zeros_like(t) if g is None else g.detach() for name, t, g in pairs}


class _Switch:
    """Stands in every connection: open, it notes what gradient arrives; cut, it lets none through."""

    def __init__(self) -> None:
        self.cut = False
        self.ends: dict[str, Tensor] = {}
        self.arrived: dict[str, Tensor] = {}

    def __call__(self, read: Tensor, hook: Any) -> Tensor:
        self.ends[hook.name] = read
        return _Gap.apply(read, self, hook.name)  # type: ignore[return-value] # torch does not say what it returns


class _Gap(torch.autograd.Function):
    """The identity whose backward pass asks the switch."""

    @staticmethod
    def forward(ctx: Any, read: Tensor, switch: _Switch, name: str) -> Tensor:
        """Return what is read."""
        ctx.switch, ctx.name = switch, name
        ctx.set_materialize_grads(False)
        return read.view_as(read)

    @staticmethod
    def backward(ctx: Any, *arriving: Tensor | None) -> tuple[Tensor | None, None, None]:
        """Return what arrives while the switch is open, and nothing else."""
        (gradient,) = arriving
        if ctx.switch.cut or gradient is None:
            return None, None, None
        ctx.switch.arrived[ctx.name] = gradient
        return gradient, None, None


class _Seen:
    """Keeps the activations of the points that it is attached to."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def __call__(self, activation: Tensor, hook: Any) -> Tensor:
        # Inputs come from no parameter; a graph that begins here gives them a gradient, and leaves the caller's alone.
        kept = activation if activation.requires_grad else activation.detach().requires_grad_()
        self.tensors[hook.name] = kept
        return kept


def _checked_loss(value: Tensor) -> Tensor:
    require(value.ndim == 0, f"a loss must be one number with a gradient, got shape {tuple(value.shape)}")
    require(
        value.requires_grad,
        "a loss must be one number with a gradient, and this one has none: it is made of the logits by .detach(), "
        "argmax or the like, or nothing before them learns",
    )
    if not bool(torch.isfinite(value)):
        raise NotFiniteError(
            f"the loss is {value.item()}, so no gradient can be split; correct the data or the weights"
        )
    return value


def _check_finite(whole: Gradients) -> None:
    bad = [name for name, gradient in whole.items() if not bool(torch.isfinite(gradient).all())]
    if bad:
        raise NotFiniteError(
            f"the gradient of {bad[0]} is not finite ({len(bad)} of {len(whole)} tensors); correct loss or weights"
        )
