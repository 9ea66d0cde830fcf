"""Numbers of the page of traps that stand in the committed results."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis import threshold_times
from experiments import Bundle
from experiments.studies.learned_gains.study import agreement, shares


def of_results(bundle: Bundle) -> dict[str, float]:
    """Return the numbers that the results of finished runs give, by name."""
    return {
        **_paired(bundle),
        **_got_there(bundle),
        **_cut_at_the_end(bundle),
        **_transplanted(bundle),
        **_gradient(bundle),
        **_gains(bundle),
        **_integrated(bundle),
    }


def _paired(bundle: Bundle) -> dict[str, float]:
    """The ratio of steps of value and classic at the paper's size, with the interval of paired seeds and of others."""
    times = threshold_times(bundle.metrics("gradient-paper"), rule="interpolated")
    logs = np.log(times.pivot(index="seed", columns="variant", values="steps"))
    paired = stats.ttest_1samp(logs["value"] - logs["classic"], 0).confidence_interval()
    apart = stats.ttest_ind(logs["value"], logs["classic"], equal_var=False).confidence_interval()
    return {
        "seeds": float(len(logs)),
        "ratio": float(np.exp((logs["value"] - logs["classic"]).mean())),
        "paired_low": float(np.exp(paired.low)),
        "paired_high": float(np.exp(paired.high)),
        "unpaired_low": float(np.exp(apart.low)),
        "unpaired_high": float(np.exp(apart.high)),
        "unpaired_wider": float((apart.high - apart.low) / (paired.high - paired.low)),
    }


def _got_there(bundle: Bundle) -> dict[str, float]:
    """Mean steps of those that got there, and of all up to their last step, where some never do."""
    metrics = bundle.metrics("data")
    times = threshold_times(metrics[metrics.condition == "a quarter novel classes"], rule="interpolated")
    classic = times[times.variant == "classic"]
    return {
        "classic_runs": float(len(classic)),
        "classic_got_there": float(classic.steps.notna().sum()),
        "steps_of_those": float(classic.steps.mean()),
        "steps_of_all": float(classic.steps.fillna(classic["last"]).mean()),
    }


def _cut_at_the_end(bundle: Bundle) -> dict[str, float]:
    """Accuracy of trained models as they are, and with the stream's values cut: at the end, and at 95 %."""
    found = bundle.frame("mechanism_ablations")
    found = found[(found.variant == "value") & (found.part == "forward cut")]
    means = found.groupby(["preset", "phase"])[["accuracy", "accuracy_ablated"]].mean()
    return {
        "paper_whole": float(means.accuracy["paper", "end"]),
        "paper_cut": float(means.accuracy_ablated["paper", "end"]),
        "paper_within_whole": float(means.accuracy["paper", "within"]),
        "paper_within_cut": float(means.accuracy_ablated["paper", "within"]),
        "small_whole": float(means.accuracy["small", "end"]),
        "small_cut": float(means.accuracy_ablated["small", "end"]),
    }


def _transplanted(bundle: Bundle) -> dict[str, float]:
    """The probability of the right name on the paper's prompts, in the body of training and in another."""
    found = bundle.frame("lm_ioi")
    found = found[(found["set"] == "paper") & (found.by == "set") & (found.measure == "probability")]
    means = found[found["size"] == "0.2m"].groupby(["variant", "body"])["value"].mean()
    return {
        "classic_in_own": float(means["classic", "own"]),
        "classic_in_value": float(means["classic", "value"]),
        "value_in_own": float(means["value", "own"]),
        "value_in_classic": float(means["value", "classic"]),
    }


def _gradient(bundle: Bundle) -> dict[str, float]:
    """The stream's share of the gradient of layer 0's W_V before the first step, at the paper's size."""
    found = bundle.gradients("gradient-paper")
    first = found[(found.tensor == "blocks.0.attn.W_V") & (found.step == 0) & (found.variant == "value")]
    return {"gradient_by_stream": float(first.stream_share.mean())}


def _gains(bundle: Bundle) -> dict[str, float]:
    """The share of a learned gain beside the share of what is lost without its route, and how far off it is."""
    found = shares(bundle)
    stream = found[(found.route == "stream") & (found["head"] == "all")]
    nanochat = stream[(stream.variant == "nanochat") & (stream.layer == 1)]
    off = agreement(bundle)
    return {
        "gain_share": float(nanochat.gain_share.mean()),
        "causal_share": float(nanochat.causal_share.mean()),
        "gain_off": float(off[off.told_by == "gain_share"].off.mean()),
    }


def _integrated(bundle: Bundle) -> dict[str, float]:
    """The worst error of five steps of integrated gradients, over the seeds of two kinds of models."""
    worst = {name: _worst(bundle.frame(name)) for name in ("mechanism_edges", "lm_edges")}
    return {"ig_worst_classifier": worst["mechanism_edges"], "ig_worst_language_model": worst["lm_edges"]}


def _worst(edges: pd.DataFrame) -> float:
    return float(edges.worst_error.max())
