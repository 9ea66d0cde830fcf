"""Where several processes save what a run needs to go on from: a folder of safetensors files that any number can read.

    <run>/state/step_00000100/
        shard-00001-model-00001-of-00001.safetensors    what the first process holds, with where it belongs
        ...
        about.json                                      step and the like, and the hash of every file

Written and read by PyTorch's distributed checkpoint in its safetensors format, as its own format has a pickled index.
All processes must see the same files, as those of one machine do.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed

from circuits.checkpoint import CheckpointError, read_about
from circuits.common.files import write_atomically
from circuits.common.plain_data import canonical_json, content_hash
from experiments.runs.recorded import ABOUT, SHARDS, STATE, whole_shards

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
else:
    DTensor = Any

FORMAT = "valuestream-shards-2"
State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and the plain data that is stored beside them."""


def anywhere(here: bool) -> bool:
    """Return whether something holds in any process; every process must ask, and none gets on before all did."""
    if not distributed.is_initialized():
        return here
    said = torch.tensor(float(here))
    distributed.all_reduce(said)
    return bool(said > 0)


# --- which state counts -----------------------------------------------------------------------------------------------


def newest_state(run: Path) -> Path | None:
    """Return the saved state of a run with the most updates: a file, or a folder of shards; ``None`` without any."""
    file, folders = run / STATE, whole_shards(run)
    if not folders or not file.exists():
        return folders[-1] if folders else file if file.exists() else None
    return folders[-1] if _about(folders[-1])["step"] > read_about(file)["step"] else file


def _about(folder: Path) -> dict[str, Any]:
    try:
        read = json.loads((folder / ABOUT).read_text())
    except ValueError as error:
        raise CheckpointError(f"{folder / ABOUT} is damaged ({error}); remove {folder}") from error
    held = read if isinstance(read, dict) else {}
    if held.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has the format {held.get('format')!r}; this version reads {FORMAT!r}")
    if held.pop("sha256", None) != content_hash(held):
        raise CheckpointError(f"{folder / ABOUT} does not have the hash that it states; remove {folder}")
    return held["about"] | {"files": held["files"]}


def drop_shards(run: Path, but: Path | None = None, pattern: str = "*") -> None:
    """Remove the folders of shards of a run that fit a pattern, all but one."""
    folders = [folder for folder in (run / SHARDS).glob(pattern) if folder != but]
    for folder in folders:
        # Without it the folder does not count, however much else of it is still there.
        (folder / ABOUT).unlink(missing_ok=True)
        rmtree(folder)
    if (run / SHARDS).is_dir() and not any((run / SHARDS).iterdir()):
        (run / SHARDS).rmdir()


# --- writing ----------------------------------------------------------------------------------------------------------


def write_shards(run: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write what all processes together hold, then drop what was saved before; every process must call it.

    Tensors that are not DTensors are taken to be equal in all of them.

    Raises:
        OSError: if this process, or another while it wrote its shard, could not write.
    """
    folder = run / SHARDS / f"step_{about['step']:08d}"
    # A whole state of this step gives the same run from here on; to put another in its place would risk it.
    if not anywhere((folder / ABOUT).exists()):
        unfinished = folder.with_suffix(".tmp")
        _write_files(unfinished, tensors)
        hashes = _hashes(unfinished)
        if distributed.get_rank() == 0:
            content = {"format": FORMAT, "about": dict(about), "files": hashes}
            content["sha256"] = content_hash(content)
            write_atomically(unfinished / ABOUT, canonical_json(content).encode())
            unfinished.rename(folder)
    if distributed.get_rank() == 0:
        drop_shards(run, but=folder)
        (run / STATE).unlink(missing_ok=True)
    anywhere(False)


def _write_files(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    if distributed.get_rank() == 0:
        drop_shards(folder.parent.parent, pattern=folder.name)
        # Not the run's directory itself: one that was deleted stays so.
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir()
    anywhere(False)
    try:
        save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        # It is no Exception, and hides what happened (a full disk, say) from those who could explain it.
        cause, _ = next(iter(error.failures.values()))
        raise cause from error


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file; each process computes that of some and tells the others."""
    files = sorted(folder.glob("*.safetensors"))
    digests = torch.zeros(len(files), 32, dtype=torch.uint8)
    for i in _mine(len(files)):
        digests[i] = torch.frombuffer(bytearray(_digest(files[i])), dtype=torch.uint8)
    if distributed.is_initialized():
        distributed.all_reduce(digests)
    return {file.name: bytes(digest.tolist()).hex() for file, digest in zip(files, digests, strict=True)}


def _mine(n: int) -> range:
    if not distributed.is_initialized():
        return range(n)
    return range(distributed.get_rank(), n, distributed.get_world_size())


def _digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


# --- reading ----------------------------------------------------------------------------------------------------------


def read_shards(folder: Path, like: Mapping[str, Tensor]) -> State:
    """Return what :func:`write_shards` wrote; every process must call it, and reads its own part.

    A tensor is laid out over the processes as the one of its name in ``like`` is, or, of an optimizer's
    (``optimizer|<parameter>|<what>``), as its parameter's (``model|<parameter>``); whole where that is no DTensor.

    Raises:
        CheckpointError: in every process, if a file is missing or does not have the hash that ``about.json`` states.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    about = _about(folder)
    if anywhere(_hashes(folder) != about.pop("files")):
        raise CheckpointError(f"files of {folder} are missing, were changed or damaged; remove it and train again")
    reader = HuggingFaceStorageReader(str(folder))
    held: dict[str, Any] = reader.read_metadata().state_dict_metadata
    tensors = {name: _room(laid_out_like(name, held[name].size, like), held[name]) for name in held}
    with warnings.catch_warnings():
        # Each process reads for itself, which is meant.
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        load(tensors, storage_reader=reader, no_dist=True)
    return tensors, about


def laid_out_like(name: str, size: torch.Size, like: Mapping[str, Tensor]) -> DTensor | None:
    """Return the present DTensor as which a saved tensor is laid out; see :func:`read_shards`."""
    from torch.distributed import tensor

    kind, _, rest = name.partition("|")
    model = like.get(f"model|{rest.rsplit('|', 1)[0]}" if kind == "optimizer" else name)
    return model if isinstance(model, tensor.DTensor) and model.size() == size else None


def _room(layout: DTensor | None, held: Any) -> Tensor:
    dtype = held.properties.dtype
    return torch.empty(held.size, dtype=dtype) if layout is None else torch.empty_like(layout, dtype=dtype)
