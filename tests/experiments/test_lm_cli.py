"""The commands on language models as a user would give them, on tiny runs of the session."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.commands.train import TrainLM
from experiments.runs.config import LM_TRAINING
from experiments.runs.run import Run
from tests.experiments.test_cli import run
from tests.experiments.test_training import files_of, tiny
from tests.helpers import lm_run_named

TRAIN = ["train", "lm", "--steps", 2, "--batch", 4, "--evaluate-every", 2, "--checkpoint-every", 1, "--workers", 1]


def written(runs: Path, variant: str, analysis: str) -> pd.DataFrame:
    """What a command wrote for one of the session's runs, having seen that it is drawn."""
    folder = lm_run_named(runs, variant).path / "results"
    assert all((folder / f"{analysis}.{kind}").is_file() for kind in ("parquet", "json", "html"))
    return pd.read_parquet(folder / f"{analysis}.parquet")


# --- training ---------------------------------------------------------------------------------------------------------


def test_train_list_and_train_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*TRAIN, "--variants", "classic", "value", "--root", tmp_path]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert out.count("finished") == 2
    assert "validation loss" in out
    done = Run.under(tmp_path)
    assert [r.config.variant for r in done] == ["classic", "value"]
    assert done[0].checkpoints() == [0, 1, 2]
    before = {r.path.name: files_of(r) for r in done}
    times = {f: f.stat().st_mtime_ns for r in done for f in r.path.rglob("*") if f.is_file()}
    status, out, _ = run(capsys, *words)
    assert status == 0, "what is done is done"
    assert {f: f.stat().st_mtime_ns for f in times} == times
    assert {r.path.name: files_of(r) for r in Run.under(tmp_path)} == before
    Run.at(tmp_path, tiny())
    status, out, _ = run(capsys, "runs", "--root", tmp_path)
    assert status == 0
    assert out.count("finished") == 2
    assert "ic accuracy" in out
    assert "icl-value-small-s0" in out
    assert "validation loss" in out


def test_options_of_training_reach_the_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*TRAIN, "--task", "ioi", "--window", 40, "--seed", 3, "--variant", "classic", "--optimizer", "adam"]
    words += ["--rate", 0.01, "--accumulate", 2, "--precision", "bfloat16", "--dropout", 0.1]
    status, out, _ = run(capsys, *words, "--prepare", "--root", tmp_path)
    assert status == 0
    path = Path(out.strip())
    assert path.parent == tmp_path
    config = Run.open(path).config
    assert (config.task.n_ctx, config.seed, config.variant, config.model.dropout) == (40, 3, "classic", 0.1)
    training = config.training
    assert (training.steps, training.batch_size, training.accumulate, training.precision) == (2, 4, 2, "bfloat16")
    assert training.optimizer.rate == 0.01
    assert type(training.optimizer).__name__ == "Adam"
    assert not (path / "metrics.jsonl").exists(), "it is only prepared"
    status, _, err = run(capsys, *words, "--prepare", "--compute", "eager-onednn", "--root", tmp_path)
    assert status == 2
    assert "several processes multiply by torch's default library; leave out --prepare or --compute" in err


@pytest.mark.parametrize("size", LM_TRAINING)
def test_an_optimizer_that_is_the_sizes_own_is_left_as_it_is(size: str) -> None:
    own = LM_TRAINING[size].optimizer
    name: Any = type(own).__name__.lower()
    other: Any = {"adam": "adamw", "adamw": "adam"}[name]
    assert TrainLM(size=size, optimizer=name).changes(LM_TRAINING[size])["optimizer"] in (None, own)
    assert TrainLM(size=size, optimizer=name, rate=0.5).changes(LM_TRAINING[size])["optimizer"] == replace(
        own, rate=0.5
    )
    with pytest.raises(ValueError, match=f"--optimizer {other}: the size {size} is trained by .*; give --rate too"):
        TrainLM(size=size, optimizer=other).changes(LM_TRAINING[size])
    changed = TrainLM(size=size, optimizer=other, rate=0.5).changes(LM_TRAINING[size])["optimizer"]
    assert (type(changed).__name__.lower(), changed.rate) == (other, 0.5)


def test_mistakes_end_with_a_sentence_and_nothing_is_begun(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALUESTREAM_CACHE", str(tmp_path / "cache"))
    cases: list[tuple[list[Any], str]] = [
        (["--size", "0.3m"], "unknown size '0.3m': did you mean '0.2m'"),
        (["--variant", "valeu"], "unknown variant 'valeu': did you mean 'value'"),
        (["--task", "storys"], "unknown task 'storys': did you mean 'stories'"),
        (["--task", "text"], "the task text needs --corpus (a file, a folder or a name on the hub) and --tokenizer"),
        (["--task", "text", "--corpus", "owner/name"], "the task text needs --corpus"),
        (["--task", "text", "--corpus", "x.txt"], "--corpus: there is no file or folder x.txt"),
        (
            ["--corpus", "owner/name"],
            "the task 'stories' makes its own texts and words; leave out --corpus and --tokenizer, or take --task text",
        ),
        (
            ["--task", "text", "--corpus", "x/y", "--tokenizer", "y.json"],
            "--tokenizer: there is no file or folder y.json",
        ),
        (["--task", "text", "--corpus", "x/y", "--tokenizer", "x/y"], "tokenizer 'x/y' could not be loaded"),
        (["--batch", "6", "--accumulate", "4"], "6 windows do not divide into 4 parts; choose numbers that do"),
        (["--window", "8"], "a window must have 24 tokens at least"),
        (["--steps", "0"], "--steps must be a whole number of at least 1, got 0"),
        (["--rate", "0"], "--rate must be a number above 0, got 0.0"),
        (["--column", "body"], "--column is of a corpus of the task text, and the task is stories; leave it out"),
        (["--task", "books", "--corpus", "x/y", "--column", "body"], "--column is of a corpus of the task text"),
        (
            ["--variant", "classic", "--variants", "value", "classic"],
            "--variant classic beside --variants says nothing",
        ),
        (["--seed", 3, "--seeds", 0, 1], "--seed 3 beside --seeds says nothing; leave it out, or put it among them"),
        (["--optimizer", "adam"], "--optimizer adam: the size 0.2m is trained by AdamW, whose rate is not that of"),
    ]
    for words, message in cases:
        status, _, err = run(capsys, *["train", "lm", "--workers", 1, *words])
        assert (status, err[:7]) == (2, "error: "), words
        assert message in err
        assert "Traceback" not in err
    assert not [f for f in tmp_path.rglob("metrics.*") if f.is_file()], "nothing was trained"


# --- indirect objects -------------------------------------------------------------------------------------------------


def test_ioi_of_one_run_and_of_several_matched_and_transplanted(
    capsys: pytest.CaptureFixture[str], lm_runs: Path
) -> None:
    status, out, _ = run(capsys, "ioi", "lm-stories-value", "--n", 4, "--root", lm_runs)
    assert status == 0
    assert "indirect-object identification, 4 prompts a set, evaluation mode, mean [95 % interval]" in out
    assert "prompts" in out
    assert "weights in a" not in out
    frame = written(lm_runs, "value", "ioi")
    assert set(frame.body) == {"own"}
    words = ["ioi", "lm-stories-classic", "lm-stories-value", "--transplant", "--n", 4, "--root", lm_runs]
    status, out, _ = run(capsys, *words)
    assert status == 0
    assert "classic weights in a value body" in out
    assert "value weights in a classic body" in out
    assert "the paper's four prompts, both choices of the subject" in out
    for split in ("train", "names", "templates", "held-out", "paper"):
        assert split in out
    frames = {
        variant: pd.read_parquet(lm_run_named(lm_runs, variant).path / "results" / "ioi.parquet")
        for variant in ("classic", "value")
    }
    assert {variant: set(f.body) for variant, f in frames.items()} == {
        "classic": {"own", "value"},
        "value": {"own", "classic"},
    }
    assert all((lm_runs / f"ioi.{kind}").is_file() for kind in ("json", "html")), "drawn together"


def test_ioi_in_a_body_that_is_named(capsys: pytest.CaptureFixture[str], lm_runs: Path) -> None:
    words = ["ioi", "lm-stories-classic", "--n", 3, "--root", lm_runs, "--by", "order", "--body"]
    status, _, err = run(capsys, *words, "value")
    assert status == 2
    assert "these are weights of 'classic', and 'value' is another architecture" in err
    assert "give --transplant" in err
    status, out, _ = run(capsys, *words, "value", "--transplant", "--step", 6)
    assert status == 0
    assert "ABBA" in out
    assert "BABA" in out
    assert set(written(lm_runs, "classic", "ioi").body) == {"value"}
    status, out, _ = run(capsys, *words, "classic")
    assert status == 0
    own = [*words, "classic", "--transplant"]
    status, out, err = run(capsys, *own)
    assert (status, out) == (2, "")
    assert "--transplant: classic is the body of lm-stories-classic-" in err
    assert "already, so nothing is transplanted; leave it out, or name another --body" in err
    # Of two runs one is moved.
    status, _, _ = run(capsys, "ioi", "lm-stories-value", *own[1:])
    assert status == 0
    assert set(written(lm_runs, "value", "ioi").body) == set(written(lm_runs, "classic", "ioi").body) == {"classic"}
    for body, step, message in (("valeu", 6, "did you mean 'value'"), ("classic", 5, "the nearest is at 6")):
        status, _, err = run(capsys, *words, body, "--step", step)
        assert status == 2
        assert message in err


def test_ioi_of_what_cannot_be_asked(capsys: pytest.CaptureFixture[str], lm_runs: Path, tmp_path: Path) -> None:
    status, _, err = run(capsys, "ioi", "--root", lm_runs)
    assert (status, "name one run or more" in err) == (2, True)
    status, _, err = run(capsys, "ioi", "lm-storys-value", "--root", lm_runs)
    assert "unknown run 'lm-storys-value': did you mean" in err
    status, _, err = run(capsys, "ioi", "x", "--root", tmp_path)
    assert "there are no runs in" in err
    status, _, err = run(capsys, "ioi", Run.at(tmp_path, tiny()).path)
    assert (status, "is a run of the in-context classifier, which reads no text" in err) == (2, True)
    assert run(capsys, *TRAIN, "--task", "repeats", "--root", tmp_path)[0] == 0
    status, _, err = run(capsys, "ioi", "lm-repeats", "--root", tmp_path)
    assert (status, "was trained on numbers, which know no names" in err) == (2, True)


def test_corpus(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "corpus", "--n", 20, "--show", 1)
    assert status == 0
    assert out.count("\n<story>") + out.startswith("<story>") == 1
    assert "share of sentences: ioi" in out
    assert "names held out" in out
    assert run(capsys, "corpus", "--n", 5, "--show", 1)[1].split("\n")[0] == out.split("\n")[0]
    status, out, _ = run(capsys, "corpus", "--n", 20, "--show", 0)
    assert (status, "<story>" in out, "share of sentences: ioi" in out) == (0, False, True)
    for words, name, least in ((["--show", -1], "--show", 0), (["--n", 0], "--n", 1)):
        status, _, err = run(capsys, "corpus", *words)
        assert (status, f"{name} must be a whole number of at least {least}" in err) == (2, True)
    assert run(capsys, "corpus", "--n", 5, "--show", 1, "--seed", 1)[1].split("\n")[0] != out.split("\n")[0]
    none = run(capsys, "corpus", "--n", 5, "--show", 0)[1]
    assert "<story>" not in none


# --- what the classifier is asked too ---------------------------------------------------------------------------------


def test_patch(capsys: pytest.CaptureFixture[str], lm_runs: Path) -> None:
    words = ["patch", "lm-stories-value", "--root", lm_runs, "--n", 4, "--components", "resid_pre", "v"]
    status, out, _ = run(capsys, *words, "--routes", "mixed", "--corruption", "abc", "--top", 2)
    assert status == 0
    assert "4 pairs (abc), logit_difference, denoise; largest effects:" in out
    frame = written(lm_runs, "value", "patch")
    assert set(frame.position) == {"IO", "S1", "S1+1", "S2", "END"}
    assert set(frame.component) == {"resid_pre", "v"}
    end = frame[(frame.component == "resid_pre") & (frame.position == "END") & (frame.layer == 0)]
    assert float(end.effect.iloc[0]) == pytest.approx(0.0, abs=1e-6), "the same word stands there in both"
    status, _, err = run(capsys, *words, "--corruption", "labels")
    assert (status, "unknown corruption 'labels': there are 'flip', 's2', 'abc'" in err) == (2, True)


def test_heads_and_gradients(capsys: pytest.CaptureFixture[str], lm_runs: Path) -> None:
    status, out, _ = run(capsys, "heads", "lm-stories-value", "--root", lm_runs, "--n", 8)
    assert status == 0
    assert "head scores at step 12 of 3 checkpoints, 8 sequences" in out
    assert "s-inhibition" in out
    frame = written(lm_runs, "value", "heads")
    assert set(frame.step) == {0, 6, 12}
    assert {(r.layer, r.head) for r in frame.itertuples()} == {(i, j) for i in range(4) for j in range(4)}
    assert frame.value.between(0, 1).all()
    status, _, err = run(capsys, "heads", "lm-stories-value", "--root", lm_runs, "--n", 8, "--split", "papers")
    assert (status, "unknown split 'papers': did you mean 'paper'" in err) == (2, True)
    status, out, _ = run(capsys, "gradients", "lm-stories-value", "--root", lm_runs, "--n", 4)
    assert status == 0
    assert "4 sequences of train" in out
    assert "stream_share" in out
    assert (written(lm_runs, "value", "gradients").stream > 0).any()
    status, _, err = run(capsys, "gradients", "lm-stories-value", "--root", lm_runs, "--logged")
    assert (status, "logged no gradients; train with --gradients-every" in err) == (2, True)


def test_ablate(capsys: pytest.CaptureFixture[str], lm_runs: Path) -> None:
    words = ["--root", lm_runs, "--n", 3, "--method", "mean"]
    status, out, _ = run(
        capsys, "ablate", "lm-stories-classic", *words, "--split", "held-out", "--from-run", "lm-stories-value"
    )
    assert status == 0
    assert "ablations on 3 sequences of held-out, 'from run' is lm-stories-value" in out
    frame = written(lm_runs, "classic", "ablate")
    assert set(frame.method) == {"mean", "from run"}
    assert (frame.n == 3).all()
    status, _, err = run(capsys, "ablate", "lm-stories-value", *words, "--from-run", "lm-stories-value")
    assert (status, "is the run itself; name another one" in err) == (2, True)
    status, out, _ = run(capsys, "ablate", "lm-stories-value", *words, "--edges", "L0H0.v > L1H0.v (stream)")
    assert status == 0
    assert "L0H0.v > L1H0.v (stream)" in out


def test_paths_attribute_and_circuit(capsys: pytest.CaptureFixture[str], lm_runs: Path) -> None:
    words = ["lm-stories-value", "--root", lm_runs, "--n", 2]
    status, out, _ = run(capsys, "paths", *words, "--senders", "L0H1", "--receivers", "L1H1.v", "logits")
    assert status == 0
    assert "L0H1.v L1H1.v" in out
    assert "interaction" in out
    status, out, _ = run(capsys, "attribute", *words, "--method", "EAP", "--check", 2)
    assert status == 0
    assert "against exact patching of 2 edges" in out
    status, out, _ = run(capsys, "attribute", *words, "--method", "AtP", "--check", 2, "--components", "v")
    assert status == 0
    assert "AtP of 70 sites, 2 pairs" in out
    words += ["--method", "EAP", "--rule", "top", "--replacement", "zero", "--size"]
    status, _, err = run(capsys, "circuit", *words, 1)
    assert (status, "of 1 edges none is on a way from the input to the logits; take more" in err) == (2, True)
    status, out, _ = run(capsys, "circuit", *words, 30)
    assert status == 0
    assert "circuit of" in out
    for analysis in ("paths", "shares", "attribute", "attribute_sites", "circuit"):
        assert len(written(lm_runs, "value", analysis))


def test_a_run_whose_tokenizer_is_gone_says_so(
    capsys: pytest.CaptureFixture[str], lm_runs: Path, tmp_path: Path
) -> None:
    source = lm_run_named(lm_runs, "value").path
    copy = shutil.copytree(source, tmp_path / source.name, ignore=lambda *_: ["results", "tokenizer"])
    status, _, err = run(capsys, "heads", copy, "--n", 2)
    assert status == 2
    assert "tokenizer.json is missing or does not have the hash that run.json states" in err
