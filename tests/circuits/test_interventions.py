"""Interventions do what they say where and when they say it, and say how much they did."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from circuits import (
    HookedStreamTransformer,
    Intervention,
    KeyValueCache,
    NothingChangedError,
    Site,
    intervened,
    save_checkpoint,
)
from circuits.config.parts import TokenInputs, Unembedding
from circuits.config.streams import CARRIERS
from circuits.interventions.applied import Intervening
from circuits.interventions.intervention import (
    Attend,
    Clamp,
    CutForward,
    CutGradient,
    Freeze,
    FromRun,
    Mean,
    Operation,
    Resample,
    Zero,
    operation_name,
)
from circuits.interventions.other_models import check_taken
from circuits.interventions.replacement import ATTENDED, Attended, attention_to, others
from circuits.sites import COMPONENTS, ROUTES, STATES
from experiments import plain_english
from tests.helpers import ALL, FULL, build, gradients, inputs_for, made, model_of, token_config

V = Site(0, "v")


def run(model: HookedStreamTransformer, x: Tensor, *interventions: Intervention, **how: Any) -> Tensor:
    with intervened(model, interventions, **how):
        return model(x)


def every_site(model: HookedStreamTransformer) -> list[Site]:
    sites = [Site(layer, c) for layer in range(model.config.n_layers) for c in COMPONENTS if c not in STATES]
    sites += [Site(s.layer, s.component, route) for s in sites if s.component in CARRIERS for route in ROUTES]
    return [site for site in dict.fromkeys(sites) if site.exists(model)]


# --- storage ------------------------------------------------------------------------------------------------------

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
operations = st.one_of(
    st.sampled_from([Zero(), Mean(), Freeze(), CutForward(), CutGradient()]),
    st.builds(Clamp, numbers),
    st.builds(Resample, st.integers(0, 99)),
    st.builds(FromRun, st.text(max_size=9)),
)
sites = st.one_of(
    st.fixed_dictionaries(
        {"component": st.sampled_from(CARRIERS), "route": st.sampled_from(list(ROUTES)), "head": st.integers(0, 3)}
    ),
    st.fixed_dictionaries({"component": st.just("mlp_out"), "position": st.none() | st.integers(-3, 9) | st.text()}),
)
windows = st.fixed_dictionaries({"first": st.integers(0, 50), "last": st.none() | st.integers(60, 99)})


@given(st.integers(0, 5), sites, operations, numbers, windows)
def test_an_intervention_survives_storage(
    layer: int, site: dict[str, Any], operation: Operation, strength: float, window: dict[str, Any]
) -> None:
    intervention = Intervention(Site(layer, **site), operation, strength, **window)
    assert Intervention.from_plain(json.loads(json.dumps(intervention.to_plain()))) == intervention


def test_attention_survives_storage_and_defaults_may_be_left_out() -> None:
    stored = {"site": {"layer": 1, "component": "pattern"}, "operation": {"type": "Attend", "to": "first"}}
    assert Intervention.from_plain(stored) == Intervention(Site(1, "pattern"), Attend("first"))


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"site": {"layer": 0, "component": "v"}}, "needs the field 'operation': wanted"),
        ({"operation": {"type": "Zero"}}, "needs the field 'site': wanted"),
        ({"site": {"layer": 0, "component": "v"}, "operation": {"type": "Zer"}}, "unknown operation 'Zer': .*'Zero'"),
        ({"site": {"layr": 0}, "operation": {"type": "Zero"}}, "unknown field of Site 'layr': did you mean 'layer'"),
        ({"site": {"layer": 0, "component": "v"}, "operation": {"type": "Clamp", "valu": 1}}, "field of Clamp 'valu'"),
        (
            {"site": {"layer": 0, "component": "v"}, "operation": {"type": "Zero"}, "strenth": 1},
            "unknown field of Intervention 'strenth': did you mean 'strength'",
        ),
        ({"site": {"layer": 0, "component": "v"}, "operation": {"type": "Clamp"}}, "not a stored Intervention"),
    ],
)
def test_what_is_stored_wrongly_is_explained(stored: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Intervention.from_plain(stored)


def test_every_operation_has_a_name_in_words() -> None:
    names = {operation_name(op) for op in (Zero(), FromRun("x"), CutGradient(), Attend("self"))}
    assert names == {"zero", "from run", "cut gradient", "attend"}
    assert len(get_args(Operation)) == 10


# --- which sites there are ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ALL)
def test_the_configuration_knows_which_hook_points_the_model_has(variant: str) -> None:
    for kind in ("vectors", "tokens"):
        model = build(variant, kind, 3)
        for component in COMPONENTS:
            for route in ROUTES if component in CARRIERS else ("own",):
                for layer in range(3):
                    site = Site(layer, component, route)
                    there = site.hook_name in model.hook_dict
                    if component in STATES:
                        there = component == "state" or bool(model.reads_from(layer))
                    assert site.exists(model) == there


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Site(-1, "v"), "layers count from 0, got layer = -1; give the layer's own number"),
        (lambda: Site(0, "v", head=-2), "heads count from 0, got head = -2; give the head's own number"),
        (lambda: Site(0, "vv"), "unknown component 'vv'"),
        (lambda: Site(0, "z", "mixed"), "z has no routes; only q, k and v have"),
        (lambda: Site(0, "resid_pre", head=0), "resid_pre has no heads; leave head out"),
    ],
)
def test_sites_that_can_be_nowhere_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_site_is_made_quickly_as_sweeps_make_thousands() -> None:
    # Without the type checker of the tests, which is slower than what is measured.
    call = "timeit.repeat(lambda: Site(3, 'v', 'mixed', 1, 4), number=2_000, repeat=7)"
    script = f"import timeit; from circuits.sites import Site; print(min({call}) / 2_000)"
    seconds = float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert seconds < 20e-6, "about 1 microsecond on an idle core"


# --- what an operation does -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", FULL)
def test_zero_anywhere_is_the_hook_that_writes_zero(variant: str) -> None:
    model = build(variant, "tokens", 2)
    x = inputs_for(model.config, 2)
    for site in every_site(model):
        if site.component == "attn_scores":
            continue
        found = run(model, x, Intervention(site, Zero()), allow_nothing=True)
        by_hand = model.run_with_hooks(x, fwd_hooks=[(site.hook_name, lambda t, hook: torch.zeros_like(t))])
        assert torch.equal(found, by_hand), site
        assert not torch.equal(found, model(x)), site


@pytest.mark.parametrize("component", ["pattern", "attn_scores"])
def test_masked_attention_stays_masked(component: str) -> None:
    """Zero scores are equal attention to what may be attended to; equal attention to all would see the future."""
    model = build("value", "tokens", 2)
    x = inputs_for(model.config, 2)
    with intervened(model, [Intervention(Site(1, component), Clamp(0.3))]):
        _, cache = model.run_with_cache(x)
    future = torch.ones(7, 7).triu(1).bool()
    assert (cache["pattern", 1][..., future] == 0).all()
    equal = (
        0.3 * torch.ones(7, 7).tril()
        if component == "pattern"
        else attention_to("uniform", torch.ones(7, 7).tril().bool())
    )
    assert torch.allclose(cache["pattern", 1], equal.double().expand(2, 4, 7, 7), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equal_attention_is_as_precise_as_the_model(dtype: torch.dtype) -> None:
    model = build("value", "tokens", 2).to(dtype)
    with intervened(model, [Intervention(Site(1, "pattern"), Attend("uniform"))]):
        _, cache = model.run_with_cache(inputs_for(model.config, 2))
    wanted = torch.ones(7, 7, dtype=torch.float64).tril() / torch.arange(1.0, 8.0, dtype=torch.float64)[:, None]
    assert torch.equal(cache["pattern", 1], wanted.to(dtype).expand(2, 4, 7, 7))


PADDED = torch.arange(7) >= torch.tensor([[2], [2], [2]])
"""Two positions of padding on the left, in every example."""


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("mask", [None, PADDED, PADDED.flip(1)])
def test_what_a_window_or_padding_hides_stays_hidden(window: int | None, mask: Tensor | None) -> None:
    model = build("value", "tokens", 2, windows=(window, window))
    x, at = inputs_for(model.config, 3), torch.arange(7)
    hidden = at > at[:, None]
    hidden = hidden if window is None else hidden | (at <= at[:, None] - window)
    hidden, real = hidden.expand(3, 4, -1, -1), torch.ones(3, 7, dtype=torch.bool) if mask is None else mask
    hidden = hidden | ~real[:, None, None, :]

    def pattern(*interventions: Intervention, **how: Any) -> Tensor:
        with intervened(model, interventions) as counts:
            logits, cache = model.run_with_cache(x, attention_mask=mask, **how)
        assert logits.isfinite().all()
        assert counts.values.isfinite().all()
        rows = real[:, None, :, None] & torch.ones_like(hidden)
        return torch.where(rows, cache["pattern", 1], 0)

    for operation in (Zero(), Clamp(0.3), Mean(), Resample(), CutForward()):
        for strength in (1.0, 0.5):
            found = pattern(Intervention(Site(1, "attn_scores"), operation, strength))
            assert (found[hidden] == 0).all(), operation
            assert torch.allclose(found.sum(-1), real[:, None].double().expand(-1, 4, -1)), operation
            assert (pattern(Intervention(Site(1, "pattern"), operation, strength))[hidden] == 0).all(), operation
    for to in ATTENDED:
        found = pattern(Intervention(Site(1, "pattern"), Attend(to)))
        assert (found[hidden] == 0).all(), to
        assert torch.allclose(found.sum(-1), real[:, None].double().expand(-1, 4, -1), atol=1e-6), to
    twice = [Intervention(Site(1, "attn_scores"), Zero()), Intervention(Site(1, "pattern"), Clamp(0.2))]
    assert ((pattern(*twice) == 0.2) == (~hidden & real[:, None, :, None])).all()
    zero: Any = [("blocks.1.attn.hook_attn_scores", lambda t, hook: torch.zeros_like(t))]
    with model.hooks(fwd_hooks=zero):
        _, cache = model.run_with_cache(x, attention_mask=mask)
    assert (cache["pattern", 1][hidden] > 0).all(), "a hook that writes everywhere shows what is hidden"


def test_scores_are_not_taken_of_what_is_padded_otherwise() -> None:
    model = build("value", "tokens", 2)
    x, uneven = inputs_for(model.config, 3), torch.arange(7) >= torch.tensor([[2], [0], [1]])
    for operation in (Mean(), Resample()):
        with (
            pytest.raises(ValueError, match="hides some of what is seen here; .* or of inputs that are padded alike"),
            intervened(model, [Intervention(Site(1, "attn_scores"), operation, 0.5)]),
        ):
            model(x, attention_mask=uneven)
        with intervened(model, [Intervention(Site(1, "pattern"), operation, 0.5)]):
            assert model(x, attention_mask=uneven).isfinite().all()


@pytest.mark.parametrize("operation", [Zero(), Mean(), Clamp(0.7), Resample(), CutForward()])
@pytest.mark.parametrize("site", [Site(1, "z", head=2), Site(0, "resid_mid", position=3), Site(1, "attn_scores")])
def test_strength_0_is_nothing_strength_1_is_all_and_a_half_is_halfway(site: Site, operation: Operation) -> None:
    model = build("value", "tokens", 2)
    x = inputs_for(model.config, 3)

    def at(strength: float) -> Tensor:
        with intervened(model, [Intervention(site, operation, strength)], allow_nothing=True):
            return model.run_with_cache(x, names_filter=site.hook_name)[1][site.hook_name].clamp(min=-99)

    plain = model.run_with_cache(x, names_filter=site.hook_name)[1][site.hook_name].clamp(min=-99)
    assert torch.equal(at(0.0), plain)
    assert torch.allclose(at(0.5), (plain + at(1.0)) / 2, atol=1e-12)
    with pytest.raises(NothingChangedError, match=r"\(strength 0.0\) fired 1 time\(s\) and changed nothing"):
        run(model, x, Intervention(site, operation, 0.0))


def test_only_the_head_and_the_position_are_touched() -> None:
    model = build("value", "tokens", 2)
    x, places = inputs_for(model.config, 2), torch.tensor([[1, 2], [4, 4]])
    _, plain = model.run_with_cache(x)
    for site, touched in {
        Site(0, "v", head=1, position=3): (slice(None), 3, 1),
        Site(0, "v", position=-1): (slice(None), 6),
        Site(0, "v", position="here"): (torch.tensor([[0], [1]]), places),
        Site(0, "pattern", head=2, position=4): (slice(None), 2, 4),
        Site(0, "resid_pre", position=0): (slice(None), 0),
    }.items():
        with intervened(model, [Intervention(site, Clamp(9.0))], positions={"here": places}):
            _, cache = model.run_with_cache(x, names_filter=site.hook_name)
        changed = cache[site.hook_name] != plain[site.hook_name]
        expected = torch.zeros_like(changed)
        expected[touched] = True
        if site.component == "pattern":
            expected &= torch.ones(7, 7).tril().bool()
        assert torch.equal(changed, expected), site


def test_means_and_samples_are_taken_of_the_batch() -> None:
    model = build("value", "tokens", 2)
    x = inputs_for(model.config, 5)
    _, plain = model.run_with_cache(x)
    for operation, expected in (
        (Mean(), plain["v", 0].mean(0, keepdim=True).expand(5, -1, -1, -1)),
        (Resample(3), plain["v", 0][others(5, 3)]),
    ):
        with intervened(model, [Intervention(V, operation)]):
            _, cache = model.run_with_cache(x)
        assert torch.equal(cache["v", 0], expected)


@pytest.mark.parametrize("operation", [Mean(), Resample(3)])
def test_a_baseline_may_be_the_cache_of_a_run_and_holds_what_is_taken(operation: Operation) -> None:
    model = build("value", "tokens", 2)
    x, other = inputs_for(model.config, 5), inputs_for(model.config, 5, seed=1)
    _, cache = model.run_with_cache(other)
    plain = {name: cache[name] for name in cache}
    found = [run(model, x, Intervention(V, operation), baseline=given) for given in (cache, plain)]
    assert torch.equal(*found)
    assert not torch.equal(found[0], run(model, x, Intervention(V, operation))), "of the batch that runs"
    with pytest.raises(ValueError, match="unknown activation of the baseline 'blocks.0.attn.hook_v'"):
        run(model, x, Intervention(V, operation), baseline={"blocks.0.attn.hook_k": cache["k", 0]})
    one_position = {V.hook_name: cache["v", 0][:, :1]}
    with pytest.raises(ValueError, match=r"an example is \(1, 4, 6\) in the baseline and \(7, 4, 6\) here"):
        run(model, x, Intervention(V, operation), baseline=one_position)
    assert torch.isfinite(run(model, x, Intervention(V, Zero()), baseline={})).all()


@pytest.mark.parametrize("n", range(2, 9))
def test_another_example_is_never_the_same_one(n: int) -> None:
    for seed in range(20):
        permutation = others(n, seed)
        assert sorted(permutation.tolist()) == list(range(n))
        assert (permutation != torch.arange(n)).all()
        assert torch.equal(permutation, others(n, seed))


def test_fixed_attention_attends_to_what_it_says() -> None:
    before = torch.ones(9, 9, dtype=torch.bool).tril()
    assert attention_to("previous", before[:3, :3]).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0]]
    assert attention_to("self", before[:3, :3]).tolist() == torch.eye(3).tolist()
    assert attention_to("first", before[:3, :3]).tolist() == [[1, 0, 0]] * 3
    assert attention_to("uniform", before[:2, :2]).tolist() == [[1, 0], [0.5, 0.5]]
    padding = torch.tensor([True, False, True, True, True])
    windowed = before.triu(-1)[2:5, :5] & padding  # two keys a query, and the second key is padding
    assert attention_to("previous", windowed).argmax(-1).tolist() == [2, 2, 3]
    assert attention_to("self", windowed).argmax(-1).tolist() == [2, 3, 4]
    assert attention_to("first", windowed).argmax(-1).tolist() == [2, 2, 3]
    assert attention_to("uniform", windowed).tolist() == [[0, 0, 1, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0, 0.5, 0.5]]
    for to in get_args(Attended):
        for seen in (before, before.triu(-2), windowed):
            pattern = attention_to(to, seen)
            assert torch.allclose(pattern.sum(-1), torch.ones(len(seen)))
            assert (pattern[~seen] == 0).all()
    assert set(ATTENDED) == set(get_args(Attended))


def test_interventions_at_one_site_act_in_their_order() -> None:
    model = build("value")
    x = inputs_for(model.config)
    zero, one = Intervention(V, Zero()), Intervention(V, Clamp(1.0))
    assert torch.equal(run(model, x, zero, one), run(model, x, one))
    assert torch.equal(run(model, x, one, zero), run(model, x, zero))


# --- with a cache -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ["gpt", "nanochat"])
def test_with_a_cache_it_acts_where_it_acts_on_the_whole(make: str) -> None:
    model = build("value", "tokens", 3) if make == "gpt" else made(make, "value")
    x = inputs_for(model.config, 3, length=9)
    mask = torch.arange(9) >= torch.tensor([[2], [2], [2]])
    places = {"here": torch.tensor([[3, 7], [4, 4], [8, 2]])}
    components = ("v", "k", "q", "z", "resid_pre", "mlp_out", "pattern", "attn_scores")
    operations = [Zero(), Clamp(0.3), Mean(), Resample(), CutForward()]
    every = [
        Intervention(Site(layer, component, position=position), operation)
        for n, component in enumerate(components)
        for m, position in enumerate((None, 0, 3, 8, "here"))
        for layer, operation in [(n % 2, operations[(n + m) % 5])]
    ]
    every += [
        Intervention(Site(0, "pattern", position=place), Attend(to), 0.5)
        for to in ATTENDED
        for place in (None, 6, "here")
    ]
    acted = 0
    for intervention in every:
        for seen in (None, mask):
            position = intervention.site.position
            if not isinstance(position, str) and (position or 0) > 5:
                with pytest.raises(ValueError, match="is beyond the inputs' 5 positions"):
                    run_in_pieces(model, x, seen, [5, 4], intervention)
                continue
            how: dict[str, Any] = {"positions": {"here": places["here"].clamp(max=4)}}
            with intervened(model, [intervention], **how, allow_nothing=True):
                whole = model(x, attention_mask=seen)
            found = run_in_pieces(model, x, seen, [5, 1, 2, 1], intervention, **how)
            real = slice(None) if seen is None else slice(2, None)
            assert torch.allclose(found[:, real], whole[:, real], atol=1e-10), intervention
            acted += not torch.allclose(whole, model(x, attention_mask=seen))
    assert acted > 60, "and mostly it does something"


def run_in_pieces(
    model: HookedStreamTransformer,
    x: Tensor,
    mask: Tensor | None,
    sizes: list[int],
    *interventions: Intervention,
    **how: Any,
) -> Tensor:
    cache, logits = KeyValueCache(), []
    with intervened(model, interventions, **how, allow_nothing=True):
        for piece, seen in zip(x.split(sizes, 1), (x if mask is None else mask).split(sizes, 1), strict=True):
            logits.append(model(piece, attention_mask=None if mask is None else seen, past_kv_cache=cache))
    return torch.cat(logits, 1)


@pytest.mark.parametrize(
    "intervention",
    [
        Intervention(Site(0, "pattern"), Zero()),
        Intervention(Site(1, "pattern", head=1), Attend("previous")),
        Intervention(Site(1, "v", position=0), Zero()),
        Intervention(Site(0, "attn_scores", position=3), Clamp(0.0)),
        Intervention(Site(0, "v", position=3), Clamp(5.0)),
    ],
)
def test_what_is_intervened_on_goes_on_the_same_with_a_cache_as_without(intervention: Intervention) -> None:
    model = made("llama", "value")
    x = inputs_for(model.config, 2, length=5)
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "stop_at_eos": False}
    plain = model.generate(x, **options)
    with intervened(model, [intervention]) as counts:
        found = [model.generate(x, use_past_kv_cache=cached, **options) for cached in (True, False)]
    assert torch.equal(*found)
    assert not torch.equal(found[0], plain)
    times = 8 if intervention.site.position is None else 1
    assert counts.records()[0]["fired"] == times + 8, "with a cache only where its position runs"


def test_what_a_cache_cannot_hold_is_refused() -> None:
    model, other = build("value", "tokens", 2), model_of(token_config("value", 2), seed=1)
    x = inputs_for(model.config, 2)
    options: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False, "stop_at_eos": False}
    whole = model.run_with_cache(x)[1]
    cases: list[tuple[Intervention, dict[str, Any], str]] = [
        (Intervention(Site(0, "z"), FromRun("it")), {"models": {"it": other}}, "another model has no cache of what"),
        (Intervention(Site(0, "z", position=-1), Zero()), {}, "with a cache the last position is another one in every"),
        (
            Intervention(Site(0, "z", position="last"), Zero()),
            {"positions": {"last": torch.full((2, 1), -1)}},
            "count from the beginning, or run everything at once, without past_kv_cache",
        ),
        (Intervention(V, Mean()), {"baseline": whole}, r"\(7, 4, 6\) in the baseline and \(1, 4, 6\) here"),
    ]
    for intervention, how, message in cases:
        with pytest.raises(ValueError, match=message), intervened(model, [intervention], **how):
            model.generate(x, **options)
        if intervention.operation != Mean():
            with intervened(model, [intervention], **how):
                assert model.generate(x, use_past_kv_cache=False, **options).shape == (2, 10)


# --- cuts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", FULL)
def test_a_forward_cut_has_the_value_of_zero_and_passes_its_gradient_on(variant: str) -> None:
    """What comes back to the site from above is the gradient at the value zero; below it, all of it goes on."""
    model = build(variant, "tokens", 2)
    x = inputs_for(model.config, 2)
    assert torch.equal(run(model, x, Intervention(V, CutForward())), run(model, x, Intervention(V, Zero())))
    added = torch.zeros(2, 7, 4, 6, dtype=torch.float64, requires_grad=True)
    zero = model.run_with_hooks(x, fwd_hooks=[(V.hook_name, lambda t, hook: torch.zeros_like(t) + added)])
    (at_site,) = torch.autograd.grad(zero.square().sum(), added)
    cut = gradients(model, run(model, x, Intervention(V, CutForward())).square().sum())["blocks.0.attn.b_V"]
    assert torch.allclose(cut, at_site.sum((0, 1)), atol=1e-10)
    none = gradients(model, run(model, x, Intervention(V, Zero())).square().sum())["blocks.0.attn.b_V"]
    assert (none == 0).all(), "zero itself passes nothing on"
    assert (cut != 0).any()


@pytest.mark.parametrize("variant", FULL)
def test_a_gradient_cut_changes_no_value_and_stops_the_gradient(variant: str) -> None:
    model = build(variant, "tokens", 2)
    x = inputs_for(model.config, 2)
    whole = gradients(model, model(x).square().sum())["blocks.0.attn.W_V"]
    for head, strength in ((None, 1.0), (1, 1.0), (None, 0.25)):
        with intervened(model, [Intervention(Site(0, "v", head=head), CutGradient(), strength)]) as counts:
            logits = model(x)
            found = gradients(model, logits.square().sum())["blocks.0.attn.W_V"]
        assert torch.equal(logits, model(x))
        left = torch.ones(4, 1, 1).double()
        left[slice(None) if head is None else head] = 1 - strength
        assert torch.allclose(found, left * whole, atol=1e-10)
        assert counts.records()[0]["changed_max"] > 0


def test_a_gradient_cut_of_what_comes_in_is_the_gate_stop() -> None:
    for variant in ("value", "key", "query", "cumulative", "resformer-constant"):
        model = build(variant, "tokens", 3)
        x = inputs_for(model.config, 2)
        cuts = [Intervention(s, CutGradient()) for s in every_site(model) if s.route == "residual"]
        with intervened(model, cuts):
            found = gradients(model, model(x).square().sum())
        with model.gated("stop"):
            gate = gradients(model, model(x).square().sum())
        assert all(torch.allclose(found[name], gate[name], atol=1e-10) for name in gate), variant
        with intervened(model, [dataclasses.replace(cut, operation=CutForward()) for cut in cuts]):
            found = gradients(model, model(x).square().sum())
        with model.gated("gradient-only"):
            gate = gradients(model, model(x).square().sum())
        assert all(torch.allclose(found[name], gate[name], atol=1e-10) for name in gate), variant


def test_a_gradient_that_no_backward_pass_asked_for_was_not_cut() -> None:
    model = build("value")
    x = inputs_for(model.config)
    with pytest.raises(NothingChangedError, match="no gradient came to it; run the backward pass where it acts"):
        run(model, x, Intervention(V, CutGradient()))


# --- other models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_an_activation_from_another_run_is_the_one_it_has_on_the_same_inputs(kind: str, tmp_path: Path) -> None:
    model, other = build("value", kind), build("value", kind)
    with torch.no_grad():
        other.layers[0].attn.W_V.mul_(2)
    file = tmp_path / "other.safetensors"
    save_checkpoint(file, other)
    theirs = Intervention(V, FromRun(str(file)))
    for seed in range(2):
        x = inputs_for(model.config, seed=seed)
        with intervened(model, [theirs]):
            logits, cache = model.run_with_cache(x)
            again = model.run_with_hooks(x, fwd_hooks=[])
        assert torch.equal(cache["v", 0], other.run_with_cache(x)[1]["v", 0])
        assert torch.equal(logits, again), "whichever way the model is called"
        assert not torch.equal(logits, model(x))
    assert "forward" not in vars(model)


def test_an_activation_from_the_same_weights_changes_nothing(tmp_path: Path) -> None:
    model = build("value")
    x = inputs_for(model.config)
    save_checkpoint(tmp_path / "same.safetensors", model)
    same = Intervention(V, FromRun(str(tmp_path / "same.safetensors")))
    with pytest.raises(NothingChangedError, match="fired 1 time.*changed nothing: what was there is the same"):
        run(model, x, same)
    assert torch.equal(run(model, x, same, allow_nothing=True), model(x))


def test_freezing_is_the_activation_of_the_windows_first_step() -> None:
    model, before = build("value"), build("value")
    frozen = Intervention(Site(0, "pattern"), Freeze(), first=5)
    ready = Intervening(model, [frozen], at_step={5: before}.__getitem__)
    x = inputs_for(model.config)
    with torch.no_grad():
        model.layers[0].attn.W_Q.add_(0.3)
    with ready.at(4) as acting:
        assert not acting
        assert not torch.equal(model.run_with_cache(x)[1]["pattern", 0], before.run_with_cache(x)[1]["pattern", 0])
    with ready.at(5) as acting:
        assert acting
        _, cache = model.run_with_cache(x)
        assert torch.equal(cache["pattern", 0], before.run_with_cache(x)[1]["pattern", 0])


@pytest.mark.parametrize("left", [True, False])
def test_another_model_sees_what_this_one_is_called_with(left: bool) -> None:
    model, other = build("value", "tokens", 2), model_of(token_config("value", 2), seed=1)
    x = inputs_for(model.config, 3)
    mask = torch.arange(7) >= torch.tensor([[2], [0], [3]])
    mask = mask if left else mask.flip(1)
    for component in ("z", "pattern", "resid_mid"):
        site = Site(1, component)
        with intervened(model, [Intervention(site, FromRun("it"))], models={"it": other}):
            found = model.run_with_cache(x, attention_mask=mask)[1][site.hook_name]
        theirs = other.run_with_cache(x, attention_mask=mask)[1][site.hook_name]
        real = mask[:, None, :, None].expand_as(found) if component == "pattern" else mask
        assert torch.equal(found[real], theirs[real]), component
        if left:
            blind = other.run_with_cache(x)[1][site.hook_name]
            assert not torch.allclose(found[real], blind[real]), component


def test_another_model_sees_the_tokens_that_a_text_is_opened_with() -> None:
    tokenizer = plain_english()
    sizes = {"inputs": TokenInputs(len(tokenizer)), "readout": Unembedding(len(tokenizer))}
    model, other = (model_of(token_config("value", 2, **sizes), seed) for seed in (0, 1))
    model.set_tokenizer(tokenizer)
    for opened in (False, True):
        with intervened(model, [Intervention(Site(1, "z"), FromRun("it"))], models={"it": other}):
            found = model.run_with_cache("Mary and John went", prepend_bos=opened)[1]["z", 1]
        tokens = model.to_tokens("Mary and John went", prepend_bos=opened)
        assert torch.equal(found, other.run_with_cache(tokens)[1]["z", 1])


def test_another_model_in_training_mode_is_refused() -> None:
    model, other = build("value", "tokens", 2), model_of(token_config("value", 2), seed=1)
    x, theirs = inputs_for(model.config), Intervention(Site(1, "z"), FromRun("it"))
    other.layers[0].train()
    with pytest.raises(ValueError, match=r"is in training mode, or a part of it is; call its eval\(\) before"):
        run(model, x, theirs, models={"it": other})
    run(model.train(), x, theirs, models={"it": other.eval()})


@pytest.mark.parametrize(
    ("site", "there", "told"),
    [
        (Site(1, "resid_pre"), {"d_model": 16}, r"sizes \(16,\) there and \(24,\) here"),
        (Site(1, "pattern"), {"n_heads": 3}, r"sizes \(3,\) there and \(4,\) here"),
        (Site(0, "k"), {"n_key_value_heads": 2}, r"sizes \(2, 6\) there and \(4, 6\) here"),
        (Site(2, "z", head=1), {"n_layers": 2}, r"has no such place, blocks.2.attn.hook_z"),
        (Site(1, "mlp_out"), {"mlp": None}, r"has no such place, blocks.1.hook_mlp_out"),
        (Site(1, "z", head=3), {"n_heads": 3}, r"has no such place, blocks.1.attn.hook_z"),
        (Site(1, "z"), {"mlp": None}, None),
        (Site(1, "resid_pre"), {"n_heads": 3}, None),
        (Site(1, "pattern"), {"d_model": 16}, None),
        (Site(1, "q"), {"n_key_value_heads": 2}, None),
    ],
)
def test_what_is_taken_from_another_model_is_there_in_the_same_sizes(
    site: Site, there: dict[str, Any], told: str | None
) -> None:
    here = token_config("value", 3)
    other = token_config("value", **({"n_layers": 3} | there))
    if told is None:
        theirs = model_of(other, seed=1).eval()
        run(model_of(here), inputs_for(here), Intervention(site, FromRun("it")), models={"it": theirs})
        return
    with pytest.raises(ValueError, match=rf"at .* cannot be taken from 'it': .*{told}"):
        check_taken(Intervention(site, FromRun("it")), here, other)


# --- counts -----------------------------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    model = build("value", "tokens", 2)
    one, two = inputs_for(model.config, 2, seed=0), inputs_for(model.config, 3, seed=1)
    site = Site(1, "z", head=2, position=4)
    with intervened(model, [Intervention(site, Zero(), 0.5), Intervention(V, CutGradient())]) as counts:
        for x in (one, two):
            gradients(model, model(x).square().sum())
    sizes = [0.5 * model.run_with_cache(x)[1]["z", 1][:, 4, 2].abs() for x in (one, two)]
    with intervened(model, [Intervention(site, Zero(), 0.5)]):
        norms = []
        for x in (one, two):
            values: list[Tensor] = []
            with model.hooks(fwd_hooks=[(V.hook_name, lambda t, hook, kept=values: kept.append(t))]):
                (back,) = torch.autograd.grad(model(x).square().sum(), values)
            norms.append(float(back.norm()))
    frame = counts.to_frame()
    assert frame.fired.tolist() == [2, 2]
    assert frame.changed_max[0] == pytest.approx(max(float(size.max()) for size in sizes))
    assert frame.changed_mean[0] == pytest.approx(sum(float(size.mean()) for size in sizes) / 2)
    assert frame.changed_max[1] == pytest.approx(max(norms))
    assert frame.changed_mean[1] == pytest.approx(sum(norms) / 2)
    assert frame.hook.tolist() == ["blocks.1.attn.hook_z", "blocks.0.attn.hook_v"]
    assert frame["head"].iloc[0] == 2
    assert json.loads(json.dumps(counts.records())) == counts.records()


def test_only_those_of_the_step_act_and_are_asked_for() -> None:
    model = build("value")
    x = inputs_for(model.config)
    early, late = Intervention(V, Zero(), last=3), Intervention(V, Clamp(1.0), first=3)
    assert torch.equal(run(model, x, early, late, step=2), run(model, x, early))
    assert torch.equal(run(model, x, early, late, step=3), run(model, x, late))
    with intervened(model, [early, late], step=2) as counts:
        model(x)
    assert [record["fired"] for record in counts.records()] == [1, 0]


def test_the_model_is_left_as_it_was_and_errors_pass_through() -> None:
    model = build("value")
    x = inputs_for(model.config)
    before = model(x)
    with pytest.raises(KeyError, match="mine"), intervened(model, [Intervention(V, Zero(), 0.0)]):
        raise KeyError("mine")
    with intervened(model, [Intervention(V, Zero())]), intervened(model, [Intervention(Site(1, "v"), Zero())]):
        assert not torch.equal(model(x), before)
        model(x)
    assert torch.equal(model(x), before)
    assert not model.list_hooks()
    assert "forward" not in vars(model)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Intervention(Site(0, "state"), Zero()), "a state cannot be intervened on, .*; name its parts"),
        (lambda: Intervention(Site(0, "stream"), Zero()), "a stream cannot be intervened on"),
        (lambda: Intervention(V, Attend("self")), "needs the component 'pattern', not 'v'"),
        (lambda: Intervention(V, Zero(), float("nan")), "strength must be a finite number, got nan"),
        (lambda: Clamp(float("inf")), "the value must be a finite number"),
        (lambda: Intervention(V, Zero(), first=4, last=4), "ends after its start, got 4 to 4"),
        (lambda: Intervention(V, Zero(), first=-1), "a window starts at step 0 or later"),
    ],
)
def test_values_that_mean_nothing_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_mistakes_are_explained_before_anything_runs(tmp_path: Path) -> None:
    model, other = build("value"), build("classic")
    x = inputs_for(model.config)
    wide = build("value", "tokens")
    cases: list[tuple[Intervention, dict[str, Any], str]] = [
        (Intervention(Site(0, "v", "residual"), Zero()), {}, "unknown site 'blocks.0.attn.hook_v_residual'"),
        (Intervention(Site(9, "v"), Zero()), {}, "the model has 2 layers of 1 heads"),
        (Intervention(Site(0, "v", head=1), Zero()), {}, "the model has 2 layers of 1 heads"),
        (Intervention(Site(0, "v", position=99), Zero()), {}, "the model has 7 positions"),
        (Intervention(Site(0, "v", position="one"), Zero()), {}, "unknown position role 'one': there are none"),
        (
            Intervention(Site(0, "v", position="on"), Zero()),
            {"positions": {"one": torch.zeros(3, 1, dtype=torch.int64)}},
            "did you mean 'one'",
        ),
        (Intervention(V, FromRun(str(tmp_path / "no.safetensors"))), {}, "there is no checkpoint at"),
        (Intervention(V, FromRun("it")), {"models": {"it": model}}, "'it' is the model itself"),
        (
            Intervention(Site(1, "v", "residual"), FromRun("it")),
            {"models": {"it": other}},
            r"taken from 'it': that model \(classic\) has no such place, blocks.1.attn.hook_v_residual; take a",
        ),
        (Intervention(V, Freeze()), {}, r"only a training knows .* use FromRun\(checkpoint\)"),
    ]
    for intervention, how, message in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            run(model, x, intervention, **how)
    running: list[tuple[Intervention, Tensor, dict[str, Any], str]] = [
        (Intervention(V, Resample()), x[:1], {}, "this batch has only one"),
        (Intervention(Site(0, "v", position=6), Zero()), x[:, :4], {}, "beyond the inputs' 4 positions"),
        (
            Intervention(Site(0, "v", position="one"), Zero()),
            x,
            {"positions": {"one": torch.zeros(2, 1, dtype=torch.int64)}},
            "positions of 'one' are given for 2 examples, 3 run",
        ),
        (
            Intervention(V, Resample()),
            x,
            {"baseline": {V.hook_name: torch.zeros(2, 7, 1, 12).double()}},
            "a baseline of 2 examples is resampled for 3",
        ),
        (
            Intervention(Site(0, "z"), FromRun("it")),
            inputs_for(wide.config),
            {"models": {"it": build("value", "tokens", n_heads=2)}},
            re.escape("hook_z has the sizes (2, 12) there and (4, 6) here; take a model of the same sizes"),
        ),
    ]
    for intervention, inputs, how, message in running:
        with pytest.raises(ValueError, match=message):
            run(wide if inputs.ndim == 2 else model, inputs, intervention, **how)
    with (
        pytest.raises(NothingChangedError, match="never fired: no forward pass"),
        intervened(model, [Intervention(V, Zero())]),
    ):
        pass
    with (
        pytest.raises(ValueError, match="run the whole model, from its inputs"),
        intervened(model, [Intervention(V, FromRun("it"))], models={"it": build("value")}),
    ):
        model.run_state(model.state(x, 1))
