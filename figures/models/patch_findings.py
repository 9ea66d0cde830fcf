"""What effects of patches say in a sentence: where the routes part, or else where the effect is largest."""

from __future__ import annotations

import pandas as pd

from figures.findings import largest, number
from figures.words import fitting, sentence

APART = 0.05
"""Routes whose effects differ by less carry the same."""


def finding(frame: pd.DataFrame) -> str:
    """Return at which position and layer the residual stream alone carries less (or more) than both routes together.

    Where it never does so by ``APART``, or these two are not among the patched sites, it is the largest effect.
    ``frame`` is as for :func:`figures.patch_heat_map`.
    """
    whole = frame[(frame["head"] == "all") & (frame.route == "-") & frame.component.isin(["state", "resid_pre"])]
    several = frame.variant.nunique() > 1 if "variant" in frame else False
    both = _side_by_side(whole)
    if both.empty:
        top = largest(frame)
        site = top.component if top.route == "-" else f"{top.component} {top.route}"
        place = f"{site} at {top.position} in layer {top.layer}" + (f" of {top.variant}" if several else "")
        return f"The largest effect is that of {place}: {number(top)}"
    apart = largest(both.assign(apart=both.effect_state - both.effect_resid_pre), "apart")
    state, alone = (
        {name: apart[f"{name}_{of}"] for name in ("effect", "low", "high")} for of in ("state", "resid_pre")
    )
    if abs(state["effect"] - alone["effect"]) < APART:
        top = largest(both, "effect_resid_pre")
        said = number({name: top[f"{name}_resid_pre"] for name in ("effect", "low", "high")})
        return f"The residual stream carries all that differs; most at {top.position}, before layer {top.layer}: {said}"
    where = f"{apart.position} before layer {apart.layer}" + (f" of {apart.variant}" if several else "")
    return fitting(
        *(
            f"{sentence(where)} carries {of(state)} by both routes, {of(alone)} by the residual stream alone"
            for of in (number, lambda row: f"{row['effect']:.2f}")
        )
    )


def _side_by_side(whole: pd.DataFrame) -> pd.DataFrame:
    """A row a place, with the effects of both routes and of the residual stream alone."""
    at = [name for name in ("variant", "run", "layer", "position") if name in whole]
    state, alone = (whole[whole.component == of][[*at, "effect", "low", "high"]] for of in ("state", "resid_pre"))
    return state.merge(alone, on=at, suffixes=("_state", "_resid_pre"))
