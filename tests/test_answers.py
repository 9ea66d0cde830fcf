"""Tables and sentences from committed results, on results made by hand whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.statistics import paired_ratio
from circuits.errors import UnknownNameError
from experiments import answers, report
from experiments.bundle import COMMITTED, Bundle
from experiments.collect import add_frames

CLASSIC = [1000, 1200, 900, 1100, 1050]


def curve(steps: float, last: int, level: float = 0.99) -> list[tuple[int, float]]:
    return [(s, level if s >= steps else 0.25) for s in range(0, last + 1, 50)]


def bundle_of(path: Path, rows: list[dict[str, Any]], name: str = "gradient") -> Bundle:
    """A bundle of runs that each jump to a level at a step."""
    runs, metrics, arms = [], [], []
    for i, row in enumerate(rows):
        run, last = f"{i:012x}", row.get("last", 2000)
        where = {"condition": row.get("condition", "as in the paper"), "variant": row["variant"], "seed": row["seed"]}
        arms.append({"experiment": name, **where, "run": run})
        stops = row.get("stops_at", np.nan)
        about = {"run": run, "name": f"run-{i}", "steps": 2000, "stops_at": stops, "config": "{}"}
        runs.append({**about, "status": row.get("status", "finished"), "metrics": "", "gradients": ""})
        for step, value in curve(row["reaches"], last, row.get("level", 0.99)):
            metrics.append({"run": run, "step": step, "split": "ic", "measure": "accuracy", "value": value})
    frames = {"arms": pd.DataFrame(arms), "runs": pd.DataFrame(runs), "metrics": pd.DataFrame(metrics)}
    add_frames(frames | {"gradients": pd.DataFrame({"run": []})}, path)
    return Bundle.open(path)


def runs_of(variant: str, steps: list[Any], **more: Any) -> list[dict[str, Any]]:
    return [{"variant": variant, "seed": i, "reaches": s, **more} for i, s in enumerate(steps)]


def test_a_known_ratio_is_found_with_its_interval(tmp_path: Path) -> None:
    halves = [s // 2 + 50 * (i % 2) for i, s in enumerate(CLASSIC)]
    held = bundle_of(tmp_path, [*runs_of("classic", CLASSIC), *runs_of("value", halves)])
    table: Any = answers.speed(answers.times(held, "gradient")).set_index("variant")
    got = [-(-s // 50) * 50 for s in halves]
    assert table.loc["value", "ratio"] == pytest.approx(np.mean(got) / np.mean(CLASSIC))
    by_logs = paired_ratio(np.array(got), np.array(CLASSIC))
    assert table.loc["value", "low"] == pytest.approx(by_logs.low, abs=0.03)
    assert table.loc["value", "p_adjusted"] < 0.001
    assert table.loc["classic", "steps"] == np.mean(CLASSIC)
    assert np.isnan(table.loc["classic", "ratio"])


def test_no_difference_is_said_to_be_none(tmp_path: Path) -> None:
    same = [1050, 1150, 950, 1100, 1000]
    held = bundle_of(tmp_path, [*runs_of("classic", CLASSIC), *runs_of("value", same)])
    block = report.BLOCKS["gradient"](held)
    assert "no difference shown" in block
    assert "sooner" not in block


def test_runs_that_never_get_there_are_censored_at_their_planned_end(tmp_path: Path) -> None:
    never = [1000, np.inf, 900, 1100, 1050]
    rows = [*runs_of("classic", CLASSIC), *runs_of("value", never)]
    times = answers.times(bundle_of(tmp_path, rows), "gradient").query("variant == 'value'")
    assert times.steps.isna().tolist() == [False, True, False, False, False]
    assert (times["last"] == 2000).all()
    found = answers.speed(answers.times(bundle_of(tmp_path, rows), "gradient")).set_index("variant")
    assert found.loc["value", "reached"] == 4
    assert found.loc["value", "steps"] == pytest.approx(np.mean([1000, 2000, 900, 1100, 1050]))


def test_a_diverged_run_counts_as_never_there_up_to_its_planned_end(tmp_path: Path) -> None:
    rows = [*runs_of("classic", CLASSIC), *runs_of("value", [500, 500, 500, 500])]
    rows.append({"variant": "value", "seed": 4, "reaches": np.inf, "last": 200, "status": "failed"})
    table = answers.speed(answers.times(bundle_of(tmp_path, rows), "gradient")).set_index("variant")
    assert table.loc["value", "diverged"] == 1
    assert table.loc["value", "steps"] == pytest.approx((4 * 500 + 2000) / 5)


def test_where_nobody_gets_there_nothing_is_said(tmp_path: Path) -> None:
    rows = [*runs_of("classic", [np.inf] * 5), *runs_of("value", [np.inf] * 5)]
    held = bundle_of(tmp_path, rows)
    table = answers.speed(answers.times(held, "gradient"))
    assert table.ratio.isna().all()
    assert "too few runs got there to say anything" in report.BLOCKS["gradient"](held)


def test_runs_that_ended_at_a_lower_accuracy_say_nothing_of_a_higher_one(tmp_path: Path) -> None:
    rows = [*runs_of("classic", CLASSIC, stops_at=0.98), *runs_of("value", [500] * 5, stops_at=0.95, level=0.96)]
    held = bundle_of(tmp_path, rows)
    assert set(answers.times(held, "gradient", 0.95).variant) == {"classic", "value"}
    assert set(answers.times(held, "gradient", 0.98).variant) == {"classic"}


def test_conditions_are_compared_within_themselves_and_corrected_together(tmp_path: Path) -> None:
    rows = []
    for condition, factor in (("a", 1.0), ("b", 1.5)):
        rows += runs_of("classic", [factor * s for s in CLASSIC], condition=condition)
        rows += runs_of("value", [factor * s * 0.9 for s in CLASSIC], condition=condition)
    table = answers.speed(answers.times(bundle_of(tmp_path, rows, "data"), "data")).dropna(subset="ratio")
    assert table.ratio.tolist() == pytest.approx([0.9, 0.9], abs=0.05)
    assert (table.p_adjusted >= table.p).all()
    assert (table.p_adjusted > table.p).any()


def test_each_variant_is_tuned_by_itself(tmp_path: Path) -> None:
    rows = []
    for rate, classic, value in ((0.1, 1000, 900), (0.3, 600, 800)):
        condition = f"SGD, rate {rate:g}"
        rows += runs_of("classic", [classic, classic + 50, classic + 100], condition=condition)
        rows += runs_of("value", [value, value + 50, value + 100], condition=condition)
    table: Any = answers.tuned(answers.times(bundle_of(tmp_path, rows, "optimisers"), "optimisers")).set_index(
        "variant"
    )
    assert table.rate.to_dict() == {"classic": "0.3", "value": "0.3"}
    assert table.loc["value", "ratio"] > 1, "at one rate it would have been sooner"


# --- text ---------------------------------------------------------------------------------------------------------


def test_only_what_stands_between_markers_is_written(tmp_path: Path) -> None:
    held = bundle_of(tmp_path, [*runs_of("classic", CLASSIC), *runs_of("value", [500] * 5)])
    page = "before\n<!-- begin gradient -->\nold\n<!-- end gradient -->\nafter\n"
    filled = report.fill(page, held)
    assert filled.startswith("before\n<!-- begin gradient -->\n| variant")
    assert filled.endswith("<!-- end gradient -->\nafter\n")
    assert "old" not in filled
    assert report.fill(filled, held) == filled
    with pytest.raises(UnknownNameError, match="did you mean 'gradient'"):
        report.fill(page.replace("gradient", "gradients"), held)


def test_the_pages_say_what_the_committed_results_say() -> None:
    held = Bundle.open(COMMITTED)
    for page in report.PAGES:
        text = page.read_text()
        assert text.count("<!-- begin") > 0, page
        assert report.fill(text, held) == text, f"{page} is older than the results: run 'valuestream figures'"


def test_a_page_that_says_otherwise_is_found_out() -> None:
    held = Bundle.open(COMMITTED)
    text = report.PAGES[0].read_text()
    changed = text.replace(" of 10 |", " of 11 |", 1)
    assert changed != text
    assert report.fill(changed, held) == text


def test_a_page_of_its_own_has_a_heading_for_every_block() -> None:
    text = report.whole(Bundle.open(COMMITTED), "Everything")
    assert text.startswith("# Everything\n")
    assert text.count("\n## ") == len(report.BLOCKS)
