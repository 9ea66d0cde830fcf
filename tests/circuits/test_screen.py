"""What is printed fits the screen: sentences, and tables in which no number and no name is cut."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.common import screen
from circuits.common.screen import columns, folded
from circuits.common.text_table import as_text

RUN = "icl-resformer-learned-paper-3layers-s10-0123456789ab"
EDGES = ["L0H0.v > L1H0.v (stream)", "L0H0 > L1H0.k (residual)"]


def widest(text: str) -> int:
    return max(map(len, text.split("\n")))


def unbroken(text: str) -> str:
    """A text with one space for all that stands between words."""
    return " ".join(text.split())


def test_the_screen_is_the_terminals_or_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "131")
    assert columns() == 131
    monkeypatch.setenv("COLUMNS", "7")
    assert columns() == screen.LEAST
    monkeypatch.delenv("COLUMNS")
    assert columns() == 80, "under test the output is no terminal"
    monkeypatch.setattr(screen, "in_notebook", lambda: True)
    assert columns() > 1_000, "a notebook scrolls"


def test_sentences_are_broken_at_spaces_and_lists_are_indented() -> None:
    text = "- " + "word " * 20 + "\nshort\n  " + "more " * 20
    found = folded(text, 40)
    assert widest(found) <= 40
    assert unbroken(found) == unbroken(text)
    lines = found.split("\n")
    assert lines[1].startswith("  word")
    assert "short" in lines
    assert lines[-1].startswith("  more")
    assert folded("a" * 50, 40) == "a" * 50, "a path stays whole"
    assert folded("short", 40) == "short"


@pytest.mark.parametrize("whole", [*EDGES, "[-0.25, 1.85]", "n = 16", "[1.2e-05, 0.1]"])
def test_names_of_edges_and_intervals_are_kept_in_one_line(whole: str) -> None:
    for before in range(40):
        assert whole in folded("x" * before + f" {whole} and more that follows it", 44)
    assert "and\nmore" in folded("x" * 40 + " and more that follows it", 44)


def test_what_fits_is_as_it_was() -> None:
    frame = pd.DataFrame({"name": ["a", None], "n": [1, -20], "x": [0.123456, float("nan")], "ok": [True, False]})
    assert as_text(frame, 80) == "name   n      x    ok\na      1 0.1235  True\n-    -20    NaN False"


def test_a_narrow_screen_leaves_out_what_is_spare_and_says_once_what_is_the_same() -> None:
    frame = pd.DataFrame(
        {"run": [RUN, RUN[:-1] + "c"], "variant": "resformer-learned", "seed": 10, "value": [0.5, 0.25]}
    )
    assert "resformer-learned" in as_text(frame, 200, spare=["variant"]).split("\n")[1]
    spared = as_text(frame, 60, spare=["variant", "seed"])
    assert spared.split("\n")[0].split() == ["run", "value"]
    once = as_text(frame, 62)
    assert once.startswith("in every row: variant resformer-learned")
    assert widest(spared) <= 60
    assert widest(once) <= 62


def test_words_and_heads_are_broken_and_a_single_row_is_a_sentence() -> None:
    frame = pd.DataFrame({"says": ["a long sentence on a rule"] * 2, "accuracy_ablated": [0.1234, 5.0], "n": [1, 2]})
    found = as_text(frame, 30).split("\n")
    assert widest("\n".join(found)) <= 30
    assert "accuracy_" in found[0]
    assert "ablated" in found[1]
    one = as_text(frame.head(1), 30)
    assert unbroken(one) == "says a long sentence on a rule, accuracy_ablated 0.1234, n 1"
    assert widest(one) <= 30


def test_a_name_too_long_for_a_row_has_a_line_of_its_own() -> None:
    frame = pd.DataFrame({"run": [RUN, RUN + "c"], **{f"measure{i}": [0.1234, 12345.0 + i] for i in range(6)}})
    found = as_text(frame, 60)
    assert widest(found) <= 60
    assert RUN in found.split("\n")
    assert found.count("0.1234") == 6
    assert all(line.startswith("  ") for line in found.split("\n") if line and RUN[:4] not in line and line != "run")


WORDS = st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=8).map(" ".join)


@given(
    rows=st.lists(st.tuples(WORDS, WORDS, st.floats(-1e6, 1e6), st.integers()), min_size=1, max_size=4),
    width=st.integers(40, 120),
)
def test_nothing_is_ever_cut(rows: list[tuple[str, str, float, int]], width: int) -> None:
    frame = pd.DataFrame(rows, columns=["name", "what_is_said", "x", "n"])
    text = as_text(frame, width)
    assert widest(text) <= width
    for name, said, x, n in rows:
        for shown in (*name.split(), *said.split(), f"{x:.4g}", str(n)):
            assert re.search(rf"(?<!\S){re.escape(shown)}(?=[,\s]|$)", text), shown
