"""The switchboard in a real browser, without a kernel: clicked, moved, read back, on a narrow screen."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.figures.switchboard_documents import Json, document
from tests.figures.switchboard_pages import PLAIN, STREAM, agrees, click_edge, number, value
from tests.figures.test_switchboard import hostile

pytestmark = pytest.mark.slow


def weights(data: Json, head: int, query: int) -> list[float]:
    """A row of a head's pattern (heads counted through the layers) on the first prompt at the last step."""
    prompt = data["prompts"][0]
    raw = base64.b64decode(prompt["pattern"][-1])
    numbers = struct.unpack(f"<{len(raw) // 2}H", raw)
    n = len(prompt["tokens"])
    start = head * n * (n + 1) // 2 + query * (query + 1) // 2
    return [x / 65535 for x in numbers[start : start + query + 1]]


def test_a_cut_shows_what_was_computed(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(data)
    assert value(page, "metric") == data["runs"][0]["clean"][-1], "nothing is changed"
    assert value(page, "cosine") is None
    click_edge(page, PLAIN)
    agrees(page, data, PLAIN, -1)
    assert page.locator('[data-change="stop"]').is_disabled(), "a gate is of a stream"
    click_edge(page, PLAIN)
    assert value(page, "metric") == data["runs"][0]["clean"][-1], "a second click takes it back"


def test_every_edge_can_be_clicked(opened: Callable[..., Any]) -> None:
    data = document(2, 2, mlp=True, seeds=1)
    page = opened(data)
    page.locator('[data-control="hide"]').fill("0")
    for edge in data["edges"]:
        click_edge(page, edge["name"])
        assert page.locator(".change h2").inner_text() == edge["name"]


def test_a_stream_is_stopped_at_the_last_step_alone(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(data)
    click_edge(page, STREAM)
    agrees(page, data, STREAM, -1)
    gates, i = data["runs"][0]["gates"], number(data, STREAM)
    for change in ("stop", "gradient-only"):
        click_edge(page, STREAM)
        assert page.locator(f'[data-change="{change}"]').get_attribute("aria-pressed") == "true"
        assert value(page, "metric") == pytest.approx(gates[change]["metric"][i], abs=1e-9)
        assert value(page, "cosine") == pytest.approx(gates[change]["cosine"][i], abs=1e-9)
    page.locator('[data-control="step"]').press("ArrowLeft")
    assert value(page, "metric") is None
    assert "computed beforehand for the last step (2,000) alone" in page.locator('[data-readout="note"]').inner_text()
    page.locator('[data-change="cut"]').click()
    agrees(page, data, STREAM, -2)
    page.locator('[data-change="clear"]').click()
    assert value(page, "metric") == data["runs"][0]["clean"][-2]


def test_the_slider_moves_every_number(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(data)
    click_edge(page, PLAIN)
    page.locator('[data-control="step"]').focus()
    for step in (1, 0):
        page.keyboard.press("ArrowLeft")
        assert value(page, "step") == data["runs"][0]["steps"][step]
        agrees(page, data, PLAIN, step)
    label = page.locator(f'[data-edge="{PLAIN}"]').get_attribute("aria-label")
    assert f"{data['runs'][0]['edge']['metric'][0][number(data, PLAIN)]:.3f}".replace("-", "−") in label
    assert (
        f"clean {data['runs'][1]['clean'][0]:.3f}".replace("-", "−")
        in page.locator(".seeds figcaption").nth(1).inner_text()
    )


def test_a_head_shows_its_pattern_its_values_and_its_shares(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(data)
    for head, name in ((1, "L0H1"), (3, "L1H1")):
        page.locator(f'[data-node="{name}"]').click()
        assert page.locator(".head h2").inner_text() == f"Head {name}"
        for query, key in ((14, 2), (19 - 1, 5)):
            page.locator(f'[data-cell="{query},{key}"]').hover()
            said = page.locator(".head .cell")
            expected = weights(data, head, query)[key]
            assert float(said.get_attribute("data-value")) == pytest.approx(expected, abs=1e-9)
            tokens = data["prompts"][0]["tokens"]
            assert f"query “{tokens[query]}” ({query}) → key “{tokens[key]}” ({key})" in said.inner_text()
            norm = data["prompts"][0]["values"][-1]["mixed"][head // 2][head % 2][key]
            assert f"mixed {norm:.3f}" in said.inner_text()
    for share in data["runs"][0]["shares"][-1]:
        if share["head"] == 1:
            for route in ("own", "stream", "interaction", "total"):
                cell = page.locator(f'[data-share="L1H1.v:{route}"]')
                assert float(cell.get_attribute("data-value")) == share[route][0]
    assert page.locator("[data-norms]").count() == 3
    page.locator('[data-node="L0H0"]').click()
    assert page.locator("[data-norms]").count() == 2, "nothing comes into the first layer"
    assert page.locator("[data-share]").count() == 0


def test_several_changes_need_a_kernel(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(data)
    click_edge(page, PLAIN)
    click_edge(page, STREAM)
    assert "Several changes at once need a kernel" in page.locator('[data-readout="note"]').inner_text()
    agrees(page, data, STREAM, -1)
    page.get_by_role("button", name=f"take back {STREAM}").click()
    agrees(page, data, PLAIN, -1)


def test_weak_edges_are_hidden_and_routes_can_be(opened: Callable[..., Any]) -> None:
    data = document(3, 4, steps=2, seeds=1)
    page = opened(data)
    shown = page.locator("[data-edge]:visible")
    assert 20 < shown.count() <= 40 < len(data["edges"])
    page.locator('[data-route="residual"]').uncheck()
    routes = {name.split("(")[-1] for name in shown.evaluate_all("all => all.map((e) => e.dataset.edge)")}
    assert routes <= {"stream)", "own)"}
    page.locator('[data-control="hide"]').fill("0")
    assert shown.count() == sum(edge["route"] != "residual" for edge in data["edges"])


def test_everything_is_reached_by_keys(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(data)
    order = sorted(range(len(data["edges"])), key=lambda i: -abs(data["runs"][0]["edge"]["effect"][-1][i]))
    focused = "document.activeElement.dataset.edge ?? document.activeElement.dataset.node ?? null"
    reached: list[str | None] = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(focused))
        if reached[-1] == data["edges"][order[0]]["name"]:
            break
    assert reached[-1] == data["edges"][order[0]]["name"], "the strongest edge is a few steps away"
    page.keyboard.press("ArrowDown")
    name = data["edges"][order[1]]["name"]
    assert page.evaluate(focused) == name
    assert name in page.locator(".tip").inner_text()
    assert page.evaluate("'lmSuppressShortcuts' in document.activeElement.dataset"), "a notebook's keys are others"
    page.keyboard.press("Enter")
    assert re.search(r"now\s+cut", page.locator(".tip").inner_text())
    agrees(page, data, name, -1)
    page.keyboard.press("Tab")
    assert page.evaluate(focused) in {node["name"] for node in data["nodes"]}, "all edges are one stop of Tab"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator(".head h2").inner_text() == f"Head {page.evaluate(focused)}"
    pattern = page.locator('[data-part="pattern"]')
    pattern.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert "(13) → key “When” (1)" in page.locator(".head .cell").inner_text()


def test_what_was_not_measured_is_said_to_be_missing(opened: Callable[..., Any]) -> None:
    data = document(steps=1, seeds=1, prompts=0)
    run = data["runs"][0]
    for field in ("gates", "shares", "accuracy"):
        del run[field]
    run["edge"]["effect"][0][0] = run["edge"]["metric"][0][0] = None
    for name in ("low", "high", "cosine"):
        run["edge"][name] = [[None] * len(data["edges"])]
    page = opened(data)
    assert page.locator(f'[data-edge="{data["edges"][0]["name"]}"]').is_hidden()
    assert page.locator(".head > .note").inner_text() == "No prompt is in this document."
    assert page.locator("[data-share]").count() == 0
    click_edge(page, STREAM)
    assert value(page, "metric") == run["edge"]["metric"][0][number(data, STREAM)]
    assert (value(page, "cosine"), value(page, "accuracy")) == (None, None)
    page.locator('[data-change="stop"]').click()
    assert value(page, "metric") is None
    assert (
        page.locator('[data-readout="note"]').inner_text() == "The metric with this change was not computed beforehand."
    )
    assert page.locator(".seeds").is_hidden()
    assert page.locator('[data-control="step"]').is_hidden(), "there is one step"


def test_the_table_holds_every_edge_and_sorts(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(data)
    page.locator("summary").click()
    rows = page.locator("details tbody tr")
    rows.first.wait_for()
    assert rows.count() == len(data["edges"])
    page.locator('[data-sort="metric"]').click()
    read = rows.evaluate_all("all => all.map((r) => Number(r.cells[5].dataset.value))")
    assert read == sorted(data["runs"][0]["edge"]["metric"][-1], reverse=True)
    page.locator('[data-sort="metric"]').click()
    assert rows.evaluate_all("all => all.map((r) => Number(r.cells[5].dataset.value))") == read[::-1]
    page.locator("details tbody").get_by_role("button", name=PLAIN).press("Enter")
    agrees(page, data, PLAIN, -1)
    assert page.evaluate("document.activeElement.textContent") == PLAIN, "the focus stays where it was"


def test_a_narrow_screen_shows_all_of_it(opened: Callable[..., Any]) -> None:
    page = opened(document(4, 4, steps=4, most=347), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    graph = page.locator(".graph").bounding_box()
    assert graph["x"] >= 0
    assert graph["x"] + graph["width"] <= 390
    heights = page.locator(".graph text:visible").evaluate_all(
        "all => all.map((t) => t.getBoundingClientRect().height)"
    )
    assert min(heights) > 9, "letters are not scaled away"
    page.locator('[data-node="L2H2"]').click()
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.locator(".change").bounding_box()["x"] == page.locator(".card").first.bounding_box()["x"]


def test_names_are_shown_and_never_run(opened: Callable[..., Any]) -> None:
    data = hostile()
    page = opened(data)
    page.locator("summary").click()
    first = page.locator("[data-edge]").first
    first.dispatch_event("click")
    first.focus()
    assert page.evaluate("window.hurt") is None
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == data["title"]
    assert page.locator(".change h2").inner_text() == first.get_attribute("data-edge")
    assert first.get_attribute("data-edge") in {edge["name"] for edge in data["edges"]}


def test_without_scripts_there_is_a_table(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(data, java_script_enabled=False)
    assert page.locator("table").first.is_visible()
    assert page.locator("table").first.locator("tbody tr").count() == len(data["edges"])
    assert opened(data).locator("noscript").count() == 0


def test_dark_surroundings_leave_it_readable(opened: Callable[..., Any]) -> None:
    look = "e => [getComputedStyle(e).color, getComputedStyle(e.closest('.switchboard')).backgroundColor]"
    text, ground = opened(document(), color_scheme="dark").locator(".lead").evaluate(look)
    light = [sum(map(int, colour[4:-1].split(", "))) / 765 for colour in (text, ground)]
    assert light[0] < 0.35
    assert light[1] > 0.9


def test_every_edge_of_a_larger_graph_is_there(opened: Callable[..., Any]) -> None:
    page = opened(document(4, 4, steps=20, seeds=3, prompts=4, most=347))
    assert page.locator("[data-edge]").count() == 347
