"""What all tests share: small configurations, one trained pair of runs, and one thread."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Get ready to run tests, which a process that only hands them to others is not: it imports nothing large."""
    if config.getoption("dist", "no") != "no":
        return
    import torch
    from hypothesis import settings

    import tests.checked  # noqa: F401 # before all others of ours, as it says how they are loaded

    torch.set_num_threads(1)
    # A slow machine is no fault of what is tested.
    settings.register_profile("without deadline", deadline=None)
    settings.load_profile("without deadline")
    # What was imported stays: to look through it for garbage, again and again, takes a tenth of the time.
    gc.collect()
    gc.freeze()
    # A shell that runs the tests in the background lets them ignore an interrupt, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str, name: str) -> Path:
    """Workers of one session share a parent folder; the first to take the lock trains, the others read."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / name
    root.mkdir(exist_ok=True)
    return root


@pytest.fixture(autouse=True)
def wide_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen on which no sentence is broken, as tests look for sentences; those on lines choose their own width."""
    monkeypatch.setenv("COLUMNS", "5000")


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a classic and a value run of the small preset, trained past their transitions, once a session."""
    from tests.helpers import train_small

    root = shared_folder(tmp_path_factory, worker_id, "trained")
    train_small(root)
    return root


@pytest.fixture(scope="session")
def lm_runs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of a classic and a value run of the smallest language model on stories, a few updates each."""
    from tests.helpers import train_small_lms

    root = shared_folder(tmp_path_factory, worker_id, "lm-trained")
    train_small_lms(root)
    return root


@pytest.fixture
def untyped() -> Iterator[None]:
    """No types are checked in the test, which is of what those see who check none."""
    from tests.checked import unchecked

    with unchecked():
        yield


@pytest.fixture
def browser() -> None:
    """Images need one."""
    from choreographer.browsers import Chromium

    if not (os.environ.get("BROWSER_PATH") or Chromium.find_browser(skip_local=False)):
        pytest.skip("no browser was found, which draws images")


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers is gone after it, and so are the plugins that it imports."""
    from circuits.common import families
    from circuits.config.gains import GAIN_KINDS
    from circuits.config.streams import TRANSFORM_KINDS
    from circuits.config.topologies import TOPOLOGY_KINDS
    from circuits.streams import variants
    from experiments import plugins
    from experiments.studies.registering import REGISTERED_BY
    from experiments.studies.registry import EXPERIMENTS, PICTURES
    from experiments.tasks.registry import MADE_BY, TASK_KINDS, USUAL

    there = (GAIN_KINDS, TRANSFORM_KINDS, TOPOLOGY_KINDS, TASK_KINDS)
    kept = [(family, dict(family.kinds), dict(family.origins)) for family in there]
    named = (variants._NAMED, variants._REGISTERED_BY, MADE_BY, USUAL, EXPERIMENTS, PICTURES, REGISTERED_BY)
    tables = [(table, table.copy()) for table in named]
    monkeypatch.setattr(plugins, "_loaded", [])
    monkeypatch.setattr(families, "_REGISTERED", {})
    yield
    for family, kinds, origins in kept:
        family.kinds, family.origins = kinds, origins
        family.let_be()
    for table, before in tables:
        table.clear()
        table.update(before)  # type: ignore[arg-type] # its own entries


# Files that wait for other processes or for a compiler, or take longest; begun last, one would hold up the end.
LONG = (
    *("circuits/test_compile.py", "experiments/test_plugins.py", "experiments/test_sweep.py", "test_readme.py"),
    *("experiments/test_notebook.py", "experiments/test_runs.py", "experiments/test_answers.py"),
    *("experiments/test_bundle.py", "experiments/test_engines.py", "figures/test_figures.py"),
    *("experiments/test_stacked.py", "experiments/test_lm_training.py", "experiments/test_resume.py"),
    *("figures/test_gallery.py", "circuits/test_storage.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long."""
    place = {f"tests/{name}": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(LONG)))
