"""A model whose numbers are NaN says nothing: no question counts them as right, and none blames something else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis import (
    METRICS,
    Circuit,
    EdgeSwitch,
    Graph,
    Pair,
    ReadMetric,
    WeakPairWarning,
    ablate,
    ablate_edges,
    attention_view,
    attribute,
    attribute_edges,
    attribute_logits,
    copy_score,
    eigenvalue_copying,
    find_paths,
    find_sites,
    head_composition,
    head_shares,
    judge,
    logit_lens,
    patch,
    patch_paths,
    route_map,
    score_heads,
    score_retrieval,
    split_gradient,
)
from analysis.heads.attention_scores import previous_token
from analysis.ready import NotFiniteError
from circuits import HookedStreamTransformer
from tests.helpers import build, random_pair

Question = Callable[[HookedStreamTransformer, Pair, str], Any]


def small_circuit(model: HookedStreamTransformer) -> Circuit:
    return Circuit(Graph(model), tuple(range(5)))


OF_METRICS: dict[str, Question] = {
    "patch": lambda m, p, metric: patch(m, p, find_sites(m, ["v"]), metric),
    "ablate": lambda m, p, metric: ablate(m, p),
    "ablate_edges": lambda m, p, metric: ablate_edges(m, p, ["L0H1 > L1H0.q (residual)"]),
    "logit_lens": lambda m, p, metric: logit_lens(m, p, metric),
    "attribute_logits": lambda m, p, metric: attribute_logits(m, p),
    "attribute": lambda m, p, metric: attribute(m, p, find_sites(m, ["v"]), metric),
    "attribute_edges": lambda m, p, metric: attribute_edges(m, p, metric),
    "exact edges": lambda m, p, metric: attribute_edges(m, p, metric, "exact"),
    "patch_paths": lambda m, p, metric: patch_paths(m, p, find_paths(m)[:2], metric),
    "head_shares": lambda m, p, metric: head_shares(m, p, metric=metric),
    "route_map": lambda m, p, metric: route_map(m, p, metric=metric),
    "judge": lambda m, p, metric: judge(m, p, small_circuit(m), metric),
    "EdgeSwitch": lambda m, p, metric: EdgeSwitch(m, p, metric),
    "split_gradient": lambda m, p, metric: split_gradient(m, lambda x: METRICS["loss"](x, p).mean(), p.clean),
    "retrieval": lambda m, p, metric: score_retrieval(m, p, torch.ones_like(p.clean, dtype=torch.bool)),
}


@pytest.mark.parametrize("metric", ["rank", "accuracy", "logit_difference", "probability"])
@pytest.mark.parametrize("question", OF_METRICS)
def test_no_metric_is_made_of_logits_that_are_no_numbers(question: str, metric: str) -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    with torch.no_grad():
        model.layers[0].attn.W_V[1, 2, 0] = torch.nan
    with pytest.raises(NotFiniteError, match="the logits of the model hold NaN or infinity in 6 of 6 places"):
        OF_METRICS[question](model, pair, metric)


def last_is_right(logits: Tensor, pair: Pair) -> Tensor:
    return (logits[:, -1].argmax(-1) == pair.answers).double()


@ReadMetric
def above_zero(there: Tensor, pair: Pair) -> Tensor:
    return (there[:, 3] <= 0).double()


@pytest.mark.parametrize("metric", [last_is_right, above_zero])
def test_nor_is_a_metric_of_ones_own(metric: Any) -> None:
    model = build("cumulative", "tokens", 2)
    pair = random_pair(model)
    with torch.no_grad():
        model.layers[1].attn.W_Q.fill_(torch.inf)
    with pytest.raises(NotFiniteError, match="the logits of the model hold NaN or infinity"):
        patch(model, pair, find_sites(model, ["z"]), metric)


def test_a_damaged_part_is_told_where_it_stands() -> None:
    """What is replaced by NaN may leave the whole model as it is."""
    model, other = build("value", "tokens", 2), build("value", "tokens", 2)
    pair = random_pair(model)
    with torch.no_grad():
        other.layers[0].attn.W_O.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match="the logits of the model with edges cut hold NaN or infinity in 6 of 6"):
        ablate_edges(model, pair, ["L0H1 > L1H0.q (residual)"], "from run", other)
    found = ablate_edges(model, pair, ["L0H1 > L1H0.q (residual)"], "from run", model).to_frame()
    assert found.changed[0] == pytest.approx(0, abs=1e-12)


OF_HEADS: dict[str, Callable[[HookedStreamTransformer, Pair], Any]] = {
    "composition of heads needs numbers": lambda m, p: head_composition(m),
    "scoring eigenvalue copying needs numbers": lambda m, p: eigenvalue_copying(m),
    "scores 'previous token' of layer 1 hold NaN": lambda m, p: score_heads(m, p, [previous_token(p)]),
    "attention patterns of layer 1 hold NaN": lambda m, p: attention_view(m, p[2]),
    "the logits of the model hold NaN or infinity in .* of 20 places": lambda m, p: copy_score(m, torch.arange(5)),
}


@pytest.mark.parametrize("said", OF_HEADS)
def test_no_head_is_the_highest_beside_others_that_have_no_number(said: str) -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    assert OF_HEADS[said](model, pair).finding(), "numbers are told"
    with torch.no_grad():
        for weights in (model.layers[1].attn.W_K, model.layers[1].attn.W_V):
            weights[0, 3, 1] = torch.nan
    with pytest.raises(NotFiniteError, match=said):
        OF_HEADS[said](model, pair)


def test_weights_that_hold_nan_are_named() -> None:
    model = build("classic", "tokens", 2)
    with torch.no_grad():
        model.layers[1].attn.W_O[0, 0, 0] = -torch.inf
    with pytest.raises(NotFiniteError, match=r"1 of \d+ weights hold NaN or infinity \(first: blocks.1.attn.W_O\)"):
        head_composition(model)


def test_attributed_logits_are_numbers_or_an_error() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    found = attribute_logits(model, pair)
    assert f"logit_difference {float(found.total.mean()):.3f} of 6 examples" in found.finding()
    with torch.no_grad():
        model.W_U[0, 2] = torch.nan
    with pytest.raises(NotFiniteError, match="hold NaN or infinity in 2 of 6 places"):
        attribute_logits(model, pair)


@pytest.mark.parametrize("metric", ["rank", "accuracy", "probability", "loss", "logit_difference"])
def test_an_answer_that_is_ruled_out_is_refused_nowhere(metric: str) -> None:
    """A logit of minus infinity, of no answer of the pair, does what a very small one does."""
    ruled, low = build("value", "tokens", 2), build("value", "tokens", 2)
    pair = random_pair(ruled, n=4)
    with torch.no_grad():
        ruled.b_U[-1], low.b_U[-1] = -torch.inf, -1e9
        assert METRICS[metric](ruled(pair.clean), pair).equal(METRICS[metric](low(pair.clean), pair))
    sites = find_sites(ruled, ["v", "resid_pre"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WeakPairWarning)
        if metric != "accuracy":
            found, wanted = (patch(m, pair, sites, metric).to_frame() for m in (ruled, low))
            assert found.effect.to_numpy() == pytest.approx(wanted.effect.to_numpy())
        edges = ["input > L0H1.v (residual)", "L0H1 > logits (residual)"]
        found, wanted = (ablate_edges(m, pair, edges, metric=metric).to_frame() for m in (ruled, low))
    for column in ("accuracy_ablated", "loss_ablated", "metric_ablated", "changed"):
        assert found[column].to_numpy() == pytest.approx(wanted[column].to_numpy()), column
    assert (found.changed > 0).all()
    whole, same = (ablate(m, pair).to_frame() for m in (ruled, low))
    assert whole.gradient_norm.to_numpy() == pytest.approx(same.gradient_norm.to_numpy())


def test_metrics_of_good_logits_are_what_they_were() -> None:
    pair = Pair.one_sided(torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([2, 0, 1]))
    logits = torch.tensor([[[0.0, 1.0, 5.0]], [[1.0, 3.0, 2.0]], [[-2.0, -1.0, -1.0]]]).expand(-1, 2, -1)
    assert METRICS["rank"](logits, pair).tolist() == [0, 2, 0]
    assert METRICS["accuracy"](logits, pair).tolist() == [1, 0, 1]
    for bad in (torch.nan, torch.inf):
        spoilt = logits.clone()
        spoilt[1, -1, 2] = bad
        for metric in METRICS.values():
            with pytest.raises(NotFiniteError, match="in 1 of 3 places"):
                metric(spoilt, pair)
        spoilt = logits.clone()
        spoilt[1, 0, 2] = bad
        assert METRICS["rank"](spoilt, pair).tolist() == [0, 2, 0], "what is not read is not asked"
