"""A switchboard's graph in the format that neuronpedia's page of attribution graphs reads.

Source of the format: its ``graph-schema.json``, version 1.0.0 (github.com/hijohnnylin/neuronpedia, as of 2026).
"""

from __future__ import annotations

import re
from typing import Any

from analysis.switchboard.document import Switchboard
from circuits.common.errors import require

_TYPES = {"input": "embedding", "table": "embedding", "logits": "logit"}
"""What the page calls nodes that it knows; others go by their kind."""


def neuronpedia_graph(board: Switchboard, step: int | None = None, prompt: int = 0) -> dict[str, Any]:
    """Return one step (default: the last) of the first run as a graph for upload: nodes, links, a prompt to read.

    A link's weight is the edge's effect: the share of the clean-corrupt difference that is lost where it carries the
    corrupt run's. A node's influence is its own, 0 to 1. Effects are means over examples, so every node stands at the
    position that is read of the prompt that is shown. A projection and the head that uses it are nodes of their own.

    Raises:
        ValueError: for a step or a prompt that the document does not have.
    """
    document = board.document
    run, prompts = document["runs"][0], document["prompts"]
    at = -1 if step is None else run["steps"].index(step) if step in run["steps"] else None
    if at is None:
        raise ValueError(f"the document has no step {step}; it has {run['steps']}")
    require(not prompts or 0 <= prompt < len(prompts), f"prompt = {prompt}: the document has {len(prompts)}, from 0")
    said = prompts[prompt] if prompts else {"tokens": ["?"], "read_at": 0}
    ids = {node["name"]: f"{_layer(document, node)}_{i}_{said['read_at']}" for i, node in enumerate(document["nodes"])}
    effects = run["node"]["effect"][at]
    nodes = [
        {
            "node_id": ids[node["name"]],
            "jsNodeId": f"{ids[node['name']]}-0",
            "feature": i,
            "layer": _layer(document, node),
            "ctx_idx": said["read_at"],
            "feature_type": _TYPES.get(node["kind"], node["kind"]),
            "clerp": node["name"],
            "influence": None if effects[i] is None else min(1.0, abs(effects[i])),
        }
        for i, node in enumerate(document["nodes"])
    ]
    links = [
        {"source": ids[edge["source"]], "target": ids[edge["target"]], "weight": weight}
        for edge, weight in zip(document["edges"], run["edge"]["effect"][at], strict=True)
        if weight is not None
    ]
    about = "\n".join([document["lead"], *(f"{name}: {value}" for name, value in document["facts"])])
    metadata = {
        "slug": re.sub(r"[^a-z0-9]+", "-", f"{document['title']}-{run['steps'][at]}".lower()).strip("-"),
        "scan": document["title"],
        "prompt_tokens": [str(token) for token in said["tokens"]],
        "prompt": " ".join(map(str, said["tokens"])),
        "info": {"description": about, "generator": {"name": "valuestream"}},
    }
    return {"metadata": metadata, "qParams": {"linkType": "both"}, "nodes": nodes, "links": links}


def _layer(document: dict[str, Any], node: dict[str, Any]) -> str:
    """Embeddings stand below all layers, logits above them."""
    if node["kind"] in ("input", "table"):
        return "E"
    return str(document["layers"] if node["kind"] == "logits" else node["layer"])
