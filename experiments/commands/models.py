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
    print("<variant>-gradient-only (gradient kept, forward cut), the latter if layers have something of their own.")
    print("Tables of value embeddings come as <variant>-frozen instead: nothing but the stream trains them.")


def describe(
    variant: Positional[Annotated[str, arg(help="a named mixing rule")]],
    preset: Annotated[str, arg(help="paper or small")] = "paper",
    layers: Annotated[int, arg(help="attention layers")] = 2,
) -> None:
    """Show what flows where in a variant: a table of layers, carriers, sources, gains, gates and hook names.

    Of a rule that carries value embeddings of tokens: in a small language model.
    """
    from circuits import HookedStreamTransformer, icl_config, lm_config
    from circuits import variants as rules

    of_tokens = rules.get(variant)[0].of_tokens
    config = lm_config("0.2m", variant, n_layers=layers) if of_tokens else icl_config(variant, preset, n_layers=layers)
    print(HookedStreamTransformer(config))
    print(f"source: {rules.citation(variant)}")
