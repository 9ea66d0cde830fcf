"""The bound on memory holds: of living tensors, and (slow) of what a process takes; and it changes no result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis import Pair, ReadMetric
from analysis.compared_runs import two_runs
from analysis.metrics import Metric
from circuits import HookedStreamTransformer
from circuits.config.parts import TokenInputs, Unembedding
from tests.analysis.test_edges import pair_for
from tests.analysis.test_replay import Living, least_memory
from tests.helpers import build
from tests.peak_memory import questions

NAMES = (
    *("patch", "patch, any metric", "paths", "shares", "edges", "edges, any metric", "edges in steps", "exact"),
    *("edges, checked", "sites", "sites, any metric", "starred", "circuit", "cut", "followed"),
)


def small() -> tuple[HookedStreamTransformer, Pair]:
    model = build("lime", "tokens", 2)
    return model, pair_for(model, 8)


def wordy(n: int = 4) -> tuple[HookedStreamTransformer, Pair]:
    """Whose logits are most of all that it makes."""
    model = build("value", "tokens", 2, inputs=TokenInputs(4_000), readout=Unembedding(4_000))
    return model, pair_for(model, n)


def living(model: HookedStreamTransformer, pair: Pair, ask: Callable[..., Any], **options: Any) -> int:
    """The most bytes that lived at one time while a question was asked, without what is asked about."""
    tensors = Living(model)
    tensors.known |= {side.untyped_storage()._cdata for side in (pair.clean, pair.corrupt)}
    with tensors:
        ask(**options)
    return tensors.most


@pytest.mark.parametrize("kind", [small, pytest.param(wordy, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_living_tensors_stay_under_the_bound(name: str, kind: Callable[[], tuple[Any, Pair]]) -> None:
    model, pair = kind()
    ask = questions(model, pair)[name]
    bound = least_memory(ask)
    most = living(model, pair, ask, max_memory=bound)
    assert most <= bound, f"{most / bound:.2f} of the bound"
    assert torch.is_grad_enabled()


@ReadMetric
def first(there: Tensor, pair: Pair) -> Tensor:
    return there[:, 0]


def first_of_all(logits: Tensor, pair: Pair) -> Tensor:
    """A slice of all logits, which lives in their storage."""
    return logits[:, -1, 0]


@pytest.mark.parametrize("metric", [first, first_of_all])
def test_what_is_measured_keeps_no_logits(metric: Metric) -> None:
    model, pair = wordy(32)
    ask = partial(two_runs, model, pair, metric, "denoise", "a test", gradient=True)
    bound = least_memory(ask)
    assert bound < pair.clean.numel() * 4_000 * 8, "all logits would not fit"
    assert living(model, pair, ask, max_memory=bound) <= bound


@pytest.mark.parametrize("name", NAMES)
def test_too_small_a_bound_is_refused_before_the_work(name: str) -> None:
    model, pair = small()
    ask = questions(model, pair)[name]
    needed = least_memory(ask)
    assert living(model, pair, partial(least_memory, ask)) < needed / 2, "no more than one example was run"


def numbers(found: Any) -> Tensor:
    """All that a result holds."""
    frame = getattr(found, "frame", getattr(found, "edges", None))
    if frame is None:
        return torch.as_tensor(found.values)
    return torch.tensor(np.asarray(frame.select_dtypes("number"), dtype=float))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_bound_changes_no_result(name: str) -> None:
    model, pair = small()
    ask = questions(model, pair)[name]
    free = numbers(ask())
    for times in (1, 2):
        bound = numbers(ask(max_memory=times * least_memory(ask)))
        assert torch.allclose(bound, free, atol=1e-9, equal_nan=True)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_process_grows_by_no_more_than_the_bound(name: str, times: int) -> None:
    command = [sys.executable, "-m", "tests.peak_memory", name, str(times)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bound"] > 20e6, "large enough to be seen"
    assert found["grown"] <= found["bound"], f"{found['grown'] / found['bound']:.2f} of the bound"
