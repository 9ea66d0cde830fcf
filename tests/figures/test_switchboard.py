"""The switchboard: what the page holds, and in a browser what is seen, clicked and read back."""

from __future__ import annotations

import html
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from figures.explore import switchboard_page, switchboard_widget, write_switchboard
from figures.explore.page import HERE
from figures.explore.widget import _widget_class
from tests.figures.switchboard_documents import Json, document

HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror=window.hurt=1>\"'&<!--"


def hostile() -> Json:
    """A document in which everything that a user names is an attack; ports and routes are names of ours."""
    data = document(2, 1, mlp=False)
    data |= {"title": HOSTILE, "lead": HOSTILE, "facts": [[HOSTILE, HOSTILE]], "metric": HOSTILE}
    data["words"] = dict.fromkeys(data["words"], HOSTILE)
    for run in data["runs"]:
        run["name"] = HOSTILE
    for edge in data["edges"]:
        edge["name"] += HOSTILE
    prompt = data["prompts"][0]
    prompt |= {
        "tokens": [HOSTILE] * len(prompt["tokens"]),
        "answer": HOSTILE,
        "wrong": HOSTILE,
        "roles": {HOSTILE: [1]},
    }
    return data


def embedded(page: str) -> Json:
    """The document that a page holds."""
    [found] = re.findall(
        r'<script type="application/json" id="switchboard-document">(.*?)</script>', page, flags=re.DOTALL
    )
    return json.loads(found)


# --- the page as a text ---------------------------------------------------------------------------------------------


def test_a_page_holds_the_document_and_nothing_from_elsewhere() -> None:
    data = document()
    page = switchboard_page(data)
    held = embedded(page)
    assert held["runs"][0] == data["runs"][0], "every number of the first run, in full precision"
    assert {key: held[key] for key in held if key not in ("runs", "prompts")} == {
        key: data[key] for key in data if key not in ("runs", "prompts")
    }
    assert not re.search(
        r"(src|href)\s*=|@import|url\((?!#)|fetch\(|import\s*\(|^import ", page.split('id="switchboard-document"')[0]
    )
    assert "default-src 'none'" in page


def test_other_runs_and_norms_are_held_to_six_digits() -> None:
    data = document(seeds=2)
    held = embedded(switchboard_page(data))
    small, whole = held["runs"][1], data["runs"][1]
    assert set(small["edge"]) == {"effect"}
    assert small["clean"] == whole["clean"]
    for row, full in zip(small["edge"]["effect"], whole["edge"]["effect"], strict=True):
        assert row == pytest.approx(full, rel=1e-5)
        assert row != full
    assert held["prompts"][0]["values"][0]["incoming"][0] is None
    assert held["prompts"][0]["pattern"] == data["prompts"][0]["pattern"]


def test_names_stay_text() -> None:
    page = switchboard_page(hostile())
    assert "<script>window.hurt" not in page
    assert "<img" not in page
    assert page.count("<script") == page.count("</script>") == 2
    assert embedded(page)["title"] == HOSTILE
    assert html.escape(HOSTILE) in page, "it is shown all the same"


def test_the_table_without_scripts_holds_every_number() -> None:
    data = document()
    [table] = re.findall(r"<noscript>(.*?)</noscript>", switchboard_page(data), flags=re.DOTALL)
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", table)]
    run = data["runs"][0]
    for i, edge in enumerate(data["edges"]):
        row = [
            edge["name"],
            edge["route"],
            *(str(run["edge"][f][-1][i]) for f in ("effect", "low", "high", "metric", "cosine")),
        ]
        start = cells.index(edge["name"])
        assert cells[start : start + len(row)] == row
    measured = {n["name"]: e for n, e in zip(data["nodes"], run["node"]["effect"][-1], strict=True) if e is not None}
    assert "L0H0" in measured
    for name, effect in measured.items():
        assert cells[cells.index(name) + 1] == str(effect)
    assert "input" not in cells, "a node that was not measured is left out"


def test_what_was_not_measured_is_a_dash_there() -> None:
    data = document()
    del data["runs"][0]["edge"]["cosine"]
    [table] = re.findall(r"<noscript>(.*?)</noscript>", switchboard_page(data), flags=re.DOTALL)
    assert table.count("<td>–</td>") == len(data["edges"])


def test_a_large_document_stays_small() -> None:
    page = switchboard_page(document(4, 4, steps=20, seeds=3, prompts=4, most=347))
    assert len(page.encode()) < 3e6


def test_a_page_is_written_into_a_new_folder(tmp_path: Path) -> None:
    data = document()
    path = write_switchboard(tmp_path / "new" / "page.html", data)
    assert path.read_text() == switchboard_page(data)


@pytest.mark.parametrize("make", [switchboard_page, switchboard_widget])
def test_what_is_no_document_is_refused(make: Callable[[Json], Any]) -> None:
    data = document()
    with pytest.raises(ValueError, match=r"shows documents of the format 'valuestream switchboard 1', got 'other'"):
        make(data | {"format": "other"})
    with pytest.raises(ValueError, match="got None"):
        make({})
    with pytest.raises(ValueError, match="has none"):
        make(data | {"runs": []})
    data["runs"][0]["clean"][0] = math.nan
    with pytest.raises(ValueError, match="a number that was not measured is None in a document, not NaN"):
        make(data)


# --- the widget, from Python ----------------------------------------------------------------------------------------


def asked(answer: Callable[[Json], Json], message: Json) -> list[Json]:
    """What a widget sends after a message of its page."""
    widget: Any = switchboard_widget(document(), answer)
    sent: list[Json] = []
    widget.send = sent.append
    widget._handle_custom_msg(message, [])
    return sent


def test_a_widget_holds_the_document_and_starts_at_the_last_step() -> None:
    data = document()
    widget: Any = switchboard_widget(data)
    assert json.loads(widget.data) == data
    assert (widget.step, widget.live, widget.changes) == (2000, False, {})
    live: Any = switchboard_widget(data, lambda message: {})
    assert live.live
    assert widget._esm == (HERE / "switchboard.js").read_text()


def test_a_widget_answers_what_it_is_asked() -> None:
    message = {"id": 3, "ask": "changes", "step": 0, "changes": {"a": "cut"}}
    heard: list[Json] = []
    assert asked(lambda said: heard.append(said) or {"metric": 1.5}, message) == [{"id": 3, "metric": 1.5}]
    assert heard == [message]


def test_a_mistake_is_answered_with_its_sentence() -> None:
    def refuse(message: Json) -> Json:
        raise ValueError("the model has no word 'xyzzy'")

    assert asked(refuse, {"id": 4, "ask": "prompt", "text": "xyzzy"}) == [
        {"id": 4, "error": "the model has no word 'xyzzy'"}
    ]


def test_another_error_is_told_and_not_swallowed(caplog: pytest.LogCaptureFixture) -> None:
    def fail(message: Json) -> Json:
        raise RuntimeError("out of memory")

    assert asked(fail, {"id": 5, "ask": "changes"}) == [{"id": 5, "error": "RuntimeError: out of memory"}]
    assert "out of memory" in caplog.text


def test_without_anywidget_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _widget_class.cache_clear()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'valuestream[notebook]'")):
        switchboard_widget(document())
