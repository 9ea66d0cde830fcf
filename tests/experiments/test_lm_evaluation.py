"""What is measured of a language model, against plain arithmetic on its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from circuits import HookedStreamTransformer
from experiments.runs.config import lm_run
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.registry import make_task
from experiments.tasks.tokens import measures as lm_evaluation
from experiments.tasks.tokens.batches import TokenBatch
from experiments.tasks.tokens.measures import (
    MEASURES,
    TokenEvaluationSets,
    answers,
    chunks,
    evaluate,
    validation_loss,
)
from tests.helpers import tiny_lm

CONFIG = tiny_lm()


@pytest.fixture(scope="module")
def task() -> IOITask:
    made = make_task(CONFIG.task, 0)
    assert isinstance(made, IOITask)
    return made


@pytest.fixture(scope="module")
def model() -> HookedStreamTransformer:
    """A model whose answers differ from each other."""
    made = HookedStreamTransformer(CONFIG.model, seed=3).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4)
    return made


def test_chunks_are_all_rows_once_and_small_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_evaluation, "CHUNK_TOKENS", 100)
    assert list(chunks(7, 30)) == [slice(0, 3), slice(3, 6), slice(6, 9)]
    assert list(chunks(2, 500)) == [slice(0, 1), slice(1, 2)], "a window is never cut"


def test_the_validation_loss_is_the_mean_over_what_counts(
    model: HookedStreamTransformer, task: IOITask, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = task.sample(11, "validation")
    assert batch.counted is not None
    logs = model(batch.tokens).detach().log_softmax(-1)
    each = [
        -float(logs[i, p, batch.tokens[i, p + 1]])
        for i in range(11)
        for p in range(task.n_ctx - 1)
        if batch.counted[i, p]
    ]
    expected = sum(each) / len(each)
    whole = validation_loss(model, batch)
    assert whole == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(lm_evaluation, "CHUNK_TOKENS", 2 * task.n_ctx)
    assert validation_loss(model, batch) == pytest.approx(expected, rel=1e-9), "parts weigh by what counts in them"
    rows = [validation_loss(model, batch[i : i + 1]) for i in range(11)]
    assert sum(rows) / 11 != pytest.approx(expected, rel=1e-6), "a mean of means would be another number"
    assert validation_loss(model, TokenBatch(batch.tokens)) != pytest.approx(expected, rel=1e-3)


def test_what_does_not_count_in_a_part_or_at_all_is_no_loss(
    model: HookedStreamTransformer, task: IOITask, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = task.sample(4)
    assert batch.counted is not None
    nothing = torch.zeros_like(batch.counted)
    assert validation_loss(model, TokenBatch(batch.tokens, nothing)) != validation_loss(model, batch)
    assert torch.isnan(torch.tensor(validation_loss(model, TokenBatch(batch.tokens, nothing))))
    half = torch.cat([batch.counted[:2], nothing[2:]])
    monkeypatch.setattr(lm_evaluation, "CHUNK_TOKENS", 2 * task.n_ctx)
    assert validation_loss(model, TokenBatch(batch.tokens, half)) == pytest.approx(validation_loss(model, batch[:2]))


@pytest.mark.parametrize("chunk", [16_384, 50])
def test_answers_by_hand(
    model: HookedStreamTransformer, task: IOITask, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(lm_evaluation, "CHUNK_TOKENS", chunk)
    pair = task.pairs(13, split="held-out")
    found = answers(model, pair)
    assert tuple(found) == MEASURES
    assert len(pair.reads.unique()) > 1, "prompts are read at different places"
    for i in range(13):
        logits = model(pair.clean[i : i + 1, : int(pair.reads[i]) + 1])[0, -1].detach()
        right, wrong = int(pair.answers[i]), int(pair.wrong[i])
        probabilities = logits.exp() / logits.exp().sum()
        expected = {
            "probability": float(probabilities[right]),
            "wrong_probability": float(probabilities[wrong]),
            "logit_difference": float(logits[right] - logits[wrong]),
            "accuracy": float(int(logits.argmax()) == right),
            "preference": float(logits[right] > logits[wrong]),
        }
        assert {name: float(values[i]) for name, values in found.items()} == pytest.approx(expected, abs=1e-9)
    assert 0 < float(found["preference"].mean()) < 1, "answers differ"


def test_a_model_that_knows_and_one_that_has_it_the_wrong_way_round(task: IOITask) -> None:
    pair = task.pairs(6)

    class Says(HookedStreamTransformer):
        """A model that gives one token of every prompt all of its logit."""

        def says(self, tokens: torch.Tensor) -> HookedStreamTransformer:
            self.said = tokens
            return self

        def forward(self, inputs: Any, *_: Any, **__: Any) -> Any:
            logits = torch.zeros(*inputs.shape, task.d_vocab)
            return logits.scatter(2, self.said[:, None, None].expand(-1, inputs.shape[1], 1), 20.0)

    speaker = Says(CONFIG.model).eval()
    for said, right in ((pair.answers, 1.0), (pair.wrong, 0.0)):
        means = {name: float(values.mean()) for name, values in answers(speaker.says(said), pair).items()}
        assert means == pytest.approx(
            {
                "probability": right,
                "wrong_probability": 1 - right,
                "logit_difference": 40 * right - 20,
                "accuracy": right,
                "preference": right,
            },
            abs=1e-5,
        )


def test_an_evaluation_is_the_loss_and_the_mean_of_every_measure_of_every_set(
    model: HookedStreamTransformer, task: IOITask
) -> None:
    sets = TokenEvaluationSets(task, 5, 4)
    assert sets.questions is sets.questions, "drawn once"
    rows = evaluate(model, sets)
    assert rows[0] == ("validation", "loss", validation_loss(model, task.sample(5, "validation")))
    named = {(name, measure): value for name, measure, value in rows[1:]}
    assert len(named) == len(rows) - 1 == 5 * len(MEASURES)
    for name, pair in task.questions(4).items():
        for measure, values in answers(model, pair).items():
            assert named[name, measure] == pytest.approx(float(values.mean()))
    assert not any(value.requires_grad for value in answers(model, task.pairs(2)).values())


def test_a_task_without_questions_has_a_loss_alone() -> None:
    config = lm_run("0.2m", "repeats")
    task = make_task(config.task, 0)
    made = HookedStreamTransformer(config.model).eval()
    assert {name for name, _, _ in evaluate(made, TokenEvaluationSets(task, 3, 3))} == {"validation", "second"}


@pytest.mark.parametrize(
    "measure",
    [
        lambda model, task: validation_loss(model, task.sample(2)),
        lambda model, task: answers(model, task.pairs(2)),
        lambda model, task: evaluate(model, TokenEvaluationSets(task, 2, 2)),
        lambda model, task: task.split_gradient(model, task.sample(2)),
    ],
)
def test_training_mode_is_not_measured(
    task: IOITask, measure: Callable[[HookedStreamTransformer, IOITask], object]
) -> None:
    model = HookedStreamTransformer(CONFIG.model)
    with pytest.raises(ValueError, match="evaluation mode; found training mode"):
        measure(model.train(), task)
    measure(model.eval(), task)


def test_the_split_gradient_adds_up_to_that_of_what_counts(model: HookedStreamTransformer, task: IOITask) -> None:
    batch = task.sample(3)
    split = task.split_gradient(model, batch)
    logs = model(batch.tokens)[:, :-1].log_softmax(-1).gather(2, batch.tokens[:, 1:, None])[..., 0]
    assert batch.counted is not None
    loss = -logs[batch.counted[:, :-1]].mean()
    names, parameters = zip(*model.named_parameters(), strict=True)
    expected = dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))
    assert set(split.whole) == set(names)
    for name in names:
        assert torch.allclose(split.whole[name], expected[name], atol=1e-9), name
        assert torch.allclose(split.direct[name] + split.stream[name], split.whole[name], atol=1e-9), name
    assert any(float(stream.abs().max()) > 0 for stream in split.stream.values())
