"""The route switchboard of a run as a page: every edge at every checkpoint, to click, cut and slide through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import analysis
from circuits.common.errors import require
from experiments.options import option
from experiments.output import Tables, say, show, written_tables
from experiments.questions.question import OfPairs, Run, say_written

if TYPE_CHECKING:
    from analysis.resuming import KeptIn
    from analysis.switchboard.document import Switchboard
else:
    KeptIn = Switchboard = Any


USED = {"device": "cpu", "dtype": "float32"}
"""What every switchboard is measured on and in."""


@dataclass(frozen=True)
class Explore(OfPairs):
    """Measure every edge at every checkpoint and write the route switchboard: a page that opens without a kernel.

    Of several runs (seeds of one architecture and task) one page: the first large, the others small beside it.
    """

    n: Annotated[int, option("clean/corrupt pairs")] = 32
    prompts: Annotated[int, option("inputs whose patterns and values are shown")] = 3
    most_steps: Annotated[int, option("checkpoints at most, from the first to the last")] = 20
    gradients: Annotated[bool, option("compare the gradient with and without every edge")] = True

    def validate(self) -> None:
        """Refuse options with which nothing can be asked, before work starts.

        Raises:
            ValueError: as :meth:`OfInputs.validate`, and for a step, a device or a dtype.
        """
        super().validate()
        # A device or a dtype that is what is used anyway is heard.
        others = [f"--{name}" for name, used in USED.items() if getattr(self, name) != used]
        unheard = [*self.given("step"), *others]
        require(
            not unheard,
            f"{' and '.join(unheard)}: every checkpoint is measured, on the CPU and in the numbers that it has; leave "
            f"that out",
        )

    def ask(self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None) -> Switchboard:
        """Return the switchboard of a run, which keeps what it measures of every checkpoint for good.

        Raises:
            ValueError: as :func:`experiments.switchboard.explore`.
        """
        return self.of_runs([run], progress)

    def of_runs(self, runs: Sequence[Run], progress: bool = False) -> Switchboard:
        """Return the switchboard of a run and its other seeds.

        Raises:
            ValueError: as :func:`experiments.switchboard.explore`.
        """
        from experiments.switchboard import explore

        return explore(
            runs,
            pair=self.pair(runs[0]) if self.file is not None else None,
            n=self.n,
            corruption=self.corruption,
            metric=self.metric,
            prompts=self.prompts,
            most_steps=self.most_steps,
            gradients=self.gradients,
            max_memory=self.max_memory,
            progress=progress,
        )

    def _answered(self, runs: Sequence[Run]) -> Tables:
        """Measure runs, and write one page of all of them beside the first."""
        return written_tables(say_written(self.tell(runs[0], self.of_runs(runs, progress=True))))

    def tell(self, run: Run, found: Switchboard) -> list[Path]:
        """Print the largest edges of the last step; write the page, its numbers, and a graph for neuronpedia's page."""
        from experiments.switchboard import write_neuronpedia

        say(f"{run.path.name}: {found.finding()}")
        show(found.largest(15))
        frame = run.write_result("switchboard", found.to_frame())
        page = found.write(frame.with_suffix(".html"))
        return [frame, page, write_neuronpedia(found, frame.with_name("switchboard_neuronpedia.json"))]
