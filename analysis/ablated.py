"""What ablations found, of parts of a model or of edges."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.result import Table, columns, told
from circuits.common.showing import ROWS


class Ablations(Table):
    """What breaks under every ablation, of parts or of edges: a row each."""

    where = ("part", "layer", "head", "method")

    def finding(self) -> str:
        """Return the accuracy of the whole model and the ablation that raises the loss most, if any does."""
        costs = self.frame.loss_ablated - self.frame.loss
        first = self.frame.iloc[int(costs.to_numpy().argmax())]
        worst = (
            f"worst: {told(first, self.where)}, accuracy {first.accuracy_ablated:.3f}, loss {first.loss_ablated:.3f}"
        )
        return (
            f"{len(self)} ablations; whole: accuracy {first.accuracy:.3f}, loss {first.loss:.3f}; "
            f"{worst if costs.max() > 0 else 'none raises the loss'} (n = {first.n})"
        )

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` ablations that change the loss most, either way."""
        order = (self.frame.loss_ablated - self.frame.loss).abs().sort_values(ascending=False, kind="stable")
        kept = columns(self.frame, self.where, "accuracy_ablated loss_ablated gradient_norm gradient_cosine changed")
        return self.frame.loc[order.index, kept].head(n)

    def figure(self) -> Any:
        """Return the accuracies as bars (a plotly figure)."""
        from figures.models.ablation import ablation_bars

        return ablation_bars(self.frame)
