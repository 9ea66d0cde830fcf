"""What effects of patches say in a sentence: where the routes part, or else what the residual stream carries."""

from __future__ import annotations

import pandas as pd

from figures.findings import LEAST, largest, number, plain, shows
from figures.words import fitting, sentence

APART = 0.05
"""Routes whose effects differ by less carry the same, and what is less than that from 1 is all of the difference."""


def finding(frame: pd.DataFrame) -> str:
    """Return at which position and layer the residual stream alone carries less (or more) than both routes together.

    Where it never does so by ``APART`` it is what :func:`as_both_routes` says, and where these two are not among the
    patched sites, the largest effect. ``frame`` is as for :func:`figures.patch_heat_map`.
    """
    whole = frame[(frame["head"] == "all") & (frame.route == "-") & frame.component.isin(["state", "resid_pre"])]
    several = frame.variant.nunique() > 1 if "variant" in frame else False
    both = _side_by_side(whole)
    if both.empty:
        top = largest(frame)
        if not shows(top.effect):
            return f"No patched site has an effect of {LEAST} or more"
        site = top.component if top.route == "-" else f"{top.component} {top.route}"
        place = f"{site} at {top.position} in layer {top.layer}" + (f" of {top.variant}" if several else "")
        return f"The largest effect is that of {place}: {number(top)}"
    apart = largest(both.assign(apart=both.effect_state - both.effect_resid_pre), "apart")
    state, alone = (
        {name: apart[f"{name}_{of}"] for name in ("effect", "low", "high")} for of in ("state", "resid_pre")
    )
    if abs(state["effect"] - alone["effect"]) < APART:
        residual = both.rename(columns={f"{name}_resid_pre": name for name in ("effect", "low", "high")})
        top = largest(residual)
        return as_both_routes(top, str(top.position), f"{top.layer}" + (f" of {top.variant}" if several else ""))
    where = f"{apart.position} before layer {apart.layer}" + (f" of {apart.variant}" if several else "")
    return fitting(
        *(
            f"{sentence(where)} carries {of(state)} by both routes, {of(alone)} by the residual stream alone"
            for of in (number, lambda row: f"{row['effect']:.2f}")
        )
    )


def as_both_routes(top: pd.Series, position: str, layer: str) -> str:
    """Return what is said where the residual stream alone carries what both routes do wherever these were patched.

    ``top`` is the row of its largest effect. An effect of 1 is all that differs, and leaves nothing that another route
    could carry past that layer at positions that were not patched. A smaller one leaves something, and a larger one
    shows that something which was not patched works against it.
    """
    if abs(top.effect - 1) < APART:
        said, most = f"Before layer {layer} the residual stream carries all that differs", f"most at {position}"
    else:
        nothing = f"neither route carries {APART} of the difference"
        carried = nothing if abs(top.effect) < APART else "the residual stream carries what both routes do"
        said, most = f"Where patched, {carried}", f"most at {position}, before layer {layer}"
    return fitting(*(f"{said}; {most}: {of(top)}" for of in (number, lambda row: plain(row.effect))))


def _side_by_side(whole: pd.DataFrame) -> pd.DataFrame:
    """A row a place, with the effects of both routes and of the residual stream alone."""
    at = [name for name in ("variant", "run", "layer", "position") if name in whole]
    state, alone = (whole[whole.component == of][[*at, "effect", "low", "high"]] for of in ("state", "resid_pre"))
    return state.merge(alone, on=at, suffixes=("_state", "_resid_pre"))
