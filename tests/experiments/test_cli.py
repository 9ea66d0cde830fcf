"""Every command as a user would give it, on runs of the session."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.cli import COMMANDS, main
from experiments.parsing import parsed
from experiments.questions.paths import Paths
from experiments.runs.run import Run
from tests.helpers import run_named


def run(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out, said.err


def files(run: Run, analysis: str) -> list[bool]:
    return [(run.path / "results" / f"{analysis}.{kind}").is_file() for kind in ("parquet", "json", "html")]


def test_variants_and_describe(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "variants")
    assert status == 0
    assert "arXiv 2412.15113" in out
    status, out, _ = run(capsys, "describe", "value-stop", "--layers", 3)
    assert status == 0
    assert "v1" in out
    assert "stop" in out
    widths = {preset: run(capsys, "describe", "key", *preset)[1] for preset in ((), ("--preset", "paper"))}
    assert len({*widths.values()}) == 1
    assert widths[()] != run(capsys, "describe", "key", "--preset", "small")[1]
    assert run(capsys, "describe", "nanochat")[0] == 0


def test_train_list_and_train_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "icl", "--variants", "classic", "value", "--seeds", 0, 1, "--steps", 30, "--root", tmp_path]
    status, out, _ = run(capsys, *words, "--workers", 1)
    assert status == 0
    assert out.count("finished") == 4
    status, out, _ = run(capsys, "runs", "--root", tmp_path)
    assert out.count("finished") == 4
    status, out, _ = run(capsys, *words)
    assert status == 0, "what is done is done"


def test_patch(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    status, out, _ = run(capsys, "patch", "icl-value-small-s0", "--root", trained_runs, "--n", 16, "--top", 3)
    assert status == 0
    assert "16 pairs (labels), logit_difference, denoise; largest effects:" in out
    assert "matching label" in out
    value = run_named(trained_runs, "value")
    assert all(files(value, "patch"))
    frame = pd.read_parquet(value.path / "results" / "patch.parquet")
    assert set(frame.variant) == {"value"}
    largest = frame[(frame.component == "state") & (frame.position == "matching label") & (frame.layer == 1)]
    assert float(largest.effect.iloc[0]) == pytest.approx(1.0, abs=0.1)
    assert (trained_runs / "plotly.min.js").is_file(), "HTML files share one"


def test_patch_by_head_route_and_direction(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    words = ["patch", "icl-value", "--root", trained_runs, "--n", 8, "--components", "v", "--routes", "mixed", "own"]
    status, out, _ = run(
        capsys, *words, "--heads", "each", "--direction", "noise", "--corruption", "item", "--step", 500
    )
    assert status == 0
    assert "8 pairs (item), logit_difference, noise" in out


def test_patch_together(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    words = ["patch", "icl-value", "--root", trained_runs, "--n", 8, "--components", "resid_pre", "--together"]
    status, out, _ = run(capsys, *words, "resid_pre", "v.residual", "--metric", "loss")
    assert status == 0
    assert "resid_pre + v" in out
    frame = pd.read_parquet(run_named(trained_runs, "value").path / "results" / "patch.parquet")
    joint = frame[(frame.route == "- + residual") & (frame.position == "matching label")]
    assert list(joint["layer"]) == [1], "nothing comes in at layer 0"
    assert float(joint.effect.iloc[0]) == pytest.approx(1.0, abs=0.1)
    status, _, err = run(capsys, *words, "resid_pre", "v.residul")
    assert status == 2
    assert "unknown route 'residul': did you mean 'residual'" in err


def test_heads_ablate_gradients(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    for analysis, word in (("heads", "tila"), ("ablate", "gradient cut"), ("gradients", "stream_share")):
        status, out, _ = run(capsys, analysis, "icl-value", "--root", trained_runs, "--n", 32)
        assert status == 0
        assert word in out
        assert all(files(run_named(trained_runs, "value"), analysis))


def test_paths_by_a_route_that_a_model_does_not_have_are_refused(
    capsys: pytest.CaptureFixture[str], trained_runs: Path
) -> None:
    words = ["--root", trained_runs, "--n", 4, "--routes"]
    status, _, err = run(capsys, "paths", "icl-classic", *words, "stream")
    assert (status, "--routes stream: no path of icl-classic-small-s0-" in err) == (2, True)
    assert "goes by that; name residual, as it has no stream" in err
    assert run(capsys, "paths", "icl-value", *words, "stream")[0] == 0
    with pytest.raises(ValueError, match="--routes without a name: .*; name residual, stream or both"):
        Paths(n=4, routes=()).ask(run_named(trained_runs, "value"))


def test_ablate_by_other_methods_and_from_another_run(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    words = ["ablate", "icl-classic", "--root", trained_runs, "--n", 32, "--method", "resample"]
    status, out, _ = run(capsys, *words, "--from-run", "icl-value")
    assert status == 0
    assert re.search(r"'from run' is icl-value-small-s0-\w+ at its last checkpoint", out)
    frame = run_named(trained_runs, "classic").results("ablate")
    assert set(frame.method) == {"resample", "from run"}
    words[1] = "icl-value"
    for edges, message in (
        ([], r"that model \(classic\) has no such place, blocks.\d.attn.hook_v_\w+; take a model of the same"),
        (["--edges", "each"], r"the other model \(classic\) has other edges than this one \(value\)"),
    ):
        status, out, err = run(capsys, *words, "--from-run", "icl-classic", *edges)
        assert (status, out) == (2, "")
        assert re.match(rf"error: .*{message}", err), "before a word on what it takes"
    words[1] = "icl-classic"
    for other, message in (
        ("icl-classic", "is the run itself; name another one"),
        ("icl-nothing", "unknown run"),
    ):
        status, _, err = run(capsys, *words, "--from-run", other)
        assert status == 2
        assert message in err


def test_train_with_interventions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "interventions.json"
    words = ["train", "icl", "--steps", 4, "--root", tmp_path / "runs", "--workers", 1, "--interventions", file]
    for text, message in (
        ("{", "interventions.json is not JSON (Expecting property name enclosed in double quotes"),
        ("[{]", 'it holds a list, as [{"site": {"layer": 0, "component": "pattern"}'),
        ("{}", "holds no list of interventions; put brackets around"),
        ('[{"operation": {"type": "Zero"}}]', "an intervention needs the field 'site'"),
        ('[{"site": {"layer": 5, "component": "v"}, "operation": {"type": "Zero"}}]', "the model has 2 layers"),
    ):
        file.write_text(text)
        status, _, err = run(capsys, *words)
        assert status == 2
        assert message in err
    assert not (tmp_path / "runs").exists(), "nothing was begun"
    file.write_text('[{"site": {"layer": 0, "component": "v"}, "operation": {"type": "Zero"}, "first": 1, "last": 3}]')
    assert run(capsys, *words)[0] == 0
    (done,) = Run.under(tmp_path / "runs")
    assert [record["fired"] for record in done.record["interventions"]] == [2]


def test_a_training_takes_from_checkpoints_that_have_what_is_taken(
    capsys: pytest.CaptureFixture[str], trained_runs: Path, tmp_path: Path
) -> None:
    classic = run_named(trained_runs, "classic").path / "checkpoints" / "step_00000000.safetensors"
    for place, file, message in (
        ({"layer": 1, "component": "v", "route": "residual"}, classic, "that model (classic) has no such place"),
        ({"layer": 1, "component": "z"}, tmp_path / "none.safetensors", "there is no checkpoint at"),
        ({"layer": 1, "component": "z"}, classic, None),
    ):
        listed = tmp_path / "interventions.json"
        listed.write_text(json.dumps([{"site": place, "operation": {"type": "FromRun", "checkpoint": str(file)}}]))
        words = ["train", "icl", "--steps", 2, "--workers", 1, "--root", tmp_path / "runs", "--interventions", listed]
        status, _, err = run(capsys, *words)
        assert (status, (tmp_path / "runs").exists()) == ((0, True) if message is None else (2, False))
        assert message is None or message in err


def test_paths_attribute_circuit(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    value = run_named(trained_runs, "value")
    words = ["icl-value", "--root", trained_runs, "--n", 16]
    status, out, _ = run(capsys, "paths", *words)
    assert status == 0
    assert "L0H0.v L1H0.v   stream" in out
    assert "interaction" in out
    for method, line in (
        ("EAP-IG", "L0H0.v > L1H0.v (stream)"),
        ("AtP+QK", "matching label"),
        ("exact", "of 14 edges"),
    ):
        check = [] if method == "exact" else ["--check", 4]
        status, out, _ = run(capsys, "attribute", *words, "--method", method, *check)
        assert status == 0
        assert line in out
        assert ("against exact patching of 4" in out) is (method != "exact")
    status, out, _ = run(capsys, "circuit", *words, "--checkpoints")
    assert status == 0
    assert "L0H0.v > L1H0.v (stream)" in out
    assert "the same circuit at the run's checkpoints" in out
    for analysis in ("paths", "shares", "attribute", "attribute_sites", "circuit", "circuit_steps"):
        assert all(files(value, analysis)), analysis
    frame = pd.read_parquet(value.path / "results" / "circuit.parquet")
    assert frame.kept.sum() == frame.edge_minimality.notna().sum() > 0
    assert frame.faithfulness.iloc[0] > 0.9


def test_ablating_edges(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    words = ["ablate", "icl-value", "--root", trained_runs, "--n", 32, "--edges"]
    status, out, _ = run(capsys, *words, "each")
    assert status == 0
    assert "input > L0H0.v (residual)" in out
    assert all(files(run_named(trained_runs, "value"), "ablate_edges"))
    status, out, _ = run(capsys, *words, "L0H0.v > L1H0.v (stream)", "L0H0 > L1H0.k (residual)", "--method", "resample")
    assert status == 0
    assert "L0H0.v > L1H0.v (stream) + L0H0 > L1H0.k (residual)" in out
    status, _, err = run(capsys, *words, "L0H0.v > L1H0.v")
    assert status == 2
    assert "or 'L0H0.v > L1H0.v (stream)'" in err


def test_circuits_of_two_runs_and_of_the_classic_one(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    words = ["--root", trained_runs, "--n", 16, "--rule", "greedy", "--size", 6, "--replacement", "mean"]
    status, out, _ = run(capsys, "circuit", "icl-classic", "icl-value", *words)
    assert status == 0
    assert "overlap of the runs' circuits" in out
    assert "(stream)" not in out.split("icl-value")[0]
    status, out, _ = run(capsys, "paths", "icl-classic", "--root", trained_runs, "--n", 16, "--senders", "L0H0")
    assert status == 0
    assert "L0H0   L1H0.k   residual" in out
    status, _, err = run(capsys, "paths", "icl-classic", "--root", trained_runs, "--senders", "H0")
    assert status == 2
    assert "a sender is a head, as in L0H1, not 'H0'" in err
    status, _, err = run(capsys, "circuit", "icl-value", "--root", trained_runs, "--rule", "greedi")
    assert "unknown rule 'greedi': did you mean 'greedy'" in err
    status, _, err = run(capsys, "circuit", "icl-value", "--root", trained_runs, "--threshold", "0")
    assert "threshold must be a number above 0, got 0.0" in err
    status, _, err = run(
        capsys, "ablate", "icl-value", "--root", trained_runs, "--edges", "each", "--from-run", "icl-value"
    )
    assert "is the run itself; name another one" in err
    status, _, err = run(capsys, "attribute", "icl-value", "--root", trained_runs, "--method", "EAP-GI")
    assert "unknown method 'EAP-GI': did you mean 'EAP-IG'" in err


def test_no_half_of_a_result_is_left(
    capsys: pytest.CaptureFixture[str], trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no paths")

    copy = shutil.copytree(run_named(trained_runs, "value").path, tmp_path / "copy", ignore=lambda *_: ["results"])
    monkeypatch.setattr("figures.models.paths.path_heat_maps", fails)
    status, _, err = run(capsys, "paths", copy, "--n", 4)
    assert status == 2
    assert "no paths" in err
    assert [file.name for file in (copy / "results").iterdir()] == ["unfinished"], "what was measured is kept"


def test_no_runs_yet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, _ = run(capsys, "runs", "--root", tmp_path)
    assert status == 0
    assert "train one with: valuestream train icl" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "icl", "--variant", "valeu"], "unknown variant 'valeu': did you mean 'value'"),
        (["train", "icl", "--preset", "smal"], "unknown preset 'smal': did you mean 'small'"),
        (["describe", "kye"], "unknown variant 'kye': did you mean 'key'"),
        (["demo", "--size", "standrad"], "unknown size 'standrad': did you mean 'standard'"),
        (["heads", "nothing"], "there are no runs in"),
        (["circuit"], "name one run or more"),
        (["describe", "value", "--preset", "papre"], "unknown preset 'papre': did you mean 'paper'"),
        (["describe", "value", "--preset="], "unknown preset ''"),
        (["describe", "nanochat", "--preset", "small"], "--preset small is of the classifier, which reads vectors"),
        (
            ["describe", "nanochat-frozen", "--preset", "paper"],
            "and nanochat-frozen carries value embeddings of tokens",
        ),
        (["train", "icl", "--variant", "value", "--variants", "key"], "--variant value beside --variants says nothing"),
        (["train", "icl", "--seeds", "3", "--seed=0"], "--seed 0 beside --seeds says nothing; leave it out"),
        (["train", "icl", "--variants", "key", "value", "key"], "--variants must differ from each other, and key came"),
        (["train", "lm", "--seeds", "4", "4"], "--seeds must differ from each other, and 4 came more than once"),
        (["train", "lm", "--column", "text"], "--column is of a corpus of the task text, and the task is stories"),
        (["describe", "value", "--layers", "1"], "has no layer to read in a model of 1 layer"),
        (["train", "icl", "--layers", "1", "--variant", "gemma-sharing"], "has no layer to read in a model of 1 layer"),
        (["train", "icl", "--evaluate-levels", "2", "--steps", "5"], "which lies between 0 and 1"),
        (["train", "icl", "--prepare"], "is of a task of vectors, and several processes train one model of tokens"),
    ],
)
def test_mistakes_end_with_a_sentence_and_status_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *words)
    assert status == 2
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("run.json")), "nothing was begun"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["patch", "--pairs", "PAIRS", "--n", 128], "--n: of what the task draws, and --pairs asks a file; leave one"),
        (["heads", "--n=256", "--pairs", "PAIRS"], "--n: of what the task draws, and --pairs asks a file"),
        (["attribute", "--method", "exact", "--check", 64], "--check: of that the method exact makes nothing"),
        (["attribute", "--heads", "all"], "--heads: of that the method EAP-IG makes nothing"),
        (["circuit", "--method", "exact", "--steps", 5], "--steps says nothing to the method exact"),
        (["attention", "--tokens", 1, 2, "--row", 0], "--row is of pairs, and --tokens is a prompt by itself"),
        (["gradients", "--logged", "--by", "total"], "--by: what was logged is as the training logged it"),
        (["explore", "--step", -1], "--step: every checkpoint is measured"),
    ],
)
def test_a_default_that_is_typed_is_asked_for_like_any_other_value(
    capsys: pytest.CaptureFixture[str], trained_runs: Path, tmp_path: Path, words: list[Any], message: str
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"clean": [1, 2, 3], "corrupt": [1, 4, 3], "answer": 2, "wrong": 4}\n')
    told = [pairs if word == "PAIRS" else word for word in words]
    status, out, err = run(capsys, told[0], "icl-value", "--root", trained_runs, *told[1:])
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {message}")


def test_what_was_typed_is_noted_of_each_command() -> None:
    def read(*words: str) -> Any:
        return parsed(COMMANDS, words, "")[0].keywords["question"]

    assert read("patch", "x").given("n", "step", "metric") == []
    assert read("patch", "x", "--n", "128", "--step=-1").given("n", "step", "metric") == ["--n", "--step"]
    assert read("patch", "x", "--max_memory", "5", "--metric", "loss").given("max_memory", "metric", "n") == [
        "--metric",
        "--max-memory",
    ]
    assert read("explore", "x", "--no-gradients").given("gradients") == ["--gradients"]
    assert read("explore", "x", "--gradients").given("gradients") == ["--gradients"]
    assert read("explore", "x").given("gradients") == []


def test_mistakes_on_a_run(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    cases = {
        ("--metric", "logit_diff"): "unknown metric 'logit_diff': did you mean 'logit_difference'",
        ("--components", "vv"): "unknown component 'vv'",
        ("--routes", "mixt"): "unknown route 'mixt': did you mean 'mixed'",
        ("--step", "3"): "has no checkpoint at step 3; the nearest is at 0",
        ("--max-memory", "10"): "max_memory = 10 bytes is less than one copy of the pair needs",
    }
    for words, message in cases.items():
        status, _, err = run(capsys, "patch", "icl-value", "--root", trained_runs, "--n", 4, *words)
        assert status == 2
        assert message in err
    status, _, err = run(capsys, "heads", "icl-value", "--root", trained_runs, "--split", "icc")
    assert "unknown split 'icc': did you mean 'ic'" in err


def test_a_typo_in_a_command_suggests_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "ptach") == (2, "", "error: unknown command 'ptach': did you mean 'patch' or 'paths'?\n")


@pytest.mark.parametrize("words", [["variants"], ["--help"], ["variants", "--json", "--quiet"]])
def test_a_reader_who_has_had_enough_is_no_error(words: list[str]) -> None:
    command = [sys.executable, "-m", "experiments.cli", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=60) == 0
        assert process.stderr.read() == b""
