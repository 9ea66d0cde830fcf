"""What a model may be called with: each check says what was given, what was wanted and what to do."""

from __future__ import annotations

from numbers import Integral

import torch
from jaxtyping import Bool
from torch import Tensor

from circuits.cache import KeyValueCache
from circuits.common.errors import known, require
from circuits.config.model import ModelConfig
from circuits.streams.mixing import Key, Outgoing
from circuits.transformerlens.hooks import values_of
from circuits.transformerlens.tools import ToolSurface


def layer_number(config: ModelConfig, layer: int, what: str) -> int:
    """Return a layer's number from 0 to n_layers, negative ones counted from the end; errors call it ``what``."""
    n = config.n_layers
    require(
        isinstance(layer, Integral) and not isinstance(layer, bool) and -n <= layer <= n,
        f"{what} = {layer!r} is no layer of this model: it has {n}, numbered from 0; {n} stands for the end, and "
        f"-1 for the last one",
    )
    return int(layer) % n if layer < 0 else int(layer)


def check_inputs(model: ToolSurface, inputs: Tensor) -> None:
    """Check that inputs are of the shape, the type and, in evaluation mode, the values that the model takes."""
    if torch.compiler.is_compiling():
        return
    config, inputs = model.config, model.bound(inputs)
    if config.inputs.are_tokens:
        want = "(batch, pos) token numbers"
        fits = inputs.ndim == 2 and inputs.dtype in (torch.int64, torch.int32)
    else:
        dtype, width = model.cfg.dtype, config.inputs.rows
        want = f"(batch, pos, {width}) vectors of {dtype}; use inputs.to(model.cfg.dtype) for another precision"
        fits = inputs.ndim == 3 and inputs.shape[-1] == width and inputs.dtype == dtype
    if not fits:
        raise ValueError(f"this model takes {want}, got {tuple(inputs.shape)} of {inputs.dtype}")
    _check_length(config, inputs)
    if not model.training:
        _check_values(config, inputs)


def _check_length(config: ModelConfig, inputs: Tensor) -> None:
    length = inputs.shape[1]
    require(length <= config.n_ctx, f"a sequence of {length} positions is longer than n_ctx = {config.n_ctx}")


def _check_values(config: ModelConfig, inputs: Tensor) -> None:
    if not inputs.numel():
        raise ValueError(f"there is nothing to run: the inputs have the shape {tuple(inputs.shape)}")
    values = values_of(inputs)
    if values is None:
        return
    if config.inputs.are_tokens:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= config.inputs.rows:
            raise ValueError(f"token numbers from {low} to {high}, but d_vocab = {config.inputs.rows}")
    elif not bool(torch.isfinite(values).all()):
        bad = (~torch.isfinite(values)).any(-1).nonzero()[0].tolist()
        raise ValueError(
            f"the inputs hold NaN or infinity, first at (batch, pos) = {tuple(bad)}; find where they come from"
        )


def check_return_type(config: ModelConfig, return_type: str | None, inputs: Tensor) -> None:
    """Check that there is such a return type, and a next token for a loss."""
    if return_type is None or return_type == "logits":
        return
    known("return_type", return_type, ("logits", "loss", "both"))
    if inputs.is_floating_point() or not config.inputs.are_tokens:
        raise ValueError(
            f"return_type = {return_type!r} is the loss of predicting the next token, and these inputs are not a "
            "sequence of tokens; take the logits, and the loss of your task of them"
        )


def checked_mask(mask: Tensor, inputs: Tensor) -> Bool[Tensor, "batch pos"]:
    """Return an attention mask of ``inputs`` as True where a token stands."""
    shape, is_tensor = tuple(inputs.shape[:2]), isinstance(mask, Tensor)
    got = f"{tuple(mask.shape)} of {mask.dtype}" if is_tensor else f"{type(mask).__name__}; use torch.as_tensor(mask)"
    require(
        is_tensor and tuple(mask.shape) == shape and not mask.is_floating_point(),
        f"attention_mask is a tensor with a whole number (0 at padding) or a truth value for every position, (batch, "
        f"pos) = {shape}; got {got}",
    )
    return mask.to(inputs.device) != 0


def check_cache(config: ModelConfig, cache: KeyValueCache, inputs: Tensor, of_all_layers: bool) -> None:
    """Check that inputs can follow on what a cache holds."""
    require(
        isinstance(cache, KeyValueCache),
        f"past_kv_cache is a KeyValueCache, KeyValueCache() before there is anything in it, got {type(cache).__name__}",
    )
    require(
        of_all_layers,
        "a cache is of all layers, so with past_kv_cache all of them run: leave out start_at_layer and stop_at_layer",
    )
    new, held = inputs.shape[1], cache.length
    require(
        held + new <= config.n_ctx,
        f"{new} positions after the {held} of the cache are longer than n_ctx = {config.n_ctx}",
    )


def check_start(config: ModelConfig, layer: int, reads: list[Key], residual: Tensor, outgoing: Outgoing) -> None:
    """Check that a run can start before ``layer``, which with later ones ``reads`` what earlier layers passed on."""
    missing = [_told(key) for key in reads if key not in outgoing]
    if missing:
        raise ValueError(
            f"layers from {layer} on also read {missing} through the stream, which the residual stream does not hold; "
            f"pass outgoing=, or use model.state(inputs, {layer}) and model.run_state(state)"
        )
    got = f"got {tuple(residual.shape)} of {residual.dtype}"
    require(
        residual.ndim == 3 and residual.shape[-1] == config.d_model and residual.is_floating_point(),
        f"with start_at_layer, the input is the residual stream (batch, pos, {config.d_model}) before that layer, "
        f"{got}; model(inputs, stop_at_layer={layer}) gives it",
    )
    _check_length(config, residual)
    where = tuple(residual.shape[:2])
    for key, tensor in outgoing.items():
        require(
            tuple(tensor.shape[:2]) == where,
            f"outgoing {_told(key)} is of (batch, pos) = {tuple(tensor.shape[:2])}, the residual "
            f"stream of {where}; take both from one model.state",
        )
        wanted = _size(config, key)
        require(
            tuple(tensor.shape[2:]) == wanted,
            f"outgoing {_told(key)} is {tuple(tensor.shape[2:])} at every position, and {wanted} is read; take it from "
            "a model.state of this model",
        )


def _size(config: ModelConfig, key: Key) -> tuple[int, ...]:
    _, what = key
    if what in ("x0", "middle"):
        return (config.d_model,)
    carrier = config.token_stream.carrier if what == "token" and config.token_stream else what
    return (config.heads_of("q" if carrier == "q" else "v"), config.d_head)


def _told(key: Key) -> str:
    number, what = key
    told = {
        "token": f"table {number}",
        "x0": "the residual stream at the start",
        "middle": f"that after layer {number}",
    }
    return told.get(what, f"{what} of layer {number}")
