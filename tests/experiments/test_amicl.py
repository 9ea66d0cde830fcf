"""The associative memory: its theorems with their negations, an independent loop, the paper's numbers, its errors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from circuits.associative_memory import AMICL, SIMILARITIES, Sequences, nearest_over_a, scores_over_a
from experiments.runs.training_config import TokenTraining
from experiments.studies.associative_memory import against_paper, answers
from experiments.studies.associative_memory.study import ask
from experiments.tasks.associative_memory import TASKS, AMICLBatch, AMICLTask, AMICLTaskConfig
from experiments.tasks.task import Task, TrainedTask

GRID = torch.tensor([0.0, 0.5, 0.9, 1.0, 1.1, 1.5, 2.0, 4.0])
PLAIN = [name for name in TASKS if name not in ("lag", "conjunction")]


def doubles(batch: AMICLBatch) -> Sequences:
    s = batch.sequences
    return Sequences(s.tokens.double(), s.blanks, s.blank_keys.double())


def accuracy(task: str | AMICLTaskConfig, a: float, similarity: str = "dot", reach: int = 1, n: int = 400) -> float:
    batch = AMICLTask(task).sample(n)
    found = nearest_over_a(batch.sequences, torch.tensor([a]), similarity, reach)
    return float(batch.correct(found).float().mean())


# --- the generator --------------------------------------------------------------------------------------------------


def test_sequences_are_object_label_object_label_object_blank() -> None:
    batch = AMICLTask(AMICLTaskConfig(n_classes=5)).sample(300)
    tokens, classes = batch.sequences.tokens, batch.classes
    assert tokens.shape == (300, 20, 100)
    assert batch.sequences.blanks.tolist() == [19]
    assert not tokens[:, -1].any()
    assert torch.equal(tokens[:, 1:19:2], batch.label_vectors), "labels carry no noise"
    assert classes.shape == (300, 10)
    assert set(classes.unique().tolist()) == {1, 2, 3, 4}, "one of the classes is never drawn"
    assert (classes[:, :-1] == classes[:, -1:]).any(1).all(), "the answer is in the context"
    same = classes[:, :-1, None] == classes[:, None, :-1]
    alike = (batch.label_vectors[:, :, None] == batch.label_vectors[:, None]).all(-1)
    assert torch.equal(same, alike), "a class has one label, and no two share one"


def test_vectors_have_the_papers_scale_and_noise() -> None:
    batch = AMICLTask(AMICLTaskConfig(n_classes=2)).sample(2000)
    objects = batch.sequences.tokens[:, 0::2]
    assert float(batch.label_vectors.std()) == pytest.approx(0.1, rel=0.01)
    assert float(batch.sequences.blank_keys.std()) == pytest.approx(0.1, rel=0.01)
    assert float(objects.std()) == pytest.approx(0.1 / math.sqrt(1.01), rel=0.01), "noise is 1/D, so it adds little"
    noise = (objects[:, 0] - objects[:, 1]) * math.sqrt(1.01 / 2)
    assert float(noise.std()) == pytest.approx(0.1 / 100, rel=0.01), "eps / D, not eps / sqrt(D)"


def test_classes_are_uniform_and_the_asked_one_is_of_a_random_pair() -> None:
    classes = AMICLTask(AMICLTaskConfig(n_classes=11)).sample(4000).classes
    assert stats.chisquare(torch.bincount(classes[:, :-1].flatten(), minlength=11)[1:].numpy()).pvalue > 1e-4
    unique = AMICLTask(AMICLTaskConfig(n_classes=10**6)).sample(4000).classes
    where = (unique[:, :-1] == unique[:, -1:]).int().argmax(1)
    assert stats.chisquare(torch.bincount(where, minlength=9).numpy()).pvalue > 1e-4


def test_sequences_are_equal_for_equal_seeds_alone() -> None:
    tokens = AMICLTask("pairs", 3).sample(4, seed=1).sequences.tokens
    assert torch.equal(tokens, AMICLTask("pairs", 3).sample(4, seed=1).sequences.tokens)
    for other in (AMICLTask("pairs", 3).sample(4, seed=2), AMICLTask("pairs", 4).sample(4, seed=1)):
        assert not torch.equal(tokens, other.sequences.tokens)
    assert not torch.equal(tokens[0], tokens[1]), "vectors are fresh in every sequence"


def test_layouts() -> None:
    lag, scattered = TASKS["lag"][1], TASKS["distractors"][1]
    assert lag.objects.tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20]
    assert lag.labels.tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23]
    assert scattered.objects.tolist() == [6 * pair for pair in range(10)]
    assert scattered.labels.tolist() == [6 * pair + 1 for pair in range(10)]
    assert (lag.n_tokens, scattered.n_tokens, TASKS["several queries"][1].n_tokens) == (24, 56, 24)
    for name in TASKS:
        batch = AMICLTask(name).sample(3)
        used = torch.cat([batch.config.objects, batch.config.labels])
        assert len(used.unique()) == len(used)
        assert int(used.max()) == batch.config.n_tokens - 1 == batch.sequences.tokens.shape[1] - 1
        assert bool(batch.sequences.tokens[:, batch.sequences.blanks].any()) is (name == "conjunction")


# --- the model --------------------------------------------------------------------------------------------------------


def by_hand(tokens: np.ndarray, blank_key: np.ndarray, a: float, similarity: str) -> int:
    """One sequence, written out; the position that its last token retrieves."""
    s = len(tokens)
    q = np.array([(a * tokens[i - 1] + tokens[i]) / (a + 1) for i in range(s)])
    k = np.array([q[i] if i < s - 1 else blank_key for i in range(s)])
    measures = {
        "dot": lambda u, v: float(u @ v),
        "pearson": lambda u, v: float(np.corrcoef(u, v)[0, 1]) if u.any() and v.any() else 0.0,
        "manhattan": lambda u, v: -float(np.abs(u - v).sum()),
        "euclidean": lambda u, v: -float(np.sqrt(((u - v) ** 2).sum())),
    }
    return int(np.argmax([measures[similarity](k[j], q[s - 1]) for j in range(s)]))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_vectorised_equals_the_loop(similarity: str) -> None:
    batch = AMICLTask(AMICLTaskConfig(d=12, n_classes=9)).sample(25)
    sequences = doubles(batch)
    found = nearest_over_a(sequences, GRID.double(), similarity)
    for i, a in enumerate(GRID.tolist()):
        a = float(torch.tensor(a))
        for trial in range(25):
            tokens, key = sequences.tokens[trial].numpy(), sequences.blank_keys[trial, 0].numpy()
            expected = by_hand(tokens, key, a, similarity)
            assert int(found[i, trial, 0]) == expected
            pair = int((batch.classes[trial] == batch.classes[trial, -1]).int().argmax())
            label = batch.label_vectors[trial, pair].numpy()
            right = np.array_equal(batch.sequences.tokens[trial, expected].numpy(), label)
            assert bool(batch.correct(found)[i, trial, 0]) == right


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("task", TASKS)
def test_many_a_at_once_equal_one_at_a_time(task: str, similarity: str) -> None:
    batch = AMICLTask(replace(TASKS[task][1], d=16)).sample(6)
    sequences = doubles(batch)
    for reach in (1, 3):
        many = scores_over_a(sequences, GRID.double(), similarity, reach)
        for a, scores in zip(GRID.tolist(), many, strict=True):
            expected = AMICL(a, similarity, reach=reach).scores(sequences)
            torch.testing.assert_close(scores, expected, atol=1e-7, rtol=1e-7)


def test_a_blank_sees_nothing_after_it() -> None:
    sequences = AMICLTask("several queries").sample(5).sequences
    weights = AMICL(temperature=1.0).weights(sequences)
    assert sequences.blanks.tolist() == [19, 21, 23]
    for row, blank in enumerate(sequences.blanks.tolist()):
        assert not weights[:, row, blank + 1 :].any()
        assert (weights[:, row, : blank + 1] > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 3))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_cold_softmax_is_argmax_and_warm_is_not(similarity: str) -> None:
    sequences = doubles(AMICLTask("pairs").sample(200))
    nearest = AMICL(2.0, similarity).retrieve(sequences)
    torch.testing.assert_close(AMICL(2.0, similarity, temperature=1e-9).retrieve(sequences), nearest)
    warm = AMICL(2.0, similarity, temperature=10.0).retrieve(sequences)
    assert float((warm - nearest).norm(dim=-1).min()) > 0.5
    even = AMICL(2.0, similarity, temperature=1e9).retrieve(sequences)
    torch.testing.assert_close(even[:, 0], sequences.tokens.mean(1), atol=1e-6, rtol=0)


def test_softmax_read_by_the_nearest_label_is_right_when_cold() -> None:
    batch = AMICLTask("pairs").sample(200)
    for temperature, good in ((0.01, True), (100.0, False)):
        read = batch.nearest(AMICL(2.0, temperature=temperature).retrieve(batch.sequences))
        share = float((read == batch.classes[:, -1:]).float().mean())
        assert (share > 0.99) is good


def test_pearson_ignores_scale_and_shift_and_dot_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = torch.randn(2, 3, 4, 50, generator=generator, dtype=torch.float64)
    scale = torch.rand(3, 4, 1, generator=generator, dtype=torch.float64) + 0.1
    moved = scale * keys + 10 * torch.randn(3, 4, 1, generator=generator, dtype=torch.float64)
    pearson, dot = SIMILARITIES["pearson"], SIMILARITIES["dot"]
    torch.testing.assert_close(pearson(queries, moved), pearson(queries, keys))
    assert not torch.allclose(dot(queries, scale * keys), dot(queries, keys))
    expected = np.corrcoef(queries[0].numpy(), keys[0].numpy())[:4, 4:]
    np.testing.assert_allclose(pearson(queries, keys)[0].numpy(), expected)


def test_distances_are_larger_for_the_nearer() -> None:
    near, far = torch.tensor([[1.0, 1.0]]), torch.tensor([[4.0, 5.0]])
    here = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    for name, expected in {
        "manhattan": (0.0, -2.0, -7.0, -9.0),
        "euclidean": (0.0, -(2**0.5), -5.0, -(41**0.5)),
    }.items():
        similarity = SIMILARITIES[name]
        got = torch.cat([similarity(here, near)[:, 0], similarity(here, far)[:, 0]])
        torch.testing.assert_close(got, torch.tensor(expected))


# --- why a > 1 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("a", [0.5, 1.0, 2.0, 4.0])
def test_scores_are_those_of_the_argument(a: float) -> None:
    """Matching label a^2 / (a + 1)^2, matching object a / (a + 1)^2, everything else 0, in large dimensions."""
    batch = AMICLTask(AMICLTaskConfig(d=5000, n_classes=10**6)).sample(50)
    scores = AMICL(a).scores(batch.sequences)[:, 0]
    pair = (batch.classes[:, :-1] == batch.classes[:, -1:]).int().argmax(1)
    label = scores.gather(1, 2 * pair[:, None] + 1)[:, 0]
    later = pair > 0  # the first object has no label before it, but the zeros of the blank: the same score, less noise
    matching = scores.gather(1, 2 * pair[:, None])[later, 0]
    assert float(label.mean()) == pytest.approx(a**2 / (a + 1) ** 2, abs=0.01)
    assert float(matching.mean()) == pytest.approx(a / (a + 1) ** 2, abs=0.01)
    others = scores.scatter(1, torch.stack([2 * pair, 2 * pair + 1, torch.full_like(pair, 18)], 1), 0.0)
    assert float(others.mean()) == pytest.approx(0, abs=0.005)


@pytest.mark.parametrize("task", PLAIN)
def test_below_one_fails_and_above_works(task: str) -> None:
    large = replace(TASKS[task][1], d=1000)
    chance = 0.25 if task == "noisy labels" else 0.02
    assert accuracy(large, 0.8, n=100) <= chance
    assert accuracy(large, 1.25, n=100) >= 0.98
    assert 0.2 < accuracy(large, 1.0, n=200) < 0.5, "at 1 label, object and object asked tie: about a third"


def test_labels_that_lag_need_a_reach_as_long() -> None:
    assert accuracy("lag", 2.0, reach=1) < 0.05
    assert accuracy("lag", 2.0, reach=3) > 0.99
    assert accuracy("pairs", 2.0, reach=3) < 0.05


def test_conjunctions_need_the_object_and_the_blank() -> None:
    batch = AMICLTask("conjunction").sample(400)
    number, pairs = batch.classes, batch.label_vectors
    assert set(number.unique().tolist()) == set(range(2, 10)), "four classes, two attributes each"
    same = number[:, :-1, None] == number[:, None, :-1]
    alike = (pairs[:, :, None] == pairs[:, None]).all(-1)
    assert torch.equal(same, alike)
    products = torch.einsum("npd,nd->np", pairs, batch.sequences.tokens[:, -1])
    own = number[:, :-1] % 2 == number[:, -1:] % 2
    assert float(products[own].mean()) == pytest.approx(1 / math.sqrt(2), abs=0.02)
    assert float(products[~own].mean()) == pytest.approx(0, abs=0.02)
    assert float(pairs.std()) == pytest.approx(0.1, rel=0.02), "labels are as long as ever"
    at_best = accuracy("conjunction", 2.0)
    assert at_best > 0.95
    assert accuracy("conjunction", 0.25) < at_best - 0.2
    assert accuracy("conjunction", 16.0) < at_best - 0.2


def test_pearson_fails_exactly_where_an_object_stands_alone() -> None:
    """An object after a zero token has its whole key to itself: length apart, it equals the query."""
    batch = AMICLTask(AMICLTaskConfig(n_classes=50)).sample(2000)
    [found] = nearest_over_a(batch.sequences, torch.tensor([2.0]), "pearson")
    first = batch.classes[:, 0] == batch.classes[:, -1]
    right = batch.correct(found)[:, 0]
    assert not right[first].any()
    assert right[~first].all()
    assert (found[first, 0] == 0).all()
    expected = 1 - (1 / 9 + 8 / 9 / 49)
    assert abs(float(right.float().mean()) - expected) < 3 * math.sqrt(expected * (1 - expected) / 2000)
    [by_dot] = nearest_over_a(batch.sequences, torch.tensor([2.0]), "dot")
    assert batch.correct(by_dot).all()


def test_pearson_answers_only_the_first_of_several_queries() -> None:
    batch = AMICLTask("several queries").sample(400)
    [right] = batch.correct(nearest_over_a(batch.sequences, torch.tensor([2.0]), "pearson"))
    assert right.float().mean(0).tolist() == pytest.approx([8 / 9, 0, 0], abs=0.06)
    [by_dot] = batch.correct(nearest_over_a(batch.sequences, torch.tensor([2.0]), "dot"))
    assert by_dot.float().mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.01)


def test_euclidean_needs_twice_as_much_as_dot_where_an_object_stands_alone() -> None:
    """The object alone is (a - 1) / (a + 1) away, its label 1 / (a + 1): nearer iff a > 2."""
    config = AMICLTaskConfig(d=1000, n_classes=10**6)
    batch = AMICLTask(config).sample(200)
    first = batch.classes[:, 0] == batch.classes[:, -1]
    right = batch.correct(nearest_over_a(batch.sequences, torch.tensor([1.7, 2.3]), "euclidean"))[..., 0]
    assert not right[0, first].any()
    assert right[0, ~first].all()
    assert right[1].all()


def test_noisy_labels_are_read_by_the_nearest_label_of_the_context() -> None:
    batch = AMICLTask("noisy labels").sample(200)
    labels = batch.config.labels[:9]
    own = batch.classes[:, :9] == batch.classes[:, -1:]
    assert torch.equal(batch.right[:, 0, labels], own), "noise of a half never makes another label the nearest"
    exact = (batch.sequences.tokens[:, labels] == batch.label_vectors).all(-1)
    assert not exact.any()
    objects = batch.right[:, 0, batch.config.objects[:9]].float().mean()
    assert 0.05 < float(objects) < 0.2, "any other token is right by chance"


# --- against the paper ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts() -> pd.DataFrame:
    return against_paper.counts(more=1000)


@pytest.fixture(scope="module")
def curves() -> pd.DataFrame:
    return against_paper.curves(sizes=(10, 20, 40, 100))


def test_counts_agree_with_the_printed_ones(counts: pd.DataFrame) -> None:
    assert len(counts) == 9
    assert counts.paper.tolist() == [1000, 1000, 994, 907, 325, 315, 321, 342, 315]
    assert counts.within_three.all(), counts
    assert counts.z.abs().max() <= 3
    assert (counts.correct == counts.expected.round()).all()


def test_counts_of_another_memory_do_not_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    real = answers.nearest_over_a
    monkeypatch.setattr(answers, "nearest_over_a", lambda s, a, name, reach: real(s, 0.9 * a, name, reach))
    monkeypatch.setattr(against_paper, "PRINTED", against_paper.PRINTED[2:5])
    assert not against_paper.counts(more=1000).within_three.any()


def test_curves_agree_with_the_plots(curves: pd.DataFrame) -> None:
    compared = against_paper.against_paper(curves)
    assert len(compared) == 27
    assert set(compared.curve) == set(against_paper.READ_OFF)
    assert compared.agrees.all(), compared[~compared.agrees]
    ours = curves[curves.source == "here"]
    assert ours.groupby("curve").size().to_dict() == {"dimension": 4, "dot by a": 100, "length": 4, "pearson by a": 100}
    assert ((ours.low <= ours.accuracy) & (ours.accuracy <= ours.high)).all()


def test_long_sequences_lose_nothing() -> None:
    longest = AMICLTaskConfig(n_classes=50, length=1000)
    [right] = answers.answers(longest, torch.tensor([2.0]), ["dot"], 60)["dot"]
    assert right.all()


def test_pearson_plateau(curves: pd.DataFrame) -> None:
    flat = curves[(curves.curve == "pearson by a") & (curves.source == "here") & (curves.x >= 1.35)]
    assert flat.accuracy.between(0.85, 0.90).all()
    assert np.ptp(flat.accuracy) < 0.01
    dot = curves[(curves.curve == "dot by a") & (curves.source == "here") & (curves.x >= 1.6)]
    assert (dot.accuracy > 0.99).all()


# --- heat maps --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def maps() -> pd.DataFrame:
    return answers.heat_maps()


def grid(maps: pd.DataFrame, which: str, stage: str, similarity: str) -> np.ndarray:
    cells = maps[(maps["map"] == which) & (maps.stage == stage) & (maps.similarity == similarity)]
    return cells.pivot(index="row", columns="column", values="value").to_numpy()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_authors_map_has_keys_in_rows_and_counts_its_zeros(maps: pd.DataFrame, similarity: str) -> None:
    scores = grid(maps, "authors", "scores", similarity)
    assert not np.triu(scores).any(), "zero unless the key is later than the query"
    weights = grid(maps, "authors", "softmax", similarity)
    np.testing.assert_allclose(weights, np.exp(scores) / np.exp(scores).sum(1, keepdims=True), rtol=1e-5)
    assert (np.tril(scores, -1)[np.tril_indices(20, -1)] > 0).all() == (similarity in ("manhattan", "euclidean"))
    corrected = grid(maps, "corrected", "scores", similarity)
    sign = -1 if similarity in ("manhattan", "euclidean") else 1
    if similarity != "pearson":
        inner = np.tril_indices(19, -1)
        np.testing.assert_allclose(scores[inner], sign * corrected[inner], atol=1e-6)  # keys are queries there
    assert not np.allclose(scores[19, :19], sign * corrected[19, :19]), "its last row is the random key's"


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_corrected_map_is_causal_and_its_last_row_the_retrieval(maps: pd.DataFrame, similarity: str) -> None:
    scores, weights, best = (grid(maps, "corrected", stage, similarity) for stage in ("scores", "softmax", "argmax"))
    seen = np.tril(np.ones((20, 20), bool), -1)
    seen[19, 19] = True
    for values in (scores, weights, best):
        assert (np.isnan(values) == ~seen).all()
    np.testing.assert_allclose(np.nansum(weights[1:], 1), 1, rtol=1e-5)
    last = maps[(maps["map"] == "corrected") & (maps.stage == "argmax") & (maps.similarity == similarity) & maps.answer]
    assert last.value.tolist() == [1.0], "the blank finds the label asked for"
    assert set(maps[maps.answer].row) == {19}


# --- the best a -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasks() -> pd.DataFrame:
    return answers.accuracy_by_task(300, torch.tensor([0.5, 1.0, 1.5, 2.0, 4.0]), dimensions=(100,))


def test_accuracy_by_task_is_tidy_and_marks_one_best(tasks: pd.DataFrame) -> None:
    case = ["task", "reach", "d", "similarity"]
    assert len(tasks) == len(answers.CASES) * len(answers.COMPARED) * 5
    assert (tasks.groupby(case).best.sum() == 1).all()
    assert tasks.groupby(case).chosen.sum().to_numpy() == pytest.approx(1)
    assert tasks[tasks.best].not_worse.all()
    for _, rows in tasks.groupby(case):
        assert rows[rows.best].accuracy.iloc[0] == rows.accuracy.max()
        assert rows.a[rows.best].iloc[0] == rows.a[rows.accuracy == rows.accuracy.max()].min()


def test_best_a_is_above_one_and_has_an_upper_end_only_where_the_blank_says_something(tasks: pd.DataFrame) -> None:
    best = answers.best_a(tasks)
    assert len(best) == len(answers.CASES) * len(answers.COMPARED)
    by_dot = best[(best.similarity == "dot") & ~((best.task == "lag") & (best.reach == 1))]
    solved = by_dot[by_dot.task != "conjunction"]
    assert (solved.as_good_from > 1).all()
    assert solved.open_above.all()
    assert (solved.accuracy > 0.99).all()
    [both] = by_dot[by_dot.task == "conjunction"].to_dict("records")
    assert not both["open_above"], "too large an a drowns what the blank holds"
    assert 1 < both["best_a"] < 4
    assert ((best.best_low <= best.best_a) & (best.best_a <= best.best_high)).all()
    hopeless = best[(best.task == "lag") & (best.reach == 1)]
    assert (hopeless.accuracy < 0.1).all()


def test_the_set_as_good_finds_an_upper_end_where_there_is_one() -> None:
    rng = np.random.default_rng(0)
    chances = np.array([0.2, 0.9, 0.9, 0.2])
    correct = rng.random((4, 500, 1)) < chances[:, None, None]
    frame = answers._compared(correct, [1.0, 2.0, 3.0, 4.0], seed=0)
    assert frame.not_worse.tolist() == [False, True, True, False]
    assert frame.chosen[[0, 3]].tolist() == [0, 0]
    one = answers.best_a(frame.assign(task="t", reach=1, d=1, similarity="dot")).iloc[0]
    assert (one.as_good_from, one.as_good_to, one.open_above) == (2.0, 3.0, False)
    same = answers._compared(np.repeat(correct[1:2], 3, 0), [1.0, 2.0, 3.0], seed=0)
    assert same.best.tolist() == [True, False, False], "of equals the smallest"
    assert same.not_worse.all()


def test_the_miniature_study_has_every_frame_and_is_the_same_twice() -> None:
    first, second = ask("miniature"), ask("miniature")
    names = ("counts", "curves", "agreement", "heat_maps", "tasks", "best_a")
    assert set(first) == {f"amicl_{name}" for name in names}
    for name, frame in first.items():
        pd.testing.assert_frame_equal(frame, second[name])
    assert not first["amicl_curves"].equals(against_paper.curves(100, 1, 21, against_paper.SIZES[:4]))


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AMICL(similarity="person"), "unknown similarity 'person': did you mean 'pearson'"),
        (lambda: AMICL(a=-0.5), "a must not be negative, got -0.5"),
        (lambda: AMICL(temperature=0.0), "temperature must be positive .* got 0.0"),
        (lambda: AMICL(temperature=-1.0), "temperature must be positive"),
        (lambda: AMICL(reach=0), "reach must be at least 1, got 0"),
        (
            lambda: Sequences(torch.zeros(2, 4, 3), torch.tensor([4]), torch.zeros(2, 1, 3)),
            "not positions of sequences",
        ),
        (lambda: AMICLTask("pair"), "unknown task 'pair': did you mean 'pairs'"),
        (lambda: AMICLTask().sample(0), "n must be a whole number of at least 1, got 0"),
        (lambda: AMICLTask().sample(-4), "n must be a whole number of at least 1, got -4"),
        (lambda: AMICLTask().sample(True), "n must be a whole number of at least 1, got True"),
        (lambda: AMICLTaskConfig(length=21), "length must be even and at least 4, got 21"),
        (lambda: AMICLTaskConfig(length=2), "length must be even and at least 4, got 2"),
        (lambda: AMICLTaskConfig(n_classes=1), "n_classes must be at least 2, got 1"),
        (lambda: AMICLTaskConfig(d=0), "d must be at least 1, got 0"),
        (lambda: AMICLTaskConfig(n_attributes=0), "n_attributes must be at least 1, got 0"),
        (lambda: AMICLTaskConfig(noise=-0.1), "noise must not be negative"),
        (lambda: AMICLTaskConfig(lag=2), "n_pairs = 9 is not a multiple of lag = 2"),
        (lambda: AMICLTaskConfig(lag=3), "n_asks = 1 is not a multiple of lag = 3"),
        (lambda: answers.answers(AMICLTaskConfig(), torch.ones(1), ["dott"], 5), "did you mean 'dot'"),
        (lambda: answers.answers(AMICLTaskConfig(), torch.ones(1), ["dot"], 0), "trials must be at least 1"),
        (lambda: against_paper.counts(trials=1000, more=10), "more = 10 trials must hold the first 1000"),
    ],
)
def test_mistakes_are_explained(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_memory_is_asked_by_a_task_as_any_model_is() -> None:
    task = AMICLTask("several queries", seed=2)
    assert isinstance(task, Task)
    assert not isinstance(task, TrainedTask), "it has no parameters to train"
    sets = task.evaluation_sets(TokenTraining(steps=1, n_eval=300))
    memory = AMICL(a=2.5, temperature=0.1)
    found = {measure: value for _, measure, value in task.measures(memory, sets)}
    nearest = nearest_over_a(sets.sequences, torch.tensor([2.5]))[0]
    assert found["accuracy"] == pytest.approx(float(sets.correct(nearest).double().mean()))
    weights, right = memory.weights(sets.sequences), sets.right
    by_hand = [-weights[t, b][right[t, b]].sum().log() for t in range(300) for b in range(3)]
    assert found["loss"] == pytest.approx(float(torch.stack(by_hand).mean()), rel=1e-5)
    forgets = {measure: value for _, measure, value in task.measures(AMICL(a=0.1, temperature=0.1), sets)}
    assert forgets["accuracy"] < 0.5 < found["accuracy"]
    assert forgets["loss"] > found["loss"]
    with pytest.raises(ValueError, match="unknown split 'train'"):
        task.sample(2, "train")
