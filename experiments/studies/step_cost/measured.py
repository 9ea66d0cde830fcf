"""What a training step of every variant costs: time and memory, in one interleaved run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.statistics.intervals import paired_ratio
from circuits.model import HookedStreamTransformer
from circuits.presets import parameter_count
from experiments.runs.config import RunConfig, lm_run
from experiments.tasks.registry import make_task
from experiments.tasks.tokens.batches import TokenBatch, next_token_loss
from experiments.training.optimizers import make_optimizer

IN_A_ROW = 2
"""Steps of one variant before the next one's turn."""


def step_costs(
    size: str, variants: Sequence[str], rounds: int = 40, device: str = "cpu", reference: str = "classic"
) -> pd.DataFrame:
    """Return one row a variant: size, variant, parameters, milliseconds (median), and ratios to the reference.

    ``time`` with ``time_low`` and ``time_high`` is the geometric mean over rounds, taken round by round because a
    machine's speed drifts; ``memory`` is the ratio of the bytes that are held between the forward and backward pass.
    """
    torch.set_num_threads(1)
    configs = {variant: lm_run(size, "stories", variant) for variant in variants}
    batch = make_task(configs[reference].task, 0, device).sample(configs[reference].training.batch_size, "train")
    models = {v: HookedStreamTransformer(config.model, seed=0).to(device).train() for v, config in configs.items()}
    steps = {v: _stepper(models[v], config, batch) for v, config in configs.items()}
    held = {v: _held(model, batch) for v, model in models.items()}
    seconds = {v: np.zeros(rounds) for v in variants}
    for i in range(-2, rounds):  # two rounds to warm up
        for variant in list(variants)[:: 1 if i % 2 else -1]:
            started = time.perf_counter()
            for _ in range(IN_A_ROW):
                steps[variant]()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            if i >= 0:
                seconds[variant][i] = (time.perf_counter() - started) / IN_A_ROW
    rows = []
    for variant, config in configs.items():
        ratio = paired_ratio(seconds[variant], seconds[reference])
        row = {"size": size, "variant": variant, "parameters": parameter_count(config.model)}
        row |= {"milliseconds": 1e3 * float(np.median(seconds[variant])), "rounds": rounds}
        row |= {"time": ratio.mean, "time_low": ratio.low, "time_high": ratio.high}
        rows.append(row | {"memory": held[variant] / held[reference], "bytes": held[variant]})
    return pd.DataFrame(rows)


def _stepper(model: HookedStreamTransformer, config: RunConfig, batch: TokenBatch) -> Callable[[], None]:
    """A training step of a model on one batch."""
    optimizer = make_optimizer(config.training.optimizer, dict(model.named_parameters()))

    def step() -> None:
        model.zero_grad()
        next_token_loss(model(batch.tokens), batch).backward()
        optimizer.step()

    return step


def _held(model: HookedStreamTransformer, batch: TokenBatch) -> int:
    """Return the bytes of all different tensors that the forward pass makes and keeps for the backward one."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = next_token_loss(model(batch.tokens), batch)
    del loss
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)


def training_memory(config: RunConfig, processes: int = 1) -> dict[str, float]:
    """Return what training takes on each of some processes, in GB (1e9 bytes), counted without allocating anything.

    Weights, gradients and the two moments of Adam are float32 and shared out among the processes; activations are what
    one part of a batch (of so many accumulated) keeps for the backward pass, in float32, each process with its rows.
    In bfloat16 activations are about half.
    """
    with torch.device("meta"):
        model = HookedStreamTransformer(config.model).train()
        rows = config.training.batch_size // config.training.accumulate // processes
        batch = TokenBatch(torch.zeros(max(1, rows), config.task.n_tokens, dtype=torch.long))
        activations = _held(model, batch)
    weights = 4 * parameter_count(config.model) / processes / 1e9
    parts = {"weights": weights, "gradients": weights, "moments": 2 * weights, "activations": activations / 1e9}
    return parts | {"total": sum(parts.values())}
