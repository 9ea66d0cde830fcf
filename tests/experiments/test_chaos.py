"""Processes that die, directories that vanish, bytes that change, at every place: nothing is lost, nothing silent."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from circuits import load_checkpoint
from circuits.checkpoint import CheckpointError
from experiments.runs.config import lm_run
from experiments.runs.record import RunError
from experiments.runs.run import Run
from experiments.runs.training_config import Every
from experiments.studies import registry as paper
from experiments.studies.collection import add_frames, collect
from experiments.studies.committed_results import Bundle, BundleError
from experiments.studies.study import Experiment
from experiments.tasks.text import corpus as corpora
from experiments.tasks.text.task import TextTask, TextTaskConfig
from experiments.tasks.tokenizers import save_tokenizer, word_level
from experiments.training import trainer as training
from experiments.training.together import train
from tests.experiments.test_bundle import tiny_arms
from tests.experiments.test_training import files_of, tiny, trained
from tests.helpers import TINY_LM, tiny_lm, trained_lm

pytestmark = pytest.mark.slow
CONFIG = tiny(steps=8, evaluate_at=(Every(4),), checkpoint_at=(Every(4),), gradients_at=(Every(4),))
CHANGES = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate")
"""What Python tells its audit hooks before it happens."""
TOLD = (RunError, BundleError, CheckpointError)


class Counting:
    """Counts what is about to happen to files of a folder, and does something at one of these moments."""

    def __init__(self, folder: Path, at: int = 0, then: Callable[[], None] = lambda: None):
        self.folder, self.at, self.then, self.seen, self.on = str(folder), at, then, 0, True
        sys.addaudithook(self)

    def __call__(self, event: str, about: tuple[Any, ...]) -> None:
        if not self.on or event not in CHANGES or not str(about[0]).startswith(self.folder):
            return
        self.seen += 1
        if self.seen == self.at:
            self.on = False
            self.then()
            self.on = True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_child(work: Callable[[], None]) -> int:
    """Do something in a process of its own and return how it ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking is safe here: no other thread holds a lock
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def moments(folder: Path, work: Callable[[], Any]) -> int:
    """Return how many moments there are in some work on a folder."""
    reader, writer = multiprocessing.get_context("fork").Pipe(duplex=False)

    def counted() -> None:
        counting = Counting(folder)
        work()
        writer.send(counting.seen)

    assert in_a_child(counted) == 0
    return reader.recv()


@pytest.fixture(autouse=True)
def saves_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAVE_SECONDS", 0.0)


def said(what: str, counts: Any) -> None:
    print(f"\n  {what}: {counts}", end="")


# --- death ------------------------------------------------------------------------------------------------------------


def test_a_training_that_dies_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    whole = files_of(trained(tmp_path / "whole", CONFIG))
    n = moments(tmp_path / "counted", lambda: train([Run.at(tmp_path / "counted", CONFIG)]))
    ended = Counter[str]()
    for at in range(1, n + 1):
        root = tmp_path / f"{at}"

        def dying(root: Path = root, at: int = at) -> None:
            Counting(root, at, die)
            train([Run.at(root, CONFIG)])

        assert in_a_child(dying) == -signal.SIGKILL
        # Whoever lists runs in between sees no damage; a directory whose record was not written is no run yet.
        ended[next((run.status for run in Run.under(root)), "not begun")] += 1
        assert files_of(trained(root, CONFIG)) == whole, f"killed at moment {at}"
    said(f"training killed at each of {n} moments, resumed to the same bytes", dict(ended))
    assert n > 50


def test_a_directory_that_vanishes_at_any_moment_is_not_made_again(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    n = moments(root, lambda: train([Run.at(root, CONFIG)]))
    ended = Counter[str]()
    for at in range(1, n + 1):
        shutil.rmtree(root, ignore_errors=True)
        folder = root / CONFIG.name
        was_finished = False

        def vanish(folder: Path = folder) -> None:
            nonlocal was_finished
            was_finished = (folder / "run.json").exists() and Run.open(folder).finished
            shutil.rmtree(folder, ignore_errors=True)

        counting = Counting(root, at, vanish)
        error: RunError | None = None
        try:
            train([Run.at(root, CONFIG)])
        except RunError as raised:
            error = raised
        counting.on = False
        if error is None:
            assert was_finished or Run.open(folder).finished
        else:
            assert "deleted" in str(error) or "is not a run directory" in str(error), str(error)
        ended["told" if error else "finished before"] += 1
        if folder.exists() and (folder / "run.json").exists():
            # Deleted before anything was in it: it was trained from its beginning.
            assert Run.open(folder).finished
            assert Run.open(folder).metrics().step.unique().tolist() == [0, 4, 8]
    said(f"directory deleted at each of {n} moments", dict(ended))
    assert ended["told"] > n / 2


def test_a_bundle_whose_writer_dies_at_any_moment_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(paper.EXPERIMENTS, "tiny", Experiment("tiny", tiny_arms))
    arms = tiny_arms()
    train([Run.at(tmp_path / "runs", arms[0].config)])
    old = tmp_path / "old"
    collect([tmp_path / "runs"], old, ["tiny"])
    add_frames({"extra": pd.DataFrame({"x": [1.0, 2.0]})}, old)
    for arm in arms[1:]:
        train([Run.at(tmp_path / "runs", arm.config)])

    def held(path: Path) -> dict[str, bytes]:
        Bundle.open(path)
        return {file.name: file.read_bytes() for file in sorted(path.glob("*.*")) if file.is_file()}

    new = tmp_path / "new"
    shutil.copytree(old, new)
    collect([tmp_path / "runs"], new, ["tiny"])
    both = {"old": held(old), "new": held(new)}
    assert both["old"] != both["new"]
    shutil.copytree(old, tmp_path / "counted")
    n = moments(tmp_path / "counted", lambda: collect([tmp_path / "runs"], tmp_path / "counted", ["tiny"]))
    ended = Counter[str]()
    for at in range(1, n + 1):
        path = tmp_path / f"{at}"
        shutil.copytree(old, path)

        def dying(path: Path = path, at: int = at) -> None:
            Counting(path, at, die)
            collect([tmp_path / "runs"], path, ["tiny"])

        assert in_a_child(dying) == -signal.SIGKILL
        found = held(path)
        ended[next(name for name, files in both.items() if files.items() <= found.items())] += 1
        collect([tmp_path / "runs"], path, ["tiny"])
        assert held(path) == both["new"], f"killed at moment {at}"
    said(f"bundle's writer killed at each of {n} moments; the bundle is then", dict(ended))
    assert set(ended) == {"old", "new"}


def test_two_processes_on_one_run_lose_none_of_each_others_work(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", CONFIG)
    n = moments(tmp_path / "counted", lambda: train([Run.at(tmp_path / "counted", CONFIG)]))
    for at in range(5, n + 1, 3):
        root = tmp_path / f"{at}"
        first = Run.at(root, CONFIG)

        def second(root: Path = root, at: int = at) -> None:
            Counting(root, at, die)
            train([Run.at(root, CONFIG)])

        in_a_child(second)
        train([first])
        assert first.checkpoints() == whole.checkpoints()
        assert files_of(Run.at(root, CONFIG)) == files_of(whole)
    said(
        "runs opened by one process, trained by another till it died, and finished by the first",
        len(range(5, n + 1, 3)),
    )


def test_many_processes_that_train_one_run_at_once_make_one_run(tmp_path: Path) -> None:
    whole = files_of(trained(tmp_path / "whole", CONFIG))
    context = multiprocessing.get_context("fork")
    told = Counter[str]()
    for round_ in range(10):
        root, said_by = tmp_path / f"{round_}", context.Queue()

        def contend(root: Path = root, said_by: Any = said_by) -> None:
            try:
                train([Run.at(root, CONFIG)])
                said_by.put("trained or found finished")
            except RunError as error:
                said_by.put("told to wait" if "another process is training" in str(error) else str(error))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            processes = [context.Process(target=contend) for _ in range(4)]
            for process in processes:
                process.start()
        told.update(said_by.get(timeout=60) for _ in processes)
        for process in processes:
            process.join()
        assert files_of(Run.at(root, CONFIG)) == whole
    said("4 processes on one run, 10 times", dict(told))
    assert set(told) <= {"trained or found finished", "told to wait"}


# --- bytes ------------------------------------------------------------------------------------------------------------


def stopped_at_six(root: Path) -> Run:
    run, asked = Run.at(root, CONFIG), iter(range(100))
    with pytest.raises(KeyboardInterrupt):
        train([run], stop=lambda: next(asked) > 5)
    return run


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return set(a) == set(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, pd.DataFrame):
        return a.equals(b)
    return a == b


@contextmanager
def changed(file: Path, data: bytes) -> Iterator[None]:
    before = file.read_bytes()
    file.write_bytes(data)
    try:
        yield
    finally:
        file.write_bytes(before)


def flip(
    file: Path, read: Callable[[], Any], n: int, also: tuple[type[Exception], ...] = (), cuts: bool = True
) -> dict[str, int]:
    """Change bytes of a file, one at a time, and count what reading then says.

    Every tenth time the file is cut there instead; without ``cuts`` it never is, and keeps its last byte.
    """
    expected, data, chance = read(), file.read_bytes(), random.Random(file.name)
    ended = Counter[str]()
    for i in range(n):
        at = chance.randrange(len(data) - (not cuts))
        other = bytes([data[at] ^ chance.randrange(1, 256)])
        damaged = data[:at] + (b"" if cuts and i % 10 == 0 else other + data[at + 1 :])
        with changed(file, damaged), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = read()
            except (*TOLD, *also):
                ended["told"] += 1
                continue
        assert same(expected, found), f"byte {at} of {file} changed what is read, and nothing was said"
        ended["no matter"] += 1
    return dict(ended)


def record_of(run: type[Run] | type[Run], path: Path) -> Callable[[], Any]:
    def read() -> Any:
        found = run.open(path)
        return {key: value for key, value in found.record.items() if key not in ("sha256", "format")}

    return read


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    words = [f"w{i}" for i in range(30)]
    chance = random.Random(0)
    (folder / "corpus.txt").write_text("\n".join(" ".join(chance.choices(words, k=12)) for _ in range(60)) + "\n")
    save_tokenizer(word_level(words), folder / "words")
    return folder


def test_no_changed_byte_of_any_kind_of_file_is_read_as_if_it_were_right(
    tmp_path: Path, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALUESTREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpora, "SETTLED_SECONDS", -1.0)
    run = trained(tmp_path, CONFIG)
    run.write_result("thing", pd.DataFrame({"layer": [0, 1], "what": ["a", None], "value": [0.5, 0.123456789]}))
    stopped = stopped_at_six(tmp_path / "stopped")
    lm = trained_lm(tmp_path, tiny_lm())
    task = TextTaskConfig.of(str(texts / "corpus.txt"), str(texts / "words"), n_ctx=12, validation=0.2)
    text = Run.at(tmp_path, lm_run("0.2m", task, "value", 0, TINY_LM))

    def opened() -> Run:
        return Run.open(run.path)

    def going_on() -> Run:
        return Run.open(stopped.path)

    def batch() -> Any:
        return TextTask(task).sample(4).tokens

    batch()
    (store,) = (tmp_path / "cache" / "tokens").glob("[!.]*")
    (memory, *_) = (tmp_path / "cache" / "seen").glob("*.json")
    checkpoint = run.checkpoint_path(8)
    kinds: list[tuple[Path, Callable[[], Any], tuple[type[Exception], ...]]] = [
        (run.path / "run.json", record_of(Run, run.path), ()),
        (lm.path / "run.json", record_of(Run, lm.path), ()),
        (run.path / "metrics.parquet", lambda: opened().metrics(), ()),
        (run.path / "gradients.parquet", lambda: opened().gradients(), ()),
        (run.path / "sessions.jsonl", lambda: opened().seconds, ()),
        (run.path / "results" / "thing.parquet", lambda: opened().results("thing"), ()),
        (checkpoint, lambda: dict(opened().load_model(8).state_dict()), ()),
        (checkpoint, lambda: (load_checkpoint(checkpoint).config, dict(load_checkpoint(checkpoint).state_dict())), ()),
        (stopped.path / "run.json", record_of(Run, stopped.path), ()),
        (stopped.path / "metrics.jsonl", lambda: going_on().metrics(), ()),
        (stopped.path / "gradients.jsonl", lambda: going_on().gradients(), ()),
        (stopped.path / "state.safetensors", lambda: going_on().read_state(), ()),
        *[
            (file, lambda: Run.open(lm.path).tokenizer().encode("Mary gave it to John"), ())
            for file in sorted(lm.tokenizer_path.iterdir())
        ],
        # What a path that was changed names is looked at, and refused by what it holds.
        (text.path / "places.json", lambda: Run.open(text.path).task().sample(4).tokens, (ValueError,)),
        *[(file, batch, (ValueError,)) for file in sorted(store.iterdir())],
        (memory, batch, (ValueError,)),
    ]
    for file, read, also in kinds:
        # Of a log, a cut end is a line that was being written, and is left out.
        cuts = file.suffix != ".jsonl"
        said(f"{file.parent.name[:12]}/{file.name}", flip(file, read, 200, also, cuts))


def test_a_run_goes_on_from_damaged_files_to_the_same_bytes_or_not_at_all(tmp_path: Path) -> None:
    whole = files_of(trained(tmp_path / "whole", CONFIG))
    stopped = stopped_at_six(tmp_path / "stopped")
    chance, ended = random.Random(1), Counter[str]()
    for name in ("run.json", "metrics.jsonl", "gradients.jsonl", "state.safetensors"):
        for i in range(25):
            copy = tmp_path / "copies" / f"{name}-{i}" / stopped.path.name
            shutil.copytree(stopped.path, copy)
            data = (copy / name).read_bytes()
            at = chance.randrange(len(data))
            other = b"" if i % 5 == 0 else bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]
            (copy / name).write_bytes(data[:at] + other)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    resumed = trained(copy.parent, CONFIG)
            except TOLD:
                ended[f"{name} told"] += 1
                continue
            assert files_of(resumed) == whole, f"byte {at} of {name}"
            ended[f"{name} no matter"] += 1
    said("resumed from damaged files", dict(ended))


def test_no_changed_byte_of_a_bundle_is_read_as_if_it_were_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(paper.EXPERIMENTS, "tiny", Experiment("tiny", tiny_arms))
    for arm in tiny_arms():
        train([Run.at(tmp_path / "runs", arm.config)])
    path = tmp_path / "data"
    collect([tmp_path / "runs"], path, ["tiny"])

    def read() -> Any:
        held = Bundle.open(path)
        return {name: held.frame(name.removesuffix(".parquet")) for name in held.files}

    for file in sorted(path.iterdir()):
        said(f"bundle/{file.name}", flip(file, read, 200))
