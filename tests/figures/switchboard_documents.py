"""Made-up documents of a switchboard, of any size: numbers that look like a model's, of no model."""

from __future__ import annotations

import base64
import math
import random
import struct
from typing import Any

Json = dict[str, Any]
TEXT = "<begin> When Mary and John went to the park , John gave the ball to Sue while Tom ran off"


def document(
    layers: int = 2,
    heads: int = 2,
    *,
    mlp: bool = True,
    steps: int = 3,
    seeds: int = 2,
    prompts: int = 1,
    most: int | None = None,
) -> Json:
    """A document of a model of which every head sends its values to the same head of the next layer."""
    draw = random.Random(f"{layers} {heads} {mlp}")
    nodes = _nodes(layers, heads, mlp)
    edges = _edges(nodes)
    left_out = 0 if most is None else max(0, len(edges) - most)
    edges = edges if most is None else sorted(draw.sample(edges, min(most, len(edges))), key=edges.index)
    at = [round(2000 * i / max(1, steps - 1)) for i in range(steps)]
    return {
        "format": "valuestream switchboard 1",
        "title": "lm-value-small-s0",
        "lead": "What layer 0 writes about names reaches layer 1 half by the stream, half by the residual stream.",
        "facts": [["variant", "value"], ["task", "indirect objects"], ["examples", "64"], ["parameters", "212,480"]],
        "layers": layers,
        "heads": heads,
        "mlp": mlp,
        "metric": "logit_difference",
        "words": {
            "cut": "what comes along the edge is the corrupt run's",
            "stop": "its value stays, no gradient goes back along it",
            "gradient-only": "its value is the corrupt run's, its gradient stays",
        },
        "nodes": nodes,
        "edges": edges,
        "edges_left_out": left_out,
        "runs": [_run(draw, seed, nodes, edges, at) for seed in range(seeds)],
        "prompts": [_prompt(draw, layers, heads, at, 20 - i) for i in range(prompts)],
    }


def _node(name: str, kind: str, layer: int | None = None, head: int | None = None, carrier: str | None = None) -> Json:
    return {"name": name, "kind": kind, "layer": layer, "head": head, "carrier": carrier}


def _nodes(layers: int, heads: int, mlp: bool) -> list[Json]:
    found = [_node("input", "input")]
    for layer in range(layers):
        for head in range(heads):
            name = f"L{layer}H{head}"
            found += [_node(f"{name}.{c}", "projection", layer, head, c) for c in "qkv"]
            found.append(_node(name, "head", layer, head))
        found += [_node(f"MLP{layer}", "mlp", layer)] if mlp else []
    return [*found, _node("logits", "logits")]


def _edges(nodes: list[Json]) -> list[Json]:
    writers = [n for n in nodes if n["kind"] in ("input", "head", "mlp")]
    readers = [n for n in nodes if n["kind"] in ("projection", "mlp", "logits")]
    pairs = [(w, r, "residual") for r in readers for w in writers if _before(w, r)]
    values = [n for n in nodes if n["carrier"] == "v"]
    inner = {n["layer"] for n in values} - {max(n["layer"] for n in values)}
    carried = [n for n in values if n["layer"] in inner]
    pairs += [(n, n, "own") for n in carried]
    pairs += [
        (a, b, "stream") for a in carried for b in values if b["layer"] == a["layer"] + 1 and b["head"] == a["head"]
    ]
    return [
        {"name": f"{a['name']} > {b['name']} ({route})", "source": a["name"], "target": b["name"], "route": route}
        for a, b, route in pairs
    ]


def _before(writer: Json, reader: Json) -> bool:
    if writer["layer"] is None or reader["layer"] is None:
        return True
    return writer["layer"] < reader["layer"] or (
        reader["kind"] == "mlp" and writer["kind"] == "head" and writer["layer"] == reader["layer"]
    )


def _run(draw: random.Random, seed: int, nodes: list[Json], edges: list[Json], steps: list[int]) -> Json:
    grown = [1 / (1 + math.exp(-(step - 800) / 160)) for step in steps]
    clean, corrupt = [4.2 * g + draw.gauss(0, 0.05) for g in grown], [-3.1 * g + draw.gauss(0, 0.05) for g in grown]
    heads = [n["kind"] in ("head", "mlp") for n in nodes]
    node = _effects(draw, grown, [draw.expovariate(5) if measured else None for measured in heads])
    weak = 3 if len(edges) < 60 else 18
    routes = {"residual": 1.0, "stream": 3.0, "own": 2.0}
    sizes = [draw.choice((1, 1, 1, -1)) * routes[e["route"]] * draw.expovariate(weak) ** 1.4 for e in edges]
    edge = _effects(draw, grown, sizes)
    edge["metric"] = [[c - (c - d) * e for e in row] for c, d, row in zip(clean, corrupt, edge["effect"], strict=True)]
    edge["cosine"] = [[1 - abs(e) * draw.random() for e in row] for row in edge["effect"]]
    streams = [e["route"] == "stream" for e in edges]
    gate = {
        "stop": {
            "metric": [clean[-1] if s else None for s in streams],
            "cosine": [draw.random() if s else None for s in streams],
        },
        "gradient-only": {
            "metric": [m if s else None for s, m in zip(streams, edge["metric"][-1], strict=True)],
            "cosine": [draw.random() if s else None for s in streams],
        },
    }
    found = {"name": f"lm-value-small-s{seed}", "seed": seed, "steps": steps, "clean": clean, "corrupt": corrupt}
    shares = [_shares(draw, nodes, g) for g in grown]
    first = {"gates": gate, "shares": shares} if seed == 0 else {}
    return found | {"accuracy": [0.5 + 0.5 * g for g in grown], "node": node, "edge": edge} | first


def _effects(draw: random.Random, grown: list[float], sizes: list[float | None]) -> Json:
    effect = [[None if s is None else g * s + draw.gauss(0, 0.002) for s in sizes] for g in grown]
    return {"effect": effect, "low": _moved(effect, -0.02), "high": _moved(effect, 0.02)}


def _moved(rows: list[list[float | None]], by: float) -> list[list[float | None]]:
    return [[None if e is None else e + by for e in row] for row in rows]


def _shares(draw: random.Random, nodes: list[Json], grown: float) -> list[Json]:
    found = []
    for node in nodes:
        if node["carrier"] != "v" or node["layer"] == 0:
            continue
        own, stream, both = (grown * draw.random() * 0.5, grown * draw.random() * 0.5, draw.gauss(0, 0.03))
        parts = {"own": own, "stream": stream, "interaction": both, "total": own + stream + both}
        place = {key: node[key] for key in ("layer", "head", "carrier")}
        found.append(place | {name: [value, value - 0.03, value + 0.03] for name, value in parts.items()})
    return found


def _prompt(draw: random.Random, layers: int, heads: int, steps: list[int], n: int) -> Json:
    norms = [
        [[[abs(draw.gauss(2, 0.7)) for _ in range(n)] for _ in range(heads)] for _ in range(layers)] for _ in range(3)
    ]
    own, incoming, mixed = norms
    values = {"own": own, "incoming": [None, *incoming[1:]], "mixed": mixed}
    return {
        "tokens": TEXT.split()[:n],
        "read_at": min(14, n - 1),
        "answer": "Mary",
        "wrong": "John",
        "roles": {"IO": [2], "S1": [4], "S2": [10]} if n > 10 else {},
        "steps": steps,
        "pattern": [_pattern(draw, layers * heads, n) for _ in steps],
        "values": [values for _ in steps],
    }


def _pattern(draw: random.Random, heads: int, n: int) -> str:
    numbers: list[int] = []
    for _ in range(heads):
        sharp, shift = draw.choice((0.5, 1.5, 4.0)), draw.randrange(3)
        for query in range(n):
            scores = [math.exp(sharp * (draw.gauss(0, 0.6) + 2 * (key == query - shift))) for key in range(query + 1)]
            numbers += [round(65535 * score / sum(scores)) for score in scores]
    return base64.b64encode(struct.pack(f"<{len(numbers)}H", *numbers)).decode()
