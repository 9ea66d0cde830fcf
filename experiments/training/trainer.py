"""One run in training, whatever its task, in one process or as one of several that share the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from analysis.ready import NotFiniteError
from circuits.checkpoint import tensor_hash
from circuits.common.plain_data import derive_seed
from circuits.interventions.applied import Intervening, NothingChangedError
from circuits.model import HookedStreamTransformer
from circuits.products import compile_without_python, through_onednn
from experiments.devices import checked_device
from experiments.runs.locks import explained
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import AdamW, scheduled
from experiments.tasks.task import TrainedTask
from experiments.tasks.tokenizers import check_fits
from experiments.training.checks import check_end, check_shared, check_start
from experiments.training.engines import engine_of
from experiments.training.evaluations import Evaluations
from experiments.training.one_process import Alone, Loss
from experiments.training.optimizers import make_optimizer, rate_at
from experiments.training.precision import check_precision, precise

SAVE_SECONDS = 20.0
"""How much work a killed process may lose."""


class Trainer:
    """One run in training: its model, its optimizer, and the step it is at.

    ``task`` and its evaluation ``sets`` may be shared with the trainers of other runs.
    """

    def __init__(self, run: Run, task: TrainedTask, sets: Any, device: str = "cpu", group: Alone | None = None):
        self.run, self.task, self.sets, self.config = run, task, sets, run.config.training
        self.group = group or Alone()
        self.device = checked_device(device)
        self.watched = run.config.watched
        check_precision(self.config, device)
        check_end(run.config, sets)
        if self.group.world > 1:
            check_shared(run.config)
        self.evaluations = Evaluations(self.config.evaluate_at, self.config.steps)
        model = self._at_start()
        if task.tokenizer is not None:
            check_fits(task.tokenizer, model.cfg.d_vocab)
        self.model = self.group.wrap(model.to(self.device)).train()
        self.parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        self.optimizer = make_optimizer(self.config.optimizer, self.parameters, self.config.rates)
        self.engine = engine_of(run.path.name, run.record, self.device, self.group.world)
        self.compiled = self.engine.how == "compiled"
        self.backward, self.hooked_backward = self._backwards()
        self.intervening = Intervening(self.model, self.config.interventions, at_step=run.load_model)
        self.checkpoint_at = scheduled(self.config.checkpoint_at, self.config.steps)
        self.frozen_at = {i.first for i in self.config.interventions if i.operation.freezes}
        self.gradients_at = (
            scheduled(self.config.gradients_at, self.config.steps) if self.config.gradients_at else set()
        )
        self.looks_at = self.checkpoint_at | self.frozen_at | self.gradients_at
        self.step, self.observed, self.splits = 0, -1, 0
        self.sum = torch.zeros(2, dtype=torch.float64, device=self.device)
        """Of the training losses since the last evaluation, and their number."""
        self.started = self.saved = time.monotonic()
        self.saving = 0.0
        """Seconds that the last save took: large models save more seldom, a twentieth of the time at most."""
        self._resume()
        self.first_step = self.step

    def _at_start(self) -> HookedStreamTransformer:
        wanted, name = self.run.config.weights, self.run.path.name
        if wanted is None:
            return HookedStreamTransformer(self.run.config.model, seed=self.run.config.seed)
        check_start(self.run.config, self.run.record["checkpoints"])
        model = self.run.load_model(0)
        if tensor_hash(model.state_dict()) != wanted:
            raise RunError(f"the checkpoint of {name} at step 0 does not have the weights that its configuration names")
        return model

    def _backwards(self) -> tuple[Loss, Loss]:
        """What gives every parameter its gradient of a batch's loss, and returns that loss: as the run's record says,
        and by the hooked model."""
        hooked = partial(self._accumulated, self._loss)
        if not self.compiled:
            return partial(self._accumulated, self.task.fast_loss(self.model)), hooked
        if self.engine.onednn:
            compile_without_python()
        whole = self.task.compiled_backward(self.model)
        return whole or partial(self._accumulated, self.group.compiled(self.model, self._loss)), hooked

    def _loss(self, batch: Any) -> Tensor:
        return self.task.loss(self.model, batch)

    @property
    def done(self) -> bool:
        """Whether the last step is reached, or the condition to stop early holds."""
        stop = self.config.stop_at
        return self.step >= self.config.steps or (stop is not None and stop.reached(self.evaluations.values))

    @property
    def value(self) -> float:
        """The last value of what is watched: the measure that the run stops by, or else its task's."""
        values = self.evaluations.values
        return values[-1] if values else math.nan

    @property
    def tokens_per_second(self) -> float:
        """Tokens of this sitting by its seconds, evaluations included."""
        tokens = (self.step - self.first_step) * self.run.config.tokens_per_step
        return tokens / max(1e-9, time.monotonic() - self.started)

    # --- one update ---------------------------------------------------------------------------------------------------

    def draw(self) -> Any:
        """Return the batch of this step."""
        return self.task.sample(self.config.batch_size, "train", seed=self.step)

    def update(self, batch: Any) -> None:
        """Make one update, with the interventions that act at this step.

        Raises:
            RunError: if one of them changes nothing at its first step, or a loss that is logged is not finite.
        """
        if self.run.config.model.dropout:
            torch.manual_seed(derive_seed("dropout", self.run.config.seed, self.step, self.group.rank))
        with self.intervening.at(self.step) as acting, through_onednn(self.engine.onednn):
            loss = (self.hooked_backward if acting else self.backward)(batch)
        if acting:
            self._require_change()
        if self.task.logs_training_loss:
            self._log(float(self.group.total(loss)))
        if isinstance(self.config.optimizer, AdamW):
            self.optimizer.set_rate(rate_at(self.config.optimizer, self.step, self.config.steps))
        self.group.finish_gradients(self.parameters.values(), self.config.clip)
        self.optimizer.step()
        self.step += 1

    def _accumulated(self, loss_of: Callable[[Any], Tensor], batch: Any) -> Tensor:
        """Give every parameter its gradient of a batch's mean loss, in the configuration's parts, and return that loss
        (of this process' rows, where several share the batch)."""
        self.model.zero_grad()
        rows = self.config.batch_size // self.config.accumulate
        if rows == len(batch) and self.group.world == 1:
            with precise(self.config, self.device):
                loss = loss_of(batch)
            loss.backward()
            return loss.detach()
        wholes = [batch[start : start + rows] for start in range(0, len(batch), rows)]
        parts = [(self.group.part(whole), self.task.counted(whole)) for whole in wholes]
        counted = torch.stack([n for _, n in parts]).sum()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for part, _ in parts:
            # The mean is over what counts in the whole batch, wherever its rows are computed.
            share = self.task.counted(part) / counted
            with precise(self.config, self.device):
                # The mean of nothing is no number.
                piece = torch.where(share > 0, loss_of(part), 0.0) * share
            (piece * self.group.world).backward()
            total += piece.detach()
        return total

    def _log(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._diverged(f"its loss at step {self.step} is {loss}")
        self.sum += torch.tensor([loss, 1.0], dtype=torch.float64, device=self.device)

    def _require_change(self) -> None:
        begun = [i for i in self.config.interventions if self.step == i.first]
        try:
            self.intervening.counts.require_change(begun)
        except NothingChangedError as error:
            raise self._failed(f"at step {self.step} an intervention did nothing: {error}") from error

    def _diverged(self, why: str) -> RunError:
        if self.step == 0:
            start = (
                "the weights that it starts from, or the data, hold NaN or numbers that are too large; correct those"
            )
            return self._failed(f"cannot be trained: {why}, before any update: {start}")
        kept = "what was measured before is kept. Use a smaller rate, or another variant"
        return self._failed(f"diverged: {why}; {kept}")

    def _failed(self, why: str) -> RunError:
        if self.group.rank == 0:
            self.run.record["status"] = "failed"
            self.run.write_record()
        return RunError(f"{self.run.path.name} {why}")

    # --- looking ------------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Do what is due at this step before its update, once: gates, measurements, checkpoint; sometimes save.

        Raises:
            RunError: if the loss is no longer finite, or the disk is full.
        """
        if self.step > self.observed:
            self._set_gates(since=self.step)
            if self.step in self.looks_at or self.step == self.evaluations.next:
                self._look()
            self.observed = self.step
        # Clocks differ between processes, and all must save or none.
        if self.group.agreed(time.monotonic() - self.saved > SAVE_SECONDS * max(1.0, self.saving)):
            self.save()

    def _set_gates(self, since: int) -> None:
        for change in sorted(self.config.gates, key=lambda change: change.step):
            if since <= change.step <= self.step:
                self.model.set_gate(change.gate, change.carrier)

    def _look(self) -> None:
        model = self.group.whole(self.model)
        first = self.group.rank == 0
        if first and self.step in self.frozen_at:
            # What is frozen is read back, from now on, so that a resumed run has the same.
            self.run.write_checkpoint(model, self.step)
        if self.step == self.evaluations.next:
            value = torch.tensor(self._evaluate(model) if first else 0.0, dtype=torch.float64, device=self.device)
            # Whether to stop early, and when to look again, is for all to know.
            self.evaluations.add(float(self.group.total(value)))
            self.sum.zero_()
        if self.step in self.gradients_at or (self.gradients_at and self.done):
            if first:
                self._split_gradient(model)
            self.splits += 1
        if first and (self.step in self.checkpoint_at or self.done):
            self.run.write_checkpoint(model, self.step)

    def _evaluate(self, model: HookedStreamTransformer) -> float:
        model.eval()
        try:
            with self.intervening.at(self.step, counting=False):
                rows = self.task.measures(model, self.sets, self.compiled)
        except NotFiniteError as error:
            raise self._diverged(f"at step {self.step} {error}") from error
        model.train()
        values = {(split, name): value for split, name, value in rows}
        for (split, name), value in values.items():
            if name == "loss" and not math.isfinite(value):
                raise self._diverged(f"its {split} loss at step {self.step} is {value}")
        total, n = self.sum.tolist()
        if n:
            rows = [*rows, ("train", "loss", total / n)]
        self.run.append_rows("metrics", [(self.step, *row) for row in rows])
        return values[self.watched]

    def _split_gradient(self, model: HookedStreamTransformer) -> None:
        model.eval()
        try:
            with self.intervening.at(self.step, counting=False):
                frame = self.task.split_gradient(model, self.task.held_out()).to_frame()
        except NotFiniteError as error:
            raise self._diverged(f"at step {self.step} {error}") from error
        model.train()
        self.run.append_rows("gradients", frame.assign(step=self.step).to_dict("records"))

    # --- stopping and going on ----------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model|{n}": p for n, p in self.model.state_dict().items()}
        tensors |= {f"optimizer|{n}": t for n, t in self.optimizer.state().items()} | {"sum": self.sum}
        return tensors | ({"interventions": self.intervening.counts.values} if self.config.interventions else {})

    def save(self) -> None:
        """Write all that is needed to go on from here with the same bits: weights, optimizer, step, what was seen."""
        values, splits = self.evaluations.saved(), self.splits
        about = {"step": self.step, "observed": self.observed, "values": values, "splits": splits}
        began = time.monotonic()
        with explained(self.run.path):
            self.group.save(self.run, self._tensors(), about)
        self.saved = time.monotonic()
        self.saving = self.saved - began

    def _resume(self) -> None:
        if self.group.rank == 0:
            self.run.keep_tokenizer(self.task.tokenizer)
        saved = self.group.load(self.run, self._tensors())
        if saved is not None:
            self._take(*saved)
        if self.group.rank == 0:
            self.run.keep_rows("metrics", len(self.evaluations.values))
            self.run.keep_rows("gradients", self.splits)

    def _take(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        own = self.model.state_dict()
        with torch.no_grad():
            for name, tensor in own.items():
                # The first versions saved no buffers of the classifier, which has only constants.
                tensor.copy_(tensors.get(f"model|{name}", tensor))
            self.sum.copy_(tensors.get("sum", self.sum))
        prefix = "optimizer|"
        self.optimizer.load({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        if self.config.interventions:
            self.intervening.counts.values.copy_(tensors["interventions"])
        self.step, self.observed, self.splits = about["step"], about["observed"], about.get("splits", 0)
        self.evaluations.resume(about)
        self._set_gates(since=0)

    def close(self) -> None:
        """Note how long this sitting took; close the run if it is done, else save where it is."""
        # Told to stop after the last update, it is not yet looked at there.
        ended = self.done and self.observed == self.step
        if not ended:
            self.save()
        if self.group.rank != 0:
            return
        session = {"from": self.first_step, "to": self.step, "seconds": round(time.monotonic() - self.started, 3)}
        self.run.append_session(session | {"tokens_per_second": round(self.tokens_per_second)})
        if ended:
            if self.config.interventions:
                self.run.record["interventions"] = self.intervening.counts.records()
            self.run.close()
