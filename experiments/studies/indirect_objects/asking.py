"""What is asked of trained language models for the committed results: indirect objects, heads, routes and circuits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd
from tqdm.auto import tqdm

from analysis import find_sites, patch
from experiments.questions.circuit import FindCircuit, circuit_frame
from experiments.questions.heads import Heads
from experiments.questions.indirect_objects import IndirectObjects
from experiments.questions.patch import PATCHED, Patch, patched_sites
from experiments.runs.pooling import labelled
from experiments.runs.run import Run
from experiments.studies.language_models import PAIR, SEEDS, SMALLEST

N_PROMPTS, N_PAIRS = 200, 64
BY_HEAD = ("v", "z")
"""Components that are also patched head by head."""


def study(runs: Sequence[Run], seeds: Sequence[int] = range(SEEDS), progress: bool = True) -> dict[str, pd.DataFrame]:
    """Return frames by name; every row names run, variant, seed and size.

    "lm_ioi": means over prompts of every run, matched and transplanted, by set, template and order. Of classic and
    value of the smallest size and the given seeds: "lm_heads": head scores at every checkpoint; "lm_patches": every
    layer, position and route patched (of the first seed, head by head too); "lm_edges": the circuit, edge by edge, with
    its faithfulness, completeness and minimality.
    """
    frames = defaultdict[str, list[pd.DataFrame]](list)
    for run in tqdm(runs, unit=" runs", disable=not progress):
        parts = {"lm_ioi": ioi_means(run)}
        config = run.config
        if config.preset == SMALLEST and config.variant in PAIR and config.seed in seeds:
            parts |= {
                "lm_heads": Heads(n=N_PAIRS).ask(run).to_frame(),
                "lm_patches": _patches(run, config.seed == seeds[0]),
            }
            # All edges without which more than 2 % of the logit difference is lost, by EAP-IG.
            parts |= {"lm_edges": circuit_frame(*FindCircuit(n=N_PAIRS, threshold=0.02).ask(run))}
        for name, frame in parts.items():
            frames[name].append(labelled(frame, run).assign(size=config.preset))
    return {name: pd.concat(some, ignore_index=True) for name, some in frames.items()}


def ioi_means(run: Run, n: int = N_PROMPTS) -> pd.DataFrame:
    """Return means over prompts: body, set, by ("set", "template", "order"), part, measure, value, prompts."""
    prompts = IndirectObjects(n=n, transplant=True).ask(run).to_frame()
    frames = []
    for by, columns in (("set", []), ("template", ["template"]), ("order", ["order"])):
        grouped = prompts.groupby(["body", "set", *columns, "measure"], sort=False, observed=True)["value"]
        frame = grouped.agg(value="mean", prompts="count").reset_index()
        frames.append(frame.rename(columns=dict.fromkeys(columns, "part")).assign(by=by))
    return pd.concat(frames, ignore_index=True).fillna({"part": ""})


def _patches(run: Run, by_head: bool) -> pd.DataFrame:
    model, pair = run.load_model(), Patch(n=N_PAIRS).pair(run)
    roles = list(pair.positions)
    sites = patched_sites(model, PATCHED, positions=roles)
    if by_head:
        sites += find_sites(model, BY_HEAD, heads="each", positions=roles)
    return patch(model, pair, sites).to_frame()
