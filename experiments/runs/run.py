"""Runs: the directory of a configuration's run, its task and tokenizer, and lists of runs."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from circuits.common.errors import known, require
from circuits.common.files import path_of
from circuits.loading.tokenizers import load_tokenizer, opening_tokens
from circuits.model import HookedStreamTransformer
from experiments.runs.config import RunConfig
from experiments.runs.directory import RunDirectory, directory_of
from experiments.runs.record import RunError, anew
from experiments.runs.saved_shards import drop_shards
from experiments.tasks.imported import ImportedConfig
from experiments.tasks.registry import MADE_BY, make_task
from experiments.tasks.text.corpus import local_files
from experiments.tasks.text.task import TextTaskConfig
from experiments.tasks.tokenizers import (
    TOKENIZER_JSON,
    PreTrainedTokenizerBase,
    fingerprint,
    tokenizer_files,
)

PLACES = ("corpus", "validation", "tokenizer")
SAY = "give the training's command again with its new --corpus, or use Run.find(NAME).place(corpus=PATH)"


class Run(RunDirectory):
    """The directory of a run: what was trained, how it went, and what it became."""

    logs = ("metrics", "gradients")

    @classmethod
    def at(cls, root: str | Path | None, config: RunConfig, engine: str = "eager") -> Run:
        """Return the run of a configuration under ``root``, new or as it stands there; of a corpus of local files, it
        notes where they lie now.

        Raises:
            ValueError: for a corpus of local files of which the configuration does not say what they hold.
        """
        run = super().at(root, config, engine)
        if isinstance(config.task, TextTaskConfig):
            run.place(**config.task.places)
        return run

    @staticmethod
    def _plain(config: RunConfig) -> dict[str, Any]:
        if not isinstance(config.task, TextTaskConfig):
            return config.to_plain()
        require(
            config.task.of_files or local_files(config.task.corpus) is None,
            f"what {config.task.corpus} holds is not in the configuration, and a run is named by it; make the task "
            f"with TextTaskConfig.of(...), or the configuration with lm_run",
        )
        return replace(config, task=config.task.without_places()).to_plain()

    def place(self, **places: str | Path) -> None:
        """Note where this machine has the files of the run's corpus, by field: ``corpus``, ``validation``, or
        ``tokenizer``. What they hold is checked when they are read.

        Raises:
            UnknownNameError: for another field.
            ValueError: for what is no path.
        """
        for name in places:
            known("place", name, PLACES)
        there = {name: path_of(f"the place of the {name}", place) for name, place in places.items()}
        held = self._places() | {name: str(place.expanduser().resolve()) for name, place in there.items()}
        if held != self._places():
            self._write("places.json", (json.dumps(held, indent=1, sort_keys=True) + "\n").encode())

    def _places(self) -> dict[str, str]:
        file = self.path / "places.json"
        try:
            held = json.loads(file.read_text()) if file.exists() else {}
            return {name: str(Path(held[name])) for name in PLACES if name in held}
        except (ValueError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}); remove it, and say where the corpus is: {SAY}") from error

    def task(self, device: str = "cpu") -> Any:
        """Return the task (:class:`experiments.tasks.task.TrainedTask`), with this run's draws.

        Raises:
            RunError: of a model that others trained; or if the local files of its corpus are not where they were,
                saying how to tell where they are.
            ValueError: if they hold something else, or a data set cannot be had.
        """
        config = self.config.task
        if isinstance(config, ImportedConfig):
            raise RunError(
                f"{self.path.name} is a model that others trained and has no task, so no pairs and no sequences of its "
                f"own; ask it with yours"
            )
        if not isinstance(config, TextTaskConfig):
            return make_task(config, self.config.seed, device)
        self.require_corpus()
        config = replace(config, **self._places())
        tokenizer = self.tokenizer() if "tokenizer" in self.record else None
        return MADE_BY[type(config)](config, self.config.seed, device, tokenizer=tokenizer)

    def require_corpus(self) -> None:
        """Refuse to go on where the local files that the run learns from are not where they were.

        Raises:
            RunError: if they are not, saying how to tell where they are.
        """
        config = self.config.task
        if not isinstance(config, TextTaskConfig) or not config.of_files:
            return
        config = replace(config, **self._places())
        for name in ("corpus", "validation"):
            place = getattr(config, name)
            if isinstance(place, str) and not _is_there(place):
                raise RunError(
                    f"the {name} of {self.path.name} is not at {place}; it is told by its content (hash "
                    f"{str(config.content)[:12]}), so it may lie anywhere: {SAY}{config.made}"
                )

    def asker(self, device: str = "cpu") -> Any:
        """Return the task that asks this run: its own; of a corpus, which has no questions and may be far away, that on
        indirect objects in its tokens.

        Raises:
            RunError, ValueError: as :meth:`task`, and for a tokenizer in which a name is several tokens.
        """
        learned = self.config.task
        if not isinstance(learned, TextTaskConfig):
            return self.task(device)
        return learned.prompts(self.tokenizer(), self.config.seed, device)

    def gradients(self) -> pd.DataFrame:
        """Return the gradient's split by route as it was logged so far.

        Columns: step, and those of :meth:`analysis.GradientSplit.to_frame`.

        Raises:
            RunError: if the run logs none, or none yet, or as :meth:`metrics`.
        """
        if not self.config.training.gradients_at:
            raise RunError(
                f"{self.path.name} logged no gradients; train with --gradients-every N (TrainingConfig.gradients_at), "
                f"or split them at its checkpoints with 'valuestream gradients'"
            )
        frame = self._logged("gradients")
        if frame.empty:
            raise RunError(f"{self.path.name} has logged no gradients yet; let it train on")
        return frame

    def _frames(self) -> dict[str, pd.DataFrame]:
        logged = {"gradients": self.gradients()} if self.config.training.gradients_at else {}
        return super()._frames() | logged

    @property
    def tokenizer_path(self) -> Path:
        """Where the tokenizer is kept; a task of numbers has none."""
        return self.path / "tokenizer"

    def keep_tokenizer(self, tokenizer: Any) -> None:
        """Store the tokenizer beside the checkpoints, and note the hashes of its files; for who holds the run's lock.

        Raises:
            RunError: for another tokenizer than the one that is stored there.
        """
        if tokenizer is None:
            return
        before, now = self.record.get("tokenizer"), fingerprint(tokenizer)
        if before not in (None, now):
            raise RunError(
                f"{self.path.name} began with another tokenizer (SHA-256 {before[:12]}) than its task has now; use the "
                f"version that it began with (run.json names the commit), or {anew(self.path)}"
            )
        if before is None:
            files = tokenizer_files(tokenizer)
            for name, data in files.items():
                self._write(f"tokenizer/{name}", data)
            hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
            self.record |= {"tokenizer": now, "tokenizer_files": hashes}
            self.write_record()

    def close(self) -> None:
        """Close the run as any other, and drop what several processes saved to resume from."""
        super().close()
        drop_shards(self.path)

    def load_model(self, step: int = -1) -> HookedStreamTransformer:
        """Return the model at a step with a checkpoint (default: the last), in evaluation mode, with its tokenizer.

        Text that it is given is opened as the texts that it was trained on.

        Raises:
            RunError: if there is no checkpoint at that step, or it or the tokenizer is not what the run wrote.
        """
        model = super().load_model(step)
        if "tokenizer" in self.record:
            tokenizer = self.tokenizer()
            # Documents of a corpus begin as the tokenizer's template has it, mostly with nothing; generated texts begin
            # with its beginning token.
            of_template = isinstance(self.config.task, (TextTaskConfig, ImportedConfig))
            model.set_tokenizer(tokenizer, opening=opening_tokens(tokenizer) if of_template else None)
        return model

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer that is stored with the run.

        Raises:
            RunError: if there is none, or another than the run wrote.
        """
        # The first runs noted the hash of one file alone.
        one = {TOKENIZER_JSON: self.record.get("tokenizer")}
        for name, digest in self.record.get("tokenizer_files", one).items():
            self.intact(self.tokenizer_path / name, digest)
        return load_tokenizer(self.tokenizer_path)


def runs_in(roots: Sequence[str | Path], wanted: Iterable[RunConfig]) -> list[Run]:
    """Return those of the wanted runs that are in some directories, whatever became of them, each once: of one that is
    in several the first that has ended, else the first.

    Raises:
        RunError: for a run directory that is damaged.
    """
    there = [directory_of(root, config) for config in wanted for root in roots]
    found: dict[str, Run] = {}
    for run in (Run.open(path) for path in dict.fromkeys(there) if (path / "run.json").is_file()):
        before = found.get(run.record["id"])
        if before is None or (before.record["status"] == "running" and run.record["status"] != "running"):
            found[run.record["id"]] = run
    return list(found.values())


def _is_there(place: str) -> bool:
    return Path(place).exists() or (glob.has_magic(place) and bool(glob.glob(place, recursive=True)))
