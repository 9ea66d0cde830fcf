"""Runs of models that others trained: without a task and without training, asked like any other with pairs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import psutil

from circuits.checkpoint import tensor_hash
from circuits.common.errors import require
from circuits.loading.pretrained import family_of, load_pretrained
from circuits.streams import variants
from experiments.runs.config import RunConfig
from experiments.runs.run import Run
from experiments.runs.training_config import NoTraining
from experiments.tasks.imported import ImportedConfig


def import_model(
    path: str | Path, root: str | Path | None = None, family: str | None = None, tokenizer: str | Path | None = None
) -> Run:
    """Return the finished run of a model that others stored in a folder: its weights are the checkpoint at step 0.

    Its id is the hash of its architecture and its weights, so the same model again is the same run. The arguments are
    those of :func:`circuits.load_pretrained`.

    Raises:
        FileNotFoundError, UnknownNameError, ValueError: as :func:`circuits.load_pretrained`; and if there is too little
            memory to write its weights.
        RunError: if the run is there with another tokenizer, or another process is making it.
    """
    model = load_pretrained(path, family, tokenizer)
    state = model.state_dict()
    needed, free = sum(x.nbytes for x in state.values()), psutil.virtual_memory().available
    require(
        needed < free,
        f"writing the weights takes {needed / 2**30:.1f} GiB of memory once more, and {free / 2**30:.1f} GiB are free; "
        f"load_pretrained alone takes none",
    )
    variant = variants.name_of(model.config.streams, model.config.n_layers, "classic")
    config = RunConfig(
        task=ImportedConfig(model.config.n_ctx),
        model=dataclasses.replace(model.config, name=variant),
        training=NoTraining(),
        seed=0,
        variant=variant,
        preset=family or family_of(path).name,
        weights=tensor_hash(state),
    )
    run = Run.at(root, config)
    with run.locked():
        if not run.finished:
            run.write_checkpoint(model, 0)
            run.close()
        run.keep_tokenizer(model.tokenizer)
    return run
