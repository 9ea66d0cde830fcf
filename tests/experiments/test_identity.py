"""What a run is told by: its id, not its name, its directory, or where its corpus lies; and what counts as a seed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from circuits import icl_config, lm_config
from circuits.config.gains import FixedGain
from circuits.config.streams import Stream
from circuits.config.topologies import First
from experiments.questions.ablate import Ablate
from experiments.questions.circuit import FindCircuit
from experiments.questions.explore import Explore
from experiments.questions.gradients import Gradients
from experiments.questions.heads import Heads
from experiments.questions.ioi_tables import paper_table, summary
from experiments.questions.patch import Patch
from experiments.questions.question import Question
from experiments.runs.config import RunConfig, icl_run, lm_run
from experiments.runs.pooling import all_metrics, require_seeds
from experiments.runs.record import RunError
from experiments.runs.removal import to_remove
from experiments.runs.run import Run, runs_in
from experiments.runs.table import runs_table
from experiments.runs.training_config import Every
from experiments.tasks.text import task as text
from experiments.tasks.text.task import TextTaskConfig
from experiments.tasks.tokenizers import save_tokenizer, word_level
from experiments.training.together import train
from tests.experiments.test_training import tiny, trained
from tests.helpers import TINY_LM, rewrite, tiny_lm

WEAK = (Stream("v", gain=FixedGain(1.0, 0.5)),)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["classic", "value", "svformer-stop"])
def test_a_model_with_streams_of_its_own_has_a_name_of_its_own(asked: str) -> None:
    own = [icl_config(asked, "small", streams=WEAK), lm_config("0.2m", asked, streams=WEAK)]
    runs = [icl_run(asked, "small", 0, streams=WEAK), lm_run("0.2m", "repeats", asked, streams=WEAK)]
    names = {config.name for config in own} | {run.variant for run in runs} | {run.model.name for run in runs}
    assert len(names) == 1, "the same streams have the same name"
    assert names.pop().startswith("own-")
    other = (Stream("v", gain=FixedGain(1.0, 0.25)),)
    assert icl_config(asked, "small", streams=other).name != own[0].name


def test_streams_that_a_rule_makes_are_called_as_the_rule() -> None:
    assert icl_config("classic", "small", streams=(Stream("v"),)).name == "value"
    assert icl_run("value", "small", 0, streams=()).variant == "classic"
    assert icl_run("cumulative", "small", 0, n_layers=2).variant == "cumulative"
    assert lm_run(
        "0.2m", "repeats", "classic", streams=(Stream("v", topology=First(), gain=FixedGain(0.5, 0.5)),)
    ).variant == ("resformer-constant")
    assert icl_config("classic", "small", name="mine", streams=WEAK).name == "mine", "whoever says a name has it"


@pytest.mark.parametrize("run", [icl_run("classic", "small", 0), lm_run("0.2m", "repeats", "classic")])
def test_the_name_of_a_rule_is_refused_for_other_streams(run: RunConfig | RunConfig) -> None:
    model = dataclasses.replace(run.model, streams=WEAK)
    with pytest.raises(ValueError, match=r"'classic' is the name of a rule, and this model has other streams; .*'own-"):
        dataclasses.replace(run, model=model)
    assert dataclasses.replace(run, model=model, variant="mine").variant == "mine"


def test_names_say_layers_heads_and_mlp() -> None:
    for config, name in (
        (icl_run("value", "small", 0, n_layers=3), "icl-value-small-3layers-s0-"),
        (icl_run("value", "small", 0, n_heads=2), "icl-value-small-2heads-s0-"),
        (icl_run("value", "small", 0), "icl-value-small-s0-"),
        (lm_run("0.2m", "repeats", "value", n_layers=2, mlp=None), "lm-repeats-value-0.2m-2layers-no-mlp-s0-"),
        (lm_run("0.2m", "repeats", "value"), "lm-repeats-value-0.2m-s0-"),
    ):
        assert config.name == name + config.id


def test_a_name_that_fits_several_runs_is_that_of_the_one_it_says_all_of(tmp_path: Path) -> None:
    usual, other, third = icl_run("value", "small", 0), tiny(), tiny(steps=8)
    for config in (other, third):
        Run.at(tmp_path, config)
    with pytest.raises(
        RunError, match=r"'icl-value-small-s0' fits 2 runs: .* differ in training.steps: (12 / 8|8 / 12)"
    ):
        Run.find("icl-value-small-s0", tmp_path)
    Run.at(tmp_path, usual)
    assert Run.find("icl-value-small-s0", tmp_path).config == usual
    assert Run.find(third.id, tmp_path).config == third
    Run.at(tmp_path, icl_run("value-stop", "small", 0))
    with pytest.raises(RunError, match="'icl' fits 4 runs"):
        Run.find("icl", tmp_path)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_name_ends_where_one_of_its_parts_does(tmp_path: Path, seed: int) -> None:
    longer = Run.at(tmp_path, icl_run("value", "small", 10 * seed + 3))
    stop = Run.at(tmp_path, icl_run("value-stop", "small", 0))
    for name in (f"icl-value-small-s{seed}", "icl-value-stop-small-s", "icl-value-smal", "icl-val"):
        with pytest.raises(RunError, match=f"unknown run '{name}': did you mean"):
            Run.find(name, tmp_path)
        with pytest.raises(RunError, match="unknown run"):
            to_remove([longer.path.name, name], tmp_path)
    for name in ("icl-value", "icl-value-", "icl-value-small", f"icl-value-small-s{seed}3-{longer.config.id[:3]}"):
        assert Run.find(name, tmp_path).path == longer.path
        assert to_remove([name], tmp_path) == [longer.path]
    assert Run.find("icl-value-stop", tmp_path).path == stop.path
    custom = Run.at(tmp_path, tiny(seed=seed))
    assert Run.find(f"icl-value-small-s{seed}", tmp_path).path == custom.path
    assert to_remove([f"icl-value-small-s{seed}"], tmp_path) == [custom.path]


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("icl-value-small", icl_run("value", "small", 1)),
        ("icl-value", icl_run("value", "paper", 0)),
        ("icl", icl_run("value-stop", "small", 0)),
        ("icl-value-small", icl_run("value", "small", 0, n_layers=3)),
    ],
)
def test_of_runs_that_are_called_otherwise_none_is_chosen(tmp_path: Path, name: str, usual: RunConfig) -> None:
    custom = Run.at(tmp_path, tiny())
    Run.at(tmp_path, usual)
    with pytest.raises(RunError, match=f"'{name}' fits 2 runs: .*; give the id"):
        Run.find(name, tmp_path)
    Run.at(tmp_path, icl_run("value", "small", 0))
    assert Run.find("icl-value-small-s0", tmp_path).path != custom.path


def test_a_directory_with_an_earlier_name_is_still_the_run_of_its_id(tmp_path: Path) -> None:
    config = tiny(n_eval=32)
    run = Run.at(tmp_path, config)
    run.path.rename(tmp_path / f"icl-as-it-was-called-{config.id}")
    assert Run.at(tmp_path, config).path.name == f"icl-as-it-was-called-{config.id}"
    assert len(list(tmp_path.iterdir())) == 1
    assert Run.at(tmp_path, tiny(n_eval=33)).path.name == tiny(n_eval=33).name


def test_a_copy_beside_its_run_is_told_as_one(tmp_path: Path) -> None:
    run = Run.at(tmp_path, tiny())
    shutil.copytree(run.path, tmp_path / f"{run.path.name}-copy")
    with pytest.raises(RunError, match=r"fits 2 runs: .*-copy; give the path \(two are one run, copied\)"):
        Run.find(run.config.id, tmp_path)
    assert Run.find(run.path.name, tmp_path).path == run.path


def test_runs_of_all_tasks_are_found_alike_and_one_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    runs = [Run.at(tmp_path, tiny()), Run.at(tmp_path, tiny_lm())]
    for run in runs:
        for name in (run.path.name, run.config.id, run.path.name[:-8], run.path.name.rpartition("-")[0]):
            assert Run.find(name, tmp_path).config == run.config
    assert [run.record["kind"] for run in runs] == ["icl", "lm"]
    with pytest.raises(RunError, match="unknown run"):
        Run.find("nothing", tmp_path)
    rewrite(runs[1], kind="rnn")
    with pytest.raises(RunError, match="is a run of the kind 'rnn', and this version knows icl, vectors, lm"):
        Run.open(runs[1].path)


def test_an_interrupted_run_is_called_so_at_the_step_to_which_it_came(tmp_path: Path) -> None:
    run, asked, seen = Run.at(tmp_path, tiny(evaluate_at=(Every(12),), checkpoint_at=())), iter(range(99)), set[str]()

    def stop() -> bool:
        seen.add(Run.open(run.path).status)
        return next(asked) == 5

    with pytest.raises(KeyboardInterrupt):
        train([run], stop=stop)
    assert seen == {"running"}, "while a process holds it"
    assert runs_table(tmp_path)[["status", "step"]].to_numpy().tolist() == [["interrupted", 5]]
    train([run])
    assert runs_table(tmp_path)[["status", "step"]].to_numpy().tolist() == [["finished", 12]]


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_each_run_counts_once_and_seeds_differ_in_nothing_else(tmp_path: Path) -> None:
    runs = [trained(tmp_path, tiny(seed=seed)) for seed in (0, 1)]
    require_seeds([*runs, trained(tmp_path, tiny("classic"))])
    assert all_metrics(runs).groupby("seed")["run"].nunique().tolist() == [1, 1]
    copied = tmp_path / "copied"
    shutil.copytree(runs[0].path, copied / runs[0].path.name)
    (again,) = Run.under(copied)
    for twice in ([runs[0], runs[0]], [*runs, again]):
        with pytest.raises(ValueError, match=rf"are one run \(id {runs[0].config.id}\), which would count twice"):
            all_metrics(twice)
    longer = trained(tmp_path, tiny(seed=2, steps=16))
    with pytest.raises(ValueError, match=r"both called value \(small\) .* they differ in training.steps: 12 / 16"):
        all_metrics([*runs, longer])
    same_seed = trained(tmp_path, tiny(seed=0, batch_size=16))
    with pytest.raises(ValueError, match=r"differ in training.batch_size: 32 / 16"):
        require_seeds([runs[0], same_seed])


@pytest.mark.parametrize("kind", [Patch, Heads, Gradients, FindCircuit, Explore, Ablate])
def test_every_question_is_asked_of_a_run_once(kind: type[Question], tmp_path: Path) -> None:
    one, other = (Run.at(tmp_path / "runs", tiny(seed=seed)) for seed in (5, 6))
    shutil.copytree(one.path, tmp_path / "copied")
    for twice in ([one, one], [one, other, Run.open(tmp_path / "copied")]):
        with pytest.raises(ValueError, match=rf"are one run \(id {one.config.id}\), which would count twice"):
            kind().answer(twice)
    with pytest.raises(RunError, match="has no checkpoint"):
        kind().answer([one, other])


def test_of_runs_in_several_folders_each_is_found_once(tmp_path: Path) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    wanted = [tiny(seed=seed) for seed in (5, 6, 7)]
    there = {(folder, i): Run.at(folder, wanted[i]) for folder, i in ((begun, 0), (begun, 1), (done, 1))}
    trained(done, wanted[0])
    found = runs_in([begun, done, done], [*wanted, wanted[1]])
    assert [run.path for run in found] == [done / there[begun, 0].path.name, there[begun, 1].path]
    assert [run.path.parent for run in runs_in([done, begun], wanted)] == [done, done]
    assert runs_in([tmp_path], wanted) == []


def test_presets_and_kinds_of_one_variant_are_no_seeds_of_it(tmp_path: Path) -> None:
    small = trained(tmp_path, tiny("classic", seed=3))
    kind = trained(tmp_path, tiny_lm("classic", seed=4, steps=1))
    renamed = Run.at(tmp_path, dataclasses.replace(tiny("classic", seed=5), preset="mine"))
    train([renamed])
    for other in (kind, renamed):
        require_seeds([small, other])
        with pytest.raises(ValueError, match="are both called classic, are of other presets or kinds, and would be"):
            all_metrics([small, other])
        assert len(all_metrics([small])) + len(all_metrics([other]))
    beside = all_metrics([small, trained(tmp_path, tiny("value", seed=3))])
    assert set(beside.variant) == {"classic", "value"}


def prompts(run: str, seed: int, **more: Any) -> pd.DataFrame:
    about = {
        "run": run,
        "seed": seed,
        "variant": "value",
        "size": "0.2m",
        "body": "own",
        "set": "paper",
        "order": "ABBA",
    }
    rows = {
        "prompt": range(4),
        "template": ["a", "a", "b", "b"],
        "measure": "probability",
        "value": [0.1, 0.2, 0.3, 0.4],
    }
    return pd.DataFrame(rows).assign(**(about | more))


@pytest.mark.parametrize("table", [summary, paper_table])
def test_tables_of_prompts_count_a_run_once(table: Any) -> None:
    first, second = prompts("a", 0), prompts("b", 1)
    assert table(pd.concat([first, second])).n.max() == 2
    with pytest.raises(ValueError, match="prompts of a come twice; give each run once"):
        table(pd.concat([first, first]))
    with pytest.raises(ValueError, match=r"several runs are of variant 'value', size '0.2m', seed .* \(a, copy-of-a\)"):
        table(pd.concat([first, prompts("copy-of-a", 0), second]))


# --- corpora ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VALUESTREAM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "corpus.txt").write_text("".join(f"w{i} w{i % 7} w{i % 5}\n" for i in range(40)))
    save_tokenizer(word_level([f"w{i}" for i in range(40)]), folder / "words")
    return folder


def text_run(folder: Path, corpus: str = "corpus.txt", **more: Any) -> RunConfig:
    task = TextTaskConfig.of(str(folder / corpus), str(folder / "words"), n_ctx=8, validation=0.2, **more)
    return lm_run("0.2m", task, "value", 0, dataclasses.replace(TINY_LM, n_eval=4, n_questions=2, steps=2))


def test_a_corpus_is_told_by_what_it_holds_and_not_by_where_it_lies(folder: Path, tmp_path: Path) -> None:
    config = text_run(folder)
    moved = tmp_path / "there" / "deeper"
    shutil.copytree(folder, moved)
    shutil.copy(moved / "corpus.txt", moved / "of_another_name.txt")
    assert text_run(moved).id == text_run(moved, "of_another_name.txt").id == config.id
    with (moved / "corpus.txt").open("a") as file:
        file.write("w1 w2 w3\n")
    shutil.copy(folder / "corpus.txt", folder / "corpus.jsonl")
    assert text_run(moved).id != config.id
    save_tokenizer(word_level([f"w{i}" for i in range(41)]), folder / "words")
    assert text_run(folder).id != config.id, "other tokens, another run"
    assert str(tmp_path) not in Run.at(tmp_path / "runs", config).path.joinpath("run.json").read_text()


def test_a_run_of_texts_goes_on_from_anywhere_without_asking_for_its_tokenizer(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    config = text_run(Path())
    Run.at("../runs", config)
    monkeypatch.chdir("/")
    run = Run.find(config.id, tmp_path / "runs")
    before = run.task().sample(3).tokens
    with run.locked():
        run.keep_tokenizer(run.task().tokenizer)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} was asked for, and it is stored")

    monkeypatch.setattr(text, "tokenizer_named", refuse)
    run = Run.find(config.id, tmp_path / "runs")
    assert run.task().sample(3).tokens.equal(before)
    moved = tmp_path / "moved"
    folder.rename(moved)
    with pytest.raises(
        RunError, match=r"the corpus of .* is not at .*here/corpus.txt; .*--corpus.*place\(corpus=PATH\)"
    ):
        run.task()
    run.place(corpus=moved / "corpus.txt")
    assert Run.find(config.id, tmp_path / "runs").task().sample(3).tokens.equal(before)
    (moved / "corpus.txt").write_text("w1 w2\nw3 w4\n" * 9)
    with pytest.raises(ValueError, match="its content is another"):
        run.task()


def test_what_a_configuration_does_not_say_of_its_files_is_asked_for(folder: Path, tmp_path: Path) -> None:
    bare = TextTaskConfig(str(folder / "corpus.txt"), str(folder / "words"), n_ctx=8)
    config = dataclasses.replace(text_run(folder), task=bare)
    with pytest.raises(ValueError, match=r"holds is not in the configuration.*TextTaskConfig\.of"):
        Run.at(tmp_path, config)
    assert lm_run("0.2m", bare, "value").task == bare.identified()
