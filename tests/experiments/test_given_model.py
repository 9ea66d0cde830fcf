"""What a model must be to be trained as it is, and in which mode of torch it is asked."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analysis.ready import NotFiniteError
from circuits import HookedStreamTransformer, icl_config
from experiments import Every, Rate, RunError, TrainingConfig, icl_run, sweep, train
from experiments.runs.training_config import SGD

TASK = icl_run("value", "small").task
SHORT = TrainingConfig(steps=3, optimizer=SGD(rate=0.05), batch_size=8, n_eval=8, evaluate_at=(Every(3),))


def model_of_vectors(seed: int = 4) -> HookedStreamTransformer:
    return HookedStreamTransformer(icl_config("value", "small"), seed=seed)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_training_takes_gradients_whatever_its_caller_does(
    off: Callable[[], AbstractContextManager[None]], tmp_path: Path
) -> None:
    wanted = train(model_of_vectors(), TASK, SHORT, root=tmp_path / "a", progress=False)
    [swept] = sweep([icl_run("key", "small", training=SHORT)], tmp_path / "a", 1, progress=False)
    with off():
        found = train(model_of_vectors(), TASK, SHORT, root=tmp_path / "b", progress=False)
        [again] = sweep([icl_run("key", "small", training=SHORT)], tmp_path / "b", 1, progress=False)
        assert not torch.is_grad_enabled()
    for one, other in ((wanted, found), (swept, again)):
        assert one.config.id == other.config.id
        ends = one.load_model().state_dict()
        assert all(ends[name].equal(tensor) for name, tensor in other.load_model().state_dict().items())
    assert not wanted.load_model().W_U.equal(wanted.load_model(0).W_U)


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf])
def test_weights_that_are_no_numbers_are_refused_before_anything_is_written(bad: float, tmp_path: Path) -> None:
    model = model_of_vectors()
    with torch.no_grad():
        model.layers[1].attn.W_K[0, 1, 2] = bad
    told = r"1 of \d+ weights hold NaN or infinity \(first: blocks.1.attn.W_K\), and training needs numbers"
    with pytest.raises(NotFiniteError, match=told):
        train(model, TASK, SHORT, root=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_none_before_any_update_is_not_called_divergence(tmp_path: Path) -> None:
    model = model_of_vectors()
    with torch.no_grad():
        model.W_U.fill_(3e38)
    told = "cannot be trained: its test loss at step 0 is nan, before any update: the weights that it starts from"
    with pytest.raises(RunError, match=told) as error:
        train(model, TASK, SHORT, root=tmp_path, progress=False)
    assert "smaller rate" not in str(error.value)


def test_parameters_that_do_not_learn_are_refused_and_rates_hold_them(tmp_path: Path) -> None:
    model = model_of_vectors()
    for parameter in model.layers[0].attn.parameters():
        parameter.requires_grad_(False)
    count = len(list(model.layers[0].attn.parameters()))
    told = (
        rf"requires_grad is False for {count} parameters \(first: blocks.0.attn..*rates=\(Rate\('blocks.0.attn.*Freeze"
    )
    with pytest.raises(ValueError, match=told):
        train(model, TASK, SHORT, root=tmp_path, progress=False)
    assert not list(tmp_path.iterdir())
    held = replace(SHORT, rates=(Rate("blocks.0.attn.", 0.0),))
    run = train(model.requires_grad_(), TASK, held, root=tmp_path, progress=False)
    before, after = model.state_dict(), run.load_model().state_dict()
    still = {name for name in before if before[name].equal(after[name])}
    parameters = {name for name, _ in model.named_parameters()}
    assert still & parameters >= {name for name in parameters if name.startswith("blocks.0.attn.")}
    assert "unembed.W_U" not in still
