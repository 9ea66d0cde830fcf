"""Numbers of the page of traps that two classifiers give: the small preset's, 1,000 steps, seed 0."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import torch

from analysis import Pair, attribute, attribute_edges, find_sites, head_shares, patch
from circuits import HookedStreamTransformer
from experiments import TRAINING, Every, RunConfig, icl_run
from experiments import Run as TrainedRun

SHORT = replace(
    TRAINING["small"], steps=1_000, evaluate_at=(Every(100),), checkpoint_at=(Every(500),), n_eval=256
)
"""Long enough for both variants to learn the task."""


def classifiers() -> list[RunConfig]:
    """Return the runs that are measured: classic and value."""
    return [icl_run(variant, "small", 0, SHORT) for variant in ("classic", "value")]


def of_classifiers(classic: TrainedRun, value: TrainedRun) -> dict[str, float]:
    """Return the numbers that the two runs of :func:`classifiers` give, by name."""
    pair = value.task().pairs(256, corruption="labels")
    models = {"classic": classic.load_model(), "value": value.load_model()}
    found = {f"residual_restores_{name}": _effect(model, pair, "resid_pre") for name, model in models.items()}
    found |= {f"pattern_times_v_misses_{name}": _missed(model, pair) for name, model in models.items()}
    model = models["value"]
    batch = value.task().sample(512, "ic", seed=1)
    for gate in ("full", "stop", "off"):
        with model.gated(gate):
            right = model(batch.inputs)[:, -1].argmax(-1) == batch.labels
        found[f"accuracy_{gate}"] = float(right.double().mean())
    return found | _by_route(model, pair) | _estimated(model, pair)


def _effect(model: HookedStreamTransformer, pair: Pair, component: str, **where: object) -> float:
    """The share of the logit difference that comes back where layer 1 is clean in one component, everywhere."""
    return float(patch(model, pair, find_sites(model, [component], layers=[1])).to_frame().effect.iloc[0])


@torch.no_grad()
def _missed(model: HookedStreamTransformer, pair: Pair) -> float:
    """The relative error of taking a head's output for its pattern times its own values, in the last layer."""
    _, cache = model.run_with_cache(pair.clean)
    z = cache["z", 1]
    own = torch.einsum("bhqk,bkhd->bqhd", cache["pattern", 1], cache["v", 1])
    return float((z - own).norm() / z.norm())


def _by_route(model: HookedStreamTransformer, pair: Pair) -> dict[str, float]:
    """What patching values does, before and after the routes meet; and a head's effect by route."""
    values = patch(model, pair, find_sites(model, ["v", "z"])).to_frame()
    values = values.assign(layer=values.layer.astype(int)).set_index(["component", "layer", "route"]).effect
    shares = head_shares(model, pair).to_frame()
    first = shares[shares.layer.astype(int) == 0].set_index("share").effect
    return {
        "v_own": float(values["v", 0, "own"]),
        "v_mixed": float(values["v", 0, "mixed"]),
        "z_of_layer_0": float(values.loc["z", 0].iloc[0]),
        "share_own": float(first["own"]),
        "share_stream": float(first["stream"]),
        "share_interaction": float(first["interaction"]),
        "counted_twice": float(values["v", 0, "own"] + values["v", 1, "own"] + values["v", 1, "residual"]),
        "counted_once": float(values["v", 1, "own"] + values["v", 1, "residual"]),
    }


def _estimated(model: HookedStreamTransformer, pair: Pair) -> dict[str, float]:
    """How far estimates from gradients are from exact patches, of sites and of edges."""
    sites = find_sites(model, ["resid_pre", "q", "k", "v", "z"])
    found = {}
    for name, method in (("atp", "AtP"), ("ig", "IG")):
        found[f"{name}_worst"] = attribute(model, pair, sites, method=method).agreement.worst_error
    exact = attribute_edges(model, pair, method="exact", direction="noise").to_frame().set_index("edge").effect
    edge = "L0H0.v > L1H0.v (stream)"
    for name, method in (("eap", "EAP"), ("eap_ig", "EAP-IG")):
        scores = attribute_edges(model, pair, method=method, direction="noise")
        estimated: pd.Series = scores.to_frame().set_index("edge").effect
        found |= {f"{name}_total": scores.total, f"{name}_sum_error": abs(scores.sum_error)}
        found[f"{name}_edge"] = float(estimated[edge])
    return found | {"exact_edge": float(exact[edge])}
