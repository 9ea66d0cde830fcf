"""What is asked of models with learned gains: the gains, the size of what they let in, what is lost without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from analysis.edges.recorded_activations import gains_of
from circuits.model import HookedStreamTransformer
from experiments.runs.pooling import labelled
from experiments.runs.run import Run
from experiments.tasks.in_context.batches import ICLBatch

N_SEQUENCES = 512
"""Of the validation set, a run."""
ALL = "all"
"""Heads together."""


def study(runs: Sequence[Run], n: int = N_SEQUENCES, progress: bool = True) -> dict[str, pd.DataFrame]:
    """Return the frame "learned_gains": of finished runs at their ends, every route beside another into the same place.

    A row a run, route, layer and head ("all": together). Routes: "stream", beside the layer's own values; "x0", beside
    the residual stream; "smear" and "backout", beside nothing. Columns: ``gain`` and ``other_gain``, the learned factor
    of the route and of what stands beside it (means over tokens where they differ by token, and ``gain_spread`` their
    standard deviation); ``size`` and ``other_size``, root mean squares of what both bring, past their gains, around the
    mean at its position; ``lost``, ``other_lost`` and ``both_lost``, by how many nats a token the loss on held-out
    stories rises where each is replaced by its mean at its position, and where both are; ``loss``, of the whole model.
    """
    frames = [labelled(_of_run(run, n), run) for run in tqdm(runs, unit=" runs", disable=not progress)]
    return {"learned_gains": pd.concat(frames, ignore_index=True)}


def through_training(runs: Sequence[Run], n: int = N_SEQUENCES, progress: bool = True) -> dict[str, pd.DataFrame]:
    """Return the frame "gains_in_training": of classifiers with checkpoints, what :func:`study` asks of their streams,
    at every checkpoint (column ``step``), of the loss on n sequences of novel classes."""
    frames = []
    for run in tqdm(runs, unit=" runs", disable=not progress):
        batch = run.task().sample(n, "ic", seed=1)
        at_steps = ((step, run.load_model(step)) for step in run.checkpoints())
        rows = [{"step": step} | row for step, model in at_steps for row in _of_classifier(model, batch)]
        frames.append(labelled(pd.DataFrame(rows).assign(n=n), run))
    return {"gains_in_training": pd.concat(frames, ignore_index=True)}


@torch.no_grad()
def _of_classifier(model: HookedStreamTransformer, batch: ICLBatch) -> list[dict[str, Any]]:
    def loss(hooks: Hooks) -> float:
        logits = model.run_with_hooks(batch.inputs, fwd_hooks=hooks)
        return cross_entropy(logits[:, -1], batch.labels).item()

    asked = _Asked.of(model, batch.inputs, loss)
    return [row | {"loss": asked.loss} for row in _streams(asked)]


Hooks = list[Any]
WANTED = ("hook_v", "hook_v_residual", "hook_v_mixed", "hook_resid_pre", "hook_x0", "hook_smear", "hook_middle")
"""How the names of points end that are looked at."""


@dataclass(frozen=True)
class _Asked:
    """A model, what it does with some inputs, its loss on them, and what gives the loss with hooks.

    Points are named, and not sites, as scalars, smear and backout are at none.
    """

    model: HookedStreamTransformer
    at: dict[str, Tensor]
    loss_with: Callable[[Hooks], float]
    loss: float

    @classmethod
    def of(cls, model: HookedStreamTransformer, inputs: Tensor, loss_with: Callable[[Hooks], float]) -> _Asked:
        """Return a model with what it does."""
        _, cache = model.run_with_cache(
            inputs, return_type=None, names_filter=lambda name: name.endswith(WANTED), return_cache_object=False
        )
        return cls(model, cache, loss_with, loss_with([]))

    def lost(self, *cut: tuple[str, int | None]) -> float:
        """Return by how much the loss rises where points, or one head there, have their mean at every position."""
        return self.loss_with([(name, _mean_of(self.at[name], head)) for name, head in cut]) - self.loss

    def size(self, name: str, head: int | None = None) -> float:
        """Return the root mean square of what stands at a point, or of one head there, around its mean."""
        return _spread(_part(self.at[name], head))


def _part(tensor: Tensor, head: int | None) -> Tensor:
    return tensor if head is None else tensor[:, :, head]


def _spread(tensor: Tensor) -> float:
    return (tensor - tensor.mean(0)).square().mean().sqrt().item()


def _mean_of(activation: Tensor, head: int | None) -> Callable[..., Tensor]:
    mean = activation.mean(0)

    def put(tensor: Tensor, hook: Any) -> Tensor:
        replaced = tensor.clone()
        _part(replaced, head)[:] = _part(mean[None], head)
        return replaced

    return put


@torch.no_grad()
def _of_run(run: Run, n: int) -> pd.DataFrame:
    model = run.load_model()
    tokens = run.task().held_out(n, "validation").tokens

    def loss(hooks: Hooks) -> float:
        return model.run_with_hooks(tokens, return_type="loss", fwd_hooks=hooks).item()

    asked = _Asked.of(model, tokens, loss)
    return pd.DataFrame([*_streams(asked), *_scalars(asked)]).assign(loss=asked.loss, n=n)


def _streams(asked: _Asked) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for (layer, carrier), (own, [stream]) in gains_of(asked.model, asked.at).items():
        attn = f"blocks.{layer}.attn.hook_{carrier}"
        heads = range(asked.model.config.heads_of(carrier))
        beside = asked.at[f"{attn}_mixed"] - asked.at[f"{attn}_residual"]
        for head in (None, *heads):
            factor, other = (_by_head(gain, head) for gain in (stream, own))
            rows.append(
                {
                    "route": "stream",
                    "layer": layer,
                    "head": ALL if head is None else str(head),
                    "gain": factor.mean().item(),
                    "other_gain": other.mean().item(),
                    "gain_spread": factor.std().item() if factor.numel() > 1 else 0.0,
                    "size": asked.size(f"{attn}_residual", head),
                    "other_size": _spread(_part(beside, head)),
                    "lost": asked.lost((f"{attn}_residual", head)),
                    "other_lost": asked.lost((attn, head)),
                    "both_lost": asked.lost((f"{attn}_mixed", head)),
                }
            )
    return rows


def _by_head(gain: Tensor | float, head: int | None) -> Tensor:
    """A gain's values, all or those of a head."""
    values = torch.as_tensor(gain)
    return values if head is None or values.ndim < 4 or values.shape[2] == 1 else values[:, :, head]


def _scalars(asked: _Asked) -> list[dict[str, Any]]:
    model, rows = asked.model, list[dict[str, Any]]()
    # Before the first layer both are the input.
    for layer in range(1, model.config.n_layers):
        scalars = model.layers[layer].scalars
        if scalars is None:
            continue
        point, own, x0 = f"blocks.{layer}.scalars.hook_x0", scalars.own.item(), scalars.x0.item()
        start, before = x0 * asked.at[point], asked.at[f"blocks.{layer}.hook_resid_pre"]
        mean = start.mean(0)
        # What is left of the residual stream before the layer if only its own part is at its mean.
        without = before.mean(0) - mean + start
        rows.append(
            {
                "route": "x0",
                "layer": layer,
                "head": ALL,
                "gain": x0,
                "other_gain": own,
                "gain_spread": 0.0,
                "size": _spread(start),
                "other_size": _spread(before - start),
                "lost": asked.lost((point, None)),
                "other_lost": _lost_with(asked, layer, without),
                "both_lost": asked.lost((f"blocks.{layer}.hook_resid_pre", None)),
            }
        )
    nothing = dict.fromkeys(("other_gain", "other_size", "other_lost", "both_lost"), float("nan"))
    if model.smear is not None:
        point = "smear.hook_smear"
        row = {"route": "smear", "layer": 0, "head": ALL, "gain": model.smear.gain.item(), "gain_spread": 0.0}
        rows.append(row | nothing | {"size": asked.size(point), "lost": asked.lost((point, None))})
    if model.backout is not None and model.config.backout is not None:
        point, gain = "backout.hook_middle", model.backout.gain.item()
        row = {"route": "backout", "layer": model.config.backout.layer, "head": ALL, "gain": gain, "gain_spread": 0.0}
        rows.append(row | nothing | {"size": abs(gain) * asked.size(point), "lost": asked.lost((point, None))})
    return rows


def _lost_with(asked: _Asked, layer: int, residual: Tensor) -> float:
    return asked.loss_with([(f"blocks.{layer}.hook_resid_pre", lambda tensor, hook: residual)]) - asked.loss
