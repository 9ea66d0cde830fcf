"""Head scores on patterns that are known, on hand-weighted models, and on trained ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformer_lens.head_detector import detect_head

from analysis import AttentionScore, Pair, score_heads
from analysis.heads.attention_scores import (
    WHOLE,
    between,
    duplicate_token,
    induction,
    previous_token,
    role_scores,
)
from analysis.heads.retrieval import score_retrieval
from circuits import HookedStreamTransformer, icl_config
from experiments.questions.heads import Heads
from figures.models.head_scores import SCORE_WORDS, head_scores
from tests.handmade import N_POS, Handmade, induction_model, stream_model
from tests.helpers import FULL, LINEAR, build, inputs_for, run_named, small_task

BUILDERS = [induction_model, stream_model]


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def above(frame: pd.DataFrame, score: str, level: float) -> list[tuple[int, int]]:
    """The heads whose score is above a level."""
    chosen = frame[(frame.score == score) & (frame.value > level)]
    return list(zip(chosen.layer.tolist(), chosen["head"].tolist(), strict=True))


# --- patterns that are known ----------------------------------------------------------------------------------------


def test_a_score_is_the_attention_to_its_keys_averaged_over_its_queries() -> None:
    pattern = torch.tensor([[[[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.2, 0.3]]]])
    score = AttentionScore("x", torch.tensor([[1, 2]]), torch.tensor([[[0, 1], [0, 2]]]))
    assert float(score.of(pattern)) == pytest.approx(((0.25 + 0.75) + (0.5 + 0.3)) / 2)
    weighted = AttentionScore("x", torch.tensor([[2]]), torch.tensor([[[0, 1]]]), torch.tensor([[[1.0, 0.0]]]))
    assert float(weighted.of(pattern)) == 0.5
    used = AttentionScore("x", score.queries, score.keys, used=torch.tensor([[False, True]]))
    assert float(used.of(pattern)) == pytest.approx(0.8)


def test_the_named_patterns_have_score_1_and_each_others_0() -> None:
    tokens = torch.tensor([[1, 2, 3, 4, 1, 2, 3, 4]])
    n, period = 8, 4
    patterns = {name: torch.zeros(1, 1, n, n) for name in ("previous token", "duplicate token", "induction")}
    patterns["previous token"][0, 0, range(1, n), range(n - 1)] = 1
    patterns["duplicate token"][0, 0, range(period, n), range(n - period)] = 1
    patterns["induction"][0, 0, range(period, n), range(1, n - period + 1)] = 1
    for score in (previous_token(tokens), duplicate_token(tokens), induction(tokens)):
        for name, pattern in patterns.items():
            assert float(score.of(pattern)) == float(name == score.name)


def test_repeats_may_stand_anywhere_and_queries_without_one_do_not_count() -> None:
    tokens = torch.tensor([[5, 5, 7, 5], [1, 2, 3, 1]])
    uniform = (torch.ones(4, 4).tril() / torch.arange(1, 5)[:, None]).expand(2, 1, 4, 4)
    duplicates, after = duplicate_token(tokens).of(uniform)[:, 0], induction(tokens).of(uniform)[:, 0]
    assert duplicates.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2, 1 / 4])
    assert after.tolist() == pytest.approx([(1 / 2 + 2 / 4) / 2, 1 / 4])


# --- transformer-lens -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["classic", "value", "query"])
def test_equal_to_transformer_lens_detector(variant: str) -> None:
    """Theirs is a share of all attention, also of queries that have nothing to find; ours is of those that have."""
    model = build(variant, "tokens", 3).float()
    tokens = inputs_for(model.config, 1, length=12) % 5
    repeats = int(duplicate_token(tokens).used.sum())  # type: ignore[union-attr] # it always says which
    assert 0 < repeats < 11
    scores = {
        "previous_token_head": (previous_token(tokens), 11),
        "duplicate_token_head": (duplicate_token(tokens), repeats),
        "induction_head": (induction(tokens), repeats),
    }
    for name, (score, queries) in scores.items():
        ours = torch.tensor(score_heads(model, tokens, [score]).to_frame().value.tolist()).view(3, 4)
        theirs = detect_head(model, tokens, name)  # type: ignore[arg-type] # tokens pass through
        assert torch.allclose(ours * queries / 12, theirs, atol=1e-5), name


# --- hand-weighted models -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", BUILDERS)
def test_detectors_find_the_built_in_heads_and_no_other(make: Callable[[], Handmade]) -> None:
    made = make()
    wanted = [
        previous_token(made.tokens),
        induction(made.tokens),
        duplicate_token(made.tokens),
        between(made.pair, "answer finder", "END", "answer"),
    ]
    frame = score_heads(made.model, made.tokens, wanted).to_frame()
    assert above(frame, "previous token", 0.99) == above(frame, "previous token", 0.3) == [made.heads["previous token"]]
    assert above(frame, "induction", 0.99) == above(frame, "induction", 0.3) == [made.heads["induction"]]
    assert above(frame, "answer finder", 0.99) == above(frame, "answer finder", 0.3) == [made.heads["induction"]]
    assert above(frame, "duplicate token", 0.3) == [], "no head was built to look at its own token"


@pytest.mark.parametrize("make", BUILDERS)
def test_retrieval_finds_the_induction_head(make: Callable[[], Handmade]) -> None:
    made = make()
    frame = score_retrieval(made.model, Pair.one_sided(made.tokens, made.pair.answers)).to_frame()
    assert above(frame, "retrieval", 0.99) == above(frame, "retrieval", 0.5) == [made.heads["induction"]]
    missed = score_retrieval(made.model, Pair.one_sided(made.tokens, made.pair.wrong)).to_frame()
    assert above(missed, "retrieval", 0.0) == [], "an answer that the model does not give is copied by none"


def test_attention_of_a_head_whose_copy_is_not_said_is_no_retrieval() -> None:
    made = stream_model()
    with made.model.gated("off"):
        assert (
            above(
                score_retrieval(made.model, Pair.one_sided(made.tokens, made.pair.answers)).to_frame(), "retrieval", 0.5
            )
            == []
        )
        looking = score_heads(made.model, made.tokens, [induction(made.tokens)]).to_frame()
    assert above(looking, "induction", 0.99) == [made.heads["induction"]]


@pytest.mark.parametrize("kind", ["tokens", "vectors"])
def test_retrieval_is_what_a_loop_over_examples_counts(kind: str) -> None:
    model = build("cumulative", kind, 3)
    inputs = inputs_for(model.config, 12)
    answers = model(inputs)[:, -1].argmax(-1)
    answers[::3] = (answers[::3] + 1) % 5
    holds = torch.rand(12, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    frame = score_retrieval(model, Pair.one_sided(inputs, answers), holds).to_frame().set_index(["layer", "head"]).value
    logits, cache = model.run_with_cache(inputs)
    for (layer, head), value in frame.items():  # type: ignore[misc] # the index holds pairs
        count = 0
        for i in range(12):
            best = int(cache["pattern", layer][i, head, -1].argmax())
            count += bool(holds[i, best]) and int(logits[i, -1].argmax()) == int(answers[i])
        assert value == pytest.approx(count / 12)


def test_retrieval_reads_every_example_where_it_ends() -> None:
    made = induction_model()
    longer = torch.cat([made.tokens, made.tokens[:, :1]], 1)
    at_end = score_retrieval(made.model, Pair.one_sided(made.tokens, made.pair.answers)).to_frame()
    ends = torch.full((len(longer),), N_POS - 1)
    there = Pair.one_sided(longer, made.pair.answers, read_at=ends)
    assert score_retrieval(made.model, there).to_frame().value.equals(at_end.value)
    assert score_retrieval(made.model, Pair.one_sided(longer, made.pair.answers)).to_frame().value.max() < 0.5


# --- roles ----------------------------------------------------------------------------------------------------------


def indirect_object(n: int = 4) -> Pair:
    """A pair with the roles of indirect object identification, of random tokens."""
    clean = torch.randint(0, 19, (n, 7), generator=torch.Generator().manual_seed(0))
    places = {"IO": 1, "S1": 2, "S2": 4, "END": -1}
    positions = {role: torch.full((n, 1), place) for role, place in places.items()}
    corrupt = clean.clone()
    corrupt[:, 1] = (clean[:, 1] + 1) % 19
    return Pair(clean, corrupt, clean[:, 1], corrupt[:, 1], positions)


def test_scores_between_roles_are_the_attention_between_their_positions() -> None:
    pair, model = indirect_object(), build("value", "tokens")
    found = score_heads(model, pair.clean, role_scores(pair)).to_frame().set_index(["layer", "head", "score"]).value
    _, cache = model.run_with_cache(pair.clean)
    for name, (query, key) in {"name mover": (6, 1), "s-inhibition": (6, 4), "duplicate token": (4, 2)}.items():
        for layer in range(2):
            for head in range(4):
                attention = float(cache["pattern", layer][:, head, query, key].mean())
                assert found.loc[(layer, head, name)] == pytest.approx(attention)


def test_a_role_of_several_positions_sums_over_keys_and_averages_over_queries() -> None:
    pair = small_task().pairs(3)
    pattern = torch.rand(3, 1, 17, 17)
    to_labels = between(pair, "x", "target item", "matching label").of(pattern)[:, 0]
    keys = pair.positions["matching label"]
    assert torch.allclose(to_labels, pattern[:, 0, 16].gather(1, keys).sum(1))
    from_labels = between(pair, "y", "matching label", "matching label")
    assert from_labels.keys.shape == (3, 2, 2)


# --- the in-context task --------------------------------------------------------------------------------------------


def test_a_batch_says_where_its_answer_stands_and_the_task_what_labels_look_like() -> None:
    task = small_task()
    batch = task.sample(16, "ic")
    assert torch.equal(batch.holds_answer[:, 1::2], batch.matches), "in context, the answer stands after its class"
    assert not batch.holds_answer[:, 0::2].any()
    assert not task.sample(16, "iw").matches.any()
    vectors, numbers = task.label_inputs()
    assert torch.equal(vectors[batch.labels][:, 17:], task.label_vectors[batch.labels])
    assert (vectors[:, :17] == 0).all(), "no position"
    assert torch.equal(vectors[batch.context_labels][..., 17:], batch.inputs[:, 1::2, 17:])
    assert numbers.tolist() == list(range(32))


# --- runs -----------------------------------------------------------------------------------------------------------


def test_trained_models_have_the_two_heads_and_no_other(trained_runs: Path) -> None:
    for variant in ("classic", "value"):
        run = run_named(trained_runs, variant)
        frame = Heads(n=128).ask(run).to_frame()
        assert sorted(frame.step.unique()) == run.checkpoints()
        last = frame[frame.step == 1000].set_index(["layer", "score"]).value
        assert last[(0, "ila")] > 0.6
        assert last[(1, "tila")] > 0.6
        assert last[(1, "ila")] < 0.4
        assert last[(0, "tila")] < 0.4
        first = frame[frame.step == 0].set_index(["layer", "score"]).value
        assert first[(0, "ila")] < 0.4
        measured = run.metrics()
        same = measured[(measured.split == "ic") & (measured.step == 1000)].set_index("measure").value
        assert same["ila"] == pytest.approx(last[(0, "ila")], abs=0.05)
        assert same["tila"] == pytest.approx(last[(1, "tila")], abs=0.05)
        assert same["cla"] == pytest.approx(last[(WHOLE, "cla")], abs=0.05)
        assert last[(1, "retrieval")] > 0.8
        assert last[(0, "retrieval")] < 0.3
        assert last[(1, "copying (own)")] > 0.8
        assert ("stream v composition" in set(frame.score)) == (variant == "value")
        assert frame.groupby("score").convention.nunique().eq(1).all(), "every number says what it is"


@pytest.mark.parametrize("variant", FULL)
def test_everything_is_scored_in_every_variant(variant: str) -> None:
    task = small_task()
    model = HookedStreamTransformer(icl_config(variant, "small", n_layers=3, n_heads=2)).eval()
    frame = task.head_scorer(6)(model).to_frame()
    assert not frame[["value", "stderr"]].isna().any(axis=None)
    assert frame.value.between(0, 1 + 1e-5).all()
    assert (frame[frame.layer == WHOLE].score == "cla").all()
    stream = frame.score.str.startswith("stream")
    assert stream.any() == (variant in LINEAR and variant != "classic"), "its gains depend on the input"
    assert set(frame[frame.partner != ""].score) == set(frame[frame.score.str.endswith("composition")].score)


def test_the_figure_names_heads_pairs_of_heads_and_the_model() -> None:
    task = small_task()
    model = HookedStreamTransformer(icl_config("value", "small")).eval()
    frame = task.head_scorer(6)(model).to_frame().assign(step=0, variant="value", run="r")
    figure: Any = head_scores(frame)
    assert {trace.name for trace in figure.data} == {"L0H0", "L1H0", "model", "L0H0 to L1H0"}
    assert sum(trace.showlegend for trace in figure.data) == 4, "each once"
    titles = [a.text for a in figure.layout.annotations][: frame.score.nunique()]
    assert titles == [f"{SCORE_WORDS.get(score, score)} (value)" for score in dict.fromkeys(frame.score)]
    assert "mean over 6 sequences" in figure.layout.meta["caption"]
    best = frame[frame.score == "ila"].sort_values("value", kind="stable").iloc[-1]
    told = f"label looks at its item: L{best.layer}H{best['head']}"
    assert told in figure.layout.meta["title"]
    other = frame.assign(value=frame["value"].where(frame.score != "ila", 1 - frame["value"]))
    assert told not in head_scores(other).layout.meta["title"]  # type: ignore[index] # a dictionary


# --- bad input ------------------------------------------------------------------------------------------------------


def test_mistakes_are_explained() -> None:
    model = build("value", "tokens")
    x = inputs_for(model.config)
    with pytest.raises(ValueError, match="scores are a list of AttentionScore"):
        score_heads(model, x, []).to_frame()
    with pytest.raises(ValueError, match="score 'previous token' is for 2 examples, but there are 3"):
        score_heads(model, x, [previous_token(x[:2])]).to_frame()
    with pytest.raises(ValueError, match=r"in 1 of 2 examples \(first: 1\) nothing repeats; leave those out"):
        duplicate_token(torch.tensor([[1, 1], [1, 2]]))
    with pytest.raises(ValueError, match="score 'induction' looks at repeated tokens"):
        induction(torch.arange(4)[None])
    with pytest.raises(ValueError, match="evaluation mode"):
        score_heads(model.train(), x, [previous_token(x)]).to_frame()
    with pytest.raises(ValueError, match="evaluation mode"):
        score_retrieval(model, Pair.one_sided(x, x[:, 0])).to_frame()


def test_roles_that_are_not_there_are_named() -> None:
    pair = indirect_object()
    with pytest.raises(ValueError, match="unknown position role 'S3': did you mean 'S2' or 'S1'"):
        between(pair, "x", "END", "S3")
    with pytest.raises(ValueError, match="'S2' stands after 'S1' in some example, and attention only looks back"):
        between(pair, "x", "S1", "S2")
    with pytest.raises(ValueError, match="this pair has the roles 'matching item'.*name two of its own with between"):
        role_scores(small_task().pairs(2))


def test_retrieval_needs_answers_and_their_places() -> None:
    model, vectors = build("value", "tokens"), build("value")
    x, y = inputs_for(model.config), inputs_for(vectors.config)
    answers: Tensor = x[:, 0]
    with pytest.raises(ValueError, match="answers are numbers of logits, from 0 to 18, got 0 to 19"):
        score_retrieval(model, Pair.one_sided(x, torch.tensor([0, 1, 19]))).to_frame()
    there = Pair.one_sided(y, answers % 5)
    with pytest.raises(ValueError, match="do not say which positions hold the answer; pass holds="):
        score_retrieval(vectors, there).to_frame()
    with pytest.raises(ValueError, match=r"holds is \(3, 5\) of torch.bool, but inputs have \(batch, pos\) = \(3, 7\)"):
        score_retrieval(vectors, there, torch.ones(3, 5, dtype=torch.bool)).to_frame()
