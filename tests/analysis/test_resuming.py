"""What an interrupted question has measured is found again and not measured again, and nothing else is found."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis import Ablation, Circuit, Graph, KeptIn, Pair, ablate, ablate_edges, find_sites, judge, patch, patch_paths
from analysis.metric_identity import metric_identity
from analysis.metrics import METRICS, ReadMetric
from analysis.patching.replay import Replay
from analysis.resuming import KeptRows
from circuits import HookedStreamTransformer, Site
from circuits.interventions.intervention import FromRun
from tests.analysis.test_edges import pair_for
from tests.analysis.test_replay import least_memory
from tests.helpers import build, model_of
from tests.peak_memory import questions

LONG = ("patch", "patch, any metric", "paths", "shares", "edges, checked", "exact", "circuit", "cut")


def small(seed: int = 0) -> tuple[HookedStreamTransformer, Pair]:
    model = build("lime", "tokens", 2)
    return model, pair_for(model, 4 + seed)


def framed(found: Any) -> pd.DataFrame:
    """All numbers of a result, of any kind."""
    if isinstance(found, pd.DataFrame):
        return found
    return found.edges.assign(**found.summary().iloc[0]) if hasattr(found, "edges") else found.to_frame()


class Stops:
    """Counts which rows are kept as they are measured, and interrupts where so many have been."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.names: list[str] = []
        self.apart: list[str] = []
        """The same, with what else the rows depend on."""
        self.after: float = float("inf")
        add = KeptRows.add

        def counted(rows: KeptRows, new: dict[str, Tensor]) -> None:
            add(rows, new)
            self.names += list(new)
            self.apart += [f"{rows.question}, {rows.identity}, {name}" for name in new]
            if len(self.names) >= self.after:
                raise KeyboardInterrupt

        monkeypatch.setattr(KeptRows, "add", counted)

    def run(self, ask: Callable[..., Any], folder: Path, after: float = float("inf")) -> tuple[Any, list[str]]:
        """What is found, if anything, and the names of what was measured."""
        self.names, self.after, found = [], after, None
        with suppress(KeyboardInterrupt), KeptIn(folder) as kept:
            found = ask(kept=kept)
        return found, self.names


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Stops:
    monkeypatch.setattr("analysis.patching.patch.MOST_COPIES", 3)
    return Stops(monkeypatch)


@pytest.mark.parametrize("name", LONG)
def test_what_was_measured_is_not_measured_again(
    name: str, stops: Stops, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = questions(*small())[name]
    # As little as is enough, so that many passes are needed.
    ask = partial(ask, max_memory=2 * least_memory(ask))
    whole, folder = ask(), tmp_path / "kept"
    _, everything = stops.run(ask, folder)
    assert not folder.exists(), "it was answered"
    nothing, first = stops.run(ask, folder, after=3)
    assert nothing is None
    assert list(folder.iterdir())
    capsys.readouterr()
    resumed, rest = stops.run(ask, folder)
    assert 3 <= len(first) < len(everything)
    assert sorted(first + rest) == sorted(everything)
    assert f" goes on where it was: {len(first)} of " in capsys.readouterr().err
    pd.testing.assert_frame_equal(framed(resumed), framed(whole), check_exact=True)
    assert not folder.exists()


def test_it_is_forward_passes_that_are_spared(stops: Stops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pair = small()
    ask = partial(patch, model, pair, find_sites(model, ["resid_pre", "z"], positions=range(7)))
    ask = partial(ask, max_memory=least_memory(ask))
    copies, run = [0], Replay.run

    def counted(replay: Replay, edits: list[Any]) -> Tensor:
        copies[0] += len(edits)
        return run(replay, edits)

    monkeypatch.setattr(Replay, "run", counted)
    ask()
    without = copies[0]
    stops.run(ask, tmp_path, after=10)
    stops.run(ask, tmp_path)
    assert copies[0] == 2 * without
    ask()
    assert copies[0] == 3 * without, "where nothing is to be kept, everything is measured"


def test_more_that_is_asked_finds_what_less_has_measured(stops: Stops, tmp_path: Path) -> None:
    model, pair = small()
    few, more = (find_sites(model, names, positions=[0, 3]) for names in (["z"], ["z", "q"]))
    _, first = stops.run(partial(patch, model, pair, few), tmp_path, after=1)
    found, measured = stops.run(partial(patch, model, pair, more), tmp_path)
    assert sorted(first + measured) == sorted(map(repr, more))
    pd.testing.assert_frame_equal(found.to_frame(), patch(model, pair, more).to_frame())


def of_seed(seed: int) -> HookedStreamTransformer:
    return model_of(small()[0].config, seed)


def with_position(pair: Pair) -> Pair:
    return Pair(pair.clean, pair.corrupt, pair.answers, pair.wrong, {"S": torch.zeros(len(pair), 1).long()})


OTHERS: dict[str, Callable[[], tuple[HookedStreamTransformer, Pair, dict[str, Any]]]] = {
    "metric": lambda: (*small(), {"metric": "loss"}),
    "direction": lambda: (*small(), {"direction": "noise"}),
    "pairs": lambda: (*small(1), {}),
    "roles": lambda: (small()[0], with_position(small()[1]), {}),
    "weights": lambda: (of_seed(1), small()[1], {}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_question_finds_nothing(
    other: str, stops: Stops, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pair = small()
    sites = find_sites(model, ["z"])
    stops.run(partial(patch, model, pair, sites), tmp_path, after=1)
    capsys.readouterr()
    model, pair, options = OTHERS[other]()
    _, measured = stops.run(partial(patch, model, pair, sites, **options), tmp_path)
    assert len(measured) == len(sites)
    assert "goes on" not in capsys.readouterr().err
    _, measured = stops.run(partial(patch, *small(), sites), tmp_path)
    assert not measured, "what the first has kept is there, whatever was answered beside it"


def test_metrics_of_ones_own_are_told_apart_by_their_source(stops: Stops, tmp_path: Path) -> None:
    model, pair = small()

    def measuring(times: int) -> Callable[..., Tensor]:
        def mine(logits: Tensor, pair: Pair) -> Tensor:
            return logits[:, -1, 0] - logits[:, -1, 1]

        def other(logits: Tensor, pair: Pair) -> Tensor:
            return logits[:, -1, 0]

        other.__name__ = "mine"
        return mine if times == 1 else other

    sites = find_sites(model, ["z"])
    stops.run(partial(patch, model, pair, sites, measuring(1)), tmp_path, after=1)
    assert len(stops.run(partial(patch, model, pair, sites, measuring(2)), tmp_path)[1]) == len(sites)
    assert not stops.run(partial(patch, model, pair, sites, measuring(1)), tmp_path)[1]
    unread = partial(measuring(1))
    with pytest.raises(ValueError, match="source of .* cannot be read"):
        patch(model, pair, sites, unread, kept=KeptIn(tmp_path))
    patch(model, pair, sites, unread)


def weighed(weight: Any) -> Callable[..., Tensor]:
    def mine(logits: Tensor, pair: Pair) -> Tensor:
        # Of all positions, or of the one that is read.
        return logits.reshape(len(logits), -1, logits.shape[-1])[:, -1, 2] * weight

    return mine


def by_default(one: int, *, other: float) -> Callable[..., Tensor]:
    def mine(logits: Tensor, pair: Pair, at: int = one, *, times: float = other) -> Tensor:
        return logits[:, -1, at] * times

    return mine


def calling(inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(inner)
    def mine(logits: Tensor, pair: Pair) -> Tensor:
        return 2 * inner(logits, pair)

    return mine


def by_array(weights: np.ndarray) -> Callable[..., Tensor]:
    def mine(logits: Tensor, pair: Pair) -> Tensor:
        return logits[:, -1, :2] @ torch.as_tensor(weights, dtype=logits.dtype)

    return mine


class Reads:
    """An object that is called as a metric."""

    def __init__(self, at: int):
        self.at = at

    def __call__(self, logits: Tensor, pair: Pair) -> Tensor:
        return logits[:, -1, self.at]


def from_place(at: Any, logits: Tensor, pair: Pair) -> Tensor:
    return logits[:, -1, int(at)]


ONE_LINE = (lambda logits, pair: logits[:, -1, 3], lambda logits, pair: logits[:, -1, 4])
MINE: dict[str, Callable[[int], Callable[..., Tensor]]] = {
    "variable": lambda k: weighed(1.5 + k),
    "tensor": lambda k: weighed(torch.tensor([1.0, 2.5 + k])[1]),
    "array": lambda k: by_array(np.array([1.0, 2.0 + k])),
    "nested": lambda k: calling(weighed(2.0 + k)),
    "wrapped or not": lambda k: weighed(1.0) if k else calling(weighed(1.0)),
    "default": lambda k: by_default(3 + k, other=1.5),
    "named default": lambda k: by_default(3, other=1.5 + k),
    "lambdas of a line": lambda k: ONE_LINE[k],
    "method of a number": lambda k: MethodType(from_place, 5 + k),
    "read": lambda k: ReadMetric(weighed(7 + k)),
    "of a metric": lambda k: calling(ReadMetric(weighed(7 + k))),
}


@pytest.mark.parametrize("how", MINE)
def test_metrics_of_ones_own_are_told_apart_by_what_they_hold(how: str, stops: Stops, tmp_path: Path) -> None:
    model, pair = small()
    first, other = (partial(patch, model, pair, find_sites(model, ["z"]), MINE[how](k)) for k in (0, 1))
    stops.run(first, tmp_path, after=1)
    found, measured = stops.run(other, tmp_path)
    assert measured, "another metric's numbers are not this one's"
    pd.testing.assert_frame_equal(found.to_frame(), other().to_frame())
    again = partial(patch, model, pair, find_sites(model, ["z"]), MINE[how](0))
    assert not stops.run(again, tmp_path)[1], "the same metric, made again, is found"


@pytest.mark.parametrize("metric", [Reads(1).__call__, Reads(1), weighed(Reads(1)), weighed([Reads(1)]), torch.sum])
def test_a_metric_that_cannot_be_told_apart_is_not_kept(metric: Any, tmp_path: Path) -> None:
    model, pair = small()
    with pytest.raises(ValueError, match=r"(what changes in it would not be seen.*leave kept out|cannot be read)"):
        patch(model, pair, find_sites(model, ["z"]), metric, kept=KeptIn(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_function_that_holds_itself_is_known_again() -> None:
    def made(least: int) -> Callable[..., Tensor]:
        def mine(logits: Tensor, pair: Pair, deep: int = 2) -> Tensor:
            return logits[:, -1, least] if deep == 0 else mine(logits, pair, deep - 1)

        return mine

    assert metric_identity("mine", made(1)) == metric_identity("mine", made(1))
    assert metric_identity("mine", made(1)) != metric_identity("mine", made(2))
    assert metric_identity("loss", METRICS["loss"]) == ["loss"]


def test_gates_tell_models_apart(stops: Stops, tmp_path: Path) -> None:
    model, pair = small()
    ask = partial(patch, model, pair, find_sites(model, ["z"]))
    stops.run(ask, tmp_path, after=1)
    with model.gated("gradient-only"):
        assert stops.run(ask, tmp_path)[1]


def test_ablations_are_resumed_and_told_apart_by_what_is_put_in_place(stops: Stops, tmp_path: Path) -> None:
    model, pair = small()
    ask = partial(ablate, model, pair)
    _, everything = stops.run(ask, tmp_path / "whole")
    _, first = stops.run(ask, tmp_path, after=4)
    found, rest = stops.run(ask, tmp_path)
    assert (len(first), sorted(first + rest)) == (4, sorted(everything))
    pd.testing.assert_frame_equal(found.to_frame(), ablate(model, pair).to_frame(), check_exact=True)

    one = [Ablation.sites("v", [Site(0, "v")], FromRun("other"))]
    for other in (of_seed(1), of_seed(2)):
        _, measured = stops.run(partial(ablate, model, pair, one, models={"other": other}), tmp_path, after=1)
        assert len(measured) == 1, "another model's rows are not found"


def test_which_parameters_learn_is_part_of_an_ablation(stops: Stops, tmp_path: Path) -> None:
    model, pair = small()
    ask = partial(ablate, model, pair, [Ablation.head(model, 0, 1), Ablation.head(model, 1, 1)])
    stops.run(ask, tmp_path, after=1)
    model.W_U.requires_grad_(False)
    assert len(stops.run(ask, tmp_path)[1]) == 2


def test_methods_of_cutting_edges_are_told_apart(stops: Stops, tmp_path: Path) -> None:
    model, pair = small()
    names = [edge.name for edge in Graph(model).edges][:3]
    stops.run(partial(ablate_edges, model, pair, names, "mean"), tmp_path, after=1)
    assert len(stops.run(partial(ablate_edges, model, pair, names, "zero"), tmp_path)[1]) == 3
    with_metric = partial(ablate_edges, model, pair, names, "mean", metric="probability")
    found, measured = stops.run(with_metric, tmp_path, after=1)
    assert len(measured) == 3
    found, measured = stops.run(with_metric, tmp_path)
    assert not measured
    pd.testing.assert_frame_equal(found.to_frame(), with_metric().to_frame(), check_exact=True)
    assert not stops.run(partial(ablate_edges, model, pair, names, "mean"), tmp_path)[1]


@pytest.mark.parametrize("damage", [b"", b"not a safetensors file"])
def test_a_damaged_file_is_measured_again_and_said_so(
    damage: bytes, stops: Stops, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, pair = small()
    ask = partial(patch, model, pair, find_sites(model, ["z", "q"]))
    stops.run(ask, tmp_path, after=1)
    [file] = tmp_path.iterdir()
    data = file.read_bytes()
    file.write_bytes(damage or data[:-8] + b"\0" * 8)
    capsys.readouterr()
    found, measured = stops.run(ask, tmp_path)
    assert len(measured) == len(found.sites)
    assert "what it held is measured again" in capsys.readouterr().err
    pd.testing.assert_frame_equal(found.to_frame(), ask().to_frame())


def test_what_others_have_in_the_folder_stays(stops: Stops, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    model, pair = small()
    ask = partial(patch, model, pair, find_sites(model, ["z"]))
    stops.run(ask, tmp_path, after=1)
    assert len(list(tmp_path.iterdir())) == 2
    stops.run(ask, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cannot_be_written_ends_no_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    model, pair = small()
    paths = patch_paths(model, pair, kept=KeptIn(tmp_path / "file" / "folder", every=0.0)).to_frame()
    assert "path patching goes on, but what it measured cannot be kept" in capsys.readouterr().err
    pd.testing.assert_frame_equal(paths, patch_paths(model, pair).to_frame())


def test_a_run_that_was_deleted_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    model, pair = small()
    kept = KeptIn(tmp_path / "run" / "results" / "unfinished", every=0.0)
    (tmp_path / "run").rmdir()
    patch(model, pair, find_sites(model, ["z"]), kept=kept)
    assert "is no longer there" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_rows_are_written_every_few_seconds(tmp_path: Path) -> None:
    model, pair = small()
    sites = find_sites(model, ["z"])
    patch(model, pair, sites, kept=KeptIn(tmp_path, every=60.0))
    assert not list(tmp_path.iterdir()), "a short question writes nothing"
    patch(model, pair, sites, kept=KeptIn(tmp_path, every=0.0))
    assert len(list(tmp_path.iterdir())) == 1


def test_hooks_are_not_known_again(tmp_path: Path) -> None:
    model, pair = small()
    with model.hooks([("hook_embed", lambda activation, hook: 0 * activation)]):
        ablate(model, pair)
        with pytest.raises(ValueError, match="hooks are attached at hook_embed"):
            ablate(model, pair, kept=KeptIn(tmp_path))


def test_a_circuit_is_judged_by_the_same_numbers_when_another_has_been(stops: Stops, tmp_path: Path) -> None:
    model, pair = small()
    one, other = (Circuit(Graph(model), edges) for edges in ((0, 5, 9), (0, 5)))
    stops.run(partial(judge, model, pair, one), tmp_path, after=20)
    found, measured = stops.run(partial(judge, model, pair, other), tmp_path)
    assert measured
    pd.testing.assert_frame_equal(framed(found), framed(judge(model, pair, other)))


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 5, 12])
def test_a_killed_process_has_lost_nothing_that_was_written(after: int, stops: Stops, tmp_path: Path) -> None:
    model, pair = small()
    ask = partial(patch, model, pair, find_sites(model, ["resid_pre", "z", "q", "k", "v"], positions=[0, 3]))
    whole, (_, everything) = ask(), stops.run(ask, tmp_path / "whole")

    def killed() -> None:
        stops.names, write = [], KeptRows.write

        def dies(rows: KeptRows) -> None:
            write(rows)
            if len(stops.names) + 1 >= after:
                os.kill(os.getpid(), signal.SIGKILL)

        KeptRows.write = dies  # type: ignore[method-assign] # in this process alone
        ask(kept=KeptIn(tmp_path, every=0.0))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking is safe here: no other thread holds a lock
        process = multiprocessing.get_context("fork").Process(target=killed)
        process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    written = len(list(tmp_path.glob("*.safetensors")))
    resumed, rest = stops.run(ask, tmp_path)
    assert written > 0
    assert 0 < len(rest) <= len(everything) - written
    pd.testing.assert_frame_equal(resumed.to_frame(), whole.to_frame(), check_exact=True)
