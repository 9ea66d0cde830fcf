"""The switchboard in a real browser, with a kernel made of JavaScript: what it is asked and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from figures.explore.page import HERE
from tests.figures.switchboard_documents import Json, document
from tests.figures.switchboard_pages import PLAIN, STREAM, agrees, click_edge, value

pytestmark = pytest.mark.slow

MODULE = f"""<style>{(HERE / "switchboard.css").read_text("utf-8")}</style><div id=at></div><script type=module>
{(HERE / "switchboard.js").read_text("utf-8")}
Object.assign(window, {{ mount, render }});</script>"""
"""The module in a page of its own, so that a test can be the notebook."""


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
    number = message.pop("id")
    assert message == {"ask": "changes", "step": 1000, "changes": {STREAM: "stop"}}
    page.evaluate("(id) => fire('msg:custom', { id: id + 1, metric: 3.5 })", number)
    assert value(page, "metric") is None, "what another view asked is another's answer"
    page.evaluate("(id) => fire('msg:custom', { id, metric: -7.5, cosine: 0.25 })", number)
    page.wait_for_function("document.querySelector('[data-readout=metric]').dataset.value === '-7.5'")
    click_edge(page, PLAIN)
    assert page.evaluate("model.state.changes") == {STREAM: "stop", PLAIN: "cut"}
    assert page.evaluate("model.state.selected") == PLAIN
    page.evaluate("clean()")


def test_a_document_of_another_format_is_refused(live: Callable[..., Any]) -> None:
    page = live({"format": "other"}, "async (m) => ({})")
    assert "no switchboard that this page can read" in page.get_by_role("alert").inner_text()
