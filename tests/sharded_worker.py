"""What torchrun starts in the tests of several processes: it trains runs one after the other, and dies where told."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

from experiments.runs import saved_shards as sharded_state
from experiments.runs.run import Run
from experiments.training import trainer as training
from experiments.training.several_processes import Sharded
from experiments.training.together import train
from experiments.training.trainer import Trainer


def dying(function: Any, at: int) -> Any:
    """The function, but the call of this number kills the process."""
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return wrapped


MOMENTS = {
    "update": (Trainer, "update"),
    "fsync": (os, "fsync"),
    "write": (sharded_state, "write_atomically"),
    "rename": (Path, "rename"),
    "rmtree": (sharded_state, "rmtree"),
}
"""Where a process can be told to die, and what it calls there."""


def main() -> None:
    """Train the runs of the command line, saving before every step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--die", nargs=3, metavar=("RANK", "MOMENT", "NUMBER"))
    asked = parser.parse_args()
    training.SAVE_SECONDS = 0.0
    group = Sharded.from_environment("cpu")
    if asked.die and int(asked.die[0]) == group.rank:
        owner, name = MOMENTS[asked.die[1]]
        setattr(owner, name, dying(getattr(owner, name), int(asked.die[2])))
    for run in asked.runs:
        train([Run.open(run)], "cpu", group=group)


if __name__ == "__main__":
    main()
