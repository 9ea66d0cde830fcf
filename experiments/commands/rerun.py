"""The command that repeats rows of a committed table on fresh seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from circuits.common.errors import require
from experiments.options import BundlePath, Device, Root, Workers, option
from experiments.output import Tables, say, show

if TYPE_CHECKING:
    from experiments.runs.run import Run
    from experiments.studies.study import Arm
else:
    Run = Arm = Any


def rerun(
    table: Positional[Annotated[str, option("whose table: an experiment, as 'valuestream sweep' lists them")]],
    rows: Annotated[
        tuple[str, ...],
        option("comparisons as the pages write them: 'value / classic', or '2 layers: value / classic'", "all"),
    ] = (),
    seeds: Annotated[
        tuple[str, ...],
        option("numbers, or new: the first that no committed run of the experiment has", metavar="NUMBER...|new"),
    ] = ("new",),
    n: Annotated[int | None, option("how many new ones", "as many as each row has pairs")] = None,
    workers: Workers = None,
    device: Device = "cpu",
    bundle: BundlePath = None,
    root: Root = None,
) -> Tables:
    """Repeat rows of a committed table on fresh seeds, and say whether they fall where the table lets one expect it."""
    from experiments.studies import rerun as again
    from experiments.studies.committed_results import COMMITTED, Bundle
    from experiments.studies.registry import experiment
    from experiments.studies.table_rows import chosen, table_rows

    given = () if seeds in ((), ("new",)) else seeds
    none = [seed for seed in given if not seed.isdecimal()]
    require(not none, f"seeds are numbers, or new alone; got {' '.join(none)}")
    numbers = [int(seed) for seed in given]
    asked, held = experiment(table), Bundle.open(bundle or COMMITTED)
    wanted = chosen(table_rows(held, asked), rows)
    on = again.fresh_seeds(held, asked, wanted, numbers, n)
    arms = again.arms_again(asked, wanted, on)
    if elsewhere := again.known_elsewhere(held, arms):
        say(f"new to {table}, but of other experiments these variants were trained with seeds {elsewhere}", sys.stderr)
    engines = held.engines()
    like = [engines[run] for run in again.committed_arms(held, asked, wanted).run if run in engines]
    found = again.held_to(wanted, again.fresh_times(asked, arms, _trained(arms, root, workers, device, like)), on)
    show(again.in_words(found))
    say(again.sentence(found))
    return {"rerun": found}


def _trained(
    arms: Sequence[Arm], root: Path | None, workers: int | None, device: str, like: Sequence[str]
) -> dict[str, Run]:
    """The runs of arms by id, trained where they are not finished; those that diverge count, as in a table."""
    from experiments.commands.sweep import known_ends
    from experiments.runs.folder import runs_folder
    from experiments.runs.record import RunError
    from experiments.runs.run import runs_in
    from experiments.studies.collection import ENDED
    from experiments.sweeps.sweep import sweep

    configs = list(dict.fromkeys(arm.config for arm in arms))
    try:
        sweep(configs, root, workers, device, ends=known_ends(), like=like)
    except RunError as error:
        there = runs_in([runs_folder(root)], configs)
        if len(there) < len(configs) or any(run.status not in ENDED for run in there):
            raise
        say(f"{error}; that counts as never getting there", sys.stderr)
    return {run.config.id: run for run in runs_in([runs_folder(root)], configs)}
