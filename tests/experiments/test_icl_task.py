"""The generator's statistics against what the paper's experiment does, its splits, its pairs, its errors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats

from circuits import icl_config
from experiments.tasks.in_context.batches import PRESETS, ICLBatch, ICLTaskConfig
from experiments.tasks.in_context.sequences import ROLES
from experiments.tasks.in_context.task import ICLTask

N = 20_000


@pytest.fixture(scope="module")
def task() -> ICLTask:
    return ICLTask("paper", seed=0)


@pytest.fixture(scope="module")
def train(task: ICLTask) -> ICLBatch:
    return task.sample(N, "train", seed=5)


@pytest.mark.parametrize("n", [8, 32, 128])
def test_sequences_of_train_that_are_asked_are_of_no_step(n: int) -> None:
    small = ICLTask("small", seed=3)
    asked = {seed: small.sequences(n, "train", seed).clean for seed in (0, 1, 2)}
    assert not asked[1].equal(asked[2])
    steps = [small.sample(n, "train", seed=step).inputs for step in range(5)]
    assert not any(one.equal(step) for one in (*asked.values(), small.held_out(n).inputs) for step in steps)
    for split in ("ic", "iw", "test"):
        assert small.sequences(n, split).clean.equal(small.sample(n, split, seed=1).inputs), "these no step draws"
    scorer: Any = small.head_scorer(n, "train")
    assert scorer.keywords["batch"].inputs.equal(asked[1])


def novel(batch: ICLBatch) -> torch.Tensor:
    return (batch.classes >= batch.config.n_classes).all(1)


def bursty(batch: ICLBatch) -> torch.Tensor:
    """Every label of the context occurs exactly twice."""
    counts = torch.zeros(len(batch), batch.config.n_labels).scatter_add_(
        1, batch.context_labels, torch.ones_like(batch.context_labels, dtype=torch.float32)
    )
    return ((counts == 0) | (counts == 2)).all(1)


def within(count: int, n: int, p: float) -> bool:
    """Whether a count of n trials is one that probability p gives (two-sided, one in a million)."""
    return stats.binomtest(count, n, p).pvalue > 1e-6


def test_mix_of_sequence_kinds(train: ICLBatch) -> None:
    is_novel, is_bursty = novel(train), bursty(train)
    assert within(int(is_novel.sum()), N, 0.5)
    assert within(int((~is_novel & is_bursty).sum()), N, 0.25)
    assert within(int((~is_novel & ~is_bursty).sum()), N, 0.25)
    assert is_bursty[is_novel].all(), "novel classes are always bursty"
    mixed = (train.classes >= 512).any(1) & ~is_novel
    assert not mixed.any(), "no sequence mixes novel and known classes"


def test_the_target_is_in_the_context_of_bursty_sequences_and_independent_in_the_others(train: ICLBatch) -> None:
    is_bursty = bursty(train)
    inside = train.matches.any(1)
    assert inside[is_bursty].all()
    assert (train.matches.sum(1)[is_bursty] == 2).all()
    free = ~is_bursty
    chance = 1 - (1 - 1 / 512) ** 8
    assert within(int(inside[free].sum()), int(free.sum()), chance)


def test_labels_are_balanced_and_belong_to_their_classes(train: ICLBatch) -> None:
    counts = torch.bincount(train.labels, minlength=32).numpy()
    assert stats.chisquare(counts).pvalue > 1e-6
    assert torch.equal(train.labels, train.classes[:, -1] % 32)
    assert torch.equal(train.context_labels, train.classes[:, :-1] % 32)


def test_labels_of_a_bursty_context_are_distinct_and_of_one_class_each(train: ICLBatch) -> None:
    rows = bursty(train)
    labels, classes = train.context_labels[rows], train.classes[rows, :-1]
    assert all(len(set(row)) == 4 for row in labels[:500].tolist())
    same_label = labels[:, :, None] == labels[:, None, :]
    same_class = classes[:, :, None] == classes[:, None, :]
    assert torch.equal(same_label, same_class)


def test_order_of_the_context_is_shuffled_and_target_positions_uniform(train: ICLBatch) -> None:
    rows = bursty(train)
    counts = train.matches[rows].sum(0).numpy()
    assert stats.chisquare(counts).pvalue > 1e-6
    repeats = (train.context_labels[rows][:, :4].sort(1).values.diff(dim=1) == 0).any(1).float().mean()
    assert float(repeats) == pytest.approx(1 - 16 / math.comb(8, 4), abs=0.02), "halves are not always complete"


def test_vectors_have_the_right_scale(task: ICLTask, train: ICLBatch) -> None:
    for vectors in (task.class_vectors, task.label_vectors):
        assert float(vectors.std()) == pytest.approx(85**-0.5, rel=0.02)
        assert float(vectors.mean()) == pytest.approx(0, abs=0.002)
    assert float(train.items.std()) == pytest.approx(85**-0.5, rel=0.01), "noise keeps the scale"


def test_noise_is_a_tenth_of_the_class_vector_and_new_at_every_occurrence(task: ICLTask, train: ICLBatch) -> None:
    rows = ~novel(train)
    items, classes = train.items[rows], train.classes[rows]
    residue = items * math.sqrt(1.01) - task.class_vectors[classes]
    assert float(residue.std()) == pytest.approx(0.1 * 85**-0.5, rel=0.01)
    pair = train.matches[rows].float().topk(2).indices
    both = residue.gather(1, pair[:, :, None].expand(-1, -1, 85))[train.matches[rows].sum(1) == 2]
    correlation = torch.nn.functional.cosine_similarity(both[:, 0], both[:, 1], dim=-1)
    assert float(correlation.mean()) == pytest.approx(0, abs=0.01)


def test_novel_classes_are_fresh_for_every_128_sequences_and_shared_among_them(task: ICLTask) -> None:
    batch = task.sample(256, "ic", seed=1)
    clean = {}
    for row in range(256):
        for item, cls in zip(batch.items[row], batch.classes[row].tolist(), strict=True):
            clean.setdefault((row // 128, cls), []).append(item)
    assert {cls for _, cls in clean} <= set(range(512, 640))
    for cls in list({cls for _, cls in clean})[:40]:
        blocks = [torch.stack(clean[b, cls]) for b in (0, 1) if (b, cls) in clean]
        for block in blocks:
            assert torch.nn.functional.cosine_similarity(block[:1], block, dim=-1).min() > 0.95
        if len(blocks) == 2:
            assert abs(float(torch.nn.functional.cosine_similarity(blocks[0][0], blocks[1][0], dim=0))) < 0.6


def test_positions_start_uniformly_in_the_block(train: ICLBatch) -> None:
    counts = torch.bincount(train.starts, minlength=49).numpy()
    assert len(counts) == 49
    assert stats.chisquare(counts).pvalue > 1e-6
    x = train[:200].inputs
    assert x.shape == (200, 17, 150)
    positions = x[..., :65]
    assert torch.equal(positions.sum(-1), torch.ones(200, 17))
    assert torch.equal(positions.argmax(-1), train.starts[:200, None] + torch.arange(17))


def test_inputs_are_item_label_item_label_and_the_target_last(train: ICLBatch) -> None:
    some = train[:50]
    content = some.inputs[..., 65:]
    assert torch.equal(content[:, 0::2], some.items)
    assert torch.equal(content[:, 1::2], some.label_vectors[some.context_labels])


@pytest.mark.parametrize("preset", ["paper", "small"])
def test_splits(preset: str) -> None:
    task = ICLTask(preset)
    batch = {split: task.sample(2_000, split) for split in ("test", "ic", "ic2", "iw")}
    assert within(int(novel(batch["test"]).sum()), 2_000, 0.5)
    assert novel(batch["ic"]).all()
    assert bursty(batch["ic"]).all()
    assert not novel(batch["ic2"]).any()
    assert bursty(batch["ic2"]).all()
    shifted = (batch["ic2"].classes % 32 + 1) % 32
    assert torch.equal(batch["ic2"].labels, shifted[:, -1])
    assert torch.equal(batch["ic2"].context_labels, shifted[:, :-1])
    assert not novel(batch["iw"]).any()
    assert not batch["iw"].matches.any(), "the target's class is not in the context"
    assert stats.chisquare(torch.bincount(batch["iw"].classes[:, -1], minlength=512).numpy()).pvalue > 1e-6


def test_deterministic_and_apart() -> None:
    a, b = ICLTask("small", seed=3), ICLTask("small", seed=3)
    for split in ("train", "test", "ic"):
        assert torch.equal(a.sample(9, split, seed=4).inputs, b.sample(9, split, seed=4).inputs)
        assert not torch.equal(a.sample(9, split, seed=4).items, a.sample(9, split, seed=5).items)
    assert not torch.equal(a.sample(9, "train").items, a.sample(9, "test").items)
    assert not torch.equal(a.class_vectors, ICLTask("small", seed=4).class_vectors)
    assert torch.equal(a.class_vectors, b.class_vectors)


def test_presets_fit_the_models() -> None:
    for preset, config in PRESETS.items():
        model = icl_config("value", preset)
        assert (config.n_ctx, config.n_ctx + config.d_content) == (model.n_ctx, model.d_model)
    small = PRESETS["small"]
    assert (small.n_max, small.d_content, small.n_classes, small.n_labels) == (8, 47, 512, 32)


# --- pairs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["paper", "small"])
def test_item_pairs_differ_in_the_target_alone(preset: str) -> None:
    pair = ICLTask(preset).pairs(64, "item", seed=2)
    assert torch.equal(pair.clean[:, :-1], pair.corrupt[:, :-1])
    assert (pair.clean[:, -1] != pair.corrupt[:, -1]).any(-1).all()
    assert (pair.answers != pair.wrong).all()


@pytest.mark.parametrize("preset", ["paper", "small"])
def test_label_pairs_differ_in_two_classes_labels_alone(preset: str) -> None:
    task = ICLTask(preset)
    pair = task.pairs(64, "labels", seed=2)
    differs = (pair.clean != pair.corrupt).any(-1)
    touched = torch.cat([pair.positions["matching label"], pair.positions["competing label"]], 1)
    expected = torch.zeros_like(differs).scatter_(1, touched, True)
    assert torch.equal(differs, expected)
    n_ctx = task.config.n_ctx
    rows = torch.arange(64)
    for role, clean, corrupt in (("matching", pair.answers, pair.wrong), ("competing", pair.wrong, pair.answers)):
        at = pair.positions[f"{role} label"][:, 0]
        assert torch.equal(pair.clean[rows, at][:, n_ctx:], task.label_vectors[clean])
        assert torch.equal(pair.corrupt[rows, at][:, n_ctx:], task.label_vectors[corrupt])


def test_roles_say_where_things_are() -> None:
    task = ICLTask("small")
    pair = task.pairs(32, "item")
    assert set(pair.positions) == set(ROLES)
    every = torch.cat([pair.positions[role] for role in ROLES], 1).sort(1).values
    assert torch.equal(every, torch.arange(17).expand(32, -1)), "every position has one role"
    assert (pair.positions["target item"] == 16).all()
    content = pair.clean[..., task.config.n_ctx :]
    rows = torch.arange(32)
    for role, threshold in (("matching item", True), ("competing item", False), ("other item", False)):
        at = pair.positions[role][:, 0]
        similar = torch.nn.functional.cosine_similarity(content[rows, at], content[:, -1], dim=-1) > 0.9
        assert bool(similar.all()) is threshold
    assert torch.equal(pair.positions["matching label"], pair.positions["matching item"] + 1)


def test_pairs_of_known_classes_with_shifted_labels() -> None:
    pair = ICLTask("small").pairs(8, "item", split="ic2")
    assert (pair.answers != pair.wrong).all()


# --- head scores ----------------------------------------------------------------------------------------------------


def test_head_scores_find_a_head_that_does_exactly_that() -> None:
    task = ICLTask("small")
    batch = task.sample(8, "ic")
    scores = {score.name: score for score in task.head_scores(batch)}
    before = torch.zeros(8, 2, 17, 17)
    before[:, 0, range(1, 17), range(16)] = 1  # head 0 attends to the token before
    before[:, 1] = torch.ones(17, 17).tril() / torch.arange(1, 18)[:, None]  # head 1 to everything before
    assert scores["previous token"].of(before).mean(0).tolist() == pytest.approx(
        [1.0, float((1 / torch.arange(2, 18)).mean())]
    )
    assert float(scores["ila"].of(before)[:, 0].mean()) == 1.0
    target = torch.zeros(8, 1, 17, 17)
    target[:, 0, 16, 1::2] = batch.matches / 2
    assert scores["tila"].of(target).tolist() == [[1.0]] * 8
    assert scores["tla"].of(target).tolist() == [[1.0]] * 8
    assert float(scores["ila"].of(target).max()) == 0.0


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ICLTask("papr"), "unknown preset 'papr': did you mean 'paper'"),
        (lambda: ICLTask("small").sample(3, "tset"), "unknown split 'tset': did you mean 'test'"),
        (lambda: ICLTask("small").pairs(3, "label"), "unknown corruption 'label': did you mean 'labels'"),
        (lambda: ICLTask("small").pairs(3, split="iw"), "pairs need targets that are in the context"),
        (lambda: ICLTask("small").sample(0), "n must be a whole number of at least 1, got 0"),
        (lambda: ICLTask("small").pairs(-2), "n must be a whole number of at least 1, got -2"),
        (lambda: ICLTask("small").sample(True), "n must be a whole number of at least 1, got True"),
        (lambda: ICLTaskConfig(burstiness=0), "burstiness must be at least 1, got 0"),
        (lambda: ICLTaskConfig(n_labels=0), "n_labels must be at least 1, got 0"),
        (lambda: ICLTaskConfig(d_content=0), "d_content must be at least 1, got 0"),
        (lambda: ICLTaskConfig(noise=-0.1), "noise must not be negative, got -0.1"),
        (lambda: ICLTaskConfig(n_labels=1, burstiness=8, label_noise=0.1), "there is only 1; leave it out"),
        (
            lambda: ICLTask(ICLTaskConfig(n_classes=8, n_labels=8)).sample(3, "iw"),
            "the split 'iw' asks for a class that is not in the context: n_classes = 8 must be more than n_pairs = 8",
        ),
        (lambda: ICLTask(ICLTaskConfig(burstiness=8)).pairs(3), "n_pairs = burstiness = 8 is one; lower burstiness"),
        (
            lambda: ICLTask(ICLTaskConfig(n_labels=1, burstiness=8)).sample(3, "ic2"),
            "the split 'ic2' shifts labels by one, and there is one label only",
        ),
        (lambda: ICLTaskConfig(n_pairs=7), "n_pairs = 7 is not divisible by burstiness = 2"),
        (lambda: ICLTaskConfig(n_classes=100), "n_classes = 100 is not a multiple of n_labels = 32"),
        (lambda: ICLTaskConfig(n_novel=100), "n_novel = 100 is not a multiple of n_labels = 32"),
        (lambda: ICLTaskConfig(n_pairs=40), "40 pairs do not fit the position block, which is made for 32"),
        (lambda: ICLTaskConfig(n_labels=2, burstiness=1), "8 classes a context need as many of 2 labels"),
    ],
)
def test_mistakes_are_explained(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
