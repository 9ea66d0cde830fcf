"""What heads attend to in one prompt, and what they move from there: of their own layer's values, and of a stream's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from analysis.metrics import precise
from analysis.pairs import Pair, is_padding
from analysis.patching.site_search import listed_heads
from analysis.position_names import position_names, token_names
from analysis.ready import require_eval_mode, require_finite, require_no_hooks
from analysis.text_pairs import tokens_of
from circuits.attention import Attention
from circuits.common.errors import require, several
from circuits.common.showing import ROWS, Shown
from circuits.model import HookedStreamTransformer
from circuits.places import Places

VALUE_ROUTES: dict[str, str] = {
    "own": "of the layer's own values, past its gain",
    "incoming": "of what comes in through the stream, past gain, transform and gate",
    "mixed": "of both, which is what the head moves",
}
Prompt = str | Tensor | Sequence[int] | Pair
"""A text, token numbers (pos), vectors (pos d_input), or the clean side of a pair of one row."""


@dataclass(frozen=True, repr=False, eq=False)
class AttentionView(Shown):
    """Every head's pattern in one prompt, and how much it moves from every key to every query, by route."""

    names: tuple[str, ...]
    """What stands at every position."""
    heads: tuple[tuple[int, int], ...]
    """Layer and head."""
    seen: Bool[Tensor, "head query key"]
    """Which keys a query sees."""
    pattern: Float[Tensor, "head query key"]
    norms: Float[Tensor, "route head key"]
    """Of each key's values times W_O, in the order of ``VALUE_ROUTES``."""
    shares: Float[Tensor, "part head key"]
    """How much of each key's mixed vector its own and incoming parts make, along it; NaN where it is zero."""
    head_shares: Float[Tensor, "part head"]
    """The same of all that a head writes in this prompt."""

    def to_frame(self) -> pd.DataFrame:
        """Return a row a head, query and key that it sees: layer, head, query, query_token, key, key_token, pattern,
        own, incoming, mixed (the pattern times the norm of what is moved), own_share, incoming_share (of the mixed
        vector, along it: they add up to 1, and either may be negative) and head_incoming (of all that the head writes).
        """
        head, query, key = (at.numpy() for at in self.seen.nonzero(as_tuple=True))
        pattern, norms, shares, of_head = (x.numpy() for x in (self.pattern, self.norms, self.shares, self.head_shares))
        weight, names, where = pattern[head, query, key], np.array(self.names, dtype=object), np.array(self.heads)
        columns: dict[str, Any] = {"layer": where[head, 0], "head": where[head, 1]}
        columns |= {"query": query, "query_token": names[query], "key": key, "key_token": names[key]}
        columns |= {"pattern": weight}
        columns |= {route: weight * norms[i, head, key] for i, route in enumerate(VALUE_ROUTES)}
        columns |= {"own_share": shares[0, head, key], "incoming_share": shares[1, head, key]}
        return pd.DataFrame(columns | {"head_incoming": of_head[1, head]})

    def by_head(self) -> pd.DataFrame:
        """Return a row a head: layer, head, own_share and incoming_share of all that it writes in this prompt."""
        where = pd.DataFrame(self.heads, columns=["layer", "head"])
        own, incoming = self.head_shares.numpy()
        return where.assign(own_share=own, incoming_share=incoming)

    def finding(self) -> str:
        """Return what is moved most, and which head moves most of what a stream brings."""
        first, heads = self.largest(1).iloc[0], self.by_head()
        told = f"{len(self.heads)} heads on {len(self.names)} positions; largest: L{first.layer}H{first['head']} moves "
        told += f"{first.mixed:.3g} from {_place(first, 'key')} to {_place(first, 'query')}"
        if self.notes() or heads.incoming_share.isna().all():
            return told
        most = heads.iloc[int(heads.incoming_share.fillna(-np.inf).argmax())]
        return f"{told}; most by the stream: L{most.layer:.0f}H{most['head']:.0f}, {most.incoming_share:.0%} of it"

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` largest vectors that heads move, where a query has a choice of keys."""
        frame = self.to_frame()
        choices = frame.groupby(["layer", "head", "query"]).key.transform("size")
        order = frame[choices >= min(2, choices.max())].mixed.sort_values(ascending=False, kind="stable").index
        return frame.loc[order, frame.columns[:-1]].head(n)

    def notes(self) -> Sequence[str]:
        """Return that no stream feeds the values, where that is so."""
        if bool((self.norms[1] > 0).any()):
            return ()
        return ("nothing comes into these heads' values through a stream: all that they move is of their own layer",)

    def figure(self, layer: int | None = None, shown: str = "pattern") -> Any:
        """Return heat maps of a layer's heads, with menus for the layer and for what is shown (a plotly figure).

        They start with ``layer``, by default the one where a stream brings most, and with the pattern, or what is moved
        by a route ("own", "incoming" or "mixed").
        """
        from figures.models.attention_view import attention_maps

        return attention_maps(self.to_frame(), layer, shown)


def _place(row: pd.Series, what: str) -> str:
    return f"{row[what]} {row[f'{what}_token']!r}" if row[f"{what}_token"] else f"position {row[what]}"


@torch.no_grad()
def attention_view(
    model: HookedStreamTransformer,
    prompt: Prompt,
    heads: Iterable[tuple[int, int]] | None = None,
    names: Sequence[str] | None = None,
) -> AttentionView:
    """Return every head's attention in one prompt, and how much it moves, by route: |pattern (v_route W_O)|.

    A prompt is a text, token numbers (pos), vectors (pos d_input), or one row of a pair (``pair[0]``), whose clean side
    is viewed. ``heads`` are (layer, head) pairs, by default all. ``names`` say what stands at the positions, by default
    the tokens, with roles of a pair. Without an output matrix a head writes its values as they are. What a bias adds to
    the output is of no key, and left out.

    Raises:
        ValueError: for a model in training mode or with hooks attached, a text of a model that has no tokenizer or
            whose tokenizer does not know some of it (naming that), inputs that do not fit, more prompts than one, or a
            head that is not there.
        NotFiniteError: for attention, or what it moves, that is NaN or infinite.

    Source: Kobayashi et al., arXiv 2004.10102 (norms of what is moved); its split by route is our own.
    """
    require_eval_mode(model, "an attention view")
    require_no_hooks(model, "an attention view")
    if isinstance(prompt, Pair):
        inputs, told = _clean_side(model, prompt)
    else:
        inputs = _one_row(model, prompt)
        told = token_names(model, inputs[0])
    config = model.config
    every = product(range(config.n_layers), range(config.n_heads))
    wanted = sorted(set(listed_heads("heads", every if heads is None else heads, config)))
    said = told if names is None else several("names", names, str)
    require(len(said) == inputs.shape[1], f"{len(said)} names for {inputs.shape[1]} positions; give one for each")
    _, cache = model.run_with_cache(inputs, names_filter=_kept, return_cache_object=False)
    layers = [_layer(model.layers[layer].attn, cache, of) for layer, of in groupby(wanted, itemgetter(0))]
    seen, pattern, norms, shares, of_head = zip(*layers, strict=True)
    by_route = (torch.cat(parts, 1) for parts in (norms, shares, of_head))
    return AttentionView(tuple(said), tuple(wanted), torch.cat(seen), torch.cat(pattern), *by_route)


def _kept(name: str) -> bool:
    return name.endswith(("attn.hook_pattern", "attn.hook_v", "attn.hook_v_residual", "attn.hook_v_mixed"))


def _clean_side(model: HookedStreamTransformer, pair: Pair) -> tuple[Tensor, list[str]]:
    """The clean side of a pair of one row, without padding, and what stands there."""
    require(len(pair) == 1, f"one prompt is viewed at a time, and this pair has {len(pair)}; give a row, as in pair[0]")
    real = (~is_padding(model, pair))[0]
    names = position_names(model, replace(pair, corrupt=pair.clean))
    return pair.clean[:, real], [name for name, there in zip(names, real.tolist(), strict=True) if there]


def _one_row(model: HookedStreamTransformer, prompt: str | Tensor | Sequence[int]) -> Tensor:
    """The inputs of one prompt, with the axis of the batch; whether they fit is for the model to say."""
    of_tokens = model.config.inputs.are_tokens
    if isinstance(prompt, str):
        require(of_tokens, "this model takes vectors, and the prompt is a text; give the vectors, (pos, d_input)")
        return torch.tensor([tokens_of(model, "the prompt", prompt)], device=model.cfg.device)
    try:
        given = torch.as_tensor(prompt)
    except (TypeError, ValueError, RuntimeError) as error:
        told = f"a prompt is a text, token numbers (pos), or vectors (pos, d_input), got {prompt!r}"
        raise ValueError(told) from error
    given = given[None] if given.ndim == (2 if given.is_floating_point() else 1) else given
    require(given.ndim > 0 and len(given) == 1, f"one prompt is viewed at a time, got {tuple(given.shape)}; give a row")
    return given.to(model.cfg.device)


def _layer(
    attn: Attention, cache: Mapping[str, Tensor], of: Iterable[tuple[int, int]]
) -> tuple[Bool[Tensor, "head query key"], Float[Tensor, "head query key"], Tensor, Tensor, Tensor]:
    """The seen keys, the pattern, the norms and both kinds of shares of some heads of a layer."""
    heads = [head for _, head in of]
    pattern = precise(cache[f"blocks.{attn.layer}.attn.hook_pattern"])[0, heads].cpu()
    hidden = Places.whole(pattern.shape[-1], pattern.device).hidden(attn.window)[0]
    moved = _moved(attn, cache)[:, heads].cpu()
    require_finite(f"attention patterns of layer {attn.layer}", pattern)
    require_finite(f"values that attention moves in layer {attn.layer}", moved)
    written = einsum(pattern, moved, "head query key, route head key d -> route head query d")
    shares, of_head = (_along(vectors, last) for vectors, last in ((moved, 1), (written, 2)))
    return (~hidden).expand_as(pattern), pattern, moved.norm(dim=-1), shares, of_head


def _moved(attn: Attention, cache: Mapping[str, Tensor]) -> Float[Tensor, "route head key d_model"]:
    """What a weight of 1 would move from every key, by route."""
    at = f"blocks.{attn.layer}.attn.hook_v"
    mixed = precise(cache[f"{at}_mixed" if "v" in attn.mixed else at])
    incoming = precise(cache[f"{at}_residual"]) if "v" in attn.mix else torch.zeros_like(mixed)
    values = attn.per_query_head(torch.cat([mixed - incoming, incoming, mixed]), 2)
    return einsum(values, precise(attn.W_O), "route key head d_head, head d_head d_model -> route head key d_model")


def _along(vectors: Float[Tensor, "route head *place d_model"], axes: int) -> Float[Tensor, "part head *summed"]:
    """The parts of vectors along the mixed one, as shares of it, with sums over the last ``axes`` axes."""
    over = tuple(range(-axes, 0))
    mixed = vectors[-1]
    return (vectors[:2] * mixed).sum(over) / mixed.square().sum(over)
