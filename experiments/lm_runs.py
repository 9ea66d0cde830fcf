"""The directory of a run of a language model: as every run's, with the tokenizer beside the checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from circuits.model import HookedStreamTransformer
from experiments.frames import sha256
from experiments.lm import AnyConfig, LMRunConfig, make_task
from experiments.run_directory import RunDirectory, RunError, explained, kind_of, read_record
from experiments.runs import Run
from experiments.sharded_state import drop_shards
from experiments.tasks.text import TextTaskConfig
from experiments.tasks.tokens import TokenTask
from experiments.tokenizers import (
    PreTrainedTokenizerBase,
    fingerprint,
    load_tokenizer,
    opening_tokens,
    save_tokenizer,
)


class LMRun(RunDirectory[LMRunConfig]):
    """The directory of a run of a language model."""

    kind = "lm"
    what = "a language model"
    train_with = "valuestream train lm"

    @staticmethod
    def _config(plain: dict[str, Any]) -> LMRunConfig:
        return LMRunConfig.from_plain(plain)

    def task(self, device: str = "cpu") -> TokenTask:
        """Return the task, with this run's draws."""
        return make_task(self.config.task, self.config.seed, device)

    @property
    def tokenizer_path(self) -> Path:
        """Where the tokenizer is kept; a task of numbers has none."""
        return self.path / "tokenizer"

    def keep_tokenizer(self, tokenizer: Any) -> None:
        """Store the tokenizer beside the checkpoints, and note its hash.

        Raises:
            RunError: for another tokenizer than the one that is stored there.
        """
        if tokenizer is None:
            return
        before = self.record.get("tokenizer")
        if before not in (None, fingerprint(tokenizer)):
            raise RunError(
                f"{self.path.name} began with another tokenizer (SHA-256 {before[:12]}) than its task has now; use the "
                f"version that it began with (run.json names the commit), or remove the run"
            )
        with explained(self.path):
            self.record["tokenizer"] = save_tokenizer(tokenizer, self.tokenizer_path)
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
            of_corpus = isinstance(self.config.task, TextTaskConfig)
            model.set_tokenizer(tokenizer, opening=opening_tokens(tokenizer) if of_corpus else None)
        return model

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer that is stored with the run.

        Raises:
            RunError: if there is none, or another than the run wrote.
        """
        file = self.tokenizer_path / "tokenizer.json"
        if not file.is_file() or sha256(file) != self.record.get("tokenizer"):
            raise RunError(f"{file} is missing or does not have the hash that run.json states; train the run again")
        return load_tokenizer(self.tokenizer_path)


AnyRun = Run | LMRun
KINDS: dict[str, type[Run] | type[LMRun]] = {Run.kind: Run, LMRun.kind: LMRun}


def run_at(root: str | Path, config: AnyConfig, engine: str = "eager") -> AnyRun:
    """Return the run of a configuration of either kind, new or as it stands under ``root``."""
    if isinstance(config, LMRunConfig):
        return LMRun.at(root, config, engine)
    return Run.at(root, config, engine)


def open_run(path: str | Path) -> AnyRun:
    """Return the run in a directory, of whichever kind.

    Raises:
        RunError: as :meth:`RunDirectory.open`.
    """
    return KINDS[kind_of(read_record(Path(path)))].open(path)


def lm_runs_table(root: str | Path = "runs") -> pd.DataFrame:
    """Return one row a run of a language model: name, task, variant, size, seed, status, step, validation loss."""
    return pd.DataFrame([_row(run) for run in LMRun.under(root)])


def _row(run: LMRun) -> dict[str, Any]:
    config, (step, loss) = run.config, run.last("validation", "loss")
    return {
        "run": run.path.name,
        "variant": config.variant,
        "size": config.size,
        "seed": config.seed,
        "status": run.status,
        "step": step,
        "validation loss": round(loss, 4),
    }
