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
        """Return the accuracy of the whole model and the ablation that costs most of the loss."""
        first = self.frame.loc[self.largest(1).index[0]]
        return (
            f"{len(self)} ablations; whole: accuracy {first.accuracy:.3f}, loss {first.loss:.3f}; worst: "
            f"{told(first, self.where)}, accuracy {first.accuracy_ablated:.3f}, loss {first.loss_ablated:.3f} "
            f"(n = {first.n})"
        )

    def largest(self, n: int = ROWS) -> pd.DataFrame:
        """Return the ``n`` ablations that change the loss most."""
        order = (self.frame.loss_ablated - self.frame.loss).abs().sort_values(ascending=False, kind="stable")
        kept = columns(self.frame, self.where, "accuracy_ablated loss_ablated gradient_norm gradient_cosine changed")
        return self.frame.loc[order.index, kept].head(n)

    def figure(self) -> Any:
        """Return the accuracies as bars (a plotly figure)."""
        from figures.models.ablation import ablation_bars

        return ablation_bars(self.frame)
