"""Training a model that is at hand: its weights as they are, or an architecture, on a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from analysis.ready import require_finite_weights
from circuits.checkpoint import tensor_hash
from circuits.common.errors import known, require
from circuits.config.model import ModelConfig
from circuits.model import HookedStreamTransformer
from circuits.streams import variants
from experiments.runs.config import LM_TRAINING, TRAINING, RunConfig
from experiments.runs.folder import runs_folder
from experiments.runs.run import Run
from experiments.runs.training_config import Training
from experiments.sweeps.beforehand import check_beforehand
from experiments.sweeps.shared_engine import shared_engines
from experiments.sweeps.sweep import sweep
from experiments.tasks.in_context.batches import PRESETS, ICLTaskConfig
from experiments.tasks.kinds import TaskConfig
from experiments.tasks.registry import USUAL

PRESET = "own"
"""What runs of given models have in the place of a preset."""


def train(
    model: HookedStreamTransformer | ModelConfig,
    task: TaskConfig | str,
    training: Training | None = None,
    *,
    seed: int = 0,
    root: str | Path | None = None,
    device: str = "cpu",
    compute: str | None = None,
    progress: bool = True,
) -> Run:
    """Return the finished run of a model on a task, trained in this process; the same call again costs nothing.

    A :class:`HookedStreamTransformer` starts from the weights that it has, whose hash is part of the run's id; it is
    not changed itself: ``run.load_model()`` is what became of it. A :class:`ModelConfig` starts from those of ``seed``,
    of which all data are drawn, too. If no ``training`` is given, it is that of the small preset, or of the smallest
    language model.

    Raises:
        KeyboardInterrupt, RunError: as :func:`experiments.sweep`.
        UnknownNameError, ValueError: before a run is made, as :func:`experiments.sweep`; for an unknown task (nearest
            suggested), something else than a model, one in another precision than float32, with hooks attached or with
            parameters that do not learn, or parts that contradict each other.
        NotFiniteError: for weights that hold NaN or infinity.
    """
    root = runs_folder(root)
    require(
        isinstance(model, (HookedStreamTransformer, ModelConfig)),
        f"what is trained is a HookedStreamTransformer or a ModelConfig, as runs are opened without other code; got "
        f"{type(model).__name__}",
    )
    architecture = model if isinstance(model, ModelConfig) else model.config
    if isinstance(task, str):
        named = USUAL[known("task", task, USUAL)]
        fitting = [preset for preset in PRESETS.values() if preset.sizes.d_input == architecture.inputs.rows]
        task = fitting[0] if isinstance(named, ICLTaskConfig) and fitting else named
    usual = LM_TRAINING["0.2m"] if architecture.inputs.are_tokens else TRAINING["small"]
    variant = variants.name_of(architecture.streams, architecture.n_layers, architecture.name)
    weights = None if isinstance(model, ModelConfig) else _weights(model)
    config = RunConfig(task, architecture, training or usual, seed, variant, PRESET, weights)
    # Its weights are put there once all else is known to be well.
    check_beforehand([replace(config, weights=None)], root, device)
    if isinstance(model, HookedStreamTransformer):
        (engine,) = shared_engines([config], root, device, compute)
        run = Run.at(root, config, str(engine))
        if "0" not in run.record["checkpoints"]:
            with run.locked():
                run.write_checkpoint(model, 0)
    [run] = sweep([config], root, 1, device, compute=compute, progress=progress)
    return run


def _weights(model: HookedStreamTransformer) -> str:
    require(
        all(tensor.dtype == torch.float32 for tensor in model.parameters()),
        "a model is trained in float32 (in bfloat16 by TokenTraining's precision); give model.float()",
    )
    hooked = model.hooked_modules()
    require(
        not hooked,
        f"hooks are attached ({', '.join(map(str, list(hooked)[:3]))}), and would not act in training; call "
        f"model.reset_hooks(), or give TrainingConfig(interventions=...)",
    )
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        raise ValueError(
            f"requires_grad is False for {len(frozen)} parameters (first: {', '.join(frozen[:3])}), which a run does "
            f"not store: it would train them all the same. Call model.requires_grad_(), and hold parameters still in "
            f"the training: rates=(Rate({frozen[0]!r}, 0.0),), or activations: "
            f"interventions=(Intervention(site, Freeze()),)"
        )
    require_finite_weights(model, "training")
    return tensor_hash(model.state_dict())
