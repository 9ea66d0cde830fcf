"""The switchboard of runs: measured once, live answers as precomputed, pages and errors."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import experiments.switchboard
from analysis import WeakPairWarning, attribute_edges, find_circuit, judge
from experiments import TRAINING, explore, icl_run, sweep
from experiments.runs.run import Run
from experiments.switchboard import LiveSwitchboard, spread_out
from tests.experiments.test_cli import run as command
from tests.helpers import lm_run_named, run_named

EDGE = "L0H0.v > L1H0.v (stream)"
HOW: Any = {"n": 8, "most_steps": 3, "prompts": 1, "progress": False}


@pytest.fixture
def value(trained_runs: Path, tmp_path: Path) -> Run:
    """A copy of the session's value run, which a test may write into."""
    theirs = run_named(trained_runs, "value").path
    return Run.open(Path(shutil.copytree(theirs, tmp_path / theirs.name)))


def test_what_is_answered_live_is_what_was_measured(value: Run) -> None:
    board = explore(value, **HOW)
    assert isinstance(board, LiveSwitchboard)
    document = board.document
    run, names = document["runs"][0], [edge["name"] for edge in document["edges"]]
    at = names.index(EDGE)
    for i, step in enumerate(run["steps"]):
        answer = board.answer({"ask": "changes", "step": step, "changes": {EDGE: "cut"}})
        for key in ("metric", "effect", "cosine"):
            assert answer[key] == pytest.approx(run["edge"][key][i][at], rel=1e-6, abs=1e-6)
        nothing = board.answer({"ask": "changes", "step": step, "changes": {}})
        assert nothing["metric"] == pytest.approx(run["clean"][i], rel=1e-6)
        assert nothing["metric"] != pytest.approx(answer["metric"], rel=1e-9)
    for gate in ("stop", "gradient-only"):
        answer = board.answer({"ask": "changes", "step": run["steps"][-1], "changes": {EDGE: gate}})
        assert answer["cosine"] == pytest.approx(run["gates"][gate]["cosine"][at], rel=1e-5)
    with pytest.raises(ValueError, match="unknown question 'weights'"):
        board.answer({"ask": "weights", "step": 0})
    with pytest.raises(ValueError, match="takes vectors, and a prompt is a text"):
        board.answer({"ask": "prompt", "step": run["steps"][0], "text": "a"})


def test_what_was_measured_is_not_measured_again_and_an_interrupted_build_goes_on(
    value: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Any] = []
    measured = experiments.switchboard.measured

    def counted(*args: Any, **how: Any) -> Any:
        if len(steps) == 2:
            raise KeyboardInterrupt
        steps.append(how)
        return measured(*args, **how)

    monkeypatch.setattr(experiments.switchboard, "measured", counted)
    with pytest.raises(KeyboardInterrupt):
        explore(value, **HOW)
    kept = sorted((value.path / "results" / "switchboard").iterdir())
    assert len(kept) == 2, "what was done is on the disk"
    steps.clear()
    first = explore(value, **HOW)
    assert len(steps) == 1, "the third alone"
    again = explore(value, **HOW)
    assert len(steps) == 1
    assert first.document == again.document
    kept[0].write_text("{")
    assert explore(value, **HOW).document == again.document, "what is damaged is measured again"
    assert len(steps) == 2
    monkeypatch.setattr(experiments.switchboard, "measured", measured)
    other = explore(value, **(HOW | {"n": 9}))
    assert other.document["runs"][0]["clean"] != again.document["runs"][0]["clean"], "another question"


def test_pairs_that_are_not_told_apart_are_told_once_and_of_the_last_step(
    value: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, weak = experiments.switchboard.measured, {"early": True, "last": True}

    def told(*args: Any, **how: Any) -> Any:
        step = "last" if how["gates"] else "early"
        return measured(*args, **how) | {"warnings": [f"clean and corrupt {step} are not told apart"] * weak[step]}

    def said(**how: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            explore(value, **(HOW | how))
        return [str(one.message) for one in found if one.category is WeakPairWarning]

    monkeypatch.setattr(experiments.switchboard, "measured", told)
    assert said() == said() == ["clean and corrupt last are not told apart"], "when it is read again, too"
    weak["last"] = False
    assert said(n=9) == []


def test_the_command_writes_a_page_a_table_and_a_graph(value: Run, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--n", "8", "--most-steps", "2", "--prompts", "1", "--root", str(value.path.parent)]
    status, said, _ = command(capsys, "explore", value.path.name, *options)
    assert status == 0
    assert "At step" in said
    page = (value.path / "results" / "switchboard.html").read_text()
    assert value.path.name in page
    frame = pd.read_parquet(value.path / "results" / "switchboard.parquet")
    assert frame.step.nunique() == 2
    graph = json.loads((value.path / "results" / "switchboard_neuronpedia.json").read_text())
    assert graph["metadata"]["scan"] == value.path.name
    last = frame[frame.step == frame.step.max()].set_index("edge").effect
    assert sorted(link["weight"] for link in graph["links"]) == pytest.approx(sorted(last))


def test_a_prompt_of_a_language_model_and_words_that_it_does_not_have(lm_runs: Path, tmp_path: Path) -> None:
    theirs = lm_run_named(lm_runs, "value").path
    run = Run.open(Path(shutil.copytree(theirs, tmp_path / theirs.name)))
    board: Any = explore(run, **(HOW | {"most_steps": 1, "n": 4, "gradients": False}))
    step = board.document["runs"][0]["steps"][-1]
    prompt = board.answer({"ask": "prompt", "step": step, "text": "John gave a ball to Mary"})["prompt"]
    assert prompt["tokens"][-6:] == ["John", "gave", "a", "ball", "to", "Mary"]
    assert len(prompt["values"][0]["own"][0][0]) == len(prompt["tokens"])
    assert prompt["read_at"] == len(prompt["tokens"]) - 1
    with pytest.raises(ValueError, match="Zaphod"):
        board.answer({"ask": "prompt", "step": step, "text": "Zaphod gave a ball to Mary"})
    assert board.document["prompts"][0]["answer"] in board.document["prompts"][0]["tokens"]


def test_what_is_displayed_is_the_widget_and_in_text_the_finding(value: Run) -> None:
    pytest.importorskip("anywidget")
    board: Any = explore(value, **HOW)
    assert list(board._repr_mimebundle_()) == ["application/vnd.jupyter.widget-view+json"]
    assert board.finding() in repr(board)
    widget = board.widget()
    assert json.loads(widget.data) == board.document
    assert widget.live


def test_other_seeds_stand_beside_asked_with_pairs_of_their_own(tmp_path: Path) -> None:
    training = replace(TRAINING["small"], steps=2, n_eval=8)
    runs = sweep([icl_run("value", "small", seed, training) for seed in (0, 1)], tmp_path, workers=1, progress=False)
    together, alone = explore(runs, **HOW), explore(runs[1], **(HOW | {"gradients": False}))
    first, second = together.document["runs"]
    assert (first["seed"], second["seed"]) == (0, 1)
    assert second["clean"] == alone.document["runs"][0]["clean"], "its classes and labels are others"
    assert second["edge"]["effect"] == alone.document["runs"][0]["edge"]["effect"]
    given = explore(runs, pair=runs[0].task().pairs(8), **HOW).document["runs"][1]
    assert given["clean"] != second["clean"]


def test_runs_that_are_no_seeds_of_each_other_are_refused(value: Run, trained_runs: Path) -> None:
    classic = run_named(trained_runs, "classic")
    with pytest.raises(ValueError, match="has another architecture or task"):
        explore([value, classic], **HOW)
    for twice in ([value, value], [value, Run.open(value.path)]):
        with pytest.raises(ValueError, match="are one run .* which would count twice; leave one of them out"):
            explore(twice, **HOW)
    with pytest.raises(ValueError, match="there is no run to explore"):
        explore([], **HOW)
    value.record["checkpoints"] = {}
    with pytest.raises(ValueError, match="no checkpoint"):
        explore(value, **HOW)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (("--step", 0), "--step: every checkpoint is measured"),
        (("--dtype", "float64"), "--dtype: every checkpoint is measured"),
        (("--most-steps", 0), "most_steps must be"),
    ],
)
def test_an_option_that_nothing_would_hear_is_refused(
    option: tuple[str, Any], told: str, value: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, said = command(capsys, "explore", value.path.name, *option, "--root", value.path.parent)
    assert status == 2
    assert told in said


def test_results_are_explored_too(trained_runs: Path) -> None:
    run = run_named(trained_runs, "value")
    model, pair = run.load_model(), run.task().pairs(8)
    scores = attribute_edges(model, pair, direction="noise")
    board = explore(scores)
    assert explore(board) is board
    assert len(board.to_frame()) == len(scores.graph)
    quality = judge(model, pair, find_circuit(scores, "greedy", 4))
    assert explore(quality).finding() == quality.finding()


@pytest.mark.parametrize("most", [1, 2, 3, 7, 50])
def test_steps_are_spread_from_the_first_to_the_last(most: int) -> None:
    steps = list(range(0, 210, 10))
    found = spread_out(steps, most)
    assert len(found) == min(most, len(steps)) == len(set(found))
    assert found[-1] == 200
    assert most == 1 or found[0] == 0
