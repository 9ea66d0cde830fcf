"""nanochat (A. Karpathy): ``model_XXXXXX.pt`` and ``meta_XXXXXX.json``, as its checkpoint manager writes them.

What its code holds as numbers is in no file, and changed: which code it was is told by the tensors that there are.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from circuits.common.errors import require
from circuits.config.gains import SigmoidGain
from circuits.config.layers import MLP, Backout, QKNorm, ResidualScalars, Rotary, Smear
from circuits.config.model import ModelConfig
from circuits.config.parts import TokenInputs, Unembedding
from circuits.config.streams import Stream
from circuits.config.topologies import Tables
from circuits.loading.family import Family, Opened, Weights
from circuits.loading.fields import Fields
from circuits.loading.tensors import Tensors, last_step, read_json, torch_file

WEIGHTS = re.compile(r"model_(\d+)\.pt")
SMEAR = "smear_gate.weight"
GATE = re.compile(r"transformer\.h\.(\d+)\.attn\.ve_gate\.weight")
PADDED_TO = 64
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = (
    "<|bos|>",
    *(f"<|{who}_{side}|>" for who in ("user", "assistant", "python", "output") for side in ("start", "end")),
)


@dataclass(frozen=True)
class Numbers:
    """What the code of a time holds: base of the rotary positions, factor of queries and keys, that of the gates of
    value embeddings, and which part of the context short windows see, in whole tiles."""

    base: float
    scale: float
    gate: float
    part: int
    tile: int


NOW = Numbers(base=1e5, scale=1.2, gate=3.0, part=4, tile=128)
"""Since 14 March 2026: there is a smear."""
MARCH = Numbers(base=1e5, scale=1.15, gate=3.0, part=3, tile=128)
"""9 to 13 March 2026: gates read 12 channels, and there is no smear."""
BEFORE = Numbers(base=1e4, scale=1.0, gate=2.0, part=2, tile=1)
"""Before 9 March 2026."""


def open_checkpoint(path: Path, stack: ExitStack) -> Opened:
    """Return what a checkpoint holds."""
    file = last_step(path, WEIGHTS)
    require(file is not None, f"{path} holds no model_XXXXXX.pt of nanochat")
    assert file is not None
    about = file.with_name(file.name.replace("model_", "meta_")).with_suffix(".json")
    require(about.is_file(), f"{file} has no {about.name} beside it, which says what the model is; copy it, too")
    given = Fields(read_json(about), str(about)).inner("model_config")
    require(bool(given), f"{about} has no model_config, which says what the model is")
    fields, tensors = Fields(given, f"model_config of {about}"), torch_file(file)
    config = _config(fields, tensors, file.stem)
    fields.finish()
    return Opened(config, tensors, _weights(config, tensors))


def _config(fields: Fields, tensors: Tensors, name: str) -> ModelConfig:
    n_layers, heads, d_model = (fields.number(field) for field in ("n_layer", "n_head", "n_embd"))
    n_ctx, vocabulary = fields.number("sequence_len"), fields.number("vocab_size")
    kv_heads = fields.number("n_kv_head", default=heads)
    gates = {int(match[1]): tensors.peek(name).shape[-1] for name in tensors if (match := GATE.fullmatch(name))}
    gated = {layer: channels for layer, channels in gates.items() if layer < n_layers}
    numbers = NOW if SMEAR in tensors else MARCH if 12 in gated.values() else BEFORE
    if gated and numbers is BEFORE:
        warnings.warn(
            "nanochat capped logits at 15, and from 2 to 8 March 2026 at 20, and no file says which; 15 is taken. Of "
            "those days: model.config = dataclasses.replace(model.config, logit_softcap=20.0)",
            stacklevel=2,
        )
    has_scalars = "resid_lambdas" in tensors or "x0_lambdas" in tensors
    tables = Tables(tuple((layer, layer) for layer in sorted(gated))) if gated else None
    gain = SigmoidGain(numbers.gate, max(gated.values(), default=12))
    return ModelConfig(
        n_layers=n_layers,
        n_heads=heads,
        n_key_value_heads=None if kv_heads == heads else kv_heads,
        d_model=d_model,
        n_ctx=n_ctx,
        inputs=TokenInputs(vocabulary),
        readout=Unembedding(vocabulary),
        positions="none",
        rotary=Rotary(numbers.base, backwards=True),
        qk_norm=QKNorm(after_rotary=True, scale=numbers.scale, eps=None),
        windows=_windows(str(fields.get("window_pattern", "L")), fields.where, n_layers, n_ctx, numbers),
        normalization="RMSPre",
        norm_eps=None,
        embedding_norm="RMSPre",
        mlp=MLP(4 * d_model, "relu2", biases=False),
        biases=False,
        logit_softcap=15.0,
        residual_scalars=ResidualScalars() if has_scalars else None,
        smear=Smear(24) if SMEAR in tensors else None,
        backout=Backout(n_layers // 2) if "backout_lambda" in tensors else None,
        streams=(Stream("v", topology=tables, gain=gain),) if tables else (),
        name=name,
    )


def _windows(pattern: str, where: str, n_layers: int, n_ctx: int, numbers: Numbers) -> tuple[int | None, ...]:
    letters = pattern.upper()
    require(bool(letters) and {*letters} <= {*"SL"}, f"window_pattern = {pattern!r} in {where}: wanted letters S and L")
    # Theirs counts the positions before a query's own.
    part = n_ctx // numbers.part if numbers.tile == 1 else -(-n_ctx // numbers.part // numbers.tile) * numbers.tile
    short = part + 1 if part + 1 < n_ctx else None
    found = [short if letters[layer % len(letters)] == "S" else None for layer in range(n_layers - 1)]
    return (*found, None) if any(found) else ()


def _weights(config: ModelConfig, tensors: Tensors) -> Weights:
    d_model, width, heads = config.d_model, config.d_head, config.n_heads
    yield "embed.W_E", _rows(config, tensors, "transformer.wte.weight", d_model)
    if config.smear:
        yield "smear.W_smear", tensors.take(SMEAR, 1, config.smear.channels)[0]
        yield "smear.gain", tensors.take("smear_lambda", 1)[0]
    if config.backout:
        yield "backout.gain", tensors.take("backout_lambda", 1)[0]
    if config.residual_scalars:
        for ours, theirs, start in (("own", "resid_lambdas", 1.0), ("x0", "x0_lambdas", 0.0)):
            # Of a time when there was one of the two, the other one is as if it were not there.
            held: Iterable[Tensor] = tensors.take(theirs, config.n_layers) if theirs in tensors else ()
            values = [*held] or [Tensor([start])[0]] * config.n_layers
            yield from ((f"blocks.{layer}.scalars.{ours}", value) for layer, value in enumerate(values))
    for layer in range(config.n_layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for c in ("q", "k", "v"):
            name = f"{theirs}.attn.c_{c}.weight"
            yield f"{ours}.attn.W_{c.upper()}", tensors.to_heads(name, config.heads_of(c), width, d_model)
        yield f"{ours}.attn.W_O", tensors.from_heads(f"{theirs}.attn.c_proj.weight", heads, width, d_model)
        yield f"{ours}.mlp.W_in", tensors.linear(f"{theirs}.mlp.c_fc.weight", 4 * d_model, d_model)
        yield f"{ours}.mlp.W_out", tensors.linear(f"{theirs}.mlp.c_proj.weight", d_model, 4 * d_model)
    stream = config.token_stream
    for layer in config.tables if stream else ():
        kv_heads, gain = config.heads_of("v"), stream.gain if stream else None
        assert isinstance(gain, SigmoidGain)
        gate = f"transformer.h.{layer}.attn.ve_gate.weight"
        yield f"blocks.{layer}.attn.mix.v.W_gain", tensors.linear(gate, kv_heads, gain.channels)
        yield f"value_embeds.{layer}.W_VE", _rows(config, tensors, f"value_embeds.{layer}.weight", kv_heads * width)
    yield "unembed.W_U", _rows(config, tensors, "lm_head.weight", d_model).T


def _rows(config: ModelConfig, tensors: Tensors, name: str, width: int) -> Tensor:
    """A table's rows of tokens, without those that fill it up to a multiple of 64."""
    n = config.inputs.rows
    padded = -(-n // PADDED_TO) * PADDED_TO
    rows = n if tensors.peek(name).shape[0] == n else padded
    return tensors.take(name, rows, width)[:n]


NANOCHAT = Family(
    "nanochat",
    lambda path: last_step(path, WEIGHTS) is not None,
    open_checkpoint,
    SPLIT_PATTERN,
    SPECIAL_TOKENS,
    whole_vocabulary=True,
)
