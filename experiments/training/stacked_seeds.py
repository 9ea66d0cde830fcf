"""Many seeds of one configuration trained as one stack: one update of all of them at once.

A model of the in-context task leaves a graphics card idle: a step is a hundred short calls, whatever their size. Here
the parameters of all seeds are stacked (seed first) and every call does its work for all of them; vmap turns the
forward pass of one model into that of the stack. All else a run does by itself as always: it measures, writes
checkpoints, stops and resumes as :class:`experiments.training.trainer.Trainer`, on parameters that are rows of the
stack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from circuits.common.errors import require
from circuits.common.plain_data import canonical_json, differences
from circuits.last_position import last_logits, why_not
from circuits.model import HookedStreamTransformer
from experiments.runs.config import RunConfig
from experiments.runs.run import Run
from experiments.runs.training_config import AdamW
from experiments.tasks.in_context.batches import ICLBatch
from experiments.training.optimizers import make_optimizer, rate_at
from experiments.training.together import GoesOn, Report, never, silent, train_together, unfinished
from experiments.training.trainer import Trainer

ENGINE = "stacked"
"""What the record of a run that was trained here says of its engine."""

Weights = dict[str, Tensor]
"""Parameters and persistent buffers by name, (seed ...)."""


# --- one model, as a function that vmap can go through ---------------------------------------------------------------


class LastLogits(nn.Module):
    """The logits at the last position as a module, so that :func:`torch.func.functional_call` can exchange weights."""

    def __init__(self, model: HookedStreamTransformer, batch: ICLBatch):
        super().__init__()
        self.model, self.batch = model, batch
        self.fast = why_not(model.config) is None

    @property
    def inputs(self) -> Float[Tensor, "batch pos d_input"]:
        """The batch's sequences, in the order of tokens that ``forward`` takes them in."""
        return self.batch.tokens.x if self.fast else self.batch.inputs

    def forward(self, x: Float[Tensor, "batch pos d_input"]) -> Float[Tensor, "batch d_vocab_out"]:
        """Return the logits; by the fast algebra where it applies."""
        if self.fast:
            tokens = self.batch.tokens
            return last_logits(self.model, x, tokens.mask, tokens.n_items - 1)
        return self.model(x)[:, -1]


# --- the stack --------------------------------------------------------------------------------------------------------


def joined(batches: Sequence[ICLBatch]) -> ICLBatch:
    """Return the batches of several seeds as one, seed by seed; each finds its label vectors in one long table."""
    first, n_labels = batches[0], len(batches[0].label_vectors)
    in_table = [batch.context_labels + i * n_labels for i, batch in enumerate(batches)]

    def every(part: Callable[[ICLBatch], Tensor]) -> Tensor:
        return torch.cat([part(batch) for batch in batches])

    return ICLBatch(
        first.config,
        items=every(lambda batch: batch.items),
        context_labels=torch.cat(in_table),
        labels=every(lambda batch: batch.labels),
        classes=every(lambda batch: batch.classes),
        starts=every(lambda batch: batch.starts),
        label_vectors=every(lambda batch: batch.label_vectors),
    )


def stacked_losses(
    model: HookedStreamTransformer, weights: Weights, batches: Sequence[ICLBatch]
) -> Float[Tensor, " seed"]:
    """Return every seed's mean negative log-probability (nats) of the labels asked for, with row i of the weights.

    ``model`` says what is computed, gates included; its own weights are not used.
    """
    together = joined(batches)
    whole = LastLogits(model, together)

    def loss(own: Weights, x: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(whole, own, (x,)), labels)

    of_whole = {f"model.{name}": tensor for name, tensor in weights.items()}
    x, labels = (part.unflatten(0, (len(batches), -1)) for part in (whole.inputs, together.labels))
    return torch.vmap(loss)(of_whole, x, labels)


class Stack:
    """Trainers of different seeds at the same step, updated together.

    From the first update on, the stacked tensors are the truth: the trainers' parameters and optimizer states are
    views into them.
    """

    def __init__(self, members: Sequence[Trainer]):
        self.members, self.shared = list(members), False
        states = [member.model.state_dict() for member in members]
        self.weights: Weights = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        self.parameters = {name: self.weights[name].requires_grad_() for name in members[0].parameters}
        config = members[0].config
        self.optimizer = make_optimizer(config.optimizer, self.parameters, config.rates)
        self.optimizer.load(self._optimizer_state())

    def update(self) -> None:
        """Make one update of every member."""
        for parameter in self.parameters.values():
            parameter.grad = None
        batches = [member.draw() for member in self.members]
        # No member's loss depends on another's weights, so the sum's gradient is each member's own.
        stacked_losses(self.members[0].model, self.weights, batches).sum().backward()
        first = self.members[0]
        if isinstance(first.config.optimizer, AdamW):
            self.optimizer.set_rate(rate_at(first.config.optimizer, first.step, first.config.steps))
        self.optimizer.step()
        if not self.shared:
            self._share()
        for member in self.members:
            member.step += 1

    def _optimizer_state(self) -> dict[str, Tensor]:
        states = [member.optimizer.state() for member in self.members]
        return {
            name: value.clone() if _counts_steps(name) else torch.stack([state[name] for state in states])
            for name, value in states[0].items()
        }

    def _share(self) -> None:
        # Only now: torch makes an optimizer's state at its first step.
        state = self.optimizer.state()
        for i, member in enumerate(self.members):
            for name, parameter in member.parameters.items():
                parameter.data = self.parameters[name].detach()[i]
            member.optimizer.load({n: value if _counts_steps(n) else value[i] for n, value in state.items()})
        self.shared = True


def _counts_steps(name: str) -> bool:
    # The one thing that torch's optimizers keep per tensor and not per entry; members are at the same step.
    return name.endswith("|step")


class Stacking:
    """Updates whatever trainers are at the same step by one stack, made anew when others are."""

    def __init__(self) -> None:
        self.stack: Stack | None = None

    def __call__(self, here: Sequence[Trainer], goes_on: GoesOn) -> None:
        """Make one update of all trainers in ``here``."""
        if self.stack is None or self.stack.members != list(here):
            self.stack = Stack(here)
        self.stack.update()


# --- training ---------------------------------------------------------------------------------------------------------


def require_stackable(runs: Sequence[Run]) -> None:
    """Raise unless the runs differ in their seeds, and in nothing else, and none must be trained by itself.

    Raises:
        ValueError: naming the run and what keeps it out of the stack.
    """
    first = runs[0]
    for run in runs:
        why = _why_alone(run.config)
        require(why is None, f"{run.path.name} cannot be stacked: {why}; train it by experiments.training")
        found = differences(_but_seed(first), _but_seed(run))
        require(
            not found,
            f"runs that train stacked must differ in nothing but their seed, and {first.path.name} and {run.path.name} "
            f"differ in {'; '.join(found)}; give every configuration a call of its own",
        )
    seeds = [run.config.seed for run in runs]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    require(not twice, f"runs that train stacked must have a seed each, and {twice} came more than once")


def _why_alone(config: RunConfig) -> str | None:
    """What keeps a run out of every stack, or ``None``."""
    if config.kind != "icl":
        return "a stack is of in-context classifiers"
    reasons = {
        "its gradients are clipped, and a stack clips none": config.training.clip is not None,
        "it has interventions, and they act on one model at a time": bool(config.training.interventions),
        "it has dropout, whose draws are each run's own": bool(config.model.dropout),
    }
    return next((why for why, holds in reasons.items() if holds), None)


def stacks(runs: Sequence[Run], most: int) -> list[list[Run]]:
    """Return the runs in groups that :func:`train_stacked` takes, as even as can be and none above ``most`` runs.

    A run that :func:`require_stackable` refuses is a group by itself, for :func:`experiments.training.together.train`.
    """
    together: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        alone = "" if _why_alone(run.config) is None else run.path.name
        together[canonical_json([run.config.variant, run.config.preset, _but_seed(run), alone])].append(run)
    cut = ((group, -(-len(group) // most)) for group in together.values())
    return [group[part::parts] for group, parts in cut for part in range(parts)]


def _but_seed(run: Run) -> dict[str, Any]:
    plain = run.config.to_plain()
    return {part: plain[part] for part in ("model", "task", "training")}


def train_stacked(
    runs: Sequence[Run], device: str = "cpu", report: Report = silent, stop: Callable[[], bool] = never
) -> None:
    """Train runs of different seeds and one configuration to their ends, as
    :func:`experiments.training.together.train` would.

    Parameters and metrics are equal to those of separate runs up to rounding. ``stop`` is asked between steps; once it
    says so, every run is saved and ``KeyboardInterrupt`` raised; the same call goes on from there. Runs whose saved
    states are at different steps first catch up with each other.

    Raises:
        ValueError: if the runs cannot be stacked, saying why (:func:`require_stackable`).
        RunError: as :func:`experiments.training.together.train`.
    """
    runs = unfinished(runs)
    if not runs:
        return
    require_stackable(runs)
    with ExitStack() as locks:
        for run in runs:
            locks.enter_context(run.locked())
        train_together([_trainer(run, device) for run in unfinished(runs)], Stacking(), report, stop)


def _trainer(run: Run, device: str) -> Trainer:
    run.record["engine"] = ENGINE
    run.write_record()
    task = run.task(device)
    return Trainer(run, task, task.evaluation_sets(run.config.training), device)
