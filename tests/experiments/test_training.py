"""Training: the updates are the stated ones, runs share batches but not each other's fate, gates change on time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from circuits import HookedStreamTransformer, icl_config
from experiments.runs.config import TRAINING, RunConfig, icl_run
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, Adam, At, Every, GateChange, LogLinear, StopAt, scheduled
from experiments.tasks.in_context.measures import EvaluationSets, evaluate, measure
from experiments.tasks.in_context.task import ICLTask
from experiments.training.engines import choose_compute
from experiments.training.optimizers import make_optimizer
from experiments.training.together import train
from experiments.training.trainer import Trainer

TINY = dataclasses.replace(
    TRAINING["small"], steps=12, evaluate_at=(Every(4),), checkpoint_at=(Every(6),), n_eval=64, batch_size=32
)


def tiny(variant: str = "value", seed: int = 0, **changes: Any) -> RunConfig:
    return icl_run(variant, "small", seed, dataclasses.replace(TINY, **changes))


def trained(root: Path, config: RunConfig) -> Run:
    train([Run.at(root, config)])
    return Run.at(root, config)


# --- updates ----------------------------------------------------------------------------------------------------------


def test_sgd_decays_everything_and_not_by_the_rate() -> None:
    model = HookedStreamTransformer(icl_config("value", "small"))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = make_optimizer(SGD(rate=0.01, decay=1e-3), dict(model.named_parameters()))
    batch = ICLTask("small").sample(16)
    ICLTask("small").fast_loss(model)(batch).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        expected = (1 - 1e-3) * before[name] - 0.01 * parameter.grad
        assert torch.allclose(parameter.detach(), expected, atol=1e-7), name


def test_adam_is_adam() -> None:
    a, b = (HookedStreamTransformer(icl_config("value", "small")) for _ in range(2))
    ours = make_optimizer(Adam(rate=2e-3), dict(a.named_parameters()))
    theirs = torch.optim.Adam(b.parameters(), lr=2e-3)
    for step in range(4):
        batch = ICLTask("small").sample(16, seed=step)
        a.zero_grad()
        F.cross_entropy(a(batch.inputs)[:, -1], batch.labels).backward()
        # The same gradients for both: Adam makes whole steps of what is rounding where they are nothing.
        for mine, other in zip(a.parameters(), b.parameters(), strict=True):
            other.grad = None if mine.grad is None else mine.grad.clone()
        ours.step()
        theirs.step()
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("variant", ["value", "x-transformers"])
def test_one_step_of_a_run_is_the_step_by_hand(tmp_path: Path, variant: str) -> None:
    """The fast path (value) and the hooked model (x-transformers, where it does not apply) step alike."""
    run = trained(tmp_path, tiny(variant, steps=2, checkpoint_at=(Every(1),), optimizer=SGD(rate=0.1, decay=0.0)))
    model = run.load_model(0).train()
    for step in range(2):
        batch = run.task().sample(32, "train", seed=step)
        model.zero_grad()
        F.cross_entropy(model(batch.inputs)[:, -1], batch.labels).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad  # type: ignore[operator] # every parameter has one
        after = run.load_model(step + 1)
        for p, q in zip(model.parameters(), after.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-6)


def test_the_trained_model_is_the_seeds_start_and_learns(trained_runs: Path) -> None:
    for variant in ("classic", "value"):
        run = Run.find(f"icl-{variant}-small-s0", trained_runs)
        start = HookedStreamTransformer(run.config.model, seed=0)
        assert all(torch.equal(p, q) for p, q in zip(start.parameters(), run.load_model(0).parameters(), strict=True))
        metrics = run.metrics()
        ic = metrics[(metrics.split == "ic") & (metrics.measure == "accuracy")].set_index("step").value
        assert ic[0] < 0.1
        assert ic[1000] > 0.95
        tila = metrics[(metrics.split == "ic") & (metrics.measure == "tila")].set_index("step").value
        assert tila[1000] > 0.6
        assert tila[0] < 0.2


# --- schedules --------------------------------------------------------------------------------------------------------


def test_schedules() -> None:
    assert scheduled([Every(5)], 12) == {0, 5, 10, 12}
    assert scheduled([Every(5, 3, 9)], 12) == {3, 8, 12}
    assert scheduled([At((1, 7, 99))], 12) == {1, 7, 12}
    assert scheduled([], 12) == {12}
    log = sorted(scheduled([LogLinear(2)], 70))
    assert log == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 70]
    assert scheduled([Every(6), At((1,))], 12) == {0, 1, 6, 12}


def test_runs_are_looked_at_when_the_schedule_says(tmp_path: Path) -> None:
    run = trained(tmp_path, tiny())
    assert sorted(run.metrics().step.unique()) == [0, 4, 8, 12]
    assert run.checkpoints() == [0, 6, 12]
    assert set(run.metrics().split) == {"test", "ic", "ic2", "iw"}
    assert set(run.metrics().measure) == {"accuracy", "loss", "ila", "tila", "tla", "cla"}


def test_long_runs_are_compiled_where_that_pays() -> None:
    assert choose_compute(icl_run("value", "small")) == "eager"
    assert choose_compute(icl_run("x-transformers", "paper")) == "eager"
    assert choose_compute(icl_run("value", "paper")) in ("compiled", "eager")


# --- evaluation -------------------------------------------------------------------------------------------------------


def test_measures_against_the_hooked_model_by_hand() -> None:
    task = ICLTask("small")
    model = HookedStreamTransformer(icl_config("value", "small")).eval()
    batch = task.sample(300, "ic")
    found = measure(model, [batch[:256], batch[256:]])
    logits, cache = model.run_with_cache(batch.inputs)
    last, probabilities = logits[:, -1], logits[:, -1].softmax(-1)
    labels = torch.arange(1, 17, 2)
    to_target = cache["pattern", 1][:, 0, 16]
    present = [probabilities[i, sorted(set(batch.context_labels[i].tolist()))].sum() for i in range(300)]
    expected = {
        "accuracy": (last.argmax(-1) == batch.labels).float().mean(),
        "loss": F.cross_entropy(last, batch.labels),
        "ila": cache["pattern", 0][:, 0, labels, labels - 1].mean(),
        "tila": (to_target[:, labels] * batch.matches).sum(-1).mean(),
        "tla": to_target[:, labels].sum(-1).mean(),
        "cla": torch.stack(present).mean(),
    }
    assert found == pytest.approx({name: float(v.detach()) for name, v in expected.items()}, abs=1e-5)


def test_training_mode_is_not_measured() -> None:
    model = HookedStreamTransformer(icl_config("value", "small")).train()
    with pytest.raises(ValueError, match=r"measured in evaluation mode; call model.eval\(\) first"):
        evaluate(model, EvaluationSets(ICLTask("small"), 8))


# --- together and apart ---------------------------------------------------------------------------------------------


def files_of(run: Run) -> dict[str, bytes]:
    """Every file of a run but the one that tells how long it took."""
    files = (f for f in run.path.rglob("*") if f.is_file() and f.name not in ("sessions.jsonl", ".lock"))
    return {str(f.relative_to(run.path)): f.read_bytes() for f in files}


def test_runs_that_share_their_batches_are_the_runs_they_would_be_alone(tmp_path: Path) -> None:
    variants = ["classic", "value", "value-stop"]
    alone = [trained(tmp_path / "alone", tiny(v)) for v in variants]
    train([Run.at(tmp_path / "together", tiny(v)) for v in variants])
    together = [Run.at(tmp_path / "together", tiny(v)) for v in variants]
    for one, shared in zip(alone, together, strict=True):
        assert files_of(one) == files_of(shared)
    assert files_of(alone[0]) != files_of(alone[1])


def test_the_same_run_twice_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = (trained(tmp_path / name, tiny()) for name in ("a", "b"))
    assert files_of(first) == files_of(second)
    other = trained(tmp_path / "c", tiny(seed=1))
    assert other.path.name != first.path.name
    assert files_of(other)["metrics.parquet"] != files_of(first)["metrics.parquet"]


def test_runs_that_cannot_share_are_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must share task, seed, batch size and evaluation sets"):
        train([Run.at(tmp_path, tiny(seed=s)) for s in (0, 1)])


# --- gates, early ends, divergence ------------------------------------------------------------------------------------


def test_gates_change_at_their_step(tmp_path: Path) -> None:
    changes = (GateChange(4, "off"), GateChange(8, "stop", "v"))
    run = trained(tmp_path, tiny(gates=changes, checkpoint_at=(Every(2),)))
    gates = {step: run.load_model(step).config.streams[0].gate for step in run.checkpoints()}
    assert gates == {0: "full", 2: "full", 4: "off", 6: "off", 8: "stop", 10: "stop", 12: "stop"}
    plain = trained(tmp_path, tiny(checkpoint_at=(Every(2),)))

    def weights(r: Run, step: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in r.load_model(step).parameters()])

    assert torch.equal(weights(run, 4), weights(plain, 4)), "until the change nothing differs"
    assert not torch.equal(weights(run, 6), weights(plain, 6))


def test_a_run_ends_early_once_it_holds_its_accuracy(tmp_path: Path) -> None:
    run = trained(tmp_path, tiny(stop_at=StopAt(0.0, evaluations=2)))
    assert run.finished
    assert run.metrics().step.max() == 4
    assert run.checkpoints() == [0, 4], "with a checkpoint where it ended"
    never = trained(tmp_path, tiny(stop_at=StopAt(1.0, evaluations=2)))
    assert never.metrics().step.max() == 12


def test_a_run_that_diverges_says_so_and_lets_the_others_go_on(tmp_path: Path) -> None:
    wild, calm = tiny(optimizer=SGD(rate=1e30)), tiny("classic")
    with pytest.raises(RunError, match=r"diverged: its test loss at step \d+ is nan.*Use a smaller rate"):
        train([Run.at(tmp_path, wild), Run.at(tmp_path, calm)])
    assert Run.at(tmp_path, calm).finished
    assert Run.at(tmp_path, wild).status == "failed"
    assert np.isfinite(Run.at(tmp_path, wild).metrics().value).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny(steps=0), "steps must be positive, got 0"),
        (lambda: tiny("classic", gates=(GateChange(3, "off"),)), "gates change on a model without a stream"),
        (lambda: icl_run("value", "smal"), "unknown preset 'smal': did you mean 'small'"),
        (lambda: icl_run("value", "small", d_modle=3), "unknown field of ModelConfig 'd_modle'"),
        (
            lambda: dataclasses.replace(icl_run("value", "small"), model=icl_config("value", "paper")),
            "the task's tokens have 17 positions and width 64, the model has 65 and 150; use the same preset",
        ),
        (lambda: RunConfig.from_plain(icl_run().to_plain() | {"sed": 1}), "unknown field of RunConfig 'sed'"),
    ],
)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_run_configurations_survive_storage_and_their_name_is_their_content() -> None:
    config = tiny(gates=(GateChange(4, "off"),), stop_at=StopAt(0.9), evaluate_at=(LogLinear(), At((3,))))
    assert RunConfig.from_plain(config.to_plain()) == config
    assert config.id == tiny(gates=(GateChange(4, "off"),), stop_at=StopAt(0.9), evaluate_at=(LogLinear(), At((3,)))).id
    assert config.id != tiny().id
    assert tiny().name.startswith("icl-value-small-s0-")


def test_a_trainer_starts_where_its_seed_says(tmp_path: Path) -> None:
    run = Run.at(tmp_path, tiny())
    trainer = Trainer(run, task := run.task(), EvaluationSets(task, 8))
    assert trainer.step == 0
    assert not trainer.done
    assert np.isnan(trainer.value)
