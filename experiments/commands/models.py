"""The commands that say what a model is: the named mixing rules, and one of them layer by layer."""

from __future__ import annotations

from typing import Annotated

from tyro.conf import Positional

from circuits.common.errors import require
from experiments.options import option
from experiments.output import Tables, answer, say, show


def variants() -> Tables:
    """List the named mixing rules with what they say and whose they are."""
    import pandas as pd

    from circuits import variants as rules

    found = pd.DataFrame([{"variant": v.name, "rule": v.says, "source": v.citation} for v in rules.rules()])
    show(found)
    say(
        "\nEvery rule with a stream also comes as <variant>-stop (forward kept, gradient cut) and "
        "<variant>-gradient-only (gradient kept, forward cut), the latter if layers have something of their own. "
        "Tables of value embeddings come as <variant>-frozen instead: nothing but the stream trains them."
    )
    return {"variants": found}


def describe(
    variant: Positional[Annotated[str, option("a named mixing rule")]],
    preset: Annotated[
        str | None, option("of the classifier: paper or small; rules that carry value embeddings have none", "paper")
    ] = None,
    layers: Annotated[int, option("attention layers")] = 2,
) -> Tables:
    """Show what flows where in a variant: a table of layers, carriers, sources, gains, gates and hook names.

    Of a rule that carries value embeddings of tokens: in a small language model.
    """
    from circuits import HookedStreamTransformer, icl_config, lm_config
    from circuits import variants as rules

    if rules.get(variant)[0].of_tokens:
        require(
            preset is None,
            f"--preset {preset} is of the classifier, which reads vectors, and {variant} carries value embeddings of "
            f"tokens: it is described in a small language model; leave out --preset",
        )
        config = lm_config("0.2m", variant, n_layers=layers)
    else:
        config = icl_config(variant, "paper" if preset is None else preset, n_layers=layers)
    model = HookedStreamTransformer(config)
    answer(model)
    say(f"source: {rules.citation(variant)}")
    return {"flows": model.to_frame()}
