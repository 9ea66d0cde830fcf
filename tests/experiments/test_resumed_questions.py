"""Questions to runs go on where they were interrupted, answer as if they never had been, and leave nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.questions.ablate import Ablate
from experiments.questions.attribute import Attribute
from experiments.questions.circuit import FindCircuit
from experiments.questions.gradients import Gradients
from experiments.questions.heads import Heads
from experiments.questions.patch import Patch
from experiments.questions.paths import Paths
from experiments.questions.question import Question
from experiments.runs.record import RunError
from experiments.runs.run import Run
from tests.analysis.test_resuming import Stops
from tests.helpers import run_named

ASKED: dict[str, Question] = {
    "patch": Patch(n=8),
    "paths": Paths(n=8),
    "attribute": Attribute(n=8, method="exact"),
    "attribute, checked": Attribute(n=8, check=8),
    "attribute, of sites": Attribute(n=8, method="AtP", check=8),
    "circuit": FindCircuit(n=8, method="exact", checkpoints=True),
    "ablate": Ablate(n=16),
    "ablate edges": Ablate(n=16, edges=("each",)),
    "heads": Heads(n=16),
    "gradients": Gradients(n=16),
}


@pytest.fixture
def run(trained_runs: Path, tmp_path: Path) -> Run:
    shutil.copytree(run_named(trained_runs, "value").path, tmp_path / "run", ignore=shutil.ignore_patterns("results"))
    return Run.open(tmp_path / "run")


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Stops:
    monkeypatch.setattr("analysis.patching.patch.MOST_COPIES", 3)
    # So that chunks are small; where there is more room, more of them are measured before the first is kept.
    monkeypatch.setattr("analysis.memory.MOST_EXAMPLES", 16)
    return Stops(monkeypatch)


def unfinished(run: Run) -> Path:
    return run.path / "results" / "unfinished"


def results(run: Run) -> dict[str, pd.DataFrame]:
    """All that was written, which is then removed."""
    found = {file.stem: run.results(file.stem) for file in (run.path / "results").glob("*.parquet")}
    shutil.rmtree(run.path / "results")
    return found


def answer(question: Question, run: Run, stops: Stops, after: float = float("inf")) -> list[str]:
    """Ask, interrupted where so much has been measured, and return the names of what was measured."""
    stops.names, stops.apart, stops.after = [], [], after
    if after == float("inf"):
        question.answer([run])
    else:
        with pytest.raises(KeyboardInterrupt):
            question.answer([run])
    return stops.apart


@pytest.mark.parametrize("at", [0.1, 0.8])
@pytest.mark.parametrize("name", ASKED)
def test_a_question_that_was_interrupted_answers_as_if_it_never_had_been(
    name: str, at: float, run: Run, stops: Stops, capsys: pytest.CaptureFixture[str]
) -> None:
    everything = answer(ASKED[name], run, stops)
    assert not unfinished(run).exists()
    whole = results(run)
    capsys.readouterr()
    first = answer(ASKED[name], run, stops, after=max(1, int(at * len(everything))))
    assert list(unfinished(run).iterdir())
    assert "goes on" not in capsys.readouterr().err
    rest = answer(ASKED[name], run, stops)
    assert rest
    assert not set(first) & set(rest)
    assert {*first, *rest} == {*everything}
    assert "goes on where it was: " in capsys.readouterr().err
    assert not unfinished(run).exists()
    found = results(run)
    assert found.keys() == whole.keys()
    for of, frame in whole.items():
        pd.testing.assert_frame_equal(found[of], frame, check_exact=True)


SAME: list[tuple[Question, Question]] = [
    (Patch(n=8), Patch(n=8, top=3, max_memory=10**9)),
    (Patch(n=8), Patch(n=8, corruption="labels")),
    (Patch(n=8, components=("z",)), Patch(n=8, components=("z", "v"))),
    (Heads(n=16), Heads(n=16, split="ic", checkpoints=(0,))),
]
OTHER: list[tuple[Question, Question]] = [
    (Patch(n=8), Patch(n=9)),
    (Patch(n=8), Patch(n=8, metric="probability")),
    (Patch(n=8), Patch(n=8, direction="noise")),
    (Patch(n=8), Patch(n=8, step=500)),
    (Patch(n=8), Patch(n=8, dtype="float64")),
    (Patch(n=8), Patch(n=8, corruption="item")),
    (Heads(n=16), Heads(n=16, split="iw")),
    (Heads(n=16), Heads(n=17)),
    (Gradients(n=16), Gradients(n=16, by="pair")),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_options_of_which_no_number_depends_find_what_was_measured(
    one: Question, other: Question, run: Run, stops: Stops, capsys: pytest.CaptureFixture[str]
) -> None:
    first = answer(one, run, stops, after=1)
    assert not set(first) & set(answer(other, run, stops))
    assert "goes on where it was: " in capsys.readouterr().err


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_a_question_with_other_options_finds_nothing(
    one: Question, other: Question, run: Run, stops: Stops, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(one, run, stops, after=1)
    answer(other, run, stops)
    assert "goes on" not in capsys.readouterr().err
    assert list(unfinished(run).iterdir()), "what the first has measured is still there"


@pytest.mark.parametrize("question", [Heads(n=16), Gradients(n=16)])
def test_the_last_checkpoint_is_its_step_and_is_asked_once(question: Heads | Gradients, run: Run, stops: Stops) -> None:
    steps = run.checkpoints()
    asked = replace(question, checkpoints=(steps[1], -1, steps[-1], steps[1]))
    found = asked.ask(run).to_frame()
    assert list(found.step.unique()) == [steps[1], steps[-1]]
    alone = replace(question, checkpoints=(steps[-1],)).ask(run).to_frame()
    last = found[found.step == steps[-1]].reset_index(drop=True)
    pd.testing.assert_frame_equal(last, alone, check_exact=True)
    # What was kept of the last checkpoint is no longer of the last one, once there is another.
    earlier = Run.open(run.path)
    earlier.record["checkpoints"] = {str(step): run.record["checkpoints"][str(step)] for step in steps[:-1]}
    with question.kept(run) as kept:
        before = replace(question, checkpoints=(-1,)).ask(earlier, kept=kept).to_frame()
        after = replace(question, checkpoints=(-1,)).ask(run, kept=kept).to_frame()
    assert (*before.step.unique(), *after.step.unique()) == (steps[-2], steps[-1])
    pd.testing.assert_frame_equal(after, alone, check_exact=True)


@pytest.mark.parametrize("question", [Heads(n=16), Gradients(n=16)])
def test_a_checkpoint_that_is_not_there_is_refused_before_any_is_asked(
    question: Heads | Gradients, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "load_model", lambda *_: pytest.fail("asked"))
    with pytest.raises(RunError, match="has no checkpoint at step 499; the nearest is at"):
        replace(question, checkpoints=(0, 499)).ask(run)
    run.record["checkpoints"] = {}
    with pytest.raises(RunError, match="has no checkpoint yet; let it train on"):
        question.ask(run)


def test_a_question_that_is_asked_in_python_keeps_nothing_unless_told(run: Run, stops: Stops) -> None:
    Patch(n=8).ask(run)
    assert not stops.names
    assert not (run.path / "results").exists()


def test_an_error_in_what_is_told_loses_nothing(run: Run, stops: Stops, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError("no space left on the disk")

    keep: Callable[..., Any] = Patch.keep
    monkeypatch.setattr(Patch, "keep", fails)
    with pytest.raises(OSError, match="no space"):
        answer(Patch(n=8), run, stops)
    monkeypatch.setattr(Patch, "keep", keep)
    assert not answer(Patch(n=8), run, stops), "all of it was measured"
