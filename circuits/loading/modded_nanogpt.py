"""modded-nanogpt (K. Jordan et al.) of November 2024: ``state_stepXXXXXX.pt``, which holds weights and code.

The code is read as text, for the numbers that are nowhere else, and never run. The records of 6 to 10 November 2024
with value residuals can be loaded; since 10 November there are U-Net skips (``skip_weights``), which no model here has.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from pathlib import Path

from circuits.common.errors import require
from circuits.config.gains import FixedGain, Gain, LearnedGain
from circuits.config.layers import MLP, QKNorm, ResidualScalars, Rotary
from circuits.config.model import ModelConfig
from circuits.config.parts import TokenInputs, Unembedding
from circuits.config.streams import Stream
from circuits.config.topologies import First
from circuits.loading.family import Family, Opened, Weights
from circuits.loading.tensors import Tensors, last_step, read_torch, tensors_in

FILE = re.compile(r"state_step(\d+)\.pt")
SPLIT_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
NUMBER = r"\d+\.?\d*"
TANH = rf"(?:(?:torch|F|functional|nn\.functional)\.)?tanh\(\s*logits\s*/\s*({NUMBER})\s*\)"
CAP = re.compile(rf"logits\s*=\s*(?:({NUMBER})\s*\*\s*{TANH}|{TANH}\s*\*\s*({NUMBER}))\s*$", re.MULTILINE)
EMBEDDING = "transformer.wte.weight"
BLOCK = re.compile(r"transformer\.h\.(\d+)\.attn\.c_v\.weight")


def open_state(path: Path, stack: ExitStack) -> Opened:
    """Return what a state holds."""
    file = last_step(path, FILE)
    require(file is not None, f"{path} holds no state_stepXXXXXX.pt of modded-nanogpt")
    assert file is not None
    held = read_torch(file)
    code, tensors = held.get("code"), tensors_in(held.get("model"), str(file))
    require(
        "skip_weights" not in tensors,
        f"{file} has U-Net skips (skip_weights): hidden states of early layers are added to late ones, and no model "
        f"here does that. Of modded-nanogpt, the records of 6 to 10 November 2024 without them can be loaded",
    )
    require(
        isinstance(code, str),
        f"{file} does not hold the code that it was trained with, which says how many heads there are",
    )
    config = _config(str(code), tensors, file.stem)
    return Opened(config, tensors, _weights(config, tensors))


def _config(code: str, tensors: Tensors, name: str) -> ModelConfig:
    vocabulary, d_model = tensors.peek(EMBEDDING).shape
    n_layers = sum(BLOCK.fullmatch(tensor) is not None for tensor in tensors)
    code = re.sub(r"#.*", "", code)
    heads = re.search(r"GPTConfig\([^)]*n_head\s*=\s*(\d+)\s*[,)]", code)
    fixed = re.search(rf"self\.lamb\s*=\s*({NUMBER})\s*$", code, re.MULTILINE)
    learns = "transformer.h.0.attn.lamb" in tensors
    require(
        heads is not None and (learns or fixed is not None),
        f"the code in {tensors.says} is not that of 6 to 10 November 2024: it does not say n_head, or has no self.lamb",
    )
    assert heads is not None
    share = float(fixed[1]) if fixed else 0.5
    gain: Gain = LearnedGain(0.5, 0.5, tie="convex") if learns else FixedGain(1 - share, share)
    length = re.search(r"sequence_length\s*:\s*int\s*=\s*(\d+(?:\s*\*\s*\d+)*)\s*$", code, re.MULTILINE)
    return ModelConfig(
        n_layers=n_layers,
        n_heads=int(heads[1]),
        d_model=d_model,
        n_ctx=math.prod(map(int, length[1].split("*"))) if length else 1024,
        inputs=TokenInputs(vocabulary),
        readout=Unembedding(vocabulary),
        positions="none",
        rotary=Rotary(backwards=True),
        qk_norm=QKNorm(eps=None),
        normalization="RMSPre",
        norm_eps=None,
        embedding_norm="RMSPre",
        mlp=MLP(4 * d_model, "relu2", biases=False),
        biases=False,
        logit_softcap=_softcap(code, tensors.says),
        residual_scalars=ResidualScalars() if "transformer.h.0.lambdas" in tensors else None,
        streams=(Stream("v", topology=First(), gain=gain),),
        name=name,
    )


def _softcap(code: str, says: str) -> float | None:
    """The cap of the logits, of every place where code without comments has one.

    Raises:
        ValueError: for code that does something else with tanh, or caps in one place otherwise than in another.
    """
    caps = [(float(a or d), float(b or c)) for a, b, c, d in CAP.findall(code)]
    found = {cap for pair in caps for cap in pair}
    require(
        len(caps) == len(re.findall(r"\btanh\b", code)) and len(found) < 2,
        f"the code in {says} has a tanh that is not read as a cap of all logits, as in 'logits = 30 * "
        f"torch.tanh(logits / 30)'; without it, the model would be another one",
    )
    return found.pop() if found else None


def _weights(config: ModelConfig, tensors: Tensors) -> Weights:
    d_model, heads, width, vocabulary = config.d_model, config.n_heads, config.d_head, config.inputs.rows
    yield "embed.W_E", tensors.take(EMBEDDING, vocabulary, d_model)
    # The first layer mixes its values with themselves.
    tensors.pass_over("transformer.h.0.attn.lamb")
    for layer in range(config.n_layers):
        ours, theirs = f"blocks.{layer}", f"transformer.h.{layer}"
        for c in ("q", "k", "v"):
            yield f"{ours}.attn.W_{c.upper()}", tensors.to_heads(f"{theirs}.attn.c_{c}.weight", heads, width, d_model)
        yield f"{ours}.attn.W_O", tensors.from_heads(f"{theirs}.attn.c_proj.weight", heads, width, d_model)
        yield f"{ours}.mlp.W_in", tensors.linear(f"{theirs}.mlp.c_fc.weight", 4 * d_model, d_model)
        yield f"{ours}.mlp.W_out", tensors.linear(f"{theirs}.mlp.c_proj.weight", d_model, 4 * d_model)
        if layer and isinstance(config.streams[0].gain, LearnedGain):
            yield f"{ours}.attn.mix.v.stream_gain", tensors.take(f"{theirs}.attn.lamb")[None]
        if config.residual_scalars:
            own, x0 = tensors.take(f"{theirs}.lambdas", 2)
            yield f"{ours}.scalars.own", own
            yield f"{ours}.scalars.x0", x0
    yield "unembed.W_U", tensors.linear("lm_head.weight", vocabulary, d_model)


MODDED_NANOGPT = Family(
    "modded-nanogpt",
    lambda path: last_step(path, FILE) is not None,
    open_state,
    SPLIT_PATTERN,
    ("<|endoftext|>",),
)
