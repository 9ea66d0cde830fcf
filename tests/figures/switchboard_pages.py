"""What a test does with a switchboard's page: clicks an edge, reads a number, holds it to the document."""

from __future__ import annotations

from typing import Any

import pytest

from tests.figures.switchboard_documents import Json

STREAM = "L0H1.v > L1H1.v (stream)"
PLAIN = "input > L1H0.k (residual)"


def click_edge(page: Any, name: str) -> None:
    """Click an edge with the mouse, at the first of some points along it where it is the one that is meant."""
    edge = page.locator(f'[data-edge="{name}"]')
    edge.scroll_into_view_if_needed()
    script = """(group) => {
        const path = group.querySelector(".line"), length = path.getTotalLength();
        const point = (i) => path.getPointAtLength((length * i) / 40).matrixTransform(path.getScreenCTM());
        return Array.from({ length: 39 }, (_, i) => point(i + 1)).map(({ x, y }) => [Math.round(x), Math.round(y)]);
    }"""
    for x, y in edge.evaluate(script):
        page.mouse.move(x, y)
        if "lit" in edge.get_attribute("class") and page.locator(".edge.lit").count() == 1:
            page.mouse.click(x, y)
            return
    raise AssertionError(f"{name} cannot be reached")


def value(page: Any, name: str) -> float | None:
    """The number that a readout shows, in full precision."""
    found = page.locator(f'[data-readout="{name}"]').get_attribute("data-value")
    return None if found is None else float(found)


def number(data: Json, name: str) -> int:
    return [edge["name"] for edge in data["edges"]].index(name)


def agrees(page: Any, data: Json, name: str, step: int) -> None:
    """What is read back is what the document says of a cut."""
    run, i = data["runs"][0], number(data, name)
    for field in ("metric", "effect", "cosine"):
        assert value(page, field) == pytest.approx(run["edge"][field][step][i], abs=1e-9), field
    assert value(page, "whole") == pytest.approx(run["clean"][step], abs=1e-9)
    assert value(page, "difference") == pytest.approx(run["edge"]["metric"][step][i] - run["clean"][step], abs=1e-9)
