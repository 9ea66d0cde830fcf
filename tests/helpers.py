"""Small models, inputs and runs for the tests."""

from __future__ import annotations

import dataclasses
import fcntl
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis import Pair
from circuits import HookedStreamTransformer, ModelConfig, icl_config, variants
from circuits.config.model import MLP, NormalInit, ReluStack, TokenInputs, Unembedding, VectorInputs
from circuits.last_position import SplitTokens
from experiments.runs.config import TRAINING, Every, icl_run
from experiments.runs.directory import RunDirectory
from experiments.runs.run import Run
from experiments.sweeps.sweep import sweep
from experiments.tasks.in_context.task import ICLTask

ALL = variants.names()
STREAMED = [name for name in ALL if name != "classic"]
FULL = [rule.name for rule in variants.BASE]
"""Every rule with its gates open."""


def vector_config(variant: str, n_layers: int = 2, **overrides: Any) -> ModelConfig:
    """The in-context classifier in miniature: width 12, 7 positions, one head."""
    fields: dict[str, Any] = {"d_model": 12, "n_ctx": 7, "inputs": VectorInputs(12), "readout": ReluStack(5)}
    return icl_config(variant, "small", n_layers=n_layers, **(fields | overrides))


def token_config(variant: str = "value", n_layers: int = 3, **overrides: Any) -> ModelConfig:
    """A GPT-2-like model in miniature: 4 heads, MLP, norms, biases, learned positions."""
    fields: dict[str, Any] = {
        "n_layers": n_layers,
        "n_heads": 4,
        "d_model": 24,
        "n_ctx": 16,
        "inputs": TokenInputs(19),
        "readout": Unembedding(19),
        "mlp": MLP(32),
        "normalization": "LNPre",
        "streams": variants.streams(variant, n_layers),
        "name": variant,
    }
    everything: dict[str, Any] = {"init": NormalInit(0.3)} | fields | overrides
    return ModelConfig(**everything)


def model_of(config: ModelConfig, seed: int = 0) -> HookedStreamTransformer:
    """A model in double precision and evaluation mode, with biases and norms that are not at their trivial start."""
    model = HookedStreamTransformer(config, seed=seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rsplit(".", 1)[-1].startswith(("b", "w")) and ".mix." not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).double())
    return model


def inputs_for(config: ModelConfig, batch: int = 3, seed: int = 0, length: int | None = None) -> Tensor:
    """Random inputs of the right kind: tokens, or vectors with one-hot positions where the model wants them."""
    generator = torch.Generator().manual_seed(seed)
    length = length or min(config.n_ctx, 7)
    if isinstance(config.inputs, TokenInputs):
        return torch.randint(config.inputs.d_vocab, (batch, length), generator=generator)
    vectors = torch.randn(batch, length, config.inputs.d_input, generator=generator).double()
    if config.positions == "one-hot":
        vectors[..., : config.n_ctx] = torch.eye(config.n_ctx).double()[:length]
    return vectors


def random_pair(model: HookedStreamTransformer, n: int = 6, seed: int = 3) -> Pair:
    """Random clean and corrupt inputs of a model's own kind, with answers that differ."""
    clean, corrupt = inputs_for(model.config, n, seed=seed), inputs_for(model.config, n, seed=seed + 1)
    if clean.is_floating_point():
        clean, corrupt = clean.to(model.cfg.dtype), corrupt.to(model.cfg.dtype)
    answers = torch.arange(n) % model.config.readout.d_vocab_out
    return Pair(clean, corrupt, answers, (answers + 1) % model.config.readout.d_vocab_out)


def build(variant: str, kind: str = "vectors", n_layers: int = 2, **overrides: Any) -> HookedStreamTransformer:
    """A model of a variant: ``vectors`` (the toy) or ``tokens`` (GPT-2-like)."""
    config = vector_config if kind == "vectors" else token_config
    return model_of(config(variant, n_layers, **overrides))


def twin(model: HookedStreamTransformer, **changes: Any) -> HookedStreamTransformer:
    """The same weights under a configuration with some fields changed; parameters must agree by name."""
    other = HookedStreamTransformer(dataclasses.replace(model.config, **changes)).double().eval()
    other.load_state_dict(model.state_dict())
    return other


def double_tokens(tokens: SplitTokens) -> SplitTokens:
    """Fast-path inputs in double precision."""
    parts = {name: getattr(tokens, name).double() for name in ("x", "items", "table")}
    return dataclasses.replace(tokens, **parts)


def gradients(model: HookedStreamTransformer, loss: Tensor) -> dict[str, Tensor]:
    """Every parameter's gradient, zero where there is none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}


SHORT = dataclasses.replace(
    TRAINING["small"], steps=1_500, evaluate_at=(Every(100),), checkpoint_at=(Every(500),), n_eval=256
)
"""Long enough for both variants to pass their transition."""


def train_small(root: Path) -> None:
    """Train what the session's fixture needs, in one process at a time."""
    with (root / ".training").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep([icl_run(v, "small", 0, SHORT) for v in ("classic", "value")], root, workers=1, progress=False)


def run_named(root: Path, variant: str) -> Run:
    """One of the session's runs."""
    return Run.at(root, icl_run(variant, "small", 0, SHORT))


def small_task(seed: int = 0) -> ICLTask:
    """The small preset's task."""
    return ICLTask("small", seed=seed)


def rewrite(run: RunDirectory[Any], **changes: Any) -> None:
    """Change a run's record as one would who also gave it its hash."""
    run.record |= changes
    run.write_record()
