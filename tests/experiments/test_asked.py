"""Runs of either kind are found and asked by the same functions; nothing here is trained."""

from __future__ import annotations

from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from circuits import HookedStreamTransformer
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
from experiments.questions.prompts import ioi_task
from experiments.questions.question import Question
from experiments.questions.route_map import MapRoutes
from experiments.runs.config import lm_run
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.sweeps.sweep import sweep
from experiments.tasks.in_context.task import ICLTask
from experiments.tasks.indirect_objects.task import IOITask
from experiments.tasks.nested_relations import NestedTask
from experiments.tasks.registry import PlainIOITask
from experiments.tasks.repeated_tokens import RepeatsTask
from experiments.tasks.stories import StoriesTask
from experiments.tasks.task import TrainedTask
from experiments.tasks.text.task import TextTaskConfig
from experiments.tasks.tokenizers import save_tokenizer, word_level
from tests.experiments.test_training import tiny
from tests.helpers import lm_run_named, run_named, tiny_lm


@pytest.fixture
def icl(tmp_path: Path) -> Run:
    return Run.at(tmp_path, tiny())


def lm(root: Path, task: str = "stories") -> Run:
    return Run.at(root, tiny_lm(task=task))


# --- finding ----------------------------------------------------------------------------------------------------------


def test_runs_of_both_kinds_are_found_by_any_of_their_names(icl: Run, tmp_path: Path) -> None:
    for run in (icl, lm(tmp_path)):
        for name in (run.path, run.path.name, run.config.id, run.path.name[:-3], run.config.id[:6]):
            found = Run.find(name, tmp_path)
            assert type(found) is type(run)
            assert found.path == run.path


@pytest.mark.parametrize("kinds", [("icl",), ("lm",), ("icl", "lm")])
def test_what_is_not_there_is_answered_with_the_nearest(tmp_path: Path, kinds: tuple[str, ...]) -> None:
    names = {"icl": "icl-value-smal-s0", "lm": "lm-storys-value-0.2m-s0"}
    for kind in kinds:
        Run.at(tmp_path, tiny()) if kind == "icl" else lm(tmp_path)
    for kind in kinds:
        with pytest.raises(RunError, match=f"unknown run '{names[kind]}': did you mean .*'{kind}-"):
            Run.find(names[kind], tmp_path)


def test_where_there_are_no_runs_or_several_fit(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there are no runs in .*; train one with 'valuestream train"):
        Run.find("x", tmp_path / "nowhere")
    for seed in (0, 1):
        Run.at(tmp_path, tiny_lm(seed=seed))
    with pytest.raises(RunError, match=r"'lm-' fits 2 runs: lm-ioi-value-0.2m-s0-.*, lm-ioi-value-0.2m-s1-"):
        Run.find("lm-", tmp_path)
    with pytest.raises(RunError, match=r"is not a run directory: it has no run.json"):
        Run.find(tmp_path)


def test_several_that_fit_are_named_where_there_are_runs_of_the_other_kind_too(icl: Run, tmp_path: Path) -> None:
    for seed in (0, 1):
        Run.at(tmp_path, tiny_lm(seed=seed))
    with pytest.raises(RunError, match="'lm-ioi' fits 2 runs"):
        Run.find("lm-ioi", tmp_path)
    with pytest.raises(RunError, match="unknown run 'lm-iio-value-0.2m-s0': did you mean .*'lm-ioi"):
        Run.find("lm-iio-value-0.2m-s0", tmp_path)


# --- asking -----------------------------------------------------------------------------------------------------------


KINDS: dict[str, tuple[type, str, str]] = {
    "icl": (ICLTask, "labels", "ic"),
    "stories": (StoriesTask, "flip", "train"),
    "ioi": (PlainIOITask, "flip", "train"),
    "repeats": (RepeatsTask, "successor", "train"),
    "nested": (NestedTask, "exchange", "train"),
}


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_run_is_asked_by_its_task_and_its_first(name: str, icl: Run, tmp_path: Path) -> None:
    run, (kind, corruption, split) = icl if name == "icl" else lm(tmp_path, name), KINDS[name]
    task = run.asker()
    assert isinstance(task, TrainedTask)
    assert type(task) is kind
    assert (Patch().corrupted(run), Heads().of(run)) == (corruption, split)
    assert (Patch(corruption="abc").corrupted(run), Heads(split="x").of(run)) == ("abc", "x")
    parameters = signature(task.pairs).parameters
    assert (parameters["corruption"].default, parameters["split"].default) == (corruption, split)


def test_pairs_are_those_of_the_task_with_its_first_corruption(icl: Run, tmp_path: Path) -> None:
    assert Patch(n=5).pair(icl).clean.equal(icl.task().pairs(5, "labels").clean)
    assert Patch(n=5, corruption="item").pair(icl).corrupt.equal(icl.task().pairs(5, "item").corrupt)
    for name in ("stories", "ioi", "repeats", "nested"):
        run = lm(tmp_path, name)
        found, expected = Patch(n=5).pair(run), run.task().pairs(5)
        assert found.clean.equal(expected.clean)
        assert found.corrupt.equal(expected.corrupt)
        assert not torch.equal(found.clean, found.corrupt)
    stories = lm(tmp_path)
    assert Patch(n=5, corruption="abc").pair(stories).corrupt.equal(ioi_task(stories).pairs(5, "abc").corrupt)
    for run, near in ((icl, "did you mean 'labels'"), (stories, "there are 'flip', 's2', 'abc'")):
        with pytest.raises(ValueError, match=f"unknown corruption 'lables': {near}"):
            Patch(n=2, corruption="lables").pair(run)


def test_sequences_are_those_of_a_split_with_their_answers(icl: Run, tmp_path: Path) -> None:
    for split in ("ic", "ic2"):
        found, batch = icl.asker().sequences(6, split), icl.task().sample(6, split, 1)
        assert found.clean.equal(batch.inputs)
        assert found.answers.equal(batch.labels)
        assert (found.read_at, found.positions) == (-1, {})
    run = lm(tmp_path)
    for split in ("train", "held-out"):
        found, pair = run.asker().sequences(6, split), ioi_task(run).pairs(6, seed=1, split=split)
        assert found.clean.equal(pair.clean)
        assert found.answers.equal(pair.answers)
        assert isinstance(found.read_at, torch.Tensor)
        assert found.read_at.equal(pair.reads)
        assert list(found.positions) == list(pair.positions)
    assert not run.asker().sequences(6, "train").clean.equal(run.asker().pairs(6).clean), "other draws than of pairs"
    for some, split, near in ((icl, "icc", "did you mean 'ic'"), (run, "templats", "did you mean 'templates'")):
        with pytest.raises(ValueError, match=f"unknown split '{split}': {near}"):
            some.asker().sequences(2, split)


EFFECTS = (Patch, Paths, Attribute, MapRoutes)
NUMBERED = (*EFFECTS, Ablate, Heads, FindCircuit, Logits, Gradients, Explore, IndirectObjects)
QUESTIONS = [Patch(n=4), Attribute(n=4), Paths(n=4), Ablate(n=4), Heads(n=4), FindCircuit(n=4)]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        *((kind(n=n), "n must be a whole number of at least 1") for kind in NUMBERED for n in (0, -3)),
        *((kind(top=0), "top must be a whole number of at least 1") for kind in (*EFFECTS, Logits, ViewAttention)),
        (Logits(top=-1), "top must be a whole number of at least 1"),
        (MapRoutes(row=-1), "row must be a whole number of at least 0"),
        (Attribute(steps=0), "steps must be a whole number of at least 1"),
        (Attribute(check=-1), "check must be a whole number of at least 0"),
        (FindCircuit(steps=-2), "steps must be a whole number of at least 1"),
        (Patch(max_memory=0), "max_memory must be a whole number of at least 1"),
        (Heads(device="tpu9"), "'tpu9' names no device"),
        (Ablate(method=("mean", "zero", "mean")), "--method must differ from each other, and mean came more than once"),
        (Ablate(edges=("each", "each")), "--edges must differ from each other, and each came"),
        (Paths(senders=("L0H0", "L0H0")), "--senders must differ from each other, and L0H0 came"),
        (Paths(routes=("stream", "stream")), "--routes must differ from each other, and stream came"),
        (Patch(components=("v", "z", "v")), "--components must differ from each other, and v came"),
        (Attribute(method="EAP", heads="each"), "--heads: of that the method EAP makes nothing; leave it out"),
        (Attribute(method="exact", check=3), "--check: of that the method exact makes nothing"),
        (Attribute(method="AtP", steps=7), "--steps: of that the method AtP makes nothing"),
        (FindCircuit(method="EAP", steps=7), "--steps says nothing to the method EAP"),
        (ViewAttention(tokens=(1, 2), row=1), "--row is of pairs, and --tokens is a prompt by itself"),
        (Gradients(logged=True, n=8, split="test"), "--n, --split: what was logged is as the training logged it"),
        (Gradients(logged=True, checkpoints=(0,)), "--checkpoints: what was logged is as the training logged it"),
        (Gradients(logged=True, by="pair", dtype="float64"), "--dtype, --by: what was logged is as the training"),
    ],
)
def test_options_that_say_nothing_are_refused_however_it_is_asked(icl: Run, question: Question, message: str) -> None:
    for asked in (lambda: question.ask(icl), lambda: question.answer([icl])):
        with pytest.raises(ValueError, match=message):
            asked()


@pytest.mark.parametrize("kind", [Patch, FindCircuit, MapRoutes, Logits])
def test_a_file_of_pairs_is_asked_without_what_a_task_draws(icl: Run, tmp_path: Path, kind: Any) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"clean": [1, 2, 3], "corrupt": [1, 4, 3], "answer": 2, "wrong": 4}\n')
    with pytest.raises(ValueError, match="--n, --corruption: of what the task draws, and --pairs asks a file"):
        kind(n=64, corruption="nonsense", pairs=pairs).ask(icl)


@pytest.mark.parametrize(
    ("kind", "question"),
    [*(("icl", question) for question in QUESTIONS), *(("lm", one) for one in (*QUESTIONS[:2], Logits(n=4)))],
)
def test_a_question_computes_in_the_dtype_that_it_is_asked_in(
    kind: str, question: Question, trained_runs: Path, lm_runs: Path
) -> None:
    run = run_named(trained_runs, "value") if kind == "icl" else lm_run_named(lm_runs, "value")
    if isinstance(question, Heads):
        question = replace(question, checkpoints=(run.checkpoints()[-1],))
    seen = set[torch.dtype]()
    forward = HookedStreamTransformer.forward
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            HookedStreamTransformer,
            "forward",
            lambda self, *args, **rest: seen.add(self.cfg.dtype) or forward(self, *args, **rest),
        )
        single, double = (replace(question, dtype=dtype).ask(run) for dtype in ("float32", "float64"))
    assert seen == {torch.float32, torch.float64}
    one, other = (frame_of(found) for found in (single, double))
    assert list(one.columns) == list(other.columns)
    numbers = one.select_dtypes("float").columns.intersection(["effect", "accuracy", "value"])
    for name in numbers:
        assert one[name].to_numpy() == pytest.approx(other[name].to_numpy(), abs=2e-2, nan_ok=True)


def frame_of(found: Any) -> pd.DataFrame:
    """The first frame of what a question found."""
    first = found[0] if isinstance(found, tuple) else found
    return first.to_frame()


def test_logits_are_told_by_route(lm_runs: Path, trained_runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = lm_run_named(lm_runs, "value")
    Logits(n=8, top=3).answer([run])
    said = capsys.readouterr().out
    parts, lens = (each.to_frame() for each in Logits(n=8).ask(run))
    assert f"logit_difference {parts.value.sum():.4g}, 8 pairs (flip)" in said
    assert set(parts.route) == {"residual", "own", "stream"}
    end = lens[lens.layer == lens.layer.max()].value.to_numpy()
    assert end == pytest.approx([parts.value.sum()] * 2, abs=1e-4)
    for name, frame in (("logit_attribution", parts), ("logit_lens", lens)):
        kept = pd.read_parquet(run.path / "results" / f"{name}.parquet")
        assert len(kept) == len(frame)
        assert (run.path / "results" / f"{name}.html").is_file()
    with pytest.raises(ValueError, match="a ReLU stack"):
        Logits(n=8).ask(run_named(trained_runs, "value"))


def test_the_gradient_is_split_in_the_dtype_that_it_is_asked_in(trained_runs: Path) -> None:
    run = run_named(trained_runs, "value")
    single, double = (
        Gradients(n=8, checkpoints=(0,), dtype=dtype).ask(run).to_frame() for dtype in ("float32", "float64")
    )
    assert single.whole.to_numpy() == pytest.approx(double.whole.to_numpy(), rel=1e-3)
    assert not single.whole.equals(double.whole)


@pytest.mark.parametrize(
    ("device", "message"),
    [("cpu0", "names no device"), ("cuda:99", r"torch sees \d+ CUDA device\(s\) here; take the device cpu")],
)
def test_a_device_that_is_not_there_is_refused_before_work(device: str, message: str, icl: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Patch(device=device).answer([icl])
    with pytest.raises(ValueError, match=message):
        sweep([tiny(seed=7)], tmp_path / "none", device=device)
    assert not (tmp_path / "none").exists()


# --- indirect objects -------------------------------------------------------------------------------------------------


def test_prompts_on_indirect_objects_are_opened_as_the_texts_of_a_run_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stories", "ioi", "nested"):
        run = lm(tmp_path, name)
        task, tokens = ioi_task(run), run.task().sample(3).tokens
        assert (task.pairs(4).clean[:, 0] == tokens[0, 0]).all()
        assert task.d_vocab == run.task().d_vocab
        assert task.seed == run.config.seed
        assert task.n_ctx == run.config.task.n_ctx
    monkeypatch.setenv("VALUESTREAM_CACHE", str(tmp_path / "cache"))
    run = text_run(tmp_path)
    run.keep_tokenizer(run.task().tokenizer)  # as training does, when it begins
    (tmp_path / "corpus.txt").unlink()
    pair = ioi_task(run).pairs(4)
    first = ioi_task(run).tokenizer.convert_ids_to_tokens(pair.clean[:, 0].tolist())
    assert not set(first) & {"<story>", "<pad>", "<unk>"}, "documents are not opened"
    assert isinstance(run.asker(), IOITask)
    assert Patch().corrupted(run) == "flip"


def text_run(root: Path) -> Run:
    """A run of a corpus in the words of the prompts."""
    from experiments.tasks.sentences.tokenizer import vocabulary

    save_tokenizer(word_level(vocabulary()), root / "words")
    (root / "corpus.txt").write_text("".join(f"The {a} saw the {b}.\n" for a in ("dog", "cat") for b in ("hat", "key")))
    task = TextTaskConfig(str(root / "corpus.txt"), str(root / "words"), n_ctx=40, validation=0.3)
    return Run.at(root, lm_run("0.2m", task, n_ctx=40))


def test_numbers_know_no_names(tmp_path: Path) -> None:
    run = lm(tmp_path, "repeats")
    with pytest.raises(
        ValueError, match="was trained on numbers, which know no names; ask a run of stories, ioi, nested or text"
    ):
        ioi_task(run)
    assert type(run.asker()) is RepeatsTask
