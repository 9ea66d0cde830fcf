"""What is committed is what the results give, and what is not is named with its reason."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.freshness import DRAWN, check, counted, note_images, require_fresh
from experiments.studies.registry import PICTURES
from experiments.studies.study import Picture
from figures.files import rounded

HELD = Bundle.open(COMMITTED)
RENDERED = COMMITTED.parent / "rendered"


@pytest.mark.parametrize("name", [name for name, picture in PICTURES.items() if picture.drawable(HELD)])
def test_every_committed_image_was_drawn_of_its_committed_figure(name: str) -> None:
    noted = json.loads((RENDERED / DRAWN).read_text())
    for kind in ("png", "svg"):
        of = noted[f"{name}.{kind}"]
        assert of["of"] == hashlib.sha256((RENDERED / f"{name}.json").read_bytes()).hexdigest()
        assert of["is"] == hashlib.sha256((RENDERED / f"{name}.{kind}").read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One figure with an image, and a page."""
    (tmp_path / "mine.json").write_text(rounded(figure()).to_json() or "")
    (tmp_path / "mine.svg").write_text("<svg/>")
    note_images([tmp_path / "mine.svg"], tmp_path)
    (tmp_path / "page.md").write_text("one\ntwo\n")
    return tmp_path


def figure(y: float = 1.0) -> go.Figure:
    return go.Figure(go.Scatter(y=[y, 2.0]))


def checked(folder: Path, y: float = 1.0, text: str = "one\ntwo\n") -> pd.DataFrame:
    mine = Picture("mine", figure, lambda bundle: {"y": y})
    found = check([mine], HELD, folder, [folder / "page.md"], lambda before, bundle: text)
    return found.set_index(["kind", "name"])


def test_what_is_as_the_results_give_it_is_fresh(folder: Path) -> None:
    found = checked(folder)
    assert found.fresh.all()
    require_fresh(found.reset_index())
    assert counted(found.reset_index()) == ["1 figures", "1 images", "1 pages"]


def test_other_results_make_a_figure_its_image_and_its_page_stale(folder: Path) -> None:
    found = checked(folder, y=5.0, text="one\nthree\n")
    assert not found.fresh.any()
    assert found.why["image", "mine.svg"] == "it was drawn of another figure"
    assert found.why["page", "page.md"] == "1 lines differ, as: two"
    with pytest.raises(ValueError, match=r"(?s)3 of 3 are not what the results give .*figure mine: the results, or"):
        require_fresh(found.reset_index())


def test_an_image_that_was_changed_or_of_which_nothing_is_known_is_stale(folder: Path) -> None:
    (folder / "mine.svg").write_text("<svg >")
    assert checked(folder).why["image", "mine.svg"] == "it is not the image that was drawn"
    (folder / "mine.svg").unlink()
    assert checked(folder).why["image", "mine.svg"] == "it was drawn, and is not there"
    (folder / "mine.svg").write_text("<svg/>")
    (folder / DRAWN).unlink()
    assert not checked(folder).fresh["image", "mine.svg"]
    assert checked(folder).fresh["figure", "mine"]


def test_a_figure_that_was_never_drawn_is_stale(folder: Path) -> None:
    (folder / "mine.json").unlink()
    assert checked(folder).why["figure", "mine"] == "there is no mine.json"
