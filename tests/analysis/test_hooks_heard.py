"""A question that runs a model by other code than ``forward`` refuses hooks that are attached; the others hear them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import analysis
from analysis import (
    Ablation,
    Circuit,
    EdgeSwitch,
    Graph,
    Pair,
    Site,
    ablate,
    ablate_edges,
    attention_view,
    attribute,
    attribute_edges,
    attribute_logits,
    copy_score,
    find_circuit,
    follow,
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
from analysis.heads.copying import eigenvalue_copying
from analysis.patching.replay import Replay
from circuits import HookedStreamTransformer, Intervention, intervened
from circuits.attention import Attention
from circuits.interventions.intervention import Clamp
from tests.helpers import build, gradients, random_pair

REFUSE: dict[str, Callable[[HookedStreamTransformer, Pair], Any]] = {
    "patch": lambda m, p: patch(m, p, [Site(1, "v")]),
    "patch_paths": lambda m, p: patch_paths(m, p),
    "route_map": lambda m, p: route_map(m, p),
    "attention_view": lambda m, p: attention_view(m, p.clean[0]),
    "head_shares": lambda m, p: head_shares(m, p).to_frame(),
    "attribute": lambda m, p: attribute(m, p, [Site(1, "v")], check=0),
    "attribute_edges": lambda m, p: attribute_edges(m, p, check=0),
    "judge": lambda m, p: judge(m, p, Circuit(Graph(m), tuple(range(len(Graph(m)))))),
    "follow": lambda m, p: follow([(0, m)], p, Circuit(Graph(m), (0,)), lambda s: find_circuit(s, "top", 5)).to_frame(),
    "EdgeSwitch": lambda m, p: EdgeSwitch(m, p).changed({}),
    "ablate_edges": lambda m, p: ablate_edges(m, p, ["L0H0 > logits (residual)"]).to_frame(),
    "attribute_logits": lambda m, p: attribute_logits(m, p),
    "logit_lens": lambda m, p: logit_lens(m, p).to_frame(),
    "copy_score": lambda m, p: copy_score(m, torch.arange(7), top_k=2).to_frame(),
    "eigenvalue_copying": lambda m, p: eigenvalue_copying(m).to_frame(),
    "head_composition": lambda m, p: head_composition(m).to_frame(),
    "Replay": lambda m, p: Replay(m, p.clean),
    "fold_layer_norm": lambda m, p: m.fold_layer_norm(),
}
HEAR = {"ablate", "score_heads", "score_retrieval", "split_gradient"}
RUN_NO_MODEL = {
    *("Ablation", "Ablations", "AttentionScore", "Circuit", "CircuitSteps", "Comparison", "Composition", "Connection"),
    *("EdgeScores", "HeadScores", "HeadShares", "LogitLens"),
    *("GradientSplit", "Graph", "KeptIn", "LogitAttribution", "METRICS", "NoGapError", "Pair", "PairsFile"),
    *("PatchResult", "PathResult", "Quality", "ReadMetric", "RouteMap", "AttentionView", "Site"),
    *("SiteScores", "WeakPairWarning", "adjust", "compare", "find_circuit"),
    *("find_paths", "find_sites", "mean_interval", "over_seeds", "paired_ratio"),
    *("standard_ablations", "survival_curves", "threshold_table", "threshold_times"),
}


def doubled(t: Tensor, hook: Any = None) -> Tensor:
    return 2 * t + 0.1


def forward_hook(model: HookedStreamTransformer, name: str) -> Any:
    return model.get_submodule(name).register_forward_hook(
        lambda _module, _args, out: doubled(out) if isinstance(out, Tensor) else None
    )


@contextmanager
def attached(model: HookedStreamTransformer, how: str) -> Iterator[None]:
    """Attach what changes a run, by one of the ways that there are."""
    name = "blocks.0.hook_resid_post"
    if how == "hooks":
        with model.hooks(fwd_hooks=[(name, doubled)]):
            yield
        return
    if how == "intervened":
        with intervened(model, [Intervention(Site(0, "resid_post"), Clamp(0.5))], allow_nothing=True):
            yield
        return
    kinds = {
        "torch, at a point": lambda: forward_hook(model, name),
        "torch, at a block": lambda: model.blocks[1].register_forward_pre_hook(
            lambda _m, args: (doubled(args[0]), *args[1:])
        ),
        "torch, at the whole": lambda: forward_hook(model, ""),
        "torch, backwards": lambda: model.get_submodule(name).register_full_backward_hook(lambda *_args: None),
    }
    if how == "forward replaced":
        point = model.get_submodule(name)
        point.forward = doubled  # type: ignore[method-assign] # what is tested
        yield
        del point.forward
        return
    handle = kinds[how]()
    yield
    handle.remove()


WAYS = (
    *("hooks", "intervened", "torch, at a point", "torch, at a block", "torch, at the whole", "torch, backwards"),
    "forward replaced",
)


def test_every_public_name_is_in_one_of_the_lists() -> None:
    asked = set(REFUSE) - {"Replay", "fold_layer_norm"} | HEAR | RUN_NO_MODEL
    assert set(analysis.__all__) <= asked, "say of a new question whether it refuses hooks or hears them"


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("question", REFUSE)
def test_a_question_that_would_not_hear_hooks_refuses_them(question: str, how: str) -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    with (
        attached(model, how),
        pytest.raises(ValueError, match=r"hooks are attached at .*; (call|[a-z ]+ runs the model)"),
    ):
        REFUSE[question](model, pair)
    REFUSE[question](model, pair)


@pytest.mark.parametrize("how", [way for way in WAYS if way != "torch, backwards"])
def test_the_others_are_asked_of_the_model_as_it_is(how: str) -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    plain = model(pair.clean)
    with attached(model, how):
        logits = model(pair.clean)
        assert not torch.allclose(logits, plain), "hooks that change nothing test nothing"
        row = ablate(model, pair, [Ablation.sites("z", [Site(1, "z")])]).to_frame().iloc[0]
        assert row.loss == pytest.approx(float(F.cross_entropy(logits[:, -1], pair.answers).detach()))
        _, cache = model.run_with_cache(pair.clean)
        scores = score_heads(model, pair, [previous_token(pair)]).to_frame()
        found = torch.cat([previous_token(pair).of(cache["pattern", layer]).mean(0) for layer in range(2)])
        assert scores.value.tolist() == pytest.approx(found.tolist())
        said = (logits[:, -1].argmax(-1) == pair.answers).double().mean()
        assert score_retrieval(model, pair).to_frame().value.max() <= float(said)

        def loss(out: Tensor) -> Tensor:
            return out[:, -1].square().mean()

        split = split_gradient(model, loss, pair.clean)
        whole = gradients(model, loss(model(pair.clean)))
        assert all(torch.allclose(split.whole[n], whole[n], atol=1e-10) for n in whole)


def test_with_a_hook_heard_half_the_circuit_of_all_edges_was_not_the_model() -> None:
    """The fault that this is about: the steered run fires some points and not others, the clean run all."""
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    every = Circuit(Graph(model), tuple(range(len(Graph(model)))))
    assert judge(model, pair, every, subsets=0).faithfulness == pytest.approx(1)
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", doubled)]):
        from analysis.edges.steered_forward import Control, run

        deaf = run(model, model.start(pair.clean), Control())
        assert not torch.allclose(deaf, model(pair.clean)), "so it is refused"


class Tripled(Attention):
    """An attention whose forward is its own."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        out, passed = super().forward(*args, **kwargs)
        return 3 * out, passed


@pytest.mark.parametrize("question", [name for name in REFUSE if name not in ("Replay", "fold_layer_norm")])
def test_a_part_with_a_forward_of_its_own_is_not_run_as_if_it_had_ours(question: str) -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    model.layers[1].attn.__class__ = Tripled
    with pytest.raises(ValueError, match="blocks.1.attn runs by a forward of its own, and .* would not call it"):
        REFUSE[question](model, pair)
    row = ablate(model, pair, [Ablation.sites("z", [Site(1, "z")])]).to_frame().iloc[0]
    expected = F.cross_entropy(model(pair.clean)[:, -1], pair.answers)
    assert row.loss == pytest.approx(float(expected.detach())), "what runs forward hears it"
