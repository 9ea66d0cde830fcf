"""Tables and sentences from committed results, on results made by hand whose answers are known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.statistics.intervals import paired_ratio
from circuits.common.errors import UnknownNameError
from circuits.common.plain_data import canonical_json
from circuits.common.text_table import interval
from experiments.runs.config import LM_TRAINING, icl_run, lm_run
from experiments.runs.training_config import StopAt
from experiments.studies import carriers, optimisers
from experiments.studies import pages as report
from experiments.studies import times as answers
from experiments.studies.collection import add_frames
from experiments.studies.committed_results import COMMITTED, Bundle, stops_on
from experiments.studies.registry import EXPERIMENTS, STUDIES, experiment
from experiments.studies.schedules import SMALL, TO_95

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


def speed_of(held: Bundle, name: str = "gradient") -> Any:
    """The table of an experiment at the evaluations themselves, where jumps are, by variant and reference."""
    runs = answers.times(held, experiment(name), rule="first")
    return answers.speed(runs, experiment(name).contrasts(runs.variant)).set_index(["variant", "reference"])


VALUE = ("value", "classic")


def test_a_known_ratio_is_found_with_its_interval(tmp_path: Path) -> None:
    halves = [s // 2 + 50 * (i % 2) for i, s in enumerate(CLASSIC)]
    row = speed_of(bundle_of(tmp_path, [*runs_of("classic", CLASSIC), *runs_of("value", halves)])).loc[VALUE]
    got = [-(-s // 50) * 50 for s in halves]
    assert row.ratio == pytest.approx(np.mean(got) / np.mean(CLASSIC)) == row.steps / row.reference_steps
    by_logs = paired_ratio(np.array(got), np.array(CLASSIC))
    assert (row.low, row.high) == pytest.approx((by_logs.low, by_logs.high), abs=0.03)
    assert row.p_adjusted < 0.001
    assert row.reference_steps == np.mean(CLASSIC)


def test_a_row_is_over_the_same_seeds_and_up_to_the_same_step(tmp_path: Path) -> None:
    rows = [*runs_of("classic", [*CLASSIC, 100, 100]), *runs_of("value", [500, 500, 500, 500, 600])]
    row = speed_of(bundle_of(tmp_path, rows)).loc[VALUE]
    assert (row.pairs, row.reference_steps) == (5, np.mean(CLASSIC)), "seeds that value lacks do not count for classic"
    assert row.ratio == pytest.approx(row.steps / row.reference_steps)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([1250, 1000, 1050, 950, 1100], "not told apart"),
        ([1000, 1200, 900, 1100, 1100], "the same within 5%"),
        ([500, 650, 450, 550, 550], "sooner"),
        ([1500, 1850, 1350, 1650, 1550], "later"),
        ([1000, 1200, 900, 1100, 1050], "is classic"),
        ([np.inf] * 5, "too few got there"),
    ],
)
def test_verdicts_say_what_was_shown_and_absence_only_if_it_was(tmp_path: Path, steps: list[Any], says: str) -> None:
    classic = CLASSIC if says != "too few got there" else [np.inf] * 5
    held = bundle_of(tmp_path, [*runs_of("classic", classic), *runs_of("value", steps)])
    assert answers.verdict(speed_of(held).reset_index().iloc[0]) == says


def test_runs_that_never_get_there_are_censored_at_their_planned_end(tmp_path: Path) -> None:
    never = [1000, np.inf, 900, 1100, 1000]
    held = bundle_of(tmp_path, [*runs_of("classic", CLASSIC), *runs_of("value", never)])
    times = answers.times(held, experiment("gradient")).query("variant == 'value'")
    assert times.steps.isna().tolist() == [False, True, False, False, False]
    assert (times["last"] == 2000).all()
    row = speed_of(held).loc[VALUE]
    assert (row.reached, row.reference_reached) == (4, 5)
    assert row.steps == pytest.approx(np.mean([1000, 2000, 900, 1100, 1000]))


def test_a_diverged_run_counts_as_never_there_up_to_its_planned_end(tmp_path: Path) -> None:
    rows = [*runs_of("classic", CLASSIC), *runs_of("value", [500, 500, 500, 500])]
    rows.append({"variant": "value", "seed": 4, "reaches": np.inf, "last": 200, "status": "failed"})
    row = speed_of(bundle_of(tmp_path, rows)).loc[VALUE]
    assert row.diverged == 1
    assert row.steps == pytest.approx((4 * 500 + 2000) / 5)


def test_runs_that_ended_at_a_lower_accuracy_say_nothing_of_a_higher_one_or_another_set(tmp_path: Path) -> None:
    rows = [*runs_of("classic", CLASSIC, stops_at=0.98), *runs_of("value", [500] * 5, stops_at=0.95, level=0.96)]
    held = bundle_of(tmp_path, rows)
    assert set(answers.times(held, experiment("gradient"), 0.95).variant) == {"classic", "value"}
    assert set(answers.times(held, experiment("gradient"), 0.98).variant) == {"classic"}
    both = Bundle.open(COMMITTED)
    assert set(answers.times(both, carriers.PAPER, split="test").seed) == {0, 1, 2}, "those that did not end early"


def test_what_a_run_ended_by_is_read_of_its_configuration() -> None:
    names = StopAt(0.7, "ioi train", 2, "probability")
    stopping = replace(LM_TRAINING["0.2m"], stop_at=names)
    stored = [
        canonical_json(config.essence())
        for config in (
            icl_run("value", "small", 0, SMALL),
            icl_run("value", "paper", 0, TO_95),
            icl_run("value", "small", 0, replace(SMALL, stop_at=StopAt(0.9, "iw"))),
            lm_run("0.2m", "stories", "value", 0, stopping),
        )
    ]
    assert [stops_on(text) for text in stored] == ["ic accuracy", "ic accuracy", "iw accuracy", "ioi train probability"]
    arms = pd.DataFrame([{"condition": "", "variant": "value", "seed": 0, "status": "finished", "steps": 1_000}])
    rows = [(step, step / 1_000) for step in range(0, 701, 100)]
    curves = pd.DataFrame(rows, columns=["step", "value"])
    curves = curves.assign(condition="", variant="value", seed=0, run="a", split="ioi train", measure="probability")
    followed = arms.assign(stops_at=0.7, stops_on="ioi train probability")
    assert list(answers.times_of_curves(curves, followed, 0.5).steps) == [500]
    assert answers.times_of_curves(curves, followed, 0.9).empty, "it was followed to 0.7 alone"
    assert answers.times_of_curves(curves, followed.assign(stops_on="ioi paper probability"), 0.5).empty


def test_conditions_are_compared_within_themselves_and_corrected_together(tmp_path: Path) -> None:
    rows = []
    for condition, factor in (("a", 1.0), ("b", 1.5)):
        rows += runs_of("classic", [factor * s for s in CLASSIC], condition=condition)
        rows += runs_of("value", [factor * s * 0.9 for s in CLASSIC], condition=condition)
    table = speed_of(bundle_of(tmp_path, rows, "data"), "data")
    assert table.ratio.tolist() == pytest.approx([0.9, 0.9], abs=0.05)
    assert table.p_adjusted.tolist() == pytest.approx((2 * table.p).tolist())


def test_one_model_under_two_names_counts_once(tmp_path: Path) -> None:
    fast, other = [500, 650, 450, 550, 550], [600, 700, 450, 600, 600]
    rows = [
        *runs_of("classic", CLASSIC),
        *runs_of("value", fast),
        *runs_of("cumulative", fast),
        *runs_of("lime", other),
    ]
    table = speed_of(bundle_of(tmp_path, rows, "connections"), "connections")
    assert table.same_as.tolist() == ["", "value", ""]
    assert table.ratio.isna().tolist() == [False, True, False]
    assert table.p_adjusted.tolist() == pytest.approx((2 * table.p).tolist(), nan_ok=True), "two comparisons, not three"
    alone = speed_of(
        bundle_of(tmp_path, [r for r in rows if r["variant"] != "cumulative"], "connections"), "connections"
    )
    columns = ["low", "high", "p_adjusted", "smallest"]
    np.testing.assert_allclose(alone[columns], table[columns].iloc[[0, 2]])


def test_questions_have_comparisons_of_their_own() -> None:
    held = Bundle.open(COMMITTED)

    def contrasts(name: str) -> list[tuple[str, str]]:
        return experiment(name).contrasts(held.experiment(name).variant)

    assert ("value-stop", "value") in contrasts("gradient-paper")
    assert ("query", "value") in contrasts("streams")
    windows = contrasts("windows")
    assert {reference for variant, reference in windows if variant != "value"} == {"value"}
    assert experiment("gradient").contrasts(["classic", "value"]) == [("value", "classic")], "of what is there"


def test_each_variant_is_tuned_by_itself(tmp_path: Path) -> None:
    rows = []
    for rate, classic, value in ((0.1, 1000, 900), (0.3, 600, 800)):
        condition = f"SGD, rate {rate:g}"
        rows += runs_of("classic", [classic, classic + 50, classic + 100], condition=condition)
        rows += runs_of("value", [value, value + 50, value + 100], condition=condition)
    [row] = optimisers.tuned(bundle_of(tmp_path, rows, "optimisers")).to_dict("records")
    assert (row["rate"], row["reference_rate"]) == (0.3, 0.3)
    assert row["ratio"] > 1, "at one rate it would have been sooner"


def test_differences_of_shares_stay_between_their_bounds() -> None:
    ends = pd.DataFrame(
        [
            {"title": "test", "condition": "", "measure": measure, "variant": v, "seed": s, "value": x}
            for measure in ("accuracy",)
            for v, values in (("classic", (0.0, 0.1, 0.2)), ("value", (1.0, 0.6, 0.9)))
            for s, x in enumerate(values)
        ]
    )
    [row] = answers.differences(ends).to_dict("records")
    assert row["difference"] == pytest.approx(np.mean([1.0, 0.5, 0.7]))
    assert -1 < row["low"] < row["difference"] < row["high"] < 1
    [loss] = answers.differences(ends.assign(measure="loss")).to_dict("records")
    assert loss["high"] > 1, "a loss has no such bounds"
    assert row["lower"] == 0


# --- text ---------------------------------------------------------------------------------------------------------


def test_only_what_stands_between_markers_is_written(tmp_path: Path) -> None:
    held = bundle_of(tmp_path, [*runs_of("classic", CLASSIC), *runs_of("value", [500] * 5)])
    page = "before\n<!-- begin gradient -->\nold\n<!-- end gradient -->\nafter\n"
    filled = report.fill(page, held)
    assert filled.startswith("before\n<!-- begin gradient -->\n| compared")
    assert filled.endswith("<!-- end gradient -->\nafter\n")
    assert "old" not in filled
    assert report.fill(filled, held) == filled
    with pytest.raises(UnknownNameError, match="did you mean 'gradient'"):
        report.fill(page.replace("gradient", "gradients"), held)


def test_what_has_no_interval_says_so() -> None:
    assert interval(0.5, 0.5, 0.5, ".2f") == "0.50 (no spread)"
    assert interval(0.5, np.nan, np.nan, ".2f") == "0.50 (no interval)"
    assert interval(0.5, 0.4, 0.6, ".2f") == "0.50 [0.40, 0.60]"
    assert interval(np.nan, np.nan, np.nan, ".2f") == "-"


@pytest.fixture(scope="module")
def whole() -> str:
    """A page of every block, made of the committed results."""
    return report.whole(Bundle.open(COMMITTED), "Everything")


def test_a_page_of_the_study_in_miniature_leaves_out_what_speaks_of_runs_that_it_does_not_train() -> None:
    held = Bundle.open(COMMITTED)
    small = {(name, arm.label) for name, one in EXPERIMENTS.items() for arm in one.arms("miniature")}
    arms = held.arms[[of in small for of in zip(held.arms.experiment, held.arms.variant, strict=True)]]
    vars(held)["arms"] = arms.copy()
    page = report.whole(held, "In miniature")
    assert set(arms.experiment) == {name for name, _ in small} < set(EXPERIMENTS)
    for block in report.BLOCKS.values():
        assert (f"\n## {block.heading}\n" in page) == block.tellable(held), block.name
    assert not report.BLOCKS["lm-story"].tellable(held), "one of its variants is not trained"
    assert report.BLOCKS["lm-gap"].tellable(held)


def test_the_pages_say_what_the_committed_results_say(whole: str) -> None:
    for page in report.PAGES:
        blocks = re.findall(r"<!-- begin ([\w-]+) -->\n(.*?)\n<!-- end", page.read_text(), re.DOTALL)
        assert blocks, page
        for name, text in blocks:
            block, held = report.BLOCKS[name], Bundle.open(COMMITTED)
            # What waits for its runs is on its page alone.
            there = f"\n\n{text}\n" in whole if block.tellable(held) else text == block.text(held)
            assert there, f"{name} in {page} is older than the results: run 'valuestream figures'"


def test_every_study_has_a_page_of_its_own_that_the_index_leads_to() -> None:
    index = report.INDEX.read_text()
    for study in STUDIES.values():
        text = study.page.read_text()
        assert text.startswith(f"# {study.question}\n")
        assert f"[{study.question}]({study.page.name})" in index
        assert set(re.findall(r"<!-- begin ([\w-]+) -->", text)) <= {block.name for block in study.blocks}
    pages = "".join(page.read_text() for page in report.PAGES)
    assert set(report.BLOCKS) == set(re.findall(r"<!-- begin ([\w-]+) -->", pages)), "every table stands on a page"


@pytest.mark.slow
def test_what_is_installed_has_one_page_with_every_table(tmp_path: Path, whole: str) -> None:
    text = report.write_page(Bundle.open(COMMITTED), tmp_path / "report.md").read_text()
    for page in report.PAGES[:-1]:
        for name, table in re.findall(r"<!-- begin ([\w-]+) -->\n(.*?)\n<!-- end", page.read_text(), re.DOTALL):
            assert f"<!-- begin {name} -->\n{table}\n" in text
    links = set(re.findall(r"\]\(([^)]+)\)", text))
    assert not [link for link in links if "rendered/" in link and not link.startswith("file:")]
    assert {f"#{study.name}" for study in STUDIES.values()} <= links
    assert all(f'<a id="{link[1:]}"></a>' in text for link in links if link.startswith("#"))


def test_a_page_of_its_own_has_a_heading_for_every_block(whole: str) -> None:
    assert whole.startswith("# Everything\n")
    assert whole.count("\n## ") == sum(block.tellable(Bundle.open(COMMITTED)) for block in report.BLOCKS.values())


def test_no_block_prints_an_impossible_number(whole: str) -> None:
    for name in ("P(IO)", "depth 0", "test"):
        assert name in whole
    # What may be below 0: differences, learned scalars, rises of a loss, correlations.
    differences = "learned-gains-layers", "learned-gains-scalars", "learned-gains-agreement"
    for name in differences:
        whole = whole.replace(report.BLOCKS[name].text(Bundle.open(COMMITTED)), "")
    without = [line for line in whole.splitlines() if "minus classic" not in line]
    assert not re.findall(r"\[-[\d.]+, [\d.]+\]", "\n".join(without)), "a share below 0, or steps"
    assert "[1.00, 1.00]" not in whole


def test_pages_are_filled_by_name(tmp_path: Path) -> None:
    page = STUDIES["carriers"].page.read_text()
    changed = page.replace("| 5 of 5 |", "| 5 of 6 |", 1)
    begin, end = (changed.index(f"<!-- {word} streams-paper -->") for word in ("begin", "end"))
    assert "5 of 6" in changed[begin:end]
    assert report.fill(changed[begin : end + 30], Bundle.open(COMMITTED)) == page[begin : end + 30]
