"""The shell: 80 columns, tables for machines, quiet, mistakes in one sentence, removal, folders of runs, completion."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from circuits import MLP
from experiments.cli import COMMANDS
from experiments.commands.train import TrainICL, TrainLM
from experiments.output import Output, rows
from experiments.parsing import Helped, completion_script, parsed
from experiments.runs.config import icl_run, lm_run
from experiments.runs.folder import VARIABLE
from experiments.runs.run import Run
from experiments.runs.table import age_in_words, runs_table, size_in_words
from experiments.runs.training_config import Every
from tests.experiments.test_cli import run
from tests.experiments.test_training import tiny
from tests.helpers import run_named, tiny_lm

WHAT = ["--n", "4"]
"""Few examples: what is asked here is how it is printed."""


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed where there is no terminal: 80 columns."""
    monkeypatch.delenv("COLUMNS")


def too_wide(text: str) -> list[str]:
    """Lines of more than 80 columns; a path alone in its line has no other place to be broken."""
    return [line for line in re.split(r"[\n\r]", text) if len(line) > 80 and " " in line.strip()]


def in_python(program: str, *words: str, where: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What a program of Python prints that knows this checkout."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False, env=environment)


# --- 80 columns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["train", "icl"], ["train", "lm"]])
def test_help_has_80_columns_and_tells_a_default_once(
    capsys: pytest.CaptureFixture[str], narrow: None, command: list[str]
) -> None:
    status, out, err = run(capsys, *command, "--help")
    assert (status, err) == (0, "")
    assert not [line for line in out.split("\n") if len(line) > 80]
    said = " ".join(line.strip("│ ") for line in out.split("\n"))
    assert "(default: )" not in said
    assert "None" not in said
    told = re.split(r" (?=--[a-z])", said)
    assert all(part.lower().count("default") <= 1 for part in told), told
    assert "--json" in said


def test_help_on_a_wide_screen_is_no_wider_than_is_read_well(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "patch", "--help")[1]
    assert 80 < max(map(len, out.split("\n"))) <= 100


LIGHT = (["variants"], ["describe", "value-stop", "--layers", "3"], ["notebooks", "--list"])
ASKED = ("patch", "map", "paths", "attribute", "ablate", "heads", "gradients", "circuit")


OTHERS = (["describe", "nanochat"], ["corpus", "--n", "20", "--show", "1"], ["sweep", "--size", "miniature"])


@pytest.mark.parametrize("command", [*LIGHT, *OTHERS])
def test_tables_have_80_columns(capsys: pytest.CaptureFixture[str], narrow: None, command: list[str]) -> None:
    status, out, err = run(capsys, *command)
    assert (status, err) == (0, "")
    assert not [line for line in out.split("\n") if len(line) > 80]


@pytest.mark.parametrize("question", ASKED)
def test_questions_have_80_columns_and_give_what_they_wrote(
    capsys: pytest.CaptureFixture[str], narrow: None, trained_runs: Path, question: str
) -> None:
    words = [question, "icl-value", "--root", trained_runs, *WHAT]
    status, out, err = run(capsys, *words)
    assert status == 0
    assert not too_wide(out + err)
    status, out, err = run(capsys, *words, "--json")
    assert status == 0
    results = run_named(trained_runs, "value")
    found = json.loads(out)
    assert len(found) == (2 if question == "paths" else 1)
    for name, table in found.items():
        assert table == rows(results.results(name)), "all rows, all columns, all digits"
    assert f"wrote {results.path}" in " ".join(err.split()), "sentences stand beside"


@pytest.mark.parametrize("words", [["logits"], ["attention"], ["ioi", "lm-stories-classic", "--transplant"], ["heads"]])
def test_questions_to_language_models_have_80_columns(
    capsys: pytest.CaptureFixture[str], narrow: None, lm_runs: Path, words: list[str]
) -> None:
    n = [] if words == ["attention"] else WHAT
    status, out, err = run(capsys, words[0], "lm-stories-value", *words[1:], "--root", lm_runs, *n)
    assert status == 0
    assert not too_wide(out + err)
    assert "lm-stories-value-0.2m-s0-" in out, "a name is whole"


def test_long_names_and_mixed_tasks_fit_a_list_of_runs(
    capsys: pytest.CaptureFixture[str], narrow: None, tmp_path: Path
) -> None:
    made = [tiny(), tiny_lm(), icl_run("resformer-learned", "small", 1234567, n_layers=4, n_heads=2)]
    names = [Run.at(tmp_path, config).path.name for config in made]
    out = run(capsys, "runs", "--root", tmp_path)[1]
    assert not [line for line in out.split("\n") if len(line) > 80]
    assert all(name in out.split() for name in names)
    assert {"age", "size"} <= {*out.split()}


# --- for machines -----------------------------------------------------------------------------------------------------


def test_json_and_csv_of_runs_are_the_table(capsys: pytest.CaptureFixture[str], trained_runs: Path) -> None:
    table = runs_table(trained_runs).drop(columns=["age", "size"])
    status, out, err = run(capsys, "runs", "--root", trained_runs, "--json")
    assert (status, err) == (0, "")
    assert pd.DataFrame(json.loads(out)["runs"]).drop(columns=["age", "size"]).equals(table)
    status, out, err = run(capsys, "--csv", "runs", "--root", trained_runs)
    assert (status, err) == (0, "")
    read = pd.read_csv(io.StringIO(out))
    assert read.drop(columns=["age", "size"]).equals(table)
    assert (read["size"] > 1000).all()
    assert (read.age >= 0).all()


def test_csv_of_several_tables_says_of_which_each_row_is(
    capsys: pytest.CaptureFixture[str], trained_runs: Path
) -> None:
    out = run(capsys, "paths", "icl-value", "--root", trained_runs, *WHAT, "--csv")[1]
    read = pd.read_csv(io.StringIO(out))
    kept = run_named(trained_runs, "value")
    for name in ("paths", "shares"):
        effects = read[read.table == name].effect.reset_index(drop=True)
        assert effects.astype("float32").equals(kept.results(name).effect.astype("float32"))
    assert read.columns[0] == "table"


@pytest.mark.parametrize("command", LIGHT)
def test_tables_that_need_no_run_come_as_json(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    status, out, err = run(capsys, *command, "--json", "--quiet")
    assert (status, err) == (0, "")
    [(_, table)] = json.loads(out).items()
    assert len(table) > 3


def test_numbers_that_are_none_are_null_and_no_digit_is_lost() -> None:
    table = pd.DataFrame({"x": [0.1 + 0.2, float("nan"), float("inf")], "n": [1, 2, 3], "w": ["a", None, "c"]})
    assert rows(table)[0] == {"x": 0.30000000000000004, "n": 1, "w": "a"}
    assert [row["x"] for row in rows(table)][1:] == [None, None]
    assert rows(table)[1]["w"] is None
    assert rows(table.iloc[:0]) == []


def test_what_makes_no_table_refuses_both_forms_and_both_are_no_form(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = run(capsys, "export", "x", tmp_path / "y", "--json")
    assert (status, out, err) == (2, "", "error: this command finds no table; leave out --json and --csv\n")
    status, out, err = run(capsys, "variants", "--json", "--csv")
    assert (status, out) == (2, "")
    assert "two forms of one output" in err


def test_quiet_leaves_tables_and_errors(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "icl", "--steps", 4, "--workers", 1, "--root", tmp_path]
    status, out, err = run(capsys, *words, "--quiet")
    assert (status, err) == (0, "")
    assert "finished" in out
    name = out.split("\n")[1].split()[0]
    asked = ["patch", name, "--root", tmp_path, *WHAT, "--components", "v"]
    status, out, err = run(capsys, *asked, "--quiet")
    assert status == 0
    assert "wrote" not in out
    assert all(line.startswith("warning: ") for line in err.splitlines()), "progress is a note, a warning is none"
    assert "wrote" in run(capsys, *asked)[1]
    status, out, err = run(capsys, "patch", "nothing", "--quiet", "--root", tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith("error: unknown run")


def test_a_path_that_was_asked_for_is_printed_by_quiet_commands_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = run(capsys, "train", "lm", "--prepare", "--quiet", "--root", tmp_path)
    assert (status, err) == (0, "")
    assert (Path(out.strip()) / "run.json").is_file()


def test_streams_are_as_they_were_after_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    for output in (Output(), Output(json=True), Output(quiet=True)):
        with output.heard():
            print("heard?")
            print("heard?", file=sys.stderr)
        assert (sys.stdout, sys.stderr) == before
        said = capsys.readouterr()
        assert ("heard?" in said.out, "heard?" in said.err) == (output == Output(), not output.quiet)


# --- mistakes ---------------------------------------------------------------------------------------------------------


SEVERAL: dict[str, list[str]] = {
    "train icl": ["variants", "seeds", "evaluate-levels"],
    "train lm": ["variants", "seeds", "evaluate-levels"],
    "runs": ["remove"],
    "attention RUN": ["tokens"],
    "patch RUN": ["components", "routes", "together"],
    "paths RUN": ["senders", "receivers", "routes"],
    "attribute RUN": ["components"],
    "ablate RUN": ["method", "edges"],
    "heads RUN": ["checkpoints"],
    "gradients RUN": ["checkpoints", "activations"],
    "rerun RUN": ["rows", "seeds"],
    "figures": ["only", "format"],
    "collect": ["roots"],
    **{study: ["roots"] for study in ("mechanism", "lm-mechanism", "learned-gains", "gains-in-training")},
    "interference": ["roots"],
}
"""Options that take several values, by command."""


@pytest.mark.parametrize("command", SEVERAL)
def test_an_option_of_several_values_without_any_is_refused_before_anything_is_begun(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in SEVERAL[command]:
        for words in ([f"--{name}", "--quiet"], ["--quiet", f"--{name}"], [f"--{name.replace('-', '_')}"]):
            status, out, err = run(capsys, *command.split(), *words)
            said = f"error: --{name} needs a value after it, or several; leave it out where there is none\n"
            assert (status, out, err) == (2, "", said)
    assert not list(tmp_path.iterdir())


def test_every_option_of_several_values_is_among_those() -> None:
    found = {}
    for words in [[command] for command in COMMANDS if command != "train"] + [["train", "icl"], ["train", "lm"]]:
        with pytest.raises(Helped) as said:
            parsed(COMMANDS, [*words, "--help"], "")
        plain = re.sub("\033\\[[0-9;]*m", "", str(said.value))
        names = re.findall(r"^[│|]? +--([\w-]+) (?:\[|\S*\.\.\.)", plain, re.MULTILINE)
        found |= {" ".join(words): names} if names else {}
    assert found == {command.removesuffix(" RUN"): names for command, names in SEVERAL.items()}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ptach", "x"], "unknown command 'ptach': did you mean 'patch' or 'paths'?"),
        ([], "name a command; 'valuestream --help' lists them"),
        (["patch", "x", "--metrc", "loss"], "'valuestream patch' has no option --metrc: did you mean --metric?"),
        (["patch", "--metrc=loss"], "'valuestream patch' has no option --metrc: did you mean --metric?"),
        (
            ["runs", "--qwertz"],
            "'valuestream runs' has no option --qwertz: 'valuestream runs --help' lists its options",
        ),
        (["runs", "all"], "'valuestream runs' takes no 'all' there; 'valuestream runs --help' says what it takes"),
        (["train"], "'valuestream train' needs one of icl or lm after it"),
        (["train", "icll"], "unknown command 'train icll': did you mean 'train icl'"),
        (["train", "lm", "--stpes", "3"], "'valuestream train lm' has no option --stpes: did you mean --steps"),
        (["patch", "x", "--n", "many"], "--n: a whole number is expected, got 'many'"),
        (["train", "icl", "--rate", "fast"], "--rate: a number is expected, got 'fast'"),
        (["patch", "x", "--n"], "--n needs a value after it"),
        (["patch", "x", "--dtype", "float46"], "unknown value of --dtype 'float46': did you mean 'float64'"),
        (["train", "icl", "--heads", "0"], "--heads must be a whole number of at least 1, got 0"),
        (
            ["train", "icl", "--heads", "7"],
            "--heads 7: heads share the width of the preset 'small', which is 64; there",
        ),
        (["train", "icl", "--mlp", "0"], "--mlp must be a whole number of at least 1, got 0"),
        (["train", "icl", "--rate", "-1"], "--rate must be a number above 0, got -1.0"),
        (["train", "icl", "--rate", "inf"], "--rate must be a number above 0, got inf"),
        (["train", "icl", "--evaluate-every", "0"], "--evaluate-every must be a whole number of at least 1, got 0"),
        (["train", "icl", "--interventions", "."], "there is no file of interventions at .; it holds a list, as [{"),
        (["train", "icl", "--root", "/dev/null"], "/dev/null is a file, and runs are kept in a folder; name another"),
        (["train", "icl", "--root", "/dev/null/x", "--steps", "1"], "the folder /dev/null/x/icl-value-small-s0-"),
        (["runs", "--root", "/dev/null"], "/dev/null is a file, and runs are kept in a folder; name another one, by"),
        (["collect", "--roots", "/dev/null", "--bundle", "b"], "/dev/null is a file, and runs are kept in a folder"),
        (["import", "/dev/null"], "/dev/null cannot be used (Not a directory); name another path, or change what"),
    ],
)
def test_a_mistake_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {sentence}")
    assert not [*tmp_path.iterdir()], "nothing was begun"


def test_a_typo_in_a_runs_name_lists_the_nearest_three(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for seed in range(5):
        Run.at(tmp_path, tiny(seed=seed))
    near = Run.at(tmp_path, tiny(seed=40)).path.name
    for name in ("icl-valeu-smal-s40", "nothing-like-it"):
        status, _, err = run(capsys, "heads", name, "--root", tmp_path)
        assert status == 2
        assert err.count("'icl-value-small") == 3
        assert "lists all 6" in err
    assert f"did you mean '{near}'" in run(capsys, "heads", "icl-valeu-smal-s40", "--root", tmp_path)[2]


def test_what_is_not_there_is_refused_before_torch_is_imported(trained_runs: Path, tmp_path: Path) -> None:
    value = str(run_named(trained_runs, "value").path)
    cases = [
        ["patch", value, "--pairs", "none.jsonl"],
        ["patch", value, "--step", "7"],
        ["heads", value, "--checkpoints", "0", "7"],
        ["heads", "nothing", "--root", str(trained_runs)],
        ["export", value, "out", "--step", "7"],
        ["train", "icl", "--interventions", "none.json"],
        ["train", "lm", "--task", "text", "--corpus", "none.txt", "--tokenizer", "gpt2"],
        ["train", "lm", "--task", "text", "--corpus", "owner/name", "--tokenizer", "./none"],
        ["import", "none"],
        ["runs", "--plugin", "none_such"],
        ["runs", "--remove", "nothing", "--root", str(trained_runs)],
        ["notebooks", "none"],
        ["figures", "--bundle", "none"],
    ]
    script = (
        "import json, sys\nfrom experiments.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    print(main(words), sorted({'torch', 'transformer_lens'} & {*sys.modules}), words)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(cases)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [f"2 [] {words}" for words in cases], done.stderr
    assert done.stderr.count("error: ") == len(cases)
    assert [path.name for path in tmp_path.iterdir()] == []


# --- training ---------------------------------------------------------------------------------------------------------


def test_options_of_training_reach_the_classifier_and_leave_ids_as_they_are() -> None:
    assert [c.id for c in TrainICL().configs()] == [icl_run("value", "small", 0, n_layers=2).id]
    assert [c.id for c in TrainLM().configs()] == [lm_run("0.2m", "stories", "value", 0).id]
    assert TrainICL().configs()[0].id == icl_run("value", "small", 0).id
    told = TrainICL(heads=4, mlp=96, rate=0.002, batch=32, evaluate_every=50, checkpoint_every=200, preset="small")
    [config] = told.configs()
    plan = icl_run("value", "small").training
    assert (config.model.n_heads, config.model.mlp) == (4, MLP(96))
    assert config.training == replace(
        plan,
        optimizer=replace(plan.optimizer, rate=0.002),
        batch_size=32,
        evaluate_at=(Every(50),),
        checkpoint_at=(Every(200),),
    )
    assert "4heads-mlp" in config.name
    [of_size] = TrainLM(rate=0.01).configs()
    usual = lm_run("0.2m", "stories").training
    assert of_size.training == replace(usual, optimizer=replace(usual.optimizer, rate=0.01))


# --- runs: where they are, and removal --------------------------------------------------------------------------------


def test_the_folder_of_runs_is_that_of_the_option_or_the_variable_or_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here, there = Run.at("runs", tiny(seed=1)).path.name, Run.at("elsewhere", tiny(seed=2)).path.name
    assert list(runs_table().run) == [r.path.name for r in Run.under()] == [here]
    monkeypatch.setenv(VARIABLE, "elsewhere")
    assert list(runs_table().run) == [r.path.name for r in Run.under()] == [Run.find(there).path.name] == [there]
    assert there in run(capsys, "runs")[1]
    assert here in run(capsys, "runs", "--root", "runs")[1], "the option is nearer than the variable"
    assert run(capsys, "train", "lm", "--prepare", "--seed", 9)[1].startswith("elsewhere/lm-")
    assert Run.at(None, tiny(seed=3)).path.parent == Path("elsewhere")
    monkeypatch.setenv(VARIABLE, "")
    assert list(runs_table().run) == [here]


@pytest.fixture
def two(tmp_path: Path) -> list[Run]:
    return [Run.at(tmp_path, tiny(seed=seed)) for seed in (1, 2)]


def test_removing_needs_a_yes(
    two: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (each.path for each in two)
    words = ["runs", "--root", tmp_path, "--remove", first.name]
    status, _, err = run(capsys, *words)
    assert (status, "as the input is no terminal; nothing is removed. Give --yes" in err) == (2, True)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "")
    status, out, _ = run(capsys, *words)
    assert (status, "nothing is removed" in out, first.exists()) == (0, True, True)
    assert json.loads(run(capsys, *words, "--json")[1]) == {"removed": []}
    monkeypatch.setattr("builtins.input", lambda: "y")
    status, out, _ = run(capsys, *words)
    assert (status, "removed 1 run" in out, first.exists(), second.exists()) == (0, True, False, True)
    found = run(capsys, "runs", "--root", tmp_path, "--remove", two[1].config.id, "--yes", "--json")[1]
    assert [row["run"] for row in json.loads(found)["removed"]] == [second.name]
    assert not second.exists()


def test_what_is_trained_or_not_one_run_is_not_removed(
    two: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "linked").symlink_to(two[1].path)
    remove = ["runs", "--root", tmp_path, "--yes", "--remove"]
    for names, message in (
        (["icl-value"], "'icl-value' fits 2 runs: "),
        ([two[0].path.name, "nothing"], "unknown run 'nothing': did you mean"),
        ([two[0].path.name, "notes"], "notes is not a run directory: it has no run.json; nothing is removed"),
        (["linked"], "is a symbolic link to a run elsewhere"),
    ):
        status, _, err = run(capsys, *remove, *names)
        assert (status, message in err) == (2, True), err
    with two[0].locked():
        status, _, err = run(capsys, *remove, two[1].path.name, two[0].path.name)
        assert (status, "is being trained; stop that first, nothing is removed" in err) == (2, True)
    assert all(each.path.is_dir() for each in two)
    assert run(capsys, *remove, *[each.path.name for each in two])[0] == 0
    assert not any(each.path.exists() for each in two)
    assert (tmp_path / "notes").is_dir()


def test_ages_and_sizes_in_words() -> None:
    ages = {0.4: "0 s", 119: "119 s", 120: "2 min", 7_199: "120 min", 7_200: "2 h", 172_800: "2 d"}
    assert {seconds: age_in_words(float(seconds)) for seconds in ages} == ages
    sizes = {12: "12 B", 1_500: "2 kB", 2_767_040: "2.8 MB", 3_400_000_000: "3.4 GB"}
    assert {n: size_in_words(n) for n in sizes} == sizes


def test_age_is_of_training_and_not_of_what_is_asked(trained_runs: Path) -> None:
    path = run_named(trained_runs, "classic").path
    before = runs_table(trained_runs).set_index("run").age[path.name]
    (path / "results").mkdir(exist_ok=True)
    (path / "results" / "note.json").write_text("{}")
    assert runs_table(trained_runs).set_index("run").age[path.name] >= before
    (path / "results" / "note.json").unlink()


# --- completion -------------------------------------------------------------------------------------------------------


def completed(script: Path, *words: str) -> set[str]:
    """What a real bash offers for the last of some words."""
    line = " ".join(f"'{word}'" for word in words)
    program = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
        f'"$(complete -p valuestream | sed "s/.*-F \\([^ ]*\\).*/\\1/")"; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    return {*done.stdout.split()}


def test_bash_completes_commands_and_options_without_torch(tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    program = (
        "import sys\nfrom experiments.cli import main\nmain(['completion', 'bash'])\n"
        "assert not {'torch', 'transformer_lens', 'pandas'} & {*sys.modules}"
    )
    done = in_python(program)
    assert (done.returncode, done.stderr) == (0, "")
    script.write_text(done.stdout)
    assert completed(script, "valuestream", "pat") == {"patch", "paths"}
    assert completed(script, "valuestream", "train", "") >= {"icl", "lm"}
    assert completed(script, "valuestream", "patch", "--dir") == {"--direction"}
    assert completed(script, "valuestream", "nothing-begins-so") == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    status, out, err = run(capsys, "completion", shell)
    assert (status, err) == (0, "")
    assert out.strip() == completion_script(COMMANDS, shell).strip()
    assert "valuestream" in out
    assert "ablate" in out


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "completion", "tcsh")
    assert (status, out) == (2, "")
    assert "tcsh" in err
