"""What a demonstration says: its verdict, and a sentence for every figure, with every number from the frames."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pandas as pd

from circuits.common.screen import say
from experiments.studies.demonstration.asking import THRESHOLD, Findings


def verdict(table: pd.DataFrame) -> str:
    """Return in one sentence whether it is the information or the gradient, as far as the intervals of the ratios in
    :func:`analysis.threshold_table` tell."""
    rows = {row["variant"]: row for row in table.to_dict("records")}
    wanted = ("value", "value-stop", "value-gradient-only")
    if any(pd.isna(rows[name]["ratio"]) for name in wanted if name in rows) or not {*wanted} <= {*rows}:
        return f"Too few runs reached {THRESHOLD:.0%} to say what the stream does."
    # An interval that is not there, of one seed, tells nothing apart.
    value, stop, alone = (bool(rows[name]["ratio_high"] < 1) for name in wanted)
    whole, cut, kept = (_interval(rows[name], "ratio", ".2f") for name in wanted)
    numbers = (
        f"with the residual values stream these transformers need {whole} times as many steps as without, {cut} times "
        f"with its gradient cut, and {kept} times with its values cut and the gradient kept."
    )
    apart = rows["value-stop"]["ratio_high"] < rows["value-gradient-only"]["ratio_low"]
    if not value:
        answer = f"Over {rows['value']['pairs']} seeds it is not shown that the stream helps"
    elif stop and (apart or not alone):
        answer = "It is mostly the information" if alone else "It is the information"
    elif alone and not stop:
        answer = "It is the gradient"
    else:
        answer = "Either is enough" if stop else "It is neither alone, as far as these seeds show"
    return f"{answer}: {numbers}"


def printable(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table of steps to the threshold in words."""
    rows = []
    for row in table.to_dict("records"):
        censored = "" if row["reached"] == row["runs"] else f" ({row['reached']} of {row['runs']} runs)"
        steps = _interval(row, "steps", ".0f") + censored
        said = {"variant": row["variant"], f"steps to {THRESHOLD:.0%}": steps}
        rows.append(said | {"ratio to classic, paired": _interval(row, "ratio", ".2f"), "seeds": row["runs"]})
    return pd.DataFrame(rows)


def _interval(row: dict[Any, Any], name: str, form: str) -> str:
    mean, low, high = (row[column] for column in (name, f"{name}_low", f"{name}_high"))
    if pd.isna(mean):
        return "-"
    return f"{mean:{form}}" if pd.isna(low) else f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def tell(found: Findings) -> None:
    """Print the verdict and what else was found, a sentence each."""
    say(f"\n{verdict(found.table)}\n")
    for sentence in chain.from_iterable(sentences(found).values()):
        say(f"- {sentence}")


def sentences(found: Findings) -> dict[str, list[str]]:
    """Return what the frames say, by the figure beside which it stands."""
    return {
        "learning_curves": [_speed(found)],
        "progress_measures": _progress(found),
        "head_scores": [_heads(found)],
        "patching": [_routes(found)],
        "edges": [_edges(found)],
        "ablation": [_broken(found)],
        "gradient_shares": [_shares(found)],
    }


def _speed(found: Findings) -> str:
    rows = {row["variant"]: row for row in found.table.to_dict("records")}
    classic, value = rows["classic"], rows["value"]
    if pd.isna(value["ratio"]):
        return (
            f"Too few runs reached {THRESHOLD:.0%} to compare classic ({classic['reached']} of {classic['runs']}) with "
            f"value ({value['reached']} of {value['runs']})."
        )
    return (
        f"With the residual values stream, {THRESHOLD:.0%} in-context accuracy comes after {value['steps']:.0f} "
        f"steps, without it after {classic['steps']:.0f}: {_interval(value, 'ratio', '.2f')} times as many, paired "
        f"over {value['pairs']} seeds."
    )


def _heads(found: Findings) -> str:
    last = found.heads[found.heads.step == found.heads.groupby("run")["step"].transform("max")]
    parts = []
    for variant, rows in last.groupby("variant", sort=False):
        best = [rows[rows.score == score].sort_values("value", kind="stable").iloc[-1] for score in ("ila", "tila")]
        parts.append(
            f"in {variant}, head L{best[0].layer}H{best[0]['head']} attends from a label to its item with "
            f"{best[0].value:.2f} and head L{best[1].layer}H{best[1]['head']} from the target to the right labels with "
            f"{best[1].value:.2f}"
        )
    return "At the end, " + "; ".join(parts) + "."


def _routes(found: Findings) -> str:
    def effect(variant: str, component: str, route: str, layer: int) -> float:
        f = found.patches
        chosen = f[(f.variant == variant) & (f.component == component) & (f.route == route) & (f.layer == layer)]
        return float(chosen[chosen.position == "matching label"].effect.iloc[0])

    return (
        f"Labels swapped in the context, then restored at the right label: patching the residual stream before layer 1 "
        f"restores {effect('classic', 'resid_pre', '-', 1):.0%} of the logit difference in classic but only "
        f"{effect('value', 'resid_pre', '-', 1):.0%} in value, where the stream alone carries "
        f"{effect('value', 'v', 'residual', 1):.0%} and both together {effect('value', 'state', '-', 1):.0%}."
    )


def _broken(found: Findings) -> str:
    rows = found.ablations[found.ablations.variant == "value"].set_index("part")
    forward, gradient = rows.loc["forward cut"], rows.loc["gradient cut"]
    return (
        f"Cutting the stream forward takes the trained value model from {forward.accuracy:.1%} to "
        f"{forward.accuracy_ablated:.1%}; cutting only its gradient leaves {gradient.accuracy_ablated:.1%} and turns "
        f"the loss gradient to a cosine of {gradient.gradient_cosine:.3f} with the whole."
    )


def _shares(found: Findings) -> str:
    rows = found.gradients
    of_values = rows[(rows.variant == "value") & (rows.tensor == "blocks.0.attn.W_V")].sort_values(
        "step", kind="stable"
    )
    first, last = of_values.iloc[0], of_values.iloc[-1]
    return (
        f"Of the gradient of layer 0's W_V, the share that came through the stream is {first.stream_share:.0%} at step "
        f"{first.step} and {last.stream_share:.0%} at step {last.step}."
    )


def _progress(found: Findings) -> list[str]:
    """How far labels look at their items when half of the answers are right, with the stream and without."""
    said = {}
    for variant in ("classic", "value"):
        of = found.metrics[(found.metrics.variant == variant) & (found.metrics.split == "ic")]
        wide = of.pivot_table(index=["run", "step"], columns="measure", values="value").reset_index()
        first = wide[wide.accuracy >= 0.5].groupby("run").first()
        if len(first):
            said[variant] = f"at step {first.step.mean():.0f} {{}} the stream, with ILA at {first.ila.mean():.2f}"
    if len(said) < 2:
        return []
    return [
        f"Half of the answers are right {said['value'].format('with')}, and {said['classic'].format('without')} (means "
        "over seeds; ILA is first-layer attention from a label to the item before it)."
    ]


def _edges(found: Findings) -> str:
    parts = []
    for variant, rows in found.edges.groupby("variant", sort=False):
        edges = rows.loc[rows.effect.abs().sort_values(ascending=False, kind="stable").index]
        by_stream = edges[edges.route == "stream"].head(1)
        parts.append(f"in {variant} it is {edges.iloc[0].edge} ({edges.iloc[0].effect:.2f})")
        if len(by_stream):
            parts[-1] += f", and of the stream's {by_stream.iloc[0].edge} ({by_stream.iloc[0].effect:.2f})"
    return (
        "Of all edges from what one part writes to what another reads, one moves the logit difference most, as a share "
        f"of the clean-corrupt difference: {'; '.join(parts)}."
    )
