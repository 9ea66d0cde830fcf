"""Tasks, training, runs and the command line."""

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

# Found by its place: an import of ``circuits`` may find another project's, which is what is checked here.
runpy.run_path(str(Path(__file__).parents[1] / "circuits" / "common" / "siblings.py"))

from circuits.common.lazy_imports import lazily  # noqa: E402

if TYPE_CHECKING:
    from experiments.questions.ablate import Ablate
    from experiments.questions.attention import ViewAttention
    from experiments.questions.attribute import Attribute
    from experiments.questions.circuit import FindCircuit
    from experiments.questions.explore import Explore
    from experiments.questions.gradients import Gradients
    from experiments.questions.heads import Heads
    from experiments.questions.indirect_objects import IndirectObjects
    from experiments.questions.logits import Logits
    from experiments.questions.patch import Patch
    from experiments.questions.paths import Paths
    from experiments.questions.question import Question
    from experiments.questions.route_map import MapRoutes
    from experiments.runs.config import LM_TRAINING, TRAINING, RunConfig, icl_run, lm_run
    from experiments.runs.imported import import_model
    from experiments.runs.levels import AtLevels
    from experiments.runs.pooling import all_metrics
    from experiments.runs.record import RunError
    from experiments.runs.run import Run
    from experiments.runs.table import runs_table
    from experiments.runs.training_config import (
        SGD,
        Adam,
        AdamW,
        At,
        Every,
        GateChange,
        LogLinear,
        Rate,
        StopAt,
        TokenTraining,
        TrainingConfig,
    )
    from experiments.studies.collection import collect
    from experiments.studies.committed_results import Bundle
    from experiments.studies.registering import register_figure
    from experiments.sweeps.given_model import train
    from experiments.sweeps.sweep import sweep, sweep_plan
    from experiments.switchboard import explore
    from experiments.tasks.in_context.batches import ICLTaskConfig
    from experiments.tasks.in_context.task import ICLTask
    from experiments.tasks.indirect_objects.config import IOIConfig
    from experiments.tasks.indirect_objects.task import IOITask
    from experiments.tasks.kinds import TokenTaskConfig, VectorSizes, VectorTaskConfig
    from experiments.tasks.nested_relations import NestedConfig, NestedTask
    from experiments.tasks.registry import make_task, register_task
    from experiments.tasks.repeated_tokens import RepeatsConfig, RepeatsTask
    from experiments.tasks.sentences.tokenizer import plain_english
    from experiments.tasks.stories import StoriesConfig, StoriesTask
    from experiments.tasks.task import Task, TrainedTask
    from experiments.tasks.text.books.task import BooksConfig, BooksTask
    from experiments.tasks.text.task import TextTask, TextTaskConfig
    from experiments.tasks.tokens.batches import TokenBatch
    from experiments.tasks.tokens.task import TokenTask
    from experiments.tasks.vectors import VectorBatch, VectorTask

__getattr__ = lazily(
    "experiments",
    {
        "questions.ablate": ("Ablate",),
        "questions.attention": ("ViewAttention",),
        "questions.attribute": ("Attribute",),
        "questions.circuit": ("FindCircuit",),
        "questions.gradients": ("Gradients",),
        "questions.heads": ("Heads",),
        "questions.logits": ("Logits",),
        "questions.indirect_objects": ("IndirectObjects",),
        "questions.patch": ("Patch",),
        "questions.paths": ("Paths",),
        "questions.question": ("Question",),
        "questions.route_map": ("MapRoutes",),
        "switchboard": ("explore",),
        "questions.explore": ("Explore",),
        "runs.config": (
            "LM_TRAINING",
            "TRAINING",
            "RunConfig",
            "icl_run",
            "lm_run",
        ),
        "runs.imported": ("import_model",),
        "runs.levels": ("AtLevels",),
        "runs.pooling": ("all_metrics",),
        "runs.record": ("RunError",),
        "runs.run": ("Run",),
        "runs.table": ("runs_table",),
        "runs.training_config": (
            "SGD",
            "Adam",
            "AdamW",
            "At",
            "Every",
            "GateChange",
            "LogLinear",
            "Rate",
            "StopAt",
            "TokenTraining",
            "TrainingConfig",
        ),
        "studies.collection": ("collect",),
        "studies.committed_results": ("Bundle",),
        "studies.registering": ("register_figure",),
        "sweeps.given_model": ("train",),
        "sweeps.sweep": ("sweep", "sweep_plan"),
        "tasks.in_context.batches": ("ICLTaskConfig",),
        "tasks.in_context.task": ("ICLTask",),
        "tasks.indirect_objects.config": ("IOIConfig",),
        "tasks.indirect_objects.task": ("IOITask",),
        "tasks.kinds": (
            "TokenTaskConfig",
            "VectorSizes",
            "VectorTaskConfig",
        ),
        "tasks.nested_relations": (
            "NestedConfig",
            "NestedTask",
        ),
        "tasks.registry": (
            "make_task",
            "register_task",
        ),
        "tasks.repeated_tokens": (
            "RepeatsConfig",
            "RepeatsTask",
        ),
        "tasks.sentences.tokenizer": ("plain_english",),
        "tasks.stories": (
            "StoriesConfig",
            "StoriesTask",
        ),
        "tasks.task": (
            "Task",
            "TrainedTask",
        ),
        "tasks.text.books.task": (
            "BooksConfig",
            "BooksTask",
        ),
        "tasks.text.task": (
            "TextTask",
            "TextTaskConfig",
        ),
        "tasks.tokens.batches": ("TokenBatch",),
        "tasks.tokens.task": ("TokenTask",),
        "tasks.vectors": (
            "VectorBatch",
            "VectorTask",
        ),
    },
)

__all__ = [
    "LM_TRAINING",
    "SGD",
    "TRAINING",
    "Ablate",
    "Adam",
    "AdamW",
    "At",
    "AtLevels",
    "Attribute",
    "BooksConfig",
    "BooksTask",
    "Bundle",
    "Every",
    "Explore",
    "FindCircuit",
    "GateChange",
    "Gradients",
    "Heads",
    "ICLTask",
    "ICLTaskConfig",
    "IOIConfig",
    "IOITask",
    "IndirectObjects",
    "LogLinear",
    "Logits",
    "MapRoutes",
    "NestedConfig",
    "NestedTask",
    "Patch",
    "Paths",
    "Question",
    "Rate",
    "RepeatsConfig",
    "RepeatsTask",
    "Run",
    "RunConfig",
    "RunError",
    "StopAt",
    "StoriesConfig",
    "StoriesTask",
    "Task",
    "TextTask",
    "TextTaskConfig",
    "TokenBatch",
    "TokenTask",
    "TokenTaskConfig",
    "TokenTraining",
    "TrainedTask",
    "TrainingConfig",
    "VectorBatch",
    "VectorSizes",
    "VectorTask",
    "VectorTaskConfig",
    "ViewAttention",
    "all_metrics",
    "collect",
    "explore",
    "icl_run",
    "import_model",
    "lm_run",
    "make_task",
    "plain_english",
    "register_figure",
    "register_task",
    "runs_table",
    "sweep",
    "sweep_plan",
    "train",
]
