"""What a run of a language model is: its name is its content, it survives storage, and contradictions are refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from circuits import icl_config, lm_config
from circuits.config.parts import TokenInputs, Unembedding
from circuits.presets import LM_SIZES
from experiments.runs.config import LM_TRAINING, RunConfig, lm_run, vocabulary_size
from experiments.runs.training_config import Adam, AdamW, At, Every, TokenTraining
from experiments.tasks.indirect_objects.config import IOIConfig
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.kinds import TokenTaskConfig
from experiments.tasks.nested_relations import NestedConfig, NestedTask
from experiments.tasks.registry import make_task, named_tasks
from experiments.tasks.repeated_tokens import RepeatsConfig, RepeatsTask
from experiments.tasks.stories import StoriesConfig, StoriesTask
from experiments.tasks.text.task import TextTaskConfig
from experiments.tasks.tokens.task import TokenTask
from tests.helpers import tiny_lm

TEXT = TextTaskConfig(corpus="corpus.txt", tokenizer="tokenizer.json", n_ctx=32, validation="other.txt")
GENERATED: dict[str, TokenTaskConfig] = named_tasks(TokenTaskConfig)
EVERY_TASK: dict[str, TokenTaskConfig] = {**GENERATED, "text": TEXT}


def run_of(task: TokenTaskConfig, **changes: Any) -> RunConfig:
    """A run of any task, the text one too, of which nothing is read."""
    fields: dict[str, Any] = {"training": TokenTraining(steps=3), "seed": 0, "variant": "value", "preset": "0.2m"}
    return RunConfig(task, lm_config("0.2m", "value"), **(fields | changes))


# --- names ------------------------------------------------------------------------------------------------------------


def test_equal_configurations_have_equal_names_and_others_have_others() -> None:
    config = lm_run()
    assert (config.id, config.name) == (lm_run().id, lm_run().name)
    assert config.name == f"lm-stories-value-0.2m-s0-{config.id}"
    assert config.preset == "0.2m"
    others = [
        lm_run(seed=1),
        lm_run(variant="classic"),
        lm_run(variant="value-stop"),
        lm_run("1m"),
        lm_run(task="ioi"),
        lm_run(task=StoriesConfig(p_ioi=0.2)),
        lm_run(training=dataclasses.replace(LM_TRAINING["0.2m"], steps=2_999)),
        lm_run(training=dataclasses.replace(LM_TRAINING["0.2m"], optimizer=Adam(3e-3))),
        lm_run(dropout=0.1),
    ]
    ids = [config.id, *(other.id for other in others)]
    assert len(set(ids)) == len(ids)


def test_a_default_does_not_change_a_name() -> None:
    config = lm_run()
    spelled_out = dataclasses.replace(
        config, training=dataclasses.replace(config.training, accumulate=1, precision="float32", clip=1.0)
    )
    assert spelled_out.id == config.id
    written = config.essence()
    assert not {"accumulate", "precision", "clip", "n_eval"} & set(written["training"])
    assert {"accumulate", "precision", "clip", "n_eval"} <= set(config.to_plain()["training"])
    assert written["task"]["grammar"], "but the words that a run learns from are part of it"


@pytest.mark.parametrize("name", EVERY_TASK)
def test_every_task_survives_storage(name: str) -> None:
    config = run_of(EVERY_TASK[name], training=TokenTraining(3, Adam(), clip=None, evaluate_at=(Every(2), At((1,)))))
    stored = json.loads(json.dumps(config.to_plain()))
    back = RunConfig.from_plain(stored)
    assert back == config
    assert type(back.task) is type(config.task)
    assert back.id == config.id
    assert back.task_name == name
    assert config.name.startswith(f"lm-{name}-value-0.2m-s0-")


def test_a_stored_configuration_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown field of RunConfig 'sed': did you mean 'seed'"):
        RunConfig.from_plain(lm_run().to_plain() | {"sed": 1})


# --- tasks and models -------------------------------------------------------------------------------------------------


def test_every_configuration_makes_its_task_with_the_seeds_draws() -> None:
    kinds = {"stories": StoriesTask, "ioi": IOITask, "repeats": RepeatsTask, "nested": NestedTask}
    assert set(kinds) == set(GENERATED)
    for name, kind in kinds.items():
        task = make_task(GENERATED[name], 3)
        assert isinstance(task, kind)
        assert isinstance(task, TokenTask)
        assert task.config == GENERATED[name]
        assert not task.sample(4).tokens.equal(make_task(GENERATED[name], 4).sample(4).tokens)
        assert task.sample(4).tokens.equal(make_task(GENERATED[name], 3).sample(4).tokens)
        assert vocabulary_size(GENERATED[name]) == task.d_vocab > int(task.sample(4).tokens.max())


def test_a_model_knows_its_tasks_words_and_windows() -> None:
    for name, task in GENERATED.items():
        config = lm_run("0.2m", name)
        inputs = config.model.inputs
        assert isinstance(inputs, TokenInputs)
        assert inputs.d_vocab == vocabulary_size(task)
        assert config.model.n_ctx == task.n_ctx
        assert config.tokens_per_step == config.training.batch_size * task.n_ctx
        assert config.task == task
    small = lm_run("0.2m", "stories", n_layers=2, d_model=32, n_heads=2)
    assert (small.model.n_layers, small.model.d_model) == (2, 32)


def test_the_published_size_keeps_its_own_vocabulary_and_positions() -> None:
    config = lm_run("8m", "stories")
    inputs = config.model.inputs
    assert isinstance(inputs, TokenInputs)
    assert (inputs.d_vocab, config.model.n_ctx, config.model.dropout) == (50_257, 2_048, 0.1)
    assert config.training.optimizer == Adam(1e-3, (0.9, 0.95))
    assert config.training.clip is None
    assert set(LM_TRAINING) == set(LM_SIZES), "every size has its training"


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lm_run("0.3m"), "unknown size '0.3m': did you mean '0.2m'"),
        (lambda: lm_run(task="storys"), "unknown task 'storys': did you mean 'stories'"),
        (lambda: lm_run(variant="valeu"), "unknown variant 'valeu': did you mean 'value'"),
        (lambda: lm_run(n_layer=2), "unknown field of ModelConfig 'n_layer': did you mean 'n_layers'"),
        (
            lambda: lm_run(task="text"),
            r"the task 'text' needs a corpus and a tokenizer; give task=TextTaskConfig\(corpus=..., tokenizer=...\)",
        ),
        (
            lambda: TokenTraining(3, batch_size=6, accumulate=4),
            "6 windows do not divide into 4 parts; choose numbers that do",
        ),
        (lambda: TokenTraining(0), "steps must be positive, got 0"),
        (lambda: TokenTraining(3, n_questions=-1), "n_questions must be positive, got -1"),
        (lambda: TokenTraining(3, clip=0.0), "clip must be positive or None, got 0.0"),
        (lambda: AdamW(rate=0.0), "AdamW needs a positive rate, betas from 0 to below 1 and a decay of 0 or more"),
        (lambda: AdamW(betas=(0.9, 1.0)), "betas from 0 to below 1"),
        (lambda: AdamW(decay=-0.1), "a decay of 0 or more"),
        (lambda: lm_run(d_vocab=0), "d_vocab must be a positive whole number, got 0"),
        (lambda: lm_run(d_model=0), "d_model must be a positive whole number, got 0"),
        (lambda: TokenTraining(3, clip=float("nan")), "the clip must be a finite number or None, got nan"),
        (lambda: TokenTraining(3, AdamW(rate=float("inf"))), "the rate must be a finite number, got inf"),
        (lambda: TokenTraining(3, evaluate_at=(Every(2, 5, 3),)), "is never: first must not come after last"),
        (lambda: AdamW(warmup=-1), "warm-up must be 0 or more and final a share"),
        (lambda: AdamW(final=1.5), "warm-up must be 0 or more and final a share"),
        (
            lambda: lm_run(n_ctx=32),
            "the task's windows have 64 tokens, the model only 32 positions; give the model n_ctx=64, or the task",
        ),
        (
            lambda: lm_run(inputs=TokenInputs(10), readout=Unembedding(10)),
            r"the task's tokenizer has \d+ tokens, the model only 10",
        ),
        (
            lambda: dataclasses.replace(tiny_lm(), model=icl_config("value", "small")),
            "a language model reads token numbers, and this model takes vectors; make it with lm_config",
        ),
    ],
)
def test_mistakes_are_explained(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_number_of_tokens_can_be_given_to_the_model() -> None:
    config = lm_run("0.2m", "repeats", d_vocab=100)
    assert isinstance(config.model.inputs, TokenInputs)
    assert config.model.inputs.d_vocab == 100
    with pytest.raises(ValueError, match="the task's tokenizer has 65 tokens, the model only 64; give d_vocab"):
        lm_run("0.2m", "repeats", d_vocab=64)


def test_windows_of_another_length_are_a_model_of_other_positions() -> None:
    for task in (StoriesConfig(n_ctx=96), IOIConfig(n_ctx=40), NestedConfig(n_ctx=80), RepeatsConfig(n_ctx=100)):
        assert lm_run(task=task).model.n_ctx == task.n_ctx
    assert lm_run(task=StoriesConfig(n_ctx=96)).id != lm_run().id
