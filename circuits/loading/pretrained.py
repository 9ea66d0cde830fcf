"""The door: a model that others trained, from the folder that they stored it in."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from circuits.checkpoint import holding
from circuits.common.errors import known, require
from circuits.common.files import folder_there, path_of
from circuits.initial_weights import Initialised
from circuits.loading import huggingface, resformer
from circuits.loading.exported import EXPORTED
from circuits.loading.family import Family, Opened
from circuits.loading.modded_nanogpt import MODDED_NANOGPT
from circuits.loading.nanochat import NANOCHAT
from circuits.loading.tensors import read_json, safetensors
from circuits.loading.tokenizers import TOKENIZER_JSON, given_tokenizer, opening_tokens
from circuits.loading.x_transformers import X_TRANSFORMERS
from circuits.model import HookedStreamTransformer

_ALL = (*resformer.FAMILIES, *huggingface.FAMILIES, NANOCHAT, X_TRANSFORMERS, MODDED_NANOGPT, EXPORTED)
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
REFUSED = {
    "rwkv": "RWKV's values run through a recurrence, which no attention here is; its rule of values alone, for "
    "attention, is the variant 'rwkv7-rule'",
    "mudd": "MUDD connections mix earlier hidden states into what queries, keys and values are made from; streams here "
    "carry queries, keys and values themselves",
    "denseformer": "DenseFormer mixes hidden states of earlier layers; streams here carry queries, keys and values",
    "attention_residual": "attention residuals mix hidden states by attention over layers; streams here carry queries, "
    "keys and values",
    "hyper_connection": "hyper-connections keep several residual streams; models here have one",
}
"""Architectures that cannot be expressed, by what their model type, classes or fields are called."""
ALSO = {"attnres": "attention_residual", "attn_res": "attention_residual", "mhc": "hyper_connection"}
REFERENCE = "reference_logits.safetensors"
"""``tokens`` (batch pos) and the ``logits`` (batch pos d_vocab) that the model's own code gives for them."""


def load_pretrained(
    path: str | Path,
    family: str | None = None,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> HookedStreamTransformer:
    """Return the model of a folder that others stored, in evaluation mode on the CPU, with the logits of its own code.

    ``family`` is one of :data:`FAMILIES`; by default the folder says which. Weights are of ``dtype`` (those in bfloat16
    are exact in float32) and read one by one. If the folder has a tokenizer.json, texts are opened as its template
    says; ``tokenizer`` is another tokenizer.json, a folder with one, or a file of tiktoken's ranks. If the folder has a
    file reference_logits.safetensors (``tokens`` and ``logits``), the model is checked against it.

    Raises:
        FileNotFoundError: if there is nothing at ``path``, as for a name on the hub: nothing is downloaded.
        UnknownNameError: for an unknown family (nearest suggested).
        ValueError: for what is no path; a folder of no known family; a field of its configuration, or a tensor, about
            which nothing is known; a tensor that is missing or has another shape; a pickle; a file that was cut short;
            a tokenizer of another vocabulary; a dtype that is none of floating point; too little memory; or logits
            other than the folder's own.
    """
    require(
        isinstance(dtype, torch.dtype) and dtype.is_floating_point,
        f"dtype must be one of floating point of torch, as torch.bfloat16, got {dtype!r}",
    )
    given = None if tokenizer is None else path_of("a tokenizer", tokenizer).expanduser()
    folder = folder_there(path)
    chosen = family_of(path) if family is None else FAMILIES[known("family", family, FAMILIES)]
    beside = folder if folder.is_dir() else folder.parent
    place = beside if given is None else given
    wanted = given is not None or (beside / TOKENIZER_JSON).is_file()
    speaks = given_tokenizer(place, chosen.split_pattern, chosen.special_tokens) if wanted else None
    with ExitStack() as stack:
        opened = chosen.open(folder, stack)
        if speaks is not None:
            _check_vocabulary(len(speaks), opened.config.inputs.rows, place, chosen)
        model = _filled(opened, dtype)
        opened.tensors.finish()
    _check_reference(beside / REFERENCE, model)
    if speaks is not None:
        model.set_tokenizer(speaks, opening=opening_tokens(speaks))
    return model


def family_of(path: str | Path) -> Family:
    """Return the family that a folder says it is of.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_pretrained`.
    """
    folder = folder_there(path)
    found = [family for family in FAMILIES.values() if family.recognises(folder)]
    if found:
        return found[0]
    names = ", ".join(FAMILIES)
    if (folder / huggingface.CONFIG).is_file():
        config = read_json(folder / huggingface.CONFIG)
        _refuse_named(config, folder)
        kind = config.get("model_type")
        raise ValueError(
            f"{folder} holds a model of the type {kind!r}, a family that is not known here; known are {names}. If it "
            f"is of one of these under another name, pass family="
        )
    if (folder / "run.json").is_file():
        raise ValueError(f"{folder} is a run; open it with experiments.Run.open({str(folder)!r}).load_model()")
    raise ValueError(
        f"{folder} has no configuration of a known family: there is no {huggingface.CONFIG} (transformers), no "
        f"meta_XXXXXX.json (nanochat), no x_transformers.json and no state_stepXXXXXX.pt (modded-nanogpt). Copy the "
        f"whole folder, or pass family= (one of {names})"
    )


def _refuse_named(config: dict[str, object], folder: Path) -> None:
    said = (
        " ".join(map(str, (config.get("model_type"), config.get("architectures"), *config))).lower().replace("-", "_")
    )
    for part in (*REFUSED, *ALSO):
        if part in said or part.replace("_", "") in said:
            raise ValueError(f"{folder} cannot be loaded: {REFUSED[ALSO.get(part, part)]}")


def _filled(opened: Opened, dtype: torch.dtype) -> HookedStreamTransformer:
    with torch.device("meta"):
        model = HookedStreamTransformer(opened.config)
    needed = sum(x.numel() for x in model.state_dict().values()) * dtype.itemsize
    free = psutil.virtual_memory().available
    require(
        needed < free,
        f"the weights take {needed / 2**30:.1f} GiB as {dtype}, and {free / 2**30:.1f} GiB of memory are free; pass a "
        f"smaller dtype, as torch.bfloat16",
    )
    for module in model.modules():
        # What no file holds: what stands in the place of weights that an architecture lacks.
        if isinstance(module, Initialised):
            module.write_fixed()
    state = {name: _own(weight, dtype) for name, weight in opened.weights}
    return holding(model, state).eval()


def _own(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight in memory of its own: what is read lies in the file as long as nobody copies it."""
    return torch.empty(weight.shape, dtype=dtype).copy_(weight)


@torch.no_grad()
def _check_reference(file: Path, model: nn.Module) -> None:
    if not file.is_file():
        return
    with ExitStack() as stack:
        held = safetensors([file], stack)
        tokens, wanted = held.peek("tokens").long(), held.peek("logits").double()
    found = model(tokens).double()
    require(
        found.shape == wanted.shape,
        f"the logits in {file} have the shape {tuple(wanted.shape)}, and the model's {tuple(found.shape)}",
    )
    off, size = (found - wanted).abs().max().item(), wanted.abs().max().item()
    # Of products in another order, by a thousand roundings.
    coarse = {torch.bfloat16: 0.05, torch.float16: 0.01}.get(next(model.parameters()).dtype, 1e-4)
    require(
        off <= coarse * max(1.0, size),
        f"the model does not give the logits of its own code: those in {file} differ by up to {off:.3g} (largest "
        f"{size:.3g}). Its code does something that is not known here; it is not loaded",
    )


def _check_vocabulary(n: int, d_vocab: int, place: Path, family: Family) -> None:
    least = d_vocab if family.whole_vocabulary else 0.9 * d_vocab
    require(
        least <= n <= d_vocab,
        f"the tokenizer {place} has {n} tokens and the model {d_vocab}: it is of another vocabulary. Pass the one that "
        f"the model was trained with",
    )
