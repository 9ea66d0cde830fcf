"""What a classifier's run can have, a language model's can: gates in windows, interventions, early ends, splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from circuits import HookedStreamTransformer
from circuits.interventions.intervention import CutForward, CutGradient, Freeze, Intervention, Resample, Zero
from circuits.sites import Site
from experiments.runs.config import RunConfig
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import SGD, Adam, AdamW, At, Every, GateChange, Rate, StopAt, TrainingConfig
from experiments.sweeps.sweep import sweep
from experiments.tasks.task import TrainedTask
from experiments.training.one_process import Alone
from experiments.training.stacked_seeds import train_stacked
from experiments.training.together import train
from tests.experiments.test_training import tiny
from tests.helpers import tiny_lm, trained_lm, trainer_of

EACH = (Every(1),)


def weights(run: Run, step: int = -1) -> dict[str, torch.Tensor]:
    return dict(run.load_model(step).named_parameters())


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


# --- gates in windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "at"),
    [
        ("full", "stop", 2),
        pytest.param("off", "full", 3, marks=pytest.mark.slow),
        pytest.param("stop", "off", 5, marks=pytest.mark.slow),
    ],
)
def test_a_gate_window_is_what_changing_the_model_by_hand_is(tmp_path: Path, before: str, after: str, at: int) -> None:
    gates = (GateChange(0, before), GateChange(at, after))  # type: ignore[arg-type] # both are gates
    run = trained_lm(tmp_path / "window", tiny_lm(steps=7, gates=gates, checkpoint_at=EACH, evaluate_at=EACH))
    by_hand = trainer_of(Run.at(tmp_path / "hand", tiny_lm(steps=7, checkpoint_at=EACH, evaluate_at=EACH)))
    never = trainer_of(Run.at(tmp_path / "never", tiny_lm(steps=7, checkpoint_at=EACH, evaluate_at=EACH)))
    for step in range(8):
        by_hand.model.set_gate(before if step < at else after)  # type: ignore[arg-type] # as above
        for trainer in (by_hand, never):
            trainer.observe()
            if step < 7:
                trainer.update(trainer.draw())
        assert same(weights(run, step), weights(by_hand.run, step)), step
        assert run.load_model(step).config.streams[0].gate == (before if step < at else after)
    assert not same(weights(run), weights(never.run)), "the window changes what is learned"
    kept = ["step", "split", "measure", "value"]
    pd.testing.assert_frame_equal(run.metrics()[kept], by_hand.run.metrics()[kept], check_exact=True)


def test_gates_are_refused_where_there_is_no_stream() -> None:
    with pytest.raises(ValueError, match="gates change on a model without a stream"):
        tiny_lm("classic", gates=(GateChange(1, "stop"),))
    with pytest.raises(ValueError, match="is of a stream into k, and this model's streams feed"):
        tiny_lm("value", gates=(GateChange(1, "stop", "k"),))


# --- the gradient by route --------------------------------------------------------------------------------------------


def test_the_logged_split_adds_up_and_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    config = tiny_lm(steps=6, gradients_at=(Every(3),), checkpoint_at=(Every(3),))
    run = trained_lm(tmp_path, config)
    logged = run.gradients()
    assert sorted(logged.step.unique()) == [0, 3, 6]
    task = run.task()
    for step in (0, 3, 6):
        split = task.split_gradient(run.load_model(step), task.held_out())
        for name, whole in split.whole.items():
            assert torch.allclose(split.direct[name] + split.stream[name], whole, atol=1e-6), (step, name)
        here = logged[logged.step == step].drop(columns="step").reset_index(drop=True)
        pd.testing.assert_frame_equal(here, split.to_frame(), check_exact=True)
    carried = logged[logged.tensor.str.endswith("0.attn.W_V")]
    assert (carried.stream_share > 0).all()
    plain = trained_lm(tmp_path / "plain", tiny_lm(steps=6, checkpoint_at=(Every(3),)))
    assert same(weights(run), weights(plain)), "looking changes nothing"
    with pytest.raises(RunError, match="logged no gradients"):
        plain.gradients()


def test_a_stopped_stream_has_no_share(tmp_path: Path) -> None:
    run = trained_lm(tmp_path, tiny_lm("value-stop", steps=2, gradients_at=(At((0,)),)))
    assert (run.gradients().stream == 0).all()


# --- early ends -------------------------------------------------------------------------------------------------------


def test_a_run_ends_early_by_its_loss_or_by_its_answers(tmp_path: Path) -> None:
    whole = trained_lm(tmp_path / "whole", tiny_lm(steps=8, evaluate_at=EACH))
    losses = whole.metrics().query("split == 'validation' and measure == 'loss'").set_index("step").value
    level = float(losses.loc[:5].min()) + 1e-6
    first = int(losses.index[losses <= level][0])
    stop = StopAt(level, "validation", 1, "loss")
    early = trained_lm(tmp_path / "early", tiny_lm(steps=8, evaluate_at=EACH, stop_at=stop))
    assert early.finished
    assert early.metrics().step.max() == first < 8
    assert early.checkpoints()[-1] == first
    assert same(weights(early), weights(trained_lm(tmp_path / "to", tiny_lm(steps=first)))) or first == 0
    answers = StopAt(0.0, "ioi train", 2, "probability")
    assert trained_lm(tmp_path / "answers", tiny_lm(steps=8, evaluate_at=EACH, stop_at=answers)).step == 1
    never = StopAt(1.0, "ioi train", 1, "probability")
    assert trained_lm(tmp_path / "never", tiny_lm(steps=8, evaluate_at=EACH, stop_at=never)).step == 8


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        (StopAt(0.5, "validaton", measure="loss"), "unknown set 'validaton': did you mean 'validation'"),
        (StopAt(0.5, "validation", measure="accuracy"), "unknown measure to stop by 'accuracy'"),
    ],
)
def test_what_is_not_measured_ends_no_run(tmp_path: Path, stop: StopAt, message: str) -> None:
    run = Run.at(tmp_path, tiny_lm(stop_at=stop))
    with pytest.raises(ValueError, match=message):
        train([run])
    assert run.metrics().empty, "nothing was trained"
    with pytest.raises(ValueError, match=message):
        sweep([tiny_lm(), run.config], tmp_path / "swept", progress=False)
    assert not (tmp_path / "swept").exists(), "nothing was begun"


# --- interventions ----------------------------------------------------------------------------------------------------

WINDOW = Intervention(Site(1, "z"), Zero(), first=2, last=4)


def test_an_intervention_acts_in_its_window_and_is_counted(tmp_path: Path) -> None:
    acting = trained_lm(tmp_path / "acting", tiny_lm(steps=6, interventions=(WINDOW,), checkpoint_at=EACH))
    plain = trained_lm(tmp_path / "plain", tiny_lm(steps=6, checkpoint_at=EACH))
    assert [same(weights(acting, step), weights(plain, step)) for step in range(5)] == [True, True, True, False, False]
    (record,) = acting.record["interventions"]
    assert record["fired"] == 2
    assert record["changed_max"] > 0


@pytest.mark.parametrize(
    "operation",
    [Resample(seed=1), *(pytest.param(of, marks=pytest.mark.slow) for of in (CutForward(), CutGradient(), Freeze()))],
)
def test_an_intervened_run_resumes_to_the_same_bytes(tmp_path: Path, operation: object) -> None:
    acts = Intervention(Site(0, "v"), operation, first=1, last=5)  # type: ignore[arg-type] # each is an operation
    config = tiny_lm(steps=6, interventions=(acts,), evaluate_at=(Every(2),), gradients_at=(At((4,)),))
    whole = trained_lm(tmp_path / "whole", config)
    asked = iter(range(99))
    with pytest.raises(KeyboardInterrupt):
        train([Run.at(tmp_path / "stopped", config)], stop=lambda: next(asked) == 3)
    resumed = trained_lm(tmp_path / "stopped", config)
    for name in ("metrics.parquet", "gradients.parquet"):
        assert (whole.path / name).read_bytes() == (resumed.path / name).read_bytes()
    assert whole.record["interventions"] == resumed.record["interventions"]
    assert same(weights(whole), weights(resumed))


class Two(Alone):
    """One of two processes, as a trainer sees them."""

    world = 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny_lm(interventions=(WINDOW,)), "has interventions, which act on whole activations"),
        (tiny(), "is of a task of vectors, and several processes train one model of tokens"),
    ],
)
def test_several_processes_refuse_what_they_cannot_share(tmp_path: Path, config: RunConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trainer_of(Run.at(tmp_path, config), Two())


# --- optimisers, rates ------------------------------------------------------------------------------------------------


def test_every_optimiser_trains_either_kind_and_rates_are_by_parameter(tmp_path: Path) -> None:
    for optimizer in (SGD(0.1), Adam(1e-3)):
        run = trained_lm(tmp_path, tiny_lm(steps=2, optimizer=optimizer, rates=(Rate("blocks.1", 0.0),)))
        before, after = weights(run, 0), weights(run)
        kept = [torch.equal(before[n], after[n]) for n in before if n.startswith("blocks.1")]
        moved = [torch.equal(before[n], after[n]) for n in before if n.startswith("blocks.0.attn.W_V")]
        assert not any(moved)
        assert all(kept) or isinstance(optimizer, SGD), "the decay of SGD is no rate"


def test_a_classifier_is_trained_by_adamw_and_its_gradient_is_clipped(tmp_path: Path) -> None:
    adamw = AdamW(rate=1e-2, warmup=3, decay=0.0)
    runs = {clip: Run.at(tmp_path, tiny(optimizer=adamw, clip=clip, steps=4)) for clip in (None, 1e-3)}
    for clip, run in runs.items():
        trainer, model = trainer_of(run), HookedStreamTransformer(run.config.model, seed=run.config.seed)
        ours = torch.optim.Adam(model.parameters(), betas=adamw.betas, eps=1e-8)
        for step in range(3):
            batch = trainer.draw()
            trainer.update(batch)
            ours.zero_grad()
            trainer.task.fast_loss(model)(batch).backward()
            if clip is not None:
                assert float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)) > clip
            ours.param_groups[0]["lr"] = 1e-2 * (step + 1) / 3
            ours.step()
        for (name, left), right in zip(model.named_parameters(), trainer.model.parameters(), strict=True):
            assert torch.allclose(left, right, atol=1e-5), (clip, name)
    with pytest.raises(ValueError, match="cannot be stacked: its gradients are clipped"):
        train_stacked([runs[1e-3]])


# --- what version 0.1 left interrupted --------------------------------------------------------------------------------


@pytest.mark.parametrize("of_tokens", [False, True])
def test_a_run_goes_on_from_a_state_of_version_01(tmp_path: Path, of_tokens: bool) -> None:
    """Whose words for what was seen were others, one for each kind of run, and which saved less of a classifier."""
    config = tiny_lm(steps=6, evaluate_at=(Every(2),)) if of_tokens else tiny(steps=6, evaluate_at=(Every(2),))
    whole, run = Run.at(tmp_path / "whole", config), Run.at(tmp_path / "cut", config)
    train([whole])
    asked = iter(range(99))
    with pytest.raises(KeyboardInterrupt):
        train([run], stop=lambda: next(asked) == 3)
    state = run.read_state()
    assert state is not None
    tensors, about = state
    values, splits = about.pop("values"), about.pop("splits")
    if of_tokens:
        about |= {"evaluations": len(values), "loss": values[-1]}
    else:
        about |= {"accuracies": values, "splits": splits}
        kept = dict(trainer_of(whole).model.named_parameters())
        tensors = {name: t for name, t in tensors.items() if name.startswith("optimizer|") or name[6:] in kept}
    run.write_state(tensors, about)
    train([run])
    assert (whole.path / "metrics.parquet").read_bytes() == (run.path / "metrics.parquet").read_bytes()
    assert run.step == 6


# --- what a task is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stories", "ioi", "repeats", "nested"])
def test_every_task_is_what_a_trainer_asks(name: str) -> None:
    from experiments.tasks.in_context.task import ICLTask
    from experiments.tasks.registry import USUAL, make_task

    for task in (make_task(USUAL[name], 0), ICLTask("small")):
        assert isinstance(task, TrainedTask)
        batch = task.sample(3)
        assert int(task.counted(batch)) > 0
        measured = task.evaluation_sets(TrainingConfig(1, SGD(), n_eval=4, n_questions=2)).measured
        assert task.watched[1] in measured[task.watched[0]]


def test_the_settings_of_the_other_kind_are_refused() -> None:
    from dataclasses import replace

    from experiments.runs.config import icl_run

    with pytest.raises(ValueError, match="a language model is trained by a TokenTraining"):
        replace(tiny_lm(), training=TrainingConfig(2, SGD()))
    with pytest.raises(ValueError, match="accumulate and precision are of language models"):
        icl_run("value", "small", training=TrainingConfig(2, SGD(), accumulate=2))
    clipped = icl_run("value", "small", training=TrainingConfig(2, SGD(), clip=0.5))
    assert clipped.id != icl_run("value", "small", training=TrainingConfig(2, SGD())).id
    assert np.isclose(clipped.training.clip or 0, 0.5)
