"""What is written to the residual stream where logits are read, by writer, and by where a head's values are from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from analysis.edges.graph import Node, Origin, coefficients, writers_of
from analysis.edges.recorded_activations import gains_of
from analysis.edges.steered_forward import Entry, carry
from analysis.memory import copies_within, in_batches, run_of_one
from analysis.metrics import precise
from analysis.pairs import Pair
from analysis.ready import require_eval_mode, require_no_hooks
from circuits.common.errors import require
from circuits.config.streams import CARRIERS
from circuits.model import HookedStreamTransformer
from circuits.streams.transforms import HeadTensor

BEFORE_LAYERS = -1
"""Where what the input alone makes is made."""


@dataclass(frozen=True)
class Written:
    """What one component, or the heads of a layer of values of one origin, adds to the residual stream before the
    final norm: with what it is multiplied by on the way there."""

    component: str
    layer: int | None
    origin: Origin | None
    """Of heads: whose values they are."""
    vector: Float[Tensor, "batch head d_model"]
    """In single precision at least; of all but heads, with one head."""

    @property
    def made(self) -> int:
        """The layer in which it was made: of heads, their values."""
        if self.origin is None:
            return BEFORE_LAYERS if self.layer is None else self.layer
        return BEFORE_LAYERS if self.origin[1] == "token" else self.origin[0]


@dataclass(frozen=True)
class Read:
    """A run at the position where the logits are read."""

    written: list[Written]
    before: list[Float[Tensor, "batch d_model"]]
    """The residual stream before every layer, and before the final norm."""


def kept(model: HookedStreamTransformer, name: str) -> bool:
    """Return whether a hook point is needed for :func:`read_run`."""
    last = name.rsplit(".", 1)[-1]
    wanted = {"hook_embed", "hook_pos_embed", "hook_smear", "hook_resid_pre", "hook_mlp_out", "hook_pattern"}
    wanted |= {f"hook_{c}{route}" for c in CARRIERS for route in ("", "_stream")}
    return last in wanted and model.can_fire(name)


@torch.no_grad()
def read_run(model: HookedStreamTransformer, pair: Pair) -> Read:
    """Return what adds up to the residual stream of the clean inputs, where the logits are read.

    Attention patterns and gains are as they are in this run: what values have to do with them is not in the sums.
    """
    final, cache = model.run_with_cache(
        pair.clean,
        names_filter=lambda name: kept(model, name),
        stop_at_layer=model.config.n_layers,
        return_cache_object=False,
    )
    rows, at = torch.arange(len(pair), device=pair.clean.device), pair.reads

    def there(tensor: Tensor) -> Tensor:
        return precise(tensor.expand(len(pair), *tensor.shape[1:])[rows, at])

    before = [there(cache[f"blocks.{layer}.hook_resid_pre"]) for layer in range(model.config.n_layers)]
    return Read(list(_written(model, cache, rows, at)), [*before, there(final)])


def _written(model: HookedStreamTransformer, cache: dict[str, Tensor], rows: Tensor, at: Tensor) -> Iterator[Written]:
    writers = writers_of(model.config)
    by_writer = dict(zip(writers, coefficients(model, [Node("logits")], writers)[0], strict=True))

    def written(component: str, layer: int | None, vector: Tensor, node: Node) -> Written:
        return Written(component, layer, None, by_writer[node] * precise(vector)[:, None])

    points = {"embed": "hook_embed", "pos_embed": "hook_pos_embed", "smear": "smear.hook_smear"}
    for component, point in points.items():
        if point in cache:
            tensor = cache[point].expand(len(rows), *cache[point].shape[1:])
            yield written(component, None, tensor[rows, at], Node("input"))
    values = _values(model, cache)
    for layer, block in enumerate(model.layers):
        attn, head = block.attn, Node("head", layer, 0)
        pattern = precise(cache[f"blocks.{layer}.attn.hook_pattern"][rows, :, at])
        for origin, value in values[layer].items():
            seen = precise(attn.per_query_head(value, 2))
            z = einsum(pattern, seen, "batch head key, batch key head d_head -> batch head d_head")
            result = einsum(z, precise(attn.W_O), "batch head d_head, head d_head d_model -> batch head d_model")
            yield Written("head", layer, origin, by_writer[head] * result)
        if attn.bias is not None:
            yield written("attention bias", layer, attn.bias.expand(len(rows), -1), head)
        if model.config.mlp:
            out = cache[f"blocks.{layer}.hook_mlp_out"][rows, at]
            yield written("mlp", layer, out, Node("mlp", layer))


def _values(model: HookedStreamTransformer, cache: dict[str, Tensor]) -> dict[int, dict[Origin, HeadTensor]]:
    """Return the values that every layer's attention uses as sums, by what each summand was projected of."""
    gains = gains_of(model, cache)
    found = defaultdict[int, dict[Origin, HeadTensor]](dict)

    def bring(origin: Origin, tensor: HeadTensor, entry: Entry = "own") -> None:
        for (layer, carrier), arriving in carry(model, origin, tensor, gains, entry).items():
            if carrier == "v":
                before = found[layer].get(origin)
                found[layer][origin] = arriving if before is None else before + arriving

    for number in model.config.tables:
        bring((number, "token"), cache[model.point_of((number, "token"))])
    for layer, block in enumerate(model.layers):
        for c in block.attn.own:
            bring((layer, c), cache[f"blocks.{layer}.attn.hook_{c}"])
            if c in block.attn.passes_own and c not in block.attn.carries_own:
                # What is passed on is made by other weights than what the layer uses.
                bring((layer, c), cache[f"blocks.{layer}.attn.hook_{c}_stream"], "passed")
    return found


def reads_of(model: HookedStreamTransformer, pair: Pair, max_memory: int | None) -> Iterator[tuple[Pair, Read]]:
    """Return the runs of a pair's clean inputs, as many at a time as memory holds, each with its rows of the pair."""
    one = model.config.n_layers * run_of_one(model, pair.n_pos)
    for rows in in_batches(len(pair), copies_within(max_memory, one, 1, pair.clean.device)):
        yield pair[rows], read_run(model, pair[rows])


def check_linear(model: HookedStreamTransformer, operation: str) -> None:
    """Refuse a model that is in training mode, has hooks, or whose logits are not linear in the normalised residual
    stream."""
    require_eval_mode(model, operation)
    require_no_hooks(model, operation)
    require(
        not model.config.readout.depth,
        f"{operation} takes logits that are one product of the residual stream, and here a ReLU stack stands before "
        f"them: patch instead (analysis.patch), which asks for no sum",
    )
