"""Models on disk: safetensors with their architecture and a hash of their content, and the explicit transplant."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from circuits.common.errors import require
from circuits.common.files import check_folder, path_of, written_file
from circuits.common.plain_data import canonical_json, differences
from circuits.config.model import ModelConfig
from circuits.model import HookedStreamTransformer

FORMAT = "valuestream-checkpoint-2"
FIRST_FORMAT = "valuestream-checkpoint-1"
"""Its hash is of the tensors alone, not of what is said about them."""
HEADER = "valuestream"
"""The entry of a file's metadata that holds format, hash and what is said about the content."""


class CheckpointError(ValueError):
    """A file that is not a checkpoint, is damaged, or holds another architecture."""


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hexadecimal) of tensors: their names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _content_hash(tensors: Mapping[str, Tensor], about: Any) -> str:
    return hashlib.sha256(f"{tensor_hash(tensors)} {canonical_json(about)}".encode()).hexdigest()


def tensor_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> bytes:
    """Return tensors as a safetensors file, with ``about`` (plain data) and a hash of both in its header; equal content
    gives equal bytes."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    plain = json.loads(canonical_json(dict(about)))
    header = canonical_json({"format": FORMAT, "sha256": _content_hash(content, plain), "about": plain})
    # One entry only: safetensors writes several in no fixed order.
    return serialise(content, metadata={HEADER: header})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file of :func:`tensor_bytes`, and what is said about them.

    Raises:
        ValueError: for what is no path.
        FileNotFoundError: if there is no such file.
        CheckpointError: if it is no such file, was cut short, or its content does not have the hash it states.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            # Copied, as what is read lies where the file has it: products of weights that are not aligned may round
            # otherwise, and the file may change under them.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 # not a mapping
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no safetensors file, was cut short or damaged ({error})") from error
    held = header if isinstance(header, dict) else {}
    if held.get("format") not in (FORMAT, FIRST_FORMAT):
        raise CheckpointError(
            f"{path} has the format {held.get('format')!r}; this version reads {FORMAT!r}, written by save_checkpoint"
        )
    about = held.get("about")
    found = tensor_hash(tensors) if held["format"] == FIRST_FORMAT else _content_hash(tensors, about)
    if found != held.get("sha256") or not isinstance(about, dict):
        raise CheckpointError(f"the content of {path} does not have the hash that it states: it was changed or damaged")
    return tensors, about


def architecture(config: ModelConfig) -> dict[str, Any]:
    """Return what two configurations must share to be the same architecture: all but name and how weights start."""
    plain = config.to_plain()
    return {key: value for key, value in plain.items() if key not in ("name", "init", "starts")}


def checkpoint_bytes(model: HookedStreamTransformer, **about: Any) -> bytes:
    """Return the file that :func:`save_checkpoint` writes."""
    require("config" not in about, "a checkpoint's config is its model's own; store another under another name")
    return tensor_bytes(dict(model.state_dict()), {**about, "config": model.config.to_plain()})


def save_checkpoint(path: str | Path, model: HookedStreamTransformer, **about: Any) -> str:
    """Write the weights of ``model`` with its architecture; return the file's SHA-256 (hexadecimal).

    ``about`` (plain data: step, run, ...) is stored beside the architecture. Written whole or not at all, into a folder
    that is made if need be; nothing is pickled.

    Raises:
        ValueError: for something that is named ``config``, as the architecture is, for what is no path, and for one in
            a folder that is a file.
    """
    check_folder(path_of("a checkpoint", path).parent)
    data = checkpoint_bytes(model, **about)
    written_file("a checkpoint", path, data)
    return hashlib.sha256(data).hexdigest()


def load_checkpoint(path: str | Path, expect: ModelConfig | None = None) -> HookedStreamTransformer:
    """Return the model of a checkpoint, in evaluation mode on the CPU.

    Raises:
        ValueError: for what is no path.
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file is damaged or holds tensors without a model, or ``expect`` names another
            architecture than the one it holds; the message names the fields that differ. Weights of one architecture
            never run silently in another; the explicit way is :func:`transplant`.
    """
    tensors, about = read_tensors(path_of("a checkpoint", path))
    if "config" not in about:
        raise CheckpointError(
            f"{path} holds tensors and no architecture: it was not written by save_checkpoint; circuits.checkpoint."
            f"read_tensors reads it"
        )
    config = ModelConfig.from_plain(about["config"])
    if expect is not None:
        refuse_other_architecture(path, config, expect)
    return holding(HookedStreamTransformer(config), tensors).eval()


def holding(model: HookedStreamTransformer, tensors: Mapping[str, Tensor]) -> HookedStreamTransformer:
    """Return the model with these tensors as its weights, each of its own type; what is not learned goes with its
    module."""
    model.load_state_dict(tensors, assign=True)
    for module in model.modules():
        of = next(module.parameters(recurse=False), None)
        dtype = model.W_U.dtype if of is None else of.dtype
        for name, buffer in module.named_buffers(recurse=False):
            if name in module._non_persistent_buffers_set:
                setattr(module, name, buffer.to(dtype))
    # The view that tools read of device and type follows.
    return model.to(model.W_U.device)


def read_about(path: str | Path) -> dict[str, Any]:
    """Return what was stored beside a checkpoint's weights: its configuration and ``about``, without the weights.

    Raises:
        ValueError: for what is no path.
        FileNotFoundError: if there is no such file.
        CheckpointError: if the file is not a checkpoint or is damaged.
    """
    return read_tensors(path_of("a checkpoint", path))[1]


def refuse_other_architecture(path: str | Path, held: ModelConfig, wanted: ModelConfig) -> None:
    """Raise :class:`CheckpointError` naming the differing fields, if the two architectures differ."""
    lines = differences(architecture(held), architecture(wanted))
    if lines:
        raise CheckpointError(
            f"{path} holds another architecture than the one wanted; they differ in (held / wanted): "
            + "; ".join(lines)
            + ". To run these weights in the other architecture all the same, use circuits.transplant(model, config)"
        )


def transplant(model: HookedStreamTransformer, config: ModelConfig) -> HookedStreamTransformer:
    """Return a model of ``config`` with the weights of ``model``, in evaluation mode: weights that were never trained
    in this body.

    Mixing parameters that the donor lacks start where ``config`` says; those that the body lacks are left behind.

    Raises:
        ValueError: if any other parameter is missing or has another shape, naming each.

    Source: the transplant control, the published evaluation of arXiv 2412.15113 (see the README).
    """
    donor = dict(model.state_dict())
    body = HookedStreamTransformer(dataclasses.replace(config, name=f"{model.config.name} in {config.name}"))
    body = body.to(model.W_U.device, model.cfg.dtype)
    own = body.state_dict()
    problems = [f"{n} is missing" for n in own if n not in donor and ".mix." not in n]
    problems += [f"{n} would be left behind" for n in donor if n not in own and ".mix." not in n]
    problems += [
        f"{n} is {tuple(donor[n].shape)}, wanted {tuple(own[n].shape)}"
        for n in own
        if n in donor and donor[n].shape != own[n].shape
    ]
    if problems:
        raise ValueError(f"these weights do not fit the other architecture: {'; '.join(problems)}")
    return holding(body, {n: donor[n].clone() if n in donor else own[n] for n in own}).eval()
