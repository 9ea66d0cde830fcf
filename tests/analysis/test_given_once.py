"""What gives each thing but once, as a generator does, is what a list of them is; one thing alone is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import (
    Ablation,
    Graph,
    Pair,
    ablate,
    ablate_edges,
    attribute,
    find_paths,
    find_sites,
    head_shares,
    patch,
    patch_paths,
    route_map,
    score_heads,
    split_gradient,
    standard_ablations,
)
from analysis.heads.attention_scores import previous_token
from circuits import HookedStreamTransformer
from circuits.common.errors import UnknownNameError
from circuits.interventions.applied import NothingChangedError, intervened
from circuits.interventions.intervention import Clamp, Intervention, Zero
from circuits.sites import Site
from experiments import icl_run, sweep, sweep_plan
from tests.analysis.test_edges import pair_for
from tests.helpers import build

Given = Callable[[Iterable[Any]], Any]
Asked = Callable[[HookedStreamTransformer, Pair, Given], Any]
ASKED: dict[str, Asked] = {
    "find_sites components": lambda m, _, g: find_sites(m, g(["v", "z"])),
    "find_sites the rest": lambda m, _, g: find_sites(m, ["v"], g(["own", "residual"]), g([1]), g([0, 2]), g([0, 3])),
    "standard_ablations": lambda m, _, g: standard_ablations(m, g(["zero", "mean", "resample"])),
    "ablate": lambda m, p, g: ablate(m, p, g([Ablation.stream(m), Ablation.z(m, 0, 1, "mean")])).to_frame(),
    "ablate_edges": lambda m, p, g: ablate_edges(m, p, g([edge.name for edge in Graph(m).edges[:3]])).to_frame(),
    "ablate_edges, sets": lambda m, p, g: ablate_edges(m, p, [g(Graph(m).edges[2:6])]).to_frame(),
    "find_paths": lambda m, _, g: find_paths(m, g([(0, 1), (0, 3)]), g(["L1H0.v", "logits"]), g(["residual"])),
    "patch_paths": lambda m, p, g: patch_paths(m, p, g(find_paths(m, [(0, 2)]))).to_frame(),
    "head_shares": lambda m, p, g: head_shares(m, p, g(["v"])).to_frame(),
    "score_heads": lambda m, p, g: score_heads(m, p, g([previous_token(p)])).to_frame(),
    "patch": lambda m, p, g: patch(m, p, g(find_sites(m))).to_frame(),
    "attribute": lambda m, p, g: attribute(m, p, g(find_sites(m))).to_frame(),
    "route_map": lambda m, p, g: route_map(m, p, positions=g([0, 2])).to_frame(),
    "split_gradient": lambda m, p, g: split_gradient(
        m, lambda logits: logits.square().mean(), p.clean, g(["blocks.1.hook_resid_pre"])
    ).to_frame(),
}


@pytest.fixture(scope="module")
def asked() -> tuple[HookedStreamTransformer, Pair]:
    model = build("value", "tokens", 2)
    return model, pair_for(model, 6)


def same(first: Any, second: Any) -> bool:
    return first.equals(second) if isinstance(first, pd.DataFrame) else first == second


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_generator_is_what_a_list_is(ask: Asked, asked: tuple[HookedStreamTransformer, Pair]) -> None:
    listed = ask(*asked, list)
    assert len(listed) > 0
    for given in (lambda things: (thing for thing in things), tuple, iter):
        assert same(ask(*asked, given), listed)


@pytest.mark.usefixtures("untyped")
def test_numbers_of_numpy_are_numbers_and_truths_are_not(asked: tuple[HookedStreamTransformer, Pair]) -> None:
    model, _ = asked
    numbers: Any = np.array([0, 1])
    assert find_sites(model, ["v"], layers=numbers, heads=numbers) == find_sites(model, layers=[0, 1], heads=[0, 1])
    with pytest.raises(ValueError, match=r"heads are a list of int or integer, and it holds \[np.True_\]|\[True\]"):
        find_sites(model, ["v"], heads=np.array([True, False]))


def wrong(given: Any) -> Any:
    """Something of a type that is not wanted."""
    return given


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: ablate_edges(m, p, []), "there is no edge to cut"),
        (lambda m, p: ablate_edges(m, p, [[]]), "there is no edge to cut"),
        (lambda m, p: ablate_edges(m, p, wrong(Graph(m).edges[0])), "edges are a list of edges, their names, or sets"),
        (lambda m, p: ablate_edges(m, p, Graph(m).edges[0].name), "edges are a list of edges, their names, or sets"),
        (lambda m, p: patch_paths(m, p, wrong([Graph(m).edges[-1].name])), "paths are a list of Edge .* and it holds"),
        (lambda m, p: score_heads(m, p, wrong(previous_token(p))), "scores are a list of AttentionScore"),
        (lambda m, p: head_shares(m, p, []), "carriers are a list of str, 1 or more, and it is empty"),
        (
            lambda m, p: intervened(m, wrong(Intervention(Site(1, "z"), Zero()))).__enter__(),
            "interventions are a list of",
        ),
        (lambda m, p: intervened(m, wrong(["zero"])).__enter__(), r"it holds \['zero'\]"),
        (lambda m, p: standard_ablations(m, ["zro"]), "unknown method 'zro': did you mean 'zero'"),
        (lambda m, p: find_sites(m, "v"), "components are a list of str, got 'v'"),
        (lambda m, p: find_sites(m, []), "components are a list of str, 1 or more, and it is empty"),
        (lambda m, p: sweep(wrong(icl_run("value", "small", 0))), "configs are a list of RunConfig .*, got RunConfig"),
        (lambda m, p: sweep(wrong(["icl"])), r"configs are a list of RunConfig .*, and it holds \['icl'\]"),
    ],
)
def test_one_alone_none_and_other_kinds_are_refused(
    call: Any, message: str, asked: tuple[HookedStreamTransformer, Pair]
) -> None:
    with pytest.raises((ValueError, UnknownNameError), match=message):
        call(*asked)


def test_interventions_of_a_generator_act_and_one_that_changes_nothing_is_told(
    asked: tuple[HookedStreamTransformer, Pair],
) -> None:
    model, pair = asked
    whole = model(pair.clean)
    site = Site(1, "v", "residual")
    with intervened(model, (one for one in [Intervention(site, Zero())])) as counts:
        changed = model(pair.clean)
    assert not changed.equal(whole)
    assert len(counts.records()) == 1
    nothing = [Intervention(site, Clamp(2.0), strength=0.0)]
    with pytest.raises((NothingChangedError, ValueError)), intervened(model, (one for one in nothing)):
        model(pair.clean)


def test_a_plan_of_a_generator_has_its_runs(tmp_path: Path) -> None:
    configs = [icl_run("value", "small", seed) for seed in (0, 1)]
    plan = sweep_plan((config for config in configs), root=tmp_path)
    assert plan.sentence().startswith("2 runs")
