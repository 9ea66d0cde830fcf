"""What breaks when something is taken away."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from figures.theme import colours, themed


def ablation_bars(frame: pd.DataFrame) -> go.Figure:
    """Return accuracy under every ablation as bars, with the accuracy of the whole model as a line.

    ``frame`` is :func:`analysis.ablation.ablate`'s, with a column variant where several models are drawn.
    """
    frame = frame if "variant" in frame else frame.assign(variant="model", run="")
    palette = colours(frame.variant.unique())
    figure = go.Figure()
    for variant, rows in frame.groupby("variant", sort=False):
        labels = [_label(row) for row in rows.to_dict("records")]
        name = f"{variant} (whole: {rows.accuracy.iloc[0]:.3f})"
        spread = 1.96 * (rows.accuracy_ablated * (1 - rows.accuracy_ablated) / rows.n) ** 0.5
        error = {"type": "data", "array": spread, "thickness": 1, "width": 2}
        bars = go.Bar(x=labels, y=rows.accuracy_ablated, name=name, marker_color=palette[str(variant)], error_y=error)
        figure.add_trace(bars)
    figure.update_yaxes(range=[0, 1.05], title_text="accuracy")
    figure.update_xaxes(tickangle=-35)
    parts = (
        "'head' removes its output and what it passes on; 'z' and 'outgoing' one half each. In brackets: what comes in "
        "its place.<br>'forward cut' and 'gradient cut' set the stream's gate; the latter cannot change the forward "
        "pass."
    )
    edges = (
        "Of a cut edge its reader alone gets something else, named in the last brackets.<br>A plus joins edges that "
        "are cut at once."
    )
    of_edges = frame.part.str.contains(" > ", regex=False).any()
    caption = f"{frame.n.max()} sequences; error bars are binomial 95 % intervals. {edges if of_edges else parts}"
    return themed(figure, "Ablation", caption, frame.run, height=520, below=125)


def _label(row: dict) -> str:
    where = f" L{row['layer']}H{row['head']}" if row["head"] != "all" else ""
    method = "" if row["method"] == "-" else f" ({row['method']})"
    return f"{row['part']}{where}{method}"
