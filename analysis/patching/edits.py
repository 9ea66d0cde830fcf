"""Edits of a run: a part of an activation takes the value that it has in another run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analysis.patching.position_windows import Window
from circuits.attention import Attention
from circuits.common.errors import require
from circuits.config.streams import CARRIERS
from circuits.model import HookedStreamTransformer, State
from circuits.sites import STATES
from circuits.streams.mixing import Outgoing

RESIDUAL, CARRIED, VALUES, QUERIES, HEADS_OUT, WRITTEN, STAGES = range(7)
"""How far into a block a run can be taken up: at the residual stream; at the block's own queries, keys and values; with
only values or only queries changed; at the heads' outputs; at what attention writes."""
PATTERNS = ("attn.hook_attn_scores", "attn.hook_pattern")
_UNUSED = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")
_COMPARED = ("hook_rot_q", "hook_rot_k")


@dataclass(frozen=True, eq=False)
class Edit:
    """At one point of one layer, the whole or a part of an activation is replaced by the same part of ``value``."""

    layer: int
    point: str
    """The hook point's name within the block (``attn.hook_v``, ``hook_resid_pre``), or ``state`` or ``stream``."""
    value: Tensor | State | Outgoing
    """The activation of another run, all of it (batch first); for ``state`` a :class:`circuits.model.State`, for
    ``stream`` its ``outgoing``."""
    head: int | None = None
    where: Bool[Tensor, "batch pos"] | None = None
    """The positions that are replaced (of a pattern: queries); ``None`` is all."""


@dataclass(frozen=True, eq=False)
class Writes:
    """Edits of one activation out of one tensor, at most one a copy."""

    key: str
    layer: int
    stage: int
    """The latest at which the layer can be taken up so that the edits act on all that depends on them."""
    value: Float[Tensor, "batch pos *rest"]
    base: Float[Tensor, "batch pos *rest"] | None
    """What the base run has there, if it was kept."""
    copies: Int[Tensor, " edit"]
    edit_of: Int[Tensor, " copy"]
    """The other way round; -1 where none."""
    heads: Int[Tensor, " edit"]
    """-1 is all."""
    masks: Bool[Tensor, "mask batch pos"]
    mask_of: Int[Tensor, " edit"]

    def changed(self) -> Bool[Tensor, "edit batch pos"]:
        """Return where each edit writes something else than the base run has."""
        if self.base is None:
            return self.masks[self.mask_of].cpu()
        differs = self.value != self.base
        by_head = differs.flatten(3).any(-1) if differs.ndim > 3 else differs.any(-1, keepdim=True)
        options = torch.cat([by_head, by_head.any(-1, keepdim=True)], -1).permute(2, 0, 1)
        return (options[self.heads] & self.masks[self.mask_of]).cpu()

    def of_rows(self, copies: Int[Tensor, " row"]) -> Int[Tensor, " row"] | None:
        """Return which edit acts on each row (-1 for none), or ``None`` where none acts on any."""
        edits = self.edit_of[copies]
        return edits if bool((edits >= 0).any()) else None

    def write(self, activation: Tensor, edits: Int[Tensor, " row"], window: Window) -> Tensor:
        """Return an activation (row column ...) with the edits of its rows; the tensor given stays as it was."""
        mask = self.masks[self.mask_of[edits], window.examples].gather(1, window.at) & (edits >= 0)[:, None]
        mask = mask.view(*mask.shape, *[1] * (activation.ndim - 2))
        heads = self.heads[edits]
        if activation.ndim > 3 and bool((heads >= 0).any()):
            each = torch.arange(activation.shape[2], device=heads.device)
            chosen = (heads[:, None] == each) | (heads[:, None] < 0)
            mask = mask & chosen.view(len(heads), 1, -1, *[1] * (activation.ndim - 3))
        return torch.where(mask, window.take(self.value), activation)


def collect(
    model: HookedStreamTransformer, base: Mapping[str, Tensor], copies: Sequence[Sequence[Edit]], shape: tuple[int, int]
) -> list[Writes]:
    """Return the edits of all copies, gathered by what they write and where from, in the order of writing."""
    gathered: dict[tuple[int, str, int], list[tuple[int, Edit, Tensor]]] = {}
    checked: set[tuple[str, int, int | None]] = set()
    for copy, edits in enumerate(copies):
        times: dict[str, int] = {}
        for edit in edits:
            for key, value in _parts(edit):
                if (key, id(value), edit.head) not in checked:
                    _check(model, edit, key, value, shape)
                    checked.add((key, id(value), edit.head))
                turn = times[key] = times.get(key, -1) + 1
                gathered.setdefault((turn, key, id(value)), []).append((copy, edit, value))
    in_turn = sorted(gathered.items(), key=lambda item: item[0][0])
    return [_writes(model, base, key, of, len(copies), shape) for (_, key, _), of in in_turn]


def _parts(edit: Edit) -> Iterator[tuple[str, Tensor]]:
    """The tensors that an edit writes, each with the name of what it replaces."""
    if isinstance(edit.value, Tensor):
        yield f"blocks.{edit.layer}.{edit.point}", edit.value
        return
    passed = edit.value
    if isinstance(passed, State):
        yield state_key(edit.layer), passed.residual
        passed = passed.outgoing
    for source, tensor in passed.items():
        yield state_key(edit.layer, *source), tensor


def state_key(layer: int, *source: Any) -> str:
    """Return the name of a part of the state before a layer: the residual stream, or what a source passed on."""
    return ".".join(["state", *map(str, (layer, *source))])


def _check(model: HookedStreamTransformer, edit: Edit, key: str, value: Tensor, shape: tuple[int, int]) -> None:
    n = model.config.n_layers
    require(0 <= edit.layer < n, f"an edit names layer {edit.layer}; the model has {n} layers")
    if isinstance(edit.value, Tensor):
        require(
            edit.point not in STATES,
            f"an edit of the {edit.point} needs a State as its value, model.state(inputs, layer), or its outgoing part",
        )
        model.check_hook_name(key)
        require(
            not key.endswith(_UNUSED),
            f"{key} is a copy for single heads, which runs with edits do not make; edit hook_resid_pre, or what the "
            f"layer projects",
        )
        require(
            not key.endswith(_COMPARED),
            f"{key} is made of what attention uses when it is compared; edit hook_{key[-1]}, or hook_{key[-1]}_mixed "
            f"where a stream comes in",
        )
    positions = value.shape[0], value.shape[2 if edit.point in PATTERNS else 1]
    require(
        positions == shape and (edit.where is None or edit.where.shape == shape),
        f"an edit of {key} holds the activation of (batch, pos) = {positions}; the base run has {shape}",
    )
    if edit.head is not None:
        heads = value.shape[1 if edit.point in PATTERNS else 2] if value.ndim > 3 else 0
        require(0 <= edit.head < heads, f"an edit of head {edit.head} at {key}, which has {heads} heads")


def _writes(
    model: HookedStreamTransformer,
    base: Mapping[str, Tensor],
    key: str,
    of: Sequence[tuple[int, Edit, Tensor]],
    n_copies: int,
    shape: tuple[int, int],
) -> Writes:
    (_, first, value), device = of[0], of[0][2].device
    masks = {id(edit.where): edit.where for _, edit, _ in of}
    order = {name: i for i, name in enumerate(masks)}
    everywhere = torch.ones(shape, dtype=torch.bool, device=device)
    at = torch.tensor([copy for copy, _, _ in of], device=device)
    return Writes(
        key=key,
        layer=first.layer,
        stage=_stage(model.layers[first.layer].attn, first.point),
        value=(value.transpose(1, 2) if first.point in PATTERNS else value).contiguous(),
        base=_kept(model, base, key),
        copies=at,
        edit_of=torch.full((n_copies,), -1, device=device).index_copy(0, at, torch.arange(len(of), device=device)),
        heads=torch.tensor([-1 if edit.head is None else edit.head for _, edit, _ in of], device=device),
        masks=torch.stack([everywhere if mask is None else mask.to(device) for mask in masks.values()]),
        mask_of=torch.tensor([order[id(edit.where)] for _, edit, _ in of], device=device),
    )


def _kept(model: HookedStreamTransformer, base: Mapping[str, Tensor], key: str) -> Tensor | None:
    if not key.startswith("state."):
        return base.get(key)
    _, layer, *source = key.split(".")
    if not source:
        return base[f"blocks.{layer}.hook_resid_pre"]
    number, what = source
    return base[model.point_of((int(number), what))]  # type: ignore[arg-type] # as state_key wrote it


def _stage(attn: Attention, point: str) -> int:
    """How late a block can be taken up so that an edit at the point still acts on all that depends on it."""
    if not point.startswith("attn."):
        early = point.startswith("ln1.") or point in (*STATES, "hook_resid_pre")
        return RESIDUAL if early else WRITTEN
    if point in ("attn.hook_z", "attn.hook_result"):
        return HEADS_OUT
    if point in PATTERNS:
        return QUERIES
    for carrier, stage in (("q", QUERIES), ("v", VALUES)):
        lent = any(carrier in attn.needed_own([c]) for c in CARRIERS if c != carrier)
        if point.startswith((f"attn.hook_{carrier}", f"attn.mix.{carrier}.")) and not lent:
            return stage
    return CARRIED
