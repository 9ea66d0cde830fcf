"""The switchboard in a real browser: clicked, moved, read back, without a mouse, without a kernel that answers."""

from __future__ import annotations

import base64
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from figures.explore import write_switchboard
from figures.explore.page import HERE
from tests.figures.switchboard_documents import Json, document
from tests.figures.test_switchboard import hostile

pytestmark = pytest.mark.slow

MODULE = f"""<style>{(HERE / "switchboard.css").read_text("utf-8")}</style><div id=at></div><script type=module>
{(HERE / "switchboard.js").read_text("utf-8")}
Object.assign(window, {{ mount, render }});</script>"""
"""The module in a page of its own, so that a test can be the notebook."""
STREAM = "L0H1.v > L1H1.v (stream)"
PLAIN = "input > L1H0.k (residual)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium: the one of BROWSER_PATH or of the system, or Playwright's own."""
    driver = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("BROWSER_PATH") or shutil.which("chromium") or shutil.which("chromium-browser")
    with driver.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except driver.Error as error:
            pytest.skip(f"no browser: {error}")
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a document's page from the disk; whatever the browser complains of fails the test."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_page(data: Json | str, width: int = 1400, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if isinstance(data, str):
            page.set_content(data)
            return page
        path = write_switchboard(tmp_path / "page.html", data)
        page.on("request", lambda r: r.url.startswith(path.as_uri()) or complaints.append(r.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


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


def weights(data: Json, head: int, query: int) -> list[float]:
    """A row of a head's pattern (heads counted through the layers) on the first prompt at the last step."""
    prompt = data["prompts"][0]
    raw = base64.b64decode(prompt["pattern"][-1])
    numbers = struct.unpack(f"<{len(raw) // 2}H", raw)
    n = len(prompt["tokens"])
    start = head * n * (n + 1) // 2 + query * (query + 1) // 2
    return [x / 65535 for x in numbers[start : start + query + 1]]


# --- without a kernel -----------------------------------------------------------------------------------------------


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
    page.keyboard.press("Enter")
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


def test_the_table_holds_every_edge_and_sorts(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(data)
    page.locator("summary").click()
    rows = page.locator("details tbody tr")
    assert rows.count() == len(data["edges"])
    page.locator('[data-sort="metric"]').click()
    read = rows.evaluate_all("all => all.map((r) => Number(r.cells[5].dataset.value))")
    assert read == sorted(data["runs"][0]["edge"]["metric"][-1], reverse=True)
    page.locator('[data-sort="metric"]').click()
    assert rows.evaluate_all("all => all.map((r) => Number(r.cells[5].dataset.value))") == read[::-1]
    page.locator("details tbody").get_by_role("button", name=PLAIN).click()
    agrees(page, data, PLAIN, -1)


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


def test_the_first_paint_is_soon(opened: Callable[..., Any]) -> None:
    page = opened(document(4, 4, steps=20, seeds=3, prompts=4, most=347))
    script = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    times = []
    for _ in range(3):  # other programs may hold up one
        page.reload()
        page.wait_for_timeout(200)
        times.append(page.evaluate(script))
    assert min(times) < 1000
    assert page.locator("[data-edge]").count() == 347, "and that is all of it"


# --- with a kernel --------------------------------------------------------------------------------------------------


@pytest.fixture
def live(opened: Callable[..., Any]) -> Callable[..., Any]:
    """Mounts a document with a link whose kernel is a function of JavaScript, from messages to answers."""

    def mount(data: Json, answer: str) -> Any:
        page = opened(MODULE)
        page.clock.install()
        page.evaluate(
            """([data, answer]) => {
                window.asked = []; window.told = {};
                const ask = (message) => { asked.push(message); return eval(answer)(message); };
                mount(document.getElementById("at"), data, { live: true, ask, set: (t) => Object.assign(told, t) });
            }""",
            [data, answer],
        )
        return page

    return mount


def test_a_kernel_computes_several_changes(live: Callable[..., Any]) -> None:
    page = live(
        document(),
        "async (m) => ({ metric: 1.25, effect: 0.5, accuracy: 0.75, cosine: Object.keys(m.changes).length })",
    )
    click_edge(page, PLAIN)
    click_edge(page, STREAM)
    page.wait_for_function("asked.length === 2")
    assert page.evaluate("asked[1]") == {"ask": "changes", "step": 2000, "changes": {PLAIN: "cut", STREAM: "cut"}}
    assert {name: value(page, name) for name in ("metric", "effect", "accuracy", "cosine")} == {
        "metric": 1.25,
        "effect": 0.5,
        "accuracy": 0.75,
        "cosine": 2,
    }
    assert "Live: computed now" in page.locator('[data-readout="note"]').inner_text()
    assert page.evaluate("told") == {"step": 2000, "selected": STREAM, "changes": {PLAIN: "cut", STREAM: "cut"}}
    page.locator('[data-control="step"]').press("ArrowLeft")
    page.locator('[data-control="step"]').press("ArrowRight")
    page.wait_for_function("asked.length === 3")
    assert page.evaluate("asked[2].step") == 1000, "what is known is not asked again"


def test_a_kernel_that_does_not_answer(live: Callable[..., Any]) -> None:
    data = document()
    page = live(data, "(m) => new Promise((resolve) => { window.resolve = resolve; })")
    status = page.locator(".status")
    page.clock.pause_at(page.evaluate("Date.now()") + 1000)
    click_edge(page, PLAIN)
    assert status.get_attribute("data-mode") == "live"
    agrees(page, data, PLAIN, -1)
    page.clock.run_for(7900)
    assert status.get_attribute("data-mode") == "live"
    page.clock.run_for(200)
    assert "The kernel does not answer" in status.inner_text()
    click_edge(page, STREAM)
    agrees(page, data, STREAM, -1)
    assert page.evaluate("asked.length") == 1, "who is gone is not asked"
    page.evaluate("resolve({ metric: 2.5 })")
    assert status.get_attribute("data-mode") == "live", "it was only busy"
    page.wait_for_function("asked.length === 2")


def test_what_the_kernel_refuses_is_said(live: Callable[..., Any]) -> None:
    data = document()
    page = live(data, "async (m) => ({ error: 'no such word: ' + (m.text ?? m.step) })")
    click_edge(page, STREAM)
    page.get_by_text("no such word: 2000").wait_for()
    agrees(page, data, STREAM, -1)
    page.get_by_label("A prompt of your own").fill("xyzzy")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("no such word: xyzzy").wait_for()


def test_a_prompt_of_ones_own_follows_the_step(live: Callable[..., Any]) -> None:
    data = document()
    prompt = data["prompts"][0]
    mine = {**prompt, "tokens": [*prompt["tokens"][:-1], "mine"]}
    answer = f"async (m) => ({{ prompt: {{ ...{json.dumps(mine)}, steps: [m.step] }} }})"
    page = live(data, answer)
    page.get_by_label("A prompt of your own").fill("a b c")
    page.get_by_role("button", name="Show").click()
    page.wait_for_function("document.querySelector('[data-control=prompt]').options.length === 2")
    assert page.evaluate("asked") == [{"ask": "prompt", "text": "a b c", "step": 2000}]
    assert "mine" in page.locator(".tokens").text_content()
    page.locator('[data-control="step"]').press("ArrowLeft")
    page.wait_for_function("asked.length === 2")
    assert page.evaluate("asked[1]") == {"ask": "prompt", "text": "a b c", "step": 1000}
    assert page.locator(".head > .note").inner_text() == ""


def test_a_widget_follows_python_and_leads_it(opened: Callable[..., Any]) -> None:
    data = document()
    page = opened(MODULE)
    page.evaluate(
        """([data, step]) => {
            const state = { data, step, live: true, selected: "", changes: {} }, heard = {};
            const fire = (name, value) => (heard[name] ?? []).forEach((f) => f(value));
            window.sent = []; window.fire = fire;
            window.model = { state, get: (k) => state[k], save_changes() {}, send: (m) => sent.push(m), off() {},
                set: (k, v) => { state[k] = v; fire(`change:${k}`); }, on: (k, f) => (heard[k] ??= []).push(f) };
            window.clean = render({ model, el: document.getElementById("at") });
        }""",
        [json.dumps(data), 2000],
    )
    page.evaluate("model.set('step', 1000)")
    assert value(page, "step") == 1000
    page.evaluate("(name) => model.set('changes', { [name]: 'stop' })", STREAM)
    [message] = page.evaluate("sent")
    assert message == {"id": 1, "ask": "changes", "step": 1000, "changes": {STREAM: "stop"}}
    page.evaluate("fire('msg:custom', { id: 1, metric: -7.5, cosine: 0.25 })")
    page.wait_for_function("document.querySelector('[data-readout=metric]').dataset.value === '-7.5'")
    click_edge(page, PLAIN)
    assert page.evaluate("model.state.changes") == {STREAM: "stop", PLAIN: "cut"}
    assert page.evaluate("model.state.selected") == PLAIN
    page.evaluate("clean()")


def test_a_document_of_another_format_is_refused(live: Callable[..., Any]) -> None:
    page = live({"format": "other"}, "async (m) => ({})")
    assert "no switchboard that this page can read" in page.get_by_role("alert").inner_text()
