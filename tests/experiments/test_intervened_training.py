"""Interventions while a model trains: in their window, and nowhere else; recorded, and resumed to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from circuits import Intervention, Site, intervened
from circuits.interventions.intervention import (
    Attend,
    CutForward,
    CutGradient,
    Freeze,
    FromRun,
    Mean,
    Operation,
    Resample,
    Without,
    Zero,
)
from experiments.runs.config import RunConfig
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, At, Every, GateChange
from experiments.tasks.in_context.measures import EvaluationSets
from experiments.training import trainer as training
from experiments.training.together import train
from experiments.training.trainer import Trainer
from tests.experiments.test_training import files_of, tiny, trained

PATTERN = Site(0, "pattern")


def with_(*interventions: Intervention, variant: str = "value", **changes: Any) -> RunConfig:
    return tiny(variant, interventions=interventions, **{"checkpoint_at": (Every(2),), **changes})


def weights(run: Run, step: int) -> torch.Tensor:
    return torch.cat([p.flatten() for p in run.load_model(step).parameters()])


@pytest.mark.parametrize("variant", ["value", "x-transformers", "classic"])
def test_before_its_window_nothing_differs_and_from_then_on_everything_does(tmp_path: Path, variant: str) -> None:
    plain = trained(tmp_path, tiny(variant, checkpoint_at=(Every(2),)))
    run = trained(tmp_path, with_(Intervention(PATTERN, Attend("previous"), 1.0, 6, 8), variant=variant))
    for step in (0, 2, 4, 6):
        assert torch.equal(weights(run, step), weights(plain, step)), step
    assert not torch.equal(weights(run, 8), weights(plain, 8))

    def measured(r: Run, step: int) -> list[float]:
        return r.metrics().query(f"step == {step}").value.tolist()

    assert measured(run, 4) == measured(plain, 4)
    assert measured(run, 12) != measured(plain, 12)
    assert plain.path != run.path


@pytest.mark.parametrize("operation", [Zero(), Mean(), Resample(1), CutForward(), CutGradient()])
def test_a_step_is_the_step_by_hand(tmp_path: Path, operation: Operation) -> None:
    intervention = Intervention(Site(0, "v", position=2), operation, 0.5, first=1)
    run = trained(tmp_path, with_(intervention, steps=2, checkpoint_at=(Every(1),), optimizer=SGD(0.1, 0.0)))
    model, batch = run.load_model(1).train(), run.task().sample(32, "train", seed=1)
    with intervened(model, [intervention]) as counts:
        F.cross_entropy(model(batch.inputs)[:, -1], batch.labels).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.1 * parameter.grad  # type: ignore[operator] # every parameter has one
    for ours, theirs in zip(model.parameters(), run.load_model(2).parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert run.record["interventions"] == counts.records()


def test_the_run_records_what_acted_and_how_often(tmp_path: Path) -> None:
    both = Intervention(PATTERN, Attend("previous"), 0.5, 3, 8), Intervention(Site(1, "v"), CutGradient(), first=10)
    run = trained(tmp_path, with_(*both))
    stored = json.loads((run.path / "run.json").read_text())
    assert [(r["operation"], r["fired"]) for r in stored["interventions"]] == [
        ("Attend(to='previous')", 5),
        ("CutGradient()", 2),
    ]
    assert all(0 < r["changed_mean"] <= r["changed_max"] for r in stored["interventions"])
    assert RunConfig.from_plain(stored["config"]).training.interventions == both
    assert "interventions" not in trained(tmp_path, tiny()).record


def test_evaluations_see_the_model_with_what_acts_then(tmp_path: Path) -> None:
    run = trained(tmp_path, with_(Intervention(PATTERN, Attend("previous"), 1.0, 4, 8)))
    ila = run.metrics().query("split == 'ic' and measure == 'ila'").set_index("step").value
    assert ila[4] == pytest.approx(1.0), "every label attends to the item before it"
    assert (ila[[0, 8, 12]] < 0.5).all()


def test_a_frozen_pattern_is_that_of_the_windows_first_step_while_the_weights_move(tmp_path: Path) -> None:
    frozen = Intervention(Site(1, "pattern"), Freeze(), first=3)
    sgd: dict[str, Any] = {"evaluate_at": (At((3, 7)),), "optimizer": SGD(0.5, 0.0)}
    run, plain = trained(tmp_path, with_(frozen, **sgd)), trained(tmp_path, with_(**sgd))
    assert 3 in run.checkpoints(), "kept, so that it can be read back"
    tla, moving = (dict(iter(r.metrics().query("measure == 'tla'").groupby("step").value)) for r in (run, plain))
    assert tla[3].tolist() == tla[7].tolist() == tla[12].tolist()
    assert moving[3].tolist() != moving[12].tolist()
    assert run.record["interventions"][0]["changed_max"] > 0, "the weights before it have moved"
    for name in ("W_Q", "W_K", "W_V"):
        then, now = (getattr(run.load_model(step).layers[1].attn, name) for step in (3, 12))
        assert torch.equal(then, now) == (name != "W_V"), "only what the pattern alone is made of stops learning"


def test_an_activation_from_another_run_while_training(tmp_path: Path) -> None:
    other = trained(tmp_path, tiny(seed=0, optimizer=SGD(0.5, 0.0)))
    taken = Intervention(PATTERN, FromRun(str(other.checkpoint_path(12))), first=2)
    run = trained(tmp_path, with_(taken))
    of_other = other.metrics().query("measure == 'ila' and step == 12").value
    found = run.metrics().query("measure == 'ila' and step == 12").value
    assert found.tolist() == pytest.approx(of_other.tolist(), abs=1e-6)


EVERYTHING = with_(
    Intervention(PATTERN, Freeze(), 1.0, 3, 9),
    Intervention(Site(0, "v"), Mean(), 0.5, 5),
    Intervention(Site(1, "v", "residual"), CutGradient(), 1.0, 0, 7),
    Intervention(Site(1, "v"), Without(0), 1.0, 2, 10),
    gates=(GateChange(6, "stop"),),
    gradients_at=(At((4, 8)),),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of(trained(tmp_path_factory.mktemp("whole"), EVERYTHING))


@pytest.mark.parametrize("stop_at", [2, 4, 8, 11])
def test_a_run_that_was_interrupted_ends_with_the_same_bytes(
    tmp_path: Path, stop_at: int, whole: dict[str, bytes]
) -> None:
    run, asked = Run.at(tmp_path / "stopped", EVERYTHING), iter(range(1_000))
    with pytest.raises(KeyboardInterrupt):
        train([run], stop=lambda: next(asked) == stop_at)
    assert files_of(trained(tmp_path / "stopped", EVERYTHING)) == whole


@pytest.mark.parametrize("moment", [1, 4, 10])
def test_a_run_that_died_between_two_saves_ends_with_the_same_bytes(
    tmp_path: Path, moment: int, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, update, saves = Run.at(tmp_path / "died", EVERYTHING), Trainer.update, iter([3, 0, 0, 99, 0, 99])

    def dying(self: Trainer, batch: Any) -> None:
        training.SAVE_SECONDS = float(next(saves, 0))
        if self.step == moment:
            raise MemoryError
        update(self, batch)

    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(Trainer, "update", dying)
    with pytest.raises(MemoryError):
        train([run])
    monkeypatch.setattr(Trainer, "update", update)
    assert files_of(trained(tmp_path / "died", EVERYTHING)) == whole


# --- bad input ------------------------------------------------------------------------------------------------------


def test_what_changes_nothing_is_an_error_before_more_is_trained_and_the_others_go_on(tmp_path: Path) -> None:
    nothing = with_(Intervention(Site(1, "v", "residual"), Zero(), first=5), variant="value-gradient-only")
    calm = tiny("classic")
    with pytest.raises(RunError, match="at step 5 an intervention did nothing: .*fired 1 time.*changed nothing"):
        train([Run.at(tmp_path, nothing), Run.at(tmp_path, calm)])
    failed = Run.at(tmp_path, nothing)
    assert failed.status == "failed"
    assert failed.checkpoints() == [0, 2, 4], "nothing was trained after it"
    assert Run.at(tmp_path, calm).finished


def test_to_freeze_what_cannot_move_is_nothing(tmp_path: Path) -> None:
    inputs = Intervention(Site(0, "resid_pre"), Freeze(), first=2)
    with pytest.raises(RunError, match="at step 2 an intervention did nothing: Freeze"):
        trained(tmp_path, with_(inputs))
    held = trained(tmp_path, with_(Intervention(PATTERN, Freeze(), first=2), optimizer=SGD(0.5, 0.0)))
    assert held.record["interventions"][0]["changed_max"] == 0, "it stays because it gets no gradient"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_(Intervention(Site(0, "v", "residual"), Zero())), "unknown site 'blocks.0.attn.hook_v_residual'"),
        (lambda: with_(Intervention(Site(0, "mlp_out"), Zero())), "unknown site 'blocks.0.hook_mlp_out'"),
        (lambda: with_(Intervention(Site(4, "v"), Zero())), "the model has 2 layers of 1 heads"),
        (lambda: with_(Intervention(Site(0, "z", head=2), Zero())), "the model has 2 layers of 1 heads"),
        (lambda: with_(Intervention(Site(0, "z", position=17), Zero())), "the model has 17 positions"),
        (lambda: with_(Intervention(Site(0, "z"), Zero(), first=12)), "begins at step 12, and the run ends at 12"),
        (lambda: with_(Intervention(Site(0, "z", position="target item"), Zero())), "no position roles; give the pos"),
        (lambda: with_(Intervention(Site(0, "z"), Resample()), batch_size=1), "another example, and batch_size is 1"),
    ],
)
def test_mistakes_are_explained_when_the_run_is_described(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_checkpoint_is_noticed_before_training(tmp_path: Path) -> None:
    config = with_(Intervention(PATTERN, FromRun(str(tmp_path / "none.safetensors")), first=9))
    run = Run.at(tmp_path, config)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        Trainer(run, task := run.task(), EvaluationSets(task, 8))
