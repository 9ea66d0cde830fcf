"""How a run computes: compiled or step by step, and which of its products go through oneDNN."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from circuits.last_position import why_not
from circuits.products import Shape, bare, by_onednn, has_onednn, operator
from experiments.devices import one_thread
from experiments.runs.config import RunConfig
from experiments.runs.record import RunError
from experiments.tasks.in_context.batches import ICLTaskConfig

COMPILE_FROM = 20_000
"""Runs of at least so many steps are compiled where a compiler is found; below, compiling costs more than it saves."""
CALIBRATE_FROM = 1e12
"""Trainings of at least so many multiply-adds, some 20 s of them, are worth a calibration."""
LEAST = 2**20
"""Multiply-adds of a product below which a call costs as much as what it computes."""
MEASURED = 1024
"""Of rows, inner and columns, as many are measured at most."""
FASTER, EQUAL = 1.3, 1e-6
"""How much faster oneDNN must be, so much that another calibration would say the same, and how near, in units of the
product's largest entry."""


@dataclass(frozen=True)
class Engine:
    """How a run computes. Runs of equal engines have equal bytes, on one machine."""

    how: str = "eager"
    """``eager``, ``compiled`` or ``stacked``."""
    onednn: frozenset[Shape] = frozenset()
    """The products that go through oneDNN; all others go through torch's default library."""

    @staticmethod
    def read(text: str) -> Engine:
        """Return the engine of which a run's record holds the text."""
        how, _, shapes = text.partition(_WITH)
        return Engine(how, frozenset(_shape(one) for one in shapes.split()))

    def __str__(self) -> str:
        shapes = " ".join("x".join(map(str, shape)) for shape in sorted(self.onednn))
        return f"{self.how}{_WITH}{shapes}" if shapes else self.how


def engine_of(name: str, record: Mapping[str, Any], device: torch.device, processes: int) -> Engine:
    """Return the engine of a run, to go on with.

    Raises:
        RunError: if its products go through oneDNN, which is not to be had in this torch, on this device, or by several
            processes.
    """
    engine = Engine.read(record["engine"])
    needs = {
        "this torch was built without it; go on where it began": has_onednn(),
        f"that multiplies on the CPU, not on {device}; give --device cpu": device.type == "cpu",
        f"it is to go on in {processes} processes, which do not use that; go on in one": processes == 1,
    }
    lacking = [lack for lack, there in needs.items() if engine.onednn and not there]
    if lacking:
        raise RunError(f"{name} began with products by oneDNN, and {lacking[0]}, or remove it to train it again")
    return engine


_WITH = ", oneDNN for "


def _shape(text: str) -> Shape:
    rows, inner, columns = map(int, text.split("x"))
    return rows, inner, columns


def compiles() -> bool:
    """Return whether there is a compiler here for ``torch.compile`` to use."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def choose_compute(config: RunConfig) -> str:
    """Return ``"compiled"`` or ``"eager"``, whichever suits a classifier's run on this machine."""
    pays = config.training.steps >= COMPILE_FROM and why_not(config.model) is None
    return "compiled" if pays and compiles() else "eager"


# --- products ---------------------------------------------------------------------------------------------------------


def step_products(config: RunConfig) -> dict[Shape, bool]:
    """Return the larger products of a step that may go through oneDNN, each with whether it is one of a weight's
    gradient, whose first factor lies column by column in memory.

    There are none in bfloat16, and none in a model of vectors but the in-context classifier by its fast path.
    """
    model, training, task = config.model, config.training, config.task
    if training.precision != "float32":
        return {}
    rows = training.batch_size // training.accumulate
    d, out = model.d_model, model.readout.d_vocab_out
    if config.of_tokens:
        rows *= task.n_tokens
        z, hidden = model.n_heads * model.d_head, model.mlp.d_mlp if model.mlp else d
        weights = {(rows, d, z), (rows, z, d), (rows, d, hidden), (rows, hidden, d)}
    elif isinstance(task, ICLTaskConfig) and why_not(model) is None:
        weights = {(rows, d, d), (d, d, d)}
        weights |= {(n, task.d_content, d) for n in (rows * (task.n_pairs + 1), task.n_labels)}
    else:
        return {}
    weights |= {(rows, d, out), (rows, out, d)}
    found = dict.fromkeys(weights, False)
    found |= {(inner, n, columns): True for n, inner, columns in weights if (inner, n, columns) not in weights}
    return {shape: of_weight for shape, of_weight in sorted(found.items()) if _size(shape) >= LEAST}


def worth_calibrating(config: RunConfig) -> bool:
    """Return whether a training is long enough for its products to be tried out first."""
    training = config.training
    in_layer = sum(map(_size, step_products(config)))
    return training.steps * training.accumulate * config.model.n_layers * in_layer >= CALIBRATE_FROM


def calibrated(products: Mapping[Shape, bool], how: str) -> frozenset[Shape]:
    """Return those of some products (:func:`step_products`) that oneDNN computes faster here, on one thread, and equal.

    It takes less than a second.
    """
    if not has_onednn():
        return frozenset()
    # Compiled code calls oneDNN without Python.
    multiply = bare if how == "compiled" else operator
    with one_thread():
        return frozenset(shape for shape, of_weight in products.items() if _gains(shape, of_weight, multiply))


def _gains(shape: Shape, of_weight: bool, multiply: Any) -> bool:
    rows, inner, columns = (min(n, MEASURED) for n in shape)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn((inner, rows) if of_weight else (rows, inner), generator=generator)
    b = torch.randn(inner, columns, generator=generator)
    a = a.mT if of_weight else a
    kinds = {"torch": lambda: a @ b, "onednn": lambda: by_onednn(a, b, multiply)}
    usual, other = kinds["torch"](), kinds["onednn"]()
    if float((usual - other).abs().max()) > EQUAL * float(usual.abs().max()):
        return False
    calls = max(1, 2**25 // _size((rows, inner, columns)))
    least = dict.fromkeys(kinds, float("inf"))
    for _ in range(5):
        for kind, computed in kinds.items():
            start = time.thread_time()
            for _ in range(calls):
                computed()
            least[kind] = min(least[kind], time.thread_time() - start)
    return least["torch"] > FASTER * least["onednn"]


def _size(shape: Shape) -> int:
    rows, inner, columns = shape
    return rows * inner * columns
