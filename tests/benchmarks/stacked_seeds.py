"""Model-steps a second of a stack of seeds against separate runs: ``python -m tests.benchmarks.stacked_seeds
[--device cuda]``.

A model-step is one update of one model, its batch drawn. Stack sizes and separate runs take turns in every round, and
every figure is a median over rounds, because a machine's speed drifts. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from experiments.runs.config import icl_run
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, TrainingConfig
from experiments.tasks.in_context.batches import ICLBatch
from experiments.tasks.in_context.measures import EvaluationSets
from experiments.training.engines import compiles
from experiments.training.stacked_seeds import Stack
from experiments.training.trainer import Trainer
from tests.benchmarks.models import row

torch.set_num_threads(1)
TRAINING = TrainingConfig(steps=10**9, optimizer=SGD(), n_eval=1)
SIZES = {"cpu": (1, 2, 4, 8)}
ACCELERATOR_SIZES = (1, 2, 4, 8, 16, 32)
Kind = tuple[int, Callable[[], object]]
"""How many models one call updates, and the call."""


class Bench:
    """Trainers of one variant on one device, alone and stacked."""

    def __init__(self, root: Path, variant: str, preset: str, device: str):
        self.root, self.variant, self.preset, self.device = root, variant, preset, device

    def trainer(self, seed: int, engine: str) -> Trainer:
        run = Run.at(self.root / engine, icl_run(self.variant, self.preset, seed, TRAINING), engine)
        task = run.task(self.device)
        return Trainer(run, task, EvaluationSets(task, TRAINING.n_eval), self.device)

    def alone(self, engine: str) -> Kind:
        trainer = self.trainer(0, engine)
        return 1, lambda: trainer.update(self.batch(trainer))

    def stack(self, size: int) -> Kind:
        return size, Stack([self.trainer(seed, "stacked") for seed in range(size)]).update

    def data(self) -> Kind:
        trainer = self.trainer(0, "eager")

        def draw() -> None:
            _ = self.batch(trainer).tokens
            trainer.step += 1

        return 1, draw

    def batch(self, trainer: Trainer) -> ICLBatch:
        return trainer.sets.task.sample(TRAINING.batch_size, "train", seed=trainer.step)

    def seconds(self, call: Callable[[], object], times: int) -> float:
        """CPU time on a CPU; on an accelerator wall time until all is done."""
        accelerated = self.device != "cpu"
        clock = time.perf_counter if accelerated else time.process_time
        start = clock()
        for _ in range(times):
            call()
        if accelerated:
            torch.accelerator.synchronize()
        return (clock() - start) / times


def speeds(bench: Bench, kinds: dict[str, Kind], rounds: int, model_steps: int) -> dict[str, list[float]]:
    """Model-steps a second of every kind in every round, after one round to warm up."""
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for i in range(-1, rounds):
        for name, (models, call) in kinds.items():
            seconds = bench.seconds(call, max(2, model_steps // models))
            if i >= 0:
                found[name].append(models / seconds)
    return found


def report(found: dict[str, list[float]], sizes: Sequence[int]) -> None:
    against = [name for name in found if name.startswith("separate")]
    for name, values in found.items():
        ratios = [f"{median(a / b for a, b in zip(values, found[o], strict=True)):.2f} x {o}" for o in against]
        row(name, f"{median(values):.0f} /s", ", ".join(ratios) if name.startswith("stack") else "")
    for size in sizes:
        share = median(a / b for a, b in zip(found[f"stack of {size}"], found["drawing alone"], strict=True))
        row(f"drawing the batches one by one, of a stack of {size}'s time", f"{share:.0%}", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--variant", default="value")
    parser.add_argument("--sizes", type=int, nargs="+", help="default: up to 8 on a CPU, up to 32 on an accelerator")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model-steps", type=int, default=32, help="of one kind before the next kind's turn")
    parser.add_argument("--no-compiled", action="store_true", help="leave the compiled separate run out")
    options = parser.parse_args()
    sizes = options.sizes or SIZES.get(options.device, ACCELERATOR_SIZES)
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root), options.variant, options.preset, options.device)
        kinds = {"drawing alone": bench.data(), "separate, eager": bench.alone("eager")}
        if compiles() and not options.no_compiled:
            kinds["separate, compiled"] = bench.alone("compiled")
        kinds |= {f"stack of {size}": bench.stack(size) for size in sizes}
        found = speeds(bench, kinds, options.rounds, options.model_steps)
    name = platform.machine() if options.device == "cpu" else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {name}, one thread, {options.variant} at {options.preset} size")
    row("model-steps a second", "found", "median ratio")
    report(found, sizes)


if __name__ == "__main__":
    main()
