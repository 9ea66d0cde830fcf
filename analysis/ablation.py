"""What breaks when a head, or the stream, or only the stream's gradient is taken away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from analysis.evalmode import require_eval_mode
from circuits.errors import known
from circuits.model import HookedStreamTransformer

Part = Literal["head", "z", "outgoing", "stream", "forward cut", "gradient cut"]
PARTS: dict[str, str] = {
    "head": "a head altogether: its output and what it passes on through the stream",
    "z": "a head's own output; its values still travel down the stream",
    "outgoing": "what a head passes on through the stream; its own output stays",
    "stream": "what comes in through the stream at a layer, replaced",
    "forward cut": "every stream's forward value (gate gradient-only)",
    "gradient cut": "every stream's gradient (gate stop): the forward pass stays, so accuracy and loss cannot change",
}
Method = Literal["zero", "mean"]
METHODS: dict[str, str] = {
    "zero": "replaced by zero",
    "mean": "replaced by its mean over the given examples, position by position",
}


@dataclass(frozen=True)
class Ablation:
    """One thing that is taken away; ``layer`` and ``head`` where the part has them."""

    part: Part
    method: Method = "zero"
    layer: int | None = None
    head: int | None = None

    def __post_init__(self) -> None:
        known("part", self.part, PARTS)
        known("method", self.method, METHODS)
        if self.part in ("head", "z", "outgoing") and (self.layer is None or self.head is None):
            raise ValueError(f"ablating {self.part!r} needs a layer and a head")

    def points(self, model: HookedStreamTransformer) -> list[str]:
        """Return the hook points that are replaced; none for the cuts, which set a gate.

        Raises:
            ValueError: if the model has nothing there.
        """
        if self.part in ("forward cut", "gradient cut"):
            found, cut = ["gate"] if model.config.streams else [], True
        else:
            found, cut = [name for name in model.hook_dict if self._replaces(model, name)], False
        if not found:
            raise ValueError(f"{self} takes nothing away: model {model.config.name!r} has no such part")
        return [] if cut else found

    def _replaces(self, model: HookedStreamTransformer, name: str) -> bool:
        parts = name.split(".")
        if parts[0] != "blocks" or (self.layer is not None and int(parts[1]) != self.layer):
            return False
        if self.part == "head":
            # Its output, and its own projection wherever the layer passes that carrier on. (Not all that it passes on:
            # in a running sum that holds the values of other layers too.)
            attn = model.layers[int(parts[1])].attn
            own = [f"hook_{c}" for c in (*attn.passes_own, *attn.passes_mixed)]
            return parts[-1] in ("hook_z", *own)
        return parts[-1].endswith({"z": "hook_z", "outgoing": "_stream", "stream": "_residual"}[self.part])


def standard_ablations(model: HookedStreamTransformer) -> list[Ablation]:
    """Return every ablation that the model has something for: each head whole and in halves, the stream, both cuts."""
    found = [Ablation("head", m, layer, head) for m in _BOTH for layer, head in _all_heads(model)]
    found += [Ablation("z", m, layer, head) for m in _BOTH for layer, head in _all_heads(model)]
    if not model.config.streams:
        return [a for a in found if a.part == "head"]
    passing = {int(n.split(".")[1]) for n in model.hook_dict if n.endswith("_stream")}
    found += [
        Ablation("outgoing", m, layer, head) for m in _BOTH for layer, head in _all_heads(model) if layer in passing
    ]
    return [*found, *(Ablation("stream", m) for m in _BOTH), Ablation("forward cut"), Ablation("gradient cut")]


_BOTH: tuple[Method, Method] = ("zero", "mean")


def _all_heads(model: HookedStreamTransformer) -> list[tuple[int, int]]:
    return [(layer, head) for layer in range(model.config.n_layers) for head in range(model.config.n_heads)]


def ablate(
    model: HookedStreamTransformer,
    inputs: Tensor,
    answers: Int[Tensor, " batch"],
    ablations: Sequence[Ablation] | None = None,
    read_at: int = -1,
) -> pd.DataFrame:
    """Return one row an ablation: accuracy and loss (nats) at ``read_at``, whole and ablated, and the gradient's.

    ``changed`` is the largest change of any activation that was replaced; ``gradient_norm`` and ``gradient_cosine``
    compare the gradient of the mean loss with and without the ablation: norm ratio, and cosine over all parameters.

    Raises:
        ValueError: for a model in training mode, or an ablation of something that the model does not have.
    """
    require_eval_mode(model, "ablation")
    wanted = standard_ablations(model) if ablations is None else list(ablations)
    points = [ablation.points(model) for ablation in wanted]
    averaged = {name for a, names in zip(wanted, points, strict=True) if a.method == "mean" for name in names}
    means = _means(model, inputs, averaged)
    whole = _measured(model, inputs, answers, read_at)
    rows = [_row(model, inputs, answers, read_at, a, p, means, whole) for a, p in zip(wanted, points, strict=True)]
    return pd.DataFrame(rows).assign(n=len(inputs))


@dataclass(frozen=True)
class _Measured:
    accuracy: float
    loss: float
    gradient: Tensor
    changed: float = 0.0


def _means(model: HookedStreamTransformer, inputs: Tensor, names: set[str]) -> dict[str, Tensor]:
    """Mean activations over the examples, position by position."""
    with torch.no_grad():
        _, cache = model.run_with_cache(inputs, names_filter=sorted(names), return_cache_object=False)
    return {name: activation.mean(0, keepdim=True) for name, activation in cache.items()}


def _measured(model: HookedStreamTransformer, inputs: Tensor, answers: Tensor, read_at: int) -> _Measured:
    logits = model(inputs)[:, read_at]
    loss = F.cross_entropy(logits, answers)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    flat = [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), gradients, strict=True)]
    return _Measured(
        accuracy=float((logits.argmax(-1) == answers).float().mean()),
        loss=float(loss.detach()),
        gradient=torch.cat([g.flatten() for g in flat]),
    )


def _row(
    model: HookedStreamTransformer,
    inputs: Tensor,
    answers: Tensor,
    read_at: int,
    ablation: Ablation,
    points: list[str],
    means: dict[str, Tensor],
    whole: _Measured,
) -> dict[str, Any]:
    changes: list[float] = []
    hooks: Any = [(name, _replacer(ablation, means, changes)) for name in points]
    gates = {"forward cut": "gradient-only", "gradient cut": "stop"}
    gate = model.gated(gates[ablation.part]) if ablation.part in gates else nullcontext()  # type: ignore[arg-type] # literals
    with gate, model.hooks(fwd_hooks=hooks):
        after = _measured(model, inputs, answers, read_at)
    return {
        "part": ablation.part,
        "method": "-" if ablation.part in gates else ablation.method,
        "layer": "all" if ablation.layer is None else str(ablation.layer),
        "head": "all" if ablation.head is None else str(ablation.head),
        "accuracy": whole.accuracy,
        "accuracy_ablated": after.accuracy,
        "loss": whole.loss,
        "loss_ablated": after.loss,
        "gradient_norm": float(after.gradient.norm() / whole.gradient.norm()),
        "gradient_cosine": float(F.cosine_similarity(after.gradient, whole.gradient, dim=0)),
        "changed": max(changes, default=float("nan")),
    }


def _replacer(ablation: Ablation, means: dict[str, Tensor], changes: list[float]) -> Callable[..., Tensor]:
    def replace(activation: Tensor, hook: Any) -> Tensor:
        new = torch.zeros_like(activation) if ablation.method == "zero" else means[hook.name].expand_as(activation)
        if ablation.head is not None:
            kept = torch.arange(activation.shape[2], device=activation.device) != ablation.head
            new = torch.where(kept[:, None], activation, new)
        changes.append(float((new - activation).detach().abs().max()))
        return new

    return replace
