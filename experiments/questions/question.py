"""What a question to a run is: its options, which are its command line, how it is asked, and what is then said.

Every other file in this folder holds one question. They are read for ``--help``, so what is heavy (torch, pandas,
plotly) is imported by the functions that use it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import analysis
from circuits.common.errors import require, whole
from circuits.common.fields import all_different
from experiments.options import THERE, Device, Options, option
from experiments.output import Tables, say, written_tables
from experiments.questions.cost import Cost

if TYPE_CHECKING:
    from pandas import DataFrame as Frame

    from circuits.model import HookedStreamTransformer as Model
    from experiments.runs.run import Run
else:
    Frame = Model = Run = Any

Step = Annotated[int, option("which checkpoint; -1 is the last")]
Checkpoints = Annotated[tuple[int, ...], option("steps of the checkpoints that are asked; -1 is the last", "all")]
Sequences = Annotated[int, option("sequences")]
Components = Annotated[tuple[str, ...], option("of sites: what is patched")]
Heads = Annotated[Literal["all", "each"], option("of sites: heads together, or one by one")]
FREE = ("checkpoints", "max_memory", "top")
"""Options of which no number at a checkpoint depends: at which ones it is asked, in how much memory, what is shown."""
ONCE = ("components", "routes", "senders", "receivers", "method", "edges", "activations")
"""Options of several values of which none may come twice; a checkpoint may, as -1 and by its step, and counts once."""
LEAST = {"n": 1, "top": 1, "steps": 1, "max_memory": 1, "most_steps": 1, "row": 0, "check": 0, "prompts": 0}
"""Of options that are numbers, the least that says anything."""
SHARES = "own + stream + interaction = total"


@dataclass(frozen=True)
class Question(Options):
    """A question to a run of either kind, with the options that all of them have."""

    device: Device = "cpu"
    dtype: Annotated[
        Literal["float32", "float64", "bfloat16"], option("what the model computes in, and its vectors are")
    ] = "float32"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # Of every question, so that one that is asked in Python is refused as one of the shell is.
        if ask := vars(cls).get("ask"):

            @wraps(ask)
            def validated(self: Question, *args: Any, **rest: Any) -> Any:
                self.validate()
                return ask(self, *args, **rest)

            type.__setattr__(cls, "ask", validated)

    def validate(self) -> None:
        """Refuse options with which nothing can be asked, before work starts; whoever asks is refused so.

        Raises:
            ValueError: for a device that this machine does not have, a number that says nothing, as no pairs, or a
                value that comes twice among several.
        """
        from experiments.devices import checked_device

        checked_device(self.device)
        for name, least in LEAST.items():
            value = getattr(self, name, None)
            if value is not None:
                whole(name, value, least)
        for name in ONCE:
            values = getattr(self, name, ())
            if not isinstance(values, str):
                all_different(f"--{name}", values)

    def ask(self, run: Run, progress: bool = False, kept: analysis.KeptIn | None = None) -> Any:
        """Return what the question finds of a run; with ``kept``, a long one goes on where it was interrupted."""
        raise NotImplementedError

    def cost(self, run: Run) -> Cost | None:
        """Return what asking takes (passes, seconds, bytes), from a few passes that are measured; ``None``
        where a question has no such count."""
        return None

    def tell(self, run: Run, found: Any) -> list[Path]:
        """Print what was found in short, write and draw it beside the run, and return the files."""
        raise NotImplementedError

    def named_steps(self) -> tuple[int, ...]:
        """Return the checkpoints that are named, -1 being the last."""
        return ()

    def answer(self, runs: Sequence[Run]) -> Tables:
        """Ask runs, each once, tell what was found, and return it whole: results by name.

        Raises:
            ValueError: as :meth:`validate`, and for a run that comes twice, or beside a copy of its directory.
        """
        from experiments.runs.pooling import require_once

        self.validate()
        require_once(runs)
        return self._answered(runs)

    def _answered(self, runs: Sequence[Run]) -> Tables:
        """Ask runs one after the other; what is said of them together is said by who overrides it."""
        written: list[Path] = []
        for run in runs:
            self.foretell(run)
            with self.kept(run) as kept:
                written += say_written(self.tell(run, self.ask(run, progress=True, kept=kept)))
        return written_tables(written)

    def kept(self, run: Run) -> analysis.KeptIn:
        """Return what is kept of an interrupted question beside its run's results, and removed when it is answered.

        Rows are told apart by what they depend on, so options of which no number depends, as how many are printed, find
        what was measured with others.
        """
        return analysis.KeptIn(run.path / "results" / "unfinished")

    def plain(self) -> dict[str, Any]:
        """Return the options on which what is found of one checkpoint depends, as plain data."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in FREE}

    def foretell(self, run: Run) -> None:
        """Say on the error stream what asking a run takes."""
        cost = self.cost(run)
        if cost is not None:
            say(f"{run.path.name}: {cost.sentence()}", sys.stderr)

    def model(self, run: Run, step: int = -1) -> Model:
        """Return a run's model at a step, on the device and of the dtype that are asked for.

        Raises:
            RunError: if there is no checkpoint at ``step``.
            ValueError: for a device that this machine does not have.
        """
        import torch

        from experiments.devices import checked_device

        return run.load_model(step).to(checked_device(self.device), getattr(torch, self.dtype))

    def asked(self, pair: analysis.Pair) -> analysis.Pair:
        """Return a pair with its vectors in the dtype that is asked for."""
        import torch

        if not pair.clean.is_floating_point():
            return pair
        clean, corrupt = (side.to(getattr(torch, self.dtype)) for side in (pair.clean, pair.corrupt))
        return replace(pair, clean=clean, corrupt=corrupt)


@dataclass(frozen=True)
class OfInputs(Question):
    """A question of inputs: of those that a run's task draws, or of the pairs of a file, which need no task."""

    pairs: Annotated[
        Path | None,
        THERE,
        option(
            "ask the pairs of a file instead of the task's, a line of JSON each: clean and corrupt (texts, or "
            "lists of token numbers), answer and wrong (words, or numbers), and roles, if any, as in "
            '{"S2": ["Mary", 2], "first": 0}'
        ),
    ] = None

    def validate(self) -> None:
        """Refuse options with which nothing can be asked, before work starts.

        Raises:
            ValueError: as :meth:`Question.validate`, for a file that holds no pairs (naming the line), or one beside
                options of what a task draws.
        """
        super().validate()
        if self.file is not None:
            drawn = ", ".join(self.given("n", "corruption", "split"))
            require(not drawn, f"{drawn}: of what the task draws, and --pairs asks a file; leave one out")

    @cached_property
    def file(self) -> analysis.PairsFile | None:
        """The pairs that are asked instead of the task's, read once."""
        return None if self.pairs is None else analysis.PairsFile.read(self.pairs)

    def plain(self) -> dict[str, Any]:
        """Return the options on which what is found depends: of a file of pairs what it holds, wherever it lies."""
        return {**super().plain(), "pairs": None if self.file is None else self.file.sha256}

    def keep(self, run: Run, name: str, frame: Frame, draw: Callable[[Frame], Any]) -> list[Path]:
        """Write a result of a run, tidy and drawn (``results/<name>.parquet``, ``.json``, ``.html``); return paths.

        Of a file of pairs, every row says which: ``pairs_file`` and ``pairs_sha256``.
        """
        from experiments.runs.pooling import labelled
        from figures.files import write_figure

        frame = labelled(frame, run)
        if self.file is not None:
            frame = frame.assign(pairs_file=self.file.name, pairs_sha256=self.file.sha256)
        # Drawn before anything is written, so that no half of a result can stand there.
        figure = draw(frame)
        parquet = run.write_result(name, frame)
        return [parquet, *write_figure(figure, parquet.with_suffix(""), shared=run.path.parent)]


@dataclass(frozen=True)
class OfPairs(OfInputs):
    """A question to one checkpoint, of clean/corrupt pairs."""

    n: Annotated[int, option("clean/corrupt pairs")] = 128
    corruption: Annotated[
        str | None,
        option(
            "of the classifier: labels (two of the context swapped) or item (another is asked for); of indirect "
            "objects: flip, s2 or abc",
            "the first of the task's",
        ),
    ] = None
    metric: Annotated[str, option("logit_difference, probability, rank, loss, accuracy: see analysis.METRICS")] = (
        "logit_difference"
    )
    step: Step = -1
    max_memory: Annotated[
        int | None, option("bytes by which the process may grow, at its peak", "a quarter of what is free")
    ] = None

    def named_steps(self) -> tuple[int, ...]:
        """Return the checkpoint that is named, -1 being the last."""
        return (self.step,)

    def corrupted(self, run: Run) -> str:
        """Return the corruption that a run is asked with: the one that is named, or its task's first."""
        return self.corruption or next(iter(run.asker(self.device).corruptions))

    def asked_of(self, run: Run) -> str:
        """Return in words which pairs a run is asked."""
        if self.file is not None:
            return f"{len(self.file.rows)} pairs of {self.file.name}"
        return f"{self.n} pairs ({self.corrupted(run)})"

    def pair(self, run: Run, model: Model | None = None) -> analysis.Pair:
        """Return the pairs of a run's task, or those of the file in the tokens of its model (default: the last one).

        Raises:
            UnknownNameError: for a corruption that the task does not know (nearest suggested).
            ValueError: for a line of the file that the model cannot be asked, naming it.
        """
        if self.file is not None:
            return self.file.pair(model or self.model(run))
        return self.asked(run.asker(self.device).pairs(self.n, self.corrupted(run)))


@dataclass(frozen=True)
class Effects(OfPairs):
    """A question for the effects of patches, of which the largest are printed."""

    direction: Annotated[Literal["denoise", "noise"], option("clean into corrupt, or corrupt into clean")] = "denoise"
    top: Annotated[int, option("rows to print")] = 15

    def largest(self, frame: Frame) -> Frame:
        """Return the rows with the largest effects, either way."""
        return frame.loc[frame.effect.abs().sort_values(ascending=False, kind="stable").index].head(self.top)


@dataclass(frozen=True)
class OfSequences(OfInputs):
    """A question of sequences: those of a split of the run's task, or the clean sides of the pairs of a file."""

    n: Sequences = 256
    split: Annotated[
        str | None,
        option(
            "of the classifier: ic, ic2, iw or test; of indirect objects: train, names, templates, held-out or paper",
            "the first of the task's",
        ),
    ] = None

    def of(self, run: Run) -> str:
        """Return the split that a run is asked on: the one that is named, or its task's first."""
        return self.split or next(iter(run.asker(self.device).splits))

    def asked_of(self, run: Run) -> str:
        """Return in words which sequences a run is asked."""
        if self.file is not None:
            return f"{len(self.file.rows)} sequences of {self.file.name}"
        return f"{self.n} sequences of {self.of(run)}"


def check_other(run: Run, other: Run, of_file: bool = False) -> None:
    """Refuse another run whose activations cannot stand in the place of a run's: on what its task draws, or on the
    pairs of a file.

    Raises:
        ValueError: if it is the run itself, or has other classes and labels, or of a file, another tokenizer.
    """
    require(other.path != run.path, f"{other.path.name} is the run itself; name another one")
    if of_file:
        same = other.record.get("tokenizer") == run.record.get("tokenizer")
        require(same, f"{other.path.name} has another tokenizer than {run.path.name}, so it would read other texts")
        return
    require(
        (other.config.task, other.config.seed) == (run.config.task, run.config.seed),
        f"{other.path.name} has other classes and labels, or texts, than {run.path.name}: they are drawn from the task "
        f"and the seed; name a run with the task of this one and seed {run.config.seed}",
    )


def beside(frame: Frame) -> str:
    """Return in words what a frame's effects are shares of: the metric of both runs, the model's accuracy, n."""
    from analysis.gap import Gap

    first = frame.iloc[0]
    return Gap(first.clean, first.corrupt, first.accuracy, int(first.n)).sentence(first.metric)


def say_written(paths: Sequence[Path]) -> Sequence[Path]:
    """Print which files were written, and return them."""
    say("wrote " + ", ".join(map(str, paths)))
    return paths
