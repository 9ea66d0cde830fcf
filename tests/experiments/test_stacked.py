"""Seeds trained as a stack are the seeds trained one by one, whatever ends, changes or interrupts them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from circuits import HookedStreamTransformer, ModelConfig, icl_config
from circuits.config.streams import Stream
from circuits.interventions.intervention import Intervention, Zero
from circuits.sites import Site
from experiments.runs.config import RunConfig
from experiments.runs.logs import read_lines
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, Adam, At, Every, GateChange, Optimizer, Rate, StopAt
from experiments.tasks.in_context.batches import ICLBatch
from experiments.tasks.in_context.measures import CHUNK, WIDE_CHUNK, EvaluationSets
from experiments.tasks.in_context.task import ICLTask
from experiments.training import trainer as training
from experiments.training.stacked_seeds import (
    joined,
    require_stackable,
    stacked_losses,
    stacks,
    train_stacked,
)
from experiments.training.together import train
from experiments.training.trainer import Trainer
from tests.experiments.test_training import files_of, tiny
from tests.helpers import ALL, model_of

SEEDS = (0, 1, 2)


def seeds_of(variant: str = "value", seeds: Sequence[int] = SEEDS, **changes: Any) -> list[RunConfig]:
    return [tiny(variant, seed, **({"n_eval": 50} | changes)) for seed in seeds]


def dropped(seed: int) -> RunConfig:
    return dataclasses.replace(tiny(seed=seed), model=dataclasses.replace(tiny().model, dropout=0.1))


def stacked(root: Path, configs: Sequence[RunConfig], **how: Any) -> list[Run]:
    train_stacked([Run.at(root, config) for config in configs], **how)
    return [Run.at(root, config) for config in configs]


def separate(root: Path, configs: Sequence[RunConfig]) -> list[Run]:
    for config in configs:
        train([Run.at(root, config)])
    return [Run.at(root, config) for config in configs]


def weights(run: Run, step: int = -1) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.load_model(step).parameters()])


def distance(one: Run, other: Run) -> tuple[float, float]:
    """The largest difference of a parameter at any checkpoint, and of a metric at any evaluation."""
    assert one.checkpoints() == other.checkpoints()
    a, b = one.metrics(), other.metrics()
    assert a.drop(columns="value").equals(b.drop(columns="value"))
    steps = one.checkpoints()
    of_weights = max(float((weights(one, s) - weights(other, s)).abs().max()) for s in steps)
    return of_weights, float((a.value - b.value).abs().max())


def assert_equal(ours: Sequence[Run], theirs: Sequence[Run], parameters: float = 1e-5, metrics: float = 1e-5) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.config == other.config
        assert one.finished
        of_weights, of_metrics = distance(one, other)
        assert of_weights <= parameters, one
        assert of_metrics <= metrics, one


def stop_at_question(n: int) -> Callable[[], bool]:
    asked = iter(range(10_000))
    return lambda: next(asked) == n


@pytest.fixture
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


# --- stacked = separate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD(rate=0.1), Adam()], ids=["sgd", "adam"])
@pytest.mark.parametrize("variant", ["classic", "value", "value-stop", "value-gradient-only", "resformer-learned"])
@pytest.mark.usefixtures("double")
def test_stacked_is_separate_in_double_precision(tmp_path: Path, variant: str, optimizer: Optimizer) -> None:
    configs = seeds_of(variant, SEEDS[:2], optimizer=optimizer)
    ours, theirs = stacked(tmp_path / "stacked", configs), separate(tmp_path / "separate", configs)
    assert_equal(ours, theirs, 1e-9, 1e-9)
    assert all(float((weights(run) - weights(run, 0)).abs().max()) > 1e-3 for run in ours), "they learned something"


# Adam divides a gradient by its size: an entry whose gradient is rounding and no more moves by a part of the rate.
@pytest.mark.parametrize(
    ("variant", "optimizer", "bound"),
    [
        ("classic", SGD(rate=0.1), 1e-6),
        ("value", SGD(rate=0.1), 1e-6),
        ("value", Adam(rate=1e-4), 1e-5),
        ("value", Adam(), 5e-5),
        ("x-transformers", Adam(rate=1e-4), 1e-5),
    ],
)
def test_stacked_is_separate_in_single_precision(
    tmp_path: Path, variant: str, optimizer: Optimizer, bound: float
) -> None:
    """By the fast algebra, and by the hooked model where that does not apply (x-transformers)."""
    configs = seeds_of(variant, optimizer=optimizer)
    ours, theirs = stacked(tmp_path / "stacked", configs), separate(tmp_path / "separate", configs)
    assert_equal(ours, theirs, bound, 1e-5)


def doubled(batch: ICLBatch) -> ICLBatch:
    return dataclasses.replace(batch, items=batch.items.double(), label_vectors=batch.label_vectors.double())


def by_stack(models: Sequence[HookedStreamTransformer], batches: Sequence[ICLBatch]) -> tuple[Tensor, list[Tensor]]:
    """Losses and gradients, all parameters of one seed in a row."""
    states = [model.state_dict() for model in models]
    held = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    leaves = [held[name].requires_grad_() for name, _ in models[0].named_parameters()]
    losses = stacked_losses(models[0], held, batches)
    found = torch.autograd.grad(losses.sum(), leaves, allow_unused=True)
    whole = [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]
    return losses.detach(), [torch.cat([g[i].flatten() for g in whole]) for i in range(len(models))]


def by_itself(model: HookedStreamTransformer, batch: ICLBatch) -> tuple[Tensor, Tensor]:
    loss = ICLTask("small").fast_loss(model)(batch)
    leaves = list(model.parameters())
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return loss.detach(), torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(leaves, found, strict=True)]
    )


def models_of(config: ModelConfig) -> list[HookedStreamTransformer]:
    models = [model_of(config, seed).train() for seed in SEEDS]
    with torch.no_grad():
        for seed, model in enumerate(models):
            for name, parameter in model.named_parameters():
                if ".mix." in name:  # away from the start, where gains hide behind each other
                    generator = torch.Generator().manual_seed(seed)
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator).double())
    return models


MORE = {
    "three layers": icl_config("cumulative", "small", n_layers=3),
    "scaled, two streams": icl_config(
        "classic", "small", streams=(Stream("k"), Stream("q", gate="stop"), Stream("v", "k")), attention_scale=True
    ),
    "values of initial weights": icl_config("classic", "small", streams=(Stream("v", weights="initial"),)),
    "values of weights of their own": icl_config("classic", "small", streams=(Stream("v", weights="untied"),)),
}


@pytest.mark.parametrize("name", [*ALL, *MORE])
def test_every_variants_losses_and_gradients_are_those_of_the_models_by_themselves(name: str) -> None:
    models = models_of(MORE[name] if name in MORE else icl_config(name, "small"))
    batches = [doubled(ICLTask("small", seed).sample(8, seed=3)) for seed in SEEDS]
    losses, gradients = by_stack(models, batches)
    for model, batch, loss, gradient in zip(models, batches, losses, gradients, strict=True):
        expected = by_itself(model, batch)
        assert float((loss - expected[0]).abs()) < 1e-12
        assert float((gradient - expected[1]).abs().max()) < 1e-12
        assert float(gradient.abs().max()) > 1e-3, "gradients worth comparing"


def test_a_wrong_stack_would_be_seen(tmp_path: Path) -> None:
    """The negation: seeds stay different, from their start to their end, by far more than any bound here."""
    ours = stacked(tmp_path, seeds_of(optimizer=SGD(rate=0.1)))
    for one, other in ((0, 1), (1, 2)):
        of_weights, of_metrics = distance(ours[one], ours[other])
        assert of_weights > 1e-1
        assert of_metrics > 1e-2
        moved = [weights(ours[i]) - weights(ours[i], 0) for i in (one, other)]
        assert float((moved[0] - moved[1]).abs().max()) > 1e-3, "and so do their updates"


def test_joined_batches_hold_what_each_seed_drew() -> None:
    batches = [ICLTask("small", seed).sample(5, seed=7) for seed in SEEDS]
    inputs = joined(batches).inputs.unflatten(0, (3, 5))
    assert torch.equal(inputs, torch.stack([batch.inputs for batch in batches]))
    assert not torch.equal(inputs[0], inputs[1])


# --- what happens to single members -----------------------------------------------------------------------------------


def test_the_update_is_one_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("no run may make an update by itself")

    monkeypatch.setattr(Trainer, "update", refuse)
    assert all(run.finished for run in stacked(tmp_path, seeds_of()))


@pytest.mark.parametrize("optimizer", [SGD(rate=0.1), Adam(rate=1e-4)], ids=["sgd", "adam"])
def test_a_member_that_ends_early_leaves_the_others_as_they_were(tmp_path: Path, optimizer: Optimizer) -> None:
    configs = seeds_of(optimizer=optimizer, stop_at=StopAt(0.08, "test", 1), evaluate_at=(Every(4, 4),))
    ours, theirs = stacked(tmp_path / "stacked", configs), separate(tmp_path / "separate", configs)
    ends = [int(run.metrics().step.max()) for run in ours]
    assert min(ends) < max(ends), f"some must end before others, they ended at {ends}"
    assert_equal(ours, theirs)


def test_gates_change_at_their_step(tmp_path: Path) -> None:
    gates = (GateChange(4, "off"), GateChange(6, "stop", "v"), GateChange(9, "gradient-only"))
    configs = seeds_of(gates=gates, checkpoint_at=(Every(2, 2),), optimizer=SGD(rate=0.1))
    ours, theirs = stacked(tmp_path / "stacked", configs), separate(tmp_path / "separate", configs)
    assert_equal(ours, theirs)
    seen = [ours[0].load_model(step).config.streams[0].gate for step in (2, 4, 8, 12)]
    assert seen == ["full", "off", "stop", "gradient-only"]
    plain = stacked(tmp_path / "plain", seeds_of(checkpoint_at=(At((4, 6)),), optimizer=SGD(rate=0.1)))
    assert torch.equal(weights(ours[1], 4), weights(plain[1], 4))
    assert not torch.equal(weights(ours[1], 6), weights(plain[1], 6))


def test_gradients_by_route_and_rates_are_those_of_separate_runs(tmp_path: Path) -> None:
    rates = (Rate("blocks.0", 0.5), Rate("unembed", 0.0))
    configs = seeds_of(gradients_at=(At((0, 5)),), rates=rates, optimizer=SGD(rate=0.1, decay=0.0))
    ours, theirs = stacked(tmp_path / "stacked", configs), separate(tmp_path / "separate", configs)
    assert_equal(ours, theirs)
    for one, other in zip(ours, theirs, strict=True):
        a, b = (run.gradients().select_dtypes("number") for run in (one, other))
        assert len(a)
        assert np.allclose(a, b, atol=1e-5, equal_nan=True)
    last, first = (ours[0].load_model(step).W_U for step in (-1, 0))
    assert torch.equal(last, first), "what has the rate 0 stays"


def test_a_member_that_diverges_says_so_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = seeds_of(evaluate_at=(Every(4, 4),))
    theirs = separate(tmp_path / "separate", configs)
    start = Trainer.__init__

    def poisoned(self: Trainer, run: Run, *rest: Any) -> None:
        start(self, run, *rest)
        if run.config.seed == 1:
            self.parameters["unembed.W_U"].data.fill_(torch.nan)

    monkeypatch.setattr(Trainer, "__init__", poisoned)
    with pytest.raises(RunError, match=r"-s1-.* diverged: its test loss at step 4 is nan"):
        stacked(tmp_path / "stacked", configs)
    ours = [Run.at(tmp_path / "stacked", config) for config in configs]
    assert [run.status for run in ours] == ["finished", "failed", "finished"]
    assert_equal(ours[::2], theirs[::2], 5e-5)


# --- stopping and going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD(rate=0.1), Adam()], ids=["sgd", "adam"])
def test_stopping_saves_and_the_same_call_goes_on_with_the_same_bytes(tmp_path: Path, optimizer: Optimizer) -> None:
    configs = seeds_of(optimizer=optimizer, gates=(GateChange(3, "stop"),))
    whole = stacked(tmp_path / "whole", configs)
    with pytest.raises(KeyboardInterrupt):
        stacked(tmp_path / "stopped", configs, stop=stop_at_question(7))
    stopped = [Run.at(tmp_path / "stopped", config) for config in configs]
    for run in stopped:
        (session,) = read_lines(run.path / "sessions.jsonl")
        assert (session["from"], session["to"], run.status) == (0, 7, "interrupted")
    resumed = stacked(tmp_path / "stopped", configs)
    for one, other in zip(resumed, whole, strict=True):
        assert files_of(one) == files_of(other)


def test_killed_without_a_word_it_goes_on_from_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs = seeds_of()
    whole = stacked(tmp_path / "whole", configs)
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    for moment in (5, 4):
        asked = stop_at_question(moment)

        def die(asked: Callable[[], bool] = asked) -> bool:
            if asked():
                raise MemoryError
            return False

        with pytest.raises(MemoryError):
            stacked(tmp_path / "killed", configs, stop=die)
    assert (Run.at(tmp_path / "killed", configs[0]).path / "state.safetensors").exists()
    for one, other in zip(stacked(tmp_path / "killed", configs), whole, strict=True):
        assert files_of(one) == files_of(other)


def test_members_at_different_steps_catch_up_with_each_other(tmp_path: Path) -> None:
    """One seed is ahead, by itself and in another engine; then the stack takes all of them."""
    configs = seeds_of(optimizer=Adam(rate=1e-4))
    with pytest.raises(KeyboardInterrupt):
        train([Run.at(tmp_path / "late", configs[1])], stop=stop_at_question(9))
    ours, theirs = stacked(tmp_path / "late", configs), separate(tmp_path / "separate", configs)
    assert_equal(ours, theirs)
    assert {run.record["engine"] for run in ours} == {"stacked"}
    assert read_lines(ours[1].path / "sessions.jsonl")[-1]["from"] == 9


def test_a_stack_that_was_stopped_can_go_on_as_separate_runs(tmp_path: Path) -> None:
    configs = seeds_of(optimizer=Adam(rate=1e-4))
    with pytest.raises(KeyboardInterrupt):
        stacked(tmp_path / "stopped", configs, stop=stop_at_question(6))
    assert_equal(separate(tmp_path / "stopped", configs), separate(tmp_path / "whole", configs))


def test_a_finished_run_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [files_of(run) for run in stacked(tmp_path, seeds_of())]
    monkeypatch.setattr(Trainer, "__init__", lambda *_: pytest.fail("no model may be made"))
    assert [files_of(run) for run in stacked(tmp_path, seeds_of())] == before


def test_every_step_of_every_run_is_reported(tmp_path: Path) -> None:
    said: list[tuple[str, int, float]] = []
    ours = stacked(tmp_path, seeds_of(), report=lambda *about: said.append(about))
    assert {(name, step) for name, step, _ in said} == {(run.path.name, step) for run in ours for step in range(13)}


def test_wide_evaluation_sets_are_the_same_sequences() -> None:
    task = ICLTask("small")
    narrow, wide = (EvaluationSets(task, 1_200, chunk).chunks["ic"] for chunk in (CHUNK, WIDE_CHUNK))
    assert (len(narrow), len(wide)) == (3, 1)
    assert torch.equal(torch.cat([batch.items for batch in narrow]), wide[0].items)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configs", "message"),
    [
        (
            [tiny("value", 0), tiny("classic", 1)],
            "must differ in nothing but their seed, and .*value.* and .*classic.* differ in model.*streams.*of its own",
        ),
        ([tiny("value", 0), tiny("value", 1, batch_size=16)], r"differ in training.batch_size: 32 / 16; give every"),
        (
            [tiny("value", 0), tiny("value", 1, gates=(GateChange(2, "off"),))],
            "differ in training.gates",
        ),
        (
            [tiny("value", s, interventions=(Intervention(Site(1, "v"), Zero(), first=5),)) for s in SEEDS],
            "-s0-.* cannot be stacked: it has interventions, and they act on one model at a time; train it by",
        ),
        (
            [dropped(s) for s in SEEDS],
            "-s0-.* cannot be stacked: it has dropout, whose draws are each run's own; train it by",
        ),
        ([tiny("value", 3), tiny("value", 3)], r"must have a seed each, and \[3\] came more than once"),
    ],
)
def test_runs_that_cannot_be_stacked_are_told_why(tmp_path: Path, configs: list[RunConfig], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stacked(tmp_path, configs)


def test_runs_are_put_into_stacks_that_can_be_trained(tmp_path: Path) -> None:
    cut = tiny(interventions=(Intervention(Site(1, "v"), Zero(), first=5),))
    alone = [cut, dropped(0), dropped(1), tiny(clip=1.0)]
    configs = [*(tiny(v, seed) for seed in range(5) for v in ("classic", "value")), *alone]
    runs = [Run.at(tmp_path, config) for config in configs]
    groups = stacks(runs, most=3)
    found = [(group[0].config.variant, [run.config.seed for run in group]) for group in groups]
    classic, value = ([(v, [0, 2, 4]), (v, [1, 3])] for v in ("classic", "value"))
    assert found == [*classic, *value, *(("value", [config.seed]) for config in alone)]
    for group in groups[:4]:
        require_stackable(group)
    for group in groups[4:]:
        with pytest.raises(ValueError, match="cannot be stacked"):
            require_stackable(group)
    train([groups[5][0]])


def test_a_run_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    configs = seeds_of()
    with (
        Run.at(tmp_path, configs[2]).locked(),
        pytest.raises(RunError, match="another process is training .*-s2-.*; wait for it, or stop it first"),
    ):
        stacked(tmp_path, configs)
