"""What is trained for each question: builders of plain lists of runs, one a named experiment.

``full`` is what the committed results are made of, ``miniature`` the same with fewer seeds and nothing at paper size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from circuits.config.model import Start
from circuits.config.streams import Previous, Stream, WithinLayer
from circuits.streams.variants import streams as streams_of
from experiments.runs.config import TRAINING, RunConfig, icl_run
from experiments.runs.training_config import SGD, Adam, Every, GateChange, Optimizer, Rate, StopAt
from experiments.runs.training_config import TrainingConfig as Training
from experiments.tasks.in_context.batches import PRESETS

Size = Literal["full", "miniature"]
SIZES: tuple[Size, ...] = ("full", "miniature")


@dataclass(frozen=True)
class Arm:
    """One run of an experiment: its label in tables is the configuration's ``variant``."""

    config: RunConfig
    condition: str = "as in the paper"
    """What differs from the other conditions of the experiment; arms are compared within one."""

    @property
    def label(self) -> str:
        """What tables call it."""
        return self.config.variant


# --- how long and how often ------------------------------------------------------------------------------------------

PAPER_N_EVAL = 4_000
"""Sequences in every evaluation set at paper size. (The paper has 10,000: a standard error of 0.002 instead of 0.003 at
95 %, for a third more time.)"""
WHOLE = Training(steps=75_000, optimizer=SGD(), n_eval=PAPER_N_EVAL, gradients_at=(Every(1_000, 0, 40_000),))
"""The paper's schedule to its end."""
TO_98 = replace(WHOLE, steps=40_000, stop_at=StopAt(0.98, "ic", 3))
"""To 40,000 steps, or until in-context accuracy has been 98 % at three evaluations in a row."""
TO_95 = replace(TO_98, stop_at=StopAt(0.95, "ic", 3))
AROUND_TRANSITION = (Every(5_000), Every(1_000, 15_000, 40_000))
WHOLE_SEEDS, GRADIENT_SEEDS, CHECKPOINT_SEEDS = 3, 5, 2

SMALL = replace(TRAINING["small"], steps=3_000, checkpoint_at=(), stop_at=StopAt(0.98, "ic", 3))
"""The small preset to 3,000 steps, or until in-context accuracy has been 98 % at three evaluations in a row."""
SMALL_GRADIENTS = replace(SMALL, gradients_at=(Every(50),))


def _seeds(size: Size, full: int, miniature: int = 2) -> range:
    return range(full if size == "full" else miniature)


def at_paper_size(variant: str, seed: int) -> RunConfig:
    """Return a run at paper size.

    Classic and value go to the very end with the first seeds; they and the value stream's gates to 98 % with the first
    five, all others to 95 %. The first two seeds keep checkpoints.
    """
    training = TO_98 if variant in GATES and seed < GRADIENT_SEEDS else TO_95
    if variant in ("classic", "value") and seed < WHOLE_SEEDS:
        training = WHOLE
    if seed < CHECKPOINT_SEEDS:
        training = replace(training, checkpoint_at=AROUND_TRANSITION)
    return icl_run(variant, "paper", seed, training)


def named(label: str, variant: str, seed: int, training: Training = SMALL, preset: str = "small", **model: Any) -> Arm:
    """Return an arm whose label is not the name of a variant; ``model`` overrides fields of the model."""
    run = icl_run(variant, preset, seed, training, **model)
    return Arm(replace(run, variant=label, model=replace(run.model, name=label)))


# --- which carrier: the paper's comparison ---------------------------------------------------------------------------

CARRIERS = ("classic", "value", "key", "query")
PAIR = ("classic", "value")
QUERY_KEY_SEEDS = 5
"""At paper size queries and keys have fewer seeds than classic and value."""
GATES = ("classic", "value", "value-stop", "value-gradient-only")


def streams_paper(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``streams-paper``."""
    every = _seeds(size, 10, 0)
    return [Arm(at_paper_size(v, seed)) for seed in every for v in CARRIERS if seed < QUERY_KEY_SEEDS or v in PAIR]


def streams(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``streams``."""
    return [Arm(icl_run(v, "small", seed, SMALL_GRADIENTS)) for seed in _seeds(size, 10, 3) for v in CARRIERS]


# --- is it the gradient ----------------------------------------------------------------------------------------------


def gradient_paper(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``gradient-paper``."""
    return [Arm(at_paper_size(v, seed)) for seed in _seeds(size, GRADIENT_SEEDS, 0) for v in GATES]


def gradient(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``gradient``."""
    return [Arm(icl_run(v, "small", seed, SMALL_GRADIENTS)) for seed in _seeds(size, 10, 3) for v in GATES]


CHANGES: dict[str, Callable[[int], tuple[GateChange, ...]]] = {
    "opened": lambda at: (GateChange(0, "off"), GateChange(at, "full")),
    "closed": lambda at: (GateChange(at, "off"),),
    "gradient cut": lambda at: (GateChange(at, "stop"),),
}
"""What happens to the stream at a step: open from then on, closed from then on, or closed to the gradient alone."""
WINDOW = replace(SMALL, steps=1_500, stop_at=None)
WINDOW_STEPS = {"before": 150, "within": 400, "after": 800}
"""Before, within and after the transition of a value model."""
WINDOW_STEPS_PAPER = {"within": 18_000}
WINDOWS_PAPER = (("opened", "within"), ("closed", "within"))
"""What is done at the paper's size, where a run is minutes."""


def _changed(what: str, when: str, at: int, seed: int, training: Training, preset: str) -> Arm:
    return named(f"{what} {when} ({at:,})", "value", seed, replace(training, gates=CHANGES[what](at)), preset)


def windows(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``windows``."""
    arms = []
    for seed in _seeds(size, 10):
        arms += [Arm(icl_run(v, "small", seed, WINDOW)) for v in ("classic", "value")]
        arms += [
            _changed(what, when, at, seed, WINDOW, "small") for what in CHANGES for when, at in WINDOW_STEPS.items()
        ]
    return arms


def windows_paper(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``windows-paper``."""
    arms = []
    for seed in _seeds(size, 5, 0):
        arms += [Arm(at_paper_size(v, seed)) for v in ("classic", "value")]
        for what, when in WINDOWS_PAPER:
            arms.append(_changed(what, when, WINDOW_STEPS_PAPER[when], seed, TO_95, "paper"))
    return arms


# --- is it something duller ------------------------------------------------------------------------------------------

SUM_OF_BOTH = Start("blocks.1.attn.W_V", add="blocks.0.attn.W_V")
SCALED = Start("blocks.1.attn.W_V", scale=2**0.5)
"""A stream adds an independent term of about the same variance, so it about doubles it."""


def _rates(factor: float, *begins: str) -> Training:
    return replace(SMALL_GRADIENTS, rates=tuple(Rate(name, factor) for name in begins))


def controls(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``controls``."""
    both = ("blocks.0.attn.W_V", "blocks.1.attn.W_V")
    arms = []
    for seed in _seeds(size, 10):
        arms += [Arm(icl_run(v, "small", seed, SMALL_GRADIENTS)) for v in ("classic", "value")]
        arms += [
            named("stream of initial values", "value", seed, streams=(Stream("v", weights="initial"),)),
            named("untied extra path", "value", seed, streams=(Stream("v", weights="untied"),)),
            named("classic, V2 scaled", "classic", seed, starts=(SCALED,)),
            named("classic, V2 starts as V1 + V2", "classic", seed, starts=(SUM_OF_BOTH,)),
            named("classic, V rate x2", "classic", seed, _rates(2.0, *both)),
            named("classic, V1 rate x2", "classic", seed, _rates(2.0, both[0])),
            named("value, V1 rate x0.5", "value", seed, _rates(0.5, both[0])),
        ]
    return arms


# --- which connection ------------------------------------------------------------------------------------------------

RULES = (
    "value",
    "key",
    "query",
    "cumulative",
    "resformer-constant",
    "resformer-learned",
    "resformer-sparse",
    "resformer-dense",
    "modded-nanogpt",
    "x-transformers",
    "svformer",
    "lime",
    "within-layer",
    "cross-carrier",
    "transformed",
)
DEEP_RULES = (
    "value",
    "key",
    "query",
    "cumulative",
    "resformer-learned",
    "resformer-dense",
    "svformer",
    "within-layer",
)
"""Those that are trained in more than two layers too."""
COMBINED: dict[str, tuple[Stream, ...]] = {
    "value + key": (Stream("v"), Stream("k")),
    "value + query": (Stream("v"), Stream("q")),
    "key + query": (Stream("k"), Stream("q")),
    "value + key + query": (Stream("v"), Stream("k"), Stream("q")),
    "v into k": (Stream("k", source="v", topology=Previous()),),
    "v into q": (Stream("q", source="v", topology=Previous()),),
    "v into k, same layer": (Stream("k", source="v", topology=WithinLayer()),),
}
DEPTHS = {2: 5, 3: 5, 4: 4}
"""Layers, and with how many seeds. In two layers some rules are the same model under two names (value and cumulative,
say): their rows must agree."""


def connections(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``connections``."""
    depths = DEPTHS if size == "full" else {2: 5}
    return [arm for n, seeds in depths.items() for seed in _seeds(size, seeds) for arm in _at_depth(n, seed)]


def _at_depth(n_layers: int, seed: int) -> list[Arm]:
    condition = f"{n_layers} layers"
    rules, combined = (RULES, COMBINED) if n_layers == 2 else (DEEP_RULES, {})
    by_rule: dict[str, Any] = {rule: streams_of(rule, n_layers) for rule in ("classic", *rules)}
    return [
        replace(named(rule, "classic", seed, SMALL, n_layers=n_layers, streams=built), condition=condition)
        for rule, built in {**by_rule, **combined}.items()
    ]


# --- where does it help ----------------------------------------------------------------------------------------------

CONDITIONS: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "each class once in a context": {"burstiness": 1},
    "each class four times": {"burstiness": 4},
    "known classes never bursty": {"p_bursty": 0.0},
    "known classes always bursty": {"p_bursty": 1.0},
    "a quarter novel classes": {"p_novel": 0.25},
    "novel classes only": {"p_novel": 1.0},
    "128 classes": {"n_classes": 128},
    "2,048 classes": {"n_classes": 2_048},
    "one context label in ten wrong": {"label_noise": 0.1},
    "three in ten wrong": {"label_noise": 0.3},
}
COMPARED = ("classic", "value", "value-stop")


def data(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``data``."""
    return [
        Arm(replace(icl_run(v, "small", seed, SMALL), task=replace(PRESETS["small"], **changed)), condition)
        for condition, changed in CONDITIONS.items()
        for seed in _seeds(size, 5)
        for v in COMPARED
    ]


RATES: dict[str, tuple[Optimizer, ...]] = {
    "Adam": tuple(Adam(rate) for rate in (3e-4, 1e-3, 3e-3, 1e-2)),
    "SGD": tuple(SGD(rate) for rate in (0.1, 0.3, 1.0)),
}
SGD_STEPS = 4_000


def optimisers(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``optimisers``."""
    grid = [(kind, optimizer) for kind, those in RATES.items() for optimizer in those]
    return [
        Arm(icl_run(v, "small", seed, _tuned(optimizer)), f"{kind}, rate {optimizer.rate:g}")
        for kind, optimizer in grid
        for seed in _seeds(size, 3)
        for v in CARRIERS
    ]


def _tuned(optimizer: Optimizer) -> Training:
    steps = SGD_STEPS if isinstance(optimizer, SGD) else SMALL.steps
    every = Every(100) if isinstance(optimizer, SGD) else Every(25)
    return replace(SMALL, optimizer=optimizer, steps=steps, evaluate_at=(every,))


# --- runs to look into -----------------------------------------------------------------------------------------------

LOOKED_INTO = replace(TRAINING["small"], checkpoint_at=(Every(50),))


def mechanism(size: Size) -> list[Arm]:
    """Return the arms of the experiment ``mechanism``."""
    return [Arm(icl_run(v, "small", seed, LOOKED_INTO)) for seed in _seeds(size, 5, 1) for v in ("classic", "value")]
