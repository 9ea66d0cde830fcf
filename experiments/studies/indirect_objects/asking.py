"""What is asked of trained language models for the committed results: indirect objects, heads, routes and circuits."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from tqdm.auto import tqdm

from analysis import find_sites, patch
from experiments.questions.analyses import heads_run, labelled, patched_sites
from experiments.questions.indirect_objects import measured, other_body
from experiments.questions.ioi_tables import OWN
from experiments.questions.routes import circuit_frame, circuit_run
from experiments.runs.finding import pairs
from experiments.runs.lm_run import LMRun
from experiments.studies.heads_and_routes.asking import FIND
from experiments.studies.indirect_objects.study import FRAMES
from experiments.studies.language_models import PAIR, SEEDS, SMALLEST

N_PROMPTS, N_PAIRS = 200, 64
PATCHED = ("state", "resid_pre", "q", "k", "v", "z")
BY_HEAD = ("v", "z")
"""Components that are also patched head by head."""


def study(runs: Sequence[LMRun], seeds: Sequence[int] = range(SEEDS), progress: bool = True) -> dict[str, pd.DataFrame]:
    """Return frames by name; every row names run, variant, seed and size.

    "lm_ioi": means over prompts of every run, matched and transplanted, by set, template and order. Of classic and
    value of the smallest size and the given seeds: "lm_heads": head scores at every checkpoint; "lm_patches": every
    layer, position and route patched (of the first seed, head by head too); "lm_edges": the circuit, edge by edge, with
    its faithfulness, completeness and minimality.
    """
    frames: dict[str, list[pd.DataFrame]] = {name: [] for name in FRAMES}
    for run in tqdm(runs, unit=" runs", disable=not progress):
        parts = {"lm_ioi": ioi_means(run)}
        config = run.config
        if config.size == SMALLEST and config.variant in PAIR and config.seed in seeds:
            parts |= {"lm_heads": heads_run(run, N_PAIRS), "lm_patches": _patches(run, config.seed == seeds[0])}
            scores, quality = circuit_run(run, FIND, n=N_PAIRS)
            parts |= {"lm_edges": circuit_frame(scores, quality)}
        for name, frame in parts.items():
            frames[name].append(labelled(frame, run).assign(size=config.size))
    return {name: pd.concat(some, ignore_index=True) for name, some in frames.items() if some}


def ioi_means(run: LMRun, n: int = N_PROMPTS) -> pd.DataFrame:
    """Return means over prompts: body, set, by ("set", "template", "order"), part, measure, value, prompts."""
    prompts = measured(run, n, bodies=(OWN, other_body(run.config.variant)))
    frames = []
    for by, columns in (("set", []), ("template", ["template"]), ("order", ["order"])):
        grouped = prompts.groupby(["body", "set", *columns, "measure"], sort=False, observed=True)["value"]
        frame = grouped.agg(value="mean", prompts="count").reset_index()
        frames.append(frame.rename(columns=dict.fromkeys(columns, "part")).assign(by=by))
    return pd.concat(frames, ignore_index=True).fillna({"part": ""})


def _patches(run: LMRun, by_head: bool) -> pd.DataFrame:
    model, pair = run.load_model(), pairs(run, N_PAIRS)
    roles = list(pair.positions)
    sites = patched_sites(model, PATCHED, positions=roles)
    if by_head:
        sites += find_sites(model, BY_HEAD, heads="each", positions=roles)
    return patch(model, pair, sites).to_frame()
