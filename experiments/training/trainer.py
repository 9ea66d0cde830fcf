"""Training: runs of one seed share their batches, and each of them can be stopped and resumed at any step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor

from analysis.gradients.shares import NotFiniteError
from circuits.interventions.applied import Intervening, NothingChangedError
from circuits.last_position import run_last, why_not
from circuits.model import HookedStreamTransformer
from experiments.runs.config import RunConfig, Schedule
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.tasks.in_context.measures import EvaluationSets, evaluate, split_loss
from experiments.tasks.in_context.task import ICLBatch, ICLTask
from experiments.training.compiled_step import (
    compiled_backward,
    compiled_run_last,
    compiles,
    eager_backward,
    make_optimizer,
)

SAVE_SECONDS = 20.0
"""How much work a killed process may lose."""
COMPILE_FROM = 20_000
"""Runs of at least so many steps are compiled where a compiler is found; below, compiling costs more than it saves."""

Report = Callable[[str, int, float], None]
"""Called with a run's name, its step and its last accuracy; how progress bars learn of progress."""


def silent(_run: str, _step: int, _accuracy: float) -> None:
    """Report nothing."""


def never() -> bool:
    """Return that training is not to stop."""
    return False


def choose_compute(config: RunConfig) -> str:
    """Return ``"compiled"`` or ``"eager"``, whichever suits a run on this machine."""
    pays = config.training.steps >= COMPILE_FROM and why_not(config.model) is None
    return "compiled" if pays and compiles() else "eager"


def scheduled(schedules: Iterable[Schedule], total: int) -> set[int]:
    """Return the steps of several schedules together, always with the last step."""
    return {total}.union(*(schedule.steps(total) for schedule in schedules))


class Trainer:
    """One run in training: its model, its optimizer, and the step it is at."""

    def __init__(self, run: Run, sets: EvaluationSets, device: str = "cpu"):
        self.run, self.sets, self.config = run, sets, run.config.training
        self.model = HookedStreamTransformer(run.config.model, seed=run.config.seed).to(device).train()
        self.parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        self.optimizer = make_optimizer(self.config.optimizer, self.parameters, self.config.rates)
        compiled = run.record["engine"] == "compiled"
        self.backward = (compiled_backward if compiled else eager_backward)(self.model)
        self.hooked_backward = eager_backward(self.model, hooked=True)
        self.fast = compiled_run_last() if compiled else run_last
        self.intervening = Intervening(self.model, self.config.interventions, at_step=run.load_model)
        self.evaluate_at = scheduled(self.config.evaluate_at, self.config.steps)
        self.checkpoint_at = scheduled(self.config.checkpoint_at, self.config.steps)
        self.frozen_at = {i.first for i in self.config.interventions if i.operation.freezes}
        self.gradients_at = scheduled(self.config.gradients_at, self.config.steps) if self.config.gradients_at else ()
        self.step, self.observed, self.accuracies, self.splits = 0, -1, list[float](), 0
        self.started = self.saved = time.monotonic()
        self._resume()
        self.first_step = self.step

    @property
    def done(self) -> bool:
        """Whether the last step is reached, or the condition to stop early holds."""
        stop = self.config.stop_at
        recent = self.accuracies[-stop.evaluations :] if stop else []
        held = stop is not None and len(recent) == stop.evaluations and min(recent) >= stop.accuracy
        return self.step >= self.config.steps or held

    @property
    def accuracy(self) -> float:
        """The last accuracy on the split that is watched: ic, or the one that the run stops by."""
        return self.accuracies[-1] if self.accuracies else math.nan

    def observe(self) -> None:
        """Do what is due at this step before its update, once: gates, measurements, checkpoint; sometimes save.

        Raises:
            RunError: if the loss is no longer finite, or the disk is full.
        """
        if self.step > self.observed:
            self._set_gates(since=self.step)
            if self.step in self.frozen_at:
                # What is frozen is read back, from now on, so that a resumed run has the same.
                self.run.write_checkpoint(self.model, self.step)
            if self.step in self.evaluate_at:
                self._evaluate()
            if self.step in self.gradients_at or (self.gradients_at and self.done):
                self._split_gradient()
            if self.step in self.checkpoint_at or self.done:
                self.run.write_checkpoint(self.model, self.step)
            self.observed = self.step
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def update(self, batch: ICLBatch) -> None:
        """Make one update, with the interventions that act at this step.

        Raises:
            RunError: if one of them changes nothing at its first step.
        """
        with self.intervening.at(self.step) as acting:
            (self.hooked_backward if acting else self.backward)(batch)
        if acting:
            self._require_change()
        self.optimizer.step()
        self.step += 1

    def _require_change(self) -> None:
        begun = [i for i in self.config.interventions if self.step == i.first]
        try:
            self.intervening.counts.require_change(begun)
        except NothingChangedError as error:
            raise self._failed(f"at step {self.step} an intervention did nothing: {error}") from error

    def _set_gates(self, since: int) -> None:
        for change in sorted(self.config.gates, key=lambda change: change.step):
            if since <= change.step <= self.step:
                self.model.set_gate(change.gate, change.carrier)

    def _evaluate(self) -> None:
        self.model.eval()
        with self.intervening.at(self.step, counting=False):
            rows = evaluate(self.model, self.sets, self.fast)
        self.model.train()
        values = {(split, name): value for split, name, value in rows}
        if not math.isfinite(values["test", "loss"]):
            raise self._diverged(f"its test loss at step {self.step} is {values['test', 'loss']}")
        self.run.append_rows("metrics", [(self.step, *row) for row in rows])
        split = self.config.stop_at.split if self.config.stop_at else "ic"
        self.accuracies.append(values[split, "accuracy"])

    def _split_gradient(self) -> None:
        self.model.eval()
        try:
            with self.intervening.at(self.step, counting=False):
                frame = split_loss(self.model, self.sets.held_out).to_frame()
        except NotFiniteError as error:
            raise self._diverged(f"at step {self.step} {error}") from error
        self.model.train()
        self.run.append_rows("gradients", frame.assign(step=self.step).to_dict("records"))
        self.splits += 1

    def _diverged(self, why: str) -> RunError:
        kept = "what was measured before is kept. Use a smaller rate, or another variant"
        return self._failed(f"diverged: {why}; {kept}")

    def _failed(self, why: str) -> RunError:
        self.run.record["status"] = "failed"
        self.run.write_record()
        return RunError(f"{self.run.path.name} {why}")

    # --- stopping and going on ----------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all that is needed to go on from here with the same bits: weights, optimizer, step, what was seen."""
        tensors = {f"model|{n}": p for n, p in self.parameters.items()}
        tensors |= {f"optimizer|{n}": t for n, t in self.optimizer.state().items()}
        if self.config.interventions:
            tensors["interventions"] = self.intervening.counts.values
        about = {"step": self.step, "observed": self.observed, "accuracies": self.accuracies, "splits": self.splits}
        self.run.write_state(tensors, about)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        saved = self.run.read_state()
        if saved is None:
            self._keep_rows()
            return
        tensors, about = saved
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"model|{name}"])
        prefix = "optimizer|"
        self.optimizer.load({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        if self.config.interventions:
            self.intervening.counts.values.copy_(tensors["interventions"])
        self.step, self.observed, self.accuracies = about["step"], about["observed"], about["accuracies"]
        self.splits = about["splits"]
        self._keep_rows()
        self._set_gates(since=0)

    def _keep_rows(self) -> None:
        self.run.keep_rows("metrics", len(self.accuracies))
        self.run.keep_rows("gradients", self.splits)

    def close(self) -> None:
        """Note how long this sitting took; close the run if it is done, else save where it is."""
        seconds = round(time.monotonic() - self.started, 3)
        self.run.append_session({"from": self.first_step, "to": self.step, "seconds": seconds})
        if self.done:
            if self.config.interventions:
                self.run.record["interventions"] = self.intervening.counts.records()
            self.run.close()
        else:
            self.save()


def train(runs: Sequence[Run], device: str = "cpu", report: Report = silent, stop: Callable[[], bool] = never) -> None:
    """Train runs that share task, seed and batch size to their ends; those that are finished cost nothing.

    Every batch is drawn once and given to all runs that are at its step. ``stop`` is asked between steps; once it says
    so, every run is saved and ``KeyboardInterrupt`` raised. However a run ends, the same call goes on from the last
    saved state and finishes with the same bytes.

    Raises:
        ValueError: if the runs cannot share their batches.
        RunError: if another process trains one of them, or, after the others have ended, if one diverged or could not
            be written.
    """
    runs = unfinished(runs)
    if not runs:
        return
    shared = {(r.config.task, r.config.seed, r.config.training.batch_size, r.config.training.n_eval) for r in runs}
    if len(shared) > 1:
        raise ValueError("runs that train together must share task, seed, batch size and evaluation sets")
    with ExitStack() as locks:
        for run in runs:
            locks.enter_context(run.locked())
        task = runs[0].task(device)
        sets = EvaluationSets(task, runs[0].config.training.n_eval)
        update = partial(_update_each, task)
        train_together([Trainer(run, sets, device) for run in unfinished(runs)], update, report, stop)


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are still to be trained; of the others, drop what a kill at their very end left behind."""
    for run in runs:
        if run.finished:
            run.tidy()
    return [run for run in runs if not run.finished]


GoesOn = Callable[[Trainer, Callable[[], None]], bool]
"""Does something for a run and says whether the run goes on: one that fails leaves the others alone."""
Update = Callable[[Sequence[Trainer], GoesOn], None]
"""Makes one update of runs that are all at the same step."""


def _update_each(task: ICLTask, here: Sequence[Trainer], goes_on: GoesOn) -> None:
    batch = task.sample(here[0].config.batch_size, "train", seed=here[0].step)
    for trainer in here:
        goes_on(trainer, partial(trainer.update, batch))


def train_together(active: list[Trainer], update: Update, report: Report, stop: Callable[[], bool]) -> None:
    """Bring runs to their ends, those that are behind first; a run that ends leaves the list ``active``.

    Raises:
        KeyboardInterrupt: once ``stop`` says so, with every run saved.
        RunError: as :func:`train`.
    """
    failed: list[RunError] = []

    def goes_on(trainer: Trainer, doing: Callable[[], None]) -> bool:
        try:
            doing()
        except RunError as error:
            failed.append(error)
            active.remove(trainer)
            return False
        return True

    while active:
        if stop():
            for trainer in active:
                trainer.close()
            raise KeyboardInterrupt
        step = min(trainer.step for trainer in active)
        for trainer in [trainer for trainer in active if trainer.step == step]:
            if not goes_on(trainer, trainer.observe):
                continue
            report(trainer.run.path.name, step, trainer.accuracy)
            if trainer.done and goes_on(trainer, trainer.close):
                active.remove(trainer)
        here = [trainer for trainer in active if trainer.step == step]
        if here:
            update(here, goes_on)
    if failed:
        raise failed[0]
