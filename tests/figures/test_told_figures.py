"""The committed figures of language models and of the associative memory: findings as titles, and of whom."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from experiments.studies.committed_results import COMMITTED, Bundle
from experiments.studies.registry import PICTURES
from figures.words import MOST

HELD = Bundle.open(COMMITTED)
TOLD = [
    name
    for name, picture in PICTURES.items()
    if name.startswith(("amicl_", "lm_", "learned_")) and name != "lm_ratios" and picture.drawable(HELD)
]
BOUNDED = ("lm_ioi_curves", "lm_nested", "lm_paper_gap", "amicl_by_a", "amicl_by_size")


@cache
def drawn(name: str) -> Any:
    return PICTURES[name].draw(HELD)


@pytest.mark.parametrize("name", TOLD)
def test_a_title_is_a_finding_and_says_of_whom(name: str) -> None:
    meta = drawn(name).layout.meta
    assert not meta["title"].endswith("?")
    assert len(meta["title"]) <= MOST
    assert any(character.isdigit() for character in meta["title"]) or "not shown" in meta["title"] or name == "lm_loss"
    assert any(word in meta["of"] for word in ("seed", "run", "pair", "sequence"))
    assert "<br>" not in meta["caption"]
    assert meta["alt"] == f"{meta['title']}. {meta['of']}"


@pytest.mark.parametrize("name", TOLD)
def test_every_trace_speaks_under_the_pointer(name: str) -> None:
    for trace in drawn(name).data:
        in_legend = trace.x is not None and list(trace.x) == [None]
        assert trace.hovertemplate or trace.hovertext or trace.hoverinfo == "skip" or in_legend, trace.name


@pytest.mark.parametrize("name", BOUNDED)
def test_bands_of_shares_lie_between_0_and_1(name: str) -> None:
    bands = [np.asarray(trace.y, dtype=float) for trace in drawn(name).data if trace.fill == "toself"]
    assert bands
    assert all(band.min() >= 0 and band.max() <= 1 for band in bands)


@pytest.mark.parametrize("name", ["lm_loss", "lm_ioi_curves", "lm_nested", "lm_paper_gap"])
def test_of_few_seeds_each_is_drawn(name: str) -> None:
    thin = [trace for trace in drawn(name).data if ", seed " in (trace.name or "")]
    assert len(thin) % 5 == 0
    assert thin
    assert all(trace.line.width < 1 for trace in thin)
    assert all("million tokens" in trace.hovertemplate for trace in thin)


def test_what_a_title_tells_apart_has_a_star_in_the_table() -> None:
    from experiments.studies.language_models import FINALS, STORIES, apart

    for name, measure in (("lm_loss", "loss"), ("lm_ioi_curves", "probability")):
        told = apart(HELD, STORIES, FINALS, measure)
        clear = set(told.variant[told.p_adjusted < 0.05])
        title = drawn(name).layout.meta["title"]
        assert all(variant in title for variant in clear)
        assert ("no variant is told apart" in title) == (not clear)
