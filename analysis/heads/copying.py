"""Does a head say what it looks at? Two copying scores of output-value circuits, with what the stream adds to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import pandas as pd
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import FactoredMatrix

from analysis.heads.attention_scores import HeadScores, tidy
from analysis.heads.composition import require_fixed_gains
from analysis.metrics import check_logits, precise
from analysis.pairs import check_answers, whole_numbers
from analysis.ready import require_eval_mode, require_finite_weights, require_no_hooks
from circuits.block import Block
from circuits.common.errors import known, require, whole
from circuits.config.streams import CARRIERS, Carrier
from circuits.input_checks import check_inputs
from circuits.model import HookedStreamTransformer
from circuits.streams.mixing import Outgoing
from circuits.streams.transforms import ByCarrier, HeadTensor

CopyRoute = Literal["own", "stream", "mixed"]
COPY_ROUTES: dict[CopyRoute, str] = {
    "own": "the layer's own values",
    "stream": "what comes in through the stream, past gain, transform and the gate's forward value",
    "mixed": "their sum, which attention uses",
}
EIGENVALUES = "sum of eigenvalues of W_E W_V W_O W_U over the sum of their absolute values; between -1 and 1"


@torch.no_grad()
def eigenvalue_copying(model: HookedStreamTransformer, route: CopyRoute = "mixed") -> HeadScores:
    """Return every head's eigenvalue copying score: layer, head, score, value, convention.

    The sum of the eigenvalues of W_E W_V W_O W_U over the sum of their absolute values: 1 if all are positive, so that
    every token raises its own logit on the whole; 0 for a head that writes nothing. Norms and biases are left out. A
    stream route puts in place of W_V what the weights of all source layers amount to; layers without it are left out.

    Raises:
        ValueError: for a model in training mode or with hooks attached, without tokens or a linear readout, or without
            the route.
        NotFiniteError: for weights that hold NaN or infinity.

    Source: Elhage et al., A Mathematical Framework for Transformer Circuits (2021).
    """
    require_eval_mode(model, "scoring eigenvalue copying")
    require_no_hooks(model, "scoring eigenvalue copying")
    require_finite_weights(model, "scoring eigenvalue copying")
    _check_linear(model)
    embedded = model.W_E[:, None]
    tables = model.value_embeddings(torch.arange(len(embedded), device=embedded.device)[:, None], embedded)

    def project(block: Block, inputs: dict[Carrier, Tensor]) -> ByCarrier:
        weights: dict[Carrier, Tensor] = {c: getattr(block.attn, f"W_{c.upper()}") for c in block.attn.own}
        return {
            c: einsum(inputs[c], W, "token pos d, head d d_head -> token pos head d_head") for c, W in weights.items()
        }

    frames = []
    for layer, values in _values(model, lambda _: embedded, tables, project, route):
        reads = rearrange(values, "token 1 head d_head -> head token d_head")
        says = precise(model.layers[layer].attn.W_O) @ precise(model.W_U)
        eigenvalues = FactoredMatrix(precise(reads), says).eigenvalues
        scores = (eigenvalues.sum(-1).real / eigenvalues.abs().sum(-1)).nan_to_num(0.0)
        columns = {"layer": layer, "head": range(len(scores)), "score": f"copying eigenvalues ({route})"}
        frames.append(pd.DataFrame({**columns, "value": scores.tolist(), "convention": EIGENVALUES}))
    return HeadScores(pd.concat(frames, ignore_index=True))


@torch.no_grad()
def copy_score(
    model: HookedStreamTransformer,
    inputs: Int[Tensor, " item"] | Float[Tensor, "item d_input"],
    answers: Int[Tensor, " item"] | None = None,
    route: CopyRoute = "mixed",
    top_k: int = 5,
) -> HeadScores:
    """Return every head's copy score, in the columns of :func:`analysis.heads.attention_scores.score_heads`; n
    counts the items.

    The share of items whose answer is among the ``top_k`` highest logits (ties count against it) when the item's
    embedding, without a position, goes through the norm and the values of the head, W_O and the model's readout.
    ``answers`` are by default the tokens themselves. Vectors with one-hot positions have zeros there. A stream route
    sends the embedding through the values of the source layers; layers without it are left out.

    Raises:
        ValueError: for a model in training mode or with hooks attached, no items, items that are not what the model
            takes, vectors without answers, answers that it cannot give, or a route that is not there.

    Source: Wang et al., arXiv 2211.00593, who embed by the first MLP layer; here it is the embedding itself.
    """
    require_eval_mode(model, "scoring copying")
    require_no_hooks(model, "scoring copying")
    answers = _answers(model, inputs, answers, top_k)
    residual = model.embed(inputs[:, None])

    def project(block: Block, inputs: dict[Carrier, Tensor]) -> ByCarrier:
        return block.attn.project(inputs)

    convention = f"share of items whose answer is in the top {top_k} of {model.W_U.shape[1]} logits"
    frames = []
    tables = model.value_embeddings(inputs[:, None], residual)
    for layer, values in _values(model, lambda block: block.ln1(residual), tables, project, route):
        written = einsum(values, model.layers[layer].attn.W_O, "item pos head d_head, head d_head d -> item pos head d")
        logits = model.read_out(rearrange(written, "item 1 head d -> item head d"))
        check_logits(logits)
        own = logits.gather(2, answers[:, None, None].expand(-1, logits.shape[1], 1))
        found = (logits >= own).sum(-1) <= top_k
        frames.append(tidy(layer, f"copying ({route})", precise(found), convention))
    return HeadScores(pd.concat(frames, ignore_index=True))


def _values(
    model: HookedStreamTransformer,
    reads: Callable[[Block], Float[Tensor, "item 1 d_model"]],
    tables: Outgoing,
    project: Callable[[Block, dict[Carrier, Tensor]], ByCarrier],
    route: CopyRoute,
) -> Iterator[tuple[int, HeadTensor]]:
    """Every layer that has the route, with the values of ``route`` if all layers read the same, for every head of
    queries. ``reads`` says what a layer's projections take, those that a stream has of its own too."""
    _check_route(model, route)
    earlier = tables
    for layer, block in enumerate(model.layers):
        read, found = reads(block), None
        inputs: dict[Carrier, Tensor] = {c: read for c in CARRIERS}
        own = project(block, inputs)
        if route == "own":
            found = own.get("v")
        else:
            used, passed = block.attn.mix_in(own, inputs, earlier)
            if route == "mixed":
                found = used["v"]
            elif "v" in block.attn.mix:
                silent: ByCarrier = {c: torch.zeros_like(x) if c == "v" else x for c, x in own.items()}
                found = block.attn.mix_in(silent, inputs, earlier)[0]["v"]
            earlier = {**earlier, **passed}
        if found is not None:
            yield layer, block.attn.per_query_head(found, 2)


def _check_route(model: HookedStreamTransformer, route: str) -> None:
    known("route", route, COPY_ROUTES)
    if route == "stream" and not model.config.stream_into("v"):
        fed = [stream.carrier for stream in model.config.streams]
        raise ValueError(f"no stream feeds this model's values (its streams feed {fed or 'nothing'}); use route='own'")
    if route != "own":
        require_fixed_gains(model, "use route='own'")


def _check_linear(model: HookedStreamTransformer) -> None:
    config = model.config
    if not config.inputs.are_tokens or config.inputs.rows != config.readout.d_vocab_out:
        raise ValueError(
            "eigenvalue copying compares tokens that are read with the same tokens that are said, but this model "
            "takes vectors or says something else; use copy_score(model, inputs, answers)"
        )
    if (why := model.why_not_linear()) is not None:
        raise ValueError(f"eigenvalue copying needs a linear readout, but {why}; or use copy_score(model, inputs)")


def _answers(
    model: HookedStreamTransformer, inputs: Tensor, answers: Int[Tensor, " item"] | None, top_k: int
) -> Int[Tensor, " item"]:
    of_tokens, is_tensor = model.config.inputs.are_tokens, isinstance(inputs, Tensor)
    wanted = "(item) of token numbers" if of_tokens else f"(item, {model.config.inputs.rows}) of vectors"
    require(
        is_tensor and inputs.ndim == (1 if of_tokens else 2) and inputs.is_floating_point() != of_tokens,
        f"a copy score is of single items, each by itself: give a tensor {wanted}, as those of a sequence one after "
        f"the other; got {f'{tuple(inputs.shape)} of {inputs.dtype}' if is_tensor else type(inputs).__name__}",
    )
    if answers is None:
        require(of_tokens, "vectors are not their own answers; pass answers=, one number an item")
        answers = inputs
    numbers = whole_numbers("answers", answers)
    if not len(inputs) or len(numbers) != len(inputs):
        raise ValueError(f"a copy score needs items and one answer each: {len(inputs)} items, {len(numbers)} answers")
    check_inputs(model, inputs[:, None])
    check_answers(model, numbers)
    choices = model.W_U.shape[1]
    if not whole("top_k", top_k) < choices:
        raise ValueError(f"top_k must lie between 1 and {choices - 1}, one less than the logits; got {top_k}")
    return numbers
