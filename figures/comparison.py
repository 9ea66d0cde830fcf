"""Variants against a reference: estimates with their intervals."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from figures.curves import whiskers
from figures.theme import BLACK, colours, themed


def comparison_dots(frame: pd.DataFrame) -> go.Figure:
    """Return every variant's estimate with its interval, and a line where it would equal the reference.

    ``frame`` is :meth:`analysis.statistics.comparison.Comparison.to_frame`.
    """
    first, palette = frame.iloc[0], colours(frame.variant)
    figure = go.Figure()
    for row in frame.to_dict("records"):
        ends = pd.DataFrame([row])
        figure.add_trace(
            go.Scatter(
                x=[row["estimate"]],
                y=[row["variant"]],
                mode="markers",
                marker={"size": 10, "color": palette[row["variant"]]},
                error_x=whiskers(ends.estimate, ends.low, ends.high, symmetric=False, thickness=1.5, width=5),
                hovertext=f"{row['variant']}: {row['estimate']:.4g} [{row['low']:.4g}, {row['high']:.4g}], "
                f"p = {row['p_adjusted']:.3g} (adjusted), {row['pairs']} seeds",
                hoverinfo="text",
            )
        )
    ratio = first.contrast == "ratio"
    figure.add_vline(x=1 if ratio else 0, line={"color": BLACK, "width": 1, "dash": "dot"})
    measured = f"restricted mean of steps up to {first.horizon:g}" if "horizon" in frame else "mean"
    figure.update_xaxes(
        title_text=f"{measured}, {'as a multiple of' if ratio else 'minus'} {first.reference}'s",
        type="log" if ratio and bool((frame.low > 0).all()) else "linear",
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_layout(showlegend=False)
    caption = (
        f"{first.confidence:.0%} intervals ({first.interval}, adjusted as p: {first.correction}) over {first.pairs} "
        f"paired seeds; with 80 % power so many seeds show {first.smallest:.3g}."
    )
    return themed(figure, f"Compared with {first.reference}", caption, height=220 + 44 * len(frame))
