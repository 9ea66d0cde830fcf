"""How much what one head writes is what another reads: composition through the residual stream and through the other.

Every score is |A B|_F / (|A|_F |B|_F), A what the earlier head writes and B what the later one reads with, as linear
maps of row vectors; it lies between 0 and 1, and is 0 where either is zero. Norms, biases and MLPs are left out.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix
from transformer_lens.utilities.matrix import composition_scores

from analysis.edges.graph import Place, carried_projections
from analysis.edges.steered_forward import carry
from analysis.metrics import precise
from analysis.ready import require_finite_weights, require_no_hooks
from analysis.result import Table, largest_by
from circuits.common.showing import ROWS
from circuits.model import HookedStreamTransformer
from circuits.streams.gains import Gains

CONVENTION = "|A B|_F / (|A|_F |B|_F), A what the earlier head writes, B what the later one reads with"


def has_fixed_gains(model: HookedStreamTransformer) -> bool:
    """Return whether no gain of a stream depends on the input, so that the stream is one linear map."""
    return not any(stream.gain.depends_on_input for stream in model.config.streams)


def require_fixed_gains(model: HookedStreamTransformer, instead: str) -> None:
    """Raise ``ValueError`` if some gain depends on the input, with ``instead`` to say what to do."""
    if not has_fixed_gains(model):
        kinds = sorted({type(s.gain).__name__ for s in model.config.streams if s.gain.depends_on_input})
        raise ValueError(
            f"gains of this model's stream ({model.config.name}) depend on the input ({', '.join(kinds)}), so the "
            f"stream is no one linear map; {instead}"
        )


class Composition(Table):
    """How much what one head writes is what a later one reads: a row a pair of heads and kind."""

    def finding(self) -> str:
        """Return of every kind the two heads that compose most."""
        said = [
            f"{row.kind}: L{row.from_layer}H{row.from_head} with L{row.to_layer}H{row.to_head}, {row.score:.2f}"
            for _, row in self.frame.loc[self.frame.groupby("kind", sort=False)["score"].idxmax()].iterrows()
        ]
        return f"{len(self)} pairs of heads; the highest of every kind: {'; '.join(said)}"

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` highest scores."""
        return largest_by(self.frame, "score", n)

    def figure(self) -> Any:
        """Return heat maps of earlier by later heads, a panel a kind (a plotly figure)."""
        from figures.models.heads import composition_panels

        return composition_panels(self.frame)


@torch.no_grad()
def head_composition(model: HookedStreamTransformer, stream: bool = True) -> Composition:
    """Return the composition of every head with every later one: kind, from_layer, from_head, to_layer, to_head, score.

    Kinds "Q", "K" and "V" go through the residual stream: A is W_V W_O of the earlier head, B is W_Q W_K', its
    transpose or W_V W_O of the later one, all of the layers' own weights, as they are: rotary positions and norms of
    queries and keys are left out. Kind "stream c" goes through the stream that
    feeds carrier c ("stream b to c" if it reads carrier b): A is W_b of the source head, or what the stream has in its
    place (W_b_stream, for weights "untied" and "initial"), B is M W_O for values, M W_Q' for keys and M W_K' for
    queries of the head that uses it, M what gains, transforms and open gates on the way make of it. A gain alone does
    not change a score unless it is 0; ``norm``, |A B|_F itself, shows it.

    Raises:
        ValueError: with hooks attached, if gains depend on the input (``stream=False`` leaves the stream's kinds out),
            or if no head comes before another.
        NotFiniteError: for weights that hold NaN or infinity.

    Source: Elhage et al., A Mathematical Framework for Transformer Circuits (2021), for Q, K and V.
    """
    require_no_hooks(model, "composition of heads")
    require_finite_weights(model, "composition of heads")
    frames = _through_residual(model)
    if stream and model.config.streams:
        require_fixed_gains(model, "use stream=False")
        for source, uses in carried_projections(model).items():
            maps = _maps(model, source)
            frames += [_between(model, source, use, maps[use]) for use in uses if use != source]
    if not frames:
        raise ValueError("a model of one layer has no head before another; composition needs two layers or a stream")
    return Composition(pd.concat(frames, ignore_index=True))


def _through_residual(model: HookedStreamTransformer) -> list[pd.DataFrame]:
    writes, attends = (FactoredMatrix(precise(m.A), precise(m.B)) for m in (model.OV, model.QK))
    frames = []
    for kind, reads in (("Q", attends), ("K", attends.T), ("V", writes)):
        scores = composition_scores(writes, reads, broadcast_dims=True).nan_to_num(0.0)
        norms = scores * writes.norm()[..., None, None] * reads.norm()
        pairs = combinations(range(model.config.n_layers), 2)
        frames += [_frame(kind, one, other, scores[one, :, other], norms[one, :, other]) for one, other in pairs]
    return frames


def _maps(model: HookedStreamTransformer, source: Place) -> dict[Place, Float[Tensor, "source d_in head d_out"]]:
    """The linear map from what is passed on of a projection to every place where it is used."""
    heads, width = model.config.heads_of(source[1]), model.config.d_head
    basis = torch.eye(heads * width, dtype=model.cfg.dtype, device=model.W_U.device)
    basis = rearrange(basis, "(source d_in) (head d_out) -> source d_in head d_out", source=heads, head=heads)
    gains: dict[Place, Gains] = {
        (layer, carrier): mix.gains(basis)
        for layer, block in enumerate(model.layers)
        for carrier, mix in block.attn.mixes()
    }
    attn = model.layers[source[0]].attn
    apart = source[1] in attn.passes_own and source[1] not in attn.carries_own
    return carry(model, source, basis, gains, "passed" if apart else "own")


def _between(model: HookedStreamTransformer, source: Place, use: Place, through: Tensor) -> pd.DataFrame:
    (one, reads), (other, feeds) = source, use
    attn = model.layers[other].attn
    W_K = attn.per_query_head(attn.W_K, 0)
    partner = {"v": attn.W_O, "k": attn.W_Q.transpose(-2, -1), "q": W_K.transpose(-2, -1)}[feeds]
    partner = precise(partner)
    if feeds != "q":
        through = attn.per_query_head(through, 2)
    weights = precise(model.layers[one].attn.passing_weight(reads))[:, None]
    through = rearrange(precise(through), "source d_in head d_out -> source head d_in d_out")
    A = FactoredMatrix(weights, torch.eye(model.config.d_head, dtype=weights.dtype, device=weights.device))
    B = FactoredMatrix(through, partner.expand(*through.shape[:2], -1, -1))
    scores = composition_scores(A, B, broadcast_dims=False).nan_to_num(0.0)
    kind = f"stream {feeds}" if reads == feeds else f"stream {reads} to {feeds}"
    return _frame(kind, one, other, scores, scores * A.norm() * B.norm())


def _frame(kind: str, one: int, other: int, scores: Tensor, norms: Tensor) -> pd.DataFrame:
    rows = [(h, to) for h in range(scores.shape[0]) for to in range(scores.shape[1])]
    heads = {"from_layer": one, "from_head": [h for h, _ in rows], "to_layer": other, "to_head": [to for _, to in rows]}
    return pd.DataFrame({"kind": kind, **heads, "score": scores.flatten().tolist(), "norm": norms.flatten().tolist()})
