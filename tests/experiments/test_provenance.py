"""What made a frame is written down beside it: other sources or runs make it stale, other words do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from experiments.commands.study import _put
from experiments.studies.collection import add_frames
from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.configurations import Key
from experiments.studies.heads_and_routes.study import ASKED, MECHANISM, STUDY, ask
from experiments.studies.provenance import NOT_KNOWN, Read, checked_frames, source, sources_of
from experiments.studies.registry import STUDIES

ASKING, TABLES = "experiments.studies.heads_and_routes.asking", "experiments.studies.heads_and_routes.study"
PATCHING = "analysis.patching.patch"
RUN = "icl-value-small-s0-0123456789ab"


def file_of(module: str) -> str:
    return module.replace(".", "/") + ".py"


def with_change(module: str, change: Callable[[str], str]) -> Read:
    """What reads sources, one of which was changed."""

    def read(name: str) -> str:
        text = source(name)
        if name != module:
            return text
        changed = change(text)
        assert changed != text, "the change is one"
        return changed

    return read


def replaced(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


def changed(module: str, change: Callable[[str], str]) -> set[str]:
    """The files of which a change makes another digest."""
    before, after = sources_of(ask), sources_of(ask, with_change(module, change))
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def test_sources_are_what_is_reached_in_the_folder_and_what_is_imported_of_analysis_and_questions() -> None:
    found = {*sources_of(ask)}
    assert {file_of(ASKING), file_of(TABLES), file_of(PATCHING), "experiments/questions/patch.py"} <= found
    assert "analysis/statistics/intervals.py" not in found, "that is of its tables"
    assert not [name for name in found if name.startswith(("circuits", "figures"))]
    assert sources_of(partial(partial(ask, []), n=3)) == sources_of(ask)


@pytest.mark.parametrize("study", [study for study in STUDIES.values() if study.asking], ids=lambda study: study.name)
def test_every_study_that_asks_has_its_own_folder_in_it(study: object) -> None:
    asking = next(each for each in STUDIES.values() if each is study).asking
    assert asking
    folder = asking.compute.__module__.rpartition(".")[0].replace(".", "/")
    found = sources_of(asking.compute)
    assert len([name for name in found if name.startswith(folder)]) >= 2, "that which asks, too"
    by_analysis = [name for name in found if name.startswith("analysis")]
    assert bool(by_analysis) == (folder != "experiments/studies/interference"), "which asks the model itself"


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (ASKING, "PLATEAU, MIDDLE, LEARNED = 0.3", "PLATEAU, MIDDLE, LEARNED = 0.31"),
        (ASKING, "threshold=0.02", "threshold=0.03"),
        (TABLES, "arm in experiment.arms(size)", "arm in experiment.arms()"),
        (PATCHING, "return self.target - self.baseline", "return self.baseline - self.target"),
        ("experiments.questions.paths", "return analysis.patch_paths", "return 0 or analysis.patch_paths"),
    ],
)
def test_a_changed_source_is_another(module: str, old: str, new: str) -> None:
    assert changed(module, replaced(old, new)) == {file_of(module)}


@pytest.mark.parametrize("module", [ASKING, TABLES, PATCHING])
def test_other_words_and_another_layout_are_the_same_source(module: str) -> None:
    assert not changed(module, lambda text: f'"""Other words."""\n# and a comment\n{text}\n\n\n# at its end\n')
    assert not changed(module, replaced("\n\n\ndef ", "\n\n# because\n\n\n\ndef "))


def test_tables_may_change_and_what_is_no_longer_imported_counts() -> None:
    assert not changed(TABLES, lambda text: text.replace('"| "', '"|"') + "\n\ndef table() -> int:\n    return 3\n")
    assert "experiments/questions/paths.py" in changed(
        ASKING, replaced("from experiments.questions.paths import Paths", "from elsewhere import Paths")
    )


# --- in the bundle ----------------------------------------------------------------------------------------------------


def checked(bundle: Path, run: str = RUN[-12:]) -> dict[str, str]:
    """What is said of every frame of the study, where a run is one that is asked."""
    arms: dict[str, set[Key]] = {each.name: set() for each in ASKED}
    arms[MECHANISM.name] = {("as in the paper", "value", 0, run)}
    found = list(checked_frames(Bundle.open(bundle), [STUDY], arms))
    assert all(fresh == (not why or why == NOT_KNOWN) for _, _, fresh, why in found)
    return {name: why for _, name, _, why in found}


FRAMES = {
    "mechanism_heads": pd.DataFrame({"run": [RUN, RUN], "score": [0.1, 0.2]}),
    "mechanism_edges": pd.DataFrame({"score": [0.3]}),
}


def test_what_was_made_as_it_would_be_now_is_fresh_and_of_before_nothing_is_known(tmp_path: Path) -> None:
    add_frames(FRAMES, tmp_path)
    assert set(json.loads((tmp_path / "manifest.json").read_text())) == {"schema", "files"}, "as it was before"
    assert checked(tmp_path) == dict.fromkeys(FRAMES, NOT_KNOWN)
    _put(lambda: {"mechanism_heads": FRAMES["mechanism_heads"]}, tmp_path, STUDY)
    assert checked(tmp_path) == {"mechanism_heads": "", "mechanism_edges": NOT_KNOWN}
    made = Bundle.open(tmp_path).made["mechanism_heads"]
    assert made == {"sources": sources_of(ask), "runs": [RUN[-12:]]}


def test_other_sources_and_other_runs_make_a_frame_stale(tmp_path: Path) -> None:
    now = sources_of(ask)
    add_frames(FRAMES, tmp_path, now | {file_of(PATCHING): "another"})
    assert {*checked(tmp_path).values()} == {f"stale: {file_of(PATCHING)} is not what made it"}
    add_frames(FRAMES, tmp_path, {name: digest for name, digest in now.items() if "questions/pa" not in name})
    assert checked(tmp_path)["mechanism_edges"] == (
        "stale: experiments/questions/patch.py, experiments/questions/paths.py are not what made it"
    )
    add_frames(FRAMES, tmp_path, now)
    assert checked(tmp_path, "ba9876543210") == {
        "mechanism_heads": "stale: it is of the runs 0123456789ab, which are no longer asked",
        "mechanism_edges": "",
    }


def test_a_frame_that_somebody_else_writes_is_not_known_and_those_of_others_stay(tmp_path: Path) -> None:
    add_frames(FRAMES, tmp_path, sources_of(ask))
    add_frames({"mechanism_edges": FRAMES["mechanism_edges"], "more": FRAMES["mechanism_edges"]}, tmp_path)
    assert checked(tmp_path) == {"mechanism_heads": "", "mechanism_edges": NOT_KNOWN}


def test_nothing_is_made_up_for_the_frames_of_this_repository() -> None:
    held = Bundle.open(COMMITTED)
    asked = [frame for study in STUDIES.values() if study.asking for frame in study.asking.frames]
    assert {*held.made} <= {*asked}
    assert all({*made} == {"sources", "runs"} for made in held.made.values())
