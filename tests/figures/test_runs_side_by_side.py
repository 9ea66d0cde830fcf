"""Of several runs none hides another: those of one variant stand side by side, and two in one place are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from figures.axes import log_axis, log_ticks
from figures.comparison import comparison_dots
from figures.models.ablation import ablation_bars
from figures.models.circuit_over_checkpoints import circuit_curves
from figures.models.edges import edge_drawing
from figures.models.gradients import gradient_pairs, gradient_shares, split_bars
from figures.models.head_score_maps import head_score_maps
from figures.models.head_scores import head_scores
from figures.models.heads import composition_panels, head_score_panels
from figures.models.logits import logit_attribution_bars, logit_lens_curves
from figures.models.patching import patch_heat_map
from figures.models.paths import path_heat_maps, share_bars
from figures.models.route_map import route_heat_maps
from figures.models.route_maps import route_maps
from figures.models.several_runs import by_run
from figures.theme import dash
from figures.trainings.verdicts import finding
from figures.words import gates, in_order
from tests.figures.test_model_figures import compared, edges_of, gradients_of, patched, title
from tests.figures.test_views import mapped

PATHS = pd.DataFrame(
    [
        {"sender": f"L{layer}H0.v", "receiver": f"L{layer + 1}H0.v", "effect": effect}
        for layer, effect in ((1, 0.1), (2, 0.2), (10, 0.3))
    ]
).assign(into="v", route="stream", metric="logit_difference", direction="denoise", n=8)
SCORES = pd.DataFrame({"layer": [0, 1], "head": [0, 0], "value": [0.2, 0.7]}).assign(score="ila", stderr=0.1, n=8)
ABLATED = pd.DataFrame({"part": ["z", "head"], "accuracy_ablated": [0.5, 0.3]}).assign(
    layer=0, head=0, method="zero", accuracy=0.9, loss=0.1, loss_ablated=0.7, n=64
)
COMPOSED = pd.DataFrame({"from_head": [0, 1], "score": [0.1, 0.2]}).assign(
    from_layer=0, to_layer=1, to_head=0, kind="Q", norm=1.0
)
PARTS = pd.DataFrame({"route": ["residual", "own"], "value": [1.0, 0.5]}).assign(
    component="head", layer=0, head=0, source="-", of="logit_difference", n=8
)
LENS = pd.DataFrame({"layer": [0, 1], "value": [0.1, 0.9]}).assign(route="residual", low=0, high=1, n=8, metric="loss")
SHARES = pd.DataFrame({"share": ["total", "own"], "effect": [0.5, 0.5]}).assign(
    layer=0, head=0, carrier="v", low=0, high=1, n=8, metric="logit_difference", direction="denoise"
)
SPLIT = gradients_of({"value": 0.4}).query("step == 0").assign(direct=1.0)
CROSSED = SPLIT.assign(reader=1, source=0, read="v", fed="v", share=0.4)


def of_runs(frame: pd.DataFrame, *names: str) -> pd.DataFrame:
    """One frame a run of value, the second with other numbers."""
    runs = [frame.assign(variant="value", run=f"icl-value-{name}", seed=i) for i, name in enumerate(names)]
    return pd.concat(runs, ignore_index=True)


def test_runs_of_one_variant_are_called_by_their_seeds_and_others_as_they_are() -> None:
    frame = of_runs(SCORES, "aaaaaa", "bbbbbb")
    assert list(by_run(frame).variant.unique()) == ["value, seed 0", "value, seed 1"]
    assert list(by_run(frame.assign(seed=3)).variant.unique()) == ["value, aaaaaa", "value, bbbbbb"]
    assert list(by_run(frame.drop(columns="seed")).variant.unique()) == ["value, aaaaaa", "value, bbbbbb"]
    one_each = frame.assign(variant=["classic", "classic", "value", "value"])
    assert by_run(one_each) is one_each
    assert by_run(SCORES) is SCORES
    assert [dash(name) for name in ("value-stop, seed 0", "value-stop", "value, seed 0")] == ["dash", "dash", "solid"]
    assert "-stop: its gradient cut" in gates(["value-stop, seed 0"])


def test_two_runs_of_a_variant_have_a_panel_each() -> None:
    frame = of_runs(patched(0.2), "aaaaaa", "bbbbbb")
    second = frame.assign(effect=frame.effect.where(frame.seed == 0, 0.5 * frame.effect))
    figure: Any = patch_heat_map(second)
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [note.text for note in figure.layout.annotations][:2] == ["value, seed 0", "value, seed 1"]
    assert np.nanmax(np.array(heat[0].z, float)) == 1.0
    assert np.nanmax(np.array(heat[1].z, float)) == 0.5
    drawn: Any = edge_drawing(of_runs(edges_of(2.0), "aaaaaa", "bbbbbb"))
    assert sum(trace.name == "L0H0.v > L1H0.v (stream)" for trace in drawn.data) == 2
    assert {trace.xaxis for trace in drawn.data if trace.mode == "markers+text"} == {"x", "x2"}


def test_two_runs_of_a_variant_have_a_line_each() -> None:
    frame = of_runs(gradients_of({"value": 0.4}), "aaaaaa", "bbbbbb")
    shares: Any = gradient_shares(frame)
    curves = [trace for trace in shares.data if trace.showlegend]
    assert [trace.name for trace in curves] == ["value, seed 0", "value, seed 1"]
    assert [list(trace.x) for trace in curves] == [[0, 100], [0, 100]], "and no line goes back"
    over = of_runs(pd.concat([SCORES.assign(step=step) for step in (0, 50)]), "aaaaaa", "bbbbbb")
    scored: Any = head_scores(over)
    assert [list(trace.x) for trace in scored.data] == [[0, 50]] * 4
    assert scored.layout.meta["of"] == "2 runs"
    dots: Any = ablation_bars(of_runs(ABLATED, "aaaaaa", "bbbbbb"))
    assert [trace.name for trace in dots.data if trace.name] == ["value, seed 0", "value, seed 1"]


@pytest.mark.parametrize(
    ("draw", "frame", "what"),
    [
        (patch_heat_map, patched(0.2), "8 effects"),
        (edge_drawing, edges_of(2.0), "4 edges"),
        (gradient_shares, gradients_of({"value": 0.4}), "2 gradients"),
        (split_bars, SPLIT, "1 gradient"),
        (gradient_pairs, CROSSED, "1 share"),
        (ablation_bars, ABLATED, "1 whole model"),
        (path_heat_maps, PATHS, "3 paths"),
        (share_bars, SHARES, "2 shares"),
        (head_score_panels, SCORES, "2 scores"),
        (composition_panels, COMPOSED, "2 scores"),
        (logit_attribution_bars, PARTS, "2 parts"),
        (logit_lens_curves, LENS, "2 numbers"),
    ],
)
def test_what_would_hide_another_is_refused(draw: Callable[..., Any], frame: pd.DataFrame, what: str) -> None:
    assert draw(frame)
    after = frame.assign(phase="after", accuracy=0.7)
    with pytest.raises(ValueError, match=f"{what} in the place of another.*more than one phase; choose one"):
        draw(pd.concat([frame.assign(phase="before"), after], ignore_index=True))


def two_runs(frame: pd.DataFrame, **second: Any) -> pd.DataFrame:
    """A frame of two variants, a run each, of which the second was asked otherwise."""
    first = frame.assign(variant="value", run="a", seed=0)
    return pd.concat([first, frame.assign(variant="classic", run="b", seed=0).assign(**second)], ignore_index=True)


CIRCUIT = pd.DataFrame({"step": [0, 100], "faithfulness": [0.2, 0.9], "low": [0.1, 0.8], "high": [0.3, 1.0]}).assign(
    overlap=0.5, gap=3.0, metric="logit_difference", n=8
)
MADE = patched(0.2).query("component == 'state'")


@pytest.mark.parametrize(
    ("draw", "frame", "column", "other"),
    [
        (patch_heat_map, patched(0.2), "metric", "loss"),
        (patch_heat_map, patched(0.2), "direction", "noise"),
        (patch_heat_map, patched(0.2, method="AtP"), "method", "AtP*"),
        (route_maps, MADE, "metric", "probability"),
        (route_maps, MADE, "direction", "noise"),
        (edge_drawing, edges_of(2.0).assign(method="EAP"), "method", "exact"),
        (edge_drawing, edges_of(2.0), "metric", "loss"),
        (edge_drawing, edges_of(2.0).assign(replacement="mean"), "replacement", "zero"),
        (circuit_curves, CIRCUIT, "metric", "loss"),
    ],
)
def test_a_caption_of_all_is_true_of_each_or_what_differs_is_refused(
    draw: Callable[..., Any], frame: pd.DataFrame, column: str, other: str
) -> None:
    first = frame[column].iloc[0]
    assert draw(two_runs(frame))
    with pytest.raises(
        ValueError, match=re.escape(f"more than one {column} ({first} and {other}); choose one of them")
    ):
        draw(two_runs(frame, **{column: other}))


@pytest.mark.parametrize(
    ("draw", "frame", "column", "other"),
    [
        (path_heat_maps, PATHS, "metric", "loss"),
        (share_bars, SHARES, "direction", "noise"),
        (logit_attribution_bars, PARTS, "of", "logit"),
        (logit_lens_curves, LENS, "metric", "loss of another"),
        (comparison_dots, compared(0.01, 0.3), "contrast", "difference"),
        (comparison_dots, compared(0.01, 0.3, horizon=500.0), "horizon", 900.0),
        (route_heat_maps, mapped(2), "corrupt", -1.0),
    ],
)
def test_rows_of_one_figure_are_asked_alike(
    draw: Callable[..., Any], frame: pd.DataFrame, column: str, other: Any
) -> None:
    frame = frame.reset_index(drop=True)
    assert draw(frame)
    with pytest.raises(ValueError, match=f"more than one {column} "):
        draw(frame.assign(**{column: frame[column].where(frame.index < len(frame) - 1, other)}))


@pytest.mark.parametrize(
    ("draw", "frame", "what"),
    [
        (patch_heat_map, patched(0.2), "pair"),
        (route_maps, MADE, "pair"),
        (edge_drawing, edges_of(2.0), "pair"),
        (edge_drawing, edges_of(2.0).assign(metric=0.5), "pair"),
        (circuit_curves, CIRCUIT, "pair"),
        (ablation_bars, ABLATED, "sequence"),
        (head_score_maps, SCORES, "prompt"),
    ],
)
def test_a_subtitle_says_over_how_many_each_is(draw: Callable[..., Any], frame: pd.DataFrame, what: str) -> None:
    for first, second, said in ((5, 5, f"5 {what}s"), (1, 1, f"1 {what}"), (5, 1_200, f"5 to 1,200 {what}s")):
        figure = draw(two_runs(frame.assign(n=first), n=second))
        assert re.search(rf"(^|, ){said}( each)?(,|$)", figure.layout.meta["of"])
        hovers = " ".join(f"{trace.hovertemplate} {trace.hovertext}" for trace in figure.data)
        assert f"5 to 1,200 {what}s" not in hovers, "a panel is of one run"


def test_gradients_are_said_to_be_of_examples_and_of_no_set_that_the_frame_does_not_name() -> None:
    for draw, frame in ((gradient_shares, gradients_of({"value": 0.4})), (gradient_pairs, CROSSED)):
        meta = draw(frame).layout.meta
        assert not any("held" in meta[text] for text in ("title", "of", "caption"))
    assert "at all steps on the same examples" in gradient_shares(gradients_of({"value": 0.4})).layout.meta["caption"]
    assert gradient_pairs(CROSSED).layout.meta["of"].endswith("one batch")


def test_heads_stand_in_the_order_of_their_numbers() -> None:
    assert in_order(["L10H0", "L2H11", "L2H3", "input"]) == ["L2H3", "L2H11", "L10H0", "input"]
    assert in_order(["x²", "x10", "x9"]) == ["x9", "x10", "x²"]
    heat: Any = path_heat_maps(PATHS).data[0]
    assert list(heat.y) == ["L10H0", "L2H0", "L1H0"], "from below"
    assert list(heat.x) == ["L2H0", "L3H0", "L11H0"]
    assert [heat.z[i][2 - i] for i in range(3)] == [0.3, 0.2, 0.1]
    later = SCORES.assign(layer=[2, 10])
    scored: Any = head_score_panels(pd.concat([later, SCORES.assign(score="tila")], ignore_index=True))
    assert list(scored.data[0].y) == ["0", "1", "2", "10"]


def test_a_head_without_a_partner_is_drawn_beside_those_that_have_one() -> None:
    both = pd.concat([SCORES, SCORES.assign(score="composition", partner="L0H1")], ignore_index=True)
    figure: Any = head_score_panels(both)
    assert [trace.type for trace in figure.data].count("heatmap") == 1
    assert title(figure).startswith("L1H0 has 0.70")


def test_a_title_leaves_names_as_they_are() -> None:
    named = compared(0.01).assign(reference="ResFormer")
    assert title(comparison_dots(named)).startswith("Times ResFormer's: v0")
    variants = ["SVFormer", "modded-nanoGPT", "ResFormer-learned", "xFormer"]
    rows = pd.DataFrame({"condition": ["2 layers", "3 layers", "4 layers", "6 layers"] * 4}).assign(
        variant=np.repeat(variants, 4), reference="ResFormer", margin=1.05, pairs=5
    )
    table = rows.assign(ratio=0.8, low=0.7, high=0.9, p_adjusted=0.01, p_equivalent=1.0)
    each = ", ".join(f"{name} in 4" for name in variants[:-1])
    assert finding(table) == f"Sooner than ResFormer: {each} and xFormer in 4 of 4 conditions"


@pytest.mark.parametrize(
    "ends", [(0.07, 0.9), (0.95, 1.05), (0.18, 1.0), (3.4, 3.6), (1e-5, 2e-5), (7.0, 7.0), (120.0, 4000.0)]
)
def test_a_logarithmic_axis_has_at_least_five_ticks(ends: tuple[float, float]) -> None:
    axis = log_axis(pd.Series(ends))
    low, high = (10**end for end in axis["range"])
    assert len(axis["tickvals"]) >= 5
    assert all(low <= tick <= high for tick in axis["tickvals"])
    assert log_axis(pd.Series([*ends, 0.0, np.inf])) == axis, "what is not above 0, or not finite, is not on it"
    assert log_ticks(2.0, 2.0)["tickvals"] == []
