"""A script's and a plugin's own kinds in sweeps, workers and commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from circuits.common.families import Origin
from circuits.config.gains import GAIN_KINDS
from experiments import Run, RunError
from experiments.cli import main
from experiments.plugins import has_guard, load_plugins

RULES = """
from dataclasses import dataclass
from circuits import ComputedGain, Dense, Gain, Stream, register_gain, register_variant

@dataclass(frozen=True)
class Decaying(Gain):
    rate: float = 0.5

class ByDistance(ComputedGain[Decaying]):
    def __call__(self, mix, x):
        return 1.0, [self.gain.rate ** (mix.layer - source) for source in mix.sources]

register_gain(Decaying, ByDistance)
register_variant("decaying", lambda n: [Stream("v", topology=Dense(), gain=Decaying())], "sum of r^d V_(n-d)")
"""
TRAIN = """
from dataclasses import replace
from experiments import TRAINING, icl_run, sweep
training = replace(TRAINING["small"], steps=2, n_eval=32)
configs = [icl_run(v, "small", seed, training) for v in ("decaying", "decaying-stop") for seed in (0, 1)]
print(*(run.status for run in sweep(configs, "runs", workers=2)))
"""
README = Path(__file__).parents[2] / "circuits" / "README.md"


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.usefixtures("forgotten")
def test_a_script_trains_its_own_kind_in_workers_and_a_plugin_opens_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [script] = [
        block for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL) if "rate **" in block
    ]
    (tmp_path / "rules.py").write_text(script.replace("steps=1000", "steps=2, n_eval=32"))
    ran = run(tmp_path, "rules.py")
    assert ran.returncode == 0, ran.stderr
    assert [run.split()[0] for run in ran.stdout.splitlines()[:4]] == ["decaying"] * 2 + ["decaying-stop"] * 2
    assert (tmp_path / "decaying.html").is_file()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    [path] = Path("runs").glob("icl-decaying-small-s0-*")
    with pytest.raises(RunError, match="the gain 'Decaying' is not registered here; rules.py registered it: import"):
        Run.open(path)
    assert main(["--plugin", "rules", "heads", path.name, "--n", "8"]) == 0
    assert main(["describe", "decaying-stop", "--plugin=rules", "--layers", "3"]) == 0
    assert "Decaying(rate=0.5)" in capsys.readouterr().out
    # The same source in a module is the same kind, and another source another one.
    assert Run.open(path).finished
    monkeypatch.setitem(GAIN_KINDS.origins, "Decaying", Origin("rules", "0" * 12))
    with pytest.raises(RunError, match="'Decaying' of rules.py is not as it was: its source had the hash"):
        Run.open(path)


def test_a_script_without_a_guard_is_told_before_a_worker_starts(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(RULES + TRAIN)
    ran = run(tmp_path, "rules.py")
    assert ran.returncode == 1
    assert "rules.py registers Decaying, decaying, and every worker runs it again" in ran.stderr
    assert "under 'if __name__ == \"__main__\":'" in ran.stderr
    assert not list(tmp_path.glob("runs/*/metrics*")), "nothing was trained"


@pytest.mark.slow
def test_workers_import_the_modules_that_a_script_imported_to_register_something(tmp_path: Path) -> None:
    (tmp_path / "rules.py").write_text(RULES)
    (tmp_path / "script.py").write_text("import rules" + TRAIN)
    ran = run(tmp_path, "script.py")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["finished"] * 4, "it needs no guard, as it registers nothing itself"


@pytest.mark.slow
def test_at_a_prompt_runs_are_trained_one_after_another(tmp_path: Path) -> None:
    rule = 'from circuits import *\nregister_variant("mine", lambda n: [Stream("v", gain=FixedGain(1.0, 0.5))])\n'
    ran = run(tmp_path, "-c", rule + TRAIN.replace("decaying", "mine"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["finished"] * 4
    assert "mine: registered at a prompt or in a notebook" in ran.stderr
    assert "one after another" in ran.stderr


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("if __name__ == '__main__':\n    pass", True),
        ('if "__main__" == __name__:\n    pass', True),
        ("print(__name__ == '__main__')", False),
        ("def f():\n    if __name__ == '__main__':\n        pass", False),
        ("if True:\n    pass", False),
    ],
)
def test_a_guard_is_seen(text: str, guarded: bool, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(text)
    assert has_guard(tmp_path / "script.py") == guarded


def test_a_plugin_that_cannot_be_imported_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plugin", "no_such_rules", "variants"]) == 2
    assert "the plugin 'no_such_rules' cannot be imported (ModuleNotFoundError" in capsys.readouterr().err
    assert main(["variants", "--plugin"]) == 2
    assert "--plugin needs a value after it" in capsys.readouterr().err


@pytest.mark.usefixtures("forgotten")
def test_entry_points_are_read_for_help_and_imported_for_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = tmp_path / "their_rules-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rules\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[valuestream.plugins]\ntheirs = their_rules\n")
    (tmp_path / "their_rules.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["--help"]) == 0
    assert "theirs (their_rules)" in " ".join(capsys.readouterr().out.split())
    assert main(["variants"]) == 2
    assert "the plugin 'their_rules' cannot be imported (RuntimeError: imported)" in capsys.readouterr().err
    (tmp_path / "their_rules.py").write_text("")
    load_plugins()


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "valuestream 0.2.0\n"
