"""Which component writes the answer's logit, and by which route it has what it writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.logits.written import Read, Written, check_linear, reads_of
from analysis.metrics import check_logits, precise
from analysis.pairs import Pair
from analysis.result import largest_by
from analysis.statistics.intervals import mean_interval
from circuits.common.errors import known
from circuits.common.showing import ROWS, Shown
from circuits.layers import Norm
from circuits.model import HookedStreamTransformer

Of = Literal["logit_difference", "answer"]


@dataclass(frozen=True, repr=False)
class LogitAttribution(Shown):
    """What every component adds to a logit, or to a difference of two; all of it adds up to ``total``."""

    parts: pd.DataFrame
    """A row a part: component, layer, head, route, source."""
    values: Float[Tensor, "part batch"]
    """In units of logits, before a cap if there is one."""
    total: Float[Tensor, " batch"]
    of: Of

    def to_frame(self) -> pd.DataFrame:
        """Return a row a part: component, layer, head, route, source, of; value (the mean over examples), low, high and
        n.

        Routes: of a head "own" and "stream" (``source`` says from where: L0.v, VE2); of all others "residual".
        """
        rows = [mean_interval(values.double().cpu().numpy()) for values in self.values]
        found = pd.DataFrame([{"value": r.mean, "low": r.low, "high": r.high, "n": r.n} for r in rows])
        return pd.concat([self.parts.assign(of=self.of), found], axis=1)

    def finding(self) -> str:
        """Return the whole, and what of it came by every route."""
        by_route = self.to_frame().groupby("route", sort=False)["value"].sum()
        routes = ", ".join(f"{route} {value:.3f}" for route, value in by_route.items())
        return f"{self.of} {float(self.total.mean()):.3f} of {len(self.total)} examples, by route: {routes}"

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` parts that add or take away most."""
        return largest_by(self.to_frame(), "value", n).drop(columns=["of"])

    def figure(self) -> Any:
        """Return what every component writes as bars, by route (a plotly figure)."""
        from figures.models.logits import logit_attribution_bars

        return logit_attribution_bars(self.to_frame())


@torch.no_grad()
def attribute_logits(
    model: HookedStreamTransformer, pair: Pair, of: Of = "logit_difference", max_memory: int | None = None
) -> LogitAttribution:
    """Return the direct logit attribution of a pair's clean inputs, where they are read, with a head's share by route.

    The logit of the answer, minus that of the wrong one for "logit_difference", is a sum over what was written to the
    residual stream, as the final norm scales it in this run. What a head wrote is a sum over where its values are from:
    of its own layer (own), and of every layer and table that a stream brought them from (stream). Patterns and gains
    are as they are: what queries and keys have to do with the answer, by any route, is not in it. Scalars on the
    residual stream, and a backout, are in what each part is multiplied by. Logits are those before a cap.

    Raises:
        UnknownNameError: for another ``of`` (nearest suggested).
        ValueError: for a model in training mode or with hooks, one with a readout that is not linear, a pair without
            wrong answers and "logit_difference", or a bound on memory (``max_memory``, in bytes, by
            default a quarter of what is free) that one example exceeds.
        NotFiniteError: for logits that are NaN or infinite.
    """
    known("of", of, get_args(Of))
    if of == "logit_difference":
        pair.require_two_answers("their logit difference", 'of="answer"')
    check_linear(model, "attributing logits")
    columns, totals = [], []
    parts: list[dict[str, Any]] = []
    for rows, read in reads_of(model, pair, max_memory):
        direction, constant = _direction(model, read.before[-1], rows, of)
        parts, values = _parts(read, direction, constant)
        columns.append(values)
        totals.append(torch.einsum("bd,bd->b", read.before[-1], direction) + constant)
        check_logits(totals[-1][:, None])
    return LogitAttribution(pd.DataFrame(parts), torch.cat(columns, 1), torch.cat(totals), of)


def _direction(
    model: HookedStreamTransformer, final: Float[Tensor, "batch d_model"], pair: Pair, of: Of
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, " batch"]]:
    """What the residual stream before the final norm is multiplied by, and what is added to that."""
    W_U, b_U = precise(model.W_U), precise(model.b_U)
    u, constant = W_U[:, pair.answers].T, b_U[pair.answers]
    if of == "logit_difference":
        u, constant = u - W_U[:, pair.wrong].T, constant - b_U[pair.wrong]
    norm = model.ln_final
    if not isinstance(norm, Norm):
        return u, constant
    if norm.b is not None:
        constant = constant + u @ precise(norm.b)
    u = u if norm.w is None else u * precise(norm.w)
    u = u - u.mean(-1, keepdim=True) if norm.centred else u
    return u / norm.scale(final), constant


def _parts(
    read: Read, direction: Float[Tensor, "batch d_model"], constant: Float[Tensor, " batch"]
) -> tuple[list[dict[str, Any]], Float[Tensor, "part batch"]]:
    parts, values = [], []
    for written in read.written:
        by_head = torch.einsum("bhd,bd->hb", written.vector, direction)
        parts += [_named(written, head) for head in range(len(by_head))]
        values.append(by_head)
    last = {"component": "final bias", "layer": "", "head": "", "route": "residual", "source": ""}
    return [*parts, last], torch.cat([*values, constant[None]])


def _named(written: Written, head: int) -> dict[str, Any]:
    part = {"component": written.component, "layer": "" if written.layer is None else str(written.layer), "head": ""}
    if written.origin is None:
        return part | {"route": "residual", "source": ""}
    number, carrier = written.origin
    own = written.origin == (written.layer, "v")
    source = f"VE{number}" if carrier == "token" else f"L{number}.{carrier}"
    return part | {"head": str(head), "route": "own" if own else "stream", "source": source}
