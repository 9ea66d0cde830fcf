"""The exact split of a gradient into what came back directly and what came back through the stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analysis.evalmode import require_eval_mode
from circuits.model import HookedStreamTransformer
from circuits.stream_config import Carrier

Loss = Callable[[Tensor], Tensor]
Gradients = dict[str, Tensor]
Crossing = tuple[int, Carrier]
"""The layer and the carrier of what was passed on: where a gradient that came through the stream enters a layer."""

TOLERANCE = 1e-5


@dataclass(frozen=True)
class GradientSplit:
    """The gradient of a loss for every parameter: ``whole = direct + sum of stream shares``.

    The direct share is the sum over all computational paths from parameter to loss that use no stream connection: the
    gradient with every gate on ``stop``. (A reader's gains and transforms are its own, so theirs is direct.) A path
    that uses several connections belongs to the crossing nearest the parameter.
    """

    whole: Gradients
    direct: Gradients
    crossings: dict[Crossing, Gradients]

    @property
    def stream(self) -> Gradients:
        """The gradient that came back through any stream connection."""
        shares = self.crossings.values()
        return {n: sum((s[n] for s in shares), torch.zeros_like(g)) for n, g in self.whole.items()}

    @property
    def error(self) -> float:
        """The norm of whole - direct - stream, relative to the norm of the whole."""
        stream = self.stream
        missing = torch.stack([(w - self.direct[n] - stream[n]).double().norm() for n, w in self.whole.items()]).norm()
        size = torch.stack([w.double().norm() for w in self.whole.values()]).norm()
        return float(missing / size.clamp_min(torch.finfo(torch.float64).tiny))

    def to_frame(self) -> pd.DataFrame:
        """Return one row a parameter and head: norms of the shares and their cosines.

        ``stream_share`` is |stream| / (|direct| + |stream|); ``alignment`` is the cosine between the two shares;
        ``head`` is "all" for parameters without a head axis.
        """
        stream = self.stream
        rows = [
            {"parameter": name, "layer": _layer(name), "weight": name.rsplit(".", 1)[-1], "head": head}
            | _compare(whole[part], self.direct[name][part], stream[name][part])
            for name, whole in self.whole.items()
            for head, part in _heads(name, whole)
        ]
        return pd.DataFrame(rows)


def _layer(name: str) -> str:
    return name.split(".")[1] if name.startswith("blocks.") else name.split(".")[0]


def _heads(name: str, tensor: Tensor) -> list[tuple[str, Any]]:
    if ".attn.W_" not in name or tensor.ndim != 3:
        return [("all", ...)]
    return [(str(head), head) for head in range(len(tensor))]


def _compare(whole: Tensor, direct: Tensor, stream: Tensor) -> dict[str, float]:
    norms = [float(t.norm()) for t in (whole, direct, stream)]
    total = norms[1] + norms[2]
    return {
        "whole": norms[0],
        "direct": norms[1],
        "stream": norms[2],
        "stream_share": norms[2] / total if total else 0.0,
        "alignment": _cosine(direct, stream),
        "direct_cosine": _cosine(direct, whole),
    }


def _cosine(a: Tensor, b: Tensor) -> float:
    scale = float(a.norm() * b.norm())
    return float((a * b).sum()) / scale if scale else float("nan")


def split_gradient(model: HookedStreamTransformer, loss: Loss, inputs: Tensor) -> GradientSplit:
    """Return the gradient of ``loss(model(inputs))`` for every parameter, split by route.

    Raises:
        ValueError: for a model in training mode, or a loss that is not one number with a gradient.
        AssertionError: if the shares do not add to the whole within 1e-5 of its norm.
    """
    require_eval_mode(model, "splitting a gradient")
    parameters = dict(model.named_parameters())
    names, tensors = list(parameters), list[Tensor](parameters.values())
    whole = _zipped(names, tensors, torch.autograd.grad(_scalar(loss(model(inputs))), tensors, allow_unused=True))
    taps = _Taps()
    hooks: Any = [(name, taps) for name in model.hook_dict if name.endswith("_stream")]
    with model.hooks(fwd_hooks=hooks):
        value = _scalar(loss(model(inputs)))
    first = torch.autograd.grad(value, [*tensors, *taps.leaves], retain_graph=True, allow_unused=True)
    direct = _zipped(names, tensors, first[: len(tensors)])
    crossings = _cross(taps, names, tensors, list(first[len(tensors) :]))
    split = GradientSplit(whole, direct, crossings)
    assert split.error <= TOLERANCE, f"the shares miss the whole gradient by {split.error:.2e} of its norm"
    return split


def _scalar(value: Tensor) -> Tensor:
    if value.ndim or not value.requires_grad:
        raise ValueError(f"a loss must be one number with a gradient, got shape {tuple(value.shape)}")
    return value


def _zipped(names: list[str], tensors: list[Tensor], gradients: Any) -> Gradients:
    pairs = zip(names, tensors, gradients, strict=True)
    return {n: torch.zeros_like(t) if g is None else g.detach() for n, t, g in pairs}


class _Taps:
    """Cuts what every layer passes on out of the graph, and keeps both ends of the cut."""

    def __init__(self) -> None:
        self.keys: list[Crossing] = []
        self.outgoing: list[Tensor] = []
        self.leaves: list[Tensor] = []

    def __call__(self, outgoing: Tensor, hook: Any) -> Tensor:
        leaf = torch.zeros_like(outgoing, requires_grad=True)
        carrier: Carrier = hook.name.rsplit("_", 2)[-2]
        self.keys.append((hook.layer(), carrier))
        self.outgoing.append(outgoing)
        self.leaves.append(leaf)
        return outgoing.detach() + leaf


def _cross(
    taps: _Taps, names: list[str], tensors: list[Tensor], at_leaves: list[Tensor | None]
) -> dict[Crossing, Gradients]:
    """From the last cut to the first: what arrives at a cut goes back into its layer, and to the cuts before it."""
    crossings: dict[Crossing, Gradients] = {}
    for i in reversed(range(len(taps.leaves))):
        arriving, outgoing = at_leaves[i], taps.outgoing[i]
        if arriving is None:
            continue
        wanted = [*tensors, *taps.leaves[:i]]
        back = torch.autograd.grad(outgoing, wanted, grad_outputs=arriving, retain_graph=True, allow_unused=True)
        crossings[taps.keys[i]] = _zipped(names, tensors, back[: len(tensors)])
        for j, more in enumerate(back[len(tensors) :]):
            if more is not None:
                before = at_leaves[j]
                at_leaves[j] = more if before is None else before + more
    return crossings
