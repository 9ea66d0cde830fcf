"""A forward pass in which every reader's input and every head's use of a projection can be steered, edge by edge.

Hooks cannot do it: a hook changes an activation for all that read it, and an edge is one writer to one reader. With
nothing steered it is the model's own forward pass, to which ``tests/analysis/test_edges.py`` holds it equal
(``test_cutting_nothing_is_the_run_and_cutting_everything_is_the_other``), and one cut edge to one hook.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from analysis.edges.graph import Origin, Place
from circuits.config.streams import CARRIERS, Carrier
from circuits.layers import Residual
from circuits.model import HookedStreamTransformer, State
from circuits.streams.gains import Gains
from circuits.streams.mixing import Outgoing, scaled
from circuits.streams.transforms import ByCarrier, HeadTensor

PerHead = Float[Tensor, "batch pos head d_model"]
Entry = Literal["own", "used", "passed"]


class Control:
    """What may be seen and changed on the way; this one sees and changes nothing."""

    def read(self, layer: int, carrier: Carrier, residual: Residual) -> Residual | PerHead:
        """Return what the projections of a layer take instead of the residual stream, one copy a head if it differs."""
        return residual

    def own(self, layer: int, carrier: Carrier, projected: HeadTensor) -> HeadTensor:
        """Return what a layer's projection is taken to be: its head and the stream both get it."""
        return projected

    def use(self, layer: int, carrier: Carrier, mixed: HeadTensor) -> HeadTensor:
        """Return what the attention of a layer uses; what it passes on stays as it was."""
        return mixed

    def mixing(self, layer: int, carrier: Carrier, gains: Gains) -> None:
        """See the gains that a layer mixes with."""

    def heads(self, layer: int, z: HeadTensor) -> None:
        """See the outputs of a layer's heads, before the output matrix."""

    def attention(self, layer: int, out: Residual) -> None:
        """See what a layer's attention writes, all heads together."""

    def read_mlp(self, layer: int, residual: Residual) -> Residual:
        """Return what an MLP takes instead of the residual stream."""
        return residual

    def mlp(self, layer: int, out: Residual) -> None:
        """See what an MLP writes."""

    def read_out(self, residual: Residual) -> Residual:
        """Return what the logits are read from instead of the final residual stream."""
        return residual


def tiled(tensor: Tensor, copies: int) -> Tensor:
    """Return so many copies of a batch, one after another: what each of them is steered by is its own."""
    return repeat(tensor, "batch ... -> (copy batch) ...", copy=copies)


def run(model: HookedStreamTransformer, state: State, control: Control) -> Float[Tensor, "batch pos d_vocab_out"]:
    """Return the logits of a state before some layer, with ``control`` in charge of every edge from there on."""
    for _ in range(state.layer, model.config.n_layers):
        state = after_layer(model, state, control)
    return model.read_out(control.read_out(state.residual))


def after_layer(model: HookedStreamTransformer, state: State, control: Control) -> State:
    """Return the state after the next layer, with ``control`` in charge of its edges."""
    layer, residual, passed = state
    block = model.layers[layer]
    attn = block.attn
    inputs: dict[Carrier, Tensor] = {c: block.ln1(control.read(layer, c, residual)) for c in CARRIERS}
    own: ByCarrier = {c: control.own(layer, c, x) for c, x in attn.project(inputs).items()}
    for carrier, mix in attn.mixes():
        control.mixing(layer, carrier, mix.gains(inputs[carrier]))
    used, here = attn.mix_in(own, inputs, passed)
    z = attn.attend({c: control.use(layer, c, x) for c, x in used.items()})
    control.heads(layer, z)
    out = attn.output(z)
    control.attention(layer, out)
    residual = residual + out
    if block.mlp is not None:
        out = block.mlp(block.ln2(control.read_mlp(layer, residual)))
        control.mlp(layer, out)
        residual = residual + out
    return State(layer + 1, *model.passed_on(layer, residual, {**passed, **here}))


def carry(
    model: HookedStreamTransformer,
    start: Origin,
    change: HeadTensor,
    gains: dict[Place, Gains],
    entry: Entry = "own",
    last: int | None = None,
) -> dict[Place, HeadTensor]:
    """Return by how much every use changes if one tensor changes by ``change`` and nothing but the stream moves it.

    ``entry`` says what changes at ``start``: the projection itself (``own``; where other weights make what is passed
    on, it goes no further than its own layer), what its layer uses of it and may pass on (``used``), or only what is
    passed on (``passed``; so it is for a table, whatever is said). Keys are (layer, carrier) of the uses up to layer
    ``last``; the changes are linear in ``change``. ``gains`` holds those of every layer on the way.
    """
    number, carrier = start
    if carrier == "token":
        number, entry = -1, "passed"
    passed: Outgoing = {start: change} if entry == "passed" else {}
    arrived: dict[Place, HeadTensor] = {}
    end = model.config.n_layers if last is None else last + 1
    for layer in range(max(0, number), end):
        here = carrier if layer == number and carrier != "token" else None
        used = _used(model, layer, here, change, entry, passed, gains)
        arrived |= {(layer, c): tensor for c, tensor in used.items()}
        passed |= {(layer, c): used[c] for c in model.layers[layer].attn.passes_mixed if c in used}
    return arrived


def _used(
    model: HookedStreamTransformer,
    layer: int,
    here: Carrier | None,
    change: HeadTensor,
    entry: Entry,
    passed: Outgoing,
    gains: dict[Place, Gains],
) -> ByCarrier:
    """What one layer uses of a change, of which ``passed`` has come so far; ``here``: the carrier that it starts at."""
    attn = model.layers[layer].attn
    used: ByCarrier = {here: change} if here and entry != "passed" else {}
    if here in attn.carries_own and entry == "own":
        passed[layer, here] = change
    for carrier, mix in attn.mixes():
        if carrier == here and entry == "used":
            continue
        sources: list[Origin] = [(source, mix.reads) for source in mix.sources]
        parts = [scaled(gains[layer, carrier][0], change)] if carrier == here and entry == "own" else []
        if any(source in passed for source in sources):
            tensors = [passed.get(source, torch.zeros_like(change)) for source in sources]
            parts.append(mix.incoming(tensors, gains[layer, carrier]))
        if parts:
            used[carrier] = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return used


@contextmanager
def flowing(model: HookedStreamTransformer) -> Iterator[HookedStreamTransformer]:
    """Let gradients follow what flows forward, for the length of a ``with`` block.

    A ``stop`` gate lets a value through and hides it from the gradient; a ``gradient-only`` gate does the reverse. An
    estimate of what a patch does wants the gradient of what flows, so the first is opened and the second closed, and
    gradients are multiplied by nothing.
    """
    with model.regated({"stop": "full", "gradient-only": "off"}, gradient=1.0):
        yield model
