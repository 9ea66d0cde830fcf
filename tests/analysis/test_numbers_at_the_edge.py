"""Half precision, one pair, metrics that are no floating-point numbers, odd kinds of numbers, pairs that say little."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis import (
    Ablation,
    AttentionScore,
    Circuit,
    Graph,
    Pair,
    ReadMetric,
    Site,
    WeakPairWarning,
    ablate,
    ablate_edges,
    attribute,
    attribute_edges,
    attribute_logits,
    copy_score,
    find_circuit,
    find_sites,
    head_composition,
    head_shares,
    judge,
    logit_lens,
    patch,
    patch_paths,
    score_heads,
    score_retrieval,
    split_gradient,
    standard_ablations,
)
from analysis.ablated import Ablations
from analysis.circuit.over_checkpoints import follow
from analysis.edges.head_shares import HeadShares
from analysis.edges.switched import EdgeSwitch
from analysis.heads.attention_scores import duplicate_token, induction, previous_token
from analysis.heads.copying import eigenvalue_copying
from analysis.metrics import METRICS
from analysis.switchboard.prompts import inputs_of
from circuits import HookedStreamTransformer, Intervention, intervened
from circuits.interventions.intervention import Zero
from tests.handmade import induction_model, stream_model
from tests.helpers import build, inputs_for, random_pair


def whole(model: HookedStreamTransformer) -> Circuit:
    return Circuit(Graph(model), tuple(range(len(Graph(model)))))


QUESTIONS: dict[str, Callable[[HookedStreamTransformer, Pair], pd.DataFrame]] = {
    "patch": lambda m, p: patch(m, p, find_sites(m, ["state", "v", "z", "resid_pre"])).to_frame(),
    "patch_paths": lambda m, p: patch_paths(m, p).to_frame(),
    "head_shares": lambda m, p: head_shares(m, p).to_frame(),
    "AtP": lambda m, p: attribute(m, p, find_sites(m, ["state", "v", "z"])).to_frame(),
    "AtP*": lambda m, p: attribute(m, p, find_sites(m, ["q", "v"]), method="AtP*", check=4).to_frame(),
    "IG": lambda m, p: attribute(m, p, find_sites(m, ["state", "v"]), method="IG").to_frame(),
    "EAP": lambda m, p: attribute_edges(m, p).to_frame(),
    "EAP-IG": lambda m, p: attribute_edges(m, p, method="EAP-IG").to_frame(),
    "exact": lambda m, p: attribute_edges(m, p, method="exact").to_frame(),
    "judge": lambda m, p: judge(m, p, whole(m), subsets=1).summary(),
    "follow": lambda m, p: follow([(3, m)], p, whole(m), lambda s: whole(m)).to_frame(),
}
OTHERS: dict[str, Callable[[HookedStreamTransformer, Pair], pd.DataFrame]] = {
    "ablate": lambda m, p: ablate(m, p).to_frame(),
    "ablate_edges": lambda m, p: ablate_edges(m, p).to_frame(),
    "split": lambda m, p: split_gradient(m, lambda x: x[:, -1].float().square().mean(), p.clean).to_frame(),
    "composition": lambda m, p: head_composition(m).to_frame(),
    "heads": lambda m, p: score_heads(m, p, [previous_token(p)]).to_frame(),
}
OF_TOKENS: dict[str, Callable[[HookedStreamTransformer, Pair], pd.DataFrame]] = {
    "retrieval": lambda m, p: score_retrieval(m, p).to_frame(),
    "copying": lambda m, p: copy_score(m, torch.arange(9), top_k=3).to_frame(),
    "eigenvalues": lambda m, p: eigenvalue_copying(m).to_frame(),
}


# --- half precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_every_question_can_be_asked_in_half_precision(kind: str, dtype: torch.dtype) -> None:
    exact, model = build("cumulative", kind, 2), build("cumulative", kind, 2).to(dtype)
    pair, same = random_pair(model), random_pair(exact)
    asked = QUESTIONS | OTHERS | (OF_TOKENS if kind == "tokens" else {})
    for name, ask in asked.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", WeakPairWarning)
            frame = ask(model, pair)
        numbers = frame.select_dtypes("number")
        assert len(numbers.columns), name
        if name in QUESTIONS and name not in ("judge", "follow"):
            effects, wanted = frame.effect.to_numpy(), ask(exact, same).effect.to_numpy()
            close = 0.3 if dtype is torch.bfloat16 else 0.06
            assert np.isfinite(effects).all(), name
            assert np.abs(effects - wanted).max() < close * max(1.0, np.abs(wanted).max()), name


def test_a_metric_of_half_precision_logits_is_not_rounded_again() -> None:
    model = build("value", "tokens", 2).to(torch.bfloat16)
    pair = random_pair(model)
    logits = model(pair.clean)[:, -1].float().detach()
    rows = torch.arange(len(pair))
    difference = (logits[rows, pair.answers] - logits[rows, pair.wrong]).mean()
    assert patch(model, pair, [Site(0, "v")]).to_frame().clean.iloc[0] == pytest.approx(float(difference), rel=1e-6)


# --- one pair ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_one_pair_has_effects_and_no_interval(kind: str) -> None:
    model = build("value", kind, 2)
    pair = random_pair(model)[2]
    assert len(pair) == 1
    for name, ask in QUESTIONS.items():
        frame = ask(model, pair)
        spread = [c for c in ("low", "high", "stderr", "p") if c in frame]
        assert frame[spread].isna().all(axis=None), f"{name}: one example says nothing of others"
        if "effect" in frame:
            assert np.isfinite(frame.effect).all(), name
    scores = score_heads(model, pair, [previous_token(pair)]).to_frame()
    assert scores.stderr.isna().all()
    assert scores.value.between(0, 1).all()


def test_of_two_pairs_there_is_one() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)[:2]
    assert np.isfinite(patch(model, pair, [Site(1, "v")]).to_frame()[["effect", "p"]]).all(axis=None)
    assert (score_heads(model, pair, [previous_token(pair)]).to_frame().stderr >= 0).all()


# --- metrics that read elsewhere, and those that are no floating-point numbers ----------------------------------------


def prefers(logits: Tensor, pair: Pair) -> Tensor:
    """Whether the answer is the likelier of two: true or false."""
    rows = torch.arange(len(pair))
    return logits[rows, -1, pair.answers] > logits[rows, -1, pair.wrong]


def place(logits: Tensor, pair: Pair) -> Tensor:
    """A whole number."""
    return (logits[:, -1] > logits[:, -1].gather(1, pair.answers[:, None])).sum(-1)


ELSEWHERE: dict[str, Callable[[Tensor, Pair], Tensor]] = {
    "largest anywhere": lambda logits, pair: logits.amax((1, 2)),
    "where it is above zero": lambda logits, pair: (logits[:, :, 0] > 0).sum(-1) + logits[:, -1, 1],
    "clamped": lambda logits, pair: logits[:, :, 2].clamp(-0.1, 0.1).sum(-1) + logits[:, -1, 0],
    "the better of two places": lambda logits, pair: torch.where(
        logits[:, 0, 0] > logits[:, -1, 0], logits[:, 0, 0], logits[:, -1, 0]
    ),
    "not a number ignored": lambda logits, pair: logits.nan_to_num(0.0)[:, :, 3].sum(-1),
    "sorted": lambda logits, pair: logits[:, :, 1].sort(1).values[:, 0] + logits[:, -1, 2],
}


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_metric_that_reads_elsewhere_is_given_all_logits(name: str, direction: Any) -> None:
    """Which positions a function looks at cannot be found out; the whole state patched is the other run."""
    model = build("resformer-learned", "tokens", 2)
    pair = random_pair(model)
    found = patch(model, pair, [Site(0, "state"), Site(1, "state"), Site(1, "z")], ELSEWHERE[name], direction)
    assert found.normalised_effect()[:2].tolist() == pytest.approx([1, 1], abs=1e-9)
    base, source = (pair.corrupt, pair.clean) if direction == "denoise" else (pair.clean, pair.corrupt)
    _, cache = model.run_with_cache(source)
    patched = model.run_with_hooks(base, fwd_hooks=[("blocks.1.attn.hook_z", lambda t, hook: cache[hook.name])])
    assert torch.allclose(found.values[2], ELSEWHERE[name](patched, pair), atol=1e-9)


def test_what_is_said_to_read_one_place_is_given_only_that_and_costs_less() -> None:
    seen: list[tuple[int, ...]] = []

    @ReadMetric
    def clamped(there: Tensor, pair: Pair) -> Tensor:
        """The answer's logit, at most 2."""
        seen.append(tuple(there.shape))
        return there.gather(1, pair.answers[:, None])[:, 0].clamp(max=2)

    model = build("value", "tokens", 2)
    pair = random_pair(model)
    found = patch(model, pair, [Site(1, "v"), Site(0, "state")], clamped)
    assert found.metric_names == ["clamped"]
    assert {len(shape) for shape in seen} == {2}
    everywhere = patch(model, pair, [Site(1, "v"), Site(0, "state")], lambda logits, p: clamped(logits, p))
    assert torch.allclose(found.values, everywhere.values, atol=1e-12)
    assert float(found.normalised_effect()[1]) == pytest.approx(1)


@pytest.mark.parametrize("metric", [prefers, place])
def test_metrics_of_truth_values_and_whole_numbers_are_numbers(metric: Any) -> None:
    made = induction_model()
    model, pair = made.model, made.pair
    frame = patch(model, pair, [Site(0, "state")], metric).to_frame()
    assert frame.effect.iloc[0] == pytest.approx(1)
    expected = metric(model(pair.clean), pair).double().mean()
    assert frame.clean.iloc[0] == pytest.approx(float(expected))
    assert patch_paths(model, pair, metric=metric).to_frame().effect.notna().all()
    assert judge(model, pair, whole(model), metric, subsets=0).faithfulness == pytest.approx(1)
    with pytest.raises(ValueError, match=f"metric '{metric.__name__}' has no gradient"):
        attribute_edges(model, pair, metric)
    with pytest.raises(ValueError, match=r"must return one number an example, \(.*,\); it returned"):
        patch(model, pair, [Site(0, "state")], lambda logits, p: logits[:, -1])


def writing(logits: Tensor, pair: Pair) -> Tensor:
    """A metric that writes into the logits."""
    logits[:, -1] -= logits[:, -1].mean(-1, keepdim=True)
    logits.mul_(2)
    return logits[torch.arange(len(pair)), -1, pair.answers]


def test_a_metric_that_writes_into_the_logits_changes_nothing_else() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)

    def pure(logits: Tensor, p: Pair) -> Tensor:
        return writing(logits.clone(), p)

    for name in ("patch", "patch_paths", "AtP", "EAP", "judge"):
        ask = {
            "patch": lambda metric: patch(model, pair, find_sites(model, ["v", "z"]), metric).to_frame(),
            "patch_paths": lambda metric: patch_paths(model, pair, metric=metric).to_frame(),
            "AtP": lambda metric: attribute(model, pair, find_sites(model, ["v", "z"]), metric).to_frame(),
            "EAP": lambda metric: attribute_edges(model, pair, metric).to_frame(),
            "judge": lambda metric: judge(model, pair, whole(model), metric, subsets=1).summary(),
        }[name]
        one, other = (ask(metric).drop(columns="metric") for metric in (writing, pure))
        pd.testing.assert_frame_equal(one, other)


# --- positions and numbers of other kinds -----------------------------------------------------------------------------


def test_positions_beyond_the_inputs_do_not_wrap_round() -> None:
    model = build("value", "tokens", 2)
    x = inputs_for(model.config, 2)
    there = {"t": torch.tensor([[3], [9]])}
    beyond = pytest.raises(ValueError, match="9.*is beyond the inputs' 7 positions")
    with beyond, intervened(model, [Intervention(Site(1, "z", position="t"), Zero())], positions=there):
        model(x)


# --- what effects are shares of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", QUESTIONS)
def test_both_metrics_accuracy_and_n_stand_beside_every_effect(name: str) -> None:
    made = stream_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = QUESTIONS[name](made.model, made.pair)
    logits = made.model(made.pair.clean)[:, -1]
    assert (frame.accuracy == float((logits.argmax(-1) == made.pair.answers).double().mean())).all()
    assert (frame.accuracy == 1).all(), "this model does its task, and no warning came"
    assert (frame.n == len(made.pair)).all()
    assert (frame.clean > frame.corrupt).all()
    noisy = patch(made.model, made.pair, [Site(0, "state")], direction="noise").to_frame()
    assert noisy[["clean", "corrupt", "accuracy", "n"]].iloc[0].tolist() == pytest.approx(
        frame[["clean", "corrupt", "accuracy", "n"]].iloc[0].tolist(), rel=1e-5
    )


@pytest.mark.parametrize("name", [n for n in QUESTIONS if n != "follow"])
def test_a_gap_that_is_not_told_apart_from_zero_is_told(name: str) -> None:
    made = stream_model()
    pair = made.pair
    # Rows that pull one way and rows that pull the other: the mean difference is next to nothing.
    half = len(pair) // 2
    mixed = Pair(
        torch.cat([pair.clean[:half], pair.corrupt[half:]]),
        torch.cat([pair.corrupt[:half], pair.clean[half:]]),
        pair.answers,
        pair.wrong,
    )
    mixed = mixed[: len(pair) - 1]
    with pytest.warns(WeakPairWarning, match=r"not told apart: they differ by .* \[.*\] \(95 % interval\) over"):
        QUESTIONS[name](made.model, mixed)


def test_effects_without_an_interval_say_so() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model, 3, seed=4)
    gap = patch(model, pair, [Site(0, "z")])._gap()
    assert abs(float(gap.mean())) < float(gap.std()), "nothing is told apart"
    circuit = Circuit(Graph(model), tuple(range(0, len(Graph(model)), 2)))
    asked = (patch(model, pair, find_sites(model, ["z"])), patch_paths(model, pair), head_shares(model, pair))
    for found in (*asked, judge(model, pair, circuit, subsets=0)):
        assert "(no interval)" in found.finding()
        assert "nan" not in found.finding()
    made = stream_model()
    sure = judge(made.model, made.pair, whole(made.model), subsets=0).finding()
    assert "edges keep 1.00 [1.00, 1.00] of the clean-corrupt difference" in sure


def test_a_model_that_prefers_the_wrong_answers_is_told() -> None:
    made = stream_model()
    pair = Pair(made.pair.clean, made.pair.corrupt, made.pair.wrong, made.pair.answers)
    with pytest.warns(WeakPairWarning, match="does not do what it is asked: .* accuracy 0 over"):
        frame = patch(made.model, pair, [Site(0, "state")]).to_frame()
    assert frame.effect.iloc[0] == pytest.approx(1), "it is answered all the same"
    assert frame.accuracy.iloc[0] == 0


# --- padding ----------------------------------------------------------------------------------------------------------


def padded(tokens: Tensor, n: int, left: bool) -> tuple[Tensor, Tensor]:
    pad = torch.zeros(len(tokens), n, dtype=torch.int64)
    both = [pad, tokens] if left else [tokens, pad]
    mask = [torch.zeros_like(pad).bool(), torch.ones_like(tokens).bool()]
    return torch.cat(both, 1), torch.cat(mask if left else mask[::-1], 1)


@pytest.mark.parametrize("make", [previous_token, duplicate_token, induction])
@pytest.mark.parametrize("left", [False, True])
def test_padding_counts_for_no_score(make: Any, left: bool) -> None:
    tokens = torch.randint(1, 6, (5, 9), generator=torch.Generator().manual_seed(0))
    longer, mask = padded(tokens, 4, left)
    pattern = torch.rand(5, 3, 13, 13, generator=torch.Generator().manual_seed(1))
    bare = pattern[:, :, 4:, 4:] if left else pattern[:, :, :9, :9]
    want = make(tokens).of(bare)
    assert torch.allclose(make(longer, mask=mask).of(pattern), want)
    pair = Pair.one_sided(longer, tokens[:, 0], mask=mask)
    assert torch.allclose(make(pair).of(pattern), want), "a pair says itself where padding stands"
    assert not torch.allclose(make(longer).of(pattern), want), "and nothing is guessed from a token's number"


def test_masks_that_do_not_fit_are_refused() -> None:
    tokens = torch.tensor([[1, 2, 1], [3, 3, 0]])
    with pytest.raises(ValueError, match="in 1 of 2 examples .first: 1. there is only one"):
        previous_token(tokens, torch.tensor([[True, True, True], [True, False, False]]))
    with pytest.raises(ValueError, match="leave mask out"):
        induction(Pair.one_sided(tokens, tokens[:, 0]), tokens > 0)


def test_means_and_samples_leave_padding_out() -> None:
    model = build("value", "tokens", 2)
    tokens = inputs_for(model.config, 4, length=7)
    mask = torch.arange(7) < torch.tensor([[7], [5], [4], [5]])
    pair = Pair.one_sided(tokens, tokens[:, 0], mask=mask)
    assert pair.reads.tolist() == [6, 4, 3, 4]
    _, cache = model.run_with_cache(tokens)
    z = cache["z", 1]
    expected = torch.where(mask[:, :, None, None], z, 0).sum(0) / mask.sum(0)[:, None, None]
    logits = model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", lambda t, hook: expected.expand_as(t))])
    there = logits[torch.arange(4), pair.reads]
    row = ablate(model, pair, [Ablation.sites("z", [Site(1, "z")], "mean")]).to_frame().iloc[0]
    assert row.loss_ablated == pytest.approx(float(torch.nn.functional.cross_entropy(there, pair.answers).detach()))
    blind = ablate(
        model, Pair.one_sided(tokens, tokens[:, 0], read_at=pair.reads), [Ablation.sites("z", [Site(1, "z")], "mean")]
    ).to_frame()
    assert blind.loss_ablated.iloc[0] != pytest.approx(row.loss_ablated), "a mean over padding is another"
    out = [f"L1H{head} > {reader} (residual)" for head in range(4) for reader in ("MLP1", "logits")]
    cut = ablate_edges(model, pair, [out], "mean").to_frame().iloc[0]
    assert cut.loss_ablated == pytest.approx(row.loss_ablated), "edges leave it out as sites do"


PADDED: dict[str, Callable[[HookedStreamTransformer, Pair], Any]] = {
    "mean": lambda m, p: ablate(m, p, standard_ablations(m, ["mean"])).to_frame().loss_ablated.tolist(),
    "resample": lambda m, p: ablate(m, p, standard_ablations(m, ["resample"])).to_frame().loss_ablated.tolist(),
    "edges": lambda m, p: ablate_edges(m, p, STREAMED, "mean").to_frame().loss_ablated.tolist(),
    "edges, resample": lambda m, p: ablate_edges(m, p, STREAMED, "resample").to_frame().loss_ablated.tolist(),
    "circuit": lambda m, p: judge(m, p, Circuit(Graph(m), (0, 3, 5)), replacement="mean", subsets=0).faithfulness,
    "switch": lambda m, p: EdgeSwitch(m, p, replacement="mean").changed(dict.fromkeys(STREAMED, "cut")).metric,
    "prompts": lambda m, p: [inputs.tolist() for inputs in inputs_of(m, p, range(len(p)))],
}
STREAMED = [f"L0H{head}.v > L1H{head}.v (stream)" for head in range(4)] + ["L0H1 > logits (residual)"]


@pytest.mark.parametrize("pads", [{"pad_token_id": 1, "eos_token_id": None}, {"pad_token_id": 1, "eos_token_id": 1}])
@pytest.mark.parametrize("name", PADDED)
def test_padding_that_the_tokenizer_knows_is_left_out_as_a_masks_is(name: str, pads: dict[str, Any]) -> None:
    model = build("value", "tokens", 2)
    lengths = torch.tensor([7, 4, 5, 4])
    mask = torch.arange(7) < lengths[:, None]
    clean, corrupt = (inputs_for(model.config, 4, seed, 7).clamp_min(2).masked_fill(~mask, 1) for seed in (5, 6))
    answers = torch.arange(4) + 2
    told = Pair(clean, corrupt, answers, answers + 1, mask=mask)
    untold = Pair(clean, corrupt, answers, answers + 1, read_at=lengths - 1)
    ask = PADDED[name]
    wanted, blind = ask(model, told), ask(model, untold)
    model.tokenizer = SimpleNamespace(**pads)
    assert ask(model, untold) == wanted
    assert ask(model, told) == wanted
    assert blind != wanted, "of a model without a tokenizer nothing is guessed"


def test_what_compares_two_answers_refuses_pairs_that_have_one() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    one = Pair.one_sided(pair.clean, pair.answers)
    edges = ["L0H0 > logits (residual)"]
    told = "the answer and the wrong one are the same in every example.*their logit difference is 0.*take "
    for ask, instead in (
        (lambda p: attribute_logits(model, p), 'of="answer"'),
        (lambda p: logit_lens(model, p), 'metric="probability" or "loss"'),
        (lambda p: ablate_edges(model, p, edges, metric="logit_difference"), 'metric="probability" or "loss"'),
        (lambda p: ablate_edges(model, p, edges, metric=METRICS["logit_difference"]), "metric="),
    ):
        with pytest.raises(ValueError, match=told + instead):
            ask(one)
        assert len(ask(pair).to_frame())
    assert len(attribute_logits(model, one, "answer").to_frame())
    assert len(logit_lens(model, one, "probability").to_frame())
    assert ablate_edges(model, one, edges, metric="loss").to_frame().metric_whole.iloc[0] > 0


def test_the_worst_ablation_is_the_one_that_costs_most() -> None:
    rows = {"part": ["a", "b", "c"], "layer": "0", "head": "1", "method": "zero", "accuracy": 0.5, "n": 4}
    frame = pd.DataFrame(rows).assign(accuracy_ablated=[0.9, 0.4, 0.3], loss=2.0, loss_ablated=[0.5, 2.1, 2.4])
    assert "worst: c L0 H1 zero, accuracy 0.300, loss 2.400" in Ablations(frame).finding()
    assert Ablations(frame).largest(1).part.tolist() == ["a"], "either way"
    assert "loss 2.000; none raises the loss (n = 4)" in Ablations(frame[:1]).finding()


def test_heads_are_told_by_their_effect_in_all() -> None:
    shares = {"total": 0.3, "own": 2.0, "stream": -1.5, "interaction": -0.2}
    rows = [{"layer": 0, "head": "0", "carrier": "v", "share": s, "effect": x} for s, x in shares.items()]
    rows += [{"layer": 1, "head": "1", "carrier": "v", "share": s, "effect": -0.5 * (s == "total")} for s in shares]
    frame = pd.DataFrame(rows).assign(low=0.0, high=1.0, n=3, metric="loss", direction="noise")
    assert "largest: L1 H1 v, -0.50 [0.00, 1.00]: by its own layer -0.00" in HeadShares(frame).finding()
    assert "largest: L0 H0 v, 0.30" in HeadShares(frame[:4]).finding()


def test_the_mean_over_one_input_is_no_ablation() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)[0]
    told = "the mean over one input is that input itself, which takes nothing away; give more, or the method 'zero'"
    with pytest.raises(ValueError, match=told):
        ablate(model, pair).to_frame()
    with pytest.raises(ValueError, match=told):
        ablate_edges(model, pair, ["L0H0 > logits (residual)"], "mean").to_frame()
    assert ablate(model, pair, standard_ablations(model, ["zero"])).to_frame().accuracy.isin([0, 1]).all()
    assert len(ablate_edges(model, pair, ["L0H0 > logits (residual)"], "zero").to_frame()) == 1


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda m, p: attribute(m, p, [Site(0, "v")], check=-1), "check must be a whole number of at least 0, got -1"),
        (lambda m, p: attribute_edges(m, p, check=-2), "check must be a whole number of at least 0, got -2"),
        (lambda m, p: judge(m, p, whole(m), subsets=-1), "subsets must be a whole number of at least 0, got -1"),
    ],
)
def test_counts_below_none_are_refused(ask: Any, told: str) -> None:
    model = build("value", "tokens", 2)
    with pytest.raises(ValueError, match=told):
        ask(model, random_pair(model))


# --- what else is not taken for an answer -----------------------------------------------------------------------------


def test_a_metric_whose_gradient_is_zero_everywhere_says_nothing() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)

    def sign(logits: Tensor, p: Pair) -> Tensor:
        return (logits[:, -1, 3] - logits[:, -1, 5]).sign() + (logits[:, -1, 7] - logits[:, -1, 2]).sign()

    for ask in (lambda: attribute(model, pair, [Site(1, "v")], sign), lambda: attribute_edges(model, pair, sign)):
        with pytest.raises(ValueError, match="the gradient of metric 'sign' is zero everywhere"):
            ask()


@pytest.mark.parametrize("method", ["AtP", "AtP+QK", "AtP*", "IG", "EAP", "EAP-IG"])
def test_a_metric_at_its_bound_in_some_examples_is_answered_however_they_are_batched(
    method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model, 5)
    of_edges = method.startswith("EAP")

    @ReadMetric
    def bounded(there: Tensor, p: Pair) -> Tensor:
        found = there.gather(1, p.answers[:, None])[:, 0]
        # The first two examples are at the bound, wherever they are.
        return torch.where(p.answers >= pair.answers[2], found, found.detach().sign() + 0 * found)

    def ask() -> Tensor:
        if of_edges:
            return attribute_edges(model, pair, bounded, method, steps=2, check=0).effects
        return attribute(model, pair, find_sites(model, ["z", "v"]), bounded, method, steps=2, check=0).effects

    pair = Pair(pair.clean, pair.corrupt, torch.arange(5), torch.arange(5) + 1)
    together = ask()
    for module in ("of_edges", "of_sites"):
        monkeypatch.setattr(f"analysis.attribution.{module}.copies_within", lambda *_: 1)
    assert torch.allclose(ask(), together, atol=1e-9)
    assert together.abs().max() > 0


@pytest.mark.parametrize("method", ["IG", "EAP-IG"])
def test_a_metric_at_its_bound_at_some_inputs_between_is_answered(method: Any) -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model, 2)
    seen: list[int] = []

    @ReadMetric
    def at_times(there: Tensor, p: Pair) -> Tensor:
        seen.append(len(seen))
        return there[:, 2] if len(seen) % every == 0 else there[:, 2].detach() + 0 * there[:, 3]

    def ask() -> Tensor:
        seen.clear()
        if method == "IG":
            return attribute(model, pair, [Site(0, "z"), Site(1, "v")], at_times, method, steps=4, check=0).values
        return attribute_edges(model, pair, at_times, method, steps=4, check=0).values

    every = 2
    some = ask()
    every = 1
    assert some.abs().max() > 0
    assert not torch.allclose(some, ask())
    every = 1000
    with pytest.raises(ValueError, match="the gradient of metric 'at_times' is zero everywhere"):
        ask()


def test_scores_that_are_none_are_refused() -> None:
    queries, keys = torch.tensor([[4], [5]]), torch.tensor([[[1, 1]], [[2, 3]]])
    with pytest.raises(ValueError, match="score 'x' counts a key of a query more than once; name it once"):
        AttentionScore("x", queries, keys)
    AttentionScore("x", queries, keys, torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]]))
    with pytest.raises(ValueError, match="score 'x': weights are .* between 0 and 1"):
        AttentionScore("x", queries, keys, torch.full((2, 1, 2), 5.0))
    with pytest.raises(ValueError, match="score 'x' has no query in some example"):
        AttentionScore("x", queries, keys[..., :1], used=torch.zeros(2, 1, dtype=torch.bool))
    model = build("value", "tokens", 2)
    with pytest.raises(
        ValueError, match="score 'x' is for 2 examples and positions from 2 to 9, and the pattern has 2"
    ):
        score_heads(
            model, inputs_for(model.config, 2), [AttentionScore("x", queries, torch.tensor([[[9]], [[2]]]))]
        ).to_frame()


def test_a_score_that_counts_the_padding_of_a_pair_is_refused() -> None:
    model = build("value", "tokens", 2)
    tokens = inputs_for(model.config, 3)
    pair = Pair.one_sided(tokens, tokens[:, 0], mask=torch.arange(7) < torch.tensor([[7], [4], [5]]))
    with pytest.raises(ValueError, match=r"score 'previous token' counts padding of this pair; make it of the pair"):
        score_heads(model, pair, [previous_token(tokens)]).to_frame()
    assert score_heads(model, pair, [previous_token(pair)]).to_frame().value.between(0, 1).all()


def test_padding_before_what_is_asked_is_refused() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model, 2)
    for mask in (
        torch.tensor([[False] * 2 + [True] * 5, [True] * 7]),
        torch.tensor([[True, False] * 3 + [True], [True] * 7]),
    ):
        masked = Pair(pair.clean, pair.corrupt, pair.answers, pair.wrong, mask=mask)
        for ask in (
            lambda p: patch(model, p, [Site(1, "v")]),
            lambda p: ablate(model, p).to_frame(),
            lambda p: patch_paths(model, p),
        ):
            with pytest.raises(
                ValueError, match="in 1 of 2 examples padding stands before what is asked: the model has"
            ):
                ask(masked)


def test_logits_that_are_no_numbers_are_no_accuracy() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    with torch.no_grad():
        model.layers[1].attn.W_O[0] = torch.nan
    with pytest.raises(ValueError, match="the logits of the model hold NaN or infinity in 6 of 6 places"):
        ablate(model, pair).to_frame()


def test_ablation_compares_gradients_wherever_it_is_called() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    wanted = ablate(model, pair).to_frame()
    with torch.no_grad():
        pd.testing.assert_frame_equal(ablate(model, pair).to_frame(), wanted)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter has a gradient, which an ablation compares"):
        ablate(model, pair).to_frame()


def test_a_cut_of_gates_that_a_model_has_not_is_refused() -> None:
    model, classic = build("value", "tokens", 2), build("classic", "tokens", 2)
    with pytest.raises(ValueError, match="this takes nothing away: model 'classic' has no such part, an open gate"):
        ablate(classic, random_pair(classic), [Ablation.forward_cut(model)]).to_frame()


def test_intervals_and_circuits_of_nonsense_are_refused() -> None:
    model = build("value", "tokens", 2)
    pair, graph = random_pair(model), Graph(model)
    result = patch(model, pair, [Site(1, "v")])
    for confidence in (95.0, -1.0):
        with pytest.raises(ValueError, match="a confidence lies between 0 and 1, got"):
            result.interval(confidence)
    for edges, told in (
        ((0, 0), "every edge once"),
        ((-1,), "at least 0, got -1"),
        ((9999,), r"edges \[9999\]: the graph has"),
    ):
        with pytest.raises(ValueError, match=told):
            Circuit(graph, edges)
    scores = attribute_edges(model, pair, check=0)
    with pytest.raises(ValueError, match="rule 'top' takes a size and nothing else"):
        find_circuit(scores, "top", 5, threshold=0.1)
    with pytest.raises(ValueError, match="rule 'threshold' takes a threshold and nothing else"):
        find_circuit(scores, "threshold", 5, threshold=0.1)
    assert torch.equal(judge(model, pair, whole(model), subsets=1).circuit.mask, whole(model).mask)


@pytest.mark.parametrize("seed", [True, 2.5, "a", None])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        HookedStreamTransformer(build("value").config, seed)
