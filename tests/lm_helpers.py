"""Tiny runs of language models, and sentences read back from their text."""

from __future__ import annotations

import dataclasses
import fcntl
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.runs.config import Every
from experiments.runs.lm_config import AdamW, LMRunConfig, LMTraining, TokenTaskConfig, lm_run
from experiments.runs.lm_run import LMRun
from experiments.tasks.sentences import vocabulary as words
from experiments.training.lm_trainer import train_lm

TINY = LMTraining(
    steps=12,
    optimizer=AdamW(rate=3e-3, warmup=4),
    batch_size=4,
    evaluate_at=(Every(4),),
    checkpoint_at=(Every(6),),
    n_eval=8,
    n_questions=6,
)
ALL_NAMES = (*words.GIRLS, *words.BOYS)


def tiny_lm(
    variant: str = "value", seed: int = 0, task: str | TokenTaskConfig = "ioi", dropout: float = 0.0, **changes: Any
) -> LMRunConfig:
    """A run of a few updates of the smallest model, asked little."""
    changes = {"n_eval": 4, "n_questions": 2} | changes
    return lm_run("0.2m", task, variant, seed, dataclasses.replace(TINY, **changes), dropout=dropout)


def trained_lm(root: Path, config: LMRunConfig) -> LMRun:
    """The run of a configuration, brought to its end."""
    train_lm(LMRun.at(root, config))
    return LMRun.at(root, config)


def small_lm(variant: str) -> LMRunConfig:
    """One of the session's runs."""
    return tiny_lm(variant, task="stories", n_eval=8, n_questions=6)


def train_small_lms(root: Path) -> None:
    """Train what the session's fixture needs, in one process at a time."""
    with (root / ".training").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for variant in ("classic", "value"):
            trained_lm(root, small_lm(variant))


def lm_run_named(root: Path, variant: str) -> LMRun:
    """One of the session's runs."""
    return LMRun.at(root, small_lm(variant))


# --- reading text back ------------------------------------------------------------------------------------------------


class Reader:
    """Reads sentences of templates, given what may stand in each slot."""

    def __init__(self, fillers: Mapping[str, Sequence[str]]):
        self._choices = {slot: f"({'|'.join(map(re.escape, texts))})" for slot, texts in fillers.items()}
        self._patterns: dict[str, tuple[re.Pattern[str], list[str]]] = {}

    def filled(self, template: str, text: str) -> list[tuple[str, str]] | None:
        """What a template's slots hold in a text, in order, or ``None`` where the text is not of the template."""
        if template not in self._patterns:
            pieces = re.split(r"\{([^}]*)\}", template)
            parts = [self._choices[piece] if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)]
            self._patterns[template] = re.compile("".join(parts)), pieces[1::2]
        pattern, slots = self._patterns[template]
        match = pattern.fullmatch(text)
        return None if match is None else list(zip(slots, match.groups(), strict=True))


def words_in(text: str) -> list[str]:
    """The words and marks of a text."""
    return re.findall(r"\w+|[^\w\s]", text)


def named_in(text: str) -> list[str]:
    """The names that a text holds, in order."""
    return [word for word in words_in(text) if word in ALL_NAMES]
