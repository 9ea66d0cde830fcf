"""Numbers of the page of traps that two classifiers give: the small preset's, 1,000 steps, seed 0."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from analysis import Pair, attribute, attribute_edges, find_sites, head_shares, patch
from circuits import HookedStreamTransformer
from experiments import TRAINING, Every, RunConfig, icl_run
from experiments import Run as TrainedRun

SHORT = replace(TRAINING["small"], steps=1_000, evaluate_at=(Every(100),), checkpoint_at=(Every(500),), n_eval=256)
"""Long enough for both variants to learn the task."""


def classifiers() -> list[RunConfig]:
    """Return the runs that are measured: classic and value."""
    return [icl_run(variant, "small", 0, SHORT) for variant in ("classic", "value")]


def of_classifiers(classic: TrainedRun, value: TrainedRun) -> dict[str, float]:
    """Return the numbers that the two runs of :func:`classifiers` give, by name."""
    pair = value.task().pairs(256, corruption="labels")
    models = {"classic": classic.load_model(), "value": value.load_model()}
    found = {f"residual_restores_{name}": _effect(model, pair, "resid_pre") for name, model in models.items()}
    without = _values(models["classic"], pair)
    found |= {"classic_v": float(without["v", 0, "own"]), "classic_z": float(without["z", 0, "-"])}
    model = models["value"]
    batch = value.task().sample(512, "ic", seed=1)
    for gate in ("full", "stop", "off"):
        with model.gated(gate):
            right = model(batch.inputs)[:, -1].argmax(-1) == batch.labels
        found[f"accuracy_{gate}"] = float(right.double().mean())
    return found | _by_route(model, pair) | _estimated(model, pair)


def _effect(model: HookedStreamTransformer, pair: Pair, component: str) -> float:
    """The share of the logit difference that comes back where layer 1 is clean in one component, everywhere."""
    return float(patch(model, pair, find_sites(model, [component], layers=[1])).to_frame().effect.iloc[0])


def _values(model: HookedStreamTransformer, pair: Pair) -> pd.Series:
    """What patching values, and what heads write, restores everywhere, by component, layer and route."""
    found = patch(model, pair, find_sites(model, ["v", "z"])).to_frame()
    return found.astype({"layer": int}).set_index(["component", "layer", "route"]).effect


def _by_route(model: HookedStreamTransformer, pair: Pair) -> dict[str, float]:
    """What patching values does, before and after the routes meet; and a head's effect by route."""
    values, shares = _values(model, pair), head_shares(model, pair).to_frame()
    first = shares[shares.layer.astype(int) == 0].set_index("share").effect
    return {
        "v_own": float(values["v", 0, "own"]),
        "v_mixed": float(values["v", 0, "mixed"]),
        "z_of_layer_0": float(values["z", 0, "-"]),
        "share_own": float(first["own"]),
        "share_stream": float(first["stream"]),
        "share_interaction": float(first["interaction"]),
        "counted_twice": float(values["v", 0, "own"] + values["v", 1, "own"] + values["v", 1, "residual"]),
        "counted_once": float(values["v", 1, "own"] + values["v", 1, "residual"]),
    }


def _estimated(model: HookedStreamTransformer, pair: Pair) -> dict[str, float]:
    """How far estimates from gradients are from exact patches, of sites and of edges."""
    sites = find_sites(model, ["resid_pre", "q", "k", "v", "z"])
    plain, integrated = (attribute_edges(model, pair, method=m, direction="noise") for m in ("EAP", "EAP-IG"))
    exact = attribute_edges(model, pair, method="exact", direction="noise")
    edge = "L0H0.v > L1H0.v (stream)"
    return {
        "atp_worst": attribute(model, pair, sites, method="AtP").agreement.worst_error,
        "ig_worst": attribute(model, pair, sites, method="IG").agreement.worst_error,
        "eap_total": plain.total,
        "eap_ig_total": integrated.total,
        "eap_sum_error": abs(plain.sum_error),
        "eap_edge": float(plain.to_frame().set_index("edge").effect[edge]),
        "exact_edge": float(exact.to_frame().set_index("edge").effect[edge]),
        "eap_from_clean": attribute_edges(model, pair, "probability", "EAP", "noise").total,
        "eap_from_corrupt": attribute_edges(model, pair, "probability", "EAP", "denoise").total,
        "eap_ig_probability": attribute_edges(model, pair, "probability", "EAP-IG", "noise").total,
    }
