"""The commands that say what a model is: the named mixing rules, and one of them layer by layer."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional, arg


def variants() -> None:
    """List the named mixing rules with what they say and whose they are."""
    import pandas as pd

    from circuits import variants as rules
    from circuits.common.text_table import as_text

    print(as_text(pd.DataFrame([{"variant": v.name, "rule": v.says, "source": v.citation} for v in rules.rules()])))
    print("\nEvery rule with a stream also comes as <variant>-stop (forward kept, gradient cut) and")
    print("<variant>-gradient-only (gradient kept, forward cut); svformer only as svformer-stop.")


def describe(
    variant: Positional[Annotated[str, arg(help="a named mixing rule")]],
    preset: Annotated[str, arg(help="paper or small")] = "paper",
    layers: Annotated[int, arg(help="attention layers")] = 2,
) -> None:
    """Show what flows where in a variant: a table of layers, carriers, sources, gains, gates and hook names."""
    from circuits import HookedStreamTransformer, icl_config
    from circuits import variants as rules

    print(HookedStreamTransformer(icl_config(variant, preset, n_layers=layers)))
    print(f"source: {rules.citation(variant)}")
