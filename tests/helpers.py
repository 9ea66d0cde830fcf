"""Small models, inputs and runs for the tests."""

from __future__ import annotations

import dataclasses
import fcntl
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from analysis import Pair
from circuits import HookedStreamTransformer, ModelConfig, SigmoidGain, Stream, Tables, icl_config, variants
from circuits.config.layers import MLP, Backout, QKNorm, ResidualScalars, Rotary, Smear
from circuits.config.parts import NormalInit, ReluStack, TokenInputs, Unembedding, VectorInputs
from circuits.last_position import SplitTokens
from experiments.runs.config import TRAINING, RunConfig, icl_run, lm_run
from experiments.runs.run import Run
from experiments.runs.training_config import AdamW, Evaluation, Every, TokenTraining
from experiments.studies.committed_results import Bundle
from experiments.sweeps.sweep import sweep
from experiments.tasks.in_context.task import ICLTask
from experiments.tasks.kinds import TokenTaskConfig
from experiments.tasks.sentences import vocabulary as words
from experiments.training.evaluations import Evaluations
from experiments.training.one_process import Alone
from experiments.training.together import train
from experiments.training.trainer import Trainer
from tests.checked import unchecked

ALL = [name for name in variants.names() if not variants.get(name)[0].of_tokens]
"""Those that fit models of vectors, too."""
STREAMED = [name for name in ALL if name != "classic"]
FULL = [rule.name for rule in variants.BASE if not rule.of_tokens]
"""Every rule with its gates open."""
LINEAR = [v for v in FULL if not any(s.gain.depends_on_input for s in variants.streams(v, 2))]
"""Those of FULL that are one linear map for all inputs."""
OF_TOKENS = [rule.name for rule in variants.BASE if rule.of_tokens]


def vector_config(variant: str, n_layers: int = 2, **overrides: Any) -> ModelConfig:
    """The in-context classifier in miniature: width 12, 7 positions, one head."""
    fields: dict[str, Any] = {"d_model": 12, "n_ctx": 7, "inputs": VectorInputs(12), "readout": ReluStack(5)}
    return icl_config(variant, "small", n_layers=n_layers, **(fields | overrides))


def token_config(variant: str = "value", n_layers: int = 3, **overrides: Any) -> ModelConfig:
    """A GPT-2-like model in miniature: 4 heads, MLP, norms, biases, learned positions."""
    fields: dict[str, Any] = {
        "n_layers": n_layers,
        "n_heads": 4,
        "d_model": 24,
        "n_ctx": 16,
        "inputs": TokenInputs(19),
        "readout": Unembedding(19),
        "mlp": MLP(32),
        "normalization": "LNPre",
        "streams": variants.streams(variant, n_layers),
        "name": variant,
    }
    everything: dict[str, Any] = {"init": NormalInit(0.3)} | fields | overrides
    return ModelConfig(**everything)


RMS: dict[str, Any] = {"normalization": "RMS", "norm_eps": 1e-6, "biases": False}
MAKES: dict[str, dict[str, Any]] = {
    "llama": {
        **RMS,
        "positions": "none",
        "rotary": Rotary(),
        "n_key_value_heads": 2,
        "mlp": MLP(32, "silu", gated=True, biases=False),
    },
    "qwen": {
        **RMS,
        "biases": True,
        "output_bias": False,
        "positions": "none",
        "rotary": Rotary(1e6, stretch=2.0),
        "n_key_value_heads": 1,
        "qk_norm": QKNorm(weights="shared"),
        "mlp": MLP(32, "silu", gated=True, biases=False),
        "windows": (3, None, 4),
    },
    "gemma": {
        **RMS,
        "embedding_norm": "RMS",
        "position_scale": 0.5,
        "rotary": Rotary(fraction=2 / 3, adjacent_pairs=True),
        "qk_norm": QKNorm("L2", weights="per head", after_rotary=True),
        "attention_scale": 3.0,
        "score_softcap": 2.0,
        "logit_softcap": 3.0,
        "mlp": MLP(32, "gelu_new", gated=True),
    },
    "nanochat": {
        "normalization": "RMSPre",
        "norm_eps": None,
        "embedding_norm": "RMSPre",
        "biases": False,
        "positions": "none",
        "rotary": Rotary(1e5, backwards=True),
        "qk_norm": QKNorm(after_rotary=True, scale=1.2, eps=None),
        "n_key_value_heads": 2,
        "mlp": MLP(32, "relu2", biases=False),
        "windows": (4, 3, None),
        "logit_softcap": 2.0,
        "residual_scalars": ResidualScalars((1.15, 0.8), (0.2, -0.3)),
        "smear": Smear(channels=5, gain=0.7),
        "backout": Backout(1, 0.4),
    },
}
"""What models of other makes have beside a GPT-2, in miniature: each part in one of them at least."""


OF_X0 = "projections of x0"
"""What :func:`made` calls a stream of tables that are of the residual stream at the start."""


def made(make: str, variant: str = "classic", n_layers: int = 3, **overrides: Any) -> HookedStreamTransformer:
    """A model of another make with the streams of a variant."""
    fields = MAKES[make] | overrides
    if variant == OF_X0:
        tables = Tables(((1, 0), (2, 2)), of="x0")
        variant, fields = "classic", {"streams": (Stream("v", topology=tables, gain=SigmoidGain(2.0, 5)),), **fields}
    windows = fields.get("windows")
    return model_of(token_config(variant, n_layers, **fields | ({"windows": windows[:n_layers]} if windows else {})))


def model_of(config: ModelConfig, seed: int = 0) -> HookedStreamTransformer:
    """A model in double precision and evaluation mode, with biases and norms that are not at their trivial start."""
    model = HookedStreamTransformer(config, seed=seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rsplit(".", 1)[-1].startswith(("b", "w")) and ".mix." not in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).double())
    return model


def inputs_for(config: ModelConfig, batch: int = 3, seed: int = 0, length: int | None = None) -> Tensor:
    """Random inputs of the right kind: tokens, or vectors with one-hot positions where the model wants them."""
    generator = torch.Generator().manual_seed(seed)
    length = length or min(config.n_ctx, 7)
    if isinstance(config.inputs, TokenInputs):
        return torch.randint(config.inputs.d_vocab, (batch, length), generator=generator)
    vectors = torch.randn(batch, length, config.inputs.d_input, generator=generator).double()
    if config.positions == "one-hot":
        vectors[..., : config.n_ctx] = torch.eye(config.n_ctx).double()[:length]
    return vectors


def random_pair(model: HookedStreamTransformer, n: int = 6, seed: int = 3) -> Pair:
    """Random clean and corrupt inputs of a model's own kind, with answers that differ."""
    clean, corrupt = inputs_for(model.config, n, seed=seed), inputs_for(model.config, n, seed=seed + 1)
    if clean.is_floating_point():
        clean, corrupt = clean.to(model.cfg.dtype), corrupt.to(model.cfg.dtype)
    answers = torch.arange(n) % model.config.readout.d_vocab_out
    return Pair(clean, corrupt, answers, (answers + 1) % model.config.readout.d_vocab_out)


def build(variant: str, kind: str = "vectors", n_layers: int = 2, **overrides: Any) -> HookedStreamTransformer:
    """A model of a variant: ``vectors`` (the toy) or ``tokens`` (GPT-2-like)."""
    config = vector_config if kind == "vectors" else token_config
    return model_of(config(variant, n_layers, **overrides))


def twin(model: HookedStreamTransformer, **changes: Any) -> HookedStreamTransformer:
    """The same weights under a configuration with some fields changed; parameters must agree by name."""
    other = HookedStreamTransformer(dataclasses.replace(model.config, **changes)).double().eval()
    other.load_state_dict(model.state_dict())
    return other


def double_tokens(tokens: SplitTokens) -> SplitTokens:
    """Fast-path inputs in double precision."""
    parts = {name: getattr(tokens, name).double() for name in ("x", "items", "table")}
    return dataclasses.replace(tokens, **parts)


def gradients(model: HookedStreamTransformer, loss: Tensor) -> dict[str, Tensor]:
    """Every parameter's gradient, zero where there is none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}


SHORT = dataclasses.replace(
    TRAINING["small"], steps=1_000, evaluate_at=(Every(100),), checkpoint_at=(Every(500),), n_eval=256
)
"""Long enough for both variants to pass their transition."""


def train_small(root: Path) -> None:
    """Train what the session's fixture needs, in one process at a time; two updates have the types of two thousand."""
    with (root / ".training").open("w") as lock, unchecked():
        fcntl.flock(lock, fcntl.LOCK_EX)
        sweep([icl_run(v, "small", 0, SHORT) for v in ("classic", "value")], root, workers=1, progress=False)


def run_named(root: Path, variant: str) -> Run:
    """One of the session's runs."""
    return Run.at(root, icl_run(variant, "small", 0, SHORT))


def small_task(seed: int = 0) -> ICLTask:
    """The small preset's task."""
    return ICLTask("small", seed=seed)


def rewrite(run: Run, **changes: Any) -> None:
    """Change a run's record as one would who also gave it its hash."""
    run.record |= changes
    run.write_record()


# --- language models --------------------------------------------------------------------------------------------------

TINY_LM = TokenTraining(
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
) -> RunConfig:
    """A run of a few updates of the smallest model, asked little."""
    changes = {"n_eval": 4, "n_questions": 2} | changes
    return lm_run("0.2m", task, variant, seed, dataclasses.replace(TINY_LM, **changes), dropout=dropout)


def trained_lm(root: Path, config: RunConfig) -> Run:
    """The run of a configuration, brought to its end."""
    train([Run.at(root, config)])
    return Run.at(root, config)


def trainer_of(run: Run, group: Alone | None = None) -> Trainer:
    """The trainer of a run by itself."""
    task = run.task()
    return Trainer(run, task, task.evaluation_sets(run.config.training), group=group)


def small_lm(variant: str) -> RunConfig:
    """One of the session's runs."""
    return tiny_lm(variant, task="stories", n_eval=8, n_questions=6)


def train_small_lms(root: Path) -> None:
    """Train what the session's fixture needs, in one process at a time."""
    with (root / ".training").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for variant in ("classic", "value"):
            trained_lm(root, small_lm(variant))


def lm_run_named(root: Path, variant: str) -> Run:
    """One of the session's runs."""
    return Run.at(root, small_lm(variant))


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


# --- learning curves --------------------------------------------------------------------------------------------------


Curve = tuple[str, int, np.ndarray, Callable[[Any], np.ndarray]]
"""Preset, planned steps, the steps at which a committed run was evaluated, and its curve between them, smooth."""


def committed_curves() -> list[Curve]:
    """In-context accuracies of the committed runs of the classifier that were evaluated as their presets say."""
    bundle = Bundle.open()
    metrics = bundle.frame("metrics")
    watched = metrics[(metrics.split == "ic") & (metrics.measure == "accuracy")]
    runs = bundle.runs.set_index("run").loc[lambda runs: runs.preset.isin(["paper", "small"])]
    found = []
    for run, rows in watched[watched.run.isin(runs.index)].groupby("run", sort=False, observed=True):
        steps, every = rows.step.to_numpy(), {"paper": 500, "small": 25}[runs.preset[run]]
        if len(steps) > 1 and steps[1] == every:
            curve = PchipInterpolator(steps, rows["value"].to_numpy())
            found.append((str(runs.preset[run]), int(runs.steps[run]), steps, curve))
    return found


def evaluated(curve: Callable[[float], Any], total: int, *schedules: Evaluation, last: int | None = None) -> list[int]:
    """The steps at which a run of that curve is evaluated, up to the step at which it ended."""
    evaluations, end = Evaluations(schedules, total), total if last is None else last
    while 0 <= evaluations.next <= end:
        evaluations.add(float(curve(evaluations.next)))
    return evaluations.steps + [end] * (evaluations.steps[-1] < end)
