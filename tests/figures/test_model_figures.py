"""Figures of a model say what their frames say, and the opposite where these say the opposite."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import figures.explore
from circuits import icl_config
from circuits.common.palette import GREY, ROUTES
from figures.axes import log_axis
from figures.comparison import comparison_dots
from figures.findings import plain, whom
from figures.models.attention_view import attention_maps
from figures.models.circuit_over_checkpoints import circuit_curves
from figures.models.edge_layout import Layout
from figures.models.edges import edge_drawing
from figures.models.gradients import gradient_pairs, gradient_shares, split_bars
from figures.models.heads import head_score_panels
from figures.models.learned_gains import shares_against_gains
from figures.models.logits import logit_attribution_bars, logit_lens_curves
from figures.models.pairs import pair_grid
from figures.models.patching import patch_heat_map
from figures.models.route_map import route_heat_maps
from figures.words import MOST
from tests.figures.test_views import mapped, viewed

ENDS = {"low": 0.4, "high": 0.6}
ASKED = {"metric": "logit_difference", "direction": "denoise", "n": 16}


def title(figure: Any) -> str:
    return figure.layout.meta["title"]


def patched(alone: float, both: float = 1.0, **more: Any) -> pd.DataFrame:
    """Both routes and the residual stream alone, at two positions before two layers."""
    rows = [
        {"component": component, "route": "-", "layer": layer, "position": position, "head": "all", "effect": 0.0}
        for component, layer, position in itertools.product(("state", "resid_pre"), (0, 1), ("END", "S2"))
    ]
    frame = pd.DataFrame(rows).assign(low=-0.1, high=0.1, p=0.01, **ASKED, **more)
    at = (frame.layer == 1) & (frame.position == "S2")
    for component, effect in (("state", both), ("resid_pre", alone)):
        frame.loc[at & (frame.component == component), ["effect", "low", "high"]] = [effect, effect - 0.1, effect + 0.1]
    return frame


def test_patches_say_where_the_routes_part_and_else_that_they_do_not() -> None:
    apart = "S2 before layer 1 carries 1.00 [0.90, 1.10] by both routes, 0.20 [0.10, 0.30] by the residual stream alone"
    assert title(patch_heat_map(patched(0.2))) == apart
    same = "Before layer 1 the residual stream carries all that differs; most at S2: 0.98 [0.88, 1.08]"
    assert title(patch_heat_map(patched(0.98))) == same
    two = pd.concat([patched(1.0, variant="classic"), patched(0.2, variant="value")])
    assert title(patch_heat_map(two)).startswith("S2 before layer 1 of value carries 1.00")
    only = patched(0.2)
    values = only[only.component == "resid_pre"].assign(component="v", route="own")
    assert title(patch_heat_map(values)) == "The largest effect is that of v own at S2 in layer 1: 0.20 [0.10, 0.30]"
    estimated: Any = patch_heat_map(patched(0.2, method="AtP"))
    assert "estimated (AtP)" in estimated.layout.meta["of"]


@pytest.mark.parametrize(
    ("carried", "said"),
    [
        (0.96, "Before layer 1 the residual stream carries all that differs; most at S2: 0.96 [0.86, 1.06]"),
        (1.3, "Where patched, the residual stream carries what both routes do; most at S2, before layer 1: 1.30 ["),
        (0.4, "Where patched, the residual stream carries what both routes do; most at S2, before layer 1: 0.40 ["),
        (
            0.03,
            "Where patched, neither route carries 0.05 of the difference; most at S2, before layer 1: 0.03 [",
        ),
        (-0.04, "Where patched, neither route carries 0.05 of the difference; most at S2, before layer 1: -0.04"),
    ],
)
def test_all_that_differs_is_said_of_positions_that_carry_all_of_it(carried: float, said: str) -> None:
    assert title(patch_heat_map(patched(carried, carried))).startswith(said)
    assert len(title(patch_heat_map(patched(carried, carried)))) <= MOST
    frame = mapped().assign(effect=0.0, low=np.nan, high=np.nan)
    at = (frame.layer == 1) & (frame.position == "2") & frame.route.isin(["residual", "both"])
    of_map = title(route_heat_maps(frame.assign(effect=frame.effect.mask(at, carried))))
    assert of_map == said.split(" [")[0].replace("S2", "2: to")


def test_all_that_differs_is_said_of_the_model_that_it_is_true_of() -> None:
    two = pd.concat([patched(0.2, 0.2, variant="classic"), patched(0.99, variant="value")])
    assert title(patch_heat_map(two)).startswith("Before layer 1 of value the residual stream carries all that differs")


def test_a_site_that_is_not_there_has_a_cross_and_no_colour() -> None:
    frame = patched(0.2)
    lacking: Any = patch_heat_map(frame[~((frame.layer == 1) & (frame.position == "END") & (frame.route == "-"))])
    heat, crosses = lacking.data
    assert np.isnan(np.array(heat.z, dtype=float)).sum() == len(crosses.x) == 2
    assert crosses.marker.symbol == "x-thin"
    assert "no such site" in crosses.hovertemplate
    assert len(patch_heat_map(frame).data[1].x) == 0  # type: ignore[attr-defined] # a scatter


def edges_of(*streams: float, variant: str = "") -> pd.DataFrame:
    rows = [
        ("input", "L0H0.v", "residual", 0.8),
        ("L1H0", "logits", "residual", 1.0),
        ("input", "L1H0.v", "residual", -0.2),
        *(("L0H0.v", "L1H0.v", "stream", effect) for effect in streams),
    ]
    frame = pd.DataFrame(rows, columns=["source", "target", "route", "effect"]).assign(variant=variant, **ASKED)
    return frame.assign(edge=frame.source + " > " + frame.target + " (" + frame.route + ")", run=variant)


def test_edges_say_what_goes_through_the_stream() -> None:
    assert title(edge_drawing(edges_of(2.0))).startswith(
        "Edges through the stream have 50% of all effects; the largest is"
    )
    assert (
        title(edge_drawing(edges_of()))
        == "No edge goes through a stream; the largest is L1H0 > logits (residual): 1.00"
    )
    both = pd.concat([edges_of(variant="classic"), edges_of(2.0, variant="value")])
    assert title(edge_drawing(both)) == "Edges through the stream have of all effects 0% in classic and 50% in value"
    assert title(edge_drawing(edges_of(2.0), "A title", "Alike.")) == "A title"
    nothing = edges_of(2.0).assign(kept=False)
    assert title(edge_drawing(nothing)) == "No edge is in the circuit"


def test_an_edge_has_a_direction_its_routes_colour_and_a_label_that_can_be_read() -> None:
    figure: Any = edge_drawing(edges_of(2.0))
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    stream, against = lines["L0H0.v > L1H0.v (stream)"], lines["input > L1H0.v (residual)"]
    assert stream.marker.symbol[-1] == "arrow"
    assert stream.marker.angleref == "previous"
    assert against.marker.symbol[-1] == "line-ew", "a negative effect ends in a bar"
    assert stream.y[0] < stream.y[-1], "it points to the later layer"
    assert {trace.line.dash for trace in lines.values()} == {None}, "dashes mean gates"
    blue = tuple(int(ROUTES["stream"][i : i + 2], 16) for i in (1, 3, 5))
    assert stream.line.color.startswith("rgba({},{},{},".format(*blue))
    nodes = next(trace for trace in figure.data if trace.mode == "markers+text")
    labels = [note for note in figure.layout.annotations if note.bgcolor]
    assert {note.text for note in labels} == {"v +0.80", "+1.00", "v -0.20", "v +2.00"}
    for note, (x, y) in itertools.product(labels, zip(nodes.x, nodes.y, strict=True)):
        assert max(abs(note.x - x) / 40, abs(note.y - y) / 27) > 1, f"{note.text} lies under a node"
    for one, other in itertools.combinations(labels, 2):
        assert abs(one.x - other.x) > 30 or abs(one.y - other.y) > 15, "labels do not overlap"


@pytest.mark.parametrize(("heads", "layers"), [(1, 2), (4, 4), (8, 3)])
def test_edges_pass_the_nodes_between_and_stay_in_the_panel(heads: int, layers: int) -> None:
    names = [f"L{layer}H{head}" for layer in range(layers) for head in range(heads)]
    rows = [("input", f"{name}.v") for name in names] + [(name, "logits") for name in names]
    frame = pd.DataFrame(rows, columns=["source", "target"])
    layout = Layout.of(frame, 1050.0, 96.0 * (layers + 1.7))
    for (source, target), way in zip(rows, layout.ways([(s, t, "residual") for s, t in rows]), strict=True):
        ends = {source, target.split(".")[0]}
        others = np.array([place for name, place in layout.nodes.items() if name not in ends])
        near = np.linalg.norm(way.points[:, None] - others[None], axis=-1).min() if len(others) else np.inf
        assert near > layout.radius, f"{source} to {target} goes through a node"
        assert (way.points >= 0).all()
        assert (way.points <= layout.size).all()


def gradients_of(shares: dict[str, float]) -> pd.DataFrame:
    rows = [
        {"variant": variant, "run": variant, "step": step, "stream": share * (step + 1), "stream_share": share}
        for (variant, share), step in itertools.product(shares.items(), (0, 100))
    ]
    where = {"tensor": "blocks.0.attn.W_V", "layer": 0, "part": "W_V", "head": 0, "alignment": 0.3, "whole": 0.7}
    return pd.DataFrame(rows).assign(**where)


def test_gradients_say_what_came_through_the_stream_and_where_nothing_did() -> None:
    said = "Of the gradient of W_V of L0H0 40% comes through the stream at step 100, 40% at step 0"
    assert title(gradient_shares(gradients_of({"value": 0.4}))) == said
    both = title(gradient_shares(gradients_of({"value": 0.4, "classic": 0.0})))
    assert both == f"{said} in value; none in classic"
    none: Any = gradient_shares(gradients_of({"classic": 0.0}))
    assert title(none) == "The stream brings no gradient to any weight of attention"
    frame = gradients_of({"value": 0.4}).query("step == 100").assign(direct=1.0)
    assert (
        title(split_bars(frame))
        == "The stream brings gradient to 1 of 1 tensor; most to blocks.0.attn.W_V, head 0: 40%"
    )
    assert title(split_bars(frame.assign(stream=0.0))) == "The stream brings no gradient to any of 1 tensor"
    crossed = frame.assign(reader=1, source=0, read="v", fed="v", share=0.4)
    largest = "The largest share of a gradient that crosses the stream is 40%: at v0 → v1, of W_V of L0H0"
    assert title(gradient_pairs(crossed)) == largest
    still = title(gradient_pairs(crossed.assign(share=0.0)))
    assert still == "No gradient of attention's weights crosses the stream"


def compared(*p: float, **more: Any) -> pd.DataFrame:
    rows = [{"variant": f"v{i}", "estimate": 0.8, "p_adjusted": one} for i, one in enumerate(p)]
    about = {
        "reference": "classic",
        "contrast": "ratio",
        "confidence": 0.95,
        "interval": "t",
        "correction": "bonferroni",
    }
    return pd.DataFrame(rows).assign(low=0.7, high=0.9, pairs=6, smallest=1.2, **about).assign(**more)


def test_comparisons_tell_their_verdict_by_symbol_and_title() -> None:
    frame = compared(0.01, 0.3, 0.4, p_equivalent=[1.0, 0.01, 1.0])
    figure: Any = comparison_dots(frame)
    dots = [trace for trace in figure.data if not trace.showlegend and trace.showlegend is not None]
    assert [dot.marker.symbol for dot in dots] == ["circle", "diamond", "circle-open"]
    assert title(figure) == "Times classic's: v0 0.8 [0.7, 0.9]; v1 the same; v2 not told apart"
    assert title(comparison_dots(compared(0.5, 0.6))) == "v0 and v1 not told apart compared with classic"
    assert "6 pairs of seeds" in figure.layout.meta["of"]
    spread = comparison_dots(frame.assign(smallest=[1.1, 1.3, 1.2]))
    assert "With 80 % power so many seeds show 1.1 to 1.3" in spread.layout.meta["caption"]
    none: Any = comparison_dots(frame.assign(estimate=[0.8, float("nan"), 0.8], p_equivalent=1.0))
    assert title(none) == "Times classic's: v0 0.8 [0.7, 0.9]; v2 not told apart; v1 neither got there"
    [said] = [trace for trace in none.data if trace.mode == "text"]
    assert (said.x, said.y, said.text) == ((1,), ("v1",), (" neither got there",))
    assert "p = 0.01 (adjusted), 6 pairs of seeds: told apart" in dots[0].hovertext


def test_maps_of_routes_say_what_the_stream_carries() -> None:
    frame = mapped().assign(effect=0.0, low=-0.1, high=0.1)
    at = (frame.layer == 2) & (frame.position == "1")
    none = title(route_heat_maps(frame.assign(effect=frame.effect.mask(at & (frame.route == "residual"), 0.97))))
    assert none == "Before layer 2 the residual stream carries all that differs; most at 1: to: 0.97 [-0.10, 0.10]"
    some = title(route_heat_maps(frame.assign(effect=frame.effect.mask(at & (frame.route == "stream"), 0.7))))
    assert (
        some == "Before layer 2 the stream carries 0.70 [-0.10, 0.10] at 1: to, the residual stream 0.00 [-0.10, 0.10]"
    )


def test_attention_says_which_head_writes_most_of_the_stream() -> None:
    assert title(attention_maps(viewed())).endswith("60% is of the stream, the most of 6 heads")
    still = title(attention_maps(viewed().assign(head_incoming=0.0)))
    assert still.startswith("Nothing comes into these heads' values through a stream")


def test_panels_of_attention_stay_square_under_titles_of_any_length() -> None:
    figure: Any = attention_maps(viewed(n_heads=1))
    layout = figure.layout
    tall = layout.height - layout.margin.t - layout.margin.b
    wide = layout.width - layout.margin.l - layout.margin.r
    x, y = layout.xaxis.domain, layout.yaxis.domain
    assert (x[1] - x[0]) * wide == pytest.approx((y[1] - y[0]) * tall, rel=0.02)


def followed(faithfulness: Sequence[float]) -> pd.DataFrame:
    steps = [500 * i for i in range(len(faithfulness))]
    frame = pd.DataFrame({"step": steps, "faithfulness": faithfulness})
    return frame.assign(low=frame.faithfulness - 0.1, high=frame.faithfulness + 0.1, overlap=0.5, gap=3.0, **ASKED)


def test_circuits_over_checkpoints_say_from_where_to_where() -> None:
    said = "The final circuit keeps 0.20 [0.10, 0.30] of the difference at step 500, 1.00 [0.90, 1.10] at step 1,000"
    assert title(circuit_curves(followed([np.nan, 0.2, 1.0]))) == said
    assert "cannot be measured at any step" in title(circuit_curves(followed([np.nan, np.nan])))
    wide: Any = circuit_curves(followed([-0.5, 2.0]))
    low, high = wide.layout.yaxis.range
    assert low < -0.6 < 2.1 < high, "intervals are inside the frame"


def test_what_has_no_interval_says_so() -> None:
    """On hover plotly says 0 of a number that is missing, which would be an interval."""
    steps = followed([0.1, 0.2, -22.1, 0.9, 1.0])
    steps.loc[2, ["low", "high"]] = np.nan
    figure: Any = circuit_curves(steps)
    told = next(trace for trace in figure.data if trace.mode == "lines+markers")
    assert [str(one) for one in told.customdata[1:3]] == [" [0.100, 0.300]", ", no interval"]
    assert len([trace for trace in figure.data if trace.fill == "toself"]) == 2, "no band over that step"
    unbroken: Any = circuit_curves(followed([0.1, 0.2]))
    assert len([trace for trace in unbroken.data if trace.fill == "toself"]) == 1
    assert title(circuit_curves(steps[:3])).endswith("-22.10 at step 1,000")

    frame = patched(0.2)
    whole: Any = patch_heat_map(frame).data[0]
    assert "[%{customdata[0]:.3f}, %{customdata[1]:.3f}], p = %{customdata[2]:.3g}, " in whole.hovertemplate
    lacks: Any = patch_heat_map(frame.assign(low=np.nan, high=np.nan)).data[0]
    assert "effect %{z:.3f}%{customdata}, " in lacks.hovertemplate
    assert {words[:16] for row in lacks.customdata for words in row} <= {", no interval, p", ", no interval"}
    assert title(patch_heat_map(frame.assign(low=np.nan, high=np.nan))).count("[") == 0


def test_logits_say_what_the_stream_makes_and_where_the_lens_parts() -> None:
    parts = pd.DataFrame({"route": ["residual", "own", "stream"], "value": [1.0, 0.5, -0.25]})
    parts = parts.assign(component="head", layer=0, head=0, source="-", of="logit_difference", n=8)
    assert title(logit_attribution_bars(parts)).endswith("and what came by the stream -0.25")
    assert "stream" not in title(logit_attribution_bars(parts[parts.route != "stream"]))
    rows = itertools.product(("residual", "every route"), (0, 1, 2))
    lens = pd.DataFrame(rows, columns=["route", "layer"]).assign(value=1.0, low=0.9, high=1.1, n=8, metric="loss")
    same = title(logit_lens_curves(lens))
    assert same.startswith("The loss at the end, 1.00 [0.90, 1.10], is what the residual stream says")
    apart = lens.assign(value=lens["value"].mask((lens.route == "residual") & (lens.layer == 1), 0.2))
    said = title(logit_lens_curves(apart))
    assert said.startswith("Before layer 1 the loss is 1.00 [0.90, 1.10] by every route, 0.20 [0.90")


def test_pairs_say_how_much_differs() -> None:
    rows = [{"example": e, "position": p, "clean": "a", "corrupt": "b"} for e in range(2) for p in range(3)]
    frame = pd.DataFrame(rows).assign(padding=False, read=False, role="", differ=0.0)
    assert title(pair_grid(frame)) == "Clean and corrupt inputs do not differ"
    other = frame.assign(differ=(frame.position == 1).astype(float), role=["", "S2", ""] * 2)
    assert title(pair_grid(other)) == "Clean and corrupt inputs differ at 1 of 3 positions: S2"


def test_heads_say_the_highest_scores_in_words() -> None:
    rows = itertools.product(("ila", "tila"), (0, 1), (0, 1))
    frame = pd.DataFrame(rows, columns=["score", "layer", "head"]).assign(stderr=0.1, n=8)
    frame = frame.assign(value=np.arange(8) / 8)
    figure: Any = head_score_panels(frame)
    assert title(figure).startswith("L1H1 has 0.88 of 'target looks at")
    assert "ila" not in [note.text for note in figure.layout.annotations]


def test_learned_gains_have_a_panel_a_rule_and_colours_of_layers() -> None:
    rows = itertools.product(("a", "b"), (0, 1), range(3))
    table = pd.DataFrame(rows, columns=["variant", "layer", "head"]).assign(run="r", both_lost=0.5)
    table = table.assign(gain_share=0.5, size_share=0.3, causal_share=0.2)
    figure: Any = shares_against_gains(table)
    shares = "0.10 by that of size and 0.30 by that of gain"
    assert title(figure) == f"A head's causal share is told to within {shares}"
    assert [note.text for note in figure.layout.annotations][:2] == ["a", "b"]
    points = [trace for trace in figure.data if trace.mode == "markers"]
    assert len({trace.marker.color for trace in points}) == 2
    assert [trace.name for trace in points if trace.showlegend] == ["layer 0", "layer 1"]
    nearer = title(shares_against_gains(table.assign(gain_share=0.25)))
    assert nearer.endswith("0.05 by that of gain and 0.10 by that of size")


# --- all of them ------------------------------------------------------------------------------------------------------


def every_figure() -> dict[str, Any]:
    two = pd.concat([edges_of(variant="classic"), edges_of(2.0, variant="value")])
    return {
        "patches": patch_heat_map(patched(0.2)),
        "edges": edge_drawing(two),
        "gradients": gradient_shares(gradients_of({"value": 0.4, "classic": 0.0})),
        "comparison": comparison_dots(compared(0.01, 0.3)),
        "routes": route_heat_maps(mapped()),
        "attention": attention_maps(viewed()),
        "circuit": circuit_curves(followed([0.2, 1.0])),
    }


def test_all_of_them_say_of_whom_and_speak_under_the_pointer() -> None:
    for name, figure in every_figure().items():
        meta = figure.layout.meta
        assert meta["of"], name
        assert "<br>" not in meta["caption"], name
        assert meta["alt"] == f"{meta['title']}. {meta['of']}", name
        for trace in figure.data:
            in_legend = trace.x is not None and list(trace.x) == [None]
            assert trace.hovertemplate or trace.hovertext or trace.hoverinfo == "skip" or in_legend, (name, trace.name)


def test_a_route_has_one_colour_on_the_switchboard_too() -> None:
    script = (Path(figures.explore.__file__).parent / "switchboard.js").read_text()
    table = script.split("const ROUTES = {")[1].split("};")[0]
    assert dict(re.findall(r'(\w+): \{ colour: "(#\w+)"', table)) == ROUTES
    assert GREY not in ROUTES.values()


def test_a_drawing_of_a_model_has_arrows_and_says_what_joins_its_layers() -> None:
    figure: Any = icl_config("value", "small").figure()
    stream = next(trace for trace in figure.data if "attention stream" in (trace.name or ""))
    assert stream.line.color == ROUTES["stream"]
    assert stream.marker.symbol == "arrow"
    assert [size > 0 for size in stream.marker.size] == [False, False, True, False], "at the end of the line"
    assert "v0 into v1" in figure.layout.meta["alt"]
    still: Any = icl_config("classic", "small").figure()
    assert still.layout.meta["alt"].endswith("No stream: all goes through the residual stream")


def test_numbers_and_axes_have_no_stray_digits() -> None:
    assert [plain(x) for x in (-0.001, 0.0, -0.5)] == ["0.00", "0.00", "-0.50"]
    assert log_axis(pd.Series([0.07, 0.9]))["ticktext"] == ["0.07", "0.1", "0.15", "0.2", "0.3", "0.5", "0.7", "1"]
    assert log_axis(pd.Series([1.0, 1e6]))["ticktext"] == ["1", "10", "100", "1000", "10000", "100000", "1e+06"]
    assert log_axis(pd.Series([0.8, 1.2]))["ticktext"] == ["0.7", "0.8", "0.9", "1", "1.1", "1.2", "1.3"]
    assert whom(pd.DataFrame({"variant": ["a", "b"], "seed": [0, 0], "run": ["x", "y"]})) == "a and b, seed 0"
    assert whom(pd.DataFrame({"effect": [1.0]})) == ""
