"""Figures of language models and of indirect objects draw what their frames say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.statistics.curves import effects_over_runs, over_seeds, with_differences
from analysis.statistics.intervals import mean_interval
from circuits import UnknownNameError
from circuits.common.plain_data import derive_seed
from figures.images import write_images
from figures.models import head_score_maps, route_maps
from figures.trainings import against_classic
from figures.trainings import indirect_objects as ioi
from figures.trainings import language_models as lm

VARIANTS = ("classic", "value", "value-stop")
SETS = (*lm.IOI_SETS, *lm.NESTED_SETS)
MEASURES = ("probability", "wrong_probability", "logit_difference", "accuracy", "preference")
SPEED = {"classic": 1.0, "value": 0.75, "value-stop": 0.9, "value-gradient-only": 1.0, "cumulative": 0.8}
SENTENCES = (
    "1 After John and Mary went to the store, John gave a bottle of milk to",
    "2 When Tom and James went to the park, Tom gave the ball to",
    "3 When Dan and Emily went to the shops, Dan gave an apple to",
    "4 After Sam and Amy went to the park, Sam gave a drink to",
)
SCORES = ("previous token", "duplicate token", "induction", "s-inhibition", "name mover")
ROUTES = {"classic": ("own",), "value": ("own", "residual", "mixed", "outgoing")}


def metrics_of(variants: Sequence[str] = VARIANTS, seeds: int = 3, points: int = 5) -> pd.DataFrame:
    """Curves made up: a variant's are those of classic, faster; a seed's differ a little."""
    rows = []
    for variant, seed in product(variants, range(seeds)):
        rng = np.random.default_rng(derive_seed("made up", variant, seed))
        about = {"condition": "0.2m", "variant": variant, "seed": seed, "run": f"{variant}-{seed}"}
        for point in range(points):
            at = {"step": 100 * point, "tokens": 409_600 * point}
            done = 6 * point / (points - 1) / SPEED[variant]
            loss = 1.6 + 6 * math.exp(-done) + 0.02 * seed + 0.002 * rng.standard_normal()
            rows.append({**about, **at, "split": "validation", "measure": "loss", "value": loss})
            for i, (name, measure) in enumerate(product(SETS, MEASURES)):
                level = (0.9 - 0.05 * (i // 5)) / (1 + math.exp(3 - done)) + 0.02 * rng.standard_normal()
                value = 5 * level - 1 if measure == "logit_difference" else min(1.0, max(0.0, level))
                rows.append({**about, **at, "split": name, "measure": measure, "value": value})
    return over_seeds(with_differences(pd.DataFrame(rows), "loss"), "tokens")


def answers_by_sentence(variants: Sequence[str] = ("classic", "value"), order: str = "both") -> pd.DataFrame:
    bodies = [(v, "own") for v in variants] + [("classic", "value"), ("value", "classic")]
    rows = []
    for i, ((variant, body), prompt) in enumerate(product(bodies, SENTENCES)):
        for answer, level in (("right", 0.15 + 0.04 * (i % 7)), ("wrong", 0.05 + 0.03 * (i % 5))):
            ends = {"mean": level, "low": level - 0.04, "high": level + 0.05}
            where = {"variant": variant, "body": body, "prompt": prompt, "order": order, "answer": answer}
            rows.append({**where, **ends, "n": 5, "sets": "ioi paper"})
    return pd.DataFrame(rows)


def scaling_table(variants: Sequence[str] = ("value", "value-stop")) -> pd.DataFrame:
    rows = []
    sizes = {"0.2m": 213_000, "1m": 1_050_000, "3m": 3_180_000}
    means = {"tokens to threshold ratio to classic": 0.8, "final loss difference": -0.03}
    means["final probability difference"] = 0.1
    for i, ((size, parameters), variant) in enumerate(product(sizes.items(), variants)):
        for measure, mean in means.items():
            middle = mean * (1 - 0.05 * i)
            ends = {"mean": middle, "low": middle - abs(mean) / 4, "high": middle + abs(mean) / 3}
            about = {"size": size, "parameters": parameters, "variant": variant, "measure": measure}
            rows.append({**about, **ends, "pairs": 5 if size == "0.2m" else 3, "step_time_ratio": 1.02 + 0.01 * i})
    return pd.DataFrame(rows)


def cost_table(variants: Sequence[str] = ("value", "value-stop")) -> pd.DataFrame:
    rows = []
    for i, (size, variant) in enumerate(product(("0.2m", "1m"), variants)):
        time, tokens = 1.02 + 0.02 * i, 0.75 + 0.1 * i
        cost = {"time": time, "time_low": time - 0.01, "time_high": time + 0.015, "memory": 1.1}
        gain = {"tokens": tokens, "tokens_low": tokens - 0.08, "tokens_high": tokens + 0.1}
        rows.append({"variant": variant, "size": size, **cost, **gain, "pairs": 5})
    return pd.DataFrame(rows)


def patches(runs: int = 1, head: str = "all") -> pd.DataFrame:
    rows = []
    for variant, run in product(ROUTES, range(runs)):
        for layer, (route, position) in product(range(4), product(ROUTES[variant], route_maps.ROLES[::-1])):
            if layer == 0 and route == "residual":
                continue
            effect = 0.2 * layer * (route_maps.ROLES.index(position) - 1) / 4 + 0.1 * run + 0.05 * len(route)
            site = {"layer": layer, "component": "v", "route": route, "head": head, "position": position}
            ends = {"effect": effect, "low": effect - 0.05, "high": effect + 0.05}
            rows.append(
                {
                    "variant": variant,
                    "seed": run,
                    "run": f"{variant}-{run}",
                    **site,
                    **ends,
                    "n": 64,
                    "metric": "logit_difference",
                    "direction": "denoise",
                }
            )
    return pd.DataFrame(rows)


def scores_of(runs: int = 1) -> pd.DataFrame:
    rows = []
    for variant, run, layer, head in product(("classic", "value"), range(runs), range(4), range(4)):
        for i, score in enumerate(reversed(SCORES)):
            value = ((5 * layer + 3 * head + 2 * i + run) % 16) / 16
            at = {"variant": variant, "run": f"{variant}-{run}", "layer": layer, "head": head, "score": score}
            rows.append({**at, "value": value, "stderr": 0.01, "n": 200})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def metrics() -> pd.DataFrame:
    return metrics_of()


def caption(figure: Any) -> str:
    return figure.layout.meta["caption"]


def title(figure: Any) -> str:
    return figure.layout.meta["title"]


def titles(figure: Any) -> list[str]:
    return [annotation.text.replace("<br>", " ") for annotation in figure.layout.annotations][:-1]


def lines(figure: Any, name: str) -> list[Any]:
    return [trace for trace in figure.data if trace.name == name and trace.mode == "lines"]


def ends_of(variants: Sequence[str], p: float, split: str = "validation") -> pd.DataFrame:
    """What a table says of the ends of curves."""
    return pd.DataFrame({"variant": list(variants), "split": split, "p_adjusted": p})


# --- curves -----------------------------------------------------------------------------------------------------------


def test_losses_are_means_over_seeds_against_millions_of_tokens(metrics: pd.DataFrame) -> None:
    figure: Any = lm.loss_curves(metrics)
    left = lines(figure, "value")[0]
    chosen = metrics[(metrics.variant == "value") & (metrics.split == "validation") & (metrics.measure == "loss")]
    assert list(left.x) == pytest.approx([0.4096 * i for i in range(5)])
    assert list(left.y) == pytest.approx(chosen.groupby("tokens").value.mean().tolist())
    assert sum(trace.fill == "toself" for trace in figure.data) == 5, "every curve has its interval"
    assert [trace.name for trace in figure.data if trace.showlegend] == list(VARIANTS)
    assert "Mean over 3 seeds" in caption(figure)
    assert figure.layout.meta["runs"] == sorted(metrics.run.unique())


def test_differences_of_losses_are_paired_by_seed(metrics: pd.DataFrame) -> None:
    figure: Any = lm.loss_curves(metrics)
    assert len(lines(figure, "classic")) == 1, "the reference does not differ from itself"
    right = lines(figure, "value")[1]
    losses = metrics[metrics.measure == "loss"].pivot_table("value", ["seed", "tokens"], "variant")
    differences = (losses["value"] - losses["classic"]).unstack("seed")
    intervals = [mean_interval(row.to_numpy()) for _, row in differences.iterrows()]
    assert list(right.y) == pytest.approx([i.mean for i in intervals])
    edge = figure.data[list(figure.data).index(right) - 1]
    assert list(edge.y) == pytest.approx([i.high for i in intervals] + [i.low for i in reversed(intervals)])
    apart = mean_interval(losses["value"].unstack("seed").iloc[-1].to_numpy())
    assert intervals[-1].high - intervals[-1].low < apart.high - apart.low, "what seeds share cancels"


def test_one_seed_has_no_interval_and_says_so() -> None:
    figure: Any = lm.loss_curves(metrics_of(seeds=1))
    assert not any(trace.fill == "toself" for trace in figure.data)
    assert "One seed; no interval." in caption(figure)


def test_the_reference_alone_has_no_differences() -> None:
    figure: Any = lm.loss_curves(metrics_of(("classic",), seeds=2, points=2))
    assert len(lines(figure, "classic")) == 1
    assert {trace.xaxis for trace in figure.data} == {"x"}


def test_the_axis_of_losses_is_that_of_what_comes_after_the_start(metrics: pd.DataFrame) -> None:
    figure: Any = lm.loss_curves(metrics)
    assert figure.layout.yaxis.range[1] < 7 < max(lines(figure, "classic")[0].y)
    assert "may leave the frame" in caption(figure)
    flat: Any = lm.loss_curves(metrics[metrics.step > 0])
    assert "may leave the frame" not in caption(flat)


@pytest.mark.parametrize("measure", ["probability", "logit_difference"])
def test_ioi_curves_have_a_panel_a_set(metrics: pd.DataFrame, measure: str) -> None:
    figure: Any = lm.ioi_curves(metrics, measure)
    assert titles(figure) == list(lm.IOI_SETS.values())
    drawn = lines(figure, "value-stop")
    assert len(drawn) == 5
    chosen = metrics[(metrics.variant == "value-stop") & (metrics.measure == measure)]
    for line, split in zip(drawn, lm.IOI_SETS, strict=True):
        assert list(line.y) == pytest.approx(chosen[chosen.split == split].groupby("tokens").value.mean().tolist())
    assert sum(trace.fill == "toself" for trace in figure.data) == 15
    assert lm.MEASURE_WORDS[measure] == figure.layout.yaxis.title.text


def sunk(metrics: pd.DataFrame, variant: str, by: float) -> dict[str, pd.Series]:
    """The columns of values, those of a variant lower."""
    columns = ("value", "mean", "low", "high")
    return {name: metrics[name].where(metrics.variant != variant, metrics[name] - by) for name in columns}


def test_a_gap_is_that_of_the_means_beside_that_of_the_levels(metrics: pd.DataFrame) -> None:
    levels = {"classic": 0.07, "value": 0.41}
    figure: Any = lm.gap_curves(metrics, levels)
    assert [shape.y0 for shape in figure.layout.shapes] == [0.07, 0.41]
    assert titles(figure) == ["the paper's classic: 7%", "the paper's value: 41%"]
    chosen = metrics[(metrics.split == "ioi paper") & (metrics.measure == "probability")]
    means = chosen.pivot_table("value", "tokens", "variant")
    gap = means["value"] - means["classic"]
    at: Any = gap.idxmax()
    said = f"value is up to {gap.max():.2f} above classic (at {at / 1e6:.1f} million tokens)"
    assert title(figure) == f"As they learn, {said}, at the end {gap.iloc[-1]:.2f}; in the paper 0.34"
    lower = lm.gap_curves(metrics.assign(**sunk(metrics, "value", 0.4)), levels)
    assert "up to" not in title(lower)
    assert title(lower).startswith("As they learn, value is nowhere above classic, at the end -0.")
    with pytest.raises(ValueError, match="a gap is that of two variants, got levels of 1"):
        lm.gap_curves(metrics, {"value": 0.4})
    with pytest.raises(UnknownNameError, match="unknown variant 'valu': did you mean 'value'"):
        lm.gap_curves(metrics, {"classic": 0.1, "valu": 0.4})


def test_losses_say_how_far_they_part_and_whether_they_end_apart(metrics: pd.DataFrame) -> None:
    losses = metrics[metrics.measure == "loss minus classic's"].groupby(["variant", "tokens"], observed=True).value
    deepest = losses.mean().loc["value"].min()
    way = f"value is up to {-deepest:.2f} nats below classic on the way"
    last = losses.mean().loc["value"].iloc[-1]
    assert title(lm.loss_curves(metrics)).startswith(f"{way}; at the end value's minus classic's is {last:.2f} [")
    both = ("value", "value-stop")
    told = f"{way}; at the end no variant is told apart from classic"
    assert title(lm.loss_curves(metrics, ends=ends_of(both, 0.06))) == told
    told = f"{way}; at the end value is told apart from classic"
    apart = pd.concat([ends_of(["value"], 0.04), ends_of(["value-stop"], 0.06)])
    assert title(lm.loss_curves(metrics, ends=apart)) == told
    slower = metrics_of(("classic", "value-gradient-only"), seeds=1)
    assert "no interval" not in title(lm.loss_curves(slower))
    alone = lm.loss_curves(metrics_of(("classic",), seeds=2, points=2))
    assert title(alone).startswith("The loss of classic ends at 1.")
    assert (
        title(lm.loss_curves(metrics, of="small models"))
        != lm.loss_curves(metrics, of="small models").layout.meta["of"]
    )


def test_levels_say_where_curves_end_and_what_is_told_apart(metrics: pd.DataFrame) -> None:
    last = metrics[(metrics.split == "ioi train") & (metrics.measure == "probability") & (metrics.step == 400)]
    value, classic = (last[last.variant == v].iloc[0]["mean"] for v in ("value", "classic"))
    few = metrics[metrics.variant != "value-stop"]
    on = "(names and templates of training)"
    apart = ends_of(["value"], 0.01, "ioi train")
    said = f"At the end value is told apart from classic: P(right answer) {value:.2f} against {classic:.2f} {on}"
    assert title(lm.ioi_curves(few, ends=apart)) == said
    alike = title(lm.ioi_curves(few, ends=ends_of(["value"], 0.05, "ioi train")))
    assert alike == said.replace("is told", "is not told")
    assert (
        title(lm.ioi_curves(few))
        == f"The P(right answer) ends at {value:.2f} in value, at {classic:.2f} in classic {on}"
    )
    assert title(lm.ioi_curves(few[few.variant == "value"])).endswith(f"] {on}")
    assert "not told apart" in title(lm.nested_curves(few, ends=ends_of(["value"], 1.0, "depth 0")))
    assert lm.nested_curves(few, of="clauses").layout.meta["of"] == "clauses, 3 seeds a variant"


def test_nested_curves_have_a_panel_a_depth_or_a_question(metrics: pd.DataFrame) -> None:
    assert titles(lm.nested_curves(metrics)) == [lm.NESTED_SETS[depth] for depth in lm.DEPTHS]
    figure: Any = lm.nested_curves(metrics, ("giver", "object"))
    assert titles(figure) == ["who gave it?", "what was given?"]
    chosen = metrics[(metrics.variant == "classic") & (metrics.split == "object") & (metrics.measure == "accuracy")]
    assert list(lines(figure, "classic")[1].y) == pytest.approx(chosen.groupby("tokens").value.mean().tolist())
    assert "3 seeds" in caption(figure)


def test_curves_refuse_what_is_not_there() -> None:
    metrics = metrics_of(points=2)
    with pytest.raises(UnknownNameError, match="unknown set 'depth 4': did you mean"):
        lm.nested_curves(metrics, ("depth 4",))
    with pytest.raises(UnknownNameError, match="unknown measure 'probabilty': did you mean 'probability'"):
        lm.ioi_curves(metrics, "probabilty")
    with pytest.raises(UnknownNameError, match="unknown variant 'classic'"):
        lm.loss_curves(metrics[metrics.variant != "classic"])
    with pytest.raises(ValueError, match="no differences to classic"):
        lm.loss_curves(metrics[metrics.measure == "loss"])
    with pytest.raises(ValueError, match="a curve has no mean and no low and no high and no n"):
        lm.nested_curves(metrics.drop(columns=["mean", "low", "high", "n"]))
    both = pd.concat([metrics, metrics.assign(condition="1m")])
    with pytest.raises(ValueError, match=r"several conditions \(0.2m, 1m\); draw one at a time"):
        lm.loss_curves(both)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_scaling_draws_a_panel_a_measure_with_whiskers() -> None:
    table = scaling_table()
    figure: Any = against_classic.scaling(table, ["b", "a"])
    points = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert len(points) == 6
    ratio = table[(table.variant == "value-stop") & table.measure.str.contains("ratio")]
    point = points[1]
    assert list(point.y) == ratio["mean"].tolist()
    assert list(point.error_y.array) == pytest.approx((ratio.high - ratio["mean"]).tolist())
    assert list(point.error_y.arrayminus) == pytest.approx((ratio["mean"] - ratio.low).tolist())
    assert point.x == pytest.approx(ratio.parameters.to_numpy(), rel=0.1)
    assert all(point.x > figure.data[0].x), "points of one size stand beside each other"
    assert [shape.y0 for shape in figure.layout.shapes] == [1.0, 0.0, 0.0]
    assert list(point.marker.symbol) == ["circle-open", "circle", "circle"], "filled where the interval excludes 1"
    assert figure.layout.meta["of"] == "3 to 5 pairs of seeds a point"
    same = table.measure.str.contains("ratio").astype(float)
    told = int(((table.high < same) | (table.low > same)).sum())
    assert title(figure).startswith(f"{told} of 18 comparisons are told apart from classic, as value")
    wide = table.assign(low=-1.0, high=2.0)
    none: Any = against_classic.scaling(wide)
    assert title(none) == "No difference to classic is shown at any of 3 sizes (18 comparisons)"
    assert set(none.data[0].marker.symbol) == {"circle-open"}
    one = wide.assign(low=wide.low.mask(wide.index == 0, 0.7), high=wide.high.mask(wide.index == 0, 0.9))
    first = f"value at 0.2m, {one['mean'].iloc[0]:.2f} [0.70, 0.90] times the tokens"
    assert title(against_classic.scaling(one)) == f"Told apart from classic: {first}; none of the other 17 comparisons"
    assert figure.layout.meta["runs"] == ["a", "b"]
    assert "1.03 times classic's" in point.hovertext[0]
    assert "0.2m<br>0.21 million" in figure.layout.xaxis.ticktext


def test_costs_stand_beside_gains_on_one_scale() -> None:
    table = cost_table()
    figure: Any = against_classic.cost_against_gain(table, ["a"])
    dots = [trace for trace in figure.data if trace.mode == "markers" and trace.y[0] is not None]
    ours = table[table.variant == "value"]
    time, tokens = (next(t for t in dots if t.name == "value" and t.xaxis == axis) for axis in ("x", "x2"))
    assert (list(time.x), list(tokens.x)) == (ours.time.tolist(), ours.tokens.tolist())
    assert list(time.y) == ["value, 0.2m", "value, 1m"]
    assert list(time.error_x.array) == pytest.approx((ours.time_high - ours.time).tolist())
    assert list(tokens.error_x.arrayminus) == pytest.approx((ours.tokens - ours.tokens_low).tolist())
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range
    assert figure.layout.xaxis.range[0] < table.tokens_low.min()
    assert list(tokens.marker.symbol) == ["circle", "circle-open"], "0.95 [0.87, 1.05] is not told apart from 1"
    printed = [text for trace in figure.data if trace.mode == "text" for text in trace.text]
    assert printed[0] == "1.020 [1.010, 1.035] "
    assert "time to the threshold 0.77" in tokens.hovertext[0]
    curves: Any = lm.loss_curves(metrics_of(tuple(SPEED), points=2))
    assert {t.name: t.line.color for t in curves.data if t.showlegend}["value"] == tokens.marker.color
    assert figure.layout.meta["of"] == "5 pairs of seeds a row"
    said = "A step takes 1.01 to 1.09 times classic's time; "
    assert title(figure) == f"{said}2 of 4 need fewer tokens, down to 0.75 times in value (0.2m)"
    wide = table.assign(tokens_low=0.5, tokens_high=1.5)
    none = against_classic.cost_against_gain(wide)
    assert title(none) == f"{said}the tokens to the threshold are not told apart from classic's"


def test_a_row_of_costs_without_tokens_says_so() -> None:
    table = cost_table()
    table.loc[0, ["tokens", "tokens_low", "tokens_high"]] = np.nan
    figure: Any = against_classic.cost_against_gain(table)
    assert "too few got there " in [text for trace in figure.data if trace.mode == "text" for text in trace.text]


def test_sentences_have_bars_of_right_and_wrong_names() -> None:
    table = answers_by_sentence()
    figure: Any = ioi.ioi_by_sentence(table, ["a"])
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [bar.name for bar in bars[::2]] == ["classic", "value", "classic in value", "value in classic"]
    assert [bar.yaxis for bar in bars] == ["y"] * 4 + ["y2"] * 4, "transplanted ones are below"
    rows = table[(table.variant == "value") & (table.body == "classic") & (table.answer == "wrong")]
    assert list(bars[7].y) == rows["mean"].tolist()
    assert list(bars[7].error_y.array) == pytest.approx([0.05] * 4)
    assert list(bars[7].error_y.arrayminus) == pytest.approx([0.04] * 4)
    assert bars[7].x[0].replace("<br>", " ") == SENTENCES[0]
    assert bars[6].marker.color == bars[2].marker.color, "the inside is of whose weights they are"
    assert bars[6].marker.line.color == bars[0].marker.line.color, "the edge of whose body"
    assert figure.layout.meta["of"] == "means over 5 seeds"
    assert "either name as subject" in caption(figure)
    assert all(answer in caption(figure) for answer in ioi.ANSWERS.values())
    assert bars[7].hovertext[0].endswith("mean of 5 seeds")
    right = table[table.answer == "right"]
    own, moved = right[right.body == "own"]["mean"], right[right.body != "own"]["mean"]
    said = f"of {own.min():.2f} to {own.max():.2f}, transplanted ones of {moved.min():.2f} to {moved.max():.2f}"
    assert title(figure) == f"Matched models give the right name with a probability {said}"


def test_sentences_of_one_run_have_no_whiskers_and_may_be_numbered() -> None:
    table = answers_by_sentence().drop(columns=["order", "sets"]).assign(low=np.nan, high=np.nan, n=1)
    table = table.assign(sentence=table.prompt.str[0].astype(int), prompt=table.prompt.str[2:])
    figure: Any = ioi.ioi_by_sentence(table)
    assert figure.data[0].x[0].replace("<br>", " ") == SENTENCES[0]
    assert np.isnan(np.array(figure.data[0].error_y.array, dtype=float)).all()
    assert figure.layout.meta["of"] == "one seed a variant"
    assert figure.layout.yaxis.range[1] == pytest.approx(1.08 * table["mean"].max())


def test_matched_weights_alone_have_one_panel() -> None:
    table = answers_by_sentence()
    figure: Any = ioi.ioi_by_sentence(table[table.body == "own"])
    assert len(titles(figure)) == 1
    assert "architecture, its inside" not in caption(figure)
    assert "transplanted" not in title(figure)
    assert "in classic and" in title(figure)
    moved = ioi.ioi_by_sentence(table[table.body != "own"])
    assert title(moved).startswith("Transplanted models give the right name with a probability of 0.")


def test_orders_are_told_apart_or_chosen() -> None:
    both = pd.concat([answers_by_sentence(order="ABBA"), answers_by_sentence(order="BABA")])
    figure: Any = ioi.ioi_by_sentence(both)
    first = next(trace for trace in figure.data if trace.type == "bar")
    assert len(set(first.x)) == 8
    assert first.x[0].endswith("<br>(ABBA)")
    one: Any = ioi.ioi_by_sentence(both, order="BABA")
    assert len(set(one.data[0].x)) == 4
    averaged: Any = ioi.ioi_by_sentence(pd.concat([both, answers_by_sentence()]))
    assert len(set(averaged.data[0].x)) == 4, "rows of both orders come first"
    with pytest.raises(UnknownNameError, match="unknown order 'ABAB': did you mean"):
        ioi.ioi_by_sentence(both, order="ABAB")
    with pytest.raises(ValueError, match="16 rows are of bars that others are of too"):
        ioi.ioi_by_sentence(pd.concat([answers_by_sentence(), answers_by_sentence().head(16)]))


def test_sizes_have_bars_of_their_own() -> None:
    small, large = answers_by_sentence().assign(size="0.2m"), answers_by_sentence().assign(size="1m")
    large = large.assign(mean=large["mean"] / 2, low=large.low / 2, high=large.high / 2)
    assert ioi.ioi_by_sentence(small) == ioi.ioi_by_sentence(small.drop(columns="size"))
    figure: Any = ioi.ioi_by_sentence(pd.concat([small, large]))
    first = next(trace for trace in figure.data if trace.type == "bar")
    assert [label.rpartition("<br>")[2] for label in first.x] == ["(0.2m)"] * 4 + ["(1m)"] * 4
    assert list(first.y[4:]) == [mean / 2 for mean in first.y[:4]]
    own: Any = ioi.ioi_by_sentence(pd.concat([small, large]).query("body == 'own'"))
    assert "over 8 sentences" not in title(own)


# --- maps -------------------------------------------------------------------------------------------------------------


def test_route_maps_have_a_panel_a_route_and_variant() -> None:
    frame = patches()
    figure: Any = route_maps.route_maps(frame)
    assert titles(figure) == ["classic: v, own", *(f"value: v, {route}" for route in ROUTES["value"])]
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    residual = maps[2]
    assert list(residual.x) == list(route_maps.ROLES)
    assert list(residual.y) == [0, 1, 2, 3]
    row = frame[(frame.route == "residual") & (frame.layer == 3) & (frame.position == "S2")].iloc[0]
    assert residual.z[3][3] == pytest.approx(row.effect)
    assert residual.text[3][3] == f"{row.effect:.2f}"
    assert residual.customdata[3][3] == pytest.approx([row.low, row.high])
    assert np.isnan(np.array(residual.z[0], dtype=float)).all(), "nothing comes in at the first layer"
    assert set(residual.text[0]) == {""}
    axis = figure.layout.coloraxis
    assert axis.cmax == -axis.cmin == pytest.approx(frame.effect.abs().max())
    assert all(trace.coloraxis == "coloraxis" for trace in maps)
    crosses = figure.data[list(figure.data).index(residual) + 1]
    assert list(zip(crosses.x, crosses.y, strict=True)) == [(role, 0) for role in route_maps.ROLES]
    assert "no such site" in caption(figure)
    assert "classic and value, seed 0, 64 pairs each" in figure.layout.meta["of"]
    assert maps[0].xaxis == "x", "a variant begins a row"
    assert [figure.layout[f"yaxis{i}"].domain[0] for i in (2, 5)] < [figure.layout.yaxis.domain[0]] * 2
    assert figure.layout.meta["runs"] == ["classic-0", "value-0"]


def test_route_maps_of_several_runs_are_means_with_their_interval() -> None:
    frame = patches(runs=3)
    with pytest.raises(ValueError, match="several runs of a variant are here"):
        route_maps.route_maps(frame)
    figure: Any = route_maps.route_maps(effects_over_runs(frame))
    cell = frame[(frame.variant == "value") & (frame.route == "mixed") & (frame.layer == 1) & (frame.position == "IO")]
    interval = mean_interval(cell.effect.to_numpy())
    mixed = [trace for trace in figure.data if trace.type == "heatmap"][3]
    assert mixed.z[1][0] == pytest.approx(interval.mean)
    assert mixed.customdata[1][0] == pytest.approx([interval.low, interval.high])
    assert "means over 3 runs" in figure.layout.meta["of"]


def test_route_maps_name_sites_that_are_patched_together_and_zeros_without_a_sign() -> None:
    frame = patches().query("route == 'own'").assign(component="state", route="-", effect=-0.001)
    joint: Any = route_maps.route_maps(
        pd.concat([frame, frame.assign(component="resid_pre + v", route="- + residual")])
    )
    both = ["resid + stream", "resid_pre + v, - + residual"]
    assert titles(joint) == [f"{variant}: {site}" for variant in ("classic", "value") for site in both]
    assert joint.data[0].text[0][0] == "0.00"


def test_route_maps_are_not_of_single_heads() -> None:
    with pytest.raises(ValueError, match="every site here is of a single head"):
        route_maps.route_maps(patches(head="1"))


def test_head_scores_have_a_map_a_score_and_run() -> None:
    frame = scores_of()
    figure: Any = head_score_maps.head_score_maps(frame)
    assert titles(figure) == [head_score_maps.SCORES[name].replace("<br>", " ") for name in SCORES]
    assert [figure.layout[axis].title.text for axis in ("yaxis", "yaxis6")] == [
        f"<b>{variant}</b><br>layer" for variant in ("classic", "value")
    ]
    chosen = frame[(frame.variant == "value") & (frame.score == "name mover")]
    expected = chosen.pivot(index="layer", columns="head", values="value").to_numpy()
    np.testing.assert_array_equal(np.array(figure.data[9].z, dtype=float), expected)
    assert figure.data[9].customdata[0][0] == 0.01
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    high = frame[frame.value >= head_score_maps.HIGH]
    assert len(figure.layout.shapes) == len(high), "high scores are framed"
    assert figure.layout.meta["of"] == "one run a variant, 200 prompts"
    top = frame.iloc[int(frame.value.argmax())]
    best = f"{top.variant}'s L{top.layer}H{top['head']} ({top.score} {top.value:.2f})"
    assert title(figure) == f"Of 160 scores of heads {len(high)} are 0.5 or more; the highest is {best}"
    low = frame.assign(value=frame.value.clip(upper=0.49).mask(frame.index == 5, 0.9))
    fifth = low.loc[5]
    alone = f"{fifth.variant}'s L{fifth.layer}H{fifth['head']} ({fifth.score} 0.90)"
    assert (
        title(head_score_maps.head_score_maps(low)) == f"Of 160 scores of heads 1 is high: {alone}; no other above 0.49"
    )
    none = head_score_maps.head_score_maps(frame.assign(value=frame.value / 2))
    assert title(none).startswith("No head of any run scores 0.5 or more; the highest is ")
    assert figure.layout.meta["runs"] == ["classic-0", "value-0"]


def test_heads_of_several_runs_are_not_averaged() -> None:
    figure: Any = head_score_maps.head_score_maps(scores_of(runs=2))
    assert len(figure.data) == 20
    assert figure.layout.yaxis6.title.text == "<b>classic, ssic-1</b><br>layer"
    seeded: Any = head_score_maps.head_score_maps(scores_of(runs=2).assign(seed=lambda t: t.run.str[-1]))
    assert seeded.layout.yaxis6.title.text == "<b>classic, seed 1</b><br>layer"
    with pytest.raises(ValueError, match="160 scores in the place of another"):
        head_score_maps.head_score_maps(pd.concat([scores_of(), scores_of()]))


# --- all of them ------------------------------------------------------------------------------------------------------


def every_figure(metrics: pd.DataFrame) -> dict[str, Any]:
    return {
        "loss_curves": lm.loss_curves(metrics),
        "ioi_curves": lm.ioi_curves(metrics),
        "nested_curves": lm.nested_curves(metrics),
        "scaling": against_classic.scaling(scaling_table(), ["a"]),
        "cost_against_gain": against_classic.cost_against_gain(cost_table(), ["a"]),
        "ioi_by_sentence": ioi.ioi_by_sentence(answers_by_sentence(), ["a"]),
        "route_maps": route_maps.route_maps(patches()),
        "head_score_maps": head_score_maps.head_score_maps(scores_of()),
    }


def test_the_same_frames_make_the_same_figures(metrics: pd.DataFrame) -> None:
    first, second = every_figure(metrics), every_figure(metrics)
    for name, figure in first.items():
        assert figure.to_json() == second[name].to_json(), name
        assert figure.layout.meta["runs"], name
        assert caption(figure) == figure.layout.annotations[-1].text.replace("<br>", " "), name


@pytest.mark.slow
@pytest.mark.usefixtures("browser")
def test_all_of_them_can_be_drawn(metrics: pd.DataFrame, tmp_path: Path) -> None:
    drawn = every_figure(metrics)
    assert len(write_images(drawn, tmp_path, ("png",))) == len(drawn)
