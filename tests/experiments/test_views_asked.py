"""The map of routes and the attention view as questions of the shell: what they print, write and refuse."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import attention_view, route_map
from experiments.questions.attention import ViewAttention
from experiments.questions.route_map import MapRoutes
from experiments.runs.run import Run
from tests.experiments.test_cli import run
from tests.helpers import lm_run_named, run_named

TEXT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture
def classifier(trained_runs: Path, tmp_path: Path) -> Run:
    source = run_named(trained_runs, "value").path
    return Run.open(shutil.copytree(source, tmp_path / source.name, ignore=lambda *_: ["results"]))


@pytest.fixture
def speaker(lm_runs: Path, tmp_path: Path) -> Run:
    source = lm_run_named(lm_runs, "value").path
    return Run.open(shutil.copytree(source, tmp_path / source.name, ignore=lambda *_: ["results"]))


def written(asked: Run, name: str) -> pd.DataFrame:
    folder = asked.path / "results"
    assert {path.suffix for path in folder.glob(f"{name}.*")} == {".parquet", ".json", ".html"}
    return pd.read_parquet(folder / f"{name}.parquet")


def test_the_map_of_a_classifier_is_by_role_and_tells_the_routes_apart(
    classifier: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, "map", classifier.path, "--n", 32)
    assert status == 0, err
    assert "30 forward passes of 32 examples" in err
    assert "32 pairs (labels): 7 positions before 2 layers, denoise; largest: residual" in out
    frame = written(classifier, "route_map")
    best = frame.set_index(["layer", "position", "route"]).effect.sort_index()
    at = (1, "matching label")
    assert best[*at, "stream"] > 0.1
    assert best[*at, "residual"] < best[*at, "both"] - 0.1, "patching resid_pre is not the whole"
    assert best[*at, "both"] == pytest.approx(best[at].drop("both").sum())
    assert set(frame.run) == {classifier.path.name}


def test_the_map_of_one_row_is_of_its_positions(classifier: Run, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "map", classifier.path, "--n", 4, "--row", 2, "--top", 3)
    assert (status, "row 2 of 4 pairs (labels): 17 positions" in out) == (0, True)
    frame = written(classifier, "route_map")
    model, pair = classifier.load_model(), MapRoutes(n=4).pair(classifier)
    assert frame.effect.tolist() == pytest.approx(route_map(model, pair[2]).to_frame().effect.tolist())
    assert "matching label" in set(frame.token)
    status, _, err = run(capsys, "map", classifier.path, "--n", 4, "--row", 4)
    assert (status, "there is no pair 4: there are 4" in err) == (2, True)


def test_attention_in_a_text_in_token_numbers_and_in_the_tasks_own_prompt(
    speaker: Run, classifier: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    model = speaker.load_model()
    status, out, _ = run(capsys, "attention", speaker.path, "--prompt", TEXT)
    assert (status, "16 heads on 15 positions; largest: L" in out) == (0, True)
    of_text = written(speaker, "attention")
    numbers = model.to_tokens(TEXT)[0].tolist()
    assert run(capsys, "attention", speaker.path, "--tokens", *numbers)[0] == 0
    assert written(speaker, "attention").mixed.tolist() == of_text.mixed.tolist()
    for row in (0, 5):
        assert run(capsys, "attention", classifier.path, "--row", row)[0] == 0
        pair = MapRoutes(row=row).pair(classifier)
        frame = written(classifier, "attention")
        assert frame.mixed.tolist() == attention_view(classifier.load_model(), pair[row]).to_frame().mixed.tolist()
    assert {"target item", "matching label"} <= set(frame.query_token)


def test_mistakes_end_with_a_sentence(speaker: Run, classifier: Run, capsys: pytest.CaptureFixture[str]) -> None:
    cases: list[tuple[Run, list[Any], str]] = [
        (speaker, ["--prompt", "When Zaphod went"], "the tokenizer does not know 'Zaphod'"),
        (classifier, ["--prompt", TEXT], "this model takes vectors, and the prompt is a text"),
        (speaker, ["--prompt", TEXT, "--tokens", 1], "--prompt and --tokens each name a prompt; give one of them"),
        (classifier, ["--row", 128], "there is no pair 128: there are 128"),
        (speaker, ["--row", -1], "row must be a whole number of at least 0"),
    ]
    for asked, words, message in cases:
        status, _, err = run(capsys, "attention", asked.path, *words)
        assert status == 2
        assert message in err, err
        assert not (asked.path / "results").exists()


def test_a_question_in_python_gives_the_value_itself(speaker: Run) -> None:
    view = ViewAttention(prompt=TEXT, dtype="float64").ask(speaker)
    assert view.pattern.dtype.itemsize == 8
    assert view.figure(layer=2, shown="own").layout.updatemenus[0].active == 2
