"""Tasks and figures of one's own, and models that are trained as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch

from analysis import Pair
from circuits import HookedStreamTransformer, icl_config, lm_config
from circuits.common.families import Origin
from experiments import (
    LM_TRAINING,
    TRAINING,
    Bundle,
    Heads,
    Patch,
    Run,
    RunConfig,
    RunError,
    StopAt,
    TokenBatch,
    TokenTask,
    TokenTaskConfig,
    VectorBatch,
    VectorSizes,
    VectorTask,
    VectorTaskConfig,
    collect,
    icl_run,
    lm_run,
    make_task,
    register_figure,
    register_task,
    runs_table,
    sweep,
    train,
)
from experiments.cli import main
from experiments.studies.registry import EXPERIMENTS, PICTURES
from experiments.tasks.registry import MADE_BY, TASK_KINDS

pytestmark = pytest.mark.usefixtures("forgotten")
VECTORS = replace(TRAINING["small"], steps=3, n_eval=8, batch_size=4)
TOKENS = replace(LM_TRAINING["0.2m"], steps=3, n_eval=8, n_questions=4, batch_size=4)
TINY: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 8}


@dataclass(frozen=True)
class CountingConfig(TokenTaskConfig):
    """How many numbers there are, and how far a window goes."""

    d_vocab: int = 11
    n_ctx: int = 9


class Counting(TokenTask):
    """Windows that count up from any number, and begin again after the last."""

    corruptions: Mapping[str, str] = {"start": "the count starts at another number"}

    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        return TokenBatch(self._count(torch.randint(self.d_vocab, (n, 1), generator=self.generator(split, seed))))

    def pairs(self, n: int, corruption: str = "start", seed: int = 0, split: str = "train") -> Pair:
        start = torch.randint(self.d_vocab, (n, 1), generator=self.generator("pairs", split, seed))
        clean, corrupt = self._count(start), self._count(start + 1)
        return Pair(clean[:, :-1], corrupt[:, :-1], clean[:, -1], corrupt[:, -1])

    def _count(self, start: torch.Tensor) -> torch.Tensor:
        return (start + torch.arange(self.n_ctx)) % self.d_vocab


@dataclass(frozen=True)
class MajorityConfig(VectorTaskConfig):
    """How many signs are to be told the majority of."""

    n_signs: int = 5

    @property
    def sizes(self) -> VectorSizes:
        return VectorSizes(n_tokens=self.n_signs, d_input=3, n_answers=2)


class Majority(VectorTask):
    """Signs along one direction: are more of them positive?"""

    corruptions: Mapping[str, str] = {"signs": "every sign is the other one"}

    def sample(self, n: int, split: str = "train", seed: int = 0) -> VectorBatch:
        inputs = torch.randn(n, self.config.n_signs, 3, generator=self.generator(split, seed))
        return VectorBatch(inputs, (inputs[..., 0].sign().sum(-1) > 0).long())

    def pairs(self, n: int, corruption: str = "signs", seed: int = 0, split: str = "train") -> Pair:
        clean = self.sample(n, "pairs " + split, seed)
        return Pair(clean.inputs, -clean.inputs, clean.labels, 1 - clean.labels)


def configs(tokens: bool) -> list[RunConfig]:
    named = [(variant, seed) for variant in ("classic", "value") for seed in (0, 1)]
    if tokens:
        return [lm_run("0.2m", "counting", variant, seed, TOKENS, **TINY) for variant, seed in named]
    return [icl_run(variant, "small", seed, VECTORS, "majority") for variant, seed in named]


# --- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [True, False], ids=["tokens", "vectors"])
def test_a_task_is_swept_listed_asked_and_stored(tokens: bool, tmp_path: Path) -> None:
    kind, task, name = (CountingConfig, Counting, "counting") if tokens else (MajorityConfig, Majority, "majority")
    assert register_task(kind, task) is kind
    runs = sweep(configs(tokens), tmp_path, 1, progress=False)
    assert [run.status for run in runs] == ["finished"] * 4
    table = runs_table(tmp_path)
    assert set(table.task) == {name}
    assert table.value.notna().all()
    assert len({run.config.id for run in runs}) == 4
    assert runs[0].path.name.startswith(f"{'lm-' if tokens else ''}{name}-classic-")
    [again] = sweep([runs[2].config], tmp_path, 1, progress=False)
    assert again.path == runs[2].path
    effects = Patch(n=4, components=("resid_pre", "v")).ask(runs[1]).to_frame()
    assert (effects.n == 4).all()
    assert len(Heads(n=4).ask(runs[1]))
    stored = runs[0].record["config"]["task"]
    assert (stored["type"], stored["module"]) == (kind.__name__, __name__)
    assert RunConfig.from_plain(runs[0].record["config"]) == runs[0].config


@pytest.mark.usefixtures("untyped")
def test_a_run_of_a_task_that_is_not_registered_or_was_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_task(CountingConfig, Counting)
    run = Run.at(tmp_path, configs(tokens=True)[0])
    with monkeypatch.context() as patched:
        patched.setitem(TASK_KINDS.origins, "CountingConfig", Origin(__name__, "0" * 12))
        with pytest.raises(RunError, match="the task 'CountingConfig' of .* is not as it was"):
            Run.open(run.path)
        assert configs(tokens=True)[0].id != run.record["id"], "the changed task is another run"
    with monkeypatch.context() as patched:
        patched.setattr(TASK_KINDS, "kinds", {})
        with pytest.raises(RunError, match="'CountingConfig' is not registered here; .*test_registered_tasks regist"):
            Run.open(run.path)
    assert Run.open(run.path).config == run.config


class Unseeded(Counting):
    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        return TokenBatch(self._count(torch.randint(self.d_vocab, (n, 1))))


class Same(Counting):
    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        return TokenBatch(self._count(torch.zeros(n, 1, dtype=torch.long)))


class Beyond(Counting):
    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        return TokenBatch(super().sample(n, split, seed).tokens + 5)


class Short(Counting):
    def sample(self, n: int, split: str = "train", seed: int = 0) -> TokenBatch:
        return TokenBatch(super().sample(n, split, seed).tokens[:, 1:])


class Bare(Counting):
    def sample(self, n: int, split: str = "train", seed: int = 0) -> Any:
        return super().sample(n, split, seed).tokens


class Unsplit(Counting):
    splits: Mapping[str, str] = {"train": "counts"}


class Unpaired(Counting):
    def pairs(self, n: int, corruption: str = "start", seed: int = 0, split: str = "train") -> Any:
        return self.sample(n)


class Idle(TokenTask):
    """Nothing."""


class Strange:
    """No task at all."""


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Unseeded, r"Unseeded.sample\(2, 'train'\) gave two batches for equal arguments: draw from self.generator"),
        (Same, "gives one batch whatever the seed, and the seed is the training's step"),
        (Beyond, r"Beyond.sample\(2\) gave token 1\d, and there are d_vocab = 11, from 0"),
        (Short, r"must give token numbers \(n, n_ctx\) = \(2, 9\), got torch.int64 \(2, 8\)"),
        (Bare, "Bare.sample must give an experiments.TokenBatch, got Tensor"),
        (Unsplit, "Unsplit.splits lacks validation, which every training needs"),
        (Unpaired, r"Unpaired.pairs\(2, 'start'\) must give an analysis.Pair, got <class"),
        (Idle, "the task 'counting' is made by a class with every method of TrainedTask, and .*Idle.* lacks sample;"),
        (Strange, "lacks compiled_backward, counted, .* make it from TokenTask or VectorTask"),
        (lambda *_: None, "lacks compiled_backward, .*"),
    ],
)
def test_a_task_that_is_none_is_refused_by_a_sentence(task: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        register_task(CountingConfig, task)
    assert CountingConfig not in MADE_BY, "nothing of it is left"
    assert "CountingConfig" not in TASK_KINDS.kinds


@dataclass(frozen=True)
class StoriesTaskConfig(TokenTaskConfig):
    """It would be called like ours."""

    n_ctx: int = 4


@pytest.mark.usefixtures("untyped")
def test_names_and_kinds_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="StoriesTaskConfig would be the task 'stories', as StoriesConfig is"):
        register_task(StoriesTaskConfig, Counting)
    with pytest.raises(ValueError, match="made from TokenTaskConfig or VectorTaskConfig, .* got <class .*Counting'>"):
        register_task(Counting, Counting)  # type: ignore[type-var] # what is refused
    with pytest.raises(ValueError, match="unknown task 'majorty'"):
        icl_run("value", "small", 0, VECTORS, "majorty")
    register_task(MajorityConfig, Majority)
    with pytest.raises(ValueError, match="unknown task 'majorty': did you mean 'majority'"):
        icl_run("value", "small", 0, VECTORS, "majorty")
    with pytest.raises(ValueError, match="task must be"):
        lm_run("0.2m", MajorityConfig())  # type: ignore[arg-type] # what is refused
    with pytest.raises(ValueError, match="the task's tokens have 5 positions and width 3, the model has 17 and 64"):
        RunConfig(MajorityConfig(), icl_config("value", "small"), VECTORS, 0, "value", "small")


def test_a_task_whose_configuration_needs_arguments_is_given_as_a_value() -> None:
    @dataclass(frozen=True)
    class LongConfig(TokenTaskConfig):
        d_vocab: int
        n_ctx: int = 9

    register_task(LongConfig, Counting)
    assert lm_run("0.2m", LongConfig(12), training=TOKENS, **TINY).task_name == "long"
    with pytest.raises(ValueError, match="unknown task 'long'"):
        lm_run("0.2m", "long")


def test_what_is_given_again_takes_the_place_of_what_was_there() -> None:
    register_task(CountingConfig, Counting)
    first = lm_run("0.2m", "counting", training=TOKENS, **TINY).id

    class Backwards(Counting):
        def _count(self, start: torch.Tensor) -> torch.Tensor:
            return (start - torch.arange(self.n_ctx)) % self.d_vocab

    register_task(CountingConfig, Backwards)
    assert isinstance(make_task(CountingConfig(), 0), Backwards)
    assert lm_run("0.2m", "counting", training=TOKENS, **TINY).id != first
    assert [kind for kind in MADE_BY if kind.__name__ == "CountingConfig"] == [CountingConfig]


# --- models that are trained as they are ------------------------------------------------------------------------------


def test_a_model_is_trained_from_the_weights_that_it_has(tmp_path: Path) -> None:
    register_task(CountingConfig, Counting)
    config = lm_config("0.2m", "value", 11, **TINY)
    model = HookedStreamTransformer(config, seed=7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    run = train(model, "counting", TOKENS, root=tmp_path, progress=False)
    assert run.finished
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items()), "it is not changed itself"
    start, end = run.load_model(0), run.load_model()
    assert all(tensor.equal(before[name]) for name, tensor in start.state_dict().items())
    assert not end.W_E.equal(start.W_E)
    assert train(model, "counting", TOKENS, root=tmp_path, progress=False).path == run.path
    # A configuration starts from the seed's weights: seed 7's model is that of a run of seed 7, and the data differ.
    of_config = train(config, "counting", TOKENS, root=tmp_path, progress=False)
    assert of_config.config.id != run.config.id
    equal = train(HookedStreamTransformer(config, seed=0), "counting", TOKENS, root=tmp_path, progress=False)
    assert equal.config.id != of_config.config.id
    assert (
        equal.metrics()
        .drop(columns="run", errors="ignore")
        .equals(of_config.metrics().drop(columns="run", errors="ignore"))
    ), "the same weights, given or made, are trained alike"
    with torch.no_grad():
        model.W_E[0, 0] += 1e-3
    assert train(model, "counting", TOKENS, root=tmp_path, progress=False).config.id != run.config.id


def test_a_model_of_vectors_keeps_its_name_and_its_gates(tmp_path: Path) -> None:
    model = HookedStreamTransformer(icl_config("value", "small"), seed=3)
    model.set_gate("stop")
    run = train(model, icl_run("value", "small").task, VECTORS, root=tmp_path, progress=False)
    assert run.config.variant == "value-stop"
    assert run.path.name.startswith("icl-value-stop-own-s0-")


def test_a_model_of_one_layer_is_trained_as_one_without_a_stream(tmp_path: Path) -> None:
    architecture = icl_config("classic", "small", n_layers=1, n_heads=2)
    run = train(architecture, "icl", VECTORS, root=tmp_path, progress=False)
    assert run.path.name.startswith("icl-classic-own-1layers-2heads-s0-")
    within = replace(architecture, streams=icl_config("within-layer", "small").streams)
    assert train(within, "icl", VECTORS, root=tmp_path, progress=False).config.variant == "within-layer"


@pytest.mark.usefixtures("untyped")
def test_what_cannot_be_trained_as_it_is_is_refused(tmp_path: Path) -> None:
    model = HookedStreamTransformer(icl_config("value", "small"))
    with pytest.raises(ValueError, match="a HookedStreamTransformer or a ModelConfig, .* got Linear"):
        train(torch.nn.Linear(2, 2), "icl", root=tmp_path)  # type: ignore[arg-type] # what is refused
    with pytest.raises(ValueError, match="unknown task 'ilc': did you mean 'icl'"):
        train(model, "ilc", root=tmp_path)
    with pytest.raises(ValueError, match=r"trained in float32 .* give model.float\(\)"):
        train(model.double(), "icl", root=tmp_path)
    model = model.float()
    model.add_hook("blocks.0.attn.hook_v", lambda value, hook: value)
    with pytest.raises(ValueError, match=r"hooks are attached \(blocks.0.attn.hook_v\), and would not act in train"):
        train(model, "icl", root=tmp_path)
    model.reset_hooks()
    ends = replace(VECTORS, stop_at=StopAt(0.5, "iw", measure="lost"))
    with pytest.raises(ValueError, match="unknown measure to stop by 'lost': did you mean 'loss'"):
        train(model, "icl", ends, root=tmp_path / "new")
    with pytest.raises(ValueError, match="cuda:99 was asked for, and torch sees"):
        train(model, "icl", VECTORS, root=tmp_path / "new", device="cuda:99")
    config = replace(icl_run("value", "small", 0, VECTORS), weights="0" * 64)
    with pytest.raises(RunError, match=r"has none at step 0; give the model to train\(model, task, training\)"):
        sweep([config], tmp_path / "new", 1, progress=False)
    assert not (tmp_path / "new").exists(), "nothing was begun"
    run = Run.at(tmp_path, config)
    with run.locked():
        run.write_checkpoint(model, 0)
    with pytest.raises(RunError, match="at step 0 does not have the weights that its configuration names"):
        sweep([config], tmp_path, 1, progress=False)


# --- figures ----------------------------------------------------------------------------------------------------------


def _last(bundle: Bundle) -> go.Figure:
    metrics = bundle.metrics("my_gap").query("split == 'ic' and measure == 'accuracy'")
    return go.Figure(go.Bar(x=metrics.variant, y=metrics.value))


def test_a_figure_is_swept_collected_and_drawn_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def runs(_size: str) -> list[RunConfig]:
        return [icl_run(v, "small", 0, VECTORS) for v in ("classic", "value")]

    picture = register_figure("my_gap", _last, runs, asks="Does it help?")
    assert EXPERIMENTS["my_gap"].asks == "Does it help?"
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "my_gap", "--workers", "1"]) == 0
    assert collect(["runs"], "results", ["my_gap"]) == {"my_gap": (2, 2)}
    assert main(["figures", "--only", "my_gap", "--bundle", "results", "--out", "drawn", "--images", "no"]) == 0
    assert "wrote 1 figures into drawn" in capsys.readouterr().out
    assert (tmp_path / "drawn" / "my_gap.html").is_file()
    assert len(picture.draw(Bundle.open("results")).data[0].x) == 4  # type: ignore[attr-defined] # a bar
    assert not PICTURES["controls"].drawable(Bundle.open("results"))


@pytest.mark.usefixtures("untyped")
def test_figures_whose_name_is_taken_or_none_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"the figure or experiment 'controls' is there already \(ours\)"):
        register_figure("controls", _last)
    with pytest.raises(ValueError, match="a figure's name is letters, digits"):
        register_figure("../up", _last)
    with pytest.raises(ValueError, match="draw of the figure 'mine' is a function, got 3"):
        register_figure("mine", 3)  # type: ignore[arg-type] # what is refused
    with pytest.raises(ValueError, match="unknown experiment 'contorls': did you mean 'controls'"):
        register_figure("mine", _last, experiments=("contorls",))
    register_figure("mine", _last, experiments=("controls",))
    assert PICTURES["mine"].drawable(Bundle.open())
    register_figure("mine", _last)
    monkeypatch.setattr(_last, "__module__", "elsewhere")
    with pytest.raises(ValueError, match=r"'mine' is there already \(.*test_registered_tasks\)"):
        register_figure("mine", _last)
