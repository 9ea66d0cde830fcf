"""One language model trained by several processes, as torchrun starts them, each of which keeps a part of it."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from circuits.checkpoint import read_tensors
from circuits.common.errors import require
from circuits.common.screen import say
from circuits.model import HookedStreamTransformer
from experiments.runs.run import Run
from experiments.runs.saved_shards import State, anywhere, laid_out_like, newest_state, read_shards, write_shards
from experiments.training.one_process import Alone, Loss
from experiments.training.stopping import told_to_stop
from experiments.training.together import Report, never, silent, train

BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
"""What processes talk by. On GPUs, what is not on them (whether to stop, what was saved) goes by gloo."""
STARTED_BY = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
LONGEST_WAIT = timedelta(hours=2)
"""For the first process, which measures and writes checkpoints while the others wait."""
TELL_SECONDS = 5.0


class Sharded(Alone):
    """Several processes of which each keeps a part of every weight, with its optimizer state, and computes some rows.

    By PyTorch's ``fully_shard`` (FSDP2), block by block. Every process first makes the whole model, as weights start
    from seed and name, and then keeps its part: for a billion parameters that takes 4 GB of each for a moment.
    Losses and gradients are those of one process up to rounding; with dropout, each process draws its own masks.
    """

    def __init__(self, device: str):
        self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
        self.device = torch.device(device)
        self.mesh = init_device_mesh(self.device.type, (self.world,))

    @classmethod
    def from_environment(cls, device: str = "cpu") -> Sharded:
        """Return this process among those that torchrun started, on a device of its own or, all, on the CPU.

        Raises:
            ValueError: outside torchrun, for another device than cpu and cuda, or for more processes than GPUs.
        """
        require(
            all(name in os.environ for name in STARTED_BY),
            "several processes are started by torchrun: "
            "torchrun --nproc-per-node 2 -m experiments.training.several_processes RUN_DIR",
        )
        require(device in BACKENDS, f"processes share a model on one of {', '.join(BACKENDS)}, not on {device!r}")
        if device == "cuda":
            here, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
            require(here < there, f"there are {there} GPUs here; start that many processes with --nproc-per-node")
            torch.cuda.set_device(here)
            device = f"cuda:{here}"
        distributed.init_process_group(BACKENDS[torch.device(device).type], timeout=LONGEST_WAIT)
        return cls(device)

    def wrap(self, model: HookedStreamTransformer) -> HookedStreamTransformer:
        """Return the model with every weight in parts; single numbers (gains, say) stay whole everywhere."""
        kept = {p for p in model.parameters() if p.ndim == 0}
        for block in model.blocks:
            fully_shard(block, mesh=self.mesh, ignored_params=kept)
        # The root holds the embedding, which a tied readout reads again at the end.
        fully_shard(model, mesh=self.mesh, reshard_after_forward=False, ignored_params=kept)
        return model

    def compiled(self, model: HookedStreamTransformer, loss: Loss) -> Loss:
        """Return the loss with every block compiled: between them weights are gathered, which no graph can hold."""
        torch._dynamo.config.recompile_limit = max(256, torch._dynamo.config.recompile_limit)
        for block in model.blocks:
            # Their numbers are constants, which dynamic shapes would take for variables.
            block.forward = torch.compile(block.forward, dynamic=False)
        return loss

    def part(self, batch: Any) -> Any:
        """Return the rows that this process computes; for errors see :meth:`rows`."""
        return batch[self.rows(len(batch))]

    def rows(self, n: int) -> slice:
        """Return which of ``n`` rows this process computes, as many as any other.

        Raises:
            ValueError: if they do not divide among the processes.
        """
        require(
            n > 0 and n % self.world == 0,
            f"{n} windows do not divide among {self.world} processes; start a number of processes that divides "
            f"batch_size / accumulate",
        )
        each = n // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a number over all processes."""
        value = value.clone()
        distributed.all_reduce(value)
        return value

    def agreed(self, stop: bool) -> bool:
        """Return whether any process wants to stop."""
        return anywhere(stop)

    def finish_gradients(self, parameters: Iterable[Tensor], most: float | None) -> None:
        """Average what FSDP leaves to us, and bring the norm of all gradients together to ``most``."""
        graded = [p for p in parameters if p.grad is not None]
        sharded = [p for p in graded if isinstance(p, DTensor)]
        whole = [p for p in graded if not isinstance(p, DTensor)]
        if whole:
            self._average([p.grad for p in whole if p.grad is not None])
        if most is None:
            return
        # Apart, as one call does not take tensors of both kinds.
        norms = [get_total_norm([p.grad for p in kind if p.grad is not None]) for kind in (sharded, whole) if kind]
        norm = get_total_norm([n.full_tensor() if isinstance(n, DTensor) else n for n in norms])
        for kind in (sharded, whole):
            clip_grads_with_norm_(kind, most, norm)

    def _average(self, gradients: Sequence[Tensor]) -> None:
        mean = self.total(torch.stack(list(gradients))) / self.world
        for gradient, value in zip(gradients, mean, strict=True):
            gradient.copy_(value)

    def whole(self, model: HookedStreamTransformer) -> HookedStreamTransformer:
        """Return, in the first process, an ordinary model with all weights; in the others the one given."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(model, options=options)
        if self.rank != 0:
            return model
        # Not initialised, as drawing a billion numbers takes longer than measuring.
        with torch.device("meta"):
            body = HookedStreamTransformer(model.config)
        body.to_empty(device=self.device).load_state_dict(weights)
        for name, buffer in model.named_buffers():
            body.get_buffer(name).copy_(buffer)
        return body

    def save(self, run: Run, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Write where to resume, each process its part."""
        write_shards(run.path, tensors, about)

    def load(self, run: Run, tensors: dict[str, Tensor]) -> State | None:
        """Return this process' part of what was saved last, by however many; ``tensors`` are the present ones."""
        newest = newest_state(run.path)
        if newest is None or newest.is_dir():
            return read_shards(newest, tensors) if newest else None
        saved, about = read_tensors(newest)
        return {name: self._own(t, laid_out_like(name, t.size(), tensors)) for name, t in saved.items()}, about

    def _own(self, tensor: Tensor, layout: DTensor | None) -> Tensor:
        if layout is None:
            return tensor
        here = tensor.to(self.device)
        # Every process has read it, so none needs to send it.
        return distribute_tensor(here, self.mesh, layout.placements, src_data_rank=None)


# --- the command ------------------------------------------------------------------------------------------------------


def train_sharded(path: str | Path, device: str = "cpu", stop: Callable[[], bool] = never) -> None:
    """Bring the run in a directory to its end, together with the other processes that torchrun started.

    A run may go on with another number of processes, one included. The first process tells how it goes.

    Raises:
        KeyboardInterrupt: in all processes, with the run saved, once ``stop`` says so in one of them.
        RunError: as :func:`experiments.training.together.train`.
        ValueError: likewise, and if the rows of a batch do not divide among the processes.
    """
    # Blocks pass on views, which nothing here writes to.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    run = Run.open(path)
    group = Sharded.from_environment(device)
    group.rows(run.config.training.batch_size // run.config.training.accumulate)
    stopped: KeyboardInterrupt | None = None
    try:
        train([run], str(group.device), telling(run) if group.rank == 0 else silent, stop, group)
    except KeyboardInterrupt as interrupt:
        stopped = interrupt
    # Not after an error: the others may be waiting for this process, and it would wait for them. Torchrun ends them.
    group.agreed(False)
    distributed.destroy_process_group()
    if stopped:
        raise stopped


def telling(run: Run) -> Report:
    """Return a report that now and then prints step, loss, tokens per second and the time that remains."""
    steps, tokens = run.config.training.steps, run.config.tokens_per_step
    began: list[tuple[int, float]] = []
    told = -math.inf

    def report(name: str, step: int, loss: float) -> None:
        nonlocal told
        now = time.monotonic()
        if not began:
            began.append((step, now))
        if now - told < TELL_SECONDS and step < steps:
            return
        told = now
        pace = (step - began[0][0]) / max(now - began[0][1], 1e-9)
        ahead = f", {pace * tokens:,.0f} tokens/s, {(steps - step) / pace / 60:,.1f} minutes left" if pace else ""
        say(f"{name}: step {step:,} of {steps:,}, validation loss {loss:.4f}{ahead}", sys.stderr)

    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as one of torchrun's processes; return 0, 1 after an error, or 130 if stopped and saved."""
    prog = "torchrun --nproc-per-node N -m experiments.training.several_processes"
    parser = argparse.ArgumentParser(prog, description="Train a run of a language model in N processes.")
    parser.add_argument("run", type=Path, help="the directory of a run of a language model")
    parser.add_argument("--device", choices=sorted(BACKENDS), default="cuda" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args(arguments)
    launcher = os.getppid()
    try:
        with told_to_stop() as told:
            # Where torchrun itself was killed, nobody is left to tell.
            train_sharded(asked.run, asked.device, stop=lambda: told.is_set() or os.getppid() != launcher)
    except KeyboardInterrupt:
        if os.environ["RANK"] == "0":
            say("stopped and saved; the same command goes on from there", sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        say(f"process {os.environ.get('RANK', 0)}: {error}", sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of gloo's may outlive their group, and what Python does last would abort the process because of them.
    os._exit(status)
