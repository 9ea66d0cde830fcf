"""What a model would say after every layer: of the residual stream alone, and of all that has been made by then."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.logits.written import Read, check_linear, reads_of
from analysis.metrics import METRICS, evaluate, precise
from analysis.pairs import Pair
from analysis.result import Table
from analysis.statistics.intervals import mean_interval, scale_of
from circuits.common.errors import known
from circuits.model import HookedStreamTransformer

ROUTES = ("residual", "every route")


class LogitLens(Table):
    """A metric of what the model would say before every layer, of the residual stream and by every route."""

    def finding(self) -> str:
        """Return what both routes say before every layer."""
        metric, n = self.frame[["metric", "n"]].iloc[0]
        said = [
            f"{route} {', '.join(f'{value:.2f}' for value in rows['value'])}"
            for route, rows in self.frame.groupby("route", sort=False)
        ]
        return f"{metric} before every layer, and at the end: {'; '.join(said)} (n = {n})"

    def figure(self) -> Any:
        """Return the curves over layers (a plotly figure)."""
        from figures.models.logits import logit_lens_curves

        return logit_lens_curves(self.frame)


@torch.no_grad()
def logit_lens(
    model: HookedStreamTransformer, pair: Pair, metric: str = "logit_difference", max_memory: int | None = None
) -> LogitLens:
    """Return a metric of the logits that the final norm and the unembedding make before every layer, and at the end.

    Of a pair's clean inputs, where they are read. ``route`` "residual" is the logit lens: the residual stream as it is.
    It does not see what is on its way beside it. "every route" adds what streams still carry: all that has been made
    before a layer, by whichever head it is written later, as that head attends in this run; with scalars on the
    residual stream, as multiplied on the way to the end, and with the input that they add again. Both are the model's
    own logits at the end.

    Columns: layer (n_layers: the end), route, metric, value (the mean over examples), low, high, n.

    Raises:
        UnknownNameError: for a metric that is not in ``METRICS`` (nearest suggested).
        ValueError: as :func:`analysis.logits.direct_attribution.attribute_logits`.

    Source: the logit lens, nostalgebraist (2020); "every route" is our own.
    """
    known("metric", metric, METRICS)
    if metric == "logit_difference":
        pair.require_two_answers("their logit difference", 'metric="probability" or "loss"')
    check_linear(model, "a logit lens")
    found: dict[tuple[int, str], list[Tensor]] = {}
    for rows, read in reads_of(model, pair, max_memory):
        for layer, residual in enumerate(read.before):
            for route, seen in zip(ROUTES, (residual, _made_before(read, layer)), strict=True):
                logits = precise(model.read_out(seen[:, None].to(model.dtype)))[:, 0]
                found.setdefault((layer, route), []).append(evaluate(METRICS[metric].of, metric, logits, rows))
    frame = []
    for (layer, route), values in found.items():
        mean = mean_interval(torch.cat(values).double().cpu().numpy(), scale=scale_of(metric))
        numbers = {"value": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n}
        frame.append({"layer": layer, "route": route, "metric": metric} | numbers)
    return LogitLens(pd.DataFrame(frame))


def _made_before(read: Read, layer: int) -> Float[Tensor, "batch d_model"]:
    return torch.stack([written.vector.sum(1) for written in read.written if written.made < layer]).sum(0)
