"""Seeds pair variants and devices hold tensors: what is neither is refused before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import Pair, ablate_edges, compare
from analysis.attribution.agreement import to_check
from analysis.statistics.intervals import share_interval
from analysis.statistics.paired_seeds import paired_seeds
from circuits import HookedStreamTransformer, lm_config
from circuits.common.plain_data import derive_seed
from experiments import TokenBatch, TokenTask, TokenTaskConfig, icl_run, make_task
from experiments.devices import checked_device
from experiments.tasks.associative_memory import AMICLTask
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.registry import USUAL
from experiments.tasks.stories import StoriesTask
from experiments.tasks.task import TrainedTask
from tests.helpers import build, inputs_for

pytestmark = pytest.mark.usefixtures("untyped")
NO_SEEDS: list[Any] = [7.0, np.float64(7), True, "7", "any", None, torch.tensor(7.0), [7]]
SEVENS: list[Any] = [7, np.int64(7), torch.tensor(7)]
OF_NUMPY: Any = np.int64(7)
DRAWN: dict[str, Callable[[Any, Any], Any]] = {
    "sample": lambda task, seed: task.sample(2, seed=seed),
    "sample by place": lambda task, seed: task.sample(2, "train", seed),
    "pairs": lambda task, seed: task.pairs(2, seed=seed),
    "sequences": lambda task, seed: task.sequences(2, seed=seed),
    "head_scorer": lambda task, seed: task.head_scorer(2, seed=seed),
}


def first_of(drawn: Any) -> torch.Tensor:
    return next(found for name in ("inputs", "tokens", "clean") if (found := getattr(drawn, name, None)) is not None)


@pytest.mark.parametrize("name", USUAL)
def test_tasks_draw_by_whole_numbers_alone(name: str) -> None:
    task: TrainedTask = make_task(USUAL[name], 3)
    for draw in DRAWN.values():
        for seed in NO_SEEDS:
            with pytest.raises(ValueError, match="seed must be a whole number, got"):
                draw(task, seed)
    for how in ("sample", "pairs"):
        sevens = [first_of(DRAWN[how](task, seed)) for seed in SEVENS]
        assert all(torch.equal(sevens[0], other) for other in sevens)
        assert not torch.equal(sevens[0], first_of(DRAWN[how](task, -7)))


@pytest.mark.parametrize("name", USUAL)
def test_tasks_are_made_of_whole_numbers_alone(name: str) -> None:
    kind = type(make_task(USUAL[name], 0))
    for seed in NO_SEEDS:
        for make in (make_task, kind):
            with pytest.raises(ValueError, match="seed must be a whole number, got"):
                make(USUAL[name], seed)
    sevens = [make_task(USUAL[name], seed) for seed in SEVENS]
    assert {type(task.seed) for task in sevens} == {int}
    assert {task.finding() for task in sevens} == {sevens[0].finding()}
    drawn = [first_of(task.sample(2)) for task in sevens]
    assert all(torch.equal(drawn[0], other) for other in drawn)


def test_other_methods_that_take_a_seed_refuse_the_same() -> None:
    stories, ioi, memory = StoriesTask(), make_task(USUAL["ioi"], 0), AMICLTask("pairs", 2)
    assert isinstance(ioi, IOITask)
    for ask in (lambda seed: stories.stories(2, seed=seed), lambda seed: ioi.prompts(2, "train", "flip", seed)):
        ask(7)
        with pytest.raises(ValueError, match="seed must be a whole number, got 7.0"):
            ask(7.0)
    assert torch.equal(memory.sample(2, seed=7).classes, memory.sample(2, seed=OF_NUMPY).classes)
    for seed in NO_SEEDS:
        for ask in (lambda seed: memory.sample(2, seed=seed), lambda seed: AMICLTask("pairs", seed)):
            with pytest.raises(ValueError, match="seed must be a whole number, got"):
                ask(seed)


@dataclass(frozen=True)
class FlippedConfig(TokenTaskConfig):
    """Coins."""

    d_vocab: int = 2
    n_ctx: int = 40


class Flipped(TokenTask):
    """Coins that are thrown without a look at the seed's kind."""

    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        shape = (n, self.n_ctx)
        return TokenBatch(torch.randint(2, shape, generator=self.generator(f"{split} {seed}")))


def test_a_task_of_ones_own_refuses_them_without_a_line_of_its_own() -> None:
    task = Flipped(FlippedConfig(), 5)
    assert torch.equal(task.sample(3, seed=7).tokens, task.sample(3, seed=OF_NUMPY).tokens)
    assert Flipped.sample.__name__ == "sample"
    for seed in NO_SEEDS:
        with pytest.raises(ValueError, match="seed must be a whole number"):
            task.sample(3, "train", seed)
        with pytest.raises(ValueError, match="seed must be a whole number"):
            Flipped(FlippedConfig(), seed)


def test_labels_of_seeds_are_strings_and_whole_numbers() -> None:
    # What runs of before were drawn by.
    assert derive_seed("init", 0, "embed.W_E") == 2805305309704053122
    assert derive_seed("data", 7) == derive_seed("data", OF_NUMPY)
    assert derive_seed("data", 7) != derive_seed("data", "7")
    label: Any
    for label in (7.0, True, None, ["data"]):
        with pytest.raises(ValueError, match="a label of a seed must be a whole number, got"):
            derive_seed("data", label)


def test_models_and_runs_begin_from_whole_numbers() -> None:
    model = build("value")
    before = {name: value.clone() for name, value in model.named_parameters()}
    for seed in NO_SEEDS:
        with pytest.raises(ValueError, match="seed must be a whole number"):
            HookedStreamTransformer(model.config, seed)
        with pytest.raises(ValueError, match="seed must be a whole number"):
            model.init_weights(seed)
        with pytest.raises(ValueError, match="seed must be a whole number"):
            icl_run("value", "small", seed)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    model.init_weights(OF_NUMPY)
    again = HookedStreamTransformer(model.config, 7)
    assert all(torch.equal(value, dict(again.named_parameters())[name]) for name, value in model.named_parameters())


PAIRS = paired_seeds([1.0, 2.5, 4.0], [2.0, 3.0, 7.0])
RESAMPLED: dict[str, Callable[[Any], Any]] = {
    "bootstrap": lambda seed: PAIRS.interval("bootstrap", n_resamples=20, seed=seed),
    "t": lambda seed: PAIRS.interval("t", seed=seed),
    "permutation": lambda seed: PAIRS.permutation_p(20, seed),
    "share": lambda seed: share_interval(np.array([[1.0, 2.0]]), np.array([3.0, 4.0]), 0.9, 20, seed),
    "share of one": lambda seed: share_interval(np.array([[1.0]]), np.array([3.0]), 0.9, 20, seed),
    "compare": lambda seed: compare(frame(), seed=seed),
    "to_check": lambda seed: to_check(torch.arange(9.0), 4, seed),
}


def frame() -> Any:
    rows = [("classic", 0, 1.0), ("classic", 1, 2.5), ("value", 0, 2.0), ("value", 1, 3.0)]
    return pd.DataFrame(rows, columns=["variant", "seed", "value"])


@pytest.mark.parametrize("name", RESAMPLED)
def test_resamples_are_drawn_by_whole_numbers(name: str) -> None:
    for seed in (*NO_SEEDS, -1):
        with pytest.raises(ValueError, match="seed must be a whole number of at least 0, got"):
            RESAMPLED[name](seed)
    assert str(RESAMPLED[name](np.int64(7))) == str(RESAMPLED[name](7))


def test_other_examples_are_drawn_by_whole_numbers() -> None:
    model = build("value", "tokens")
    pair = Pair.one_sided(inputs_for(model.config, 4), torch.arange(4))
    for seed in NO_SEEDS:
        with pytest.raises(ValueError, match="seed must be a whole number, got"):
            ablate_edges(model, pair, None, "resample", seed=seed)
    whole, again = (ablate_edges(model, pair, None, "resample", seed=s).to_frame() for s in (7, OF_NUMPY))
    assert whole.equals(again)


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("gpu", "'gpu' names no device; take cpu, cuda"),
        ("cpu0", "'cpu0' names no device"),
        ("", "'' names no device"),
        (0, "0 names no device"),
        (None, "None names no device"),
        ("cuda:98", r"cuda:98 was asked for, and torch sees \d+ CUDA device\(s\) here; take the device cpu"),
        ("hpu", "hpu was asked for, and torch sees no such device here; take the device cpu"),
    ],
)
@pytest.mark.parametrize("name", USUAL)
def test_a_task_is_on_a_device_that_is_there(device: Any, told: str, name: str) -> None:
    for make in (make_task, type(make_task(USUAL[name], 0))):
        with pytest.raises(ValueError, match=told):
            make(USUAL[name], 0, device)
    assert checked_device("cpu") == checked_device(torch.device("cpu")) == make_task(USUAL[name], 0).device


def test_a_task_is_made_of_its_configuration() -> None:
    for given in ("ioi", None, lm_config("0.2m")):
        with pytest.raises(ValueError, match="a task is made of its configuration, such as"):
            make_task(given, 0)  # type: ignore[arg-type] # which is what is refused
