"""Training a language model: one loop, whether one process trains or several share every batch."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from circuits.common.errors import require
from circuits.common.plain_data import derive_seed
from circuits.model import HookedStreamTransformer
from experiments.runs.lm_config import AdamW, LMOptimizer, LMTraining
from experiments.runs.lm_run import LMRun
from experiments.runs.locks import explained
from experiments.runs.record import RunError
from experiments.runs.saved_shards import State, drop_shards, newest_state, read_shards
from experiments.tasks.tokenizers import check_fits
from experiments.tasks.tokens.batches import TokenBatch, TokenTask, next_token_loss
from experiments.tasks.tokens.measures import LMEvaluationSets, lm_evaluate
from experiments.training.compiled_step import NamedOptimizer
from experiments.training.trainer import SAVE_SECONDS, Report, never, scheduled, silent

Loss = Callable[[TokenBatch], Tensor]


class Alone:
    """One process that trains by itself. Several that share a model are
    :class:`experiments.training.several_processes.Sharded`."""

    rank, world = 0, 1

    def wrap(self, model: HookedStreamTransformer) -> HookedStreamTransformer:
        """Return the model as it is trained here."""
        return model

    def compiled(self, model: HookedStreamTransformer, loss: Loss) -> Loss:
        """Return the model's loss, compiled."""
        return torch.compile(loss)

    def part(self, batch: TokenBatch) -> TokenBatch:
        """Return the rows that this process computes."""
        return batch

    def total(self, value: Tensor) -> Tensor:
        """Return the sum of a number over all processes."""
        return value

    def agreed(self, stop: bool) -> bool:
        """Return whether any process wants to stop."""
        return stop

    def finish_gradients(self, parameters: Iterable[Tensor], most: float | None) -> None:
        """Make gradients those of the whole batch, and bring the norm of all together to ``most``."""
        if most is not None:
            torch.nn.utils.clip_grad_norm_(parameters, most)

    def whole(self, model: HookedStreamTransformer) -> HookedStreamTransformer:
        """Return the model with all its weights here, for evaluating and storing it."""
        return model

    def save(self, run: LMRun, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Write where to resume."""
        run.write_state(tensors, about)
        drop_shards(run.path)

    def load(self, run: LMRun, tensors: dict[str, Tensor]) -> State | None:
        """Return what was saved last, by however many processes, or ``None``; ``tensors`` are the present ones."""
        newest = newest_state(run.path)
        if newest is None:
            return None
        return read_shards(newest, {}) if newest.is_dir() else run.read_state()


def make_lm_optimizer(config: LMOptimizer, parameters: dict[str, Tensor]) -> NamedOptimizer:
    """Return the optimizer of a configuration; of AdamW, only weight matrices decay, and no part of a mixing rule."""
    decay, kind = (config.decay, torch.optim.AdamW) if isinstance(config, AdamW) else (0.0, torch.optim.Adam)
    groups: dict[Any, list[Tensor]] = defaultdict(list)
    for name, parameter in parameters.items():
        # Of one type each, as one fused update does not take parameters in parts together with whole ones.
        groups[decay if _decays(name) else 0.0, type(parameter)].append(parameter)
    named = [{"params": group, "weight_decay": decay} for (decay, _), group in groups.items()]
    return NamedOptimizer(kind(named, lr=config.rate, betas=config.betas, fused=True), parameters)


def _decays(name: str) -> bool:
    # By name, as biases of heads are matrices too; mixing rules start at the identity, not near nothing.
    return name.rsplit(".", 1)[-1].startswith("W_") and ".mix." not in name


def rate_at(config: LMOptimizer, step: int, steps: int) -> float:
    """Return the rate of the update that follows ``step`` updates, in a run of ``steps``."""
    if not isinstance(config, AdamW):
        return config.rate
    rising = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    done = min(1.0, max(0, step - config.warmup) / max(1, steps - config.warmup))
    falling = config.final + (1 - config.final) * (1 + math.cos(math.pi * done)) / 2
    return config.rate * rising * falling


def precise(training: LMTraining, device: torch.device) -> Any:
    """Return the context in which products are computed."""
    if training.precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def check_precision(training: LMTraining, device: str) -> None:
    """Refuse a precision that the device does not have.

    Raises:
        ValueError: naming both.
    """
    if training.precision == "bfloat16" and torch.device(device).type == "cuda":
        require(torch.cuda.is_bf16_supported(), "this GPU does not compute in bfloat16; train with precision float32")


class LMTrainer:
    """One run in training: its model, its optimizer, and the step it is at."""

    def __init__(self, run: LMRun, device: str = "cpu", group: Alone | None = None):
        self.run, self.config, self.group = run, run.config.training, group or Alone()
        check_precision(self.config, device)
        self.device = torch.device(device)
        self.task: TokenTask = run.task(device)
        model = HookedStreamTransformer(run.config.model, seed=run.config.seed)
        if self.task.tokenizer is not None:
            check_fits(self.task.tokenizer, model.cfg.d_vocab)
        self.model = self.group.wrap(model.to(self.device)).train()
        self.parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        self.optimizer = make_lm_optimizer(self.config.optimizer, self.parameters)
        compiled = run.record["engine"] == "compiled"
        self.compute_loss: Loss = self.group.compiled(self.model, self._loss) if compiled else self._loss
        self.sets = LMEvaluationSets(self.task, self.config.n_eval, self.config.n_questions)
        self.evaluate_at = scheduled(self.config.evaluate_at, self.config.steps)
        self.checkpoint_at = scheduled(self.config.checkpoint_at, self.config.steps)
        self.step, self.observed, self.evaluations, self.loss = 0, -1, 0, math.nan
        self.sum = torch.zeros(2, dtype=torch.float64, device=self.device)
        """Of the training losses since the last evaluation, and their number."""
        self.started = self.saved = time.monotonic()
        self.saving = 0.0
        """Seconds that the last save took: large models save more seldom, a twentieth of the time at most."""
        self._resume()
        self.first_step = self.step

    @property
    def done(self) -> bool:
        """Whether the last step is reached."""
        return self.step >= self.config.steps

    @property
    def tokens_per_second(self) -> float:
        """Tokens of this sitting by its seconds, evaluations included."""
        tokens = (self.step - self.first_step) * self.run.config.tokens_per_step
        return tokens / max(1e-9, time.monotonic() - self.started)

    # --- one update -------------------------------------------------------------------------------------------------

    def _loss(self, batch: TokenBatch) -> Tensor:
        return next_token_loss(self.model(batch.tokens), batch)

    def _parts(self) -> Iterator[TokenBatch]:
        batch = self.task.sample(self.config.batch_size, "train", seed=self.step)
        rows = self.config.batch_size // self.config.accumulate
        return (batch[start : start + rows] for start in range(0, len(batch), rows))

    def update(self) -> None:
        """Make one update.

        Raises:
            RunError: if the loss is not finite.
        """
        if self.run.config.model.dropout:
            torch.manual_seed(derive_seed("dropout", self.run.config.seed, self.step, self.group.rank))
        self.model.zero_grad()
        parts = [(self.group.part(part), (part.targets >= 0).sum()) for part in self._parts()]
        counted = torch.stack([n for _, n in parts]).sum()
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        for part, _ in parts:
            # The mean is over what counts in the whole batch, wherever its rows are computed.
            share = (part.targets >= 0).sum() / counted
            with precise(self.config, self.device):
                # The mean of nothing is no number.
                piece = torch.where(share > 0, self.compute_loss(part), 0.0) * share
            (piece * self.group.world).backward()
            loss += piece.detach()
        self._learn(float(self.group.total(loss)))

    def _learn(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"its loss at step {self.step} is {loss}")
        self.sum += torch.tensor([loss, 1.0], dtype=torch.float64, device=self.device)
        rate = rate_at(self.config.optimizer, self.step, self.config.steps)
        for group in self.optimizer.optimizer.param_groups:
            group["lr"] = rate
        self.group.finish_gradients(self.parameters.values(), self.config.clip)
        self.optimizer.step()
        self.step += 1

    def _diverged(self, why: str) -> RunError:
        return self._failed(f"diverged: {why}; what was measured before is kept. Use a smaller rate")

    def _failed(self, why: str) -> RunError:
        if self.group.rank == 0:
            self.run.record["status"] = "failed"
            self.run.write_record()
        return RunError(f"{self.run.path.name} {why}")

    # --- looking ------------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Do what is due at this step before its update, once: measurements, checkpoint; sometimes save."""
        if self.step > self.observed:
            if self.step in self.evaluate_at or self.step in self.checkpoint_at:
                self._look()
            self.observed = self.step
        # Clocks differ between processes, and all must save or none.
        if self.group.agreed(time.monotonic() - self.saved > SAVE_SECONDS * max(1.0, self.saving)):
            self.save()

    def _look(self) -> None:
        model = self.group.whole(self.model)
        if self.group.rank == 0:
            model.eval()
            if self.step in self.evaluate_at:
                self._evaluate(model)
            if self.step in self.checkpoint_at:
                self.run.write_checkpoint(model, self.step)
            model.train()
        if self.step in self.evaluate_at:
            self.sum.zero_()
            self.evaluations += 1

    def _evaluate(self, model: HookedStreamTransformer) -> None:
        rows = lm_evaluate(model, self.sets)
        self.loss = rows[0][2]
        if not math.isfinite(self.loss):
            raise self._diverged(f"its validation loss at step {self.step} is {self.loss}")
        total, n = self.sum.tolist()
        if n:
            rows.append(("train", "loss", total / n))
        self.run.append_rows("metrics", [(self.step, *row) for row in rows])

    # --- stopping and going on ----------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model|{n}": p for n, p in self.model.state_dict().items()}
        return tensors | {f"optimizer|{n}": t for n, t in self.optimizer.state().items()} | {"sum": self.sum}

    def save(self) -> None:
        """Write all that is needed to go on from here with the same bits; till then what was there before is whole."""
        about = {"step": self.step, "observed": self.observed, "evaluations": self.evaluations, "loss": self.loss}
        began = time.monotonic()
        with explained(self.run.path):
            self.group.save(self.run, self._tensors(), {**about, "loss": None if math.isnan(self.loss) else self.loss})
        self.saved = time.monotonic()
        self.saving = self.saved - began

    def _resume(self) -> None:
        if self.group.rank == 0:
            self.run.keep_tokenizer(self.task.tokenizer)
        saved = self.group.load(self.run, self._tensors())
        if saved is not None:
            tensors, about = saved
            own = self.model.state_dict()
            with torch.no_grad():
                for name, tensor in own.items():
                    tensor.copy_(tensors[f"model|{name}"])
                self.sum.copy_(tensors["sum"])
            prefix = "optimizer|"
            self.optimizer.load({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
            self.step, self.observed, self.evaluations = about["step"], about["observed"], about["evaluations"]
            self.loss = math.nan if about["loss"] is None else about["loss"]
        if self.group.rank == 0:
            self.run.keep_rows("metrics", self.evaluations)

    def close(self) -> None:
        """Note how long this sitting took; close the run if it is done, else save where it is."""
        if not self.done:
            self.save()
        if self.group.rank != 0:
            return
        session = {"from": self.first_step, "to": self.step, "seconds": round(time.monotonic() - self.started, 3)}
        self.run.append_session(session | {"tokens_per_second": round(self.tokens_per_second)})
        if self.done:
            self.run.close()


def train_lm(
    run: LMRun,
    device: str = "cpu",
    report: Report = silent,
    stop: Callable[[], bool] = never,
    group: Alone | None = None,
) -> None:
    """Bring a run to its end; a finished one costs nothing.

    ``stop`` is asked between steps; once it says so, the run is saved and ``KeyboardInterrupt`` raised. However a run
    ends, the same call goes on from the last saved state.

    Raises:
        RunError: if another process trains it, the disk is full, or it diverged.
        ValueError: before anything is trained, for a tokenizer, corpus or precision that does not fit.
    """
    group = group or Alone()
    if run.finished:
        # What a kill at the very end left behind.
        run.tidy()
        return
    with run.locked() if group.rank == 0 else nullcontext():
        if group.agreed(run.finished):
            return
        trainer = LMTrainer(run, device, group)
        while True:
            if group.agreed(stop()):
                trainer.close()
                raise KeyboardInterrupt
            trainer.observe()
            report(run.path.name, trainer.step, trainer.loss)
            if trainer.done:
                break
            trainer.update()
        trainer.close()
