"""Runs with edits: equal to hooks on whole runs, whatever is edited, and no more computed than lies downstream."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from analysis import Pair, find_sites, patch
from analysis.memory import GAPS
from analysis.patching import passes
from analysis.patching.edits import Edit
from analysis.patching.replay import Replay
from circuits import HookedStreamTransformer
from circuits.transformerlens.names import FLAGGED_POINTS
from tests.helpers import ALL, FULL, build, inputs_for

PATTERNS = ("attn.hook_attn_scores", "attn.hook_pattern")


def points_of(model: HookedStreamTransformer, layer: int) -> list[str]:
    """Every point of a block that fires and holds what can be exchanged."""
    start = f"blocks.{layer}."
    names = [name.removeprefix(start) for name in model.hook_dict if name.startswith(start)]
    return [name for name in names if name.rsplit(".", 1)[-1] not in FLAGGED_POINTS]


def with_hooks(model: HookedStreamTransformer, inputs: Tensor, edits: list[Edit]) -> Tensor:
    """The logits of a whole run in which hooks make the edits: nothing clever."""

    def setter(edit: Edit) -> Callable[..., Tensor]:
        def write(activation: Tensor, hook: Any) -> Tensor:
            assert isinstance(edit.value, Tensor)
            turn = edit.point in PATTERNS
            old, new = (t.transpose(1, 2) if turn else t for t in (activation, edit.value))
            where = torch.ones(old.shape[:2], dtype=torch.bool) if edit.where is None else edit.where
            chosen = where.view(*old.shape[:2], *[1] * (old.ndim - 2))
            if edit.head is not None:
                heads = torch.arange(old.shape[2]) == edit.head
                chosen = chosen & heads.view(1, 1, -1, *[1] * (old.ndim - 3))
            done = torch.where(chosen, new, old)
            return done.transpose(1, 2) if turn else done

        return write

    hooks: Any = [(f"blocks.{edit.layer}.{edit.point}", setter(edit)) for edit in edits]
    with torch.no_grad():
        return model.run_with_hooks(inputs, fwd_hooks=hooks)


@settings(max_examples=40)
@given(st.data())
def test_any_edits_of_any_model_are_those_that_hooks_make(data: st.DataObject) -> None:
    draw = data.draw
    kind, n_layers = draw(st.sampled_from(["vectors", "tokens"])), draw(st.integers(2, 4))
    model = build(draw(st.sampled_from(ALL)), kind, n_layers, n_heads=draw(st.sampled_from([1, 2, 4])))
    model.set_use_attn_result(draw(st.booleans()))
    length = draw(st.integers(1, 6))
    inputs = [inputs_for(model.config, 3, seed=s, length=length) for s in (1, 2, 3)]
    with torch.no_grad():
        runs = [model.run_with_cache(x)[1] for x in inputs]

    def edit() -> Edit:
        layer = draw(st.integers(0, n_layers - 1))
        point = draw(st.sampled_from(points_of(model, layer)))
        value = runs[draw(st.integers(0, 2))][f"blocks.{layer}.{point}"]
        heads = value.shape[1 if point in PATTERNS else 2] if value.ndim > 3 else 0
        head = draw(st.none() | st.integers(0, heads - 1)) if heads else None
        where = draw(st.none() | st.lists(st.booleans(), min_size=3 * length, max_size=3 * length))
        return Edit(layer, point, value, head, None if where is None else torch.tensor(where).view(3, length))

    copies = [[edit() for _ in range(draw(st.integers(0, 3)))] for _ in range(draw(st.integers(1, 4)))]
    reads = draw(st.none() | st.lists(st.integers(-length, length - 1), min_size=3, max_size=3))
    found = Replay(model, inputs[0], None if reads is None else torch.tensor(reads)).run(copies)
    expected = torch.cat([with_hooks(model, inputs[0], edits) for edits in copies])
    if reads is not None:
        expected = expected[torch.arange(len(expected)), torch.tensor(reads * len(copies))]
    assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("variant", FULL)
def test_every_point_of_every_variant_may_be_edited(variant: str) -> None:
    model = build(variant, "tokens", 3)
    base = inputs_for(model.config, 2, seed=1)
    _, other = model.run_with_cache(inputs_for(model.config, 2, seed=2))
    where = torch.zeros(2, 7, dtype=torch.bool)
    where[0, 2] = where[1, 4] = True
    edits = [
        Edit(layer, point, other[f"blocks.{layer}.{point}"].detach(), where=where)
        for layer in range(3)
        for point in points_of(model, layer)
    ]
    whole = Replay(model, base).run([[edit] for edit in edits]).unflatten(0, (-1, 2))
    ends = Replay(model, base, torch.tensor([-1, -1])).run([[edit] for edit in edits]).unflatten(0, (-1, 2))
    moved, plain = set(), model(base)
    for edit, logits, end in zip(edits, whole, ends, strict=True):
        expected = with_hooks(model, base, [edit])
        assert torch.allclose(logits, expected, atol=1e-10), edit.point
        assert torch.allclose(end, expected[:, -1], atol=1e-10), edit.point
        if not torch.allclose(expected, plain):
            moved.add(edit.point)
    assert len(moved) > 15, "the edits do something"


def test_what_is_set_back_cuts_a_route() -> None:
    """The values that a head uses are exchanged, those that it passes on set back: only its own route is left."""
    model = build("value", "tokens", 3)
    base = inputs_for(model.config, 2, seed=1)
    with torch.no_grad():
        _, own = model.run_with_cache(base)
        _, other = model.run_with_cache(inputs_for(model.config, 2, seed=2))
    name = "blocks.0.attn.hook_v"
    exchanged = Edit(0, "attn.hook_v", other[name], head=1)
    back = Edit(0, "attn.hook_v_stream", own[f"{name}_stream"], head=1)
    mixed = Edit(0, "attn.hook_v_mixed", other[f"{name}_mixed"], head=1)
    both, one_route, same = Replay(model, base).run([[exchanged], [exchanged, back], [mixed]]).chunk(3)
    assert torch.allclose(one_route, same, atol=1e-12)
    assert not torch.allclose(one_route, both)
    assert torch.equal(Replay(model, base).run([[back], []]), model(base).detach().repeat(2, 1, 1))


# --- no more than lies downstream -------------------------------------------------------------------------------------


@contextmanager
def seen(model: HookedStreamTransformer, *names: str) -> Iterator[dict[str, list[int]]]:
    """How many positions went through hook points, each time."""
    widths: dict[str, list[int]] = {name: [] for name in names}
    handles = [
        model.hook_dict[name].register_forward_hook(
            lambda point, args, out: widths[str(point.name)].append(out.shape[1])
        )
        for name in names
    ]
    yield widths
    for handle in handles:
        handle.remove()


def test_only_what_is_downstream_is_computed() -> None:
    model = build("value", "tokens", 3)
    base, other = inputs_for(model.config, 2, seed=1), inputs_for(model.config, 2, seed=2)
    _, cache = model.run_with_cache(other)
    third = torch.zeros(2, 7, dtype=torch.bool)
    third[:, 3] = True
    replay = Replay(model, base, torch.tensor([6, 6]))
    names = [f"blocks.{layer}.{end}" for layer in range(3) for end in ("attn.hook_k", "attn.hook_q", "hook_mlp_out")]

    def computed(layer: int, point: str) -> list[list[int]]:
        edit = Edit(layer, point, cache[f"blocks.{layer}.{point}"].detach(), where=third)
        with seen(model, *names) as widths:
            replay.run([[edit]])
        return [[w for name in names[3 * i : 3 * i + 3] for w in widths[name]] for i in range(3)]

    # Positions at which k, q and the MLP of each layer are computed: one, those from there on, or the one that is read.
    assert computed(0, "hook_resid_pre") == [[1, 1, 4], [4, 4, 4], [4, 1, 1]]
    assert computed(0, "attn.hook_v") == [[4], [4, 4, 4], [4, 1, 1]]
    assert computed(1, "attn.hook_z") == [[], [1], [1, 1, 1]]
    assert computed(1, "attn.hook_q") == [[], [1, 1], [1, 1, 1]]
    assert computed(2, "attn.hook_v") == [[], [], [1]]
    assert computed(2, "attn.hook_z") == [[], [], []], "position 3 is not read"


def test_rows_that_an_edit_leaves_as_they_were_are_not_run() -> None:
    model = build("value", "tokens", 3)
    base = inputs_for(model.config, 4, seed=1)
    changed = base.clone()
    changed[2, 5] = (base[2, 5] + 1) % 19
    with torch.no_grad():
        logits, own = model.run_with_cache(base)
        _, other = model.run_with_cache(changed)
    replay = Replay(model, base)
    rows: list[int] = []
    handle = model.hook_dict["blocks.2.hook_resid_post"].register_forward_hook(
        lambda point, args, out: rows.append(len(out))
    )
    found = replay.run([[Edit(0, "attn.hook_v", run["blocks.0.attn.hook_v"])] for run in (own, other)])
    handle.remove()
    assert rows == [1], "one example of one copy"
    assert torch.equal(found[:4], logits)
    assert torch.equal(found[4:][[0, 1, 3]], logits[[0, 1, 3]])
    assert not torch.allclose(found[6], logits[2])


@pytest.mark.parametrize(("most", "waste"), [(1, 0), (10, 0), (50, 10_000), (10_000, 10**9)])
def test_how_rows_are_put_together_changes_nothing(most: int, waste: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("lime", "tokens", 3)
    base = inputs_for(model.config, 3, seed=1)
    _, other = model.run_with_cache(inputs_for(model.config, 3, seed=2))
    places = [torch.arange(7).eq(p).expand(3, -1) for p in range(7)]
    copies = [
        [Edit(layer, point, other[f"blocks.{layer}.{point}"].detach(), where=where)]
        for layer in range(3)
        for point in ("attn.hook_v", "attn.hook_z", "hook_resid_pre", "attn.hook_q")
        for where in places
    ]
    reads = torch.tensor([6, 3, 5])
    expected = Replay(model, base, reads).run(copies)
    monkeypatch.setattr(passes, "MOST_POSITIONS", most)
    monkeypatch.setattr(passes, "MOST_WASTE", waste)
    assert torch.allclose(Replay(model, base, reads).run(copies), expected, atol=1e-12)


# --- memory ----------------------------------------------------------------------------------------------------------


class Living(TorchDispatchMode):
    """The most bytes of tensors made under it that lived at one time; views of a model's weights are not new."""

    def __init__(self, model: HookedStreamTransformer):
        super().__init__()
        self.now = self.most = 0
        weights = (*model.parameters(), *model.buffers())
        self.known: set[int] = {tensor.untyped_storage()._cdata for tensor in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self.known:
            return
        size = storage.nbytes()
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def least_memory(replay: Callable[..., Any]) -> int:
    """The smallest bound that is enough, out of the error that a smaller one brings."""
    with pytest.raises(ValueError, match="less than one copy of the pair needs") as error:
        replay(max_memory=1)
    return int(str(error.value).split("about ")[1].split(";")[0].replace(",", ""))


@pytest.mark.parametrize(("kind", "layers"), [("vectors", 2), ("tokens", 3)])
def test_memory_stays_under_the_bound(kind: str, layers: int) -> None:
    model = build("resformer-dense", kind, layers)
    base, other = inputs_for(model.config, 8, seed=1), inputs_for(model.config, 8, seed=2)
    ids = torch.arange(8) % 5
    pair = Pair(base, other, ids, (ids + 1) % 5, {})
    sites = find_sites(model, ["resid_pre", "q", "v", "z", "pattern"], positions=range(7))
    least = least_memory(partial(patch, model, pair, sites))
    for bound in (least, 2 * least):
        with Living(model) as tensors:
            patch(model, pair, sites, max_memory=bound)
        assert tensors.most <= bound + 1000, "masks are not counted"
    with Living(model) as without:
        patch(model, pair, sites)
    assert without.most > 2 * least, "the bound is what kept it small"


def test_what_is_kept_is_counted() -> None:
    model = build("value", "tokens", 3)
    base = inputs_for(model.config, 4, seed=1)
    with Living(model) as tensors:
        replay = Replay(model, base)
    assert replay.cached_bytes <= tensors.now <= replay.cached_bytes + 1000
    least = least_memory(partial(Replay, model, base))
    assert least > replay.cached_bytes
    more = least_memory(partial(Replay, model, base, held=5_000))
    assert more - least == pytest.approx(5_000 * GAPS, abs=1)
    with pytest.raises(ValueError, match=f"max_memory = {least:,} bytes is less than .*, about {more:,}"):
        Replay(model, base, max_memory=least, held=5_000)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_mistakes_are_explained() -> None:
    model = build("value", "tokens", 2)
    base = inputs_for(model.config, 3, seed=1)
    _, cache = model.run_with_cache(base)
    v, z = (cache[f"blocks.1.attn.hook_{name}"].detach() for name in "vz")
    replay = Replay(model, base)
    somewhere = torch.ones(2, 7, dtype=torch.bool)
    cases: list[tuple[Edit, str]] = [
        (Edit(2, "attn.hook_v", v), "an edit names layer 2; the model has 2 layers"),
        (Edit(1, "attn.hook_w", v), "unknown hook point 'blocks.1.attn.hook_w': did you mean"),
        (Edit(1, "attn.hook_v_stream", v), "unknown hook point 'blocks.1.attn.hook_v_stream'"),
        (Edit(1, "attn.hook_result", v), "does not fire while cfg.use_attn_result is off"),
        (Edit(1, "state", v), "an edit of the state needs a State as its value"),
        (Edit(1, "stream", v), "an edit of the stream needs .* or its outgoing part"),
        (
            Edit(1, "attn.hook_v", v[:2]),
            r"holds the activation of \(batch, pos\) = \(2, 7\); the base run has \(3, 7\)",
        ),
        (Edit(1, "attn.hook_v", v, where=somewhere), r"the base run has \(3, 7\)"),
        (Edit(1, "attn.hook_z", z, head=4), "head 4 at blocks.1.attn.hook_z, which has 4 heads"),
        (Edit(1, "hook_resid_pre", cache["blocks.1.hook_resid_pre"].detach(), head=0), "which has 0 heads"),
    ]
    for edit, message in cases:
        with pytest.raises(ValueError, match=message):
            replay.run([[edit]])
    model.allow_stream_blind_tools()
    model.set_use_split_qkv_input(True)
    with pytest.raises(ValueError, match="hook_q_input is a copy for single heads.*edit hook_resid_pre"):
        replay.run([[Edit(1, "attn.hook_q_input", v)]])
    with pytest.raises(ValueError, match=r"positions \[7\] cannot be read in inputs of 7 positions"):
        Replay(model, base, torch.tensor([0, 7, 1]))
    with pytest.raises(ValueError, match="2 positions to read in 3 examples"):
        Replay(model, base, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="a run with edits requires .*evaluation mode"):
        Replay(model.train(), base)
    model.eval().add_hook("blocks.0.attn.hook_v", lambda t, hook: t * 0)
    with pytest.raises(ValueError, match="hooks are attached at blocks.0.attn.hook_v; .* call model.reset_hooks"):
        Replay(model, base)
