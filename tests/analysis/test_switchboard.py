"""The switchboard's numbers are those of the questions that they come from, and its document is what the page reads."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from analysis import WeakPairWarning, attribute_edges, find_circuit, head_shares, judge, patch
from analysis.edges.graph import Graph
from analysis.edges.switched import EdgeSwitch
from analysis.switchboard.document import FORMAT, assembled, chosen_edges, of_edges
from analysis.switchboard.measured import measured, nodes_of, plain
from analysis.switchboard.neuronpedia import neuronpedia_graph
from analysis.switchboard.prompts import STEPS, on_prompt, prompt_of, prompts_of, read_pattern
from circuits.sites import Site
from figures.explore.page import switchboard_page
from tests.helpers import build, made, random_pair

ABOUT = {"title": "<b>a & 'run'</b>", "facts": [("variant", "</script><i>")]}


def board_of(model: Any, steps: tuple[int, ...] = (0, 10), prompts: int = 2) -> Any:
    pair = random_pair(model)
    edges = chosen_edges(model, pair, "logit_difference")
    by_step = {
        step: measured(model, pair, "logit_difference", edges, prompts, gates=step == steps[-1]) for step in steps
    }
    other = {step: measured(model, pair, "logit_difference", edges, 0, gradients=False) for step in steps}
    runs = [("first", 0, by_step), ("second", 1, other)]
    return assembled(ABOUT, model, edges, runs, "logit_difference", prompts_of(pair, prompts))


@pytest.mark.parametrize("variant", ["value", "cumulative", "key", "nanochat", "classic", "llama, query"])
def test_numbers_are_those_of_the_questions(variant: str) -> None:
    make, _, of_make = variant.partition(", ")
    model = made(make, of_make, 2) if of_make else build(variant, "tokens", 2)
    pair, graph = random_pair(model), Graph(model)
    found = measured(model, pair, "logit_difference", range(len(graph)), 1, gates=True)
    exact = attribute_edges(model, pair, method="exact", direction="noise")
    assert found["edge"]["effect"] == pytest.approx(exact.effects.tolist(), abs=1e-9)
    for node, effect, low in zip(nodes_of(graph), found["node"]["effect"], found["node"]["low"], strict=True):
        assert (effect is None) == (node.kind not in ("head", "mlp"))
        if node.kind == "head":
            row = (
                patch(model, pair, [Site(node.where[0], "z", head=node.where[1])], direction="noise").to_frame().iloc[0]
            )
            assert (effect, low) == pytest.approx((row.effect, plain(row.low)), abs=1e-9)
    switch = EdgeSwitch(model, pair)
    for i in range(0, len(graph), 9):
        left = switch.changed({graph.edges[i].name: "cut"})
        assert (found["edge"]["metric"][i], found["edge"]["cosine"][i]) == pytest.approx(
            (left.metric, left.gradient_cosine), abs=1e-9
        )
    streams = [i for i, edge in enumerate(graph.edges) if edge.route == "stream"]
    assert [i for i, x in enumerate(found["gates"]["stop"]["metric"]) if x is not None] == streams
    for i in streams[:2]:
        assert found["gates"]["stop"]["metric"][i] == pytest.approx(found["clean"], abs=1e-9), "its value stays"
        assert found["gates"]["gradient-only"]["metric"][i] == pytest.approx(found["edge"]["metric"][i], abs=1e-9)
    if variant == "classic":
        assert found["shares"] == []
        return
    frame = head_shares(model, pair, direction="noise").to_frame().set_index(["layer", "head", "carrier", "share"])
    for one in found["shares"]:
        where = (one["layer"], str(one["head"]), one["carrier"])
        for share in ("own", "stream", "interaction", "total"):
            assert one[share][0] == pytest.approx(frame.effect[(*where, share)], abs=1e-9)


def test_what_is_not_told_apart_is_not_measured() -> None:
    model = build("value", "tokens", 2)
    with torch.no_grad():
        model.unembed.W_U.zero_()  # type: ignore[union-attr] # a parameter
    pair = random_pair(model)
    found = measured(model, pair, "logit_difference", range(4), 1, gates=True)
    assert found["clean"] == found["corrupt"] == 0
    assert set(found["edge"]["effect"]) == set(found["node"]["low"]) == {None}
    assert "gates" not in found
    json.dumps(found, allow_nan=False)
    told = measured(build("value", "tokens", 2), pair, "logit_difference", range(4), 0, gradients=False)
    both = {0: told | {"pattern": [], "values": []}, 1: found}
    mixed = assembled(ABOUT, model, range(4), [("r", 0, both)], "logit_difference", []).document["runs"][0]["edge"]
    assert mixed["cosine"] == [[None] * 4] * 2, "a step without it has none"
    assert None not in mixed["effect"][0]
    board = assembled(ABOUT, model, range(4), [("r", 0, {0: found})], "logit_difference", prompts_of(pair, 1))
    assert "does not tell clean from corrupt" in board.finding()
    table = switchboard_page(board.document).partition("<noscript>")[2].partition("</noscript>")[0]
    assert table.count("<tr>") == 2 + 4, "two headings and the edges: no node was measured"
    assert not re.search(r"<td[^>]*>-?\d", table), "and no number"


def found_of(clean: float, corrupt: float, warnings: list[str], n: int = 7) -> dict[str, Any]:
    model = build("value", "tokens", 2)
    told = measured(model, random_pair(model), "logit_difference", range(4), 0, gradients=False)
    return told | {"clean": clean, "corrupt": corrupt, "n": n, "warnings": warnings}


def test_a_lead_says_what_is_to_be_known_of_the_pairs_of_the_last_step() -> None:
    weak = found_of(-0.0149, -0.0112, ["clean and corrupt loss are not told apart", "a second"], n=5)
    model = build("value", "tokens", 2)

    def board(*by_step: dict[str, Any]) -> Any:
        return assembled(ABOUT, model, range(4), [("r", 0, dict(enumerate(by_step)))], "loss", [])

    said = board(found_of(2.0, -0.5, []), weak)
    assert said.finding().endswith(
        "(clean -0.015, corrupt -0.011). Clean and corrupt loss are not told apart. A second."
    )
    assert said.warnings() == {"r": ["clean and corrupt loss are not told apart", "a second"]}
    assert said.to_frame().groupby("step").n.unique().map(list).to_dict() == {0: [7], 1: [5]}
    strong = board(weak, found_of(2.0, -0.001, []))
    assert strong.finding().endswith("of loss (clean 2.00, corrupt 0.00).")
    assert strong.warnings() == {"r": []}
    assert "5 pairs" in str(said.figure().data)


def test_a_measure_keeps_what_the_pairs_are_warned_of() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model, 12)
    with pytest.warns(WeakPairWarning) as told:
        patch(model, pair, [Site(0, "z")])
    found = measured(model, pair, "logit_difference", range(2), 0, gradients=False)
    assert found["warnings"] == [str(warning.message) for warning in told.list]
    logits = model(pair.clean)[:, -1]
    answered = replace(pair, answers=logits.argmax(-1), wrong=logits.argmin(-1))
    assert measured(model, answered, "logit_difference", range(2), 0, gradients=False)["warnings"] == []


@pytest.mark.parametrize("make", ["llama", "classic", "gpt2"])
def test_patterns_and_values_are_the_caches(make: str) -> None:
    model = made(make, "value") if make == "llama" else build("value" if make == "gpt2" else "classic", "tokens", 3)
    inputs = random_pair(model).clean[:1]
    written, values = on_prompt(model, inputs)
    _, cache = model.run_with_cache(inputs)
    config = model.config
    found = read_pattern(written, config.n_layers, config.n_heads, inputs.shape[1])
    for layer in range(config.n_layers):
        expected = cache["pattern", layer][0].double().numpy()
        assert np.abs(found[layer] - expected).max() <= 0.5 / STEPS + 1e-9
        v = model.layers[layer].attn.per_query_head(cache["v", layer], 2)[0].double().norm(dim=-1).T
        assert np.array(values["own"][layer]) == pytest.approx(v.numpy(), abs=1e-9)
        incoming = f"blocks.{layer}.attn.hook_v_residual" in model.hook_dict
        assert (values["incoming"][layer] is not None) == incoming
        assert len(values["mixed"][layer]) == config.n_heads
    assert (values["incoming"][1] is None) == (make == "classic")


def test_the_document_is_what_the_page_reads_and_hostile_names_are_text() -> None:
    board = board_of(build("value", "tokens", 2))
    document = json.loads(json.dumps(board.document, allow_nan=False))
    assert document["format"] == FORMAT
    page = switchboard_page(document)
    assert "<b>a &" not in page
    assert "</script><i>" not in page.split("<script type=", 1)[1].split("</script>")[0]
    frame = board.to_frame()
    assert len(frame) == 2 * 2 * len(document["edges"]), "of every run, step and edge a row"
    assert set(board.largest(3).columns) >= {"edge", "effect", "low", "high", "metric", "cosine"}
    assert frame[frame.run == "second"].cosine.isna().all(), "of other seeds effects alone"
    top = board.last().loc[board.last().effect.abs().idxmax()]
    assert top.edge in board.finding()
    assert board.figure() is not None
    assert "<b>a" not in board._repr_html_()


def test_a_large_graph_keeps_its_strongest_edges_and_says_how_many_are_left_out() -> None:
    model = build("value", "tokens", 3)
    pair = random_pair(model)
    kept = chosen_edges(model, pair, "logit_difference", most=10)
    scores = attribute_edges(model, pair, method="EAP-IG", direction="noise", check=0).effects.abs()
    assert set(kept) == set(scores.argsort(descending=True, stable=True)[:10].tolist())
    by_step = {0: measured(model, pair, "logit_difference", kept, 0)}
    document = assembled(ABOUT, model, kept, [("r", 0, by_step)], "logit_difference", []).document
    assert document["edges_left_out"] == len(Graph(model)) - 10
    assert len(document["edges"]) == 10 == len(document["runs"][0]["edge"]["effect"][0])


def test_results_have_a_switchboard_of_one_step() -> None:
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    scores = attribute_edges(model, pair, direction="noise")
    board = of_edges(scores)
    by_name = dict(
        zip([e["name"] for e in board.document["edges"]], board.document["runs"][0]["edge"]["effect"][0], strict=True)
    )
    assert by_name == pytest.approx({e.name: float(x) for e, x in zip(scores.graph.edges, scores.effects, strict=True)})
    quality = judge(model, pair, find_circuit(scores, "greedy", 12))
    circuit = of_edges(quality)
    assert circuit.document["edges_left_out"] == len(scores.graph) - len(quality.circuit)
    for shown in (board, circuit):
        table = switchboard_page(shown.document).partition("<noscript>")[2].partition("</noscript>")[0]
        assert all(html.escape(edge["name"]) in table for edge in shown.document["edges"])


def test_a_result_is_shown_with_what_its_pairs_are_warned_of() -> None:
    """The model prefers the one answer or the other, so that of a pair and its opposite one is weak."""
    model = build("value", "tokens", 2)
    pair = random_pair(model)
    results = [attribute_edges(model, p) for p in (pair, replace(pair, answers=pair.wrong, wrong=pair.answers))]
    weak, strong = sorted(results, key=lambda result: not result.notes())
    assert of_edges(strong).finding() == strong.finding()
    assert of_edges(strong).warnings() == {"EdgeScores of 'value'": []}
    [warned] = of_edges(weak).warnings().values()
    assert "the model does not do what it is asked" in warned[-1]
    assert of_edges(weak).finding().lower() == ". ".join([weak.finding(), *warned]).lower() + "."
    assert set(of_edges(weak).to_frame().n) == {6}


STRING, NUMBER = {"type": "string"}, {"type": ["number", "null"]}
SCHEMA = {
    "type": "object",
    "required": ["metadata", "qParams", "nodes", "links"],
    "properties": {
        "metadata": {
            "required": ["slug", "scan", "prompt_tokens", "prompt"],
            "properties": {
                "slug": STRING,
                "scan": STRING,
                "prompt": STRING,
                "prompt_tokens": {"type": "array", "items": STRING},
            },
        },
        "qParams": {"type": "object", "properties": {"linkType": STRING}},
        "nodes": {
            "type": "array",
            "items": {
                "required": ["node_id", "feature", "layer", "ctx_idx", "feature_type", "jsNodeId", "clerp"],
                "properties": {
                    **dict.fromkeys(("node_id", "jsNodeId", "feature_type", "clerp"), STRING),
                    "feature": {"type": ["integer", "null"]},
                    "layer": {"type": ["string", "integer"]},
                    "ctx_idx": {"type": "integer"},
                    "influence": NUMBER,
                },
            },
        },
        "links": {
            "type": "array",
            "items": {
                "required": ["source", "target", "weight"],
                "properties": {"source": STRING, "target": STRING, "weight": {"type": "number"}},
            },
        },
    },
}
"""What neuronpedia's graph-schema.json (1.0.0) asks for, in its keywords."""


def test_a_graph_for_neuronpedia_fits_its_schema() -> None:
    board = board_of(build("nanochat", "tokens", 2))
    graph = neuronpedia_graph(board)
    jsonschema.validate(graph, SCHEMA)
    ids = [node["node_id"] for node in graph["nodes"]]
    assert len(set(ids)) == len(ids)
    assert {end for link in graph["links"] for end in (link["source"], link["target"])} <= set(ids)
    named = {node["node_id"]: node["clerp"] for node in graph["nodes"]}
    weights = {(named[link["source"]], named[link["target"]]): link["weight"] for link in graph["links"]}
    for row in board.last().itertuples():
        assert weights[row.source, row.target] == pytest.approx(row.effect)
    first = {node["clerp"]: node["layer"] for node in graph["nodes"]}
    assert (first["input"], first["logits"], first["L1H0"]) == ("E", "2", "1")
    broken = graph | {"nodes": [{k: v for k, v in graph["nodes"][0].items() if k != "clerp"}]}
    with pytest.raises(jsonschema.ValidationError, match="'clerp' is a required property"):
        jsonschema.validate(broken, SCHEMA)
    with pytest.raises(ValueError, match=r"no step 7; it has \[0, 10\]"):
        neuronpedia_graph(board, step=7)
    with pytest.raises(ValueError, match="prompt = 5: the document has 2"):
        neuronpedia_graph(board, prompt=5)


def test_what_cannot_be_shown_is_said() -> None:
    with pytest.raises(ValueError, match="this model takes vectors, and a prompt is a text"):
        prompt_of(build("value"), "a")
    model = build("value", "tokens", 2)
    with pytest.raises(ValueError, match="r has no checkpoint to show"):
        assembled(ABOUT, model, [0], [("r", 0, {})], "logit_difference", [])
