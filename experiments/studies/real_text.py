"""Real text: King James, Austen and Shakespeare, with indirect objects inserted at a known rate, as declared."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.studies.declared import Declared
from experiments.studies.language_model_sources import streams_of
from experiments.studies.study import Arm, Study
from experiments.studies.wording import final_block

FOLDER = Path("books")
"""Where ``valuestream books`` has made the corpus that is trained on; runs are named by what it holds."""
CONTENT = "db324090674444466f43236247ec72175c588a1b79a58393f07b2af3b882590d"
TOKENIZER = "1305ad5de7c2eb3d810e029a89aff197488d390d1705ee48ebfe93e2d2bcce4f"
"""What the corpus and its tokenizer hold, so that runs can be named without them."""
INSERTED = 0.3
"""The share of training windows with generated sentences on indirect objects."""
STEPS = {"0.2m": 6_000, "1m": 4_000}
FINALS = {
    "validation loss": ("validation", "loss"),
    "induction drop": ("second", "drop"),
    "P(IO)": ("ioi train", "probability"),
    "P(IO), held out": ("ioi held-out", "probability"),
    "P(IO), paper": ("ioi paper", "probability"),
    "natural preferred": ("natural", "preference"),
    "natural preferred, seen": ("natural seen", "preference"),
}
"""Columns of the tables of final values: set and measure."""


def _arm(size: str, arm: str, seed: int) -> Arm:
    from circuits.loading.tokenizers import TOKENIZER_JSON
    from circuits.presets import lm_config
    from experiments.runs.config import LM_TRAINING, RunConfig
    from experiments.tasks.text.books.folder import HELD_OUT, N_TOKENS, TRAIN
    from experiments.tasks.text.books.task import BooksConfig

    places: dict[str, Any] = {"corpus": str(FOLDER / TRAIN), "tokenizer": str(FOLDER / TOKENIZER_JSON)}
    task = BooksConfig(
        **places, validation=str(FOLDER / HELD_OUT), content=CONTENT, tokenizer_content=TOKENIZER, inserted=INSERTED
    )
    model = lm_config(size, "classic", N_TOKENS, n_ctx=task.n_ctx, streams=streams_of(arm, size))
    training = replace(LM_TRAINING[size], steps=STEPS[size], checkpoint_at=())
    return Arm(RunConfig(task, replace(model, name=arm), training, seed, arm, size), size)


_NAMES = ("ioi train", "probability")
SMALL, MILLION = (
    Declared.of(name, partial(_arm, size), f"real text, the size {size}", *_NAMES)
    for name, size in (("real-text", "0.2m"), ("real-text-1m", "1m"))
)
STUDY = Study(
    name="real_text",
    question="Does the stream help on real text?",
    experiments=(SMALL.experiment, MILLION.experiment),
    pictures=(SMALL.picture, MILLION.picture),
    blocks=tuple(
        block
        for each in (SMALL, MILLION)
        for block in (
            *each.blocks,
            final_block(
                f"{each.experiment.name}-finals",
                f"{each.experiment.name}: where models of real text end",
                each.experiment,
                FINALS,
            ),
        )
    ),
)
