"""Repeated random tokens: what counts is what induction can say, and pairs change the answer by one token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from circuits.common.errors import UnknownNameError
from experiments.tasks.repeated_tokens import OPENING, RepeatsConfig, RepeatsTask
from experiments.tasks.tokens.batches import next_token_loss
from experiments.tasks.tokens.task import TokenTask

N = 200
SHAPES = [
    RepeatsConfig(),
    RepeatsConfig(vocabulary=3, lag=2, n_ctx=5),
    RepeatsConfig(vocabulary=10, lag=7, n_ctx=40),
    RepeatsConfig(vocabulary=30, lag=20, n_ctx=50, shortest=2),
]


@pytest.fixture(scope="module")
def task() -> RepeatsTask:
    return RepeatsTask()


def induced(tokens: list[int], position: int) -> int | None:
    """What followed the first earlier occurrence of the token at a position."""
    earlier = tokens[:position]
    return tokens[earlier.index(tokens[position]) + 1] if tokens[position] in earlier else None


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_what_counts_is_exactly_what_induction_predicts_and_it_is_right(config: RepeatsConfig) -> None:
    batch = RepeatsTask(config).sample(N)
    assert batch.counted is not None
    for row, counted in zip(batch.tokens.tolist(), batch.counted.tolist(), strict=True):
        for position in range(config.n_ctx - 1):
            said = induced(row, position)
            assert counted[position] == (said is not None)
            assert said is None or said == row[position + 1]


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_windows_are_an_opening_and_one_block_of_different_tokens_repeated(config: RepeatsConfig) -> None:
    task = RepeatsTask(config)
    tokens = task.sample(N).tokens
    assert tokens.shape == (N, config.n_ctx)
    assert (tokens[:, 0] == OPENING).all()
    assert tokens[:, 1:].min() == 1
    assert tokens.max() == config.vocabulary == task.d_vocab - 1
    lags = set()
    for row in tokens[:, 1:].tolist():
        lag = row.index(row[0], 1)
        lags.add(lag)
        assert len(set(row[:lag])) == lag
        assert row[lag:] == row[:-lag]
    assert lags == set(range(config.shortest or config.lag, config.lag + 1))


def test_all_tokens_are_equally_likely(task: RepeatsTask) -> None:
    counts = task.sample(4000).tokens[:, 1:17].flatten().bincount(minlength=65)[1:].double()
    # Each is in a block with a chance of 1/4; five standard deviations.
    assert (counts - 1000).abs().max() < 5 * (4000 * 3 / 16) ** 0.5


def test_saying_what_followed_before_has_no_loss_and_guessing_has_all(task: RepeatsTask) -> None:
    batch = task.sample(20)
    guess = torch.zeros(20, task.n_ctx, task.d_vocab)
    assert next_token_loss(guess, batch).item() == pytest.approx(torch.tensor(65.0).log().item(), rel=1e-5)
    lookup = guess.clone()
    for i, row in enumerate(batch.tokens.tolist()):
        for position in range(task.n_ctx):
            said = induced(row, position)
            if said is not None:
                lookup[i, position, said] = 50.0
    assert next_token_loss(lookup, batch).item() < 1e-6


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_clean_and_corrupt_differ_in_one_token_and_each_has_its_answer(config: RepeatsConfig) -> None:
    pair = RepeatsTask(config).pairs(N, seed=4)
    assert torch.equal(pair.clean != pair.corrupt, pair.where("first+1"))
    for i in range(N):
        at = int(pair.reads[i])
        assert induced(pair.clean[i].tolist(), at) == int(pair.answers[i])
        assert induced(pair.corrupt[i].tolist(), at) == int(pair.wrong[i])
    assert (pair.answers != pair.wrong).all()
    assert not (pair.clean == pair.wrong[:, None]).any(), "the wrong answer is not in the clean window"


@pytest.mark.parametrize("config", SHAPES, ids=str)
def test_positions_hold_what_they_say(config: RepeatsConfig) -> None:
    pair = RepeatsTask(config).pairs(N)
    first, after, end = (pair.positions[role][:, 0] for role in ("first", "first+1", "END"))
    rows = torch.arange(N)
    assert torch.equal(end, pair.reads)
    assert torch.equal(pair.clean[rows, first], pair.clean[rows, end])
    assert torch.equal(pair.clean[rows, after], pair.answers)
    assert torch.equal(pair.corrupt[rows, after], pair.wrong)
    assert torch.equal(after, first + 1)
    lags = pair.clean[:, 2:].eq(pair.clean[:, 1:2]).int().argmax(1) + 1
    assert torch.equal(end - first, lags), "the second block is read"
    assert (first < lags).all()
    assert config.shortest or set(first.tolist()) == set(range(1, config.lag)), "all places with a successor are read"


def test_equal_seeds_give_equal_windows_and_others_do_not(task: RepeatsTask) -> None:
    def clean(of: RepeatsTask, seed: int, split: str = "train") -> Tensor:
        return of.pairs(8, seed=seed, split=split).clean

    def sampled(of: RepeatsTask, seed: int, split: str = "train") -> Tensor:
        return of.sample(8, split, seed).tokens

    for draw in (clean, sampled):
        assert torch.equal(draw(task, 2), draw(RepeatsTask(), 2))
        assert not torch.equal(draw(task, 2), draw(task, 3))
        assert not torch.equal(draw(task, 2), draw(RepeatsTask(seed=1), 2))
        assert not torch.equal(draw(task, 2), draw(task, 2, "validation"))


def test_there_is_one_evaluation_set(task: RepeatsTask) -> None:
    found = task.questions(9)
    assert {name: len(pair) for name, pair in found.items()} == {"second": 9}
    assert task.tokenizer is None
    assert isinstance(task, TokenTask)


def test_head_scores_tell_the_three_kinds_of_heads_apart(task: RepeatsTask) -> None:
    batch, pair = task.sample(5), task.pairs(5)
    for inputs, tokens in ((batch, batch.tokens), (pair, pair.clean)):
        n_pos = tokens.shape[1]
        pattern = torch.zeros(5, 3, n_pos, n_pos)
        for query in range(1, n_pos):
            pattern[:, 0, query, query - 1] = 1
            if query > task.config.lag:
                pattern[:, 1, query, query - task.config.lag] = 1
                pattern[:, 2, query, query - task.config.lag + 1] = 1
        found = {score.name: score.of(pattern).mean(0) for score in task.head_scores(inputs)}
        assert list(found) == ["previous token", "duplicate token", "induction"]
        for head, values in enumerate(found.values()):
            assert values[head].item() == pytest.approx(1)
            assert values[torch.arange(3) != head].max() == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lag": 1}, "2 at least"),
        ({"vocabulary": 16}, "17 at least"),
        ({"n_ctx": 32}, "33 at least"),
        ({"shortest": 1}, "from 2 to lag"),
    ],
)
def test_impossible_configurations_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(RepeatsConfig(), **wrong)
    bound = {name: value + 1 for name, value in wrong.items()}
    assert replace(RepeatsConfig(), **bound), "the bound itself is possible"
    with pytest.raises(ValueError, match="from 2 to lag"):
        RepeatsConfig(lag=16, shortest=17)


@pytest.mark.parametrize("n", [0, -3, True])
def test_a_number_of_sequences_is_a_whole_one_of_1_or_more(task: RepeatsTask, n: int) -> None:
    for ask in (task.sample, task.pairs, task.questions):
        with pytest.raises(ValueError, match=f"n must be a whole number of at least 1, got {n}"):
            ask(n)


def test_unknown_names_are_refused_with_the_nearest(task: RepeatsTask) -> None:
    with pytest.raises(UnknownNameError, match="'validation'"):
        task.sample(2, "valid")
    with pytest.raises(UnknownNameError, match="'train'"):
        task.pairs(2, split="trian")
    with pytest.raises(UnknownNameError, match="'successor'"):
        task.pairs(2, "sucessor")
