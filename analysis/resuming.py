"""Long questions that were interrupted go on where they were: what they have measured is kept in a folder until then.

A row is what was measured of one thing: a site, a path, a set of cut edges, an ablation, a checkpoint. It is found
again by that thing's name, among rows of equal weights, pairs, metric and code, and not by the forward pass that it was
measured in: how many things go into one depends on the memory that is free.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from analysis.metric_identity import metric_identity
from analysis.metrics import Metric
from analysis.pairs import Pair, is_padding
from circuits.checkpoint import CheckpointError, read_tensors, tensor_bytes, tensor_hash
from circuits.common.errors import require
from circuits.common.files import path_of, write_atomically
from circuits.common.plain_data import canonical_json, content_hash
from circuits.common.screen import say
from circuits.model import HookedStreamTransformer

SUFFIX = ".rows.safetensors"


class KeptIn:
    """What questions have measured, kept in a folder until their answers are at hand.

    Given to a long question, it lets the same lines go on where they were interrupted. The block is left without an
    error when the answers are at hand, and what was kept for them is removed::

        with KeptIn("unfinished") as kept:
            patch(model, pair, sites, kept=kept).to_frame().to_parquet("patch.parquet")

    Rows are told apart by the weights, the pair, the metric (one of your own by its code and the values that it holds,
    without what that calls: see :func:`analysis.metric_identity.metric_identity`), the device and this code, so any
    number of questions may share a folder. They are written every ``every`` seconds, and when the block is left by an
    error or an interrupt, each file whole or not at all; a process that is killed has lost at most what it measured
    since.
    """

    def __init__(self, folder: str | Path, every: float = 5.0):
        self.folder, self.every = path_of("the folder of what is kept", folder), every
        self._above = next(above for above in self.folder.absolute().parents if above.is_dir())
        self._opened: list[KeptRows] = []

    def rows(self, question: str, **about: Any) -> KeptRows:
        """Return the rows of a question that were measured so far; ``about`` (plain data) is all that they depend on,
        beside the name of each."""
        self._opened.append(KeptRows(self, question, about))
        return self._opened[-1]

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all.

        Raises:
            OSError: if it cannot be written, or what the folder was in was deleted meanwhile, which is not made again.
        """
        if not self._above.is_dir():
            raise FileNotFoundError(f"{self._above} is no longer there")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / name, data)

    def __enter__(self) -> KeptIn:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for rows in self._opened:
            if kind is None:
                rows.remove()
            else:
                rows.write()
        if kind is None and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


class KeptRows:
    """The rows of one question, by the name of what was measured."""

    def __init__(self, kept: KeptIn, question: str, about: Mapping[str, Any]):
        self.kept, self.question = kept, question
        self._about = json.loads(canonical_json({"question": question, **about}))
        self.identity = content_hash(self._about)[:24]
        """Equal for rows that depend on the same."""
        self._new: dict[str, Tensor] = {}
        self._written = time.monotonic()
        self.there: dict[str, Tensor] = {}
        """What was measured before this was opened."""
        for file in self._files():
            self.there |= self._read(file)

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Keep more rows, and write them where it is time to."""
        # Copies: what a row was cut out of may be large.
        self._new |= {name: row.detach().cpu().clone() for name, row in rows.items()}
        if time.monotonic() - self._written >= self.kept.every:
            self.write()

    def write(self) -> None:
        """Write the rows that are not on the disk yet; that this cannot be done is said, and ends no question."""
        if not self._new:
            return
        data = tensor_bytes(self._new, self._about)
        try:
            self.kept.write(f"{self.identity}-{hashlib.sha256(data).hexdigest()[:16]}{SUFFIX}", data)
            self._new = {}
        except OSError as error:
            _say(f"{self.question} goes on, but what it measured cannot be kept in {self.kept.folder} ({error})")
        self._written = time.monotonic()

    def remove(self) -> None:
        """Remove the rows from the disk, and what a killed process left half written of them."""
        for file in (*self._files(), *self.kept.folder.glob(f".{self.identity}-*.tmp")):
            file.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(self.kept.folder.glob(f"{self.identity}-*{SUFFIX}"))

    def _read(self, file: Path) -> dict[str, Tensor]:
        try:
            rows, about = read_tensors(file)
            return rows if about == self._about else {}
        except (CheckpointError, OSError) as error:
            _say(f"{error}; what it held is measured again")
            file.unlink(missing_ok=True)
            return {}


def kept_rows(
    kept: KeptIn | None,
    question: str,
    model: HookedStreamTransformer,
    pair: Pair,
    metric: tuple[str, Metric] | None = None,
    **about: Any,
) -> KeptRows | None:
    """Return the kept rows of a question of a model and a pair, ``None`` where nothing is to be kept.

    Raises:
        ValueError: for a model with hooks attached, as what they do is not known again, or a metric of anyone's that
            cannot be told from another (:func:`analysis.metric_identity.metric_identity`).
    """
    if kept is None:
        return None
    hooked = model.hooked_modules()
    require(
        not hooked,
        f"hooks are attached at {', '.join(hooked[:3])}, and what was kept could not tell what they do; leave kept "
        f"out, or call model.reset_hooks()",
    )
    # Padding that is known from the tokenizer alone is no part of the pair.
    padding = tensor_hash({"padding": is_padding(model, pair)})
    asked = {"model": identity(model), "pair": pair_identity(pair), "padding": padding}
    asked |= {"device": pair.clean.device.type, **about}
    asked |= {} if metric is None else {"metric": metric_identity(*metric)}
    return kept.rows(question, code=code_hash("circuits", "analysis"), **asked)


def measured(
    names: Sequence[str],
    chunks: Iterable[Sequence[int]],
    measure: Callable[[list[int]], Iterable[Tensor]],
    kept: KeptRows | None,
    unit: str,
    progress: bool,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """Return a row for each name, in order: those that were kept, and the others measured once, chunk by chunk.

    ``measure`` returns the rows of the names with the numbers that it is given. Chunks are those that there would be if
    nothing had been kept: in the same company a row has the same bits.
    """
    first = {name: i for i, name in reversed(list(enumerate(names)))}
    rows = {name: row.to(device) for name, row in (kept.there if kept else {}).items() if name in first}
    found = len(rows)
    if kept is not None and found:
        _say(f"{kept.question} goes on where it was: {found:,} of {len(first):,} {unit} were measured")
    with tqdm(total=len(first), initial=found, unit=f" {unit}", disable=not progress, leave=False, delay=2) as bar:
        for chunk in chunks:
            missing = [i for i in chunk if first[names[i]] == i and names[i] not in rows]
            if not missing:
                continue
            new = dict(zip((names[i] for i in missing), measure(missing), strict=True))
            rows |= new
            if kept is not None:
                kept.add(new)
            bar.update(len(missing))
    return [rows[name] for name in names]


def identity(model: HookedStreamTransformer) -> str:
    """Return a hash (hexadecimal) of a model's weights, their types, and its architecture with its gates."""
    return content_hash([tensor_hash(model.state_dict()), model.config.to_plain()])


def pair_identity(pair: Pair) -> str:
    """Return a hash (hexadecimal) of a pair: inputs, answers, where it is read, roles and mask."""
    tensors = {"clean": pair.clean, "corrupt": pair.corrupt, "answers": pair.answers, "wrong": pair.wrong}
    tensors |= {"read at": torch.as_tensor(pair.read_at), **{f"at {role}": at for role, at in pair.positions.items()}}
    return tensor_hash(tensors if pair.mask is None else {**tensors, "mask": pair.mask})


@cache
def code_hash(*packages: str) -> str:
    """Return a hash (hexadecimal) of the sources of some packages of ours, and of the version of torch."""
    files = (file for name in packages for file in sorted((Path(__file__).parents[1] / name).rglob("*.py")))
    digest = hashlib.sha256(torch.__version__.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _say(sentence: str) -> None:
    say(sentence, sys.stderr)
