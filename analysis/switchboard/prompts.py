"""What a head does on one prompt: its pattern, and how large its own, incoming and mixed values are."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analysis.pairs import Pair, is_padding
from circuits.common.errors import require
from circuits.model import HookedStreamTransformer

STEPS = 65_535
"""Into so many parts a pattern's 1 is divided, to be written small: an error of at most 8e-6."""


def prompts_of(pair: Pair, n: int) -> list[dict[str, Any]]:
    """Return what is known of the first ``n`` clean inputs without a model: tokens, answer, wrong, read_at, roles."""
    frame = pair.to_frame()
    examples = pair.largest(n).to_dict("records")
    found = []
    for example, said in enumerate(examples):
        rows = frame[(frame.example == example) & ~frame.padding]
        words = [role or str(i) for i, role in enumerate(rows.role)] if pair.clean.ndim == 3 else list(rows.clean)
        roles = {role: (places[example] % pair.n_pos).tolist() for role, places in pair.positions.items()}
        about = {"read_at": int(pair.reads[example]), "answer": said["answer"], "wrong": said["wrong"], "roles": roles}
        found.append({"tokens": words, **about})
    return found


def prompt_of(model: HookedStreamTransformer, text: str) -> dict[str, Any]:
    """Return the same of a text, with what the model does on it (``pattern`` and ``values``, each a list of one).

    Raises:
        ValueError: for a model of vectors or without a tokenizer, and for words that the model does not have.
    """
    require(model.config.inputs.are_tokens, "this model takes vectors, and a prompt is a text; choose one of the list")
    tokens = model.to_tokens(text)
    words = [str(word).strip() or repr(word) for word in model.to_str_tokens(text)]
    about = {"tokens": words, "read_at": len(words) - 1, "answer": "", "wrong": "", "roles": {}}
    pattern, values = on_prompt(model, tokens)
    return about | {"pattern": [pattern], "values": [values]}


@torch.no_grad()
def on_prompt(model: HookedStreamTransformer, inputs: Tensor) -> tuple[str, dict[str, Any]]:
    """Return a head's pattern on one input (1 pos ...), written small, and the norms of its values by route.

    Patterns are of every layer and head the rows of the lower triangle, in base64 of little-endian 16-bit numbers.
    Norms are lists [layer][head][pos] by route (own, incoming, mixed); ``None`` for a layer that has no such values.
    """
    _, cache = model.run_with_cache(inputs, return_cache_object=False)
    at = torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool).tril()
    patterns, values = [], {name: [] for name in ("own", "incoming", "mixed")}
    for layer, block in enumerate(model.layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
        patterns.append(pattern.cpu()[:, at].double().clamp(0, 1).numpy())
        hooks = {"own": "hook_v", "incoming": "hook_v_residual", "mixed": "hook_v_mixed"}
        there = {route: cache.get(f"blocks.{layer}.attn.{hook}") for route, hook in hooks.items()}
        there["mixed"] = there["own"] if there["mixed"] is None else there["mixed"]
        for route, found in there.items():
            values[route].append(None if found is None else _norms(block.attn.per_query_head(found, 2)[0]))
    written = np.round(np.stack(patterns) * STEPS).astype("<u2").tobytes()
    return base64.b64encode(written).decode(), values


def _norms(vectors: Float[Tensor, "pos head d_head"]) -> list[list[float]]:
    return vectors.double().norm(dim=-1).T.tolist()


def read_pattern(written: str, layers: int, heads: int, n_pos: int) -> Float[np.ndarray, "layer head query key"]:
    """Return the patterns that :func:`on_prompt` wrote, with zeros above the diagonal."""
    numbers = np.frombuffer(base64.b64decode(written), "<u2").reshape(layers, heads, -1) / STEPS
    found = np.zeros((layers, heads, n_pos, n_pos))
    rows, columns = np.tril_indices(n_pos)
    found[:, :, rows, columns] = numbers
    return found


def inputs_of(model: HookedStreamTransformer, pair: Pair, examples: Sequence[int]) -> list[Tensor]:
    """Return clean inputs of single examples (1 pos ...), without their padding."""
    real = ~is_padding(model, pair)
    return [pair.clean[example : example + 1, real[example]] for example in examples]
