"""What a drawing of edges says in a sentence: how much a circuit keeps, and what of the effect goes by the stream."""

from __future__ import annotations

import pandas as pd

from figures.findings import LEAST, largest, number, shows
from figures.words import counted, fitting, listed


def finding(frame: pd.DataFrame) -> str:
    """Return what the edges of a graph say, or those of a circuit whose faithfulness stands beside them.

    ``frame`` is as for :func:`figures.edge_drawing`, with rows that are not ``kept``.
    """
    kept = frame[frame["kept"].astype(bool)] if "kept" in frame else frame
    variants = list(dict.fromkeys(frame.variant))
    if kept.empty:
        return "No edge is in the circuit"
    if "faithfulness" in frame and len(variants) == 1:
        return _of_circuit(frame, kept)
    shares = {variant: _share(kept[kept.variant == variant]) for variant in variants}
    top = largest(kept)
    if not shows(top.effect):
        return f"No edge has an effect of {LEAST} or more"
    most = f"the largest is {top.edge}: {top.effect:.2f}"
    if not any(shares.values()):
        return f"No edge goes through a stream; {most}"
    if len(variants) == 1:
        return f"Edges through the stream have {shares[variants[0]]:.0%} of all effects; {most}"
    said = listed(f"{share:.0%} in {variant}" for variant, share in shares.items())
    return f"Edges through the stream have of all effects {said}"


def _of_circuit(frame: pd.DataFrame, kept: pd.DataFrame) -> str:
    first, streams = frame.iloc[0], kept[kept.route == "stream"]
    of = f"{len(kept)} of {int(first['of']):,} edges" if "of" in frame else counted(len(kept), "edge")
    keep = "keep" if len(kept) > 1 else "keeps"
    kept_of_it = f"{of} {keep} {number(first.to_dict(), 'faithfulness')} of the difference"
    if streams.empty:
        return f"{kept_of_it}; none goes through a stream"
    goes = "goes" if len(streams) == 1 else "go"
    share = f" ({_share(kept):.0%} of all effects)"
    return fitting(*(f"{kept_of_it}; {len(streams)} {goes} through the stream{end}" for end in (share, "")))


def _share(kept: pd.DataFrame) -> float:
    """What edges through the stream make of all effects, whichever their sign."""
    whole = float(kept.effect.abs().sum())
    return float(kept.effect[kept.route == "stream"].abs().sum()) / whole if whole else 0.0
